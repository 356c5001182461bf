"""Leases, and the order in which requests are decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quorate.core import invariants, state
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.limits import MAX_CONCURRENT_LEASES, MAX_LEASE_TTL_MS
from quorate.core.outcome import Decision, Deny, Permit, Reason
from quorate.core.state import Lease, LeaseStatus, StateView, Status
from quorate.core.store import MemoryStore
from quorate.testing.builders import CREATED_MS, grant_body, narrow_body, trust_body

BANK, CLINIC = "bank.example", "clinic.example"
AGENT = "spiffe://clinic.example/agent/claims"
ACTION = "payments.read"
RESOURCE = "//bank.example/accounts/7"


def decided(world: Any, **changes: str) -> Decision:
    request = DecisionRequest(
        **({"executor": AGENT, "action": ACTION, "resource": RESOURCE} | changes)
    )
    return decide(world.view, request, world.now)


def reason(world: Any, **changes: str) -> Reason | None:
    decision = decided(world, **changes)
    return decision.reason if isinstance(decision, Deny) else None


def checked(world: Any, lease: str, **changes: Any) -> Reason | None:
    arguments = {"executor": AGENT, "action": "", "resource": "", "ledger_time": world.now}
    decision, _ = check_lease(world.view, lease, **(arguments | changes))
    return decision.reason if isinstance(decision, Deny) else None


def lease_of(outcome: Any) -> Lease:
    assert outcome.accepted, outcome
    return Lease.from_json(outcome.result)


# -- decide --------------------------------------------------------------------------------------


def test_a_permit_names_all_that_it_depends_on(trusted: Any) -> None:
    assert decided(trusted) == Permit(
        (
            f"domain:{CLINIC}",
            f"domain:{BANK}",
            f"executor:{AGENT}",
            f"trust:{BANK}/edge",
            f"grant:{BANK}/grant",
        )
    )


def test_within_one_domain_no_edge_is_needed(world: Any) -> None:
    world.must(CLINIC, "executor.register", {"executor": AGENT})
    world.must(CLINIC, "grant.issue", grant_body("g", AGENT, ["//clinic.example/*"]))
    assert decided(world, resource="//clinic.example/x") == Permit(
        (f"domain:{CLINIC}", f"executor:{AGENT}", f"grant:{CLINIC}/g")
    )


def test_the_first_failure_is_told(world: Any) -> None:
    """Each step of the order, from the last to the first: the earlier one wins."""
    assert reason(world) is Reason.UNKNOWN_EXECUTOR
    world.must(CLINIC, "executor.register", {"executor": AGENT})
    assert reason(world, resource="//nobody.example/x") is Reason.UNKNOWN_DOMAIN
    assert reason(world) is Reason.NO_TRUST
    world.must(BANK, "trust.open", trust_body("e", CLINIC, ["//bank.example/*"]))
    assert reason(world) is Reason.NO_GRANT
    world.must(BANK, "grant.issue", grant_body("g", AGENT, ["//bank.example/*"]))
    assert reason(world) is None
    world.must(BANK, "grant.suspend", {"grant": "g"})
    assert reason(world) is Reason.GRANT_SUSPENDED
    world.must(BANK, "trust.close", {"edge": "e"})
    assert reason(world) is Reason.NO_TRUST
    world.must(BANK, "domain.suspend", {"domain": BANK})
    assert decided(world) == Deny(Reason.DOMAIN_SUSPENDED, BANK)
    world.must(CLINIC, "domain.suspend", {"domain": CLINIC})
    assert decided(world) == Deny(Reason.DOMAIN_SUSPENDED, CLINIC)
    world.must(CLINIC, "executor.suspend", {"executor": AGENT})
    assert reason(world) is Reason.EXECUTOR_SUSPENDED
    world.must(CLINIC, "executor.revoke", {"executor": AGENT})
    assert decided(world) == Deny(Reason.EXECUTOR_REVOKED, AGENT)


def test_a_revoked_domain_is_told_of(trusted: Any) -> None:
    bank = trusted.view.domain(BANK)
    state.save_domain(trusted.store, replace(bank, status=Status.REVOKED))
    assert decided(trusted) == Deny(Reason.DOMAIN_REVOKED, BANK)


@pytest.mark.parametrize(
    "changes",
    [
        {"actions": ["payments.transfer"]},
        {"actions": ["payments.read.more"]},
        {"resources": ["//bank.example/accounts/8"]},
        {"resources": ["//bank.example/accounts/7/*"]},
    ],
)
def test_an_edge_or_a_grant_for_something_else_does_not_do(
    world: Any, changes: dict[str, Any]
) -> None:
    world.must(CLINIC, "executor.register", {"executor": AGENT})
    world.must(BANK, "grant.issue", grant_body("a", AGENT, ["//bank.example/*"]) | changes)
    world.must(BANK, "trust.open", trust_body("a", CLINIC, ["//bank.example/*"]) | changes)
    assert decided(world) == Deny(Reason.NO_TRUST, BANK)
    world.must(BANK, "trust.open", trust_body("b", CLINIC, ["//bank.example/*"]))
    assert decided(world) == Deny(Reason.NO_GRANT, BANK)
    world.must(BANK, "grant.issue", grant_body("b", AGENT, ["//bank.example/*"]))
    assert reason(world) is None


def test_a_grant_or_an_edge_of_somebody_else_does_not_do(trusted: Any) -> None:
    other = "spiffe://clinic.example/agent/other"
    trusted.must(CLINIC, "executor.register", {"executor": other})
    assert reason(trusted, executor=other) is Reason.NO_GRANT
    own = "spiffe://bank.example/agent/own"
    trusted.must(BANK, "executor.register", {"executor": own})
    # The bank trusts the clinic; that is not the clinic trusting the bank.
    assert reason(trusted, executor=own, resource="//clinic.example/x") is Reason.NO_TRUST


def test_the_first_by_name_that_permits_is_taken(trusted: Any) -> None:
    trusted.must(BANK, "grant.issue", grant_body("a", AGENT, ["//bank.example/*"]))
    trusted.must(BANK, "trust.open", trust_body("a", CLINIC, ["//bank.example/*"]))
    trusted.must(BANK, "grant.issue", grant_body("z", AGENT, ["//bank.example/*"]))
    permit = decided(trusted)
    assert isinstance(permit, Permit)
    assert permit.depends_on[-2:] == (f"trust:{BANK}/a", f"grant:{BANK}/a")
    trusted.must(BANK, "grant.suspend", {"grant": "a"})
    assert decided(trusted).depends_on[-1] == f"grant:{BANK}/grant"  # type: ignore[union-attr]


def test_of_several_grants_that_fail_the_nearest_to_a_permit_is_told(world: Any) -> None:
    world.must(CLINIC, "executor.register", {"executor": AGENT})
    world.must(BANK, "trust.open", trust_body("e", CLINIC, ["//bank.example/*"]))

    def issue(name: str, **changes: Any) -> None:
        world.must(BANK, "grant.issue", grant_body(name, AGENT, ["//bank.example/*"], **changes))

    issue("a-other", actions=["other"])
    assert reason(world) is Reason.NO_GRANT
    issue("revoked")
    world.must(BANK, "grant.revoke", {"grant": "revoked"})
    assert decided(world) == Deny(Reason.GRANT_REVOKED, f"{BANK}/revoked")
    issue("suspended")
    world.must(BANK, "grant.suspend", {"grant": "suspended"})
    assert decided(world) == Deny(Reason.GRANT_SUSPENDED, f"{BANK}/suspended")
    issue("expired", not_after=world.now + 1)
    world.now += 1
    assert decided(world) == Deny(Reason.GRANT_EXPIRED, f"{BANK}/expired")
    issue("used", max_uses=1)
    world.must(world.clinic.node, "lease.acquire", _request())
    assert decided(world) == Deny(Reason.USES_EXHAUSTED, f"{BANK}/used")
    issue("busy", max_concurrent=1)
    world.must(world.clinic.node, "lease.acquire", _request())
    assert decided(world) == Deny(Reason.CONCURRENCY_LIMIT, f"{BANK}/busy")
    assert invariants.check(world.view) == []


def _request() -> dict[str, Any]:
    return {"executor": AGENT, "action": ACTION, "resource": RESOURCE, "ttl_ms": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"executor": ""},
        {"executor": "\ud800"},
        {"executor": "x" * 100_000},
        {"resource": ""},
        {"resource": "//bank.example"},
        {"resource": "//\ud800/x"},
        {"action": ""},
        {"action": "\x00"},
        {"action": "Payments"},
        {"action": "payments."},
    ],
)
def test_nonsense_is_denied(trusted: Any, changes: dict[str, str]) -> None:
    assert reason(trusted, **changes) is not None


# -- acquiring -----------------------------------------------------------------------------------


def test_a_lease_is_all_that_was_asked_and_agreed(trusted: Any) -> None:
    outcome = trusted.acquire(ttl_ms=5000)
    lease = lease_of(outcome)
    assert lease == trusted.view.lease(outcome.thing)
    assert (lease.executor, lease.action, lease.resource) == (AGENT, ACTION, RESOURCE)
    assert (lease.grant, lease.trust_edge) == (f"{BANK}/grant", f"{BANK}/edge")
    assert lease.fence == outcome.index == len(trusted.entries) - 1
    assert lease.expires_at == trusted.now + 5000
    assert decided(trusted) == Permit(lease.depends_on)
    assert trusted.view.grant(BANK, "grant").uses == 1


@pytest.mark.parametrize(
    ("ttl_ms", "expected"), [(0, 60_000), (1, 1), (60_000, 60_000), (60_001, 60_000)]
)
def test_a_lease_lives_as_long_as_wished_and_no_longer_than_granted(
    trusted: Any, ttl_ms: int, expected: int
) -> None:
    assert lease_of(trusted.acquire(ttl_ms=ttl_ms)).expires_at == trusted.now + expected


def test_a_lease_does_not_outlive_its_grant(world: Any) -> None:
    world.setup(not_after=CREATED_MS + 100, max_lease_ttl_ms=MAX_LEASE_TTL_MS)
    assert lease_of(world.acquire()).expires_at == CREATED_MS + 100
    world.now += 99
    assert lease_of(world.acquire(ttl_ms=50)).expires_at == CREATED_MS + 100
    world.now += 1
    assert world.acquire().reason is Reason.GRANT_EXPIRED


def test_a_node_asks_for_its_own_executors_only(trusted: Any) -> None:
    lease = lease_of(trusted.acquire())
    node = trusted.bank.node
    holder = {"lease": lease.id, "executor": AGENT}
    assert trusted.do(node, "lease.acquire", _request()).reason is Reason.NOT_AUTHORIZED
    assert trusted.do(node, "lease.release", holder).reason is Reason.NOT_AUTHORIZED
    assert trusted.do(node, "lease.renew", holder | {"ttl_ms": 0}).reason is Reason.NOT_AUTHORIZED


def test_uses_are_counted_and_end(world: Any) -> None:
    world.setup(max_uses=2)
    first = lease_of(world.acquire())
    lease_of(world.acquire())
    assert world.acquire().reason is Reason.USES_EXHAUSTED
    # What was given stays given, can be renewed, and giving it back gives no use back.
    assert checked(world, first.id) is None
    assert world.lease_act("renew", first.id, ttl_ms=0).accepted
    assert world.lease_act("release", first.id).accepted
    assert world.acquire().reason is Reason.USES_EXHAUSTED


def test_leases_at_once_are_counted_by_ledger_time(world: Any) -> None:
    world.setup(max_concurrent=2)
    first = lease_of(world.acquire(ttl_ms=100))
    lease_of(world.acquire(ttl_ms=1000))
    assert world.acquire().reason is Reason.CONCURRENCY_LIMIT
    assert world.lease_act("renew", first.id, ttl_ms=200).accepted
    world.now += 199
    assert world.acquire().reason is Reason.CONCURRENCY_LIMIT
    world.now += 1  # the renewed one expires at this very moment
    third = lease_of(world.acquire())
    assert world.acquire().reason is Reason.CONCURRENCY_LIMIT
    assert world.lease_act("release", third.id).accepted
    assert world.acquire().accepted
    assert invariants.check(world.view) == []


def test_even_an_unlimited_grant_has_a_limit(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_CONCURRENT_LEASES == 1000
    monkeypatch.setattr("quorate.core.delegation.MAX_CONCURRENT_LEASES", 3)
    world.setup()
    assert [world.acquire().reason for _ in range(4)] == [None] * 3 + [Reason.CONCURRENCY_LIMIT]


def test_expired_leases_leave_the_count_and_their_records_stay(world: Any) -> None:
    world.setup()
    leases = [lease_of(world.acquire(ttl_ms=10)) for _ in range(10)]
    world.now += 10
    for _ in range(3):
        world.acquire()
    assert sum(1 for _ in world.store.scan(b"l")) == 3
    assert all(checked(world, lease.id) is Reason.LEASE_EXPIRED for lease in leases)


def test_a_lease_is_not_given_twice_when_its_nonce_is_forgotten(trusted: Any) -> None:
    """The repeat of a request whose lease is still in force gets that lease, and uses nothing."""
    nonce = "d" * 16
    node = trusted.clinic.node
    command = trusted.federation.command
    first = trusted.apply(command(node, "lease.acquire", _request(), nonce, trusted.now + 1))
    assert first.outcome.accepted
    trusted.now += 2
    trusted.apply(b"junk")
    again = trusted.apply(command(node, "lease.acquire", _request(), nonce, trusted.now + 1))
    assert not again.outcome.duplicate
    assert (again.outcome.accepted, again.outcome.result) == (True, first.outcome.result)
    assert trusted.view.grant(BANK, "grant").uses == 1


def test_a_lease_that_was_given_back_is_not_given_again(trusted: Any) -> None:
    nonce = "d" * 16
    node = trusted.clinic.node
    command = trusted.federation.command
    first = trusted.apply(command(node, "lease.acquire", _request(), nonce, trusted.now + 1))
    release = {"lease": first.outcome.thing, "executor": _request()["executor"]}
    assert trusted.apply(command(node, "lease.release", release)).outcome.accepted
    trusted.now += 2
    trusted.apply(b"junk")
    again = trusted.apply(command(node, "lease.acquire", _request(), nonce, trusted.now + 1))
    assert again.outcome.reason is Reason.ALREADY_EXISTS


# -- checking, renewing, releasing -----------------------------------------------------------------


def test_a_lease_holds_until_it_expires_and_not_at_that_moment(trusted: Any) -> None:
    lease = lease_of(trusted.acquire(ttl_ms=100))
    assert check_lease(trusted.view, lease.id, AGENT, ACTION, RESOURCE, trusted.now) == (
        Permit(lease.depends_on),
        lease,
    )
    assert checked(trusted, lease.id, ledger_time=lease.expires_at - 1) is None
    assert checked(trusted, lease.id, ledger_time=lease.expires_at) is Reason.LEASE_EXPIRED


def test_a_lease_is_for_its_holder_and_its_scope(trusted: Any) -> None:
    lease = lease_of(trusted.acquire())
    assert checked(trusted, "0" * 32) is Reason.UNKNOWN_LEASE
    assert checked(trusted, "\ud800") is Reason.UNKNOWN_LEASE
    other = AGENT + "2"
    decision, found = check_lease(trusted.view, lease.id, other, "", "", trusted.now)
    assert decision == Deny(Reason.NOT_LEASE_HOLDER, lease.id)
    assert found is None
    assert checked(trusted, lease.id, action="payments.write") is Reason.LEASE_SCOPE
    assert checked(trusted, lease.id, resource=RESOURCE + "0") is Reason.LEASE_SCOPE
    assert checked(trusted, lease.id, action=ACTION, resource=RESOURCE) is None
    trusted.must(CLINIC, "executor.register", {"executor": other})
    for act in ("renew", "release"):
        body = {"lease": lease.id, "executor": other} | ({"ttl_ms": 0} if act == "renew" else {})
        outcome = trusted.do(trusted.clinic.node, f"lease.{act}", body)
        assert outcome.reason is Reason.NOT_LEASE_HOLDER


NARROWINGS: list[tuple[str, str, dict[str, Any], Reason]] = [
    (CLINIC, "executor.suspend", {"executor": AGENT}, Reason.EXECUTOR_SUSPENDED),
    (CLINIC, "executor.revoke", {"executor": AGENT}, Reason.EXECUTOR_REVOKED),
    (CLINIC, "domain.suspend", {"domain": CLINIC}, Reason.DOMAIN_SUSPENDED),
    (BANK, "domain.suspend", {"domain": BANK}, Reason.DOMAIN_SUSPENDED),
    (BANK, "trust.narrow", narrow_body("edge", ["//bank.example/accounts/8"]), Reason.NO_TRUST),
    (BANK, "trust.narrow", narrow_body("edge", [RESOURCE], ["payments.write"]), Reason.NO_TRUST),
    (BANK, "trust.close", {"edge": "edge"}, Reason.NO_TRUST),
    (BANK, "grant.suspend", {"grant": "grant"}, Reason.GRANT_SUSPENDED),
    (BANK, "grant.revoke", {"grant": "grant"}, Reason.GRANT_REVOKED),
]


@pytest.mark.parametrize(("issuer", "kind", "body", "expected"), NARROWINGS)
def test_a_lease_falls_with_each_thing_that_it_depends_on(
    trusted: Any, issuer: str, kind: str, body: dict[str, Any], expected: Reason
) -> None:
    lease = lease_of(trusted.acquire())
    # Another edge and grant that would do as well: they do not save it.
    trusted.must(BANK, "trust.open", trust_body("spare", CLINIC, ["//bank.example/*"]))
    trusted.must(BANK, "grant.issue", grant_body("spare", AGENT, ["//bank.example/*"]))
    trusted.must(issuer, kind, body)
    assert checked(trusted, lease.id) is expected
    assert trusted.lease_act("renew", lease.id, ttl_ms=0).reason is expected
    if kind.endswith("suspend"):
        trusted.must(issuer, kind.replace("suspend", "reinstate"), body)
        assert checked(trusted, lease.id) is None
    assert trusted.lease_act("release", lease.id).accepted
    assert checked(trusted, lease.id) is Reason.LEASE_RELEASED


def test_a_lease_goes_on_within_a_narrower_edge(trusted: Any) -> None:
    lease = lease_of(trusted.acquire())
    for resources, actions in (
        (["//bank.example/accounts/*", "//bank.example/books/*"], ["*"]),
        ([RESOURCE, "//bank.example/books/*"], ["payments.*"]),
        ([RESOURCE], [ACTION]),
    ):
        trusted.must(BANK, "trust.narrow", narrow_body("edge", resources, actions))
        assert checked(trusted, lease.id) is None
        assert trusted.lease_act("renew", lease.id, ttl_ms=0).accepted
    assert trusted.acquire().accepted
    assert trusted.acquire(action="payments.write").reason is Reason.NO_TRUST
    assert trusted.lease_act("release", lease.id).accepted


def test_what_a_narrower_edge_does_not_cover_is_denied_by_its_name(trusted: Any) -> None:
    lease = lease_of(trusted.acquire())
    trusted.must(BANK, "trust.narrow", narrow_body("edge", ["//bank.example/books/*"]))
    decision, _ = check_lease(trusted.view, lease.id, AGENT, "", "", trusted.now)
    assert decision == Deny(Reason.NO_TRUST, f"{BANK}/edge")
    child = trusted.acquire(parents=[lease.id])
    assert not child.accepted
    trusted.must(BANK, "trust.open", trust_body("spare", CLINIC, ["//bank.example/*"]))
    assert trusted.acquire(parents=[lease.id]).reason is Reason.BROKEN_LINEAGE
    assert trusted.acquire().accepted, "under another edge, as anew"


def test_renewing_sets_the_end_anew(trusted: Any) -> None:
    lease = lease_of(trusted.acquire(ttl_ms=100))
    trusted.now += 99
    renewed = lease_of(trusted.lease_act("renew", lease.id, ttl_ms=500))
    assert renewed.expires_at == trusted.now + 500
    assert (renewed.fence, renewed.acquired_at) == (lease.fence, lease.acquired_at)
    assert trusted.view.grant(BANK, "grant").uses == 1
    assert lease_of(trusted.lease_act("renew", lease.id, ttl_ms=0)).expires_at == (
        trusted.now + 60_000
    )


def test_what_is_over_is_neither_renewed_nor_released(trusted: Any) -> None:
    expired, released = (lease_of(trusted.acquire(ttl_ms=100)) for _ in range(2))
    assert trusted.lease_act("release", released.id).accepted
    trusted.now += 100
    for act, more in (("renew", {"ttl_ms": 0}), ("release", {})):
        assert trusted.lease_act(act, expired.id, **more).reason is Reason.LEASE_EXPIRED
        assert trusted.lease_act(act, released.id, **more).reason is Reason.LEASE_RELEASED
        assert trusted.lease_act(act, "0" * 32, **more).reason is Reason.UNKNOWN_LEASE


# -- states that should not be ---------------------------------------------------------------------


def test_without_any_one_record_nothing_is_permitted(trusted: Any) -> None:
    lease = lease_of(trusted.acquire())
    needed = 0
    for key, value in trusted.store.items():
        trusted.store.delete(key)
        permitted_new = isinstance(decided(trusted), Permit)
        permitted_old = checked(trusted, lease.id) is None
        trusted.store.put(key, value)
        if key[:1] in b"ERGD":
            assert not permitted_new
            assert not permitted_old
            needed += 1
        if key[:1] == b"L":
            assert not permitted_old
    assert needed == 5


@pytest.mark.parametrize("junk", [b"", b"{}", b"[]", b"null", b"\xff", b'{"status":"active"}'])
def test_damaged_records_permit_nothing_and_raise_nothing(trusted: Any, junk: bytes) -> None:
    lease = lease_of(trusted.acquire())
    for key, value in trusted.store.items():
        trusted.store.put(key, junk)
        if key[:1] in b"ERGD":
            assert decided(trusted) == Deny(Reason.INTERNAL)
        if key[:1] in b"ERGDL":
            assert checked(trusted, lease.id) is Reason.INTERNAL
        trusted.store.put(key, value)


def test_a_record_in_anothers_place_permits_nothing(trusted: Any) -> None:
    lease = lease_of(trusted.acquire())
    other = AGENT + "2"
    trusted.must(CLINIC, "executor.register", {"executor": other})
    trusted.must(CLINIC, "executor.revoke", {"executor": AGENT})
    trusted.store.put(b"E" + AGENT.encode(), trusted.store.get(b"E" + other.encode()))
    assert decided(trusted) == Deny(Reason.INTERNAL)
    assert checked(trusted, lease.id) is Reason.INTERNAL


def test_an_empty_state_permits_nothing() -> None:
    view = StateView(MemoryStore())
    assert decide(view, DecisionRequest(AGENT, ACTION, RESOURCE), 0) == Deny(
        Reason.UNKNOWN_EXECUTOR, AGENT
    )
    assert check_lease(view, "0" * 32, AGENT, "", "", 0)[1] is None


def test_the_cost_of_a_decision_does_not_grow_with_the_ledger(trusted: Any) -> None:
    class Counting:
        def __init__(self, store: MemoryStore) -> None:
            self.store, self.reads = store, 0

        def get(self, key: bytes) -> bytes | None:
            self.reads += 1
            return self.store.get(key)

        def scan(self, prefix: bytes, start: bytes = b"") -> Any:
            for item in self.store.scan(prefix, start):
                self.reads += 1
                yield item

    def cost() -> int:
        reader = Counting(trusted.store)
        decision = decide(StateView(reader), DecisionRequest(AGENT, ACTION, RESOURCE), trusted.now)
        assert isinstance(decision, Permit)
        check_lease(StateView(reader), lease.id, AGENT, "", "", trusted.now)
        return reader.reads

    lease = lease_of(trusted.acquire())
    before = cost()
    for index in range(50):
        other = f"{AGENT}{index}"
        trusted.must(CLINIC, "executor.register", {"executor": other})
        trusted.must(BANK, "grant.issue", grant_body(f"a{index}", other, ["//bank.example/*"]))
    assert cost() == before


# -- the invariants can fail ---------------------------------------------------------------------


def test_invariants_see_what_is_wrong(trusted: Any) -> None:
    lease = lease_of(trusted.acquire())
    assert invariants.check(trusted.view) == []
    before = MemoryStore()
    for key, value in trusted.store.items():
        before.put(key, value)

    def broken(*records: Any) -> list[str]:
        for record in records:
            state.writing._save(trusted.store, record)
        problems = invariants.check(trusted.view)
        for key, _ in trusted.store.items():
            trusted.store.delete(key)
        for key, value in before.items():
            trusted.store.put(key, value)
        return problems

    grant = trusted.view.grant(BANK, "grant")
    edge = trusted.view.trust_edge(BANK, "edge")
    agent = trusted.view.executor(AGENT)
    assert broken(replace(lease, lease="1" * 32))  # two with one fence
    assert broken(replace(lease, expires_at=grant.not_after + 1))
    assert broken(replace(lease, action="other", depends_on=()))
    assert broken(replace(lease, trust_edge=""))
    assert broken(replace(grant, uses=2))
    assert broken(replace(grant, status=Status.REVOKED))
    assert broken(replace(grant, resources=("//clinic.example/*",)))
    assert broken(replace(edge, status=Status.REVOKED))
    assert broken(replace(edge, trustee=BANK))
    assert broken(replace(agent, executor=AGENT + "2"))
    assert broken(replace(trusted.view.domain(BANK), status=Status.SUSPENDED))
    assert invariants.check(trusted.view) == []


def test_steps_that_may_not_be_are_seen(trusted: Any) -> None:
    lease = lease_of(trusted.acquire())
    trusted.lease_act("release", lease.id)
    trusted.must(BANK, "grant.revoke", {"grant": "grant"})
    after = MemoryStore()
    for key, value in trusted.store.items():
        after.put(key, value)
    assert invariants.check_step(trusted.view, StateView(after)) == []
    grant = trusted.view.grant(BANK, "grant")
    state.writing._save(after, replace(grant, status=Status.ACTIVE))
    state.writing._save(after, replace(trusted.view.lease(lease.id), status=LeaseStatus.ACTIVE))
    state.save_ledger_time(after, trusted.now - 1)
    after.delete(b"E" + AGENT.encode())
    assert len(invariants.check_step(trusted.view, StateView(after))) == 4
