"""Servers with threads: a handler runs only under a lease, and its RPC is ended when trust goes.

Owns the interceptor. A thread cannot be stopped: the RPC is over for its client at once, the
handler when it next sends or receives a message, or returns.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Self, TypeAlias

import grpc

from quorate.client.decisions import Denied, DeniedError, Permit
from quorate.client.governed import Act, Rule, going_by
from quorate.client.interceptors.handlers import Behaviour, behaviour_of, with_behaviour
from quorate.client.interceptors.refusals import Refusal, no_lineage, ungovernable
from quorate.client.interceptors.rules import decide
from quorate.client.leases import Lease
from quorate.client.lineage import Arrival, arriving, headers_of
from quorate.client.pool import LeasePool

_log: Final = logging.getLogger("quorate.client")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class LeaseServerInterceptor(grpc.ServerInterceptor):
    """Runs each RPC of a grpc.server under the pool's lease that a rule names for it.

    rule: as for `AsyncLeaseServerInterceptor`. It is called by the thread that serves all: it must
        not block.

    takes_lineage: whether leases that a call names in `quorate-lease` are the parents of its own;
        for callers who are known.

    A denied RPC ends with PERMISSION_DENIED, whatever the reason, and its handler does not run. One
    whose lease is interrupted is ended for its client at once, with CANCELLED, for no other status
    can be sent from outside of the handler's thread. Its handler goes on until it sends or receives
    a message of a stream, which raises DeniedError, or ends by itself; until then the interruption
    is not acknowledged. Each message of a response stream needs a permit.
    """

    def __init__(
        self,
        pool: LeasePool,
        rule: Rule[grpc.HandlerCallDetails],
        *,
        takes_lineage: bool = True,
    ) -> None:
        self._pool = pool
        self._rule = rule
        self._takes_lineage = takes_lineage

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Handler | None = continuation(handler_call_details)
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
        problem = _problem_of(behaviour)
        if problem:
            _log.error("%s: %s: it is not run", method, problem)
            return with_behaviour(handler, _refusing(ungovernable(problem)))
        headers = headers_of(handler_call_details.invocation_metadata or ())
        try:
            come = arriving(headers, is_believed=self._takes_lineage)
        except ValueError as error:
            return with_behaviour(handler, _refusing(no_lineage(error).status()))
        governed = _Governed(self._pool, act, handler, method, come)
        run = governed.stream if handler.response_streaming else governed.unary
        # With the attributes of the handler: a thread pool of its own is one.
        return with_behaviour(handler, functools.update_wrapper(functools.partial(run), behaviour))


def _problem_of(behaviour: Behaviour) -> str:
    """Why a handler cannot be governed; empty when it can."""
    if inspect.iscoroutinefunction(behaviour) or inspect.isasyncgenfunction(behaviour):
        return "the handler is asynchronous, and the server is not"
    if getattr(behaviour, "experimental_non_blocking", False):
        return "the handler returns before its RPC is over (experimental_non_blocking)"
    return ""


def _refusing(status: grpc.Status) -> Behaviour:
    def refuse(_request: Any, context: grpc.ServicerContext) -> None:
        context.abort_with_status(status)

    return refuse


class _Governed:
    """A handler that runs only under a lease."""

    def __init__(
        self, pool: LeasePool, act: Act, handler: Handler, method: str, come: Arrival
    ) -> None:
        self._pool = pool
        self._come = come
        self._act = act
        self._behaviour = behaviour_of(handler)
        self._has_stream = bool(handler.request_streaming)
        self._method = method

    def unary(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._under_lease(context) as running:
            response = self._begin(request, context, running)
            running.check_told()  # the handler may have taken no notice
            return response

    def stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with self._under_lease(context) as running:
            responses = self._begin(request, context, running)
            try:
                for response in responses:
                    running.check()
                    yield response
            finally:
                # The handler ends within the lease; dropped, it would end after it.
                if hasattr(responses, "close"):
                    responses.close()
            running.check()  # a stream that is cut off must not look whole

    def _begin(self, request: Any, context: grpc.ServicerContext, running: _Running) -> Any:
        if self._has_stream:
            request = _Requests(request, running)
        return self._behaviour(request, context)

    @contextmanager
    def _under_lease(self, context: grpc.ServicerContext) -> Iterator[_Running]:
        lease_id = ""
        try:
            with (
                self._come.entered(),
                self._pool.lease(*self._act) as lease,
            ):
                lease_id = lease.id
                running = _Running(lease, context)
                with lease.hold(running.told), lease.act() as permit, going_by(permit):
                    if not context.is_active():
                        context.abort(grpc.StatusCode.CANCELLED, "over before it began")
                    yield running
        except DeniedError as error:
            _log.info("%s: %s", self._method, error)
            context.abort_with_status(Refusal(error.denied, lease_id).status())


class _Running:
    """An RPC that runs under a lease. denied: why it must not any more."""

    def __init__(self, lease: Lease, context: grpc.ServicerContext) -> None:
        self._lease = lease
        self._context = context
        self._denied: Denied | None = None

    def told(self, news: Permit | Denied) -> None:
        """From a thread of the gate's."""
        if isinstance(news, Denied):
            self._denied = news
            self._context.cancel()

    def check_told(self) -> None:
        """Raises DeniedError when the RPC was ended, or a message of it was denied."""
        if self._denied is not None:
            raise DeniedError(self._denied)

    def check(self) -> None:
        """Raises DeniedError when the RPC was ended, or there is no permit, or was none: a stream
        has no gaps."""
        self.check_told()
        try:
            with self._lease.act():
                pass
        except DeniedError as error:
            self._denied = error.denied
            raise


class _Requests:
    """The requests of a stream, as long as they may be worked on."""

    def __init__(self, requests: Iterator[Any], running: _Running) -> None:
        self._requests = requests
        self._running = running

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            request = next(self._requests)
        except (StopIteration, grpc.RpcError):
            # The end of an RPC that was ended can look like the client's own last word.
            self._running.check_told()
            raise
        self._running.check()
        return request
