"""A command ends by itself, or because it is denied: then all of it ends, in time."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.runner.conftest import MEMBERS, WAIT_S, Start, family, gone, is_alive, shell

from quorate.chaos.processes import wait_until
from quorate.runner.contained import Contained
from quorate.runner.kernel import NS_PER_MS, boottime_ns

walk_is_enough = pytest.mark.parametrize("means", ["walk"])
WAITING = "echo $$ > main; while :; do sleep 1; done"
PERMIT_MS = 1_500
PERMIT_NS = PERMIT_MS * NS_PER_MS
STUBBORN = "trap 'echo term > heard' TERM; " + WAITING


@walk_is_enough
@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)],
)
def test_the_exit_code_is_the_commands_own(start: Start, script: str, code: int) -> None:
    assert start(shell(script)).end() == (code, "", "")


@walk_is_enough
@pytest.mark.parametrize(
    ("program", "code", "why"),
    [("./none", 127, "No such file or directory"), ("./file", 126, "Permission denied")],
)
def test_what_cannot_be_executed_says_so(
    start: Start, tmp_path: Path, program: str, code: int, why: str
) -> None:
    (tmp_path / "file").touch()
    run = start([program])
    assert run.end() == (code, "", f"error: {program}: {why}\n")
    assert run.steps()[-3:] == ["release", "let go", "closed"]


@walk_is_enough
def test_streams_directory_and_arguments_are_the_commands(start: Start, tmp_path: Path) -> None:
    script = 'cat; pwd; printf "%s|" "$@"; echo oops >&2; ls /proc/self/fd'
    run = start([*shell(script), "sh", "-x", "--", "a b"], popen={"stdin": -1})
    out, error = run.process.communicate("told\n", timeout=WAIT_S)
    assert out.split("\n")[:2] == ["told", str(tmp_path)]
    # `ls` itself opens the directory as 3.
    assert out.split("\n")[2:] == ["-x|--|a b|0", "1", "2", "3", ""]
    assert error == "oops\n"


@walk_is_enough
def test_the_command_is_told_its_lease(start: Start) -> None:
    run = start(shell("env | grep ^QUORATE_ | sort"))
    assert run.end()[1].splitlines() == [
        "QUORATE_ACTION=books.write",
        "QUORATE_FENCE=7",
        "QUORATE_LEASE=lease-7",
        "QUORATE_RESOURCE=//bank.example/book",
    ]


OWN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
INHERITED = f"00-{'a' * 32}-{'b' * 16}-01"
IN_ENVIRONMENT = {"TRACEPARENT": INHERITED, "TRACESTATE": "a=1", "BAGGAGE": "c=3"}


@walk_is_enough
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({}, ["unset", "unset", "unset"]),
        ({"environment": IN_ENVIRONMENT}, [INHERITED, "a=1", "c=3"]),
        ({"trace": {"traceparent": OWN, "tracestate": "b=2"}}, [OWN, "b=2", ""]),
        # Nothing of one trace goes with the name of another.
        ({"trace": {"traceparent": OWN}, "environment": IN_ENVIRONMENT}, [OWN, "", ""]),
    ],
)
def test_the_command_belongs_to_the_trace_of_who_runs_it(
    start: Start, script: dict[str, Any], expected: list[str]
) -> None:
    names = ("TRACEPARENT", "TRACESTATE", "BAGGAGE")
    say = "".join(f'echo "${{{name}-unset}}";' for name in names)
    code, out, _ = start(shell(say), **script).end()
    assert (code, out.splitlines()) == (0, expected)


@walk_is_enough
@pytest.mark.parametrize("script", [{"acquire": "NO_GRANT"}, {"hold": "INQUORATE"}])
def test_without_lease_or_permit_nothing_is_started(
    start: Start, tmp_path: Path, script: dict[str, str]
) -> None:
    run = start(shell("touch started"), **script)
    reason = next(iter(script.values()))
    code, out, error = run.end()
    assert (code, out) == (3, "")
    assert error.startswith(f"error: not started: {reason} (bank.example/thing)\n")
    assert not (tmp_path / "started").exists()
    assert "act" not in run.steps()
    assert ("release" in run.steps()) == ("hold" in script)


@walk_is_enough
@pytest.mark.parametrize("script", [{"act": "NO_TRUST"}, {"deny_at_act": "INQUORATE"}])
@pytest.mark.parametrize("options", [(), ("--freeze",)])
def test_what_is_denied_on_the_eve_of_the_start_is_not_started(
    start: Start, tmp_path: Path, script: dict[str, str], options: tuple[str, ...]
) -> None:
    run = start(shell("touch started"), *options, **script)
    code, _, error = run.end()
    assert code == 3
    assert f"not started: {next(iter(script.values()))}" in error
    assert not (tmp_path / "started").exists()
    assert "release" in run.steps()


@walk_is_enough
def test_nothing_is_started_before_there_is_a_permit_at_hand(start: Start, tmp_path: Path) -> None:
    """The permit was dropped when the stream broke, and the next one is on its way."""
    run = start(shell("touch started"), until_ns=0)
    run.hear("act")
    run.hear("ready")
    for _ in range(3):
        run.hear("look")
    assert is_alive(run.init().pid)
    assert not (tmp_path / "started").exists()
    run.say(until_ns=boottime_ns() + 60_000 * NS_PER_MS)
    assert run.end()[0] == 0
    assert (tmp_path / "started").exists()


def test_the_init_starts_nothing_when_the_permit_is_over_by_then(tmp_path: Path) -> None:
    with Contained(["touch", str(tmp_path / "started")], grace_ms=0) as contained:
        contained.start({}, boottime_ns())
        heard: list[dict[str, Any]] = []
        wait_until("the end", lambda: heard.extend(contained.heard()) or contained.is_lost, WAIT_S)
    assert heard[0].keys() == {"ready", "cgroup"}
    assert heard[1:] == [{"status": None, "stopped": True}]
    assert not (tmp_path / "started").exists()


@walk_is_enough
def test_a_denial_asks_the_command_to_end(start: Start) -> None:
    run = start(shell("trap 'echo term; exit 0' TERM; " + WAITING), "--grace", "1h")
    run.pids("main")
    run.deny()
    code, out, error = run.end()
    assert (code, out) == (3, "term\n"), "not 0: it was stopped"
    # Before that a shell may have said that what it ran was terminated.
    assert error.endswith(
        "error: stopped: GRANT_REVOKED (bank.example/thing)\n"
        "hint: run it again when the reason no longer holds\n"
    )


@walk_is_enough
def test_a_program_is_told_the_reason_in_json(start: Start) -> None:
    run = start(shell(WAITING), "--output", "json")
    run.pids("main")
    run.deny("LEASE_EXPIRED")
    code, out, error = run.end()
    assert (code, out) == (3, "")
    [line] = error.splitlines()
    told = json.loads(line)["error"]
    assert told | {"hint": ""} == {
        "kind": "denied",
        "message": "stopped: LEASE_EXPIRED (bank.example/thing)",
        "hint": "",
        "reason": "LEASE_EXPIRED",
        "thing": "bank.example/thing",
        "lease_id": "lease-7",
        "started": True,
    }


def test_who_does_not_end_is_killed_when_the_grace_is_over(start: Start) -> None:
    run = start(family("stubborn"), "--grace", "1s")
    pids = run.pids(*MEMBERS)
    began_s = time.monotonic()
    run.deny()
    assert run.end()[0] == 3
    assert time.monotonic() - began_s >= 1, "it had its grace"
    assert set(map(int, run.read("heard").split())) == set(pids)
    assert not any(map(is_alive, pids))


@walk_is_enough
def test_without_grace_it_is_killed_at_once(start: Start, tmp_path: Path) -> None:
    run = start(shell(STUBBORN), "--grace", "0s")
    run.pids("main")
    run.deny()
    assert run.end()[0] == 3
    assert not (tmp_path / "heard").exists()


def test_those_who_left_group_and_parent_are_asked_and_ended_too(
    start: Start, tmp_path: Path
) -> None:
    run = start(family("stubborn"), "--grace", "3s")
    pids = run.pids(*MEMBERS)
    run.deny()
    heard = tmp_path / "heard"
    told = lambda: set(map(int, heard.read_text().split())) if heard.exists() else set()  # noqa: E731
    wait_until("SIGTERM at all", lambda: told() == set(pids), WAIT_S)
    assert all(map(is_alive, pids))
    assert run.end()[0] == 3
    assert not any(map(is_alive, pids))


def test_what_the_command_leaves_behind_ends_with_it(start: Start) -> None:
    run = start(family("leaves"), "--grace", "200ms")
    pids = run.pids("child", "daemon")
    assert run.end()[0] == 5, "its own code"
    assert not any(map(is_alive, pids))
    assert run.told_of("acted")["left"] == []


@walk_is_enough
def test_what_the_command_leaves_behind_may_finish_in_the_time_of_the_grace(
    start: Start, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    run = start(shell('echo $$ > main; (read line; echo "$line") < fifo &'), "--grace", "1h")
    gone(*run.pids("main"))
    (tmp_path / "fifo").write_text("written late\n")
    assert run.end() == (0, "written late\n", "")


def test_the_act_is_over_when_all_have_ended_and_the_lease_goes_back_after_it(
    start: Start,
) -> None:
    run = start(family("stubborn"), "--grace", "500ms")
    run.pids(*MEMBERS)
    run.deny()
    assert run.hear("acted")["left"] == []
    assert run.end()[0] == 3
    order = ["acquire", "hold", "act", "ready", "acted", "release", "let go", "closed"]
    assert run.steps() == order
    assert run.told_of("acquire")["ttl_ms"] == 600_000
    assert run.told_of("release")["timeout_ms"] <= 5_000


@walk_is_enough
def test_who_ended_by_itself_before_the_denial_was_not_stopped(start: Start) -> None:
    """Its code is told, although what it left behind was asked to end."""
    run = start(shell("sleep 600 & echo $! > left; echo $$ > main; exit 5"), "--grace", "1h")
    main, left = run.pids("main", "left")
    gone(main)
    run.deny()
    assert run.end() == (5, "", "")
    assert not is_alive(left)


@walk_is_enough
def test_a_permit_that_is_followed_by_none_ends_the_command_though_nobody_says_so(
    start: Start,
) -> None:
    run = start(shell(WAITING), "--grace", "1h", permit_ms=PERMIT_MS)
    [main] = run.pids("main")
    began_ns = boottime_ns()
    wait_until("several permits", lambda: boottime_ns() - began_ns > 2 * PERMIT_NS, WAIT_S)
    assert is_alive(main)
    run.say(lose=True)
    code, _, error = run.end()
    assert code == 3
    assert error.startswith("error: stopped: LATE (lease-7) - the last permit was over\n")
