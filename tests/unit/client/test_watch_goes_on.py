"""A watch that broke goes on from what was heard: an interruption during the break is told, and
stops the holders of a lease as one does that is heard at once."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
from tests.unit.client.conftest import ACTION, RESOURCE, World, granted, permit
from tests.unit.client.test_aio import gate as gate  # noqa: PLC0414 - a fixture
from tests.unit.client.test_aio import obtain
from tests.unit.client.test_hold import answers
from tests.unit.client.test_watch import notice, stay_open

from quorate.client import (
    AsyncGate,
    ClientReason,
    Denied,
    Lease,
    Permit,
    Reason,
    WatchEvent,
    watching,
)
from quorate.client.slot import PermitSlot
from quorate.client.watching import WatchNotice, WatchTalk
from quorate.core import effects, policies
from quorate.testing.clock import FakeClock
from quorate.v1 import decision_pb2, lease_pb2

ACTIVE = lease_pb2.WATCH_EVENT_ACTIVE
INTERRUPTED = lease_pb2.WATCH_EVENT_INTERRUPTED
RESTORED = lease_pb2.WATCH_EVENT_RESTORED
LOST = lease_pb2.WATCH_EVENT_AUTHORITY_LOST
SUSPENDED = decision_pb2.REASON_GRANT_SUSPENDED
Stream = Callable[[Any, Any], Iterator[Any]]


def at(size: int) -> decision_pb2.LedgerPosition:
    return decision_pb2.LedgerPosition(size=size)


def stream(
    *told: lease_pb2.WatchResponse, end: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE
) -> Stream:
    """Says so, and then ends; None: stays open."""

    def says(_request: Any, context: Any) -> Iterator[Any]:
        yield from told
        if end is not None:
            context.abort(end, "scripted")
        yield from stay_open(context)

    return says


MISSED = (
    notice(INTERRUPTED, reason=SUSPENDED, position=at(5)),
    notice(ACTIVE, position=at(6)),
)


def asked(world: World) -> list[tuple[list[str], int]]:
    return [(list(each.lease_ids), each.after_size) for each in world.node.requests["Watch"]]


# -- what is told ---------------------------------------------------------------------------------


def test_a_watch_goes_on_from_the_last_notice_that_was_read(world: World) -> None:
    lease = world.lease()
    world.node.then(
        "Watch",
        stream(notice(ACTIVE, position=at(3)), notice(RESTORED, position=at(4))),
        stream(),
        stream(*MISSED, end=None),
    )
    watch = world.gate.watch([lease])
    told = [next(watch) for _ in range(5)]
    assert [(each.event, each.ledger_size) for each in told] == [
        (WatchEvent.ACTIVE, 3),
        (WatchEvent.RESTORED, 4),
        (WatchEvent.AUTHORITY_LOST, 0),
        (WatchEvent.INTERRUPTED, 5),
        (WatchEvent.ACTIVE, 6),
    ]
    assert asked(world) == [(["lease-7"], 0), (["lease-7"], 4), (["lease-7"], 4)]
    watch.close()


async def test_so_does_one_with_asyncio(world: World, gate: AsyncGate) -> None:
    world.node.then("Watch", stream(notice(ACTIVE, position=at(4))), stream(*MISSED, end=None))
    watch = gate.watch([await obtain(world, gate)])
    told = [(await anext(watch)).event for _ in range(4)]
    assert told[1:] == [WatchEvent.AUTHORITY_LOST, WatchEvent.INTERRUPTED, WatchEvent.ACTIVE]
    assert [after for _, after in asked(world)] == [0, 4]
    watch.close()


def test_where_it_cannot_go_on_that_is_told_and_it_begins_anew(world: World) -> None:
    lease = world.lease()
    world.node.then(
        "Watch",
        stream(notice(ACTIVE, position=at(4))),
        stream(end=grpc.StatusCode.OUT_OF_RANGE),
        stream(notice(ACTIVE, position=at(90_000)), end=None),
    )
    watch = world.gate.watch([lease])
    told = [next(watch) for _ in range(4)]
    assert told[1] == WatchNotice(
        "lease-7", WatchEvent.AUTHORITY_LOST, ClientReason.UNREACHABLE, is_silence=True
    )
    assert told[2] == WatchNotice("lease-7", WatchEvent.AUTHORITY_LOST, ClientReason.MISSED)
    assert told[3].event is WatchEvent.ACTIVE
    assert [after for _, after in asked(world)] == [0, 4, 0]
    watch.close()


# -- held leases ----------------------------------------------------------------------------------


def test_a_holder_hears_of_an_interruption_during_the_break(world: World) -> None:
    lease = world.lease()
    world.node.then("Watch", stream(notice(ACTIVE, position=at(4))), stream(*MISSED, end=None))
    world.node.then("Check", permit())
    answers(world, permit(), permit())
    news: queue.Queue[Permit | Denied] = queue.Queue()
    with lease.hold(news.put):
        told = news.get(timeout=10)
        assert isinstance(told, Denied)
        assert told.reason is Reason.GRANT_SUSPENDED
        answers(world, permit())
        assert isinstance(news.get(timeout=10), Permit)


def test_a_holder_stops_where_nobody_knows_what_was_missed(world: World) -> None:
    lease = world.lease()
    world.node.then(
        "Watch",
        stream(notice(ACTIVE, position=at(4))),
        stream(end=grpc.StatusCode.OUT_OF_RANGE),
        stream(notice(ACTIVE, position=at(90_000)), end=None),
    )
    world.node.then("Check", permit())
    answers(world, permit(), permit())
    news: queue.Queue[Permit | Denied] = queue.Queue()
    with lease.hold(news.put):
        told = news.get(timeout=10)
        assert isinstance(told, Denied)
        assert told.reason is ClientReason.MISSED


def test_a_lease_that_is_held_since_the_break_begins_as_it_stands(world: World) -> None:
    """What was before it was held is nothing to its holder."""
    first = world.lease()
    world.node.then("Acquire", granted(id="lease-8", fence=8))
    second = world.gate.acquire(ACTION, RESOURCE)
    assert isinstance(second, Lease)
    talk = WatchTalk("s" * 16, {first.id: first.slot})
    said: list[lease_pb2.WatchRequest] = []
    assert talk.begin(said.append)
    talk.heard(notice(ACTIVE, position=at(4)))
    talk.broken(None)
    assert talk.add(second.id, second.slot)
    said.clear()
    assert talk.begin(said.append)
    assert [(list(each.lease_ids), each.after_size, each.session) for each in said] == [
        (["lease-7"], 4, "s" * 16),
        (["lease-8"], 0, ""),
    ]


# -- several leases of one watch ------------------------------------------------------------------


def talk_of(*leases: str) -> WatchTalk:
    return WatchTalk("s" * 16, {each: PermitSlot(FakeClock()) for each in leases})


def hear(
    talk: WatchTalk, *told: tuple[str, Any, int], why: Any = SUSPENDED
) -> tuple[int, Sequence[tuple[str, WatchEvent]]]:
    """From where the watch goes on, and what its reader is told before it breaks."""
    said: list[lease_pb2.WatchRequest] = []
    assert talk.begin(said.append)
    heard = [
        talk.heard(
            lease_pb2.WatchResponse(
                lease_id=lease,
                event=event,
                position=at(size),
                reason=0 if event in {ACTIVE, RESTORED} else why,  # type: ignore[arg-type]
            )
        )
        for lease, event, size in told
    ]
    talk.broken(None)
    return said[0].after_size, [(each.lease_id, each.event) for each in heard if each]


def test_the_rest_of_what_one_entry_did_is_told_after_the_break_and_nothing_twice() -> None:
    """An executor's suspension interrupts each of its leases, under one size of the ledger."""
    talk = talk_of("a", "b")
    hear(talk, ("a", ACTIVE, 4), ("b", ACTIVE, 4), ("a", INTERRUPTED, 5))
    assert hear(
        talk, ("a", INTERRUPTED, 5), ("b", INTERRUPTED, 5), ("a", ACTIVE, 6), ("b", ACTIVE, 6)
    ) == (
        4,
        [("b", WatchEvent.INTERRUPTED), ("a", WatchEvent.ACTIVE), ("b", WatchEvent.ACTIVE)],
    )
    assert hear(talk)[0] == 6, "everything of that size was read"


