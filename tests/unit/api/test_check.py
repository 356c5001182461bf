"""The check path: what permits, and everything that must not."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core.errors import StorageDamagedError
from quorate.core.outcome import Deny, Permit, Reason
from quorate.lease import check as check_module
from quorate.lease.check import (
    NOWHERE,
    Checked,
    CheckQuery,
    LeaseChecker,
    expiry_ns,
    latest_ledger_time_ms,
)
from quorate.lease.word import AuthorityRecord, AuthorityWord
from quorate.testing.checks import (
    ACTION,
    BOOT,
    EXECUTOR,
    MS,
    PERIOD_NS,
    RESOURCE,
    Source,
    Word,
    World,
    make_world,
)
from quorate.testing.clock import FakeClock


@pytest.fixture
def world() -> World:
    return make_world()


def check(world: World, **changes: str) -> Checked:
    query = {"lease_id": world.lease_id, "executor": EXECUTOR, "action": "", "resource": ""}
    return world.checker.check(CheckQuery(**(query | changes)))


def reason(checked: Checked) -> Reason | None:
    if isinstance(checked.decision, Deny):
        assert checked.ttl_ms == 0
        assert checked.fence == 0
        return checked.decision.reason
    return None


def test_permits_a_good_lease_under_authority(world: World) -> None:
    answer = check(world, action=ACTION, resource=RESOURCE)
    assert isinstance(answer.decision, Permit)
    assert answer.ttl_ms == 1_000
    assert answer.fence == world.ledger.view.lease(world.lease_id).fence  # type: ignore[union-attr]
    assert answer.at.ledger_size == len(world.ledger.entries)
    assert answer.at.ledger_time_ms == world.ledger.now


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lease_id": "0" * 32}, Reason.UNKNOWN_LEASE),
        ({"executor": "spiffe://bank.example/agent/other"}, Reason.NOT_LEASE_HOLDER),
        ({"action": "payments.refund"}, Reason.LEASE_SCOPE),
        ({"resource": "//bank.example/accounts/other"}, Reason.LEASE_SCOPE),
    ],
)
def test_denies_what_the_lease_does_not_say(
    world: World, changes: dict[str, str], expected: Reason
) -> None:
    assert reason(check(world, **changes)) is expected


def test_denies_what_was_revoked(world: World) -> None:
    world.revoke_executor()
    assert reason(check(world)) is Reason.EXECUTOR_REVOKED


# -- authority ----------------------------------------------------------------------------------


def test_no_record_is_no_authority_and_opens_no_snapshot(world: World) -> None:
    world.record = None
    assert reason(check(world)) is Reason.INQUORATE
    assert world.opened == 0


@pytest.mark.parametrize("why", [Reason.STORAGE_FULL, Reason.QUARANTINED, Reason.INQUORATE])
def test_a_cleared_word_says_why(world: World, why: Reason) -> None:
    world.record = AuthorityRecord(bytes(16), 0, 0, 0, 0, 0, 0, 0, 0, why)
    assert reason(check(world)) is why


def test_a_reason_denies_even_beside_a_deadline(world: World) -> None:
    record = world.grant()
    object.__setattr__(record, "reason", Reason.STORAGE_FULL)
    assert reason(check(world)) is Reason.STORAGE_FULL


def test_a_torn_word_is_no_authority(world: World) -> None:
    word = AuthorityWord.create()
    try:
        word.write(world.grant())
        checker = LeaseChecker(word, lambda: Source(world), world.clock, BOOT)
        query = CheckQuery(world.lease_id, EXECUTOR)
        assert isinstance(checker.check(query).decision, Permit)
        whole = os.pread(word.fd, 132, 0)
        for at in range(8, len(whole)):  # every byte of sequence number, record and checksum
            os.pwrite(word.fd, bytes([whole[at] ^ 0x40]), at)
            decision = checker.check(query).decision
            os.pwrite(word.fd, whole[at : at + 1], at)
            assert decision == Deny(Reason.INQUORATE), at
        assert isinstance(checker.check(query).decision, Permit)
    finally:
        word.close()


def test_a_word_of_another_boot_is_no_authority(world: World) -> None:
    world.grant(boot_id=bytes(16))
    assert reason(check(world)) is Reason.INQUORATE
    assert world.opened == 0


def test_a_word_from_the_future_is_no_authority(world: World) -> None:
    now = world.clock.boottime_ns()
    world.grant(granted_at_boottime_ns=now + 1, deadline_ns=now + PERIOD_NS)
    assert reason(check(world)) is Reason.INQUORATE


@pytest.mark.parametrize(("short_by_ns", "ttl_ms"), [(0, 0), (1, 0), (MS - 1, 0), (MS, 1)])
def test_equality_at_the_deadline_denies_and_less_than_a_millisecond_is_nothing(
    world: World, short_by_ns: int, ttl_ms: int
) -> None:
    world.clock.advance(PERIOD_NS - short_by_ns)
    answer = check(world)
    assert answer.ttl_ms == ttl_ms
    assert reason(answer) is (None if ttl_ms else Reason.INQUORATE)


def test_one_nanosecond_before_the_deadline_still_holds_authority(world: World) -> None:
    world.clock.advance(PERIOD_NS - 1)
    assert isinstance(world.checker.authority(), AuthorityRecord)
    world.clock.advance(1)
    assert world.checker.authority() == Deny(Reason.INQUORATE)


@pytest.mark.parametrize("step_ns", [101 * MS, -101 * MS, 3_600_000 * MS])
def test_clocks_that_moved_apart_deny_until_the_next_grant(world: World, step_ns: int) -> None:
    world.clock.step_realtime(step_ns)
    assert reason(check(world)) is Reason.CLOCK_STEP
    assert world.checker.authority() == Deny(Reason.CLOCK_STEP)
    world.grant()
    assert reason(check(world)) is None


@pytest.mark.parametrize("step_ns", [100 * MS, -100 * MS])
def test_clocks_may_drift_a_little(world: World, step_ns: int) -> None:
    world.clock.step_realtime(step_ns)
    assert reason(check(world)) is None


def test_a_clock_step_while_deciding_denies(world: World) -> None:
    world.during = lambda: world.clock.step_realtime(200 * MS)
    assert reason(check(world)) is Reason.CLOCK_STEP


def test_a_state_behind_the_word_denies(world: World) -> None:
    world.applied_index = 6
    assert reason(check(world)) is Reason.INQUORATE
    world.applied_index = 7
    assert reason(check(world)) is None
    world.applied_index = 8
    assert reason(check(world)) is None


def test_without_a_store_everything_is_denied(world: World) -> None:
    checker = LeaseChecker(Word(world), lambda: None, world.clock, BOOT)
    assert checker.check(CheckQuery(world.lease_id, EXECUTOR)) == Checked(
        Deny(Reason.INQUORATE), NOWHERE, is_of_node=True
    )


# -- an edge that is stopped between the steps ----------------------------------------------------


def renewed_after_revocation(world: World) -> None:
    """What the rest of the node does while this edge is stopped: the revocation is applied, the
    old authority lapses, and a new one comes, for the new state."""
    world.revoke_executor()
    world.clock.advance(PERIOD_NS)
    world.applied_index = 8
    world.grant(index=8)


def test_stopped_inside_the_snapshot_it_does_not_borrow_a_renewed_word(world: World) -> None:
    world.during = lambda: renewed_after_revocation(world)
    assert reason(check(world)) is Reason.INQUORATE
    assert world.words_read == 1


def test_stopped_before_closing_the_snapshot_it_does_not_borrow_a_renewed_word(
    world: World,
) -> None:
    # After the clock was read: the permit then is one decided before, and its life counts from
    # when the executor asked. Before the clock is read there is no other place to stop.
    world.before_close = lambda: renewed_after_revocation(world)
    answer = check(world)
    assert answer.ttl_ms <= 1_000
    assert world.words_read == 1


def test_stopped_between_word_and_snapshot_it_decides_on_the_newer_state(world: World) -> None:
    def pause() -> None:
        world.revoke_executor()
        world.applied_index = 8

    world.before_open = pause
    assert reason(check(world)) is Reason.EXECUTOR_REVOKED


def test_stopped_between_word_and_snapshot_past_the_deadline_it_denies(world: World) -> None:
    def pause() -> None:
        world.clock.advance(PERIOD_NS)
        world.grant()

    world.before_open = pause
    assert reason(check(world)) is Reason.INQUORATE


def test_the_last_reading_of_the_clock_is_within_the_snapshot(world: World) -> None:
    """A revocation is enforced when no reader holds an older snapshot: a permit that came to be
    after its snapshot was closed would escape that."""
    readings: list[int] = []

    class Watching(FakeClock):
        def boottime_ns(self) -> int:
            readings.append(world.open_snapshots)
            return super().boottime_ns()

    checker = LeaseChecker(Word(world), lambda: Source(world), Watching(), BOOT)
    assert isinstance(checker.check(CheckQuery(world.lease_id, EXECUTOR)).decision, Permit)
    assert readings[-1] == 1


def test_a_denial_on_a_lapsed_state_is_not_told_as_the_lease_s(world: World) -> None:
    world.revoke_executor()
    world.during = lambda: world.clock.advance(PERIOD_NS)
    assert reason(check(world)) is Reason.INQUORATE


# -- expiry -------------------------------------------------------------------------------------


def test_expires_no_later_than_the_fastest_clock_says() -> None:
    world = make_world(ttl_ms=1_000)
    world.clock.advance_ms(989)  # the leader's clock may say 998.89 by now
    assert check(world).ttl_ms == 1
    world.clock.advance_ms(1)  # ... and now 999.9, which is taken for 1000
    assert reason(check(world)) is Reason.LEASE_EXPIRED


def test_equality_at_expiry_denies() -> None:
    world = make_world(ttl_ms=1_000)
    world.grant(rho_ppm=0)
    world.clock.advance(999 * MS)
    assert check(world).ttl_ms == 1
    world.clock.advance(1)  # the estimate is rounded up
    assert reason(check(world)) is Reason.LEASE_EXPIRED
    world.clock.advance(MS - 1)
    assert reason(check(world)) is Reason.LEASE_EXPIRED


@pytest.mark.parametrize("pause_ms", [1_000, 1_500])
def test_a_lease_that_expires_while_it_is_decided_on_is_denied(pause_ms: int) -> None:
    world = make_world(ttl_ms=1_000)
    world.grant(rho_ppm=0)
    world.during = lambda: world.clock.advance_ms(pause_ms)
    answer = check(world)
    assert answer.decision == Deny(Reason.LEASE_EXPIRED, world.lease_id)


def test_ledger_time_is_never_taken_for_earlier_than_the_state_s() -> None:
    world = make_world(ttl_ms=1_000)
    world.ledger.now += 1_000
    world.ledger.run("bank.example", "executor.register", {"executor": EXECUTOR + "2"})
    assert reason(check(world)) is Reason.LEASE_EXPIRED  # although the word says an earlier time


@pytest.mark.parametrize(
    ("authority_ms", "lease_ms", "limit_ms", "expected"),
    [(2_000, 60_000, 1_000, 1_000), (700, 60_000, 1_000, 700), (2_000, 300, 1_000, 300)],
)
def test_a_permit_lives_no_longer_than_the_shortest(
    authority_ms: int, lease_ms: int, limit_ms: int, expected: int
) -> None:
    world = make_world(ttl_ms=lease_ms)
    deadline = world.clock.boottime_ns() + authority_ms * MS
    world.grant(deadline_ns=deadline, max_permit_ttl_ms=limit_ms)
    assert check(world).ttl_ms == expected


@given(
    elapsed_ns=st.integers(0, 10**13),
    rho_ppm=st.integers(0, 100_000),
    ahead_ms=st.integers(1, 10**8),
)
def test_expiry_is_the_first_moment_at_which_the_estimate_reaches_it(
    elapsed_ns: int, rho_ppm: int, ahead_ms: int
) -> None:
    record = AuthorityRecord(BOOT, 10**18, 5 * 10**9, 0, 1, 1, 10**12, 1_000, rho_ppm)
    now = record.granted_at_boottime_ns + elapsed_ns
    expires_at = record.ledger_time_ms + ahead_ms
    assert (latest_ledger_time_ms(record, now) >= expires_at) == (
        now >= expiry_ns(record, expires_at)
    )
    exact = elapsed_ns * (1_000_000 + rho_ppm)
    estimate = latest_ledger_time_ms(record, now) - record.ledger_time_ms
    assert (estimate - 1) * 10**12 < exact <= estimate * 10**12


# -- faults -------------------------------------------------------------------------------------


def boom() -> None:
    raise RuntimeError("boom")


def damaged() -> None:
    raise StorageDamagedError("boom")


@pytest.mark.parametrize("place", ["before_open", "during", "before_close"])
@pytest.mark.parametrize("fault", [boom, damaged])
def test_every_fault_denies(world: World, place: str, fault: Callable[[], None]) -> None:
    setattr(world, place, fault)
    assert reason(check(world)) is Reason.INTERNAL
    assert world.damaged == (fault is damaged)


def test_a_fault_in_one_decision_leaves_the_others_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes(view: object, lease_id: str, *rest: object) -> object:
        if lease_id == "f" * 32:
            raise ZeroDivisionError
        return original(view, lease_id, *rest)  # type: ignore[arg-type]

    original = check_module.check_lease
    monkeypatch.setattr(check_module, "check_lease", sometimes)
    answers = world.checker.check_all(
        [CheckQuery("f" * 32, EXECUTOR), CheckQuery(world.lease_id, EXECUTOR)]
    )
    assert [reason(answer) for answer in answers] == [Reason.INTERNAL, None]


def test_a_batch_is_decided_under_one_word_and_one_snapshot(world: World) -> None:
    queries = [CheckQuery(world.lease_id, EXECUTOR)] * 50
    answers = world.checker.check_all(queries)
    assert [reason(answer) for answer in answers] == [None] * 50
    assert (world.words_read, world.opened) == (1, 1)


def test_a_word_that_cannot_be_read_is_no_authority(world: World) -> None:
    class Broken:
        def read(self) -> AuthorityRecord | None:
            raise OSError("gone")

    checker = LeaseChecker(Broken(), lambda: Source(world), world.clock, BOOT)
    assert checker.authority() == Deny(Reason.INTERNAL)
    assert reason(checker.check(CheckQuery(world.lease_id, EXECUTOR))) is Reason.INTERNAL
