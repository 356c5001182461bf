"""Streams of grpc.aio servers under leases: cut off, they neither go on nor look whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from tests.unit.client.aio_handlers import begin, refused
from tests.unit.client.conftest import World, permit
from tests.unit.client.services import (
    aio_channel,
    aio_pool,
    aio_serving,
    always,
    is_at_rest,
    one_lease,
    revoked_check,
)
from tests.unit.client.test_aio import eventually

from quorate.client import AsyncLeasePool, Denied, DeniedError, Reason
from quorate.client.interceptors import AsyncLeaseServerInterceptor


@pytest.fixture
async def pool(world: World) -> AsyncIterator[AsyncLeasePool]:
    async with aio_pool(world) as made:
        yield made
        await eventually(lambda: is_at_rest(made))


@pytest.mark.parametrize("turns", range(4))
async def test_an_interruption_in_the_middle_of_the_first_write_ends_the_rpc(
    world: World, pool: AsyncLeasePool, turns: int
) -> None:
    """grpc.aio cannot send a status after a first message whose sending was cancelled."""
    one_lease(world)

    async def handler(_request: Any, context: Any) -> None:
        holders = pool._gate._keeping._upkeep._held["lease-7"].holders
        loop = asyncio.get_running_loop()

        def tell(turns: int) -> None:
            if turns:
                loop.call_soon(tell, turns - 1)
            else:
                holders[-1].tell(Denied(Reason.GRANT_REVOKED))

        loop.call_soon(tell, turns)
        await context.write(b"first")
        await asyncio.sleep(10)
        pytest.fail("not cancelled")

    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({"Down": handler}, interceptor) as address, aio_channel(address) as to:
        await refused(begin(to, "Down", timeout=10))


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_stream_that_goes_on_in_spite_of_all_does_not_look_whole(
    world: World, pool: AsyncLeasePool, goes_on: bool
) -> None:
    revoked, within = one_lease(world), asyncio.Event()
    world.node.then("Check", revoked_check(), revoked_check())
    raised: list[Exception] = []

    async def handler(_request: Any, context: Any) -> None:
        try:
            within.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if goes_on:
                try:
                    await context.write(b"never")
                except DeniedError as error:
                    raised.append(error)

    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({"Down": handler}, interceptor) as address, aio_channel(address) as to:
        call = begin(to, "Down")
        await within.wait()
        revoked.set()
        error = await refused(call)
    assert error.details() == "denied: GRANT_REVOKED"
    assert len(raised) == goes_on


async def test_a_stream_has_no_gaps(world: World, pool: AsyncLeasePool) -> None:
    """One that takes no notice of a denial goes on in vain, also when a permit comes after it."""
    one_lease(world)
    world.node.then("Check", revoked_check(), permit())

    async def handler(_request: Any, context: Any) -> None:
        await context.write(b"first")
        (held,) = pool._gate._keeping._upkeep._held.values()
        held.slot.drop()
        for _ in range(2):
            with suppress(DeniedError):
                await context.write(b"never")

    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({"Down": handler}, interceptor) as address, aio_channel(address) as to:
        call, got = begin(to, "Down"), list[bytes]()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for response in call:
                got.append(response)
    assert got == [b"first"]
    assert error.value.details() == "denied: GRANT_REVOKED"
