"""What an executor has to prove, and what it has proved, under leases that are watched: no entry
says by itself whether the one is enough for the other, and time undoes it; as it does leases."""

from __future__ import annotations

import pytest
from tests.unit.api.test_watch_freezing import BANK, Bench
from tests.unit.lease.test_lapsing import MAX_AGE_MS, NODE, prove, want

from quorate.api.errors import OutOfRangeError
from quorate.api.notices import Event
from quorate.core.outcome import Deny, Reason
from quorate.testing.builders import acquire_body
from quorate.testing.checks import ACTION, EXECUTOR, RESOURCE

KEY = f"{BANK}/key"
GRANT = f"{BANK}/g"


@pytest.fixture
def bench() -> Bench:
    return Bench()


def size(bench: Bench) -> int:
    return len(bench.world.ledger.entries)


def turn(bench: Bench, kind: str, act: str) -> int:
    """The size of the ledger with that entry."""
    body: dict[str, object] = {"executor": EXECUTOR} if kind == "executor" else {"grant": "g"}
    return bench.must(BANK, f"{kind}.{act}", body) + 1


def grow_old(bench: Bench) -> None:
    bench.world.clock.advance_ms(MAX_AGE_MS)
    bench.world.ledger.now += MAX_AGE_MS
    bench.world.grant()


async def test_who_comes_back_over_a_proof_begins_anew(bench: Bench) -> None:
    """Whether the one before was still good is in no entry."""
    want(bench.world)
    prove(bench.world)
    async with bench.running():
        await bench.followed()
        before = size(bench)
        turn(bench, "executor", "suspend")
        prove(bench.world)
        turn(bench, "executor", "reinstate")
        with pytest.raises(OutOfRangeError, match="proved"):
            async with bench.hub.watch(EXECUTOR, (bench.reads,), after_size=before):
                pass


async def test_who_comes_back_over_a_reference_begins_anew(bench: Bench) -> None:
    async with bench.running():
        await bench.followed()
        before = size(bench)
        want(bench.world)
        with pytest.raises(OutOfRangeError, match="proved"):
            async with bench.hub.watch(EXECUTOR, (bench.reads,), after_size=before):
                pass
        bench.must(BANK, "attestation.retire_reference", {"reference": "key"})
        with pytest.raises(OutOfRangeError, match="proved"):
            async with bench.hub.watch(EXECUTOR, (bench.reads,), after_size=before):
                pass


async def test_who_was_stopped_all_along_goes_on_over_a_proof(bench: Bench) -> None:
    want(bench.world)
    turn(bench, "grant", "suspend")
    async with bench.running():
        await bench.followed()
        before = size(bench)
        prove(bench.world)
        async with bench.hub.watch(EXECUTOR, (bench.reads,), after_size=before) as watcher:
            assert (await bench.told(watcher))[bench.reads] == [
                (Event.INTERRUPTED, Reason.GRANT_SUSPENDED, GRANT, size(bench))
            ]


async def test_what_grew_old_is_not_restored_when_something_else_goes_on(bench: Bench) -> None:
    want(bench.world)
    prove(bench.world)
    async with bench.hub.watch(EXECUTOR, (bench.reads,)) as watcher, bench.running():
        await bench.told(watcher)
        suspended = turn(bench, "grant", "suspend")
        assert (await bench.told(watcher))[bench.reads] == [
            (Event.INTERRUPTED, Reason.GRANT_SUSPENDED, GRANT, suspended)
        ]
        grow_old(bench)
        turn(bench, "executor", "suspend")
        reinstated = turn(bench, "executor", "reinstate")
        assert (await bench.told(watcher))[bench.reads][-1:] == [
            (Event.INTERRUPTED, Reason.ATTESTATION_STALE, KEY, reinstated)
        ]
        turn(bench, "grant", "reinstate")
        told = (await bench.told(watcher))[bench.reads]
        assert Event.RESTORED not in {event for event, *_ in told}
        prove(bench.world)
        assert (await bench.told(watcher))[bench.reads] == [(Event.RESTORED, None, "", size(bench))]


async def test_what_grew_old_behind_what_is_stopped_is_not_restored_with_it(bench: Bench) -> None:
    """The suspension is what was told all along, and hides it."""
    want(bench.world)
    prove(bench.world)
    async with bench.hub.watch(EXECUTOR, (bench.reads,)) as watcher, bench.running():
        await bench.told(watcher)
        turn(bench, "executor", "suspend")
        await bench.told(watcher)
        grow_old(bench)
        reinstated = turn(bench, "executor", "reinstate")
        assert (await bench.told(watcher))[bench.reads] == [
            (Event.INTERRUPTED, Reason.ATTESTATION_STALE, KEY, reinstated)
        ]


