"""The supervisor with real processes: what starts, what is started again, what stops all of it.

The children are stand-ins that tell the test by datagrams what happens to them, and do what the
next line of their script says. Nothing here sleeps: the test waits for what it is told, and for
processes by their pidfd.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quorate.core.outcome import Reason
from quorate.lease.word import AuthorityWord
from quorate.node import exit_codes, supervisor

WAIT_S = 30.0
"""For a machine that is busy; nothing that works takes so long."""

STAND_IN = """
import json, os, signal, socket, sys, time

name = os.environ["STAND_IN_DIR"] + "/" + __name_of__
tell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
tell.connect(os.environ["STAND_IN_DIR"] + "/socket")

def say(event, **more):
    more.update(name=__name_of__, event=event, pid=os.getpid(), at=time.monotonic())
    tell.send(json.dumps(more).encode())

def told():
    try:
        with open(name + ".script") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return "run"
    with open(name + ".script", "w") as file:
        file.write("\\n".join(lines[1:]))
    return lines[0] if lines else "run"

def stop(*_):
    say("terminated")
    sys.exit(0)

todo = told()
signal.signal(signal.SIGTERM, signal.SIG_IGN if todo == "stubborn" else stop)
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
ours = {"0", "1", "2", str(tell.fileno())}
fds = {fd: os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")
       if fd not in ours and os.path.exists("/proc/self/fd/" + fd)}
say("started", options=options, fds=fds, path=sys.path, ppid=os.getppid())
if todo.startswith("exit"):
    sys.exit(int(todo.split()[1]))
if todo.startswith("die"):
    os.kill(os.getpid(), int(todo.split()[1]))
while os.read(int(options["--lifeline-fd"]), 1):
    pass
say("orphaned")
"""

CONFIG = """
[node]
id = "spiffe://bank.example/node/1"
data_dir = "data"
genesis = "genesis.json"
[listen]
peer = "127.0.0.1:7401"
governance = "127.0.0.1:7402"
lease = "127.0.0.1:7403"
[tls]
certificate = "node/tls.crt"
private_key = "node/tls.key"
[keys]
signing = "node/signing.key"
log = "node/log.key"
"""

DRIVER = """
import json, sys
from pathlib import Path
from quorate.core.errors import ConfigurationError
from quorate.node import supervisor
for name, value in json.loads(sys.argv[2]).items():
    assert hasattr(supervisor, name), name
    setattr(supervisor, name, value)
try:
    code = supervisor.run(Path(sys.argv[1]))
except ConfigurationError as error:
    sys.exit(f"{error} ({error.hint})")
