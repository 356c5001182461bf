"""Signals, a terminal, and what becomes of the command when those who watch it are killed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from tests.unit.runner.conftest import (
    MEMBERS,
    WAIT_S,
    Start,
    family,
    gone,
    is_alive,
    is_frozen,
    shell,
)

from quorate.chaos.processes import wait_until
from quorate.runner import descendants

walk_is_enough = pytest.mark.parametrize("means", ["walk"])
LOOP = "echo $$ > main; while :; do sleep 1; done"


@walk_is_enough
@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT"])
def test_signals_are_passed_on_and_the_commands_answer_counts(start: Start, name: str) -> None:
    run = start(shell(f"trap 'echo got {name}; exit 9' {name}; {LOOP}"))
    run.pids("main")
    run.process.send_signal(signal.Signals[f"SIG{name}"])
    code, out, _ = run.end()
    assert (code, out) == (9, f"got {name}\n")
    assert run.steps()[-4:] == ["acted", "release", "let go", "closed"]


@walk_is_enough
def test_the_signal_reaches_the_group_and_its_default_is_a_shells_code(start: Start) -> None:
    run = start(family())
    _, child, daemon = run.pids(*MEMBERS)
    run.process.terminate()
    assert run.end()[0] == 143
    assert not is_alive(child)
    assert not is_alive(daemon), "left behind, and ended when the grace was over"


@walk_is_enough
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills(start: Start, second: signal.Signals) -> None:
    run = start(shell("trap 'echo once >> once' INT TERM; " + LOOP), "--grace", "1h")
    [main] = run.pids("main")
    run.process.send_signal(signal.SIGINT)
    assert run.read("once") == "once\n"
    assert is_alive(main)
    run.process.send_signal(second)
    assert run.end()[0] == 137
    assert run.read("once") == "once\n"


@walk_is_enough
def test_a_signal_before_the_start_means_that_nothing_is_started(
    start: Start, tmp_path: Path
) -> None:
    run = start(shell("touch started"), until_ns=0)
    run.hear("act")
    run.process.terminate()
    assert run.end()[0] == 143
    assert not (tmp_path / "started").exists()


@walk_is_enough
def test_what_was_ignored_from_the_start_stays_ignored(start: Start) -> None:
    ignoring = ["env", "--ignore-signal=HUP"]
    run = start(shell("grep SigIgn /proc/self/status; " + LOOP), through=ignoring)
    [main] = run.pids("main")
    run.process.send_signal(signal.SIGHUP)
    run.process.send_signal(signal.SIGTERM)
    code, out, _ = run.end()
    assert code == 143, "it was SIGTERM that ended it"
    ordinary = (1 << (signal.SIGSYS)) - 1  # those beyond are the C library's own, or nobody's
    ignored = int(out.split()[1], 16) & ordinary
    assert ignored == 1 << (signal.SIGHUP - 1), "that alone, and not Python's own"
    gone(main)


@walk_is_enough
def test_ctrl_c_reaches_the_command_and_ctrl_z_stops_nobody_who_watches(start: Start) -> None:
    ours, its = os.openpty()
    typed = lambda key: os.write(ours, key)  # noqa: E731

    popen = {"stdin": its, "stdout": its, "stderr": its}
    command = shell("trap 'echo int > int' INT; " + LOOP)
    run = start(command, popen=popen, through=["setsid", "--ctty"])
    os.close(its)
    [main] = run.pids("main")
    typed(b"\x1a")
    typed(b"\x03")
    assert run.read("int") == "int\n"
    assert not is_frozen(run.process.pid)
    run.deny()
    assert run.process.wait(WAIT_S) == 3
    gone(main)
    os.close(ours)


def test_nothing_outlives_a_supervisor_that_is_killed(start: Start) -> None:
    run = start(family("stubborn"), "--grace", "1h")
    pids = [*run.pids(*MEMBERS), run.init().pid]
    run.process.kill()
    gone(*pids)


def test_nothing_that_stands_still_outlives_it_either(start: Start) -> None:
    run = start(family("stubborn"), "--freeze", "--grace", "1h")
    pids = [*run.pids(*MEMBERS), run.init().pid]
    run.deny("INQUORATE")
    wait_until("all stand still", lambda: all(map(is_frozen, pids[:3])), WAIT_S)
    run.process.kill()
    gone(*pids)


def test_nothing_outlives_it_though_the_init_was_stopped(start: Start) -> None:
    run = start(family("stubborn"), "--grace", "1h")
    pids = run.pids(*MEMBERS)
    init = run.init().pid
    os.kill(init, signal.SIGSTOP)
    wait_until("the init to be stopped", lambda: is_frozen(init), WAIT_S)
    run.process.kill()
    gone(*pids, init)


def test_nothing_runs_on_when_its_supervisor_is_stopped(start: Start) -> None:
    """Nobody is there who could say anything: the permit ends all the same."""
    run = start(family("stubborn"), "--grace", "200ms", permit_ms=1_500)
    pids = run.pids(*MEMBERS)
    run.process.send_signal(signal.SIGSTOP)
    gone(*pids)
    run.process.send_signal(signal.SIGCONT)
    assert run.end()[0] == 3


def test_nothing_outlives_an_init_that_is_killed(start: Start) -> None:
    run = start(family("stubborn"), "--grace", "1h")
    pids = run.pids(*MEMBERS)
    os.kill(run.init().pid, signal.SIGKILL)
    code, _, error = run.end()
    assert code == 137
    assert "the init of the command was killed" in error
    assert not any(map(is_alive, pids))
    assert run.told_of("acted")["left"] == []


@pytest.mark.parametrize("is_killed", [False, True])
@walk_is_enough
def test_what_the_supervisor_had_started_before_is_none_of_the_commands(
    start: Start, is_killed: bool
) -> None:
    """As in a script that starts a helper, and then `exec`s `quorate exec`."""
    run = start(
        family("stubborn"), "--grace", "0s", helper=True, popen={"stdout": -3, "stderr": -3}
    )
    helper, *pids = run.pids("helper", *MEMBERS)
    if is_killed:
        os.kill(next(p.parent for p in map(descendants.look, pids) if p), signal.SIGKILL)
    else:
        run.deny()
    assert run.process.wait(WAIT_S) == (137 if is_killed else 3)
    assert not any(map(is_alive, pids))
    assert is_alive(helper)
    os.kill(helper, signal.SIGKILL)


@walk_is_enough
def test_that_an_init_was_killed_is_noticed_where_ends_of_children_were_ignored(
    start: Start,
) -> None:
    run = start(family("stubborn"), through=["env", "--ignore-signal=CHLD"])
    pids = run.pids(*MEMBERS)
    os.kill(run.init().pid, signal.SIGKILL)
    assert run.end()[0] == 137
    assert not any(map(is_alive, pids))


@walk_is_enough
def test_the_kernel_kills_the_command_of_an_init_that_is_killed(start: Start) -> None:
    """Its supervisor is stopped, and does nothing."""
    run = start(shell("trap '' TERM; " + LOOP))
    [main] = run.pids("main")
    init = run.init().pid
    run.process.send_signal(signal.SIGSTOP)
    wait_until("the supervisor to be stopped", lambda: is_frozen(run.process.pid), WAIT_S)
    os.kill(init, signal.SIGKILL)
    gone(main)
    run.process.send_signal(signal.SIGCONT)
    assert run.end()[0] == 137


@pytest.mark.parametrize("options", [("--grace", "200ms"), ("--freeze",)])
def test_an_init_that_does_not_do_as_it_is_told_is_killed_and_all_with_it(
    start: Start, options: tuple[str, ...]
) -> None:
    run = start(family("stubborn"), *options, slack_ms=1_000)
    pids = run.pids(*MEMBERS)
    os.kill(run.init().pid, signal.SIGSTOP)
    run.deny("INQUORATE")
    code, _, error = run.end()
    assert code == 3
    assert "stopped: INQUORATE" in error
    assert not any(map(is_alive, pids))


@walk_is_enough
def test_an_init_that_does_not_kill_when_it_is_told_to_is_killed(start: Start) -> None:
    run = start(shell("trap '' INT TERM; " + LOOP), slack_ms=1_000)
    [main] = run.pids("main")
    os.kill(run.init().pid, signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGTERM)
    assert run.end()[0] == 137
    assert not is_alive(main)


@walk_is_enough
def test_signals_to_all_at_once_leave_the_init_to_its_work(start: Start) -> None:
    run = start(shell("trap 'echo term; exit 4' TERM; " + LOOP))
    run.pids("main")
    init = run.init().pid
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(init, number)
    run.process.terminate()
    assert run.end()[:2] == (4, "term\n")


FORKING = """
import os, sys, time
from pathlib import Path
Path("main").write_text(f"{os.getpid()}\\n")
until = time.monotonic() + 20
while time.monotonic() < until:
    if os.fork():
        os._exit(0)
    os.setsid()