def test_what_was_told_after_an_entry_shows_that_all_of_it_was_read() -> None:
    talk = talk_of("a", "b")
    hear(talk, ("a", ACTIVE, 4), ("b", ACTIVE, 4), ("a", INTERRUPTED, 5), ("a", LOST, 5))
    assert hear(talk)[0] == 5, "what entry 4 has done to a is not told twice"


def test_who_was_told_how_one_lease_stands_is_told_so_again_after_the_break() -> None:
    talk = talk_of("a", "b")
    hear(talk, ("a", ACTIVE, 4), ("b", ACTIVE, 4))
    hear(talk, ("a", INTERRUPTED, 5), why=decision_pb2.REASON_LEASE_EXPIRED)
    told = ("a", INTERRUPTED, 5), ("b", ACTIVE, 5)
    assert hear(talk, *told, why=decision_pb2.REASON_LEASE_EXPIRED) == (
        5,
        [("a", WatchEvent.INTERRUPTED), ("b", WatchEvent.ACTIVE)],
    )


def test_a_lease_of_which_nothing_was_heard_for_long_holds_nothing_back() -> None:
    talk = talk_of("a", "b")
    hear(talk, ("a", ACTIVE, 4), ("b", ACTIVE, 4), ("b", INTERRUPTED, 90_000))
    assert hear(talk)[0] == 89_999


