"""The command and everything that came of it, as their init has them.

Owns the fork and the exec, and what is done to all of them: signals, freezing, killing, reaping.
Decides nothing (`init` does).

They are reached in two ways at once: through a cgroup where one could be made, and by walking the
descendants of the init, to which every orphan comes, whatever sessions and groups they are in.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from quorate.runner import descendants, kernel
from quorate.runner.cgroup import Cgroup
from quorate.runner.descendants import Key, Process

_LEFT_OUT: Final = b"-"
"""What the child says when it could not enter the cgroup."""
_CHANGED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)


class Family:
    """One command. To be used by a process with one thread and no other children, which adopts
    orphans.

    kept: signals that the command is to ignore, as whoever started all this has it.
    pid, status: the command's own; status None: it has not ended.
    """

    def __init__(
        self, command: Sequence[str], *, use_cgroup: bool, kept: Sequence[signal.Signals]
    ) -> None:
        self._command = list(command)
        self._kept = kept
        self._cgroup = Cgroup.make() if use_cgroup else None
        self._stopped: set[Key] = set()
        self.pid = 0
        self.status: int | None = None

    @property
    def cgroup_path(self) -> str:
        """Empty: there is none."""
        return str(self._cgroup.path) if self._cgroup is not None else ""

    def start(self, environment: Mapping[str, str], reset: Sequence[signal.Signals]) -> None:
        """Returns when the command has been executed. Raises OSError when it cannot be.

        reset: signals that this process handles otherwise than the command is to.
        """
        reader, writer = os.pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(writer, parent, environment, reset)
        os.close(writer)
        with open(reader, "rb") as answer:  # noqa: PTH123 - a descriptor
            told = answer.read()
        if told.startswith(_LEFT_OUT):
            self.close()
        problem = told.removeprefix(_LEFT_OUT)
        if problem:
            number = int(problem)
            raise OSError(number, os.strerror(number), self._command[0])

    def _become(
        self,
        writer: int,
        parent: int,
        environment: Mapping[str, str],
        reset: Sequence[signal.Signals],
    ) -> NoReturn:
        """In the child: the command, in a session of its own, or the end."""
        try:
            os.setsid()
            kernel.signal_at_parents_end(signal.SIGKILL)
            if os.getppid() != parent:  # it had ended before the kernel was told
                os._exit(1)
            if self._cgroup is not None:
                try:
                    self._cgroup.enter()
                except OSError:
                    os.write(writer, _LEFT_OUT)
            for number in (*reset, *_CHANGED_BY_PYTHON):
                ignored = number in self._kept
                signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
            os.execvpe(self._command[0], self._command, environment)  # noqa: S606 - no shell, indeed
        except OSError as error:
            os.write(writer, str(error.errno).encode())
        finally:
            os._exit(1)

    def reap(self) -> bool:
        """Takes in what has ended; whether anything is left that has not."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.pid:
                self.status = status

    def pass_on(self, number: signal.Signals) -> None:
        """To the command's process group, and to nobody else."""
        if not self._signal_group(number):
            self._walk(number, lambda process: process.group == self.pid)

    def terminate(self) -> None:
        """SIGTERM to all, the group first and at once; what stands still goes on, to hear it."""
        is_told = self._signal_group(signal.SIGTERM)
        self._walk(signal.SIGTERM, lambda process: process.group != self.pid or not is_told)
        self.thaw()

    def freeze(self) -> bool:
        """All stand still. What somebody else had stopped before stays so when they go on. To be
        repeated, soon if there was somebody new: others may have been missed."""
        if self._cgroup is not None:
            self._cgroup.freeze()
            return False
        known = len(self._stopped)
        self._stopped |= self._walk(signal.SIGSTOP, lambda process: not process.is_stopped)
        return len(self._stopped) > known

    def thaw(self) -> None:
        if self._cgroup is not None:
            self._cgroup.thaw()
        if self._stopped:
            self._walk(signal.SIGCONT, lambda process: process.key in self._stopped)
            self._stopped.clear()

    def kill(self) -> None:
        """SIGKILL to all. To be repeated until `reap` says that nothing is left."""
        if self._cgroup is not None:
            self._cgroup.kill()
        self._signal_group(signal.SIGKILL)
        self._walk(signal.SIGKILL, lambda _process: True)

    def close(self) -> None:
        """Takes the cgroup away."""
        if self._cgroup is not None:
            self._cgroup.remove()
            self._cgroup = None

    def _signal_group(self, number: signal.Signals) -> bool:
        """Only as long as the command is not reaped: its number may be another's afterwards."""
        if self.status is not None:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)
        return True

    @staticmethod
    def _walk(number: signal.Signals, wanted: Callable[[Process], bool]) -> set[Key]:
        return descendants.send_all(os.getpid(), number, wanted)
