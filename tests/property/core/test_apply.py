"""What holds of `apply` for any commands: random scripts, mostly sensible, with real signatures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from quorate.core import codec, dsse, invariants
from quorate.core.commands import is_node, parse_command
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.limits import MAX_ENTRY_BYTES, MAX_LEASE_TTL_MS
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.patterns import covers
from quorate.core.records import Lease, TrustEdge
from quorate.core.state import LeaseStatus, StateView
from quorate.core.store import MemoryStore
from quorate.core.transitions import Applied
from quorate.core.vetting import Vetting
from quorate.testing.builders import CREATED_MS, Federation, Ledger, key_for, node_body

DOMAINS = ("bank.example", "clinic.example", "depot.example")
EXECUTORS = tuple(f"spiffe://{domain}/agent/{name}" for domain in DOMAINS for name in ("a", "b"))
RESOURCES = tuple(f"//{domain}/{path}" for domain in DOMAINS for path in ("x", "x/y"))
ACTIONS = ("pay", "pay.out", "read")
NOBODYS_LEASE = "0" * 32
NEVER_REMEMBERED = (
    Reason.NONCE_REUSED,
    Reason.EXPIRED_COMMAND,
    Reason.UNKNOWN_ISSUER,
    Reason.NODE_RETIRED,
)
"""Denied anew each time, and recorded: the ledger keeps nothing of them."""

SETTINGS = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
Step = dict[str, Any]


# -- scripts -------------------------------------------------------------------------------------

domains = st.sampled_from(DOMAINS)
executors = st.sampled_from(EXECUTORS)
names = st.sampled_from(("one", "two"))
action_patterns = st.sampled_from((["*"], ["pay.*"], ["pay", "read"]))
ttls = st.sampled_from((0, 1, 1_000, 100_000))
pauses = st.sampled_from((0, 0, 0, 1, 500, 3_000))


def patterns_of(domain: str) -> st.SearchStrategy[list[str]]:
    return st.sampled_from(([f"//{domain}/*"], [f"//{domain}/x"], [f"//{domain}/x/*"]))


def home_of(spiffe: str) -> str:
    return spiffe.split("/")[2]


@st.composite
def governing(draw: st.DrawFn) -> Step:
    """A command of a domain, mostly one that it may give."""
    kind = draw(
        st.sampled_from(
            ["executor.register", "trust.open", "grant.issue"] * 4
            + [f"{what}.{act}" for what in ("executor", "grant") for act in ("suspend", "revoke")]
            + ["executor.reinstate", "grant.reinstate", "trust.close", *["trust.narrow"] * 3]
            + ["executor.contain", "executor.lift_containment"]
            + ["domain.suspend", "domain.reinstate", "resources.freeze", "resources.thaw"]
            + ["node.add"] * 4
            + ["node.promote", "node.demote", "node.retire"] * 2
        )
    )
    issuer, executor = draw(domains), draw(executors)
    subject, _, act = kind.partition(".")
    body: dict[str, Any] = {subject: draw(names)}
    if subject == "executor":
        issuer = draw(st.sampled_from((home_of(executor), home_of(executor), issuer)))
        body = {"executor": executor}
    elif subject == "domain":
        body = {"domain": issuer}
    elif subject == "resources":
        body = {}
    elif subject == "trust":
        body = {"edge": draw(names)}
    elif subject == "node":
        return _step(draw, issuer, kind, draw(membership(act, issuer)))
    if act in ("open", "issue", "narrow"):
        body |= {"actions": draw(action_patterns), "resources": draw(patterns_of(issuer))}
    if act == "open":
        body |= {"trustee": draw(domains)}
    elif act == "freeze":
        body = {"actions": draw(st.sampled_from([[], ["read"], ["pay.*", "read"], ["*"]]))}
    elif act == "issue":
        body |= {
            "executor": executor,
            "not_after": CREATED_MS + draw(st.sampled_from((1, 5_000, 10_000_000))),
            "max_lease_ttl_ms": draw(st.sampled_from((1, 2_000, 50_000))),
            "max_uses": draw(st.sampled_from((0, 0, 1, 3))),
            "max_concurrent": draw(st.sampled_from((0, 0, 1, 2))),
        }
    return _step(draw, issuer, kind, body)


@st.composite
def membership(draw: st.DrawFn, act: str, issuer: str) -> dict[str, Any]:
    """The body of a command about a node, mostly one of the issuer's."""
    home = draw(st.sampled_from([issuer] * 8 + [draw(domains)]))
    node = f"spiffe://{home}/node/{draw(st.sampled_from('123'))}"
    if act != "add":
        return {"node": node}
    role = draw(st.sampled_from(("voter", "observer")))
    address = f"127.0.0.1:{draw(st.integers(7400, 7440))}"  # those of the genesis are among them
    others = st.sampled_from([f"{domain} {what}" for domain in DOMAINS for what in ("log", "x")])
    stolen = draw(st.none() | st.none() | st.none() | others)
    key = {} if stolen is None else {"log_key": key_for(stolen).public.hex()}
    return node_body(node, address, role, **key)