@pytest.mark.parametrize("is_watched_before", [True, False])
async def test_what_was_never_proved_is_not_restored(bench: Bench, is_watched_before: bool) -> None:
    if not is_watched_before:
        turn(bench, "executor", "suspend")
        want(bench.world)
    async with bench.hub.watch(EXECUTOR, (bench.reads,)) as watcher, bench.running():
        await bench.told(watcher)
        if is_watched_before:
            want(bench.world)
            turn(bench, "executor", "suspend")
        reinstated = turn(bench, "executor", "reinstate")
        told = (await bench.told(watcher))[bench.reads]
        assert Event.RESTORED not in {event for event, *_ in told}
        assert told[-1] == (Event.INTERRUPTED, Reason.ATTESTATION_MISSING, KEY, reinstated)


async def test_what_is_proved_is_restored_by_the_entry(bench: Bench) -> None:
    """And what is undone before anybody looked is told all the same."""
    want(bench.world)
    prove(bench.world)
    async with bench.hub.watch(EXECUTOR, (bench.reads,)) as watcher, bench.running():
        await bench.told(watcher)
        before = size(bench)
        for _ in range(2):
            turn(bench, "executor", "suspend")
            turn(bench, "executor", "reinstate")
        expected = [
            (Event.INTERRUPTED, Reason.EXECUTOR_SUSPENDED, EXECUTOR, before + 1),
            (Event.RESTORED, None, "", before + 2),
            (Event.INTERRUPTED, Reason.EXECUTOR_SUSPENDED, EXECUTOR, before + 3),
            (Event.RESTORED, None, "", before + 4),
        ]
        assert (await bench.told(watcher))[bench.reads] == expected
        async with bench.hub.watch(EXECUTOR, (bench.reads,), after_size=before) as again:
            told = (await bench.told(again))[bench.reads]
            assert told == [*expected, (Event.ACTIVE, None, "", before + 4)]


async def test_what_is_over_by_the_clock_is_not_restored_when_something_else_goes_on() -> None:
    """Ledger time has not come so far yet: no entry was written since."""
    bench = Bench()
    acquired = acquire_body(EXECUTOR, ACTION, RESOURCE, 1_000)
    lease = bench.world.ledger.run(NODE, "lease.acquire", acquired).outcome.thing
    async with bench.hub.watch(EXECUTOR, (lease,)) as watcher, bench.running():
        turn(bench, "grant", "suspend")
        await bench.followed()
        bench.world.clock.advance_ms(1_000)
        turn(bench, "executor", "suspend")
        await bench.followed()
        turn(bench, "executor", "reinstate")
        turn(bench, "grant", "reinstate")
        await bench.followed()
        notices = [await watcher.next() for _ in range(len(watcher._queue))]
    assert [notice.event for notice in notices] == [Event.ACTIVE] + [Event.INTERRUPTED] * 2
    assert notices[-1].denial == Deny(Reason.LEASE_EXPIRED, lease)


async def test_what_may_not_have_been_proved_is_not_told_as_good_in_between(bench: Bench) -> None:
    """The suspension hides it, so that no evaluation since then has said."""
    want(bench.world)
    turn(bench, "executor", "suspend")
    async with bench.running():
        await bench.followed()
        before = size(bench)
        turn(bench, "executor", "reinstate")
        turn(bench, "executor", "suspend")
        with pytest.raises(OutOfRangeError, match="cannot be told any more"):
            async with bench.hub.watch(EXECUTOR, (bench.reads,), after_size=before):
                pass


async def test_a_suspension_on_top_of_drift_restores_nothing_where_a_watch_goes_on(
    bench: Bench,
) -> None:
    """Its domain may suspend whom its proofs have suspended: it was not good before."""
    async with bench.hub.watch(EXECUTOR, (bench.reads,)) as live, bench.running():
        await bench.told(live)
        bench.must(NODE, "attestation.drift", {"executor": EXECUTOR})
        bench.turn("domain", "freeze")
        await bench.told(live)
        before = size(bench)
        bench.turn("domain", "thaw")
        turn(bench, "executor", "suspend")
        assert not (await bench.told(live))[bench.reads]
        with pytest.raises(OutOfRangeError):
            async with bench.hub.watch(EXECUTOR, (bench.reads,), after_size=before):
                pass
