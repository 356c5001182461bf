"""Clients for asyncio: an RPC is made only under a lease, and is cancelled when trust goes.

Owns the interceptors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import grpc

from quorate.client.aio.pool import AsyncLeasePool
from quorate.client.governed import Rule
from quorate.client.interceptors import aio_calls
from quorate.client.interceptors.aio_calls import LeaseOfCall
from quorate.client.interceptors.refusals import (
    LATE,
    AsyncCallDeniedError,
    Refusal,
)
from quorate.client.interceptors.rules import Outgoing, decide
from quorate.client.lineage import carried

CallT = TypeVar("CallT")


class AsyncLeaseClientInterceptors(tuple[grpc.aio.ClientInterceptor, ...]):
    """Has each RPC of a grpc.aio channel made under the pool's lease that a rule names for it.

        grpc.aio.secure_channel(..., interceptors=AsyncLeaseClientInterceptors(pool, rule))

    Four interceptors, one for each kind of RPC: grpc.aio takes one that is of several kinds for the
    first of them only, and would let the others pass.

    rule: the act that an RPC is, `EXEMPT` for what needs no lease, None for what is not known: that
        is denied.

    A call that is denied fails with AsyncCallDeniedError, and nothing is sent. One whose lease is
    interrupted is cancelled, and fails so too. Its act lasts until it has ended; a stream that is
    neither read to its end nor cancelled ends when it is collected, unless it is written to with
    `write`.
    """

    __slots__ = ()

    def __new__(cls, pool: AsyncLeasePool, rule: Rule[Outgoing]) -> Self:
        kinds = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
        return super().__new__(cls, (kind(pool, rule) for kind in kinds))


class _Interceptor:
    def __init__(self, pool: AsyncLeasePool, rule: Rule[Outgoing]) -> None:
        self._pool = pool
        self._rule = rule

    async def _make(
        self,
        kind: Callable[[Any, LeaseOfCall], CallT],
        begin: Callable[[Any, Any], Awaitable[Any]],
        details: Any,
        request: Any,
    ) -> CallT:
        """The call, begun under a lease. `begin` is not kept: it knows the call that the caller
        has, which is to be collected when nobody keeps it."""
        named = details.method  # bytes, whatever its type says
        method = named.decode() if isinstance(named, bytes) else named
        act = decide(self._rule, Outgoing(method, tuple(details.metadata or ())))
        if act is None:
            metadata = grpc.aio.Metadata(*carried(tuple(details.metadata or ())))
            call: CallT = await begin(details._replace(metadata=metadata), request)
            return call
        if isinstance(act, Refusal):
            raise AsyncCallDeniedError(act)
        held = LeaseOfCall(self._pool, act)
        details = await _with_lease(details, held)
        try:
            made = await begin(details, request)
            held.attach(made)
            return kind(made, held)
        except BaseException:
            held.end()
            raise


async def _with_lease(details: Any, held: LeaseOfCall) -> Any:
    """What is left of the call's time, and the lease's id with its metadata."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        async with asyncio.timeout(details.timeout):
            lease_id = await held.id()
    except TimeoutError:
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        empty = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(code, empty, empty, details=LATE) from None
    left_s = None
    if details.timeout is not None:
        left_s = max(0.0, details.timeout - (loop.time() - began_s))
    metadata = grpc.aio.Metadata(*carried(tuple(details.metadata or ()), lease_id))
    return details._replace(timeout=left_s, metadata=metadata)


class _UnaryUnary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._make(
            aio_calls.LeasedUnaryUnaryCall, continuation, client_call_details, request
        )


class _UnaryStream(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._make(
            aio_calls.LeasedUnaryStreamCall, continuation, client_call_details, request
        )


class _StreamUnary(_Interceptor, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._make(
            aio_calls.LeasedStreamUnaryCall, continuation, client_call_details, request_iterator
        )


class _StreamStream(_Interceptor, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._make(
            aio_calls.LeasedStreamStreamCall, continuation, client_call_details, request_iterator
        )
