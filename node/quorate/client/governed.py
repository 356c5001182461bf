"""Functions that run only under a lease.

    pool = LeasePool(gate)

    @governed(pool, "tools.search", resource=lambda query, index: f"//acme.example/index/{index}")
    def search(query: str, index: str) -> list[str]: ...

Owns the decorator, the rules by which services name an act, and what the running act knows of its
permit (`current_permit`).
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

from quorate.client.aio.pool import AsyncLeasePool
from quorate.client.decisions import ClientReason, Denied, Permit
from quorate.client.lineage import under
from quorate.client.pool import LeasePool

_log: Final = logging.getLogger("quorate.client")

P = ParamSpec("P")
R = TypeVar("R")
Name = str | Callable[P, str]
Context = Mapping[str, str] | Callable[P, Mapping[str, str]] | None

RequestT = TypeVar("RequestT")


class Act(NamedTuple):
    """What somebody is about to do. context: what there is to say of it, by name: see
    `Gate.acquire`. Each context has a lease of its own."""

    action: str
    resource: str
    context: Mapping[str, str] | None = None


class Exempt(Enum):
    """`EXEMPT`: what needs no lease."""

    EXEMPT = "EXEMPT"


EXEMPT: Final = Exempt.EXEMPT

Rule = Callable[[RequestT], Act | Exempt | None]
"""The act that a request is; None when the rule does not know it, which is a denial."""


def act_of(rule: Rule[RequestT], request: RequestT) -> Act | Denied | None:
    """The act that a request is, why it is denied, or None when it needs no lease."""
    try:
        act = rule(request)
    except Exception as error:  # noqa: BLE001 - another's program: what it cannot say is denied
        _log.exception("a rule failed")
        return Denied(ClientReason.NO_RULE, detail=f"the rule failed: {type(error).__name__}")
    if act is EXEMPT:
        return None
    if isinstance(act, Act):
        return act
    return Denied(ClientReason.NO_RULE, detail="no rule says what this is")


_permit: Final[ContextVar[Permit | None]] = ContextVar("quorate_permit", default=None)


def current_permit() -> Permit | None:
    """The permit that the running act goes by, for its fence; None outside of any. It was good when
    the act began, which says nothing of later."""
    return _permit.get()


@contextmanager
def going_by(permit: Permit) -> Iterator[None]:
    """Makes it the `current_permit` of the block, whose work comes from its lease."""
    token = _permit.set(permit)
    try:
        with under(permit.lease_id):
            yield
    finally:
        _permit.reset(token)


class _OfAny(Protocol):
    """Decorates functions of whatever arguments."""

    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def governed(
    pool: LeasePool | AsyncLeasePool,
    action: str,
    resource: str,
    *,
    context: Mapping[str, str] | None = None,
) -> _OfAny: ...


@overload
def governed(
    pool: LeasePool | AsyncLeasePool,
    action: str,
    resource: Name[P],
    *,
    context: Context[P] = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def governed(
    pool: LeasePool | AsyncLeasePool,
    action: str,
    resource: Name[P],
    *,
    context: Context[P] = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Runs a function only under the pool's lease for this action and resource; else it is not
    called, and DeniedError is raised.

    A coroutine function (of an AsyncLeasePool) is cancelled, and DeniedError raised, when the lease
    is interrupted while it runs. A plain function (of a LeasePool) cannot be stopped by anybody: it
    runs to its end, and the next call is denied. Until then a revocation does not count as drained.

    resource: a text, or a function of the same arguments that gives one. context: what there is to
    say of the work, by name, or a function that gives that. Raises TypeError for what cannot be
    governed: a generator's body runs after the call is over.
    """

    def naming(*args: P.args, **kwargs: P.kwargs) -> Act:
        """What a call with these arguments is."""
        name = resource if isinstance(resource, str) else resource(*args, **kwargs)
        said = context(*args, **kwargs) if callable(context) else context
        return Act(action, name, said)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function!r} is a generator: govern what it does, in it")
        if isinstance(pool, AsyncLeasePool):
            if not inspect.iscoroutinefunction(function):
                raise TypeError(
                    f"{function!r} is no coroutine function, as an AsyncLeasePool needs"
                )
            made = _governed_coroutine(pool, naming, function)
            return cast("Callable[P, R]", made)
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function!r} is a coroutine function: it needs an AsyncLeasePool")
        return _governed_function(pool, naming, function)

    return decorate


def _governed_function(
    pool: LeasePool, naming: Callable[P, Act], function: Callable[P, R]
) -> Callable[P, R]:
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with pool.lease(*naming(*args, **kwargs)) as lease, lease.act() as permit, going_by(permit):
            return _finished(function(*args, **kwargs), function)

    return run


def _finished(result: R, function: object) -> R:
    """Ends a result that would do its work after the act is over, and raises TypeError for it."""
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        for end in ("close", "cancel"):
            getattr(result, end, lambda: None)()
        raise TypeError(
            f"{function!r} gave back work that is still to be done: govern that instead"
        )
    return result


def _governed_coroutine(
    pool: AsyncLeasePool, naming: Callable[P, Act], function: Callable[P, Awaitable[Any]]
) -> Callable[P, Awaitable[Any]]:
    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> Any:
        leased = pool.lease(*naming(*args, **kwargs))
        async with leased as lease, lease.hold(), lease.act() as permit:
            with going_by(permit):
                return _finished(await function(*args, **kwargs), function)

    return run