sys.exit(code)
"""


class Node:
    """A supervisor of stand-ins, and what they tell."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "node.toml"
        self.config.write_text(CONFIG)
        for name in ("core", "edge"):
            text = STAND_IN.replace("__name_of__", repr(name))
            (directory / f"standin_{name}.py").write_text(text)
        self.ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ears.bind(str(directory / "socket"))
        self.ears.settimeout(WAIT_S)
        self.supervisors: list[subprocess.Popen[str]] = []
        self.pids: set[int] = set()

    def script(self, name: str, *lines: str) -> None:
        (self.directory / f"{name}.script").write_text("\n".join(lines))

    def run(self, **constants: object) -> subprocess.Popen[str]:
        constants = {"CORE_MODULE": "standin_core", "EDGE_MODULE": "standin_edge"} | constants
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.config), json.dumps(constants)],
            env=os.environ
            | {"PYTHONPATH": str(self.directory), "STAND_IN_DIR": str(self.directory)},
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.supervisors.append(process)
        return process

    def hear(self, event: str, name: str = "") -> dict[str, Any]:
        """The next such event; others are passed over."""
        while True:
            heard: dict[str, Any] = json.loads(self.ears.recv(65536))
            self.pids.add(heard["pid"])
            if heard["event"] == event and name in ("", heard["name"]):
                return heard

    def both_started(self) -> dict[str, dict[str, Any]]:
        started = [self.hear("started"), self.hear("started")]
        assert {heard["name"] for heard in started} == {"core", "edge"}
        return {heard["name"]: heard for heard in started}

    def close(self) -> None:
        for process in self.supervisors:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
        for pid in self.pids:  # stopped ones do not see the end of the lifeline
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            if Path(f"/proc/{pid}/cmdline").read_bytes().find(b"standin_") >= 0:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        self.ears.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def _wait_for_end(pid: int) -> None:
    """Until the process, which need not be a child of ours, has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], WAIT_S)[0], f"process {pid} goes on"
    finally:
        os.close(pidfd)


# -- starting -------------------------------------------------------------------------------------


def test_both_children_are_started_with_the_word_and_the_lifeline_alone(node: Node):
    node.run()
    started = node.both_started()
    for name, heard in started.items():
        options, fds = heard["options"], heard["fds"]
        assert options["--config"] == str(node.config)
        assert options["--edges"] == "1"
        word, lifeline = options["--authority-fd"], options["--lifeline-fd"]
        assert "quorate-authority" in fds.pop(word)
        assert fds.pop(lifeline).startswith("pipe:")
        # Besides these, core holds its lock, so that no other core runs while it does.
        held = {"core": [str(node.directory / "data" / "core.lock")], "edge": []}
        assert sorted(fds.values()) == held[name]


def test_core_may_write_the_word_and_the_edge_may_not(node: Node):
    process = node.run()
    started = node.both_started()
    flags = {}
    for name, heard in started.items():
        info = Path(f"/proc/{heard['pid']}/fdinfo/{heard['options']['--authority-fd']}")
        (line,) = [line for line in info.read_text().splitlines() if line.startswith("flags")]
        flags[name] = int(line.split()[1], 8) & os.O_ACCMODE
    assert flags == {"core": os.O_RDWR, "edge": os.O_RDONLY}
    assert process.poll() is None


def test_children_do_not_take_modules_from_the_working_directory(node: Node):
    node.run()
    for heard in node.both_started().values():
        assert "" not in heard["path"]
        assert heard["path"].count(str(node.directory)) == 1, "PYTHONPATH's, and no other"


def test_the_data_directory_is_private(node: Node):
    node.run()
    node.both_started()
    data = node.directory / "data"
    assert data.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in data.iterdir()} == {0o600}


# -- starting again -------------------------------------------------------------------------------


def test_what_ends_is_started_again_after_longer_and_longer_pauses(node: Node):
    node.script("core", "exit 1", "exit 0", "exit 70", "run")
    node.run()
    starts = [node.hear("started", "core")["at"] for _ in range(4)]
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert gaps[0] >= 0.2
    assert gaps[1] >= 0.4
    assert gaps[2] >= 0.8


@pytest.mark.parametrize("name", ["core", "edge"])
def test_one_child_that_is_killed_leaves_the_other_alone(node: Node, name: str):
    process = node.run()
    started = node.both_started()
    os.kill(started[name]["pid"], signal.SIGKILL)
    again = node.hear("started")
    assert (again["name"], again["ppid"]) == (name, process.pid)
    assert again["fds"] == started[name]["fds"], "the same word, lifeline and lock"
    other = "edge" if name == "core" else "core"
    os.kill(started[other]["pid"], 0)


def test_a_child_that_ran_steadily_is_not_punished_for_earlier_ends(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(node.directory))
    monkeypatch.setenv("STAND_IN_DIR", str(node.directory))
    node.script("core", *["exit 1"] * 3)
    child = supervisor._Child("core", ["standin_core", "--lifeline-fd", "0"], ())
    backoffs = []
    for steady in (False, False, True):
        child.start()
        select.select([child.pidfd], [], [], WAIT_S)
        if steady:
            child.started_s -= supervisor._STEADY_S
        assert child.reap() == 1
        assert (child.process, child.pidfd) == (None, -1)
        backoffs.append(child.backoff_s)
    assert backoffs == [0.4, 0.8, 0.4]
    for _ in range(20):
        child.put_off()
    assert child.backoff_s == supervisor._RESTART_MOST_S


def test_a_child_that_cannot_be_started_now_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    """Out of memory or processes: a node that lives on that must not die of it."""
    reader, writer = os.pipe()
    started: list[str] = []

    def start(child: supervisor._Child) -> None:
        started.append(child.name)
        if len(started) == 3:
            os.write(writer, b"\x0f")
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(supervisor._Child, "start", start)
    loop = supervisor._Supervisor([supervisor._Child("core", ["none"], ())], reader)
    try:
        assert loop.run() == exit_codes.OK
    finally:
        loop.stop()
        os.close(reader)
        os.close(writer)
    assert len(started) == 3


# -- ending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["core", "edge"])
def test_a_damaged_store_stops_the_node_whenever_it_is_found(node: Node, name: str):
    node.script(name, "run", f"exit {exit_codes.DAMAGED}")
    process = node.run()
    first = node.both_started()
    os.kill(first[name]["pid"], signal.SIGKILL)
    again = node.hear("started", name)
    assert process.wait(WAIT_S) == exit_codes.DAMAGED
    _wait_for_end(again["pid"])
    other = "edge" if name == "core" else "core"
    assert node.hear("terminated")["name"] == other
    _wait_for_end(first[other]["pid"])


def test_a_file_that_was_cut_off_beneath_the_store_is_damage(node: Node):
    """Whoever touches a page that is not there dies of SIGBUS, at every start anew."""
    node.script("core", f"die {int(signal.SIGBUS)}")
    assert node.run().wait(WAIT_S) == exit_codes.DAMAGED


def test_an_address_that_another_node_uses_is_refused_before_anything_starts(node: Node):
    """The edges of two nodes could share it unnoticed, and take each other's executors."""
    with socket.create_server(("127.0.0.1", 7403)):
        process = node.run(_HANDOVER_S=0.2)
        assert process.wait(WAIT_S) == 1, "the driver's own code for a configuration error"
    assert process.stderr is not None
    assert "127.0.0.1:7403" in process.stderr.read()


