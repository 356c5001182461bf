"""A command under a lease, from the first permit to the last process.

Owns the supervisor's loop: the gate's news and the process's signals become orders to the init, the
init's reports become an ending. Prints nothing.

The bound. The init is told the end of each permit, and lets nothing run later; this process tells
it of a denial as soon as the gate does. So the command gets its signal when the denial is known,
and when the last permit is over at the latest, and SIGKILL when the grace has passed since. That
needs the init alone: this process may be stopped, starved or dead. If it is the init that does not
do as it is told, this process kills it, and the command with it, `_SLACK_MS` later.

The whole is one act (`Lease.act`): an interruption is acknowledged when nothing of the command is
left, and not before. Then the lease is released while it is still held, so that the acknowledgement
leaves on a watch that is still open.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from errno import ENOENT
from types import TracebackType
from typing import Final, Self

from quorate.client import ClientReason, Denied, DeniedError, Gate, Lease, Permit, traces
from quorate.runner.contained import Contained
from quorate.runner.kernel import NS_PER_MS, boottime_ns
from quorate.runner.messages import Message
from quorate.runner.reasons import is_for_good
from quorate.runner.record import Record

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_KILLING: Final = (signal.SIGINT, signal.SIGTERM)
"""The second of these is not passed on: it kills."""

CODE_NOT_FOUND: Final = 127
CODE_NOT_EXECUTABLE: Final = 126
CODE_OF_SIGNALS: Final = 128
"""As shells have them."""

RELEASE_TIMEOUT_MS: Final = 2_000
_SHORTEST_LIFE_MS: Final = 1_000
_ASK_AGAIN_S: Final = 1.0
_SLACK_MS: Final = 2_000
_REASON_MS: Final = 250
"""For the gate to say why the last permit was over, where the init was faster."""
_LONGEST_LOOK_MS: Final = 50
_SHORTEST_LOOK_MS: Final = 5


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. denied: set when the command was ended, or never started, because of it.

    code: of the command's own end, as a shell gives it; means nothing when it was denied.
    problem: for people; set when something else than the command ended it.
    """

    code: int = 0
    denied: Denied | None = None
    has_started: bool = False
    problem: str = ""


def run(gate: Gate, lease: Lease, contained: Contained, record: Record) -> Ending:
    """Runs the contained command under a lease that was just acquired, and releases the lease; the
    record is told what happens. For the main thread, whose signals it takes."""
    with _Run(gate, lease, contained, record) as running:
        try:
            with gate.hold(lease, running.tell, renew=True):
                ending = running.with_reason(running.act())
                gate.release(lease, timeout_ms=RELEASE_TIMEOUT_MS)
                return ending
        except DeniedError as error:
            gate.release(lease, timeout_ms=RELEASE_TIMEOUT_MS)
            return Ending(denied=error.denied)


