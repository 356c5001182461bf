"""Servers for asyncio: a handler runs only under a lease, and is cancelled when trust goes.

Owns the interceptor and the context that it hands to handlers.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Final, TypeAlias

import grpc

from quorate.client.aio.leases import AsyncLease
from quorate.client.aio.pool import AsyncLeasePool
from quorate.client.decisions import DeniedError
from quorate.client.governed import Act, Rule, going_by
from quorate.client.interceptors.handlers import Behaviour, behaviour_of, with_behaviour
from quorate.client.interceptors.refusals import Refusal, no_lineage, ungovernable
from quorate.client.interceptors.rules import decide
from quorate.client.lineage import Arrival, arriving, headers_of

_LONGEST_SENDING_S: Final = 1.0
_log: Final = logging.getLogger("quorate.client")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class AsyncLeaseServerInterceptor(grpc.aio.ServerInterceptor):
    """Runs each RPC of a grpc.aio server under the pool's lease that a rule names for it.

    rule: the act that an RPC is, `EXEMPT` for what needs no lease, None for what is not known: that
        is denied.

    takes_lineage: whether leases that a call names in `quorate-lease` are the parents of its own;
        for callers who are known.

    A denied RPC ends with PERMISSION_DENIED, whatever the reason, and its handler does not run. One
    whose lease is interrupted has its handler cancelled, and ends so too; its interruption is
    acknowledged when the handler has ended. Each message of a response stream needs a permit.

    Interceptors that come after this one are asked for their handler before the lease is. Those
    that wrap it do so within the lease.
    """

    def __init__(
        self,
        pool: AsyncLeasePool,
        rule: Rule[grpc.HandlerCallDetails],
        *,
        takes_lineage: bool = True,
    ) -> None:
        self._pool = pool
        self._rule = rule
        self._takes_lineage = takes_lineage

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Handler | None = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        act = decide(self._rule, handler_call_details)
        if act is None:
            return handler
        if isinstance(act, Refusal):
            _log.info("%s: %s", method, act.message)
            return with_behaviour(handler, _refusing(act.status()))
        behaviour = behaviour_of(handler)
        if not _is_governable(handler, behaviour):
            problem = "the handler is neither a coroutine function nor an asynchronous generator"
            _log.error("%s: %s: it is not run", method, problem)
            return with_behaviour(handler, _refusing(ungovernable(problem)))
        headers = headers_of(handler_call_details.invocation_metadata or ())
        try:
            come = arriving(headers, is_believed=self._takes_lineage)
        except ValueError as error:
            return with_behaviour(handler, _refusing(no_lineage(error).status()))
        return with_behaviour(handler, _governed(self._pool, act, handler, method, come))


def _is_governable(handler: Handler, behaviour: Behaviour) -> bool:
    """grpc.aio runs everything else in a thread, where nothing can be cancelled."""
    return inspect.iscoroutinefunction(behaviour) or (
        bool(handler.response_streaming) and inspect.isasyncgenfunction(behaviour)
    )


def _refusing(status: grpc.Status) -> Behaviour:
    async def refuse(_request: Any, context: Any) -> None:
        await context.abort_with_status(status)

    return refuse


def _governed(
    pool: AsyncLeasePool, act: Act, handler: Handler, method: str, come: Arrival
) -> Behaviour:
    run = _stream if handler.response_streaming else _unary
    behaviour = behaviour_of(handler)

    async def governed(request: Any, context: Any) -> Any:
        lease_id = ""
        try:
            with come.entered():
                async with pool.lease(*act) as lease:
                    lease_id = lease.id
                    async with lease.hold(), lease.act() as permit:
                        with going_by(permit):
                            return await run(behaviour, request, _Context(context, lease))
        except DeniedError as error:
            _log.info("%s: %s", method, error)
            if context.done():  # the handler was ending it when it was cancelled
                return None
            return await context.abort_with_status(Refusal(error.denied, lease_id).status())

    return governed


async def _unary(behaviour: Behaviour, request: Any, context: _Context) -> Any:
    return await behaviour(request, context)


async def _stream(behaviour: Behaviour, request: Any, context: _Context) -> None:
    """Writes what a generator yields itself: one that yielded to grpc would be waiting there, out
    of this task's reach, when it is to be cancelled."""
    if inspect.isasyncgenfunction(behaviour):
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)
    else:
        await behaviour(request, context)
    await context.permitted()  # a stream that is cut off must not look whole


class _Context:
    """The context of an RPC, whose messages need a permit; all else is grpc's."""

    def __init__(self, context: Any, lease: AsyncLease) -> None:
        self._context = context
        self._lease = lease
        self._has_begun = False
        self._denied: DeniedError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def permitted(self) -> None:
        """Raises DeniedError when there is no permit, or was none: a stream has no gaps."""
        if self._denied is not None:
            raise self._denied
        try:
            async with self._lease.act():
                pass
        except DeniedError as error:
            self._denied = error
            raise

    async def write(self, message: Any) -> None:
        await self.permitted()
        if not self._has_begun:
            with suppress(grpc.aio.UsageError):  # sent already, by whoever has grpc's own context
                await self.send_initial_metadata(())
        await self._context.write(message)

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Sends it whole, and alone: grpc.aio believes that it was not sent when its sending is
        cancelled, would send it again with the status, and so could not end the RPC any more."""
        self._has_begun = True
        sending = asyncio.ensure_future(self._context.send_initial_metadata(metadata))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait({sending}, timeout=_LONGEST_SENDING_S)
            if sending.done() and not sending.cancelled():
                sending.exception()  # of no interest: the RPC is being ended
            raise
