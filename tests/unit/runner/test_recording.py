"""The ledger is told what became of a run, and what it has written; nothing waits for that."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

from tests.unit.runner.conftest import Exec, Start

EVENTS = {"events": "tell"}


def events(run: Exec) -> list[dict[str, Any]]:
    run.steps()
    return [
        {key: value for key, value in told.items() if key != "step"}
        for told in run.told
        if told["step"] == "event"
    ]


def kinds(run: Exec) -> list[str]:
    return [event["kind"] for event in events(run)]


def test_a_run_has_started_and_is_completed(start: Start) -> None:
    command = ["sh", "-c", "echo one; echo two; exit 7"]
    run = start(command, **EVENTS)
    code, out, _ = run.end()
    assert (code, out) == (7, "one\ntwo\n")
    assert events(run) == [
        {
            "kind": "started",
            "program": "sh",
            "command_sha256": hashlib.sha256("\0".join(command).encode()).hexdigest(),
        },
        {
            "kind": "completed",
            "exit_code": "7",
            "stdout_sha256": hashlib.sha256(b"one\ntwo\n").hexdigest(),
            "stdout_bytes": "8",
        },
    ]


def test_what_its_descendants_write_is_in_the_digest(start: Start) -> None:
    run = start(["sh", "-c", "(sleep 0.2; echo late) & echo early"], **EVENTS)
    code, out, _ = run.end()
    assert code == 0
    assert events(run)[-1]["stdout_sha256"] == hashlib.sha256(out.encode()).hexdigest()


def test_a_denial_interrupts_and_the_end_contains(start: Start) -> None:
    run = start(["sh", "-c", "echo begun; echo > ready; sleep 600"], **EVENTS)
    run.read("ready")
    run.deny("GRANT_REVOKED")
    code, out, _ = run.end()
    assert (code, out) == (3, "begun\n")
    assert events(run)[1:] == [
        {"kind": "interrupted", "reason": "GRANT_REVOKED"},
        {
            "kind": "contained",
            "how": "ended",
            "stdout_sha256": hashlib.sha256(b"begun\n").hexdigest(),
            "stdout_bytes": "6",
        },
    ]


def test_the_end_of_the_last_permit_is_an_interruption(start: Start) -> None:
    run = start(["sleep", "600"], permit_ms=500, **EVENTS)
    run.hear("event")
    run.say(lose=True)
    assert run.end()[0] == 3
    assert kinds(run) == ["started", "interrupted", "contained"]


def test_what_stands_still_is_contained_and_recovers(start: Start) -> None:
    run = start(["sh", "-c", "echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done"],
                "--freeze", **EVENTS)  # fmt: skip
    run.read("pid")
    run.deny("INQUORATE")
    while run.hear("event")["kind"] != "contained":
        pass
    (run.directory / "go").touch()
    run.say(permit=True)
    assert run.end()[0] == 0
    assert kinds(run) == [
        "started",
        "interrupted",
        "contained",
        "recovery_started",
        "revalidated",
        "completed",
    ]


def test_what_stood_still_and_was_ended_says_so(start: Start) -> None:
    run = start(["sleep", "600"], "--freeze", **EVENTS)
    run.hear("event")
    run.deny("INQUORATE")
    while run.hear("event")["kind"] != "contained":
        pass
    run.say(answer="GRANT_REVOKED")
    assert run.end()[0] == 3
    assert kinds(run) == ["started", "interrupted", "contained", "reported"]
    assert events(run)[-1]["how"] == "ended"


def test_what_was_not_started_was_only_interrupted(start: Start) -> None:
    run = start(["true"], hold="GRANT_REVOKED", **EVENTS)
    assert run.end()[0] == 3
    assert kinds(run) == ["interrupted"]


def test_a_node_that_does_not_answer_holds_nothing_up_for_long(start: Start) -> None:
    run = start(["sh", "-c", "exit 5"], events="hang")
    code, _, error = run.end()
    assert code == 5
    assert "the ledger is not told all of this run: the node did not answer in time" in error


def test_an_event_that_is_refused_is_told(start: Start) -> None:
    run = start(["true"], events="refuse")
    code, _, error = run.end()
    assert code == 0
    assert "the ledger is not told all of this run: UNKNOWN_LEASE" in error


def test_everything_comes_out_as_it_is(start: Start) -> None:
    size = 3_000_000
    run = start(["head", "-c", str(size), "/dev/zero"], **EVENTS)
    code, out, _ = run.end()
    assert (code, out) == (0, "\0" * size)
    assert events(run)[-1]["stdout_sha256"] == hashlib.sha256(bytes(size)).hexdigest()


def test_a_reader_that_has_enough_ends_the_command_as_ever(start: Start) -> None:
    run = start(["sh", "-c", "yes; echo $? > status"], **EVENTS)
    assert run.process.stdout is not None
    assert run.process.stdout.read(4) == "y\ny\n"
    run.process.stdout.close()
    assert run.read("status") == "141\n"
    run.process.stdout = None
    assert run.end()[0] == 0
    assert "stdout_sha256" not in events(run)[-1]


def test_output_that_cannot_be_written_is_no_success(start: Start) -> None:
    with Path("/dev/full").open("w") as full:
        run = start(["echo", "lost"], popen={"stdout": full}, **EVENTS)
        code, _, error = run.end()
    assert code == 1
    assert "output is not all written: No space left on device" in error
    assert "stdout_sha256" not in events(run)[-1]


def test_an_output_that_does_not_block_is_waited_for(start: Start) -> None:
    ours, its = os.pipe()
    os.set_blocking(its, False)
    filled = os.write(its, bytes(1_000_000))
    run = start(["echo", "late"], popen={"stdout": its}, **EVENTS)
    os.close(its)
    while run.hear("event")["kind"] != "completed":
        pass
    with open(ours, "rb") as reader:  # noqa: PTH123 - a descriptor
        assert reader.read() == bytes(filled) + b"late\n"
    assert run.end()[0] == 0


def test_a_closed_output_stays_closed(start: Start) -> None:
    closing = ["sh", "-c", 'exec "$@" >&-', "sh"]
    run = start(["sh", "-c", "test ! -e /proc/$$/fd/1"], through=closing, **EVENTS)
    assert run.end()[0] == 0
    assert events(run)[-1] == {"kind": "completed", "exit_code": "0"}


def test_without_a_digest_the_output_is_left_alone(start: Start) -> None:
    run = start(["sh", "-c", "readlink /proc/self/fd/1"], "--no-digest", **EVENTS)
    assert run.process.stdout is not None
    mine = Path(f"/proc/self/fd/{run.process.stdout.fileno()}").readlink()
    code, out, _ = run.end()
    assert (code, out.strip()) == (0, str(mine))
    assert events(run)[-1] == {"kind": "completed", "exit_code": "0"}


def test_a_terminal_is_left_alone(start: Start) -> None:
    leader, follower = pty.openpty()
    terminal = {"stdout": follower, "stderr": subprocess.DEVNULL}
    run = start(["sh", "-c", "test -t 1"], popen=terminal, **EVENTS)
    os.close(follower)
    assert run.end()[0] == 0
    os.close(leader)
    assert events(run)[-1] == {"kind": "completed", "exit_code": "0"}
