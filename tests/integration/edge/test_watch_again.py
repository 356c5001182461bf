"""A watch that broke is told all that it missed, however much else it has to be told."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from tests.integration.edge.test_watching import DOMAIN
from tests.integration.edge.test_watching import lease as lease  # noqa: PLC0414 - a fixture

from quorate.client.slot import PermitSlot
from quorate.client.watching import WatchEvent, WatchNotice, WatchTalk
from quorate.testing.clock import FakeClock
from quorate.v1 import lease_pb2

LEASES = 256
TRIES = 4


async def read(talk: WatchTalk, stub, wanted: int) -> tuple[list[WatchNotice], object]:
    """One stream, until so many notices were read or it ends; and how it ended."""
    said: asyncio.Queue[lease_pb2.WatchRequest] = asyncio.Queue()
    assert talk.begin(said.put_nowait)

    async def requests() -> AsyncIterator[lease_pb2.WatchRequest]:
        while True:
            yield await said.get()

    told, error, answers = [], None, 0
    call = stub.Watch(requests())
    try:
        async with asyncio.timeout(30):
            async for answer in call:
                answers += 1
                notice = talk.heard(answer)
                told += [notice] if notice is not None else []
                if answers == wanted:
                    break
    except grpc.aio.AioRpcError as raised:
        error = raised
    call.cancel()
    talk.broken(error)
    return told, error


@pytest.mark.parametrize(("known", "times"), [(200, 2), (70, 6), (120, 3)])
async def test_leases_that_join_meanwhile_do_not_cut_it_off(edge, lease, known, times) -> None:
    """Nearly as many notices are missed as may wait, and there are more leases to tell of."""
    edge.grant()
    ids = [edge.lease() for _ in range(LEASES)]
    talk = WatchTalk("s" * 16, {each: PermitSlot(FakeClock()) for each in ids[:known]})
    first, error = await read(talk, lease, known)
    assert (len(first), error) == (known, None)
    for _ in range(times):
        edge.core.run(DOMAIN, "grant.suspend", {"grant": "g"})
        edge.core.run(DOMAIN, "grant.reinstate", {"grant": "g"})
    for each in ids[known:]:
        talk.add(each, PermitSlot(FakeClock()))
    interrupted: defaultdict[str, int] = defaultdict(int)
    heard_of: set[str] = set()
    for _ in range(TRIES):
        edge.grant()
        told, error = await read(talk, lease, known * (2 * times + 1) + LEASES - known)
        for notice in told:
            heard_of.add(notice.lease_id)
            interrupted[notice.lease_id] += notice.event is WatchEvent.INTERRUPTED
        if error is None:
            break
    assert error is None
    assert {each: interrupted[each] for each in ids[:known]} == dict.fromkeys(ids[:known], times)
    assert heard_of == set(ids)
