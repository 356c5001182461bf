"""Watch over gRPC: told at once, also when the core process is dead or hung."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import grpc.aio
import pytest

from quorate.api.core_link import core_socket
from quorate.api.servers import build_local_server, core_service_registration
from quorate.core.outcome import Reason
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

DOMAIN = "bank.example"
EXECUTOR = f"spiffe://{DOMAIN}/agent/payments"
ACTIVE = lease_pb2.WATCH_EVENT_ACTIVE
INTERRUPTED = lease_pb2.WATCH_EVENT_INTERRUPTED
AUTHORITY_LOST = lease_pb2.WATCH_EVENT_AUTHORITY_LOST
RESTORED = lease_pb2.WATCH_EVENT_RESTORED
Dial = Callable[..., grpc.aio.Channel]


@pytest.fixture
def lease(edge, dial: Dial, pki) -> lease_pb2_grpc.LeaseServiceAsyncStub:
    return lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.executor))


def watch(lease, *lease_ids: str):
    return lease.Watch(iter([lease_pb2.WatchRequest(lease_ids=lease_ids)]))


async def read(call) -> lease_pb2.WatchResponse:
    async with asyncio.timeout(5):
        answer = await call.read()
    assert answer is not grpc.aio.EOF
    return answer


async def code_of(call) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    return caught.value.code()


async def test_the_first_report_says_how_each_lease_stands(edge, lease) -> None:
    good = edge.lease()
    edge.grant()
    call = watch(lease, good, "0" * 32)
    first, second = await read(call), await read(call)
    assert (first.lease_id, first.event, first.reason) == (good, ACTIVE, 0)
    assert first.position.size > 0
    assert (second.lease_id, second.event) == ("0" * 32, INTERRUPTED)
    assert second.reason == decision_pb2.REASON_UNKNOWN_LEASE
    call.cancel()


async def test_a_revocation_is_told_through_the_core_s_movement(edge, lease) -> None:
    good = edge.lease()
    edge.grant()
    call = watch(lease, good)
    assert (await read(call)).event == ACTIVE
    edge.core.run(DOMAIN, "grant.suspend", {"grant": "g"})
    told = await read(call)
    assert (told.event, told.reason, told.thing) == (
        INTERRUPTED,
        decision_pb2.REASON_GRANT_SUSPENDED,
        f"{DOMAIN}/g",
    )
    edge.core.run(DOMAIN, "grant.reinstate", {"grant": "g"})
    told = await read(call)
    assert (told.event, told.reason) == (RESTORED, 0)
    call.cancel()


@pytest.mark.parametrize("core_is", ["alive", "dead"])
async def test_lost_authority_is_told_at_the_deadline(edge, lease, servers, core_is) -> None:
    good = edge.lease()
    edge.grant(period_ms=1_000)
    deadline_s = time.monotonic() + 1.0
    call = watch(lease, good)
    assert (await read(call)).event == ACTIVE
    if core_is == "dead":
        await servers.local.stop(0)
    told = await read(call)
    late_s = time.monotonic() - deadline_s
    assert (told.event, told.reason) == (AUTHORITY_LOST, decision_pb2.REASON_INQUORATE)
    assert -0.005 < late_s < 0.25  # a few milliseconds, on a machine that is not busy
    edge.grant()
    assert (await read(call)).event == RESTORED
    call.cancel()


async def test_a_cleared_word_is_told_before_its_deadline(edge, lease) -> None:
    good = edge.lease()
    edge.grant(period_ms=60_000)
    call = watch(lease, good)
    assert (await read(call)).event == ACTIVE
    edge.word.clear(Reason.STORAGE_FULL)
    told = await read(call)
    assert (told.event, told.reason) == (AUTHORITY_LOST, decision_pb2.REASON_STORAGE_FULL)
    call.cancel()


async def test_expiry_is_told_without_any_movement(edge, lease) -> None:
    good = edge.lease(ttl_ms=300)
    edge.grant()
    call = watch(lease, good)
    assert (await read(call)).event == ACTIVE
    told = await read(call)
    assert (told.event, told.reason) == (INTERRUPTED, decision_pb2.REASON_LEASE_EXPIRED)
    call.cancel()


async def test_following_goes_on_when_the_core_is_back(edge, lease, servers, directory) -> None:
    good = edge.lease()
    edge.grant()
    call = watch(lease, good)
    assert (await read(call)).event == ACTIVE
    await servers.local.stop(0)
    edge.core.run(DOMAIN, "grant.suspend", {"grant": "g"})  # moved while nobody could be told
    local = build_local_server(
        [core_service_registration(edge.core, edge.metrics)],
        socket=core_socket(directory),
        metrics=edge.metrics,
    )
    await local.start()
    told = await read(call)
    assert (told.event, told.reason) == (INTERRUPTED, decision_pb2.REASON_GRANT_SUSPENDED)
    call.cancel()
    await local.stop(0)


async def test_a_watcher_that_does_not_read_is_cut(edge, dial, pki) -> None:
    """The connection's flow control takes some notices, the queue a thousand; then it is enough."""
    small = {"grpc__http2__bdp_probe": 0, "grpc__http2__lookahead_bytes": 4096}
    lease = lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.executor, **small))
    edge.grant()
    call = watch(lease, *(f"{number:032x}" for number in range(256)))
    await call.initial_metadata()
    for _ in range(40):
        edge.word.clear(Reason.INQUORATE)
        await asyncio.sleep(0.03)  # longer than the hub's poll
        edge.grant()
        await asyncio.sleep(0.03)
    notices, code = await drain(call)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert notices < 40 * 2 * 256


