"""A command that is to stand still while it is denied does, all of it, and goes on when it may."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.runner.conftest import (
    MEMBERS,
    WAIT_S,
    Exec,
    Start,
    family,
    gone,
    is_alive,
    is_frozen,
    shell,
)

from quorate.chaos.processes import wait_until
from quorate.client import ClientReason, Reason
from quorate.runner.family import Family
from quorate.runner.init import Init, Orders
from quorate.runner.kernel import NS_PER_MS, boottime_ns
from quorate.runner.messages import Line, pair
from quorate.runner.reasons import is_for_good

walk_is_enough = pytest.mark.parametrize("means", ["walk"])
ECHO = 'echo $$ > main; while read line; do echo "$line"; done'
PIPES = {"stdin": -1, "stdout": -1, "stderr": -1, "bufsize": 1}


def frozen(*pids: int) -> None:
    wait_until(f"{pids} to stand still", lambda: all(map(is_frozen, pids)), WAIT_S)


def thawed(*pids: int) -> None:
    wait_until(f"{pids} to go on", lambda: not any(map(is_frozen, pids)), WAIT_S)


def echo(run: Exec, text: str) -> None:
    assert run.process.stdin is not None
    assert run.process.stdout is not None
    run.process.stdin.write(f"{text}\n")
    assert run.process.stdout.readline() == f"{text}\n"


def test_it_stands_still_while_it_is_denied_and_goes_on(start: Start) -> None:
    run = start(shell(ECHO), "--freeze", popen=PIPES)
    [main] = run.pids("main")
    for reason in ("INQUORATE", "GRANT_SUSPENDED", "UNREACHABLE"):
        echo(run, reason)
        run.deny(reason)
        frozen(main)
        run.say(permit=True)
        thawed(main)
    echo(run, "still there")
    assert run.process.stdin is not None
    run.process.stdin.close()
    assert run.process.wait(WAIT_S) == 0


@walk_is_enough
def test_what_stood_still_before_it_was_told_to_is_not_taken_for_one_that_hangs(
    start: Start,
) -> None:
    """The init saw the end of the permit before the gate did."""
    run = start(shell(ECHO), "--freeze", popen=PIPES, permit_ms=300, slack_ms=300)
    [main] = run.pids("main")
    run.say(lose=True)
    frozen(main)
    run.deny("LATE")
    for _ in range(2):  # each second; it would have been killed meanwhile
        run.hear("asked")
    assert is_frozen(main)
    run.say(until_ns=boottime_ns() + 3_600_000 * NS_PER_MS, permit=True)
    thawed(main)
    echo(run, "still there")


def test_all_of_it_stands_still(start: Start) -> None:
    run = start(family(), "--freeze")
    pids = run.pids(*MEMBERS)
    run.deny("INQUORATE")
    frozen(*pids)
    assert not is_frozen(run.init().pid)
    run.say(permit=True)
    thawed(*pids)
    assert all(map(is_alive, pids))


FORKING = """
import os, sys, time
from pathlib import Path
Path("main").write_text(f"{os.getpid()}\\n")
while True:
    os.utime("main")
    if os.fork():
        os._exit(0)
    os.setsid()
