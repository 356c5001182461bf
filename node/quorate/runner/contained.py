"""The supervisor's hand on the init, and through it on the command.

Owns starting the init, what is said to it and heard from it, and that nothing of the command is
left when it is closed, also when the init was killed or hangs: this process adopts orphans, too.

The init is executed, not forked: a fork of this process would be one of gRPC's threads and
connections. Nothing of this process is inherited but the standard streams, the directory and the
environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from quorate.runner import descendants, kernel
from quorate.runner.cgroup import Cgroup
from quorate.runner.messages import Line, Message, pair

INIT_MODULE: Final = "quorate.runner.init"
_END_S: Final = 2.0
"""How long an init may take to end by itself when its line is closed."""


class Contained:
    """One command that is about to run. For the main thread of a process that starts no other
    children meanwhile; those that it has already (a shell's, that was replaced by this program) are
    none of the command's.

    grace_ms: between SIGTERM and SIGKILL; 0: SIGKILL at once.
    freeze: the command stands still where it is not permitted, instead of being ended.
    use_cgroup: where one can be made.
    stdout: a descriptor that the command has for its standard output; -1: this process's own.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        grace_ms: int,
        freeze: bool = False,
        use_cgroup: bool = True,
        stdout: int = -1,
    ) -> None:
        self.grace_ms = grace_ms
        self.freeze = freeze
        self._arguments = [
            str(grace_ms),
            "freeze" if freeze else "stop",
            "cgroup" if use_cgroup else "walk",
            *command,
        ]
        self._stdout = stdout
        self._cgroup = ""

    def __enter__(self) -> Self:
        """Starts the init; the command is not started. Raises OSError."""
        ours, its = pair()
        self._others = {process.key for process in descendants.of(os.getpid())}
        kernel.adopt_orphans()
        # Where it was ignored, nobody could tell how the init ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # -P: no module of the working directory takes the place of one that is installed.
        start = [sys.executable, "-P", "-m", INIT_MODULE, str(its.fileno())]
        try:
            # A session of its own: what the terminal sends is for this process to pass on.
            self._init = subprocess.Popen(
                [*start, *self._arguments],
                pass_fds=(its.fileno(),),
                start_new_session=True,
                stdout=None if self._stdout < 0 else self._stdout,
            )
        except OSError:
            ours.close()
            raise
        finally:
            its.close()
        self._line = Line(ours)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def fileno(self) -> int:
        return self._line.fileno()

    # -- orders ------------------------------------------------------------------------------

    def start(self, environment: Mapping[str, str], until_ns: int) -> None:
        """Starts the command, if the init is asked before that moment of the boot clock.

        environment: in addition to this process's own.
        """
        self._line.say(start=dict(environment), until=until_ns)

    def permit(self, until_ns: int) -> None:
        """The command may run until then; 0: it may not."""
        self._line.say(until=until_ns)

    def deny_for_good(self) -> None:
        """The command is ended, also where it would stand still otherwise."""
        self._line.say(final=True)

    def pass_on(self, number: signal.Signals) -> None:
        """To the command's process group."""
        self._line.say(signal=int(number))

    def kill(self) -> None:
        """SIGKILL to everything."""
        self._line.say(kill=True)

    def abandon(self) -> None:
        """The init does not do what it was told: it is killed, and the command with it."""
        self._init.kill()

    # -- reports -----------------------------------------------------------------------------

    def heard(self) -> Iterator[Message]:
        """What the init has reported; see there."""
        for message in self._line.heard():
            self._cgroup = message.get("cgroup", self._cgroup)
            yield message

    @property
    def is_lost(self) -> bool:
        """The init is no more."""
        return self._line.is_broken

    def end(self) -> None:
        """Returns when nothing is left of the command. Harmless when repeated."""
        self._line.close()
        try:
            self._init.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._init.kill()
        if self._init.wait() != 0:  # not by itself, so it has left something
            cgroup = Cgroup(Path(self._cgroup)) if self._cgroup else None
            if cgroup is not None:
                cgroup.kill()
            descendants.kill_all(self._others)
            if cgroup is not None:
                cgroup.remove()
        kernel.adopt_orphans(False)
