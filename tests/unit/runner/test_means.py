"""The means of containment: processes told apart, cgroups, and the line to an init."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.runner.conftest import WAIT_S, Start, shell

from quorate.chaos.processes import wait_until
from quorate.runner import descendants
from quorate.runner.cgroup import Cgroup, _mount
from quorate.runner.family import Family
from quorate.runner.messages import Line, pair

LOOP = "echo $$ > main; while :; do sleep 1; done"


def test_what_somebody_said_last_is_heard_though_there_was_more_to_tell_him() -> None:
    """An init reports the end while the next permit is on its way to it."""
    end, other = pair()
    init, supervisor = Line(end), Line(other)
    init.say(status=7)
    supervisor.say(until=1)
    init.close()
    assert list(supervisor.heard()) == [{"status": 7}]
    assert supervisor.is_broken
    supervisor.close()


def test_a_process_is_not_taken_for_a_later_one_of_its_number() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        found = descendants.look(child.pid)
        assert found is not None
        other = descendants.Process(found.pid, found.parent, found.group, "S", 1, found.started - 1)
        descendants.send(other, signal.SIGKILL)
        descendants.send(found, signal.SIGTERM)
        assert child.wait(WAIT_S) == -signal.SIGTERM
        descendants.send(found, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()


def test_the_group_of_a_command_that_was_reaped_may_be_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = Family([], use_cgroup=False, kept=())
    family.pid, family.status = 2**22 + 1, 0
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("signalled"))
    family.pass_on(signal.SIGTERM)


def test_a_name_with_parentheses_is_only_a_name(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "600"])
    try:
        wait_until(
            "the exec",
            lambda: b") R 1 (" in Path(f"/proc/{child.pid}/stat").read_bytes(),
            WAIT_S,
        )
        found = descendants.look(child.pid)
        assert found is not None
        assert found.parent == os.getpid()
        assert child.pid in [each.pid for each in descendants.of(os.getpid())]
    finally:
        child.kill()
        child.wait()
    assert descendants.look(child.pid) is None


def test_the_cgroup_of_version_2_is_found_among_others() -> None:
    text = (
        "31 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "32 31 0:27 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu\n"
        "33 31 0:28 /a /sys/fs/cgroup/unified rw,relatime shared:6 - cgroup2 cgroup2 rw\n"
    )
    assert _mount(text) == ("/a", Path("/sys/fs/cgroup/unified"))
    assert _mount("31 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n") is None


def test_a_cgroup_leaves_nothing_behind() -> None:
    made = Cgroup.make()
    if made is None:
        pytest.skip("no cgroup can be made here")
    (made.path / "below").mkdir()
    made.remove()
    assert not made.path.exists()


def test_a_run_in_a_cgroup_leaves_none_behind(start: Start, means: str) -> None:
    run = start(shell("cat /proc/self/cgroup; " + LOOP))
    run.pids("main")
    own = Path("/proc/self/cgroup").read_text()
    inside = Path(f"/proc/{run.pids('main')[0]}/cgroup").read_text()
    assert ("quorate-exec-" in inside) == (means == "cgroup")
    assert "quorate-exec-" not in own
    names = [ln.rpartition("/")[2] for ln in inside.splitlines() if "quorate-exec-" in ln]
    run.deny()
    run.end()
    for name in names:
        assert not list(Path("/sys/fs/cgroup").glob(f"**/{name}"))


def test_an_init_that_is_killed_before_the_start_leaves_no_cgroup_behind(
    start: Start, tmp_path: Path
) -> None:
    run = start(shell("touch started"), until_ns=0)
    run.hear("act")
    run.hear("ready")
    init = run.init().pid
    os.kill(init, signal.SIGKILL)
    assert run.end()[0] == 126
    assert not (tmp_path / "started").exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/quorate-exec-{init}-*"))
