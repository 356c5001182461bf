"""Clients with threads: an RPC is made only under a lease, and is cancelled when trust goes.

Owns the channel that does so. It is a channel, and no interceptor in grpc's sense: those have no
hold on a call that somebody waits for, and could not cancel it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import grpc

from quorate.client.decisions import DeniedError
from quorate.client.governed import Rule
from quorate.client.interceptors.calls import LeasedCall, LeaseOfCall
from quorate.client.interceptors.refusals import (
    CallDeniedError,
    LateCallError,
    Refusal,
)
from quorate.client.interceptors.rules import Outgoing, decide
from quorate.client.lineage import carried
from quorate.client.pool import LeasePool

Metadata = tuple[tuple[str, str | bytes], ...]
_Serializer = Callable[[Any], bytes] | None
_Deserializer = Callable[[bytes], Any] | None

_PARAMETERS: Final = (
    "request",
    "timeout",
    "metadata",
    "credentials",
    "wait_for_ready",
    "compression",
)
"""Of a call, in the order in which they may be given without their names."""


class LeaseChannel(grpc.Channel):
    """A channel whose RPCs are made only under the pool's lease that a rule names for each.

        channel = LeaseChannel(grpc.secure_channel(...), pool, rule)

    channel: the one that they are made on; closed with this one. Interceptors may be on either.
    rule: the act that an RPC is, `EXEMPT` for what needs no lease, None for what is not known: that
        is denied.

    A call that is denied fails with CallDeniedError, and nothing is sent. One whose lease is
    interrupted is cancelled, and fails so too. Its act lasts until it has ended; a stream that is
    neither read to its end nor cancelled ends when it is dropped. Where a lease has to be acquired,
    the thread that makes the call waits for it, even for a future or a stream.
    """

    def __init__(self, channel: grpc.Channel, pool: LeasePool, rule: Rule[Outgoing]) -> None:
        self._channel: Any = channel
        self._pool = pool
        self._rule = rule

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False
    ) -> None:
        self._channel.subscribe(callback, try_to_connect=try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._channel.unsubscribe(callback)

    def unary_unary(
        self,
        method: str,
        request_serializer: _Serializer = None,
        response_deserializer: _Deserializer = None,
        _registered_method: bool = False,
    ) -> Any:
        make = self._channel.unary_unary
        of = (method, request_serializer, response_deserializer, _registered_method)
        return _UnaryResponse(self, method, make(*of).future)

    def unary_stream(
        self,
        method: str,
        request_serializer: _Serializer = None,
        response_deserializer: _Deserializer = None,
        _registered_method: bool = False,
    ) -> Any:
        make = self._channel.unary_stream
        of = (method, request_serializer, response_deserializer, _registered_method)
        return _StreamResponse(self, method, make(*of))

    def stream_unary(
        self,
        method: str,
        request_serializer: _Serializer = None,
        response_deserializer: _Deserializer = None,
        _registered_method: bool = False,
    ) -> Any:
        make = self._channel.stream_unary
        of = (method, request_serializer, response_deserializer, _registered_method)
        return _UnaryResponse(self, method, make(*of).future)

    def stream_stream(
        self,
        method: str,
        request_serializer: _Serializer = None,
        response_deserializer: _Deserializer = None,
        _registered_method: bool = False,
    ) -> Any:
        make = self._channel.stream_stream
        of = (method, request_serializer, response_deserializer, _registered_method)
        return _StreamResponse(self, method, make(*of))

    def begin(
        self,
        method: str,
        make: Callable[..., Any],
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        **settings: Any,
    ) -> Any:
        """A call, begun under a lease. Where there is none, CallDeniedError in its place."""
        given: Metadata = tuple(metadata or ())
        act = decide(self._rule, Outgoing(method, given))
        if act is None:
            return make(request, timeout=timeout, metadata=carried(given), **settings)
        if isinstance(act, Refusal):
            return CallDeniedError(act)
        began_s = time.monotonic()
        lease, call = LeaseOfCall(), None
        try:
            lease.take(self._pool, act)
        except DeniedError as error:
            return CallDeniedError(Refusal(error.denied, lease.id))
        try:
            if timeout is not None:
                timeout -= time.monotonic() - began_s
                if timeout <= 0:
                    lease.end()
                    return LateCallError()
            sent = carried(given, lease.id)
            call = make(request, timeout=timeout, metadata=sent, **settings)
            lease.attach(call)
            return LeasedCall(call, lease)
        except BaseException:
            if call is not None:
                call.cancel()
            lease.end()
            raise


class _MultiCallable:
    """One method, to be called again and again."""

    def __init__(self, channel: LeaseChannel, method: str, make: Callable[..., Any]) -> None:
        self._channel = channel
        self._method = method
        self._make = make

    def _begin(self, *given: Any, **named: Any) -> Any:
        named |= dict(zip(_PARAMETERS, given, strict=False))
        if "request_iterator" in named:
            named["request"] = named.pop("request_iterator")
        return self._channel.begin(self._method, self._make, **named)


class _UnaryResponse(_MultiCallable):
    """One response. A thread that waits for it waits for a future, for that can be cancelled."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.with_call(*given, **named)[0]

    def with_call(self, *given: Any, **named: Any) -> tuple[Any, Any]:
        call = self._begin(*given, **named)
        try:
            return call.result(), call
        except BaseException:
            call.cancel()  # where the wait was interrupted; else it has ended
            raise

    def future(self, *given: Any, **named: Any) -> Any:
        return self._begin(*given, **named)


class _StreamResponse(_MultiCallable):
    """A stream of responses."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._begin(*given, **named)
