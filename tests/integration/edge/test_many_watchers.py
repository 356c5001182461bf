"""Watch over gRPC, by many: thousands of calls, of many executors, at one edge; and one that breaks
and comes back."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.integration.edge.conftest import DOMAIN, EXECUTOR, Edge, Pki
from tests.integration.edge.test_watching import ACTIVE, AUTHORITY_LOST, INTERRUPTED, Dial

from quorate.api.errors import NotReadyError
from quorate.api.notices import Event, Watcher
from quorate.api.watch import MAX_WATCHERS, MAX_WATCHERS_PER_EXECUTOR
from quorate.client import AsyncGate, Denied, Permit, Reason, WatchNotice
from quorate.client.watching import WatchTalk
from quorate.node.certificates import issue_executor
from quorate.testing.builders import grant_body
from quorate.v1 import lease_pb2, lease_pb2_grpc

EXECUTORS = MAX_WATCHERS // MAX_WATCHERS_PER_EXECUTOR
MEASURED = 8
"""Executors: to trace every allocation of all of them takes long."""
MOST_KIB_EACH = 8
"""Of the hub's own, for a watcher of one lease; 3 when this was written."""
MOST_KIB_EACH_CALL = 200
"""Of this process, which has both ends of each call; 58 when this was written."""
Record = Callable[[str, object], None]


def executor(number: int) -> str:
    return f"spiffe://{DOMAIN}/agent/many-{number}"


def admit(edge: Edge, number: int) -> str:
    """An executor more. Returns its lease."""
    who = executor(number)
    edge.core.run(DOMAIN, "executor.register", {"executor": who})
    edge.core.run(
        DOMAIN, "grant.issue", grant_body(f"many-{number}", who, [f"//{DOMAIN}/accounts/*"])
    )
    return edge.lease(who, ttl_ms=600_000)


def suspend_domain(edge: Edge) -> None:
    """What every lease here relies on."""
    edge.core.run(DOMAIN, "domain.suspend", {"domain": DOMAIN})


async def test_as_many_watchers_as_there_may_be_are_told_and_cost_little(
    edge: Edge, record_property: Record
) -> None:
    edge.grant(period_ms=600_000)
    leases = [admit(edge, number) for number in range(EXECUTORS)]
    await asyncio.sleep(0)
    async with AsyncExitStack() as stack:

        async def watch(number: int) -> list[Watcher]:
            return [
                await stack.enter_async_context(edge.hub.watch(executor(number), (leases[number],)))
                for _ in range(MAX_WATCHERS_PER_EXECUTOR)
            ]

        watchers = await watch(0)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(1, MEASURED + 1):
                watchers += await watch(number)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        kib_each = (held - before) / 1024 / (MEASURED * MAX_WATCHERS_PER_EXECUTOR)
        record_property("KiB of the hub for each", round(kib_each, 2))
        assert kib_each < MOST_KIB_EACH
        for number in range(MEASURED + 1, EXECUTORS):
            watchers += await watch(number)
        assert len(watchers) == MAX_WATCHERS
        assert {(await watcher.next()).event for watcher in watchers} == {Event.ACTIVE}
        suspend_domain(edge)
        async with asyncio.timeout(30):
            told = [await watcher.next() for watcher in watchers]
        assert {notice.event for notice in told} == {Event.INTERRUPTED}
        assert {notice.denial.reason for notice in told if notice.denial} == {
            Reason.DOMAIN_SUSPENDED
        }


@pytest.mark.long
async def test_thousands_of_calls_are_told_of_a_revocation(
    edge: Edge, dial: Dial, pki: Pki, record_property: Record
) -> None:
    edge.grant(period_ms=600_000)
    leases = [admit(edge, number) for number in range(EXECUTORS)]
    before_kib, began_s = resident_kib(), time.monotonic()
    calls: list[Any] = []
    for number, lease in enumerate(leases):
        own = {"grpc__use_local_subchannel_pool": 1}
        stub: Any = lease_pb2_grpc.LeaseServiceStub(
            dial(edge.port, issue_executor(pki.ca, executor(number)), **own)
        )
        request = lease_pb2.WatchRequest(lease_ids=[lease])
        some = [stub.Watch(iter([request])) for _ in range(MAX_WATCHERS_PER_EXECUTOR)]
        first = await asyncio.gather(*(call.read() for call in some))
        assert {answer.event for answer in first} == {ACTIVE}
        calls += some
    assert len(calls) == MAX_WATCHERS
    kib_each = (resident_kib() - before_kib) / len(calls)
    record_property("s to open all", round(time.monotonic() - began_s, 1))
    record_property("KiB of both ends for each", round(kib_each))
    assert kib_each < MOST_KIB_EACH_CALL
    reading = [asyncio.ensure_future(call.read()) for call in calls]
    await asyncio.sleep(0)
    began_s = time.monotonic()
    suspend_domain(edge)
    async with asyncio.timeout(60):
        told = await asyncio.gather(*reading)
    record_property("s until all are told", round(time.monotonic() - began_s, 2))
    assert {answer.event for answer in told} == {INTERRUPTED}
    for call in calls:
        call.cancel()


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


# -- a watch that breaks ---------------------------------------------------------------------------


async def test_a_watch_goes_on_from_lost_authority(edge: Edge, dial: Dial, pki: Pki) -> None:
    edge.grant()
    lease_id = edge.lease()
    stub: Any = lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.executor))
    call = stub.Watch(iter([lease_pb2.WatchRequest(lease_ids=[lease_id])]))
    assert (await call.read()).event == ACTIVE
    edge.word.clear(Reason.INQUORATE)
    lost = await call.read()
    assert lost.event == AUTHORITY_LOST
    call.cancel()
    for act in ("suspend", "reinstate"):
        edge.core.run(DOMAIN, f"executor.{act}", {"executor": EXECUTOR})
    edge.grant()
    request = lease_pb2.WatchRequest(lease_ids=[lease_id], after_size=lost.position.size)
    again = stub.Watch(iter([request]))
    told = [await again.read() for _ in range(3)]
    assert [lease_pb2.WatchEvent.Name(each.event).rpartition("_")[2] for each in told] == [
        "INTERRUPTED",
        "RESTORED",
        "ACTIVE",
    ]
    again.cancel()


async def test_a_holder_hears_of_what_happened_while_its_watch_was_broken(
    edge: Edge, dial: Dial, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.grant()
    heard, news = asyncio.Event(), asyncio.Queue[Permit | Denied]()
    original = WatchTalk.heard

    def hear(talk: WatchTalk, answer: lease_pb2.WatchResponse) -> WatchNotice | None:
        heard.set()
        return original(talk, answer)

    monkeypatch.setattr(WatchTalk, "heard", hear)
    async with (
        asyncio.timeout(10),
        AsyncGate(dial(edge.port, pki.executor), executor=EXECUTOR) as gate,
    ):
        lease = await gate.acquire("payments.transfer", f"//{DOMAIN}/accounts/payroll")
        assert not isinstance(lease, Denied), lease
        holding = await gate.keep(lease, news.put_nowait)
        await heard.wait()
        for watcher in edge.hub._watchers:
            watcher.end(NotReadyError("cut off"))
        for act in ("suspend", "reinstate"):
            edge.core.run(DOMAIN, f"executor.{act}", {"executor": EXECUTOR})
        told = await news.get()
        assert isinstance(told, Denied)
        assert told.reason is Reason.EXECUTOR_SUSPENDED
        assert isinstance(await news.get(), Permit)
        holding.close()