def test_who_says_nothing_of_the_ledger_is_not_gone_on_from() -> None:
    talk = talk_of("a")
    hear(talk, ("a", ACTIVE, 4), ("a", LOST, 0))
    assert hear(talk)[0] == 4


def test_a_watch_that_is_cut_off_at_one_place_again_and_again_begins_anew() -> None:
    cut_off = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata()
    )
    talk = WatchTalk("s" * 16, {each: PermitSlot(FakeClock()) for each in "ab"})
    said: list[lease_pb2.WatchRequest] = []

    def hear(lease: str, event: lease_pb2.WatchEvent.ValueType, size: int) -> None:
        talk.heard(lease_pb2.WatchResponse(lease_id=lease, event=event, position=at(size)))

    assert talk.begin(said.append)
    for lease in "ab":
        hear(lease, ACTIVE, 3)
    hear("a", INTERRUPTED, 5)
    assert ClientReason.MISSED not in {each.reason for each in talk.broken(cut_off)}
    assert talk.begin(said.append)
    talk.broken(cut_off)  # nothing was read: perhaps there are too many calls
    assert talk.begin(said.append)
    hear("a", INTERRUPTED, 5)  # again
    missed = talk.broken(cut_off)
    assert [(each.lease_id, each.reason) for each in missed] == [
        ("a", ClientReason.MISSED),
        ("b", ClientReason.MISSED),
    ]
    assert talk.begin(said.append)
    firsts = [each.after_size for each in said if each.session]
    assert firsts == [0, 4, 4, 0]


def test_whatever_an_entry_can_interrupt_with_may_have_interrupted_others_too() -> None:
    """Of leases that one entry has interrupted, perhaps one notice alone was read: then what that
    entry did is told again."""
    of_entries = {reason for _, reason in effects._EFFECTS.values() if reason is not None}
    of_entries |= policies.REASONS
    assert of_entries == {each for each in watching._REASONS_OF_ENTRIES if isinstance(each, Reason)}
