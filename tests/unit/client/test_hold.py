"""A gate keeps what is held: real threads and a real server, a clock that the test turns."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from tests.servers import stop
from tests.unit.client.conftest import ACTION, RESOURCE, World, granted, permit
from tests.unit.client.test_lease import released
from tests.unit.client.test_watch import notice, stay_open

from quorate.client import ClientReason, Denied, DeniedError, Lease, Permit, Reason
from quorate.v1 import decision_pb2, lease_pb2

News = queue.Queue[Permit | Denied]


@pytest.fixture
def news() -> News:
    return queue.Queue()


def answers(world: World, *results: Any) -> threading.Semaphore:
    """The batch after the next ones answers so, then says that it has been asked."""
    asked = threading.Semaphore(0)

    def batch(request: lease_pb2.CheckBatchRequest, _context: Any) -> lease_pb2.CheckBatchResponse:
        asked.release()
        return lease_pb2.CheckBatchResponse(results=list(results)[: len(request.checks)])

    world.node.then("CheckBatch", batch)
    return asked


def quiet(world: World) -> None:
    """A watch on which nothing is said."""
    world.node.then("Watch", lambda _request, context: stay_open(context))


def eventually(holds: Callable[[], Any]) -> Any:
    """Waits for what another thread is about to do."""
    turn = threading.Event()
    for _ in range(1_000):
        found = holds()
        if found:
            return found
        turn.wait(0.01)
    pytest.fail("never")


def test_a_permit_is_renewed_before_it_is_over(world: World, news: News) -> None:
    quiet(world)
    lease = world.lease()
    world.node.then("Check", permit(ttl_ms=800))
    asked = answers(world, permit(ttl_ms=800))
    with world.gate.hold(lease, news.put):
        first_end_ns = lease.slot.kept_until_ns()
        world.clock.advance(400)
        assert asked.acquire(timeout=10)
        eventually(lambda: lease.slot.kept_until_ns() > first_end_ns)
        assert lease.check()
    assert len(world.node.requests["Check"]) == 1, "no check had to wait for the node"
    assert news.empty()


def test_an_interruption_is_told_and_the_permit_is_gone(world: World, news: News) -> None:
    stop = threading.Event()

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_ACTIVE)
        stop.wait(10)
        yield notice(
            lease_pb2.WATCH_EVENT_INTERRUPTED,
            reason=decision_pb2.REASON_GRANT_REVOKED,
            thing="bank.example/g1",
        )
        yield from stay_open(context)

    world.node.then("Watch", stream)
    lease = world.lease()
    world.node.then("Check", permit())
    with lease.hold(news.put):
        assert lease.check()
        stop.set()
        assert news.get(timeout=10) == Denied(Reason.GRANT_REVOKED, "bank.example/g1")
        assert lease.slot.cached() is None


def test_with_everything_lost_the_holder_is_told_at_the_end_of_its_permit(
    world: World, news: News
) -> None:
    lease = world.lease()
    world.node.then("Check", permit(ttl_ms=800))
    with lease.hold(news.put):
        stop(world.server)
        world.clock.advance(799)
        with pytest.raises(queue.Empty):
            news.get(timeout=0.3)
        world.clock.advance(1)
        told = news.get(timeout=10)
        assert isinstance(told, Denied)
        assert told.reason in (ClientReason.UNREACHABLE, ClientReason.NODE_FAILED)


def test_what_is_held_later_is_watched_on_the_same_stream(world: World) -> None:
    quiet(world)
    first = world.lease()
    world.node.then("Acquire", granted(id="lease-8", fence=8))
    second = world.gate.acquire(ACTION, RESOURCE)
    assert isinstance(second, Lease)
    world.node.then("Check", permit(), permit(fence=8))
    with first.hold():
        assert world.node.watching.acquire(timeout=10)
        with second.hold():
            assert list(world.node.later.get(timeout=10).lease_ids) == ["lease-8"]
        assert list(world.node.later.get(timeout=10).forget_lease_ids) == ["lease-8"]
    assert len(world.node.requests["Watch"]) == 1


def test_a_held_lease_is_renewed(world: World) -> None:
    quiet(world)
    life_ms = 60_000
    world.node.then("Acquire", granted(acquired_at_ms=1_000, expires_at_ms=1_000 + life_ms))
    world.node.then("Release", released())
    world.node.then("Check", permit())
    renewed = threading.Event()

    def renew(request: Any, _context: Any) -> Any:
        assert (request.lease_id, request.ttl_ms) == ("lease-7", 60_000), "as it was wished"
        renewed.set()
        return granted(lease_pb2.RenewResponse, expires_at_ms=1_000 + 2 * life_ms)

    world.node.then("Renew", renew)
    answers(world, permit())
    with world.gate.lease(ACTION, RESOURCE, 60_000):
        world.clock.advance(life_ms * 2 / 3)
        assert renewed.wait(10)


def test_a_lease_that_is_not_to_be_renewed_is_not(world: World) -> None:
    quiet(world)
    world.node.then("Acquire", granted(acquired_at_ms=1_000, expires_at_ms=2_000))
    world.node.then("Release", released())
    world.node.then("Check", permit())
    asked = answers(world, permit())
    with world.gate.lease(ACTION, RESOURCE, renew=False):
        for again in (asked, answers(world, permit())):

            def is_asked(again: threading.Semaphore = again) -> bool:
                world.clock.advance(10_000)
                return again.acquire(timeout=0.05)

            eventually(is_asked)
    assert not world.node.requests["Renew"]


def test_leases_that_are_due_together_are_renewed_together(world: World) -> None:
    quiet(world)
    count, life_ms = 4, 60_000
    times = {"acquired_at_ms": 1_000, "expires_at_ms": 1_000 + life_ms}
    ids = [f"lease-{7 + n}" for n in range(count)]
    world.node.then(
        "Acquire",
        *(granted(id=i, fence=7 + n, **times) for n, i in enumerate(ids)),
    )
    world.node.then("Check", *(permit(fence=7 + n) for n in range(count)))
    answers(world, *(permit(fence=7 + n) for n in range(count)))
    together = threading.Barrier(count)

    def renew(request: Any, _context: Any) -> Any:
        together.wait(10)
        fence = int(request.lease_id.removeprefix("lease-"))
        return granted(lease_pb2.RenewResponse, id=request.lease_id, fence=fence)

    world.node.then("Renew", *[renew] * count)
    with ExitStack() as holding:
        for _ in ids:
            lease = world.gate.acquire(ACTION, RESOURCE)
            assert isinstance(lease, Lease)
            holding.enter_context(lease.hold())
        world.clock.advance(life_ms * 2 / 3)
        eventually(lambda: len(world.node.requests["Renew"]) == count and not together.n_waiting)
    assert not together.broken


def test_one_lease_has_one_slot_however_often_it_is_acquired(world: World) -> None:
    first, second = world.lease(), world.lease()
    assert first.slot is second.slot
    other = world.open_gate(world.clock)
    world.node.then("Acquire", granted())
    third = other.acquire(ACTION, RESOURCE)
    assert isinstance(third, Lease)
    assert third.slot is not first.slot
    other.close()


def test_a_second_holder_is_not_told_to_go_on_by_a_permit_of_before(
    world: World, news: News
) -> None:
    revoked = threading.Event()

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        revoked.wait(10)
        yield notice(lease_pb2.WATCH_EVENT_INTERRUPTED, reason=decision_pb2.REASON_GRANT_REVOKED)
        yield from stay_open(context)

    denial = lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_GRANT_REVOKED
    )
    world.node.then("Watch", stream)
    lease = world.lease()
    world.node.then("Check", permit(), denial)
    with lease.hold(news.put):
        take = world.gate._take

        def take_slowly(steps: Any) -> Any:
            taken = take(steps)
            if not revoked.is_set():  # the revocation comes between the permit and the holding
                revoked.set()
                assert news.get(timeout=10) == Denied(Reason.GRANT_REVOKED)
            return taken

        world.gate._take = take_slowly  # type: ignore[method-assign]
        with pytest.raises(DeniedError) as error, lease.hold(news.put):
            pytest.fail("entered")
    assert error.value.reason is Reason.GRANT_REVOKED
    assert news.empty()


def test_where_no_thread_can_be_started_nothing_is_held(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lease = world.lease()
    world.node.then("Check", permit(), permit())
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError), lease.hold():
            pytest.fail("entered")
    with pytest.raises(DeniedError) as error, lease.hold():
        pytest.fail("entered")
    assert error.value.reason is ClientReason.CLIENT_FAILED
    assert not world.gate._keeping._upkeep._held


def test_a_holder_that_exits_does_not_keep_the_news_from_the_others(
    world: World, news: News
) -> None:
    quiet(world)
    lease = world.lease()
    world.node.then("Check", permit())
    denial = lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_GRANT_REVOKED
    )
    answers(world, denial)
    with lease.hold(sys.exit), lease.hold(sys.exit), lease.hold(news.put):
        world.clock.advance(500)
        assert news.get(timeout=10) == Denied(Reason.GRANT_REVOKED)


def test_nothing_that_was_had_meanwhile_outlives_the_release(world: World) -> None:
    lease = world.lease()

    def checked_meanwhile(_request: Any, _context: Any) -> Any:
        world.node.then("Check", permit())
        assert lease.check()
        return released()

    world.node.then("Release", checked_meanwhile)
    assert lease.release()
    assert lease.slot.cached() is None


def test_a_watcher_that_fails_goes_on_hearing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    heard: queue.Queue[str] = queue.Queue()

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_ACTIVE)
        yield notice(lease_pb2.WATCH_EVENT_RESTORED)
        yield from stay_open(context)

    def fails(told: Any) -> None:
        heard.put(told.event)
        raise ZeroDivisionError

    world.node.then("Watch", stream)
    watch = world.gate.on_change([world.lease()], fails)
    assert [heard.get(timeout=10) for _ in range(2)] == ["ACTIVE", "RESTORED"]
    watch.close()
    assert "a watcher failed" in caplog.text


def test_what_no_request_can_say_is_denied(world: World) -> None:
    for action, ttl_ms in (("\ud800", 0), (ACTION, 2**70), (ACTION, -(2**70))):
        answer = world.gate.acquire(action, RESOURCE, ttl_ms)
        assert isinstance(answer, Denied)
        assert answer.reason is ClientReason.INVALID_REQUEST
        assert not answer.unknown


def test_a_holder_that_fails_does_not_keep_the_news_from_the_others(
    world: World, news: News, caplog: pytest.LogCaptureFixture
) -> None:
    quiet(world)
    lease = world.lease()
    world.node.then("Check", permit())
    denial = lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_GRANT_REVOKED
    )
    answers(world, denial)

    def fails(_news: Permit | Denied) -> None:
        raise ZeroDivisionError

    with lease.hold(fails), lease.hold(news.put):
        world.clock.advance(500)
        assert news.get(timeout=10) == Denied(Reason.GRANT_REVOKED)
    assert "on_change failed" in caplog.text


def test_nothing_is_held_without_a_permit(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(DeniedError), lease.hold():
        pytest.fail("entered")


def test_a_block_that_has_ended_holds_nothing(world: World) -> None:
    quiet(world)
    lease = world.lease()
    world.node.then("Check", permit())
    with lease.hold():
        assert world.gate._keeping._upkeep._held
    assert not world.gate._keeping._upkeep._held


def test_who_holds_a_lease_hears_that_the_gate_was_closed(world: World, news: News) -> None:
    quiet(world)
    lease = world.lease()
    world.node.then("Check", permit())
    with lease.hold(news.put):
        world.gate.close()
        told = news.get(timeout=10)
    assert isinstance(told, Denied)
    assert told.reason is ClientReason.CLOSED


def test_a_fault_of_the_library_stops_who_relies_on_it(
    world: World, news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(world)
    lease = world.lease()
    world.node.then("Check", permit(), permit())
    ended: queue.Queue[Any] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", ended.put)
    with lease.hold(news.put):
        monkeypatch.setattr(world.gate._keeping._upkeep, "lapse", lambda: 1 / 0)
        told = news.get(timeout=10)
        assert isinstance(told, Denied)
        assert told.reason is ClientReason.CLIENT_FAILED
        with pytest.raises(DeniedError) as later, lease.hold(news.put):
            pytest.fail("entered")
        assert later.value.reason is ClientReason.CLIENT_FAILED
        assert ended.get(timeout=10).exc_type is ZeroDivisionError, "and it is told as what it is"


def test_a_closed_gate_leaves_no_thread_behind(world: World) -> None:
    quiet(world)
    lease = world.lease()
    world.node.then("Check", permit())
    keeping = lambda: [t for t in threading.enumerate() if t.name == "quorate-keeping"]  # noqa: E731
    with lease.hold():
        assert len(keeping()) == 4
        world.gate.close()
        eventually(lambda: not keeping())
    assert lease.check() == Denied(ClientReason.CLOSED, "lease-7")
