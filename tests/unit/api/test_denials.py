"""What an edge has denied by itself: counted at once, handed on when the core takes it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from quorate.api import convert, denials
from quorate.api.denials import MAX_KINDS, MAX_PER_REQUEST, DenialJournal
from quorate.core.lineage import METHODS, REASONS_OF_THE_NODE
from quorate.core.outcome import Reason
from quorate.v1 import core_pb2

AGENT = "spiffe://bank.example/agent/payments"
LEASE = "5" * 32


class Core:
    """Takes what it is given, unless it is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.requests: list[core_pb2.ReportDenialsRequest] = []
        self.before: Callable[[], Awaitable[None]] | None = None

    async def report_denials(self, request: core_pb2.ReportDenialsRequest) -> bool:
        if self.before is not None:
            await self.before()
        if not self.is_away:
            self.requests.append(request)
        return not self.is_away

    @property
    def counts(self) -> Counter[tuple[str, str, str, Reason | None]]:
        found: Counter[tuple[str, str, str, Reason | None]] = Counter()
        for request in self.requests:
            for each in request.denials:
                reason = convert.reason_of_wire(each.reason)
                found[each.executor, each.method, each.lease_id, reason] += each.count
        return found


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def journal(core: Core) -> DenialJournal:
    return DenialJournal(core)


async def test_denials_of_a_kind_are_counted_together(core: Core, journal: DenialJournal) -> None:
    for _ in range(3):
        journal.denied("Check", Reason.INQUORATE, AGENT, LEASE)
    journal.denied("Check", Reason.CLOCK_STEP, AGENT, LEASE)
    journal.denied("Acquire", Reason.INQUORATE, AGENT, "")
    await journal.flush()
    assert len(core.requests) == 1
    assert core.counts == {
        (AGENT, "Check", LEASE, Reason.INQUORATE): 3,
        (AGENT, "Check", LEASE, Reason.CLOCK_STEP): 1,
        (AGENT, "Acquire", "", Reason.INQUORATE): 1,
    }


@pytest.mark.parametrize("reason", list(Reason))
async def test_only_what_nobody_else_could_know_is_counted(
    core: Core, journal: DenialJournal, reason: Reason
) -> None:
    journal.denied("Check", reason, AGENT, LEASE)
    await journal.flush()
    assert (core.counts.total() == 1) == (reason in REASONS_OF_THE_NODE)


async def test_what_was_handed_on_is_handed_on_once(core: Core, journal: DenialJournal) -> None:
    journal.denied("Check", Reason.INQUORATE, AGENT, LEASE)
    await journal.flush()
    await journal.flush()
    assert core.counts.total() == 1


async def test_nothing_is_lost_while_the_core_is_away(core: Core, journal: DenialJournal) -> None:
    core.is_away = True
    for _ in range(3):
        journal.denied("Check", Reason.INQUORATE, AGENT, LEASE)
        await journal.flush()
    core.is_away = False
    await journal.flush()
    assert core.counts == {(AGENT, "Check", LEASE, Reason.INQUORATE): 3}


async def test_a_core_that_goes_away_between_gets_the_rest_later(
    core: Core, journal: DenialJournal
) -> None:
    kinds = MAX_PER_REQUEST + 44
    for number in range(kinds):
        journal.denied("Check", Reason.INQUORATE, AGENT, f"{number:032x}")

    async def leave() -> None:
        core.is_away = bool(core.requests)

    core.before = leave
    await journal.flush()
    assert core.counts.total() == MAX_PER_REQUEST
    core.before, core.is_away = None, False
    await journal.flush()
    assert [len(request.denials) for request in core.requests] == [MAX_PER_REQUEST, 44]
    assert set(core.counts.values()) == {1}
    assert len(core.counts) == kinds


async def test_who_is_stopped_while_handing_on_has_not_lost_it(
    core: Core, journal: DenialJournal
) -> None:
    journal.denied("Check", Reason.INQUORATE, AGENT, LEASE)
    arrived, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        arrived.set()
        await never.wait()

    core.before = hang
    task = asyncio.create_task(journal.flush())
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    core.before = None
    await journal.flush()
    assert core.counts == {(AGENT, "Check", LEASE, Reason.INQUORATE): 1}


async def test_what_is_denied_meanwhile_is_counted(core: Core, journal: DenialJournal) -> None:
    async def deny() -> None:
        journal.denied("Renew", Reason.INQUORATE, AGENT, LEASE)

    for is_away in (True, False):
        core.is_away = is_away
        journal.denied("Check", Reason.INQUORATE, AGENT, LEASE)
        core.before = deny
        await journal.flush()
    core.before = None
    await journal.flush()
    assert core.counts == {
        (AGENT, "Check", LEASE, Reason.INQUORATE): 2,
        (AGENT, "Renew", LEASE, Reason.INQUORATE): 2,
    }


async def test_memory_is_bounded_whatever_is_denied(core: Core, journal: DenialJournal) -> None:
    core.is_away = True
    total = 0
    for number in range(3 * MAX_KINDS):
        for reason in sorted(REASONS_OF_THE_NODE):
            for method in ("Check", "Renew"):
                journal.denied(method, reason, AGENT, f"{number:032x}")
                total += 1
        if number % MAX_KINDS == 0:
            await journal.flush()
    assert len(journal._counts) <= MAX_KINDS + len(METHODS) * len(REASONS_OF_THE_NODE)
    core.is_away = False
    await journal.flush()
    assert core.counts.total() == total
    assert core.counts["", "Check", "", Reason.INQUORATE] > MAX_KINDS
    assert core.counts[AGENT, "Check", "0" * 32, Reason.INQUORATE] == 1


async def test_it_hands_on_by_itself_when_there_is_something(
    core: Core, journal: DenialJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "FLUSH_S", 0)
    taken = asyncio.Event()

    async def look() -> None:
        taken.set()

    core.before, core.is_away = look, True
    task = asyncio.create_task(journal.run())
    await asyncio.sleep(0)
    assert not taken.is_set()
    async with asyncio.timeout(5):
        journal.denied("Check", Reason.INQUORATE, AGENT, LEASE)
        await taken.wait()
        taken.clear()
        core.is_away = False
        await taken.wait()  # it is tried again without any other
        taken.clear()
        for _ in range(20):
            await asyncio.sleep(0)
    assert not taken.is_set(), "and then there is nothing"
    assert core.counts.total() == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
