"""Notices take permits away at once, and a broken stream counts as lost authority."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import World, permit

from quorate.client import (
    ClientReason,
    Denied,
    DeniedError,
    Lease,
    Reason,
    Watch,
    WatchEvent,
    WatchNotice,
)
from quorate.v1 import decision_pb2, lease_pb2


def notice(event: Any, **fields: Any) -> lease_pb2.WatchResponse:
    return lease_pb2.WatchResponse(lease_id="lease-7", event=event, **fields)


def stay_open(context: grpc.ServicerContext) -> Iterator[Any]:
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(10)
    yield from ()


def test_an_interruption_takes_the_permit_away(world: World) -> None:
    lease = world.lease()
    go_on = threading.Event()

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_ACTIVE)
        go_on.wait(10)
        yield notice(
            lease_pb2.WATCH_EVENT_INTERRUPTED,
            reason=decision_pb2.REASON_GRANT_REVOKED,
            thing="bank.example/g1",
            position=decision_pb2.LedgerPosition(size=30),
        )
        yield from stay_open(context)

    world.node.then("Watch", stream)
    world.node.then("Check", permit())
    watch = world.gate.watch([lease])
    assert next(watch) == WatchNotice("lease-7", WatchEvent.ACTIVE, None)
    assert lease.check()
    go_on.set()
    assert next(watch) == WatchNotice(
        "lease-7", WatchEvent.INTERRUPTED, Reason.GRANT_REVOKED, "bank.example/g1", 30
    )
    assert lease.slot.cached() is None
    watch.close()
    assert list(watch) == []


def test_a_broken_stream_is_lost_authority_told_once_and_opened_again(world: World) -> None:
    lease = world.lease()

    def breaks(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_ACTIVE)
        context.abort(grpc.StatusCode.UNAVAILABLE, "scripted")

    def breaks_at_once(_request: Any, context: Any) -> Iterator[Any]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "scripted")
        yield from ()

    def good(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_ACTIVE)
        yield from stay_open(context)

    world.node.then("Watch", breaks, breaks_at_once, good)
    world.node.then("Check", permit())
    watch = world.gate.watch([lease])
    assert next(watch).event is WatchEvent.ACTIVE
    assert lease.check()
    assert next(watch) == WatchNotice(
        "lease-7", WatchEvent.AUTHORITY_LOST, ClientReason.UNREACHABLE, is_silence=True
    )
    assert lease.slot.cached() is None
    assert next(watch).event is WatchEvent.ACTIVE
    assert len(world.node.requests["Watch"]) == 3
    watch.close()


def test_an_event_that_is_not_known_counts_as_lost_authority(world: World) -> None:
    lease = world.lease()

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_UNSPECIFIED)
        yield notice(99)
        yield from stay_open(context)

    world.node.then("Watch", stream)
    world.node.then("Check", permit())
    assert lease.check()
    watch = world.gate.watch([lease])
    for _ in range(2):
        told = next(watch)
        assert told.event is WatchEvent.AUTHORITY_LOST
        assert told.reason is ClientReason.MALFORMED_ANSWER
        assert lease.slot.cached() is None
    watch.close()


def test_a_callback_hears_every_notice_until_the_gate_is_closed(world: World) -> None:
    lease = world.lease()

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_ACTIVE)
        yield notice(lease_pb2.WATCH_EVENT_RESTORED)
        yield from stay_open(context)

    world.node.then("Watch", stream)
    heard: queue.Queue[WatchNotice] = queue.Queue()
    watch = world.gate.on_change([lease], heard.put)
    assert heard.get(timeout=5).event is WatchEvent.ACTIVE
    assert heard.get(timeout=5).event is WatchEvent.RESTORED
    watch.close()
    assert heard.empty()


def test_a_permit_in_flight_during_an_interruption_is_refused(world: World) -> None:
    lease = world.lease()
    interrupt = threading.Event()

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        interrupt.wait(10)
        yield notice(
            lease_pb2.WATCH_EVENT_INTERRUPTED, reason=decision_pb2.REASON_EXECUTOR_SUSPENDED
        )
        yield from stay_open(context)

    told = threading.Event()

    def decided_before(_request: Any, _context: Any) -> lease_pb2.CheckResponse:
        interrupt.set()
        assert told.wait(10)
        return permit()

    world.node.then("Watch", stream)
    world.node.then("Check", decided_before)
    # A deadline that loaded machines meet: the order of events is what is tested here.
    gate = world.gate
    watch = gate.on_change([lease], lambda _notice: told.set())
    answer = lease.check()
    watch.close()
    assert isinstance(answer, Denied)
    assert answer.reason in (ClientReason.INTERRUPTED, ClientReason.LATE)
    assert lease.slot.cached() is None


# -- acknowledging ---------------------------------------------------------------------------------


def interrupt(world: World, lease: Lease) -> Watch:
    """The lease is interrupted, at a ledger of 30 entries; returns when the gate has heard."""

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(
            lease_pb2.WATCH_EVENT_INTERRUPTED,
            reason=decision_pb2.REASON_GRANT_REVOKED,
            position=decision_pb2.LedgerPosition(size=30),
        )
        yield from stay_open(context)

    world.node.then("Watch", stream)
    watch = world.gate.watch([lease])
    assert next(watch).event is WatchEvent.INTERRUPTED
    return watch


def acknowledged(world: World, for_s: float = 5) -> tuple[str, int] | None:
    try:
        return world.node.acknowledged.get(timeout=for_s)
    except queue.Empty:
        return None


def test_who_goes_by_no_permit_says_so_at_once(world: World) -> None:
    lease = world.lease()
    watch = interrupt(world, lease)
    assert acknowledged(world) == ("lease-7", 30)
    (request,) = world.node.requests["Watch"]
    world.node.then("Check", permit())
    assert lease.check()
    assert world.node.requests["Check"][0].session == request.session != ""
    watch.close()


def test_an_act_ends_before_it_is_said_that_its_permit_is_in_use_no_more(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    with lease.act() as first:
        with lease.act() as second:
            assert first.fence == second.fence
            watch = interrupt(world, lease)
        assert acknowledged(world, 0.2) is None
    assert acknowledged(world) == ("lease-7", 30)
    watch.close()


def test_nobody_speaks_for_a_permit_that_was_handed_out(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.require()
    watch = interrupt(world, lease)
    with lease.slot.acting():
        pass
    assert acknowledged(world, 0.2) is None, "its life has to pass"
    watch.close()


def test_a_permit_that_was_handed_out_and_is_over_holds_nothing_up(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.require()
    world.clock.advance(60_000)
    watch = interrupt(world, lease)
    assert acknowledged(world) == ("lease-7", 30)
    watch.close()


def test_without_a_permit_there_is_no_act(world: World) -> None:
    lease = world.lease()
    denial = lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_GRANT_REVOKED
    )
    world.node.then("Check", denial)
    with pytest.raises(DeniedError) as denied, lease.act():
        pytest.fail("nothing is done without a permit")
    assert denied.value.reason is Reason.GRANT_REVOKED
    assert not lease.slot._acts
