"""Which disks may be lost, and which voters may go, so that who is left can repair everything.

Owns one rule, which is docs/recovery.md's: a majority of the voters has not lost its disk. Members
may change meanwhile, in an order that nobody outside knows. So it is asked of all configurations
that may come to be in force: those voters that are in every one of them, and have their disks, have
to be more than those that are in any of them, and have not. Then each step from one of them to
another has its majority, in whichever order steps are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from quorate.core.state import StateView
from quorate.testing.simulation.raft_promises import RaftPromises

if TYPE_CHECKING:
    from quorate.testing.simulation.machine import Machine

Voters = frozenset[str]


class Majorities:
    """Of one federation. pending: (nodes that may stop voting, nodes that may begin to) of each
    command whose outcome nobody knows."""

    def __init__(
        self,
        machines: list[Machine],
        raft: RaftPromises,
        pending: Callable[[], Collection[tuple[Voters, Voters]]],
    ) -> None:
        self._machines = machines
        self._raft = raft
        self._pending = pending

    def may_lose(self, machine: Machine) -> bool:
        """Whether the machine may lose its disk."""
        if not machine.is_on or machine.is_gone or machine.is_forgetful:
            return False
        return self._is_kept({machine.node_id}, frozenset(), frozenset())

    def may_change(self, going: Voters, coming: Voters) -> bool:
        """Whether somebody who knows of all disks that are lost would want these nodes to vote no
        more, or to begin to vote."""
        return self._is_kept(set(), going, coming)

    @property
    def has_lost(self) -> bool:
        """Whether a voter, or one that is to be, is not whole yet."""
        return bool(self._lost() & frozenset().union(*self._possible()))

    def is_changing(self, machine: Machine) -> bool:
        """Whether the machine's node is or may be a voter, while somebody wants other members, or
        the configuration in force is not what the ledger says."""
        possible = set(self._possible())
        is_among = any(machine.node_id in voters for voters in possible)
        return is_among and (bool(self._pending()) or len(possible) > 1)

    def _is_kept(self, losing: set[str], going: Voters, coming: Voters) -> bool:
        possible = list(self._possible())
        always, ever = possible[0].intersection(*possible), possible[0].union(*possible)
        for less, more in (*self._pending(), (going, coming)):
            always, ever = always - less, ever | more
        lost = (self._lost() | losing) & ever
        return not lost or len(always - lost) > len(lost)

    def _lost(self) -> Voters:
        return frozenset(each.node_id for each in self._machines if each.is_forgetful)

    def _possible(self) -> Iterator[Voters]:
        """What may be in force, but for commands that nobody has executed: what is committed, what
        is in a log beyond that, and what the newest state says."""
        index, configuration = self._raft.configured
        yield frozenset(configuration)
        for machine in self._machines:
            if not machine.is_forgetful:
                for later in machine.disk.shadow.configurations_after(index):
                    yield frozenset(later.voters)
        newest = max(self._machines, key=lambda each: len(each.disk.shadow.ledger))
        with newest.disk.reader().read() as snapshot:
            nodes = list(StateView(snapshot.state).active_nodes())
        yield frozenset(node.id for node in nodes if node.votes)