@st.composite
def leasing(draw: st.DrawFn, act: str, lease: str = "", executor: str = "") -> Step:
    """A command of a node, mostly for its own executor."""
    executor = executor or draw(executors)
    home = draw(st.sampled_from([home_of(executor)] * 5 + [draw(domains)]))
    body: dict[str, Any] = {"executor": executor}
    if act == "acquire":
        body |= {
            "action": draw(st.sampled_from(ACTIONS)),
            "resource": draw(st.sampled_from(RESOURCES)),
        }
    else:
        body |= {"lease": lease}
    if act != "release":
        body |= {"ttl_ms": draw(ttls)}
    name = draw(st.sampled_from("11112"))  # the second is seldom there
    return _step(draw, f"spiffe://{home}/node/{name}", f"lease.{act}", body)


def _step(draw: st.DrawFn, issuer: str, kind: str, body: dict[str, Any]) -> Step:
    return {
        "issuer": issuer,
        "kind": kind,
        "body": body,
        "life_ms": draw(st.sampled_from((0, 1_000, 1_000_000))),
        "nonce": draw(st.none() | st.none() | st.sampled_from(("ab" * 8, "cd" * 8))),
    }


steps = governing() | leasing("acquire") | leasing("renew", NOBODYS_LEASE)


def sign(ledger: Ledger, step: Step) -> bytes:
    return ledger.federation.command(
        step["issuer"], step["kind"], step["body"], step["nonce"], ledger.now + step["life_ms"]
    )


def opening(ledger: Ledger) -> None:
    """Everybody is registered, and trusts and grants enough for leases to be given."""
    for executor in EXECUTORS:
        ledger.run(home_of(executor), "executor.register", {"executor": executor})
    for index, truster in enumerate(DOMAINS):
        everything = {"actions": ["*"], "resources": [f"//{truster}/*"]}
        trustee = DOMAINS[(index + 1) % len(DOMAINS)]
        ledger.run(truster, "trust.open", {"edge": "one", "trustee": trustee} | everything)
        for number, executor in enumerate(EXECUTORS):
            terms = {
                "grant": f"g{number}",
                "executor": executor,
                "not_after": CREATED_MS + 10_000_000,
                "max_lease_ttl_ms": 50_000,
                "max_uses": 0,
                "max_concurrent": 2,
            }
            ledger.run(truster, "grant.issue", terms | everything)


def copy(store: MemoryStore) -> MemoryStore:
    other = MemoryStore()
    for key, value in store.items():
        other.put(key, value)
    return other


def substance(store: MemoryStore) -> list[tuple[bytes, bytes]]:
    """The state less ledger time and what is remembered of commands."""
    return [(key, value) for key, value in store.items() if key[:1] not in b"Tcx"]


def acts_under(edge: TrustEdge) -> set[tuple[str, str]]:
    """What an edge is for, of all that is ever asked for here."""
    return {
        (action, resource)
        for action in ACTIONS
        for resource in RESOURCES
        if covers(edge.actions, edge.resources, action, resource)
    }


# -- the machine ---------------------------------------------------------------------------------


