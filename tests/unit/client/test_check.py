"""A permit is used until its life is over, counted from the sending, and never longer."""

from __future__ import annotations

import threading
from concurrent import futures
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import stop
from tests.unit.client.conftest import ACTION, MS, RESOURCE, World, granted, permit

from quorate.client import ClientReason, Denied, DeniedError, Gate, Lease, Permit, Reading, Reason
from quorate.client.decisions import Permit as PermitValue
from quorate.v1 import decision_pb2, lease_pb2


def denied(answer: Permit | Denied) -> Denied:
    assert isinstance(answer, Denied)
    assert not answer
    return answer


def test_a_permit_counts_from_the_sending(world: World) -> None:
    lease = world.lease()
    sent_ns = world.clock.boot_ns

    def slow(_request: Any, _context: Any) -> lease_pb2.CheckResponse:
        world.clock.advance(300)
        return permit(ttl_ms=800)

    world.node.then("Check", slow)
    answer = lease.check()
    assert isinstance(answer, Permit)
    assert answer
    assert answer.expires_at_ns == sent_ns + 800 * MS
    assert answer.remaining_ms(Reading.of(world.clock)) == 500
    assert (answer.fence, answer.ledger_size, answer.ledger_time_ms) == (7, 9, 5)


def test_a_permit_delayed_beyond_its_life_is_expired_on_arrival(world: World) -> None:
    lease = world.lease()

    def too_slow(_request: Any, _context: Any) -> lease_pb2.CheckResponse:
        world.clock.advance(800)  # exactly its life: at equality it is over
        return permit(ttl_ms=800)

    world.node.then("Check", too_slow)
    assert denied(lease.check()).reason is ClientReason.EXPIRED_ON_ARRIVAL
    # Nothing of it was kept: the next check asks again.
    world.node.then("Check", permit())
    assert lease.check()
    assert len(world.node.requests["Check"]) == 2


def test_a_cached_permit_answers_without_asking_until_its_last_moment(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit(ttl_ms=800))
    assert lease.check()
    world.clock.advance(799.999)
    assert lease.check()
    assert len(world.node.requests["Check"]) == 1
    world.clock.advance(0.001)
    world.node.then("Check", lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_INQUORATE
    ))  # fmt: skip
    assert denied(lease.check()).reason is Reason.INQUORATE
    assert len(world.node.requests["Check"]) == 2


def test_no_permit_lives_longer_than_the_federation_allows(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit(ttl_ms=2**62))
    answer = lease.check()
    assert isinstance(answer, Permit)
    assert answer.remaining_ms(Reading.of(world.clock)) == 1_000
    world.clock.advance(1_000)
    assert lease.slot.cached() is None


def test_the_check_waits_no_longer_than_a_permit_can_live(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.check()
    assert world.node.deadlines[-1] < 1.5  # the wire rounds the deadline up


def test_a_late_answer_is_a_denial(world: World) -> None:
    gate = world.open_gate(world.clock, max_permit_ttl_ms=50)
    world.node.then("Acquire", granted())
    lease = gate.acquire(ACTION, RESOURCE)
    assert isinstance(lease, Lease)
    world.node.then("Check", lambda _r, context: _until_cancelled(context))
    assert denied(lease.check()).reason is ClientReason.LATE
    gate.close()


def _until_cancelled(context: grpc.ServicerContext) -> lease_pb2.CheckResponse:
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(10)
    return permit()


def test_a_boot_clock_that_goes_back_takes_the_permit_away(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.check()
    world.clock.advance(-1)
    assert lease.slot.cached() is None
    world.clock.advance(100)
    assert lease.slot.cached() is None  # and it does not come back


def test_a_wall_clock_that_is_set_takes_the_permit_away(world: World) -> None:
    for step_ms in (-101, 101):
        lease = world.lease()
        world.node.then("Check", permit())
        assert lease.check()
        world.clock.wall_ns += step_ms * MS
        assert lease.slot.cached() is None


def test_a_clock_that_jumps_ahead_ends_the_permit(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.check()
    world.clock.advance(3_600_000)
    assert lease.slot.cached() is None


def test_a_clock_that_goes_back_while_the_answer_comes_is_a_denial(world: World) -> None:
    lease = world.lease()

    def back(_request: Any, _context: Any) -> lease_pb2.CheckResponse:
        world.clock.advance(-10)
        return permit()

    world.node.then("Check", back)
    assert denied(lease.check()).reason is ClientReason.CLOCK_STEP


def test_a_pause_that_only_the_wall_clock_saw_is_a_denial(world: World) -> None:
    lease = world.lease()

    def paused(_request: Any, _context: Any) -> lease_pb2.CheckResponse:
        world.clock.wall_ns += 5_000 * MS
        return permit()

    world.node.then("Check", paused)
    assert denied(lease.check()).reason is ClientReason.CLOCK_STEP


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lease_pb2.CheckResponse(), ClientReason.UNSPECIFIED_VERDICT),
        (permit(verdict=decision_pb2.VERDICT_UNSPECIFIED), ClientReason.UNSPECIFIED_VERDICT),
        (permit(verdict=77), ClientReason.UNSPECIFIED_VERDICT),
        (permit(verdict=decision_pb2.VERDICT_DENY), ClientReason.UNKNOWN_REASON),
        (
            permit(verdict=decision_pb2.VERDICT_DENY, reason=999),
            ClientReason.UNKNOWN_REASON,
        ),
        (
            permit(verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_LEASE_EXPIRED),
            Reason.LEASE_EXPIRED,
        ),
        (permit(reason=decision_pb2.REASON_INQUORATE), ClientReason.MALFORMED_ANSWER),
        (permit(ttl_ms=0), ClientReason.MALFORMED_ANSWER),
        (permit(ttl_ms=-5), ClientReason.MALFORMED_ANSWER),
        (permit(fence=8), ClientReason.MALFORMED_ANSWER),
        (permit(fence=0), ClientReason.MALFORMED_ANSWER),
    ],
)
def test_only_a_whole_permit_permits(
    world: World, answer: lease_pb2.CheckResponse, reason: Reason | ClientReason
) -> None:
    lease = world.lease()
    world.node.then("Check", answer)
    assert denied(lease.check()).reason is reason
    assert lease.slot.cached() is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, ClientReason.UNREACHABLE),
        (grpc.StatusCode.INVALID_ARGUMENT, ClientReason.INVALID_REQUEST),
        (grpc.StatusCode.PERMISSION_DENIED, ClientReason.NOT_ACCEPTED),
        (grpc.StatusCode.UNAUTHENTICATED, ClientReason.NOT_ACCEPTED),
        (grpc.StatusCode.UNIMPLEMENTED, ClientReason.NODE_FAILED),
        (grpc.StatusCode.INTERNAL, ClientReason.NODE_FAILED),
        (grpc.StatusCode.UNKNOWN, ClientReason.NODE_FAILED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ClientReason.NODE_FAILED),
    ],
)
def test_an_error_is_a_denial(world: World, code: grpc.StatusCode, reason: ClientReason) -> None:
    lease = world.lease()
    world.node.then("Check", code)
    assert denied(lease.check()).reason is reason


