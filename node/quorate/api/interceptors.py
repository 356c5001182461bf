"""What every call passes through: errors become statuses, faults become INTERNAL and a log record.

Owns the last line between a handler's exceptions and the caller, and the reading of requests, which
the library would answer for with the names of its classes. A cancelled call stays cancelled
(CancelledError is never caught), and nothing of a fault's text reaches the caller.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from quorate.api.errors import InvalidRequestError, ServiceError, Violation, to_trailers
from quorate.telemetry import Metrics

_log = structlog.get_logger(__name__)

# grpc.aio's own types for handlers are invariant in request and response: nothing more exact fits.
# The library's classes are generic in their stubs only.
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Read: TypeAlias = "Callable[[bytes], Any] | None"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns what handlers raise into statuses. Handlers are wrapped once per method, not per call:
    the methods of a server are a closed set, and a check has microseconds to lose."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: the server answers UNIMPLEMENTED
            return handler
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = self._wrap(handler, method)
        self._wrapped[method] = (handler, wrapped)
        return wrapped

    def _wrap(self, handler: _Handler, method: str) -> _Handler:
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streams(handler.stream_stream, handler.request_deserializer, method),
                response_serializer=handler.response_serializer,
            )
        # A handler that streams either yields its answers, or writes them to the context and then
        # looks like a unary one (the library's health service does).
        if handler.response_streaming and inspect.isasyncgenfunction(handler.unary_stream):
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream, handler.request_deserializer, method),
                response_serializer=handler.response_serializer,
            )
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._unary(handler.unary_stream, handler.request_deserializer, method),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, handler.request_deserializer, method),
            response_serializer=handler.response_serializer,
        )

    def _unary(
        self, behavior: Any, read: _Read, method: str
    ) -> Callable[[bytes, _Context], Awaitable[Any]]:
        async def call(data: bytes, context: _Context) -> Any:
            try:
                return await behavior(_request(read, data), context)
            except Exception as error:  # noqa: BLE001 - the last line: see _answer
                await self._answer(error, method, context)

        return call

    def _stream(
        self, behavior: Any, read: _Read, method: str
    ) -> Callable[[bytes, _Context], AsyncIterator[Any]]:
        async def call(data: bytes, context: _Context) -> AsyncIterator[Any]:
            try:
                async for response in behavior(_request(read, data), context):
                    yield response
            except Exception as error:  # noqa: BLE001 - the last line: see _answer
                await self._answer(error, method, context)

        return call

    def _streams(
        self, behavior: Any, read: _Read, method: str
    ) -> Callable[[AsyncIterator[bytes], _Context], AsyncIterator[Any]]:
        async def call(stream: AsyncIterator[bytes], context: _Context) -> AsyncIterator[Any]:
            requests = (_request(read, data) async for data in stream)
            try:
                async for response in behavior(requests, context):
                    yield response
            except Exception as error:  # noqa: BLE001 - the last line: see _answer
                await self._answer(error, method, context)

        return call

    async def _answer(self, error: Exception, method: str, context: _Context) -> NoReturn:
        """Ends the call with the error's status; the caller learns nothing of an unexpected one."""
        if isinstance(error, grpc.aio.AbortError):  # already answered by the handler
            raise error
        if isinstance(error, ServiceError):
            await context.abort(error.code, error.message, to_trailers(error))
        self._metrics.fault(method)
        _log.error("a handler failed", method=method, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, "the node failed to answer; see its log")


def _request(read: _Read, data: bytes) -> Any:
    """The request in a message's bytes. Raises InvalidRequestError when there is none."""
    if read is None:
        return data
    try:
        return read(data)
    except DecodeError as error:
        raise InvalidRequestError([Violation("request", "is no message of this method")]) from error
