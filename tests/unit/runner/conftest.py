"""Runs of `quorate exec` as real processes, with a gate that the test turns."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from quorate.chaos.processes import DeadlineError, clean_environment, wait_until
from quorate.runner import descendants
from quorate.runner.cgroup import Cgroup
from quorate.runner.descendants import Process

SUPERVISOR = Path(__file__).with_name("supervisor.py")
WAIT_S = 60.0
"""For what has to happen at once: a busy machine may take long, and a fault for ever."""
END_S = 5.0


def is_alive(pid: int) -> bool:
    found = descendants.look(pid)
    return found is not None and found.is_alive


def is_frozen(pid: int) -> bool:
    """Whether a process stands still, by whatever means."""
    found = descendants.look(pid)
    if found is None or found.is_stopped:
        return found is not None
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        name = line.removeprefix("0::/")
        if name != line and "quorate-exec-" in name:
            [events] = Path("/sys/fs/cgroup").glob(f"**/{name}/cgroup.events")
            return "frozen 1" in events.read_text()
    return False


class Exec:
    """One run. `told` are the steps of it that were heard so far."""

    def __init__(
        self,
        directory: Path,
        command: Sequence[str],
        script: dict[str, Any],
        options: Sequence[str],
        **popen: Any,
    ) -> None:
        self.directory = directory
        self._script = script
        self.told: list[dict[str, Any]] = []
        self._line, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.settimeout(WAIT_S)
        target = ("--client", "c", "--action", "books.write", "--resource", "//bank.example/book")
        arguments = ["exec", *target, *options, "--", *command]
        started = [sys.executable, "-P", str(SUPERVISOR), str(its.fileno()), json.dumps(script)]
        # A program to pass through, and no `preexec_fn`: other tests have left threads here.
        started = [*script.get("through", ()), *started]
        if script.get("helper"):
            started = ["sh", "-c", 'sleep 600 & echo $! > helper; exec "$@"', "sh", *started]
        popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        self.process = subprocess.Popen(
            [*started, *arguments],
            pass_fds=(its.fileno(),),
            cwd=directory,
            env=clean_environment(
                {"NO_COLOR": "1", "HERE": str(directory), **script.get("environment", {})}
            ),
            text=True,
            **popen,
        )
        its.close()

    def say(self, **message: object) -> None:
        """What the gate tells from now on."""
        self._line.send(json.dumps(message).encode())

    def deny(self, reason: str = "GRANT_REVOKED") -> None:
        self.say(deny=reason)

    def hear(self, step: str) -> dict[str, Any]:
        """Waits for a step of the run."""
        while True:
            packet = self._line.recv(65_536)
            assert packet, f"ended without {step}: {self.told}"
            self.told.append(json.loads(packet))
            if self.told[-1]["step"] == step:
                return self.told[-1]

    def steps(self) -> list[str]:
        """All of them, of a run that is over."""
        while packet := self._line.recv(65_536):
            self.told.append(json.loads(packet))
        return [told["step"] for told in self.told]

    def told_of(self, step: str) -> dict[str, Any]:
        """What was said of a step of a run that is over."""
        self.steps()
        return next(told for told in self.told if told["step"] == step)

    def pids(self, *names: str) -> list[int]:
        """Waits until these processes of the command have said who they are, each in a file."""
        return [int(self.read(name)) for name in names]

    def read(self, name: str) -> str:
        """Waits for a file with a whole line."""
        path = self.directory / name
        wait_until(name, lambda: path.exists() and path.read_text().endswith("\n"), WAIT_S)
        return path.read_text()

    def init(self) -> Process:
        """The init, which is the only child."""
        [found] = [p for p in descendants.of(self.process.pid) if p.parent == self.process.pid]
        return found

    def end(self) -> tuple[int, str, str]:
        """Waits for the end: exit code, standard output and error."""
        out, error = self.process.communicate(timeout=WAIT_S)
        if "slack_ms" not in self._script:
            assert "abandon" not in self.steps(), "the init did not do as it was told"
        return self.process.returncode, out, error

    def _left(self) -> list[Process]:
        """What a fault may have let get away: it has our mark in its environment."""
        mark = f"HERE={self.directory}".encode()
        found = []
        for each in descendants.of(1):
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{each.pid}/environ").read_bytes().split(b"\0"):
                    found.append(each)
        return found

    def close(self) -> None:
        """Kills the supervisor, which ends the rest."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(WAIT_S)
        try:
            wait_until("the end of the rest", lambda: not self._left(), END_S)
        except DeadlineError:
            for each in self._left():
                descendants.send(each, signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self._line.close()


Start = Callable[..., Exec]


@pytest.fixture
def start(tmp_path: Path, means: str) -> Iterator[Start]:
    """Starts runs, and ends what is left of them."""
    made: list[Exec] = []

    def begin(command: Sequence[str], *options: str, popen: Any = None, **script: Any) -> Exec:
        script = {"means": means, **script}
        made.append(Exec(tmp_path, command, script, options, **(popen or {})))
        return made[-1]

    yield begin
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def has_cgroups() -> bool:
    """Whether this machine lets us make them."""
    made = Cgroup.make()
    if made is not None:
        made.remove()
    return made is not None


@pytest.fixture(params=["cgroup", "walk"])
def means(request: pytest.FixtureRequest, has_cgroups: bool) -> str:
    """By which the command is contained."""
    if request.param == "cgroup" and not has_cgroups:
        pytest.skip("no cgroup can be made here")
    return str(request.param)


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def gone(*pids: int) -> None:
    """Waits until none of these lives."""
    wait_until(f"the end of {pids}", lambda: not any(map(is_alive, pids)), WAIT_S)


FAMILY = """
import os, signal, sys, time
from pathlib import Path
def be(name):
    Path(name).write_text(f"{os.getpid()}\\n")
    while True:
        time.sleep(0.05)  # a pause could begin just after a signal
def hear(*_):
    with open("heard", "a") as heard:
        heard.write(f"{os.getpid()}\\n")
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, hear)
if os.fork() == 0:
    be("child")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        be("daemon")
    os._exit(0)
os.wait()
if "leaves" in sys.argv:
    while not (os.path.exists("child") and os.path.exists("daemon")):
        pass
    sys.exit(5)
be("main")
"""
"""A process, a child of its group, and a daemon that has left group, session and parent."""
MEMBERS = ("main", "child", "daemon")


def family(*manners: str) -> list[str]:
    """stubborn: SIGTERM ends none of it, and is written down. leaves: the first ends by itself."""
    return [sys.executable, "-c", FAMILY, *manners]
