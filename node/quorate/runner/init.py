"""The parent of the command: `python -m quorate.runner.init`, started by `contained.Contained`.

Owns the rule that the command runs only as long as it is permitted: until a moment of the boot
clock that the supervisor moves on with every new permit, and that it takes back when there is a
denial. When the moment has passed, for whatever reason, a supervisor that is stopped or stuck
included, the command is ended (SIGTERM, then SIGKILL after the grace), or stands still if that was
wished. It ends itself when nothing that came of the command is left, and never before.

Who is killed, and what becomes of the others:

- The supervisor: its end of the line closes, and everything is killed at once. Nothing has to
  arrive and nobody has to be alive for that but this process.
- This process: the kernel kills the command (PR_SET_PDEATHSIG). What the command had started goes
  to the supervisor, which adopts orphans too, and kills it.
- Both in the same moment: the command is killed by the kernel. What it had started goes on, and
  nobody knows of it; with a cgroup too, for nobody is left who would write to `cgroup.kill`. A
  command that means to get away, and may signal its supervisors because it runs as the same user,
  can do this.

What can also get away: a process of another user that this one may not signal (set-user-ID
programs; the kernel drops PR_SET_PDEATHSIG for them, too), unless there is a cgroup; and whatever
the command has others start, who were running before. Without a cgroup, a program that forks and
ends faster than /proc can be read may evade the killing for as long as it manages to; the run is
not over before it is caught.

    init FD GRACE_MS stop|freeze cgroup|walk COMMAND ARG...

FD is the line to the supervisor, which says: `start` (with the environment) and `until`; `final`:
the denial is for good; `signal`: for the group; `kill`. It hears: `ready` and then `pid`, each with
the `cgroup`, or `failed` with an error number; `frozen`; and at last `status` (none: never started)
and `stopped`, whether the command was ended because it was denied.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quorate.runner import kernel
from quorate.runner.family import Family
from quorate.runner.kernel import NS_PER_MS, boottime_ns
from quorate.runner.messages import Line, Message

_LONGEST_WAIT_NS: Final = 100 * NS_PER_MS
"""Between two looks at the clock. A wait does not go on while the machine sleeps, the clock does:
so late after it has woken may it be noticed that the permit is over."""
_AGAIN_NS: Final = 20 * NS_PER_MS
"""Between two rounds of killing, when no end of a process calls for one sooner, and of freezing, as
long as they find somebody new."""
_STILL_NS: Final = 500 * NS_PER_MS
"""Between two looks whether all that stood still does so. The first one may have missed somebody,
and who may signal the program can continue it."""
_UNMOVED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
"""Signals that are meant for the command when they reach all processes at once: its supervisor
passes them on. This process must outlive it."""


@dataclass(frozen=True, slots=True)
class Orders:
    """The command line."""

    fd: int
    grace_ms: int
    freeze: bool
    use_cgroup: bool
    command: tuple[str, ...]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Orders:
        fd, grace_ms, manner, means, *command = arguments
        return cls(int(fd), int(grace_ms), manner == "freeze", means == "cgroup", tuple(command))


class Init:
    """The loop over orders, ends of processes, and the clock."""

    def __init__(self, orders: Orders, line: Line, woken: socket.socket, family: Family) -> None:
        self._orders = orders
        self._line = line
        self._woken = woken
        self._family = family
        self._selector = selectors.DefaultSelector()
        self._selector.register(line, selectors.EVENT_READ, self._hear)
        self._selector.register(woken, selectors.EVENT_READ, self._drain)
        self._until_ns = 0
        self._kill_at_ns: int | None = None
        self._kill_again_at_ns = 0
        self._freeze_at_ns = 0
        self._has_started = False
        self._is_over = False
        self._is_frozen = False
        self._is_ending = False
        self._was_stopped = False

    def run(self) -> None:
        self._line.say(ready=True, cgroup=self._family.cgroup_path)
        while not self._is_over:
            for key, _ in self._selector.select(self._wait_s()):
                key.data()
            if self._has_started and not self._is_over:
                self._look()

    # -- what comes --------------------------------------------------------------------------

    def _drain(self) -> None:
        self._woken.recv(4_096)

    def _hear(self) -> None:
        for message in self._line.heard():
            self._obey(message)
        if self._line.is_broken:
            self._selector.unregister(self._line)
            self._is_over = not self._has_started
            self._is_ending = True
            self._kill_at_ns = 0

    def _obey(self, message: Message) -> None:
        self._until_ns = message.get("until", self._until_ns)
        if self._is_frozen and "until" in message:  # it may have been faster than the order
            self._line.say(frozen=True)
        if "start" in message:
            self._start(message["start"])
        if "final" in message:
            self._stop()
        if "signal" in message and self._has_started:
            self._family.pass_on(signal.Signals(message["signal"]))
        if "kill" in message:
            self._kill_at_ns = 0

    def _start(self, environment: dict[str, str]) -> None:
        """If it is still permitted at this moment."""
        if boottime_ns() >= self._until_ns:
            self._was_stopped = True
            self._end()
            return
        try:
            self._family.start(os.environ | environment, (*_UNMOVED, signal.SIGCHLD))
        except OSError as error:
            self._line.say(failed=error.errno)
            self._end()
            return
        self._has_started = True
        self._line.say(pid=self._family.pid, cgroup=self._family.cgroup_path)

    # -- what is to be done ------------------------------------------------------------------

    def _look(self) -> None:
        if not self._family.reap():
            self._end()
            return
        now_ns = boottime_ns()
        if self._family.status is not None and self._kill_at_ns is None:
            # The command has ended by itself; what it left behind has as long as after a stop.
            self._kill_at_ns = now_ns + self._orders.grace_ms * NS_PER_MS
        if not self._is_ending:
            self._hold_to(now_ns < self._until_ns)
        if self._kill_at_ns is not None and now_ns >= self._kill_at_ns:
            self._family.kill()
            self._kill_again_at_ns = boottime_ns() + _AGAIN_NS

    def _hold_to(self, is_permitted: bool) -> None:
        if not is_permitted and not self._orders.freeze:
            self._stop()
        elif not is_permitted:
            self._freeze()
        elif is_permitted and self._is_frozen:
            self._is_frozen = False
            self._freeze_at_ns = 0
            self._family.thaw()

    def _freeze(self) -> None:
        if boottime_ns() < self._freeze_at_ns:
            return
        pause_ns = _AGAIN_NS if self._family.freeze() else _STILL_NS
        self._freeze_at_ns = boottime_ns() + pause_ns
        if not self._is_frozen:
            self._is_frozen = True
            self._line.say(frozen=True)

    def _stop(self) -> None:
        """Denied for good: all are asked to end, and made to when the grace is over."""
        if self._is_ending:
            return
        self._is_ending = True
        if not self._has_started:
            self._was_stopped = True
            self._end()
            return
        self._family.reap()
        self._was_stopped = self._family.status is None
        end_ns = boottime_ns() + self._orders.grace_ms * NS_PER_MS
        self._kill_at_ns = min(end_ns, self._kill_at_ns if self._kill_at_ns is not None else end_ns)
        if self._orders.grace_ms:
            self._family.terminate()

    def _end(self) -> None:
        self._is_over = True
        self._line.say(status=self._family.status, stopped=self._was_stopped)

    def _wait_s(self) -> float | None:
        if not self._has_started:
            return None
        now_ns = boottime_ns()
        due = [now_ns + _LONGEST_WAIT_NS]
        if not self._is_frozen and not self._is_ending:
            due.append(self._until_ns)
        if self._is_frozen and not self._is_ending:
            due.append(self._freeze_at_ns)
        if self._kill_at_ns is not None:
            due.append(max(self._kill_at_ns, self._kill_again_at_ns))
        return max(0, min(due) - now_ns) / 1e9


def main() -> int:
    """Runs until nothing is left of the command."""
    orders = Orders.parse(sys.argv[1:])
    os.set_inheritable(orders.fd, False)
    kernel.adopt_orphans()
    # One that was stopped must hear that its supervisor is no more.
    kernel.signal_at_parents_end(signal.SIGCONT)
    kept = [number for number in _UNMOVED if signal.getsignal(number) is signal.SIG_IGN]
    for number in _UNMOVED:
        signal.signal(number, signal.SIG_IGN)
    woken, waking = socket.socketpair()
    for end in (woken, waking):
        end.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    family = Family(orders.command, use_cgroup=orders.use_cgroup, kept=kept)
    line = Line(socket.socket(fileno=orders.fd))
    try:
        Init(orders, line, woken, family).run()
    finally:
        family.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
