"""Policies change under leases that are watched: who is told, of which entry, and for whose permits
is waited."""

from __future__ import annotations

import pytest
from tests.unit.api.test_watch_freezing import CLINIC, Bench

from quorate.api.errors import OutOfRangeError
from quorate.api.notices import Event
from quorate.core.outcome import Reason
from quorate.testing.builders import ORIGIN, ballot_body, proposal_body
from quorate.testing.checks import EXECUTOR, MS, PERIOD_NS

BANK = "bank.example"
BY = ("domain", "federation")
ALL = "permit (principal, action, resource);"
READS = 'permit (principal, action, resource) when { context.action == "accounts.read" };'
NO_READS = f'{ALL} forbid (principal, action, resource) when {{ context.action like "*.read" }};'


@pytest.fixture
def bench() -> Bench:
    return Bench()


def put(bench: Bench, by: str, text: str) -> int:
    """Publishes a set, or retires it; the index of the entry that did it."""
    body: dict[str, object] = {"text": text} if text else {}
    if by == "domain":
        return bench.must(BANK, "policy.publish" if text else "policy.retire", body)
    act = "federation.set_policy" if text else "federation.retire_policy"
    bench.must(BANK, "proposal.open", proposal_body(act, body))
    proposal = [each.id for each in bench.world.ledger.view.proposals() if each.status == "open"]
    return bench.must(CLINIC, "ballot.cast", ballot_body(proposal[0]))


@pytest.mark.parametrize("by", BY)
async def test_who_is_forbidden_is_told_and_who_is_permitted_again(bench: Bench, by: str) -> None:
    thing = BANK if by == "domain" else ORIGIN
    async with bench.hub.watch(EXECUTOR, (bench.reads, bench.writes)) as watcher, bench.running():
        await bench.told(watcher)
        only_reads = put(bench, by, READS)
        none_but_writes = put(bench, by, NO_READS)
        retired = put(bench, by, "")
        assert await bench.told(watcher) == {
            bench.reads: [
                (Event.INTERRUPTED, Reason.POLICY_FORBIDS, thing, none_but_writes + 1),
                (Event.RESTORED, None, "", retired + 1),
            ],
            bench.writes: [
                (Event.INTERRUPTED, Reason.NO_POLICY_PERMITS, thing, only_reads + 1),
                (Event.RESTORED, None, "", none_but_writes + 1),
            ],
        }


async def test_what_two_sets_forbid_both_must_permit_again(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.writes,)) as watcher, bench.running():
        await bench.told(watcher)
        first = put(bench, "domain", READS)
        put(bench, "federation", READS)
        put(bench, "domain", ALL)
        told = (await bench.told(watcher))[bench.writes]
        assert told[0] == (Event.INTERRUPTED, Reason.NO_POLICY_PERMITS, BANK, first + 1)
        assert Event.RESTORED not in {event for event, *_ in told}
        last = put(bench, "federation", "")
        assert (await bench.told(watcher))[bench.writes] == [(Event.RESTORED, None, "", last + 1)]


async def test_a_set_waits_for_every_permit_from_before_it(bench: Bench) -> None:
    """Also for those that it leaves alone: their lives are short."""
    async with bench.running():
        await bench.followed()
        for lease in (bench.reads, bench.writes):
            bench.permitted(lease)
        published = put(bench, "domain", READS)
        await bench.followed()
        now_ns = bench.world.clock.boottime_ns()
        permits = bench.hub.ledger.permits
        assert permits.drained_size(published + 1, now_ns) == published
        assert permits.drained_size(published + 1, now_ns + 2 * PERIOD_NS + MS) == published + 1


async def test_who_comes_back_is_told_what_a_set_has_stopped(bench: Bench) -> None:
    async with bench.running():
        await bench.followed()
        size = len(bench.world.ledger.entries)
        put(bench, "domain", READS)
        published = len(bench.world.ledger.entries)
        async with bench.hub.watch(EXECUTOR, (bench.writes,), after_size=size) as watcher:
            told = (await bench.told(watcher))[bench.writes]
        assert told[0] == (Event.INTERRUPTED, Reason.NO_POLICY_PERMITS, BANK, published)


async def test_who_comes_back_after_a_set_that_lets_it_go_on_begins_anew(bench: Bench) -> None:
    """Whether the one before did so, too, is in no entry since then."""
    async with bench.running():
        put(bench, "domain", READS)
        await bench.followed()
        size = len(bench.world.ledger.entries)
        put(bench, "domain", ALL)
        with pytest.raises(OutOfRangeError):
            async with bench.hub.watch(EXECUTOR, (bench.writes,), after_size=size):
                pass
        async with bench.hub.watch(EXECUTOR, (bench.writes,)) as watcher:
            told = (await bench.told(watcher))[bench.writes]
        assert [event for event, *_ in told] == [Event.ACTIVE]