Path("got-away").touch()
"""


def test_who_forks_and_ends_without_pause_is_caught(start: Start, tmp_path: Path) -> None:
    run = start([sys.executable, "-c", FORKING], "--grace", "0s")
    gone(*run.pids("main"))
    run.deny()
    code = run.end()[0]
    assert code in (0, 3), "the first one has ended by itself"
    assert run.told_of("acted")["left"] == []
    assert not (tmp_path / "got-away").exists()


HEADLESS = """
import ctypes, os, threading, time
from pathlib import Path
if os.fork() == 0:
    os.setsid()
    def work():
        while True:
            Path("main").write_text(f"{os.getpid()}\\n")
            time.sleep(0.01)
    threading.Thread(target=work).start()
    ctypes.CDLL(None).pthread_exit(None)
os.wait()
"""
"""A process whose first thread has ended, which /proc calls a zombie, in a session of its own."""


def test_whose_first_thread_has_ended_is_not_taken_for_dead(start: Start) -> None:
    run = start([sys.executable, "-c", HEADLESS], "--grace", "0s")
    [main] = run.pids("main")
    wait_until("its first thread to end", lambda: state_of(main) == "Z", WAIT_S)
    run.deny()
    assert run.end()[0] == 3
    assert descendants.look(main) is None


def state_of(pid: int) -> str:
    found = descendants.look(pid)
    return "" if found is None else found.state


def test_who_is_signalled_is_not_looked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look finds somebody new. Whoever signals has a permit to look after."""
    looks: list[int] = []

    def of(_ancestor: int) -> list[descendants.Process]:
        looks.append(len(looks))
        assert len(looks) < 1_000, "for ever"
        return [descendants.Process(2**22 + len(looks), 1, 1, "S", 1, len(looks))]  # nobody's

    monkeypatch.setattr(descendants, "of", of)
    found = descendants.send_all(1, signal.SIGTERM, lambda _process: True)
    assert len(found) == len(looks) > 1