async def drain(call) -> tuple[int, grpc.StatusCode]:
    """How many more notices there are, and how the call ends."""
    notices = 0
    try:
        async with asyncio.timeout(30):
            while await call.read() is not grpc.aio.EOF:
                notices += 1
    except grpc.aio.AioRpcError as error:
        return notices, error.code()
    return notices, grpc.StatusCode.OK


async def test_the_number_of_watchers_is_bounded(edge, lease, monkeypatch) -> None:
    monkeypatch.setattr("quorate.api.watch.MAX_WATCHERS_PER_EXECUTOR", 2)
    edge.grant()
    calls = [watch(lease, "0" * 32) for _ in range(2)]
    for call in calls:
        await read(call)
    assert await code_of(watch(lease, "0" * 32)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    calls[0].cancel()
    calls[1].cancel()
    async with asyncio.timeout(5):  # the server hears of the cancellations in its own time
        found = None
        while not isinstance(found, lease_pb2.WatchResponse):
            found = await first_or_code(watch(lease, "0" * 32))


async def first_or_code(call) -> lease_pb2.WatchResponse | grpc.StatusCode:
    try:
        answer: lease_pb2.WatchResponse = await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    call.cancel()
    return answer


@pytest.mark.parametrize("lease_ids", [[], ["x"], ["0" * 32] * 2, ["0" * 32] * 257])
async def test_a_malformed_watch_is_refused(edge, lease, lease_ids) -> None:
    assert await code_of(watch(lease, *lease_ids)) is grpc.StatusCode.INVALID_ARGUMENT


async def test_stopping_ends_watchers_with_an_error_that_says_again(edge, lease) -> None:
    edge.grant()
    call = watch(lease, "0" * 32)
    await read(call)
    edge.hub.close()
    assert await code_of(call) is grpc.StatusCode.UNAVAILABLE
    assert await code_of(watch(lease, "0" * 32)) is grpc.StatusCode.UNAVAILABLE


# -- what a watcher says later ---------------------------------------------------------------------


class Talk:
    """A watch whose requests are made one after the other."""

    def __init__(self, lease, **first) -> None:
        self.requests: asyncio.Queue[lease_pb2.WatchRequest] = asyncio.Queue()
        self.say(**first)
        self.call = lease.Watch(self._all())

    def say(self, **request) -> None:
        self.requests.put_nowait(lease_pb2.WatchRequest(**request))

    async def _all(self):
        while True:
            yield await self.requests.get()


async def test_leases_are_added_and_forgotten_on_one_call(edge, lease) -> None:
    edge.grant()
    one, two = edge.lease(), edge.lease()
    talk = Talk(lease, lease_ids=[one])
    assert (await read(talk.call)).lease_id == one
    talk.say(lease_ids=[two], forget_lease_ids=[one])
    assert (await read(talk.call)).lease_id == two
    edge.core.run(DOMAIN, "executor.revoke", {"executor": EXECUTOR})
    told = await read(talk.call)
    assert (told.lease_id, told.event) == (two, lease_pb2.WATCH_EVENT_INTERRUPTED)
    talk.call.cancel()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"lease_ids": ["no id"]}, "lease_ids[0]"),
        ({"forget_lease_ids": ["no id"]}, "forget_lease_ids[0]"),
        ({"acknowledgements": [{"lease_id": "no id", "size": 1}]}, "acknowledgements[0]"),
        ({"session": "s" * 16}, "session"),
        ({"after_size": 1}, "after_size"),
    ],
)
async def test_what_is_said_wrong_later_ends_the_watch(edge, lease, request_, field: str) -> None:
    edge.grant()
    talk = Talk(lease, lease_ids=[edge.lease()])
    await read(talk.call)
    talk.say(**request_)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read(talk.call)
    assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in ended.value.details()