class _Run:
    """The loop. `tell` may be called from any thread, the rest is the main thread's."""

    def __init__(self, gate: Gate, lease: Lease, contained: Contained, record: Record) -> None:
        self._gate = gate
        self._lease = lease
        self._contained = contained
        self._record = record
        # As the ledger has given it, and not by the wall clock: see docs/exec.md on freezes.
        life_ms = lease.life_ms or lease.ttl_ms
        self._life_ns = max(life_ms, _SHORTEST_LIFE_MS) * NS_PER_MS
        self._news: deque[Permit | Denied] = deque()
        self._denied: Denied | None = None
        self._denied_at_ns = 0
        self._told_until_ns = 0
        self._is_ready = False
        self._is_ordered = False
        self._is_ending = False
        self._has_started = False
        self._is_unexplained = False
        self._kills = 0
        self._patience_ns: int | None = None
        self._asking = threading.Event()
        self._ending: Ending | None = None

    def __enter__(self) -> Self:
        """Signals are taken from here on: none ends this process."""
        self._woken, self._waking = socket.socketpair()
        for end in (self._woken, self._waking):
            end.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._waking.fileno(), warn_on_full_buffer=False)
        # What was ignored stays so, here and in the command: nohup means it. Ctrl-Z must not stop
        # the one who watches while the command, in a session of its own, goes on.
        taken = (n for n in (*FORWARDED, signal.SIGTSTP) if signal.getsignal(n) != signal.SIG_IGN)
        self._handlers_before = {n: signal.signal(n, lambda *_: None) for n in taken}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(self._contained, selectors.EVENT_READ)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._selector.close()
        self._woken.close()
        self._waking.close()

    def tell(self, news: Permit | Denied) -> None:
        """The gate's `on_change`."""
        self._news.append(news)
        with suppress(OSError):  # it is full, so it wakes; or the run is over
            self._waking.send(b"\0")

    def act(self) -> Ending:
        """The act: starts the command, and returns when nothing of it is left."""
        try:
            with self._lease.act():
                try:
                    return self._until_over()
                finally:
                    self._asking.set()
                    self._contained.end()
        except DeniedError as error:
            return Ending(denied=error.denied)

    def _until_over(self) -> Ending:
        while True:
            self._selector.select(self._wait_s())
            self._take_signals()
            for message in self._contained.heard():
                self._take_in(message)
            if self._ending is None and self._contained.is_lost:
                self._ending = self._without_init()
            if self._ending is not None:
                return self._ending
            self._look(boottime_ns())

    def _wait_s(self) -> float:
        """Often enough that a permit is passed on long before the one before it is over."""
        left_ms = max(0, self._told_until_ns - boottime_ns()) / NS_PER_MS
        return min(max(left_ms / 4, _SHORTEST_LOOK_MS), _LONGEST_LOOK_MS) / 1_000

    # -- what comes --------------------------------------------------------------------------

    def _take_signals(self) -> None:
        with suppress(BlockingIOError):
            for number in self._woken.recv(4_096):
                if number in FORWARDED:
                    self._take_signal(signal.Signals(number))

    def _take_signal(self, number: signal.Signals) -> None:
        if not self._is_ordered:
            self._ending = Ending(CODE_OF_SIGNALS + number)
            return
        self._kills += number in _KILLING
        if self._kills < 2:
            self._contained.pass_on(number)
        else:
            self._contained.kill()
            self._expect(_SLACK_MS)

    def _take_in(self, message: Message) -> None:
        self._is_ready = self._is_ready or "ready" in message
        if "pid" in message:
            self._has_started = True
            self._record.started()
        if "frozen" in message:
            self._record.frozen()
            if not self._is_ending:
                self._patience_ns = None
        if self._ending is None and "failed" in message:
            number = message["failed"]
            code = CODE_NOT_FOUND if number == ENOENT else CODE_NOT_EXECUTABLE
            self._ending = Ending(code, problem=os.strerror(number))
        if self._ending is None and "status" in message:
            self._ending = self._of(message)

    def _of(self, message: Message) -> Ending:
        if message["stopped"]:
            return self._as_denied()
        code = os.waitstatus_to_exitcode(message["status"])
        return Ending(code if code >= 0 else CODE_OF_SIGNALS - code, has_started=True)

    def _without_init(self) -> Ending:
        if self._denied is not None:
            return self._as_denied()
        if not self._has_started:
            return Ending(CODE_NOT_EXECUTABLE, problem="its init ended before it was started")
        problem = "the init of the command was killed, and the command with it"
        return Ending(CODE_OF_SIGNALS + signal.SIGKILL, has_started=True, problem=problem)

    def _as_denied(self) -> Ending:
        self._is_unexplained = self._denied is None
        lapsed = Denied(ClientReason.LATE, self._lease.id, "the last permit was over")
        denied = lapsed if self._denied is None else self._denied
        return Ending(denied=denied, has_started=self._has_started)

    def with_reason(self, ending: Ending) -> Ending:
        """With what the gate says, if it was the init alone that noticed the end of the permit."""
        if not self._is_unexplained:
            return ending
        until_ns = boottime_ns() + _REASON_MS * NS_PER_MS
        while not self._news and (left_ns := until_ns - boottime_ns()) > 0:
            self._selector.select(left_ns / 1e9)
            self._take_signals()
        said = [news for news in self._news if isinstance(news, Denied)]
        return replace(ending, denied=said[-1]) if said else ending

    # -- what is to be done ------------------------------------------------------------------

    def _look(self, now_ns: int) -> None:
        while self._news:
            self._hear_of(self._news.popleft(), now_ns)
        if self._denied is None:
            self._pass_on(now_ns)
        elif now_ns - self._denied_at_ns >= self._life_ns:
            detail = "it stood still for as long as the lease was given for"
            self._stop(replace(self._denied, detail=detail))
        if self._patience_ns is not None and now_ns >= self._patience_ns:
            self._patience_ns = None
            self._contained.abandon()

    def _hear_of(self, news: Permit | Denied, now_ns: int) -> None:
        if self._is_ending:
            return
        if isinstance(news, Permit):
            self._record.goes_on()
            self._denied, self._told_until_ns, self._patience_ns = None, 0, None
            self._asking.set()
            return
        is_first = self._denied is None
        self._denied = news
        self._record.interrupted(news.reason)
        if not self._contained.freeze or not self._is_ordered or is_for_good(news.reason):
            self._stop(news)
        elif is_first:
            self._denied_at_ns = now_ns
            self._contained.permit(0)
            self._expect(_SLACK_MS)
            self._asking = threading.Event()
            threading.Thread(target=self._ask, args=(self._asking,), daemon=True).start()

    def _pass_on(self, now_ns: int) -> None:
        """The newest permit, to the init; with the first one the command starts."""
        until_ns = self._lease.slot.kept_until_ns()
        if not self._is_ready or until_ns <= max(now_ns, self._told_until_ns):
            return
        self._told_until_ns = until_ns
        if self._is_ordered:
            self._contained.permit(until_ns)
        else:
            self._is_ordered = True
            self._contained.start(_environment(self._lease), until_ns)

    def _stop(self, denied: Denied) -> None:
        if self._is_ending:
            return
        self._is_ending = True
        self._denied = denied
        self._asking.set()
        self._contained.deny_for_good()
        self._expect(self._contained.grace_ms + _SLACK_MS)

    def _expect(self, within_ms: int) -> None:
        """The init has so long to do what it was told."""
        until_ns = boottime_ns() + within_ms * NS_PER_MS
        self._patience_ns = min(until_ns, self._patience_ns or until_ns)

    def _ask(self, over: threading.Event) -> None:
        """While the command stands still: whether it does so for good by now. The gate tells when
        work may go on, and no second time why it may not."""
        while not over.wait(_ASK_AGAIN_S):
            answer = self._gate.ask(self._lease, is_handed=False)
            if isinstance(answer, Denied) and is_for_good(answer.reason) and not over.is_set():
                self.tell(answer)
                return


def _environment(lease: Lease) -> dict[str, str]:
    return {
        "QUORATE_LEASE": lease.id,
        "QUORATE_FENCE": str(lease.fence),
        "QUORATE_ACTION": lease.action,
        "QUORATE_RESOURCE": lease.resource,
        **traces.variables(),
    }