@pytest.mark.parametrize("code", [exit_codes.DAMAGED, exit_codes.CONFIGURATION])
@pytest.mark.parametrize("name", ["core", "edge"])
def test_a_first_start_that_cannot_succeed_ends_the_node(node: Node, name: str, code: int):
    node.script(name, f"exit {code}")
    assert node.run().wait(WAIT_S) == code


def test_a_configuration_that_was_good_enough_once_is_tried_again(node: Node):
    """What has changed since may pass: a port that another process took, a wrong clock."""
    node.script("core", "run", f"exit {exit_codes.CONFIGURATION}", "run")
    node.run()
    first = node.both_started()
    os.kill(first["core"]["pid"], signal.SIGKILL)
    node.hear("started", "core")
    again = node.hear("started", "core")
    assert again["pid"] != first["core"]["pid"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_edge_and_then_core(node: Node, stop: signal.Signals):
    process = node.run()
    started = node.both_started()
    process.send_signal(stop)
    assert process.wait(WAIT_S) == exit_codes.OK
    assert [node.hear("terminated")["name"] for _ in range(2)] == ["edge", "core"]
    for heard in started.values():
        _wait_for_end(heard["pid"])


def test_a_signal_between_two_starts_of_a_child_stops_the_node(node: Node):
    node.script("core", *["exit 1"] * 6)
    process = node.run()
    node.hear("started", "edge")
    for _ in range(3):
        node.hear("started", "core")
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == exit_codes.OK
    assert node.hear("terminated")["name"] == "edge"


def test_a_child_that_does_not_stop_is_killed(node: Node):
    node.script("edge", "stubborn")
    process = node.run(_STOP_S=0.2)
    started = node.both_started()
    os.kill(started["core"]["pid"], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == exit_codes.OK
    for heard in started.values():
        _wait_for_end(heard["pid"])


def test_children_see_the_end_of_a_supervisor_that_was_killed(node: Node):
    process = node.run()
    started = node.both_started()
    process.kill()
    assert {node.hear("orphaned")["name"] for _ in range(2)} == {"core", "edge"}
    for heard in started.values():
        _wait_for_end(heard["pid"])


# -- one node a directory -------------------------------------------------------------------------


def test_a_second_supervisor_is_refused_and_disturbs_nothing(node: Node):
    first = node.run()
    started = node.both_started()
    second = node.run()
    _, problem = second.communicate(timeout=WAIT_S)
    assert second.returncode == 1
    assert f"another node runs in {node.directory / 'data'}" in problem
    assert "stop it first" in problem
    assert first.poll() is None
    for heard in started.values():
        os.kill(heard["pid"], 0)


def test_a_supervisor_that_was_killed_can_be_followed_by_another(node: Node):
    first = node.run()
    node.both_started()
    first.kill()
    second = node.run()
    assert {heard["ppid"] for heard in node.both_started().values()} == {second.pid}


def test_no_core_is_started_beside_one_that_is_stopped(node: Node):
    """It would go on with its turn when it wakes, in a store that another has written since."""
    first = node.run()
    old = node.both_started()["core"]["pid"]
    os.kill(old, signal.SIGSTOP)
    first.kill()
    first.wait()
    refused = node.run(_HANDOVER_S=0.3)
    _, problem = refused.communicate(timeout=WAIT_S)
    assert refused.returncode == 1
    assert "another node runs in" in problem
    waits = node.run()
    os.kill(old, signal.SIGCONT)
    _wait_for_end(old)
    assert node.hear("started", "core")["ppid"] == waits.pid


def test_a_directory_that_cannot_be_used_is_a_matter_of_configuration(node: Node):
    (node.directory / "data").write_text("a file")
    process = node.run()
    _, problem = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert f"{node.directory / 'data'} cannot be used" in problem


# -- the supervisor's own descriptors -------------------------------------------------------------


def test_nothing_stays_open_when_the_node_has_ended(node: Node, monkeypatch: pytest.MonkeyPatch):
    """In the supervisor's own process: the word, the pipes, the locks and the pidfds."""
    monkeypatch.setenv("PYTHONPATH", str(node.directory))
    monkeypatch.setenv("STAND_IN_DIR", str(node.directory))
    monkeypatch.setattr(supervisor, "CORE_MODULE", "standin_core")
    monkeypatch.setattr(supervisor, "EDGE_MODULE", "standin_edge")
    monkeypatch.setattr(supervisor, "configure_logging", lambda *_: None)
    node.script("core", "exit 1", f"exit {exit_codes.DAMAGED}")
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert supervisor.run(node.config) == exit_codes.DAMAGED
    assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_the_word_outlives_a_core(node: Node):
    """What an edge reads is the memory that the next core writes."""
    node.run()
    started = node.both_started()
    paths = {
        name: f"/proc/{heard['pid']}/fd/{heard['options']['--authority-fd']}"
        for name, heard in started.items()
    }
    os.kill(started["core"]["pid"], signal.SIGKILL)
    again = node.hear("started", "core")
    writable = os.open(f"/proc/{again['pid']}/fd/{again['options']['--authority-fd']}", os.O_RDWR)
    readable = os.open(paths["edge"], os.O_RDONLY)
    writer, reader = AuthorityWord.open(writable, True), AuthorityWord.open(readable, False)
    assert reader.read() is None
    writer.clear(Reason.INTERNAL)
    record = reader.read()
    assert record is not None
    assert record.reason is Reason.INTERNAL
    writer.close()
    reader.close()
