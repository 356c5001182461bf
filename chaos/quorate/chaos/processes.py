"""Real processes, in groups of their own, that can be killed, paused, stopped, and never forgotten.

Owns starting and ending them. Knows nothing of nodes (see `quorate.chaos.cluster`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from quorate.core.errors import QuorateError

KILL_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 15.0
POLL_S: Final = 0.02


class ProcessError(QuorateError):
    """A process did not do what it was told, or ended by itself."""


class DeadlineError(QuorateError):
    """What was waited for did not come about in time."""


def wait_until(what: str, holds: Callable[[], bool], timeout_s: float) -> float:
    """Asks `holds` again and again until it is true; returns the seconds that it took.

    Raises DeadlineError.
    """
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > timeout_s:
            raise DeadlineError(f"after {timeout_s:g} s still waiting for: {what}")
        time.sleep(POLL_S)
    return time.monotonic() - start


class ProcessGroup:
    """One program and whatever it starts. Made by `Warden.spawn`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, warden: Warden):
        self.name = name
        self.log = log
        self._process = process
        self._warden = warden
        self._reaped = False

    @property
    def pgid(self) -> int:
        """The group's id, which is its leader's process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """True while the leader lives; it is not reaped here, so its number stays its own."""
        if self._reaped:
            return False
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is None

    def members(self) -> list[int]:
        """The living processes of the group, its leader first."""
        return group_members(self.pgid) if not self._reaped else []

    def kill(self) -> None:
        """SIGKILL to every process of the group at once; returns when none is left."""
        if self._reaped:
            return
        self._signal_group(signal.SIGKILL)
        wait_until(f"the death of {self.name}", lambda: not self.members(), KILL_TIMEOUT_S)
        self._reap()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM to the leader, which ends its own; SIGKILL to what is left after `timeout_s`.

        Returns the leader's exit status. Raises ProcessError when it had to be killed.
        """
        self.ask_to_stop()
        return self.wait(timeout_s)

    def ask_to_stop(self) -> None:
        """SIGTERM to the leader alone."""
        if self.is_running():
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        """Waits until the whole group is gone; kills it and raises ProcessError when it is not."""
        if not self._reaped:
            try:
                wait_until(f"the end of {self.name}", lambda: not self.members(), timeout_s)
            except DeadlineError:
                left = self.members()
                self.kill()
                raise ProcessError(
                    f"{self.name} did not stop within {timeout_s:g} s; killed {left}",
                    hint=f"its log: {self.log}",
                ) from None
            self._reap()
        return self._process.returncode

    def pause(self) -> None:
        """SIGSTOP to the whole group."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to the whole group."""
        self._signal_group(signal.SIGCONT)

    def log_tail(self, lines: int = 20) -> str:
        """The end of what it wrote."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _signal_group(self, number: signal.Signals) -> None:
        assert not self._reaped, f"{self.name} is gone"
        with contextlib.suppress(ProcessLookupError):  # all of it ended by itself
            os.killpg(self.pgid, number)

    def _reap(self) -> None:
        self._warden.drop(self)
        self._process.wait(KILL_TIMEOUT_S)
        self._reaped = True


class Warden:
    """Starts process groups, and ends all of them when this process ends, however it ends."""

    def __init__(self) -> None:
        self._groups: list[ProcessGroup] = []
        self._lock = threading.Lock()
        self._closed = False
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "quorate.chaos.warden"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for us, not for it
            cwd="/",
        )

    def spawn(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> ProcessGroup:
        """Starts `command` in a session and process group of its own, its output added to `log`."""
        assert not self._closed
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=clean_environment(environment or {}),
                start_new_session=True,
            )
        group = ProcessGroup(name, process, log, self)
        self._tell(f"add {group.pgid}")
        with self._lock:
            self._groups.append(group)
        return group

    def drop(self, group: ProcessGroup) -> None:
        """Called by a group when nothing of it is left, before its leader is reaped."""
        self._tell(f"drop {group.pgid}")
        with self._lock:
            self._groups.remove(group)

    def close(self) -> None:
        """Kills whatever is left, and ends the keeper. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            left = list(self._groups)
        for group in left:
            group.kill()
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(KILL_TIMEOUT_S)

    def _tell(self, line: str) -> None:
        assert self._keeper.stdin is not None
        with self._lock:
            self._keeper.stdin.write(f"{line}\n".encode())
            self._keeper.stdin.flush()


def clean_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings meant for some other node."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("QUORATE_")}
    return kept | dict(changes)


def group_members(pgid: int) -> list[int]:
    """The processes of a group that have not ended; a zombie has. The leader comes first."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        # proc(5): after the name in parentheses come the state, the parent, and the group.
        state, _parent, group = stat.rpartition(")")[2].split()[:3]
        if int(group) == pgid and state not in ("Z", "X"):
            members.append(int(entry.name))
    return sorted(members, key=lambda pid: (pid != pgid, pid))
