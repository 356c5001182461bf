"""What the people and executors of a simulated federation want of it.

Owns the choice of commands: each organisation registers executors, grants, trusts, suspends,
reinstates and revokes, and its executors acquire, renew and release leases, through whichever node;
now and then somebody sends what is no good, or the same again. Everything is signed for real. What
becomes of a command is `calls`' business.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from quorate.api.ports import Level
from quorate.core.outcome import Outcome, Reason
from quorate.core.state import StateView
from quorate.node.lease_commands import LeaseCommands, unfit_wish
from quorate.testing.builders import (
    Federation,
    acquire_body,
    grant_body,
    key_for,
    trust_body,
)
from quorate.testing.simulation.calls import Call, Calls
from quorate.testing.simulation.edge import Edge, Holder
from quorate.testing.simulation.machine import Machine
from quorate.testing.simulation.majorities import Majorities, Voters
from quorate.testing.simulation.members import Members
from quorate.testing.simulation.reports import Reports
from quorate.testing.simulation.rules import Rules
from quorate.testing.simulation.scopes import ACTION, frozen_part, narrowing, resource_of

_LIFETIME_MS: Final = 120_000
_FAR_MS: Final = 10 * 365 * 86_400_000
_KEPT_HOLDERS: Final = 6
_KEPT_CALLS: Final = 16

_OVER: Final = (
    Reason.LEASE_EXPIRED,
    Reason.LEASE_RELEASED,
    Reason.GRANT_REVOKED,
    Reason.EXECUTOR_REVOKED,
    Reason.NO_TRUST,
)

_LOOKS: Final = 12
"""For so many the end of a run waits for one command; then it begins with another."""
_RENEWAL: Final = ("domain.reinstate", "resources.thaw", "executor.register", "grant.issue")

WISHES: Final = {
    "acquire": 24,
    "renew": 10,
    "release": 6,
    "register": 6,
    "grant": 10,
    "trust": 4,
    "suspend": 6,
    "reinstate": 6,
    "revoke": 14,
    "report": 20,
    "suspend domain": 1,
    "repeat": 4,
    "forge": 2,
    "add node": 2,
    "assign role": 2,
    "retire node": 1,
    "ballot": 4,
}
"""What is wished for, and how often."""


@dataclass
class Renewal:
    """A domain's way to a lease that nothing from before can spoil. step: of `_RENEWAL`, and then
    the lease; call: the one that is open, for so many looks."""

    executor: str
    grant: str
    step: int = 0
    call: Call | None = None
    waited: int = 0


@dataclass
class _Domain:
    """What one organisation knows of its own things."""

    name: str
    executors: list[str] = field(default_factory=list)
    suspended: list[tuple[str, dict[str, object], str]] = field(default_factory=list)
    grants: list[tuple[str, str, str]] = field(default_factory=list)
    """(name, executor, domain of the executor)."""
    trusted: list[tuple[str, str]] = field(default_factory=list)
    """(name, trustee)."""
    holders: deque[Holder] = field(default_factory=lambda: deque(maxlen=_KEPT_HOLDERS))
    renewal: Renewal | None = None


class Workload:
    """The organisations of one federation."""

    def __init__(
        self,
        federation: Federation,
        machines: Mapping[str, list[Machine]],
        calls: Calls,
        reports: Reports,
        sometimes: Counter[str],
        *,
        add_machine: Callable[[str, str], Machine],
        take_away: Callable[[Machine], None],
        majorities: Majorities,
        passes_on: bool,
    ) -> None:
        """machines: by domain, those of its nodes. add_machine: (domain, node) -> a new one.
        take_away: switches one off for good, when it is time. passes_on: see `rules`."""
        self._federation = federation
        self._machines = machines
        self._calls = calls
        self._reports = reports
        self._sometimes = sometimes
        self._domains = {name: _Domain(name) for name in federation.organisations}
        self._recent: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self._names = 0
        names = list(self._domains)
        self._members = Members(
            {each.domain: [each.node] for each in federation.organisations.values()},
            machines,
            calls,
            self._order_of,
            sometimes,
            add_machine=add_machine,
            take_away=take_away,
            majorities=majorities,
        )
        self._rules = Rules(names, self._order_of, sometimes, calls.widened, passes_on=passes_on)

    # -- who checks --------------------------------------------------------------------------

    def next_holder(self, domain: str, chance: random.Random, _edge: Edge) -> Holder | None:
        """An executor of the domain that checks its lease; mostly the newest."""
        holders = self._domains[domain].holders
        if not holders:
            return None
        return holders[-1] if chance.random() < 0.6 else chance.choice(holders)

    def denied(self, domain: str, holder: Holder, reason: Reason, chance: random.Random) -> None:
        """An executor has been denied. When it is its lease that is over, it soon asks no more."""
        holders = self._domains[domain].holders
        if reason in _OVER and holder in holders and chance.random() < 0.4:
            holders.remove(holder)

    # -- wishes ------------------------------------------------------------------------------

    def wish(self, kind: str, chance: random.Random) -> None:
        """Somebody wants something of this kind; what exactly depends on what there is."""
        domain = chance.choice(list(self._domains.values()))
        match kind:
            case "register":
                self._register(domain, chance)
            case "grant":
                self._grant(domain, chance)
            case "trust":
                self._trust(domain, chance)
            case "acquire":
                self._acquire(domain, chance)
            case "renew" | "release":
                self._use_lease(domain, kind, chance)
            case "report":
                self._report(domain, chance)
            case "suspend" | "revoke":
                self._narrow(domain, kind, chance)
            case "reinstate":
                self._reinstate(domain, chance)
            case "suspend domain":
                self._suspend_domain(domain, chance)
            case "repeat":
                self._repeat(chance)
            case "forge":
                self._forge(domain, chance)
            case _:
                self._members.wish(domain.name, kind, self._now_ms(), chance)

    def renew_all(self, name: str, machine: Machine, chance: random.Random) -> None:
        """Brings the domain a step nearer to a lease of a new executor, under a new grant. When a
        step is denied, it begins anew."""
        domain = self._domains[name]
        if self._members.reinstate(name, machine, self._now_ms(), chance):
            return
        renewal = domain.renewal
        if renewal is None:
            executor = f"spiffe://{name}/agent/{self._name('x')}"
            renewal = domain.renewal = Renewal(executor, self._name("g"))
        call = renewal.call
        if call is not None and call.open_attempts:
            renewal.waited += 1
            if renewal.waited > _LOOKS:  # its caller waits at a node that is retired
                domain.renewal = None
            return
        renewal.waited = 0
        if call is not None and call.is_done:
            _, outcome = self._calls.acknowledged[call.key]
            if not outcome.accepted and renewal.step == len(_RENEWAL):
                domain.renewal = None  # something came late that spoils the way: a freeze, say
                return
            renewal.step, renewal.call = min(renewal.step + 1, len(_RENEWAL)), None
        if renewal.step == len(_RENEWAL):
            body = acquire_body(renewal.executor, ACTION, resource_of(name, renewal.executor))
            call = self._lease_order(domain, "lease.acquire", body, chance, machine)
            renewal.call = call
            if call is None:
                domain.renewal = None
            else:
                call.on_accepted = lambda outcome: domain.holders.append(
                    _holder(renewal.executor, outcome)
                )
            return
        if _RENEWAL[renewal.step] == "resources.thaw" and not self._rules.passes_on:
            renewal.step += 1  # nobody has frozen anything, nor could
        kind = _RENEWAL[renewal.step]
        bodies: dict[str, dict[str, object]] = {
            "domain.reinstate": {"domain": name},
            "resources.thaw": {},
            "executor.register": {"executor": renewal.executor},
            "grant.issue": grant_body(
                renewal.grant,
                renewal.executor,
                [f"//{name}/*"],
                not_after=self._now_ms() + _FAR_MS,
            ),
        }
        if kind == "domain.reinstate":
            self._calls.widened(f"domain:{name}")
            self._calls.widened(frozen_part(name))
        envelope = self._command(domain, kind, bodies[kind], chance)
        renewal.call = self._calls.call(machine, envelope, chance)

    def register_at(self, name: str, machine: Machine, chance: random.Random) -> Call:
        """The domain registers an executor, through this machine's node."""
        executor = f"spiffe://{name}/agent/{self._name('x')}"
        body = {"executor": executor}
        envelope = self._command(self._domains[name], "executor.register", body, chance)
        return self._calls.call(machine, envelope, chance)

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._names}"

    def _command(
        self, domain: _Domain, kind: str, body: Mapping[str, object], chance: random.Random
    ) -> bytes:
        return self._federation.command(
            domain.name, kind, body, _nonce(chance), self._now_ms() + _LIFETIME_MS
        )

    def _now_ms(self) -> int:
        """Ledger time, as far as anybody here knows it."""
        known = [
            machine.core.ledger_clock.now_ms()
            for machine in self._all_machines()
            if machine.core is not None
        ]
        return max(known, default=0)

    def _order(
        self,
        domain: _Domain,
        kind: str,
        body: Mapping[str, object],
        chance: random.Random,
        *,
        revokes: str = "",
        is_final: bool = False,
        level: Level = Level.COMMITTED,
    ) -> Call:
        envelope = self._command(domain, kind, body, chance)
        machine = chance.choice(self._all_machines())
        call = self._calls.call(
            machine, envelope, chance, revokes=revokes, is_final=is_final, level=level
        )
        self._recent.append(call)
        if chance.random() < 0.05 and call.key not in self._calls.never:
            self._calls.give(call, chance.choice(machine.others))
        return call

    def _register(self, domain: _Domain, chance: random.Random) -> Call:
        executor = f"spiffe://{domain.name}/agent/{self._name('x')}"
        call = self._order(domain, "executor.register", {"executor": executor}, chance)
        call.on_accepted = lambda _: domain.executors.append(executor)
        return call

    def _grant(self, domain: _Domain, chance: random.Random) -> Call:
        """To an executor of its own, or of a domain that it trusts."""
        names = [domain.name, *(trustee for _, trustee in domain.trusted)]
        if self._rules.passes_on and chance.random() < 0.6:
            names = list(self._domains)
        of = self._domains[chance.choice(names)]
        if not of.executors:
            return self._register(of, chance)
        executor, name = chance.choice(of.executors), self._name("g")
        body = grant_body(
            name,
            executor,
            [f"//{domain.name}/*"],
            not_after=self._now_ms() + _FAR_MS,
            max_lease_ttl_ms=chance.choice((5_000, 30_000, 600_000)),
            max_uses=chance.choice((0, 0, 0, 5, 20)),
            max_concurrent=chance.choice((0, 0, 4)),
            **self._rules.depth(chance),
        )
        call = self._order(domain, "grant.issue", body, chance)
        call.on_accepted = lambda _: domain.grants.append((name, executor, of.name))
        return call

    def _trust(self, domain: _Domain, chance: random.Random) -> Call | None:
        others = [name for name in self._domains if name != domain.name]
        if not others:
            return None
        trustee, name = chance.choice(others), self._name("e")
        owner, more = self._rules.trusted_with(domain.name, chance)
        body = trust_body(name, trustee, [f"//{owner}/*"], **more)
        call = self._order(domain, "trust.open", body, chance)
        call.on_accepted = lambda _: domain.trusted.append((name, trustee))
        return call

    # -- narrowing ---------------------------------------------------------------------------

    def _narrow(self, domain: _Domain, act: str, chance: random.Random) -> None:
        """Suspends or revokes something, and may wait until it holds everywhere."""
        level = chance.choice((Level.COMMITTED, Level.ENFORCED, Level.ENFORCED, Level.DRAINED))
        things = [("executor", each) for each in domain.executors]
        things += [("grant", name) for name, _, _ in domain.grants]
        if act == "revoke":
            things += [("trust", name) for name, _ in domain.trusted]
        if not things:
            self._grant(domain, chance)
            return
        kind, name = chance.choice(things[-6:])
        ident = name if kind == "executor" else f"{domain.name}/{name}"
        body: dict[str, object] = {"edge" if kind == "trust" else kind: name}
        verb = "trust.close" if kind == "trust" else f"{kind}.{act}"
        thing = f"{kind}:{ident}"
        call = self._order(
            domain, verb, body, chance, revokes=thing, is_final=act == "revoke", level=level
        )

        def accepted(_: Outcome) -> None:
            if act == "suspend":
                domain.suspended.append((f"{kind}.reinstate", body, thing))
                return
            domain.executors = [each for each in domain.executors if each != name]
            domain.grants = [each for each in domain.grants if name not in each]
            domain.trusted = [each for each in domain.trusted if each[0] != name]

        call.on_accepted = accepted

    def narrow_trust(self, chance: random.Random) -> None:
        """Leaves something out of an edge, and may wait until that holds everywhere."""
        edges = [(each, name) for each in self._domains.values() for name, _ in each.trusted]
        if not edges:
            return
        domain, name = chance.choice(edges)
        body, part = narrowing(domain.name, name, chance)
        level = chance.choice((Level.COMMITTED, Level.ENFORCED, Level.DRAINED, Level.DRAINED))
        call = self._order(
            domain, "trust.narrow", body, chance, revokes=part, is_final=True, level=level
        )
        call.on_accepted = lambda _: self._sometimes.update(("edge narrowed",))

    def upgrade(self, chance: random.Random) -> None:
        """Somebody wants later rules."""
        self._rules.upgrade(self._now_ms(), chance)

    def freeze(self, chance: random.Random) -> None:
        """Somebody freezes its resources, or thaws them."""
        self._rules.freeze(chance)

    def _reinstate(self, domain: _Domain, chance: random.Random) -> None:
        if not domain.suspended:
            self._narrow(domain, "suspend", chance)
            return
        verb, body, thing = domain.suspended.pop(chance.randrange(len(domain.suspended)))
        self._calls.widened(thing)
        self._order(domain, verb, body, chance)

    def _suspend_domain(self, domain: _Domain, chance: random.Random) -> None:
        thing, body = f"domain:{domain.name}", {"domain": domain.name}
        self._order(
            domain,
            "domain.suspend",
            body,
            chance,
            revokes=thing,
            level=Level.ENFORCED,
        ).on_accepted = lambda _: domain.suspended.append(("domain.reinstate", dict(body), thing))

    # -- members -----------------------------------------------------------------------------

    def _order_of(
        self, domain: str, kind: str, body: dict[str, object], chance: random.Random, level: Level
    ) -> Call:
        return self._order(self._domains[domain], kind, body, chance, level=level)

    @property
    def pending(self) -> list[tuple[Voters, Voters]]:
        """See `members.Members.pending`."""
        return self._members.pending

    def know(self, domain: str, node: str) -> None:
        """The domain learns that a node which it has asked for is there."""
        self._members.added(domain, node)

    def _all_machines(self) -> list[Machine]:
        return [machine for machines in self._machines.values() for machine in machines]

    # -- leases ------------------------------------------------------------------------------

    def _acquire(self, domain: _Domain, chance: random.Random) -> Call | None:
        """An executor of the domain wants a lease, mostly on what somebody has granted it."""
        granted = [
            (issuer.name, name, executor)
            for issuer in self._domains.values()
            for name, executor, of in issuer.grants
            if of == domain.name
        ]
        if not granted:
            return self._grant(domain, chance)
        owner, name, executor = chance.choice(granted[-6:])
        if self._rules.passes_on and chance.random() < 0.35:
            return self._delegate(domain, self._domains[owner], name, executor, chance)
        body = acquire_body(
            executor,
            ACTION,
            resource_of(owner, executor),
            chance.choice((0, 0, 5_000)),
            self._parents(chance),
        )
        call = self._lease_order(domain, "lease.acquire", body, chance)
        if call is not None:
            call.on_accepted = lambda outcome: domain.holders.append(_holder(executor, outcome))
        return call

    def _delegate(  # who, what, to whom
        self, domain: _Domain, issuer: _Domain, grant: str, executor: str, chance: random.Random
    ) -> Call | None:
        """An executor passes a grant on to any other; it is the issuer's to revoke."""
        to = self._domains[chance.choice(list(self._domains))]
        if not to.executors:
            return None
        other = chance.choice(to.executors)
        body = self._rules.delegation(
            executor, f"{issuer.name}/{grant}", other, self._now_ms(), chance
        )
        call = self._lease_order(domain, "grant.delegate", body, chance)
        if call is not None:
            call.on_accepted = lambda outcome: issuer.grants.append(
                (outcome.thing.partition("/")[2], other, to.name)
            )
        return call

    def _report(self, domain: _Domain, chance: random.Random) -> None:
        """Somebody says something of its work, to any node of its domain."""
        if domain.holders:
            machine = chance.choice(self._machines[domain.name])
            self._reports.report(machine, chance.choice(domain.holders), chance)

    def _parents(self, chance: random.Random) -> list[str]:
        """Where work may come from: what others do, whether or not they still may."""
        known = [holder.lease_id for each in self._domains.values() for holder in each.holders]
        return sorted(set(chance.choices(known, k=2))) if known and chance.random() < 0.2 else []

    def _use_lease(self, domain: _Domain, kind: str, chance: random.Random) -> None:
        if not domain.holders:
            self._acquire(domain, chance)
            return
        holder = chance.choice(domain.holders)
        body: dict[str, object] = {"lease": holder.lease_id, "executor": holder.executor}
        if kind == "renew":
            body["ttl_ms"] = 0
        self._lease_order(domain, f"lease.{kind}", body, chance)

    def _lease_order(
        self,
        domain: _Domain,
        kind: str,
        body: Mapping[str, object],
        chance: random.Random,
        machine: Machine | None = None,
    ) -> Call | None:
        """Through a node of the executor's own, which builds and signs the command; mostly one
        that is not retired."""
        if machine is None:
            own = self._machines[domain.name]
            active = [each for each in own if each.node_id in self._members.nodes[domain.name]]
            machine = chance.choice(active if active and chance.random() < 0.9 else own)
        if not machine.answers:
            return None
        core = machine.running
        with core.environment.read() as snapshot:
            refusal = unfit_wish(StateView(snapshot.state), kind, body, 0)
        if refusal is not None:
            self._sometimes["wish refused by the node"] += 1
            return None
        commands = LeaseCommands(
            core.origin, machine.node_id, self._federation.key_of(machine.node_id)
        )
        now_ms = core.ledger_clock.now_ms()
        envelope = commands.build(kind, body, _nonce(chance), now_ms)
        call = self._calls.call(machine, envelope, chance)
        self._recent.append(call)
        return call

    # -- what is no good ---------------------------------------------------------------------

    def _repeat(self, chance: random.Random) -> None:
        """Somebody sends again what was sent before, whatever became of it."""
        if not self._recent:
            return
        call = chance.choice(self._recent)
        machine = chance.choice(self._all_machines())
        if call.is_done:
            _, outcome = self._calls.acknowledged[call.key]
            if outcome.accepted or not self._members.is_about_them(call):
                self._calls.call(machine, call.envelope, chance)
            # Else it might be accepted now, and nobody would have asked whether it should be.
        elif call.key not in self._calls.never:  # else its caller was promised that it is over
            self._calls.give(call, machine)

    def _forge(self, domain: _Domain, chance: random.Random) -> None:
        """A command of another's, signed with a wrong key, straight into the log of a node that
        does not look: every state must deny it."""
        executor = f"spiffe://{domain.name}/agent/forged"
        envelope = self._federation.command(
            domain.name,
            "executor.register",
            {"executor": executor},
            _nonce(chance),
            self._now_ms() + _LIFETIME_MS,
            key=key_for("a stranger"),
        )
        machine = chance.choice(self._all_machines())
        self._calls.force(machine, envelope)


def _holder(executor: str, outcome: Outcome) -> Holder:
    return Holder(executor, str(outcome.result["lease"]), str(outcome.result["resource"]))


def _nonce(chance: random.Random) -> str:
    return f"{chance.getrandbits(128):032x}"
