"""Policies change under leases that are watched: who is told, as of when, and for whose permits is
waited."""

from __future__ import annotations

import pytest
from tests.unit.api.test_watch_freezing import CLINIC, Bench, Told

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
        told: dict[str, Told] = {bench.reads: [], bench.writes: []}
        sizes = []
        for text in (READS, NO_READS, ""):
            sizes.append(put(bench, by, text) + 1)
            for lease, notices in (await bench.told(watcher)).items():
                told[lease] += notices
        only_reads, none_but_writes, retired = sizes
        assert told == {
            bench.reads: [
                (Event.INTERRUPTED, Reason.POLICY_FORBIDS, thing, none_but_writes),
                (Event.RESTORED, None, "", retired),
            ],
            bench.writes: [
                (Event.INTERRUPTED, Reason.NO_POLICY_PERMITS, thing, only_reads),
                (Event.RESTORED, None, "", none_but_writes),
            ],
        }


@pytest.mark.parametrize("by", BY)
async def test_a_set_that_another_replaced_before_anybody_looked_is_not_told(
    bench: Bench, by: str
) -> None:
    """What it was to each lease is no entry's to say, and was never asked."""
    thing = BANK if by == "domain" else ORIGIN
    async with bench.hub.watch(EXECUTOR, (bench.reads, bench.writes)) as watcher, bench.running():
        await bench.told(watcher)
        put(bench, by, READS)
        last = put(bench, by, NO_READS)
        assert await bench.told(watcher) == {
            bench.reads: [(Event.INTERRUPTED, Reason.POLICY_FORBIDS, thing, last + 1)],
            bench.writes: [],
        }
        put(bench, by, READS)
        put(bench, by, NO_READS)
        assert await bench.told(watcher) == {bench.reads: [], bench.writes: []}


@pytest.mark.parametrize("text", [READS, ALL])
async def test_what_a_set_may_forbid_no_other_entry_restores(bench: Bench, text: str) -> None:
    """The executor is reinstated under a set that nobody has asked about the lease yet."""
    async with bench.hub.watch(EXECUTOR, (bench.writes,)) as watcher, bench.running():
        await bench.told(watcher)
        bench.must(BANK, "executor.suspend", {"executor": EXECUTOR})
        await bench.told(watcher)
        put(bench, "domain", text)
        bench.must(BANK, "executor.reinstate", {"executor": EXECUTOR})
        last = bench.must(BANK, "grant.suspend", {"grant": "g"}) + 1
        assert (await bench.told(watcher))[bench.writes] == [
            (Event.INTERRUPTED, Reason.GRANT_SUSPENDED, "bank.example/g", last)
        ]
        last = bench.must(BANK, "grant.reinstate", {"grant": "g"}) + 1
        told = [event for event, *_ in (await bench.told(watcher))[bench.writes]]
        assert told == ([Event.RESTORED] if text == ALL else [Event.INTERRUPTED])


async def test_a_set_that_is_retired_before_anybody_looked_lets_all_go_on(bench: Bench) -> None:
    """As of that entry: it says so by itself, for every lease."""
    async with bench.hub.watch(EXECUTOR, (bench.writes,)) as watcher, bench.running():
        await bench.told(watcher)
        put(bench, "domain", READS)
        await bench.told(watcher)
        put(bench, "domain", ALL)
        retired = put(bench, "domain", "")
        bench.must(BANK, "executor.register", {"executor": f"{EXECUTOR}-2"})
        assert (await bench.told(watcher))[bench.writes] == [
            (Event.RESTORED, None, "", retired + 1)
        ]


async def test_what_two_sets_forbid_both_must_permit_again(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.writes,)) as watcher, bench.running():
        await bench.told(watcher)
        first = put(bench, "domain", READS)
        told = (await bench.told(watcher))[bench.writes]
        assert told == [(Event.INTERRUPTED, Reason.NO_POLICY_PERMITS, BANK, first + 1)]
        put(bench, "federation", READS)
        put(bench, "domain", ALL)
        told = (await bench.told(watcher))[bench.writes]
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


@pytest.mark.parametrize("last", [READS, ALL, ""])
async def test_who_comes_back_after_several_sets_is_told_of_the_last_or_begins_anew(
    bench: Bench, last: str
) -> None:
    """Whether the lease was interrupted and restored in between is in no entry."""
    async with bench.running():
        await bench.followed()
        size = len(bench.world.ledger.entries)
        bench.must(BANK, "grant.suspend", {"grant": "g"})
        for text in (ALL, READS, ALL, last):
            if text != last or text == READS:
                put(bench, "domain", text)
        bench.must(BANK, "grant.reinstate", {"grant": "g"})
        if last != READS:
            put(bench, "domain", last)
            with pytest.raises(OutOfRangeError, match="policies"):
                async with bench.hub.watch(EXECUTOR, (bench.writes,), after_size=size):
                    pass
            return
        async with bench.hub.watch(EXECUTOR, (bench.writes,), after_size=size) as watcher:
            told = (await bench.told(watcher))[bench.writes]
        end = len(bench.world.ledger.entries)
        assert told == [
            (Event.INTERRUPTED, Reason.GRANT_SUSPENDED, "bank.example/g", size + 1),
            (Event.INTERRUPTED, Reason.NO_POLICY_PERMITS, BANK, end),
        ]


@pytest.mark.parametrize("is_retired", [True, False])
async def test_what_was_good_before_a_set_cannot_be_told_any_more(
    bench: Bench, is_retired: bool
) -> None:
    """The set before it may have forbidden the lease just as well."""
    async with bench.running():
        put(bench, "domain", READS)
        bench.must(BANK, "grant.suspend", {"grant": "g"})
        await bench.followed()
        size = len(bench.world.ledger.entries)
        bench.must(BANK, "grant.reinstate", {"grant": "g"})
        if is_retired:
            put(bench, "domain", "")
        put(bench, "domain", f"{READS} // again")
        with pytest.raises(OutOfRangeError, match="cannot be told any more"):
            async with bench.hub.watch(EXECUTOR, (bench.writes,), after_size=size):
                pass


async def test_what_was_stopped_all_along_goes_on_over_any_set(bench: Bench) -> None:
    async with bench.running():
        bench.must(BANK, "executor.suspend", {"executor": EXECUTOR})
        await bench.followed()
        size = len(bench.world.ledger.entries)
        put(bench, "domain", ALL)
        end = len(bench.world.ledger.entries)
        async with bench.hub.watch(EXECUTOR, (bench.writes,), after_size=size) as watcher:
            told = (await bench.told(watcher))[bench.writes]
        assert told == [(Event.INTERRUPTED, Reason.EXECUTOR_SUSPENDED, EXECUTOR, end)]


async def test_what_a_retired_set_had_not_stopped_is_not_told_as_good_again(bench: Bench) -> None:
    put(bench, "domain", ALL)
    async with bench.running():
        await bench.followed()
        size = len(bench.world.ledger.entries)
        put(bench, "domain", "")
        suspended = bench.must(BANK, "grant.suspend", {"grant": "g"}) + 1
        put(bench, "domain", READS)
        end = len(bench.world.ledger.entries)
        async with bench.hub.watch(EXECUTOR, (bench.writes,), after_size=size) as watcher:
            told = (await bench.told(watcher))[bench.writes]
        denied = (Event.INTERRUPTED, Reason.GRANT_SUSPENDED, "bank.example/g")
        assert told == [(*denied, suspended), (*denied, end)]