"""


def test_who_forks_and_ends_without_pause_stands_still_too(start: Start, tmp_path: Path) -> None:
    run = start([sys.executable, "-c", FORKING], "--freeze", "--grace", "1h")
    gone(*run.pids("main"))
    run.deny("INQUORATE")
    sign = tmp_path / "main"
    wait_until("it to stand still", lambda: time.time() - sign.stat().st_mtime > 2, WAIT_S)


@walk_is_enough
def test_what_somebody_continues_is_stopped_again(start: Start) -> None:
    run = start(shell(ECHO), "--freeze", popen=PIPES)
    [main] = run.pids("main")
    run.deny("INQUORATE")
    frozen(main)
    for _ in range(2):
        os.kill(main, signal.SIGCONT)
        thawed(main)
        frozen(main)
    run.say(permit=True)
    echo(run, "on")


@walk_is_enough
def test_what_stood_still_before_still_does(start: Start) -> None:
    script = "sleep 600 & echo $! > stopped; kill -STOP $!; " + ECHO
    run = start(shell(script), "--freeze", popen=PIPES)
    main, stopped = run.pids("main", "stopped")
    frozen(stopped)  # which takes until it is scheduled
    run.deny("INQUORATE")
    frozen(main, stopped)
    run.say(permit=True)
    thawed(main)
    echo(run, "on")
    assert is_frozen(stopped)


@pytest.mark.parametrize("reason", ["GRANT_REVOKED", "LEASE_EXPIRED", "CLOSED"])
@walk_is_enough
def test_a_denial_for_good_ends_it_at_once(start: Start, reason: str) -> None:
    loop = "echo $$ > main; while :; do sleep 1; done"
    run = start(shell("trap 'echo term; exit' TERM; " + loop), "--freeze", "--grace", "1h")
    run.pids("main")
    run.deny(reason)
    code, out, error = run.end()
    assert (code, out) == (3, "term\n")
    assert f"stopped: {reason}" in error


def test_a_denial_that_becomes_one_for_good_ends_what_stands_still(start: Start) -> None:
    """SIGTERM is heard, so it has been continued for that; who does not end is killed."""
    run = start(family("stubborn"), "--freeze", "--grace", "1s")
    pids = run.pids(*MEMBERS)
    run.deny("INQUORATE")
    frozen(*pids)
    run.hear("asked")
    run.hear("asked")
    assert all(map(is_frozen, pids)), "it may pass"
    run.say(answer="GRANT_REVOKED")
    code, _, error = run.end()
    assert code == 3
    assert "stopped: GRANT_REVOKED" in error
    assert set(map(int, run.read("heard").split())) == set(pids)
    assert not any(map(is_alive, pids))


@walk_is_enough
def test_it_is_asked_anew_each_time_that_it_stands_still(start: Start) -> None:
    run = start(shell(ECHO), "--freeze", popen=PIPES)
    [main] = run.pids("main")
    run.deny("INQUORATE")
    run.hear("asked")
    run.say(permit=True)
    thawed(main)
    assert is_alive(main)
    # This time it stands still for as long as the asking takes: too short for all to see it.
    run.say(answer="GRANT_REVOKED", deny="INQUORATE")
    run.hear("asked")
    code, _, error = run.end()
    assert code == 3
    assert "stopped: GRANT_REVOKED" in error


@walk_is_enough
@pytest.mark.parametrize("wrong_by_ms", [-3_600_000, 0, 3_600_000])
def test_it_stands_still_no_longer_than_the_lease_was_given_for(
    start: Start, wrong_by_ms: int
) -> None:
    """Whatever the wall clock shows."""
    script = {"life_ms": 2_000, "wall_clock_wrong_by_ms": wrong_by_ms}
    run = start(family("stubborn"), "--freeze", "--grace", "0s", **script)
    pids = run.pids(*MEMBERS)
    began_ns = boottime_ns()
    run.deny("INQUORATE")
    code, _, error = run.end()
    assert code == 3
    assert "stopped: INQUORATE (bank.example/thing) - it stood still" in error
    assert boottime_ns() - began_ns >= 2_000 * NS_PER_MS
    gone(*pids)


@walk_is_enough
def test_a_lapse_that_nobody_tells_of_freezes_and_a_later_permit_thaws(start: Start) -> None:
    run = start(shell(ECHO), "--freeze", popen=PIPES, permit_ms=1_500)
    [main] = run.pids("main")
    echo(run, "before")
    run.process.send_signal(signal.SIGSTOP)
    frozen(main)
    run.process.send_signal(signal.SIGCONT)
    thawed(main)
    echo(run, "after")


@walk_is_enough
def test_a_signal_waits_until_it_goes_on_and_a_second_kills(start: Start) -> None:
    run = start(shell("trap 'echo heard > heard' INT; " + ECHO), "--freeze", popen=PIPES)
    [main] = run.pids("main")
    run.deny("INQUORATE")
    frozen(main)
    os.kill(run.process.pid, signal.SIGINT)
    wait_until("it to be pending", lambda: pending(main, signal.SIGINT), WAIT_S)
    assert is_frozen(main)
    assert not (run.directory / "heard").exists()
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end()[0] == 137
    assert not (run.directory / "heard").exists()


def pending(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [mask] = [line.split()[1] for line in lines if line.startswith("ShdPnd:")]
    return bool(int(mask, 16) >> (number - 1) & 1)


class Told(Family):
    """Does nothing, and says what it was told."""

    def __init__(self) -> None:
        super().__init__([], use_cgroup=False, kept=())
        self.told: list[str] = []

    def freeze(self) -> bool:
        self.told.append("freeze")
        return False

    def thaw(self) -> None:
        self.told.append("thaw")

    def reap(self) -> bool:
        return True

    def terminate(self) -> None:
        self.told.append("terminate")


@pytest.fixture
def init() -> Iterator[tuple[Init, Told]]:
    """One whose command has started."""
    line, other = pair()
    woken, waking = socket.socketpair()
    family = Told()
    made = Init(Orders(0, 60_000, True, False, ()), Line(line), woken, family)
    made._has_started = True
    yield made, family
    for each in (line, other, woken, waking, made._selector):
        each.close()


def test_what_went_on_is_stopped_at_once_and_what_stands_still_is_left_alone_for_a_while(
    init: tuple[Init, Told],
) -> None:
    of, family = init
    for is_permitted in (False, False, True, True, False):
        of._hold_to(is_permitted)
    assert family.told == ["freeze", "thaw", "freeze"]


def test_who_is_to_be_killed_is_given_no_grace_by_a_denial(init: tuple[Init, Told]) -> None:
    of, family = init
    of._obey({"kill": True})
    of._obey({"final": True})
    assert of._kill_at_ns == 0
    assert family.told == ["terminate"]


def test_reasons_are_for_good_unless_it_is_said_that_they_pass() -> None:
    assert {reason for reason in Reason if not is_for_good(reason)} == {
        *(Reason.INQUORATE, Reason.CLOCK_STEP, Reason.STORAGE_FULL, Reason.QUARANTINED),
        *(Reason.INTERNAL, Reason.BEHIND, Reason.FROZEN, Reason.CONTAINED, Reason.RATE_LIMITED),
        *(Reason.POLICY_FORBIDS, Reason.NO_POLICY_PERMITS, Reason.POLICY_BROKEN),
        *(Reason.ATTESTATION_MISSING, Reason.ATTESTATION_STALE, Reason.ATTESTATION_MISMATCH),
        *(Reason.EXECUTOR_SUSPENDED, Reason.DOMAIN_SUSPENDED, Reason.GRANT_SUSPENDED),
    }
    assert {reason for reason in ClientReason if is_for_good(reason)} == {
        *(ClientReason.CLOSED, ClientReason.CLIENT_FAILED, ClientReason.INVALID_REQUEST),
        *(ClientReason.POOL_FULL, ClientReason.NO_RULE),
    }