async def test_a_fault_in_hearing_ends_the_watch_and_is_no_silence(
    edge, lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.grant()
    talk = Talk(lease, lease_ids=[edge.lease()])
    await read(talk.call)

    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(edge.hub, "add", fails)
    talk.say(lease_ids=["0" * 32])
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await read(talk.call)
    assert ended.value.code() is grpc.StatusCode.INTERNAL


async def test_an_acknowledgement_over_the_wire_drains(edge, lease) -> None:
    edge.grant()
    lease_id, session = edge.lease(), "s" * 16
    await _drained(edge, 0)  # an edge that has just started says nothing for a second
    check = lease_pb2.CheckRequest(lease_id=lease_id, session=session)
    assert (await lease.Check(check)).verdict == decision_pb2.VERDICT_PERMIT
    talk = Talk(lease, lease_ids=[lease_id], session=session)
    await read(talk.call)
    edge.core.run(DOMAIN, "executor.revoke", {"executor": EXECUTOR})
    told = await read(talk.call)
    before = edge.hub._drained
    with edge.core.read() as snapshot:
        newest = snapshot.applied_index
    assert before < newest
    talk.say(acknowledgements=[{"lease_id": lease_id, "size": told.position.size}])
    async with asyncio.timeout(0.5):  # the permit itself lives for longer
        assert await edge.hub.drained_beyond(before) == newest
    await _reported(edge, newest)
    talk.call.cancel()


async def _drained(edge, index: int) -> None:
    async with asyncio.timeout(5):
        await edge.hub.drained_beyond(index)


async def _reported(edge, index: int) -> None:
    async with asyncio.timeout(5):
        while await edge.core.drained.get() != (0, index):
            pass


async def says_nothing():
    await asyncio.Event().wait()
    yield lease_pb2.WatchRequest()


async def test_who_opens_calls_and_says_nothing_keeps_few_and_none_for_long(
    edge, lease, monkeypatch
) -> None:
    """Whoever speaks is served all the same."""
    monkeypatch.setattr("quorate.api.lease.MAX_WATCHERS_PER_EXECUTOR", 2)
    edge.grant()
    good = edge.lease()
    silent = [lease.Watch(says_nothing()) for _ in range(20)]
    try:
        ends = [asyncio.ensure_future(code_of(call)) for call in silent]
        async with asyncio.timeout(60):
            for _, end in zip(range(18), asyncio.as_completed(ends), strict=False):
                await end
            assert (await read(watch(lease, good))).event == ACTIVE
            assert set(await asyncio.gather(*ends)) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    finally:
        for call in silent:
            call.cancel()