class GovernanceMachine(RuleBasedStateMachine):
    """Commands in any order; after each, what must hold is looked at."""

    leases = Bundle("leases")
    envelopes = Bundle("envelopes")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(Federation.build(DOMAINS))
        opening(self.ledger)
        self.executed: dict[str, Outcome] = {}
        self.accepted: set[bytes] = set()

    def perform(self, step: Step) -> tuple[bytes, Applied]:
        envelope = sign(self.ledger, step)
        return envelope, self.apply(envelope)

    def apply(self, envelope: bytes) -> Applied:
        ledger = self.ledger
        before, size = copy(ledger.store), len(ledger.entries)
        applied = ledger.apply(envelope)
        outcome = applied.outcome
        assert applied.fault is None
        assert outcome.reason is not Reason.INTERNAL
        assert outcome.accepted == (outcome.reason is None)
        assert (applied.entry is None) == outcome.duplicate
        if applied.entry is not None:
            assert outcome.index == size
            entry = codec.decode(applied.entry, MAX_ENTRY_BYTES)
            assert isinstance(entry, dict)
            assert (entry["seq"], entry["reason"]) == (size, outcome.reason or "")
            assert codec.encode(entry["command"]) == envelope
        if not outcome.accepted or outcome.duplicate:
            assert substance(ledger.store) == substance(before)
        assert invariants.check_step(StateView(before), ledger.view) == []
        self.edges_never_grow(StateView(before))
        self.node_commands(envelope, StateView(before), outcome)
        if outcome.duplicate:
            assert replace(outcome, duplicate=False) == self.executed[outcome.command_id]
        elif outcome.reason not in NEVER_REMEMBERED:
            self.executed[outcome.command_id] = outcome
            if outcome.accepted:
                assert envelope not in self.accepted, "executed twice"
                self.accepted.add(envelope)
        return applied

    def edges_never_grow(self, before: StateView) -> None:
        """Who is covered after was covered before."""
        for edge in before.trust_edges():
            later = self.ledger.view.trust_edge(edge.truster, edge.edge)
            assert later is not None
            assert acts_under(later) <= acts_under(edge)
            assert later.trustee == edge.trustee

    def node_commands(self, envelope: bytes, before: StateView, outcome: Outcome) -> None:
        """Who is no node of the federation obtains nothing new in the name of one."""
        issuer = parse_command(dsse.parse(envelope, len(envelope)).payload).issuer
        if is_node(issuer) and not outcome.duplicate:
            node = before.node(issuer)
            assert (outcome.reason is Reason.UNKNOWN_ISSUER) == (node is None)
            if node is not None and node.retired:
                assert outcome.reason in (Reason.NODE_RETIRED, Reason.NONCE_REUSED)

    @rule(target=envelopes, step=governing())
    def govern(self, step: Step) -> bytes:
        return self.perform(step)[0]

    @rule(target=leases, step=leasing("acquire"))
    def acquire(self, step: Step) -> Any:
        body = step["body"]
        request = DecisionRequest(body["executor"], body["action"], body["resource"])
        expected = decide(self.ledger.view, request, self.ledger.now)
        outcome = self.perform(step)[1].outcome
        if not outcome.accepted:
            if isinstance(expected, Permit):
                assert outcome.duplicate or outcome.reason in (
                    Reason.NOT_AUTHORIZED,
                    Reason.NONCE_REUSED,
                    Reason.ALREADY_EXISTS,
                    Reason.UNKNOWN_ISSUER,
                    Reason.NODE_RETIRED,
                )
            return multiple()
        if not outcome.duplicate:
            assert isinstance(expected, Permit)
            assert outcome.result["fence"] == outcome.index
            assert tuple(outcome.result["depends_on"]) == expected.depends_on  # type: ignore[arg-type]
            assert self.check(outcome.thing, body["executor"]) is None
        return outcome.thing

    @rule(lease=leases, data=st.data(), act=st.sampled_from(("renew", "release")))
    def use(self, lease: str, data: st.DataObject, act: str) -> None:
        found = self.ledger.view.lease(lease)
        assert found is not None
        executor = data.draw(st.sampled_from([found.executor] * 5 + [EXECUTORS[0]]))
        held = self.check(lease, executor)
        outcome = self.perform(data.draw(leasing(act, lease, executor)))[1].outcome
        if not outcome.accepted or outcome.duplicate:
            return
        if act == "release":
            assert self.check(lease, executor) is Reason.LEASE_RELEASED
        else:
            assert held is None
            assert self.check(lease, executor) is None

    @rule(envelope=envelopes)
    def repeat(self, envelope: bytes) -> None:
        self.apply(envelope)

    @rule(ms=st.sampled_from((1, 500, 3_000, 60_000)))
    def wait(self, ms: int) -> None:
        self.ledger.now += ms

    def check(self, lease: str, executor: str) -> Reason | None:
        decision, _ = check_lease(self.ledger.view, lease, executor, "", "", self.ledger.now)
        return decision.reason if isinstance(decision, Deny) else None

    @invariant()
    def the_state_is_sound(self) -> None:
        assert invariants.check(self.ledger.view) == []

    @invariant()
    def another_node_would_take_it(self) -> None:
        vetting = Vetting(self.ledger.store, len(self.ledger.entries))
        while not vetting.step(50):
            pass

    @invariant()
    def leases_fall_with_what_they_depend_on(self) -> None:
        view, now = self.ledger.view, self.ledger.now
        for lease in view.leases():
            statuses: list[str] = [
                str(record.status)
                for record in (
                    *view.domains(),
                    *view.executors(),
                    *view.trust_edges(),
                    *view.grants(),
                )
                if f"{record.kind}:{record.id}" in lease.depends_on
            ]
            assert len(statuses) == len(lease.depends_on)
            edge = view.trust_edge(*lease.trust_edge.partition("/")[::2])
            assert (edge is None) == (lease.trust_edge == "")
            expected = (
                set(statuses) == {"active"}
                and not any(map(view.containment, lease.executors))
                and not is_frozen(view, lease)
                and (edge is None or acts_under(edge) >= {(lease.action, lease.resource)})
                and lease.status is LeaseStatus.ACTIVE
                and now < lease.expires_at
            )
            assert (self.check(lease.id, lease.executor) is None) == expected
            assert self.check(lease.id, lease.executor + "x") is not None


