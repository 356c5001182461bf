"""Calls of grpc.aio that are made under a lease.

Owns the task that holds the lease for as long as a call lasts, and how the call ends when the lease
is interrupted: as denied, not as cancelled by its caller. All else is the call's own.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from quorate.client.aio.pool import AsyncLeasePool
from quorate.client.decisions import DeniedError
from quorate.client.governed import Act
from quorate.client.interceptors.refusals import AsyncCallDeniedError, Refusal


class LeaseOfCall:
    """The lease that one call is made under, held by a task of its own until the call has ended.

    It knows grpc's call, and not the one that the caller has: a stream that nobody keeps is to be
    collected, and so to end.
    """

    def __init__(self, pool: AsyncLeasePool, act: Act) -> None:
        self._held: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._call: Any = None
        self._is_to_stop = False
        self._has_stopped = False
        self._error: AsyncCallDeniedError | None = None
        self._task = asyncio.create_task(self._hold(pool, act))

    async def id(self) -> str:
        """As soon as the lease is held. Raises AsyncCallDeniedError when it is not."""
        try:
            waited: set[asyncio.Future[Any]] = {self._task, self._held}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.end()
            self._task.cancel()
            raise
        if not self._held.done():
            await self._task  # has failed
            assert self._error is not None
            raise self._error
        return self._held.result()

    def attach(self, call: Any) -> None:
        """The call has begun."""
        self._call = call
        if call.done():
            self.end()
            return
        call.add_done_callback(lambda _: self.end())
        if self._is_to_stop:
            self._has_stopped = call.cancel()

    def end(self) -> None:
        """The call has ended, or will not begin."""
        self._ended.set()

    async def denial(self) -> AsyncCallDeniedError | None:
        """Why the call was cancelled; None when that was not on account of the lease."""
        if not self._has_stopped:
            return None
        await asyncio.wait({self._task})
        return self._error

    async def _hold(self, pool: AsyncLeasePool, act: Act) -> None:
        lease_id = ""
        try:
            async with pool.lease(*act) as lease:
                lease_id = lease.id
                async with lease.hold(), lease.act():
                    self._held.set_result(lease.id)
                    await self._until_ended()
        except DeniedError as error:
            self._error = AsyncCallDeniedError(Refusal(error.denied, lease_id))

    async def _until_ended(self) -> None:
        try:
            await self._ended.wait()
        except asyncio.CancelledError:
            self._is_to_stop = True
            if self._call is not None:
                self._has_stopped = self._call.cancel()
            await self._ended.wait()
            raise


class _Call:
    """What all kinds have in common."""

    def __init__(self, call: Any, lease: LeaseOfCall) -> None:
        self._call = call
        self._lease = lease

    def cancel(self) -> bool:
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        return bool(self._call.cancelled())

    def done(self) -> bool:
        return bool(self._call.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    def time_remaining(self) -> float | None:
        left: float | None = self._call.time_remaining()
        return left

    async def initial_metadata(self) -> grpc.aio.Metadata:
        metadata: grpc.aio.Metadata = await self._call.initial_metadata()
        return metadata

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        own: grpc.aio.Metadata = await self._call.trailing_metadata()
        denial = await self._lease.denial()
        return own if denial is None else denial.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        own: grpc.StatusCode = await self._call.code()
        denial = await self._lease.denial()
        return own if denial is None else denial.code()

    async def details(self) -> str:
        own: str = await self._call.details()
        denial = await self._lease.denial()
        return own if denial is None else denial.details() or ""

    async def debug_error_string(self) -> str | None:
        own: str | None = await self._call.debug_error_string()
        return own

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()

    @asynccontextmanager
    async def _denied_when_cancelled(self) -> AsyncIterator[None]:
        """Raises AsyncCallDeniedError when the call was cancelled on account of its lease."""
        try:
            yield
        except asyncio.CancelledError:
            denial = await self._lease.denial()
            if denial is None:
                # Whoever waits was cancelled. grpc does the same, but for a moment at the start.
                self._call.cancel()
                raise
            raise denial from None


class _UnaryResponse(_Call):
    def __await__(self) -> Generator[None, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        async with self._denied_when_cancelled():
            return await self._call


class _StreamResponse(_Call):
    def __init__(self, call: Any, lease: LeaseOfCall) -> None:
        super().__init__(call, lease)
        self._responses: AsyncIterator[Any] | None = None
        self._to_tell: list[Callable[[Any], None]] = []
        here = weakref.WeakMethod(self._tell)
        call.add_done_callback(lambda _: (tell := here()) and tell())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Kept here and not on grpc's call, which lasts as long as the RPC: grpc gives a callback
        for each call that keeps it, and one that nobody has any more would never be collected."""
        if self.done():
            callback(self)
        else:
            self._to_tell.append(callback)

    def _tell(self) -> None:
        callbacks, self._to_tell = self._to_tell, []
        for callback in callbacks:
            callback(self)

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._responses is None:
            self._responses = self._all()
        return self._responses

    async def _all(self) -> AsyncIterator[Any]:
        async with self._denied_when_cancelled():
            async for response in self._call:
                yield response

    async def read(self) -> Any:
        async with self._denied_when_cancelled():
            return await self._call.read()


class _StreamRequest(_Call):
    async def write(self, request: Any) -> None:
        await self._call.write(request)

    async def done_writing(self) -> None:
        await self._call.done_writing()

    @property
    def _done_writing_flag(self) -> bool:
        """Which grpc.aio looks at before it writes."""
        return bool(self._call._done_writing_flag)


class LeasedUnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""


class LeasedUnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""


class LeasedStreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""


class LeasedStreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """A stream of requests, a stream of responses."""
