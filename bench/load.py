"""A closed-loop client in a process of its own: some calls in flight for some seconds.

Prints one JSON object: calls, seconds, permits, p50_us, p99_us. The client is Python and costs more
CPU than the server that it calls; both sides of a ratio bear the same client.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import uvloop

from bench.echo import METHOD
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

ACTION = "records.write"
RESOURCE = "//bank.example/records/bench"
ECHO_BYTES = 200

Call = Callable[[], Awaitable[bool]]


def channel(client: Path, address: str | None) -> grpc.aio.Channel:
    node = tomllib.loads((client / "client.toml").read_text())["node"]
    credentials = grpc.ssl_channel_credentials(
        (client / "ca.crt").read_bytes(),
        (client / "executor.key").read_bytes(),
        (client / "executor.crt").read_bytes(),
    )
    options = [
        ("grpc.ssl_target_name_override", node["server_name"]),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
    ]
    return grpc.aio.secure_channel(address or node["lease_address"], credentials, options)


async def _check_call(stubs: Sequence[lease_pb2_grpc.LeaseServiceAsyncStub]) -> Call:
    request = lease_pb2.AcquireRequest(action=ACTION, resource=RESOURCE, ttl_ms=600_000)
    acquired = await stubs[0].Acquire(request)
    assert acquired.verdict == decision_pb2.VERDICT_PERMIT, acquired
    check = lease_pb2.CheckRequest(lease_id=acquired.lease.id)
    turns = itertools.cycle(stubs)

    async def call() -> bool:
        return (await next(turns).Check(check)).verdict == decision_pb2.VERDICT_PERMIT

    return call


def _acquire_call(stub: lease_pb2_grpc.LeaseServiceAsyncStub) -> Call:
    request = lease_pb2.AcquireRequest(action=ACTION, resource=RESOURCE, ttl_ms=1)

    async def call() -> bool:
        return (await stub.Acquire(request)).verdict == decision_pb2.VERDICT_PERMIT

    return call


def _echo_call(connection: grpc.aio.Channel) -> Call:
    method: Any = connection.unary_unary(METHOD)
    payload = bytes(ECHO_BYTES)

    async def call() -> bool:
        return bool(await method(payload) == payload)

    return call


async def run(
    operation: str, connections: Sequence[grpc.aio.Channel], flight: int, seconds: float
) -> None:
    stubs: list[lease_pb2_grpc.LeaseServiceAsyncStub] = [
        lease_pb2_grpc.LeaseServiceStub(connection) for connection in connections
    ]
    if operation == "check":
        call = await _check_call(stubs)
    elif operation == "acquire":
        call = _acquire_call(stubs[0])
    else:
        call = _echo_call(connections[0])
    await call()
    took: list[float] = []
    permits = 0
    started = time.perf_counter()
    until = started + seconds

    async def one_caller() -> None:
        nonlocal permits
        while (before := time.perf_counter()) < until:
            permitted = await call()
            permits += permitted
            took.append(time.perf_counter() - before)

    await asyncio.gather(*(one_caller() for _ in range(flight)))
    elapsed = time.perf_counter() - started
    took.sort()
    result = {
        "calls": len(took),
        "seconds": elapsed,
        "permits": permits,
        "p50_us": took[len(took) // 2] * 1e6,
        "p99_us": took[len(took) * 99 // 100] * 1e6,
    }
    json.dump(result, sys.stdout)
    for connection in connections:
        await connection.close(None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("operation", choices=["check", "acquire", "echo"])
    parser.add_argument("--client", type=Path, required=True)
    parser.add_argument("--address")
    parser.add_argument("--flight", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=1, help="of checks; in turn")
    options = parser.parse_args()

    async def connected() -> None:
        count = options.connections
        connections = [channel(options.client, options.address) for _ in range(count)]
        await run(options.operation, connections, options.flight, options.seconds)

    uvloop.run(connected())


if __name__ == "__main__":
    main()
