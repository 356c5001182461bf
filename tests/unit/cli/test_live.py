"""The line on a terminal, while a narrowing command is waited for."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from quorate.cli import govern as governing
from quorate.cli.live import LiveLine, live_line
from quorate.v1 import governance_pb2

CLINIC = "spiffe://clinic.example/node/1"
ENFORCED = governance_pb2.WAIT_LEVEL_ENFORCED
DRAINED = governance_pb2.WAIT_LEVEL_DRAINED


def is_open(name: str, lacks: Any = ENFORCED, within_ms: int = 1_400) -> governance_pb2.OpenNode:
    return governance_pb2.OpenNode(node_id=name, lacks=lacks, within_ms=within_ms)


def progress(*nodes: governance_pb2.OpenNode, bound_ms: int = 2_060) -> Any:
    told = governance_pb2.RevokeProgress(open=nodes)
    told.so_far.outcome.accepted = True
    told.so_far.bound_ms = bound_ms
    return told


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def line(clock: Clock) -> LiveLine:
    return LiveLine("drained", clock)


def test_before_the_ledger_has_decided_it_says_that(line: LiveLine) -> None:
    assert line.text() == "waiting for the ledger to decide"


def test_it_names_who_is_open_and_counts_down(line: LiveLine, clock: Clock) -> None:
    line.tell(progress(is_open(CLINIC), is_open("b", DRAINED, 2_060)))
    assert line.text() == (
        "accepted, waiting for drained: still open: "
        f"{CLINIC} (not enforced; over within 1.4 s), b (not drained; over within 2.1 s)"
    )
    clock.now_s += 1.4
    assert f"{CLINIC} (not enforced; over by now, not heard of yet)" in line.text()
    assert "b (not drained; over within 0.7 s)" in line.text()


def test_many_names_are_counted(line: LiveLine) -> None:
    line.tell(progress(*(is_open(f"n{number}") for number in range(9))))
    assert line.text().count("not enforced") == 3
    assert line.text().endswith("6 more")


def test_without_names_it_says_what_is_promised(line: LiveLine) -> None:
    line.tell(progress())
    assert line.text() == "accepted, waiting for drained: over within 2.1 s"


def test_the_end_is_no_progress(line: LiveLine) -> None:
    line.tell(progress(is_open(CLINIC)))
    before = line.text()
    last = progress(bound_ms=0)
    last.is_last = True
    line.tell(last)
    assert line.text() == before


def test_where_nobody_looks_there_is_no_line() -> None:
    stream = io.StringIO()
    with live_line(Console(file=stream), "drained") as told:
        assert told is None
    assert stream.getvalue() == ""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error is one; what is shown on it."""
    shown = io.StringIO()
    original = governing.console

    def console(*, error: bool = False) -> Console:
        if error:
            return Console(file=shown, force_terminal=True, width=200)
        return original()

    monkeypatch.setattr(governing, "console", console)
    return shown


def test_a_terminal_is_shown_who_is_open(
    run: Any, node: Any, federation: Any, terminal: io.StringIO
) -> None:
    node.open, node.bound_ms = [[], [is_open(CLINIC)]], 0
    run("executor", "register", "agent/x", "--org", federation.org())
    ran = run("executor", "revoke", "agent/x", "--org", federation.org(), "--wait", "drained")
    assert ran.exit_code == 0, ran.stderr
    assert node.followed == 1
    assert f"still open: {CLINIC}" in terminal.getvalue()
    assert "drained" in ran.stdout
    assert "\x1b" not in ran.stdout


@pytest.mark.parametrize("output", ["json", "text"])
def test_programs_and_pipes_are_told_the_result_alone(
    run: Any, node: Any, federation: Any, output: str
) -> None:
    node.open, node.bound_ms = [[is_open(CLINIC)]], 1_020
    org = ("--org", federation.org(), "-o", output)
    run("executor", "register", "agent/x", *org)
    ran = run("executor", "revoke", "agent/x", "--wait", "enforced", *org)
    assert (ran.exit_code, ran.stderr, node.followed) == (0, "", 0)
    assert CLINIC not in ran.stdout
    assert "1020" in ran.stdout


def test_programs_are_told_the_result_alone_on_a_terminal_too(
    run: Any, node: Any, federation: Any, terminal: io.StringIO
) -> None:
    org = ("--org", federation.org(), "-o", "json")
    run("executor", "register", "agent/x", *org)
    assert run("executor", "revoke", "agent/x", *org).exit_code == 0
    assert (node.followed, terminal.getvalue()) == (0, "")


@pytest.mark.parametrize("fault", ["forget", "break", "lose"])
def test_what_stays_unknown_is_settled_with_a_line_too(
    run: Any, node: Any, federation: Any, terminal: io.StringIO, fault: str
) -> None:
    run("executor", "register", "agent/x", "--org", federation.org())
    node.faults, node.knows_outcomes = [fault], False
    ran = run("executor", "revoke", "agent/x", "--org", federation.org())
    assert ran.exit_code == 0, ran.stderr
    assert node.followed == 2
    assert len({request.envelope for request in node.requests[1:]}) == 1
    assert len(node.entries) == 3


def test_a_level_not_reached_in_time_is_said_with_what_is_promised(
    run: Any, node: Any, federation: Any, terminal: io.StringIO
) -> None:
    run("executor", "register", "agent/x", "--org", federation.org())
    node.reached, node.bound_ms = [governance_pb2.WAIT_LEVEL_COMMITTED] * 1_000, 1_234
    ran = run(
        *("executor", "revoke", "agent/x", "--org", federation.org()),
        *("--wait", "drained", "--timeout", "300ms"),
    )
    assert ran.exit_code == 4
    assert "within 1234 ms, whatever fails" in ran.stdout
    assert "not known to be drained in time" in ran.stdout


def test_who_does_not_wait_ends_the_line_and_is_told(
    run: Any, node: Any, federation: Any, terminal: io.StringIO
) -> None:
    run("executor", "register", "agent/x", "--org", federation.org())
    node.faults = ["SIGINT"]
    ran = run("executor", "revoke", "agent/x", "--org", federation.org(), "--wait", "drained")
    assert ran.exit_code == 130
    assert "is not known" in ran.stderr
