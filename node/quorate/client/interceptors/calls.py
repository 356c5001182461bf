"""Calls of grpc, with threads, that are made under a lease.

Owns the lease for as long as a call lasts, and how the call ends when it is interrupted: as denied,
not as cancelled by its caller. All else is the call's own.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import grpc

from quorate.client.decisions import Denied, Permit
from quorate.client.governed import Act
from quorate.client.interceptors.refusals import CallDeniedError, Refusal
from quorate.client.pool import LeasePool


class LeaseOfCall:
    """The lease that one call is made under, held until the call has ended, by whatever thread sees
    that. id: empty until there is a lease. denied: why the call was cancelled. has_ended: nothing
    is held any more."""

    def __init__(self) -> None:
        self.id = ""
        self.denied: Denied | None = None
        self.has_ended = False
        self._lock = threading.Lock()
        self._call: Any = None
        self._blocks = ExitStack()

    def take(self, pool: LeasePool, act: Act) -> None:
        """Raises DeniedError when there is none."""
        with ExitStack() as blocks:
            lease = blocks.enter_context(pool.lease(*act))
            self.id = lease.id
            blocks.enter_context(lease.hold(self._told))
            blocks.enter_context(lease.act())
            self._blocks = blocks.pop_all()

    def attach(self, call: Any) -> None:
        """The call has begun."""
        with self._lock:
            self._call = call
        call.add_done_callback(lambda _: self.end())
        if self.denied is not None:
            call.cancel()

    def end(self) -> None:
        """The call has ended, or will not begin. To be called once or more."""
        with self._lock:
            is_first, self.has_ended = not self.has_ended, True
        if is_first:
            self._blocks.close()

    def _told(self, news: Permit | Denied) -> None:
        """From a thread of the gate's."""
        if not isinstance(news, Denied) or self.denied is not None:
            return
        with self._lock:
            self.denied = news
            call = self._call
        if call is not None:
            call.cancel()


class LeasedCall(grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that was made under a lease."""

    def __init__(self, call: Any, lease: LeaseOfCall) -> None:
        self._call = call
        self._lease = lease

    def __del__(self) -> None:
        """Nobody hears of it any more. The lease is let go by another thread: what is collected may
        be so in the middle of anything, with any lock taken."""
        if not self._lease.has_ended:
            self._call.cancel()
            with suppress(RuntimeError):  # the interpreter ends
                _thread.start_new_thread(self._lease.end, ())

    # -- how it ends ---------------------------------------------------------------------------

    def cancel(self) -> bool:
        has_cancelled = bool(self._call.cancel())
        self._lease.end()
        return has_cancelled

    def _denial(self) -> CallDeniedError | None:
        """Why it was cancelled; None when that was not on account of its lease."""
        denied = self._lease.denied
        if denied is None or not self._call.cancelled():
            return None
        return CallDeniedError(Refusal(denied, self._lease.id))

    @contextmanager
    def _denied_when_cancelled(self) -> Iterator[None]:
        """Raises CallDeniedError when the call was cancelled on account of its lease."""
        try:
            yield
        except (grpc.FutureCancelledError, grpc.RpcError):
            self._lease.end()
            denial = self._denial()
            if denial is None:
                raise
            raise denial from None

    def code(self) -> grpc.StatusCode:
        own: grpc.StatusCode = self._call.code()
        denial = self._denial()
        return own if denial is None else denial.code()

    def details(self) -> str:
        own: str = self._call.details()
        denial = self._denial()
        return own if denial is None else denial.details()

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        own: tuple[tuple[str, str | bytes], ...] = self._call.trailing_metadata()
        denial = self._denial()
        return own if denial is None else denial.trailing_metadata()

    def cancelled(self) -> bool:
        return bool(self._call.cancelled()) and self._denial() is None

    # -- what comes of it ----------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._denied_when_cancelled():
            return next(self._call)

    def result(self, timeout: float | None = None) -> Any:
        with self._denied_when_cancelled():
            return self._call.result(timeout)

    def exception(self, timeout: float | None = None) -> Exception | None:
        try:
            own: Exception | None = self._call.exception(timeout)
            return own
        except grpc.FutureCancelledError:
            denial = self._denial()
            if denial is None:
                raise
            return denial

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: fn(self))

    # -- the call's own ------------------------------------------------------------------------

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        metadata: tuple[tuple[str, str | bytes], ...] = self._call.initial_metadata()
        return metadata

    def debug_error_string(self) -> str:
        return str(self._call.debug_error_string())

    def is_active(self) -> bool:
        return bool(self._call.is_active())

    def time_remaining(self) -> float:
        left: float = self._call.time_remaining()
        return left

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return bool(self._call.add_callback(callback))

    def running(self) -> bool:
        return bool(self._call.running())

    def done(self) -> bool:
        return bool(self._call.done())