def test_bytes_that_are_no_answer_are_a_denial(world: World) -> None:
    lease = world.lease()
    garbage = grpc.method_handlers_generic_handler(
        "quorate.v1.LeaseService",
        {"Check": grpc.unary_unary_rpc_method_handler(lambda _r, _c: b"\xff\xff\xff")},
    )
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=(garbage,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    gate = Gate(grpc.insecure_channel(f"127.0.0.1:{port}"), clock=world.clock)
    assert denied(gate.check(lease)).reason is ClientReason.NODE_FAILED
    gate.close()
    stop(server)


def test_a_node_that_is_gone_is_a_denial_once_the_cached_permit_is_over(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.check()
    stop(world.server)
    assert lease.check()  # its life is not over yet
    world.clock.advance(800)
    assert denied(lease.check()).reason is ClientReason.UNREACHABLE


def test_a_denial_of_the_node_takes_the_cached_permit_of_another_thread_away(world: World) -> None:
    lease = world.lease()

    def denies_while_a_permit_is_cached(_request: Any, _context: Any) -> lease_pb2.CheckResponse:
        world.node.then("Check", permit())
        assert lease.check()
        return lease_pb2.CheckResponse(
            verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_GRANT_REVOKED
        )

    world.node.then("Check", denies_while_a_permit_is_cached)
    assert denied(lease.check()).reason is Reason.GRANT_REVOKED
    assert lease.slot.cached() is None


def test_a_permit_asked_for_before_an_interruption_does_not_arrive_after_it(world: World) -> None:
    lease = world.lease()

    def interrupted_meanwhile(_request: Any, _context: Any) -> lease_pb2.CheckResponse:
        lease.slot.drop()
        return permit()

    world.node.then("Check", interrupted_meanwhile)
    assert denied(lease.check()).reason is ClientReason.INTERRUPTED
    assert lease.slot.cached() is None


def test_a_closed_gate_denies_even_what_it_has_cached(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.check()
    world.gate.close()
    assert denied(lease.check()).reason is ClientReason.CLOSED
    answer = world.gate.acquire(ACTION, RESOURCE)
    assert isinstance(answer, Denied)
    assert answer.reason is ClientReason.CLOSED


def test_require_raises_the_denial(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.require().fence == 7
    world.clock.advance(1_000)
    world.node.then("Check", lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_GRANT_REVOKED, thing="g1"
    ))  # fmt: skip
    with pytest.raises(DeniedError, match=r"GRANT_REVOKED \(g1\)") as raised:
        lease.require()
    assert raised.value.reason is Reason.GRANT_REVOKED
    assert raised.value.hint


@given(
    ttl_ms=st.integers(1, 5_000),
    arrival_ms=st.integers(0, 6_000),
    uses_ms=st.lists(st.integers(0, 6_000), max_size=5),
)
def test_no_permit_is_ever_good_at_or_after_its_end(
    ttl_ms: int, arrival_ms: int, uses_ms: list[int]
) -> None:
    sent = Reading(10**12, 10**15)
    end_ns = sent.boottime_ns + ttl_ms * MS
    value: Permit | Denied = PermitValue("l", 1, sent, end_ns, 1, 1)
    for at_ms in [arrival_ms, *(arrival_ms + later for later in sorted(uses_ms))]:
        if isinstance(value, Denied):
            return
        now = Reading(sent.boottime_ns + at_ms * MS, sent.realtime_ns + at_ms * MS)
        value = value.judge(now)
        assert isinstance(value, Permit) == (now.boottime_ns < end_ns)


def test_the_request_names_what_the_lease_is_for(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    lease.check()
    [request] = world.node.requests["Check"]
    assert (request.lease_id, request.action, request.resource) == ("lease-7", ACTION, RESOURCE)
