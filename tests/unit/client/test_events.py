"""What a holder says of its work is said until the node has it, once, and together with others."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import ACTION, RESOURCE, World, granted

from quorate.client import AsyncGate, ClientReason, Denied, EventType, Reason, Reported
from quorate.v1 import decision_pb2, lease_pb2


def accepted(head: str, stage: str = "started") -> lease_pb2.ReportResponse:
    return lease_pb2.ReportResponse(verdict=decision_pb2.VERDICT_PERMIT, head=head, stage=stage)


def refused(name: str, head: str = "", thing: str = "") -> lease_pb2.ReportResponse:
    reason = decision_pb2.Reason.Value(f"REASON_{name}")
    return lease_pb2.ReportResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=reason, thing=thing, head=head
    )


def reports(world: World) -> list[tuple[str, list[str]]]:
    """What the node was told: after which head, which types."""
    return [
        (each.after, [event.type for event in each.events])
        for each in world.node.requests["Report"]
    ]


def test_each_event_follows_the_head_of_the_one_before(world: World) -> None:
    lease = world.lease()
    world.node.then("Report", accepted("aa"), accepted("bb", "completed"))
    assert lease.event(EventType.STARTED, {"pid": "12"}) == Reported(lease.id, "started")
    assert lease.event("completed") == Reported(lease.id, "completed")
    assert reports(world) == [("", ["started"]), ("aa", ["completed"])]
    first = world.node.requests["Report"][0]
    assert first.HasField("after")
    assert dict(first.events[0].attributes) == {"pid": "12"}


def test_until_there_is_an_answer_the_same_is_said_again(world: World) -> None:
    lease = world.lease()
    world.node.then("Report", grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, accepted("aa"))
    assert lease.event("started")
    assert reports(world) == [("", ["started"])] * 3


def test_what_another_has_said_is_followed(world: World) -> None:
    lease = world.lease()
    world.node.then("Report", refused("OUT_OF_ORDER", head="cc"), accepted("dd"))
    assert lease.event("reported")
    assert reports(world) == [("", ["reported"]), ("cc", ["reported"])]


def test_whoever_is_always_behind_gives_up(world: World) -> None:
    lease = world.lease()
    world.node.then("Report", *(refused("OUT_OF_ORDER", head=f"{n:02x}") for n in range(20)))
    answer = lease.event("reported")
    assert isinstance(answer, Denied)
    assert answer.reason is Reason.OUT_OF_ORDER
    assert len(reports(world)) == 9


def test_what_is_out_of_order_is_denied_and_said_once(world: World) -> None:
    lease = world.lease()
    world.node.then("Report", refused("ILLEGAL_TRANSITION", thing="completed"), accepted("aa"))
    answer = lease.event("completed")
    assert isinstance(answer, Denied)
    assert (answer.reason, answer.thing) == (Reason.ILLEGAL_TRANSITION, "completed")
    assert not answer.unknown
    assert lease.event("started")
    assert reports(world) == [("", ["completed"]), ("", ["started"])]


def test_without_an_answer_in_time_it_is_unknown(world: World) -> None:
    lease = world.lease()

    def late(_request: Any, context: Any) -> Any:
        world.clock.advance(10_000)
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    world.node.then("Report", late, accepted("aa"))
    answer = lease.event("started")
    assert isinstance(answer, Denied)
    assert (answer.reason, answer.unknown) == (ClientReason.UNREACHABLE, True)
    assert lease.event("started")  # after the same head: the node knows whether it has it
    assert [after for after, _ in reports(world)] == ["", ""]


@pytest.mark.parametrize(
    "answer",
    [
        lease_pb2.ReportResponse(),
        lease_pb2.ReportResponse(verdict=7),  # type: ignore[arg-type]
        lease_pb2.ReportResponse(
            verdict=decision_pb2.VERDICT_PERMIT, reason=decision_pb2.REASON_INTERNAL
        ),
        refused("INTERNAL"),
    ],
)
def test_whatever_is_not_accepted_is_a_denial(world: World, answer: Any) -> None:
    lease = world.lease()
    world.node.then("Report", answer)
    assert isinstance(lease.event("started"), Denied)


def test_what_can_be_no_event_is_not_sent(world: World) -> None:
    lease = world.lease()
    for attributes in ({"n": 1}, {1: "n"}, {"n": "\ud800"}):
        answer = lease.event("started", attributes)  # type: ignore[arg-type]
        assert isinstance(answer, Denied)
        assert answer.reason is ClientReason.INVALID_REQUEST
    assert not reports(world)


def test_a_closed_gate_says_nothing(world: World) -> None:
    lease = world.lease()
    world.gate.close()
    answer = lease.event("started")
    assert isinstance(answer, Denied)
    assert answer.reason is ClientReason.CLOSED


def test_what_comes_meanwhile_goes_together(world: World) -> None:
    lease, go_on, arrived = world.lease(), threading.Event(), threading.Event()

    def slow(_request: Any, _context: Any) -> Any:
        arrived.set()
        go_on.wait(10)
        return accepted("aa")

    world.node.then("Report", slow, *(accepted(f"{n:02x}") for n in range(40)))
    with ThreadPoolExecutor(41) as threads:
        first = threads.submit(lease.event, "started")
        assert arrived.wait(10)
        others = [threads.submit(lease.event, "reported", {"n": str(n)}) for n in range(40)]
        while len(lease.story._waiting) < 40:  # all have added theirs
            pass
        go_on.set()
        assert first.result()
        assert all(isinstance(each.result(), Reported) for each in others)
    sizes = [len(each.events) for each in world.node.requests["Report"]]
    assert sizes == [1, 32, 8]
    said = [e.attributes["n"] for r in world.node.requests["Report"][1:] for e in r.events]
    assert sorted(said, key=int) == [str(n) for n in range(40)]


def test_one_that_is_refused_does_not_take_the_others_along(world: World) -> None:
    lease, go_on, arrived = world.lease(), threading.Event(), threading.Event()

    def slow(_request: Any, _context: Any) -> Any:
        arrived.set()
        go_on.wait(10)
        return accepted("aa")

    refusal = refused("ILLEGAL_TRANSITION")
    world.node.then("Report", slow, refusal, accepted("bb"), refusal, accepted("cc"))
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(lease.event, "started")
        assert arrived.wait(10)
        others = []
        for kind in ("reported", "revalidated", "verified"):
            others.append(threads.submit(lease.event, kind))
            while len(lease.story._waiting) < len(others):
                pass
        go_on.set()
        first.result()
        results = [each.result() for each in others]
    assert [bool(each) for each in results] == [True, False, True]
    assert [types for _, types in reports(world)][1:] == [
        ["reported", "revalidated", "verified"],
        ["reported"],
        ["revalidated"],
        ["verified"],
    ]


async def test_a_task_that_is_cancelled_leaves_what_others_said(world: World) -> None:
    async with AsyncGate(grpc.aio.insecure_channel(f"127.0.0.1:{world.port}")) as gate:
        world.node.then("Acquire", granted())
        lease = await gate.acquire(ACTION, RESOURCE)
        assert not isinstance(lease, Denied)
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()

        def never(_request: Any, context: Any) -> Any:
            loop.call_soon_threadsafe(arrived.set)
            over = threading.Event()
            if context.add_callback(over.set):
                over.wait(10)
            return accepted("00")  # nobody hears it

        world.node.then("Report", never, accepted("aa"), accepted("bb"))
        first = asyncio.create_task(lease.event("started"))
        await arrived.wait()
        second = asyncio.create_task(lease.event("reported"))
        third = asyncio.create_task(lease.event("interrupted"))
        await asyncio.sleep(0)
        for task in (first, third):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await second == Reported(lease.id, "started")
    # The first may be there: with another one behind it, it would be no repeat. The third is not.
    assert reports(world) == [("", ["started"]), ("", ["started"]), ("aa", ["reported"])]


def test_what_may_have_been_taken_in_is_not_said_after_another_head(world: World) -> None:
    lease = world.lease()
    world.node.then("Report", grpc.StatusCode.UNAVAILABLE, refused("OUT_OF_ORDER", head="cc"))
    answer = lease.event("reported")
    assert isinstance(answer, Denied)
    assert (answer.reason, answer.unknown) == (Reason.OUT_OF_ORDER, True)
    world.node.then("Report", accepted("dd"))
    assert lease.event("verified")
    assert reports(world)[1:] == [("", ["reported"]), ("cc", ["verified"])]


def test_a_denial_settles_nothing_about_what_was_sent_before(world: World) -> None:
    lease = world.lease()
    world.node.then("Report", grpc.StatusCode.UNAVAILABLE, refused("STORAGE_FULL"))
    answer = lease.event("started")
    assert isinstance(answer, Denied)
    assert (answer.reason, answer.unknown) == (Reason.STORAGE_FULL, True)


def test_what_never_was_sent_is_known_not_to_be_there(world: World) -> None:
    lease = world.lease()
    answer = world.gate.event(lease, "started", timeout_ms=0)
    assert isinstance(answer, Denied)
    assert (answer.reason, answer.unknown) == (ClientReason.LATE, False)
    world.gate.close()
    answer = lease.event("started")
    assert isinstance(answer, Denied)
    assert (answer.reason, answer.unknown) == (ClientReason.CLOSED, False)
    assert not reports(world)
