"""Handlers of grpc.aio services of every kind and style, and clients of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.unit.client.services import (
    KINDS,
    fence,
    method,
)

PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


async def unary(request: bytes, _context: Any) -> bytes:
    return request + b"%d" % fence()


async def down(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for _ in range(2):
        yield request + b"%d" % fence()


async def down_written(request: bytes, context: Any) -> None:
    for _ in range(2):
        await context.write(request + b"%d" % fence())


async def up(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    return b"".join([request async for request in requests]) + b"%d" % fence()


async def up_read(_requests: Any, context: Any) -> bytes:
    got = b""
    while (request := await context.read()) is not grpc.aio.EOF:
        got += request
    return got + b"%d" % fence()


async def both(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request + b"%d" % fence()


async def both_written(_requests: Any, context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request + b"%d" % fence())


STYLES = [
    ("Unary", unary, [b"a7"]),
    ("Down", down, [b"a7", b"a7"]),
    ("Down", down_written, [b"a7", b"a7"]),
    ("Up", up, [b"ab7"]),
    ("Up", up_read, [b"ab7"]),
    ("Both", both, [b"a7", b"b7"]),
    ("Both", both_written, [b"a7", b"b7"]),
]


async def requests() -> AsyncIterator[bytes]:
    for each in (b"a", b"b"):
        yield each


def begin(channel: Any, name: str, **settings: Any) -> Any:
    return method(channel, name)(b"a" if name in ("Unary", "Down") else requests(), **settings)


async def silent() -> AsyncIterator[bytes]:
    """Requests that do not come: grpc.aio's client may take an RPC that ends as it sends for a
    fault of its own."""
    await asyncio.Event().wait()
    yield b""


def knock(channel: Any, name: str) -> Any:
    """A call that is about to be refused."""
    return method(channel, name)(b"a" if name in ("Unary", "Down") else silent())


async def responses(call: Any) -> list[bytes]:
    if hasattr(call, "__aiter__"):
        return [response async for response in call]
    return [await call]


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await responses(call)
    assert error.value.code() is PERMISSION_DENIED, error.value
    return error.value


def never(called: list[str]) -> dict[str, Any]:
    """Behaviours of every kind that are not to be called."""

    async def handler(_request: Any, _context: Any) -> bytes:
        called.append("called")
        return b""

    return dict.fromkeys(KINDS, handler)