def is_frozen(view: StateView, lease: Lease) -> bool:
    frozen, at = view.domains()[DOMAINS.index(lease.resource.split("/")[2])].frozen, lease.resource
    return frozen is not None and not covers(frozen.actions, [at], lease.action, at)


GovernanceMachine.TestCase.settings = settings(
    deadline=None,
    max_examples=25,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
TestGovernance = GovernanceMachine.TestCase


# -- totality ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened() -> Ledger:
    ledger = Ledger(Federation.build(DOMAINS))
    opening(ledger)
    return ledger


def fork(ledger: Ledger) -> Ledger:
    other = Ledger(ledger.federation)
    other.store, other.entries, other.now = copy(ledger.store), list(ledger.entries), ledger.now
    return other


def survives(ledger: Ledger, payload: bytes) -> None:
    """Any payload gives an outcome; one that is denied changes nothing of substance."""
    before = substance(ledger.store)
    applied = ledger.apply_payload(payload)
    assert applied.fault is None
    assert applied.outcome.reason is not Reason.INTERNAL
    if applied.entry is not None:
        codec.decode(applied.entry, MAX_ENTRY_BYTES)
    if not applied.outcome.accepted:
        assert substance(ledger.store) == before


@settings(SETTINGS, max_examples=150)
@given(payload=st.binary(max_size=100) | st.binary(max_size=60).map(lambda b: bytes(8) + b))
def test_random_bytes_give_an_outcome(opened: Ledger, payload: bytes) -> None:
    survives(fork(opened), payload)


@settings(SETTINGS, max_examples=150)
@given(step=steps, data=st.data())
def test_mutated_commands_give_an_outcome(opened: Ledger, step: Step, data: st.DataObject) -> None:
    ledger = fork(opened)
    payload = bytearray(codec.stamp(ledger.now, sign(ledger, step)))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(payload) - 1))
        length = data.draw(st.integers(0, 3))
        payload[position : position + length] = data.draw(st.binary(max_size=3))
    survives(ledger, bytes(payload))


LEAVES: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from([*RESOURCES, *EXECUTORS, *DOMAINS, "*", "one", "0" * 32, [], {}, ["*"]])
)


@settings(SETTINGS, max_examples=200)
@given(step=steps, data=st.data())
def test_signed_nonsense_gives_an_outcome(opened: Ledger, step: Step, data: st.DataObject) -> None:
    """What gets past the signature: bodies with a field that is anything, extreme numbers."""
    ledger = fork(opened)
    body = dict(step["body"])
    field = data.draw(st.sampled_from(sorted(body) or ["actions"]))
    body[field] = data.draw(LEAVES | st.lists(LEAVES, max_size=3))
    kind = data.draw(st.sampled_from((step["kind"], "grant.issue", "lease.renew")))
    ledger.now = data.draw(st.sampled_from((ledger.now, 2**53 - 1)))
    not_after = min(ledger.now + step["life_ms"], 2**53 - 1)
    envelope = ledger.federation.command(step["issuer"], kind, body, not_after=not_after)
    survives(ledger, codec.stamp(ledger.now, envelope))


@SETTINGS
@given(data=st.data(), junk=st.binary(max_size=40))
def test_deciding_on_a_damaged_state_never_raises_and_never_permits_more(
    opened: Ledger, data: st.DataObject, junk: bytes
) -> None:
    ledger = fork(opened)
    executor = data.draw(executors)
    request = DecisionRequest(executor, "pay", data.draw(st.sampled_from(RESOURCES)))
    node = f"spiffe://{home_of(executor)}/node/1"
    body = {
        "executor": executor,
        "action": "pay",
        "resource": request.resource,
        "ttl_ms": 0,
    }
    lease = ledger.run(node, "lease.acquire", body).outcome.thing
    healthy = decide(ledger.view, request, ledger.now)
    for key, _ in data.draw(st.lists(st.sampled_from(ledger.store.items()), min_size=1)):
        if data.draw(st.booleans()):
            ledger.store.put(key, junk)
        else:
            ledger.store.delete(key)
    decision = decide(ledger.view, request, ledger.now)
    check_lease(ledger.view, lease, executor, "", "", ledger.now)
    if isinstance(decision, Permit):
        assert isinstance(healthy, Permit)


