"""What the organisations of a simulated federation want of its members: nodes that come, change
their role and go, and ballots about whole domains.

Owns whose nodes there are, and what of all this may still come. Which voters may go is asked of
`majorities`, who is judged of `ballots`. Who gives a command to whom is `workload`'s.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from quorate.api.ports import Level
from quorate.core.records import BY_BALLOT
from quorate.core.state import StateView
from quorate.testing.builders import node_body
from quorate.testing.simulation.ballots import Ballots, Order
from quorate.testing.simulation.calls import Call, Calls
from quorate.testing.simulation.machine import Machine
from quorate.testing.simulation.majorities import Majorities, Voters

ABOUT_MEMBERS: Final = frozenset(("add node", "assign role", "retire node", "ballot"))
"""The kinds of wishes that are meant for `Members.wish`."""
_MOST_MACHINES: Final = 9
_NOBODY: Final[Voters] = frozenset()


class Members:
    """The members of one federation, as its domains know them."""

    def __init__(
        self,
        nodes: dict[str, list[str]],
        machines: Mapping[str, list[Machine]],
        calls: Calls,
        order: Order,
        sometimes: Counter[str],
        *,
        add_machine: Callable[[str, str], Machine],
        take_away: Callable[[Machine], None],
        majorities: Majorities,
    ) -> None:
        """nodes: by domain, those of the beginning. See `workload.Workload`."""
        self.nodes = nodes
        """By domain, those that it ever wanted, and has not retired."""
        self._machines = machines
        self._calls = calls
        self._order = order
        self._sometimes = sometimes
        self._add_machine = add_machine
        self._take_away = take_away
        self._majorities = majorities
        self._wanted: list[tuple[Call, Voters, Voters]] = []
        self._keys: set[bytes] = set()
        self._added = 0
        self._ballots = Ballots(list(nodes), order, self._expelled, calls.widened, sometimes)

    @property
    def pending(self) -> list[tuple[Voters, Voters]]:
        """Of what was wanted, what may still come: who may not vote any more, and who may begin
        to."""
        self._wanted = [each for each in self._wanted if not self._calls.is_settled(each[0])]
        return [(going, coming) for _, going, coming in self._wanted]

    def is_about_them(self, call: Call) -> bool:
        """Whether the command would change who votes."""
        return call.key in self._keys

    # -- wishes ------------------------------------------------------------------------------

    def wish(self, domain: str, kind: str, now_ms: int, chance: random.Random) -> None:
        """Adds, promotes, demotes or retires a node of the domain, or votes on a domain."""
        if kind == "add node":
            if sum(map(len, self._machines.values())) < _MOST_MACHINES:
                self._add(domain, chance)
            return
        nodes = self.nodes[domain]
        if not nodes:
            return
        if kind == "ballot":
            self._vote(domain, now_ms, chance)
            return
        node = chance.choice(nodes)
        if kind == "assign role":
            verb = chance.choice(("node.promote", "node.demote"))
        elif len(nodes) > 1 or chance.random() < 0.3:
            verb = "node.retire"
        else:
            return
        it = frozenset((node,))
        going, coming = (_NOBODY, it) if verb == "node.promote" else (it, _NOBODY)
        if not self._may_change(going, coming):
            return
        call = self._order(domain, verb, {"node": node}, chance, Level.COMMITTED)
        if verb == "node.retire":
            call.on_accepted = lambda _: self._retired(domain, node, chance)
        self._note(call, going, coming)

    def reinstate(self, domain: str, machine: Machine, now_ms: int, chance: random.Random) -> bool:
        """Whether the others have suspended the domain, by what this machine's node knows; then
        they do something towards its reinstatement."""
        with machine.disk.reader().read() as snapshot:
            view = StateView(snapshot.state)
            known, everybody = view.domain(domain), view.domains()
        if known is None or known.suspended_by != BY_BALLOT:
            return False
        for other in everybody:
            if other.suspended_by == other.id:  # their votes are needed, and they can have them
                self._calls.widened(f"domain:{other.id}")
                body: dict[str, object] = {"domain": other.id}
                self._order(other.id, "domain.reinstate", body, chance, Level.COMMITTED)
                return True
        self._ballots.reinstate(domain, now_ms, chance)
        return True

    def _vote(self, domain: str, now_ms: int, chance: random.Random) -> None:
        """On a domain; its expulsion takes all of its nodes away."""

        def fits(target: str) -> bool:
            return self._may_change(self._nodes_of(target), _NOBODY)

        found = self._ballots.next(domain, now_ms, chance, fits)
        if found is not None:
            call, target = found
            if target:
                self._note(call, self._nodes_of(target), _NOBODY)

    def _note(self, call: Call, going: Voters, coming: Voters) -> None:
        self._wanted.append((call, going, coming))
        self._keys.add(call.key)

    def _nodes_of(self, domain: str) -> Voters:
        return frozenset(machine.node_id for machine in self._machines[domain])

    def _may_change(self, going: Voters, coming: Voters) -> bool:
        """Nobody takes voters away that are needed to make others whole."""
        if not self._majorities.may_change(going, coming):
            return False
        self._sometimes["members change while a disk is lost"] += self._majorities.has_lost
        return True

    # -- what has become of them -------------------------------------------------------------

    def _add(self, domain: str, chance: random.Random) -> None:
        self._added += 1
        node = f"spiffe://{domain}/node/{1 + self._added}"
        role = chance.choice(("observer", "voter"))
        body = node_body(node, f"127.0.0.1:{7500 + self._added}", role)
        call = self._order(domain, "node.add", body, chance, Level.COMMITTED)
        call.on_accepted = lambda _: self.added(domain, node)
        self._note(call, _NOBODY, frozenset((node,)))

    def added(self, domain: str, node: str) -> None:
        """The domain learns that a node which it has asked for is there."""
        if node not in self.nodes[domain]:
            self.nodes[domain].append(node)
            self._sometimes["node added"] += 1
            self._add_machine(domain, node).boot()

    def _retired(self, domain: str, node: str, chance: random.Random) -> None:
        nodes = self.nodes[domain]
        if node not in nodes:
            return
        nodes.remove(node)
        self._sometimes["node retired"] += 1
        machine = next(each for each in self._machines[domain] if each.node_id == node)
        if not nodes:  # nobody of it is left: it wants another
            self._add(domain, chance)
        if chance.random() < 0.5:
            self._take_away(machine)

    def _expelled(self, domain: str, chance: random.Random) -> None:
        self.nodes[domain].clear()
        for machine in self._machines[domain]:
            if chance.random() < 0.5:
                self._take_away(machine)
