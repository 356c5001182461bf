"""An executor that watches many leases, in a process of its own: `python -m bench.watching`.

Acquires some, one after the other, says so, and waits for a line; watches them in one call, says so
and waits, then in a call for each, says so and waits, and lets them go. Acquires the rest, says so,
and waits for a line; watches them all, says when it has heard of each, and waits for a revocation;
says when it has heard that of each. Lines of JSON; moments are of the boot clock, nanoseconds,
which is one for all processes of a machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
import uvloop

from quorate.api.watch import MAX_WATCHERS_PER_EXECUTOR
from quorate.chaos.probe import boottime_ns
from quorate.client.config import load_config
from quorate.client.wire import open_aio_channel
from quorate.core.limits import MAX_LEASES_PER_WATCH
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

FLIGHT = 64
_TTL_MS = 600_000
_LET_GO_S = 2.0
"""For the edge to hear that calls were cancelled: until then they count among what one may have."""


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def acquire(
    stub: lease_pb2_grpc.LeaseServiceAsyncStub, resources: Sequence[str], some: range, flight: int
) -> list[str]:
    """The ids of leases with these numbers, `flight` at once. Raises RuntimeError when one is
    denied."""
    leases: list[str] = []
    left = iter(some)

    async def one_caller() -> None:
        for number in left:
            request = lease_pb2.AcquireRequest(
                action="records.write",
                resource=resources[number % len(resources)],
                ttl_ms=_TTL_MS,
            )
            answer = await stub.Acquire(request)
            if answer.verdict != decision_pb2.VERDICT_PERMIT:
                raise RuntimeError(f"denied: {decision_pb2.Reason.Name(answer.reason)}")
            leases.append(answer.lease.id)

    await asyncio.gather(*(one_caller() for _ in range(flight)))
    return leases


async def watch(connection: grpc.aio.Channel, leases: list[str]) -> None:
    """Tells when each of them was heard of, and then when each was heard to be interrupted."""
    stub: lease_pb2_grpc.LeaseServiceAsyncStub = lease_pb2_grpc.LeaseServiceStub(connection)
    events = (lease_pb2.WATCH_EVENT_ACTIVE, lease_pb2.WATCH_EVENT_INTERRUPTED)
    heard: dict[lease_pb2.WatchEvent.ValueType, list[int]] = {event: [] for event in events}
    whole = {event: asyncio.Event() for event in heard}

    async def listen(some: list[str]) -> None:
        async for notice in stub.Watch(iter([lease_pb2.WatchRequest(lease_ids=some)])):
            moments = heard.get(notice.event)
            if moments is None:
                raise RuntimeError(f"an event that was not expected: {notice}")
            moments.append(boottime_ns())
            if len(moments) == len(leases):
                whole[notice.event].set()

    size = MAX_LEASES_PER_WATCH
    calls = [
        asyncio.ensure_future(listen(leases[at : at + size])) for at in range(0, len(leases), size)
    ]
    for event, done in whole.items():
        waiting = asyncio.ensure_future(done.wait())
        finished, _ = await asyncio.wait([*calls, waiting], return_when=asyncio.FIRST_COMPLETED)
        for call in finished.intersection(calls):
            call.result()  # raises what ended it
        moments = sorted(heard[event])
        _say(
            event=lease_pb2.WatchEvent.Name(event),
            first_ns=moments[0],
            median_ns=moments[len(moments) // 2],
            last_ns=moments[-1],
            calls=len(calls),
        )
    for call in calls:
        call.cancel()


async def watch_some(stub: lease_pb2_grpc.LeaseServiceAsyncStub, leases: list[str]) -> None:
    """Watches so few leases that each can have a call of its own: in one call, then in as many."""
    for each_call in (len(leases), 1):
        parts = [leases[at : at + each_call] for at in range(0, len(leases), each_call)]
        calls = [stub.Watch(iter([lease_pb2.WatchRequest(lease_ids=part)])) for part in parts]
        for call, part in zip(calls, parts, strict=True):
            for _ in part:
                await call.read()
        _say(calls=len(calls))
        await _line()
        for call in calls:
            call.cancel()
        await asyncio.sleep(_LET_GO_S)


async def _line() -> None:
    await asyncio.to_thread(sys.stdin.readline)


async def run(client: Path, resources: Sequence[str], count: int) -> None:
    connection = open_aio_channel(load_config(client))
    stub: lease_pb2_grpc.LeaseServiceAsyncStub = lease_pb2_grpc.LeaseServiceStub(connection)
    few = MAX_WATCHERS_PER_EXECUTOR
    # One at a time: what many at once leave free in the edge would be what the watches then take.
    leases = await acquire(stub, resources, range(few), 1)
    _say(acquired=len(leases))
    await _line()
    await watch_some(stub, leases)
    leases += await acquire(stub, resources, range(few, count), FLIGHT)
    _say(acquired=len(leases))
    await _line()
    await watch(connection, leases)
    await connection.close(None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--client", type=Path, required=True)
    parser.add_argument("--resources", required=True, help="with {} for the grant's number")
    parser.add_argument("--grants", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    options = parser.parse_args()
    resources = [options.resources.format(number) for number in range(options.grants)]
    uvloop.run(run(options.client, resources, options.count))


if __name__ == "__main__":
    main()