@settings(SETTINGS, max_examples=100)
@given(
    now=st.integers(0, 2**53 - 1),
    ttl=st.integers(0, 2**53 - 1),
    longest=st.integers(1, MAX_LEASE_TTL_MS),
    left=st.integers(0, 10**12),
)
def test_a_lease_ends_within_every_bound(now: int, ttl: int, longest: int, left: int) -> None:
    ledger = Ledger(Federation.build(DOMAINS[:1]))
    executor, bank = EXECUTORS[0], DOMAINS[0]
    ledger.run(bank, "executor.register", {"executor": executor})
    not_after = min(now + left, 2**53 - 1)
    terms = {
        "grant": "g",
        "executor": executor,
        "actions": ["*"],
        "resources": [f"//{bank}/*"],
        "not_after": not_after,
        "max_lease_ttl_ms": longest,
        "max_uses": 0,
        "max_concurrent": 0,
    }
    granted = ledger.run(bank, "grant.issue", terms).outcome.accepted
    assert granted == (not_after > CREATED_MS)
    now = max(now, CREATED_MS)
    body = {"executor": executor, "action": "a", "resource": f"//{bank}/x", "ttl_ms": ttl}
    envelope = ledger.federation.command(
        f"spiffe://{bank}/node/1", "lease.acquire", body, not_after=now
    )
    outcome = ledger.apply_payload(codec.stamp(now, envelope)).outcome
    assert outcome.accepted == (granted and not_after > now)
    if outcome.accepted:
        expires_at = outcome.result["expires_at"]
        assert expires_at == min(now + min(ttl or longest, longest), not_after)


# -- determinism ---------------------------------------------------------------------------------

WORKER = """
import sys
from quorate.testing.builders import Federation, Ledger
federation = Federation.build(sys.argv[1:])
for line in sys.stdin:
    ledger = Ledger(federation)
    for payload in line.split():
        ledger.apply_payload(bytes.fromhex(payload))
    print(ledger.digest(), len(ledger.entries), flush=True)
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that apply logs, with different hash seeds."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WORKER, *DOMAINS],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
                )
            )
            for seed in ("1", "4242")
        ]
        yield processes
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) == 0


@settings(SETTINGS, max_examples=15)
@given(script=st.lists(st.tuples(steps, pauses), min_size=5, max_size=25), junk=st.binary())
def test_the_same_log_gives_the_same_ledger_in_every_process(
    opened: Ledger,
    workers: list[subprocess.Popen[str]],
    script: list[tuple[Step, int]],
    junk: bytes,
) -> None:
    ledger = Ledger(opened.federation)
    log: list[bytes] = []

    class Recording(Ledger):
        def apply_payload(self, payload: bytes) -> Applied:
            log.append(payload)
            return super().apply_payload(payload)

    ledger = Recording(opened.federation)
    opening(ledger)
    for step, pause in script:
        ledger.now += pause
        ledger.apply(sign(ledger, step))
    ledger.apply(junk)
    expected = f"{ledger.digest()} {len(ledger.entries)}\n"
    for process in workers:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(" ".join(payload.hex() for payload in log) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == expected


@SETTINGS
@given(script=st.lists(steps, min_size=1, max_size=15))
def test_replaying_a_log_executes_nothing_twice(opened: Ledger, script: list[Step]) -> None:
    ledger = fork(opened)
    log = [
        (envelope, ledger.apply(envelope).outcome) for envelope in (sign(ledger, s) for s in script)
    ]
    # What a node asked for before it was added was not executed: that would not be twice.
    log = [item for item in log if item[1].reason is not Reason.UNKNOWN_ISSUER]
    first = [outcome for _, outcome in log]
    before, size = substance(ledger.store), len(ledger.entries)
    for envelope, outcome in log:
        again = ledger.apply(envelope)
        if again.entry is None:
            assert again.outcome.index == outcome.index or outcome.duplicate
        else:
            assert not again.outcome.accepted
    assert substance(ledger.store) == before
    refused = sum(1 for outcome in first if outcome.reason in NEVER_REMEMBERED)
    assert len(ledger.entries) == size + refused
