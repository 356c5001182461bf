"""ASGI services under leases: a request runs only under one, and is ended when trust goes.

    app = LeaseMiddleware(app, lambda: AsyncGate.open(Path("billing")), rule)

Owns the middleware (ASGI 3.0), its gate and its pool. Needs no framework: Starlette, FastAPI and
others take it as it is.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from quorate.client.aio.gate import AsyncGate
from quorate.client.aio.leases import AsyncLease
from quorate.client.aio.pool import AsyncLeasePool
from quorate.client.decisions import ClientReason, Denied, DeniedError
from quorate.client.governed import Act, Rule, act_of, going_by
from quorate.client.lineage import HEADER, Arrival, arriving, headers_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FORBIDDEN: Final = 403
_POLICY_VIOLATION: Final = 1008  # RFC 6455, 7.4.1


@dataclass(slots=True)
class _Began:
    """What the application has done so far: begun to answer, or taken the request in. denied: why
    what it has sent was not passed on."""

    answer: bool = False
    request: bool = False
    denied: DeniedError | None = None


class LeaseMiddleware:
    """Runs each request of an ASGI application under the lease that a rule names for it.

    open_gate: called once, where the server's loop runs. The gate is closed at the end of the
        server's lifespan.
    rule: the act that a request is, `EXEMPT` for what needs no lease, None for what is not known:
        that is denied.

    A denied request is answered with 403 and a problem document (RFC 9457) that carries the reason,
    whatever it is: nobody who treats a server's failures as permission gets one. A websocket is
    refused, or closed with 1008. A request whose lease is interrupted is cancelled; when its answer
    has begun, its connection is broken off. Each message that the application sends needs a permit.
    """

    def __init__(
        self,
        app: App,
        open_gate: Callable[[], AsyncGate],
        rule: Rule[Scope],
        *,
        ttl_ms: int = 0,
        takes_lineage: bool = True,
    ) -> None:
        """ttl_ms: as for `AsyncLeasePool`. takes_lineage: whether leases that a request names in
        `quorate-lease` are the parents of its own; for callers who are known."""
        self._app = app
        self._open_gate = open_gate
        self._rule = rule
        self._ttl_ms = ttl_ms
        self._takes_lineage = takes_lineage
        self._is_closed = False
        self._gate: AsyncGate | None = None
        self._pool: AsyncLeasePool | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._closing(send))
            return
        if scope["type"] not in ("http", "websocket"):
            raise ValueError(f"{scope['type']!r} is no type of request that is known here")
        act = act_of(self._rule, scope)
        if act is None:
            await self._app(scope, receive, send)
            return
        began = _Began()
        try:
            if isinstance(act, Denied):
                raise DeniedError(act)
            with self._arrival(scope).entered():
                await self._run(act, scope, _hearing(receive, began), _noting(send, began), began)
        except DeniedError as error:
            await _refuse(scope, receive, send, error, began)

    def _arrival(self, scope: Scope) -> Arrival:
        try:
            return arriving(headers_of(scope["headers"]), is_believed=self._takes_lineage)
        except ValueError as error:
            raise DeniedError(Denied(ClientReason.INVALID_REQUEST, HEADER)) from error

    async def _run(
        self, act: Act, scope: Scope, receive: Receive, send: Send, began: _Began
    ) -> None:
        pool = self._opened()
        leased = pool.lease(*act)
        async with leased as lease, lease.hold(), lease.act() as permit:
            with going_by(permit):
                await self._app(scope, receive, _permitted(send, lease, began))
        if began.denied is not None:  # and the application took no notice
            raise began.denied

    def _closing(self, send: Send) -> Send:
        """Leases go back before the server hears that it may end."""

        async def closed(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await self._close()
            await send(message)

        return closed

    def _opened(self) -> AsyncLeasePool:
        if self._is_closed:
            raise DeniedError(Denied(ClientReason.CLOSED, detail="the server is ending"))
        if self._pool is None:
            self._gate = self._open_gate()
            self._pool = AsyncLeasePool(self._gate, ttl_ms=self._ttl_ms)
        return self._pool

    async def _close(self) -> None:
        self._is_closed = True
        pool, gate, self._pool, self._gate = self._pool, self._gate, None, None
        if pool is not None:
            await pool.close()
        if gate is not None:
            await gate.close()


def _noting(send: Send, began: _Began) -> Send:
    async def noted(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.accept"):
            began.answer = True
        await send(message)

    return noted


def _permitted(send: Send, lease: AsyncLease, began: _Began) -> Send:
    """Passes on what there is a permit for, also for an application that goes on when cancelled."""

    async def permitted(message: Message) -> None:
        if began.denied is not None:  # what comes after a gap is none of the answer
            raise began.denied
        try:
            async with lease.act():
                pass
        except DeniedError as error:
            began.denied = error
            raise
        await send(message)

    return permitted


def _hearing(receive: Receive, began: _Began) -> Receive:
    async def heard() -> Message:
        began.request = True
        return await receive()

    return heard


async def _refuse(
    scope: Scope, receive: Receive, send: Send, error: DeniedError, began: _Began
) -> None:
    """Tells who asked: the reason, and not the denial's detail, which is for people of this program
    and may name addresses. Raises the error where that is told by breaking off."""
    if scope["type"] == "websocket":
        if not began.request:
            await receive()  # websocket.connect: a refusal is the answer to it
        await send(
            {"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": str(error.reason)}
        )
        return
    if began.answer:
        raise error
    denied = error.denied
    problem = {
        "type": "about:blank",
        "title": "Forbidden",
        "status": _FORBIDDEN,
        "detail": f"denied: {denied.reason}" + (f" ({denied.thing})" if denied.thing else ""),
        "reason": str(denied.reason),
        "thing": denied.thing,
    }
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": _FORBIDDEN, "headers": headers})
    await send({"type": "http.response.body", "body": body})
