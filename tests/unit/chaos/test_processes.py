"""Processes that are killed, paused, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.chaos.ports import Ports
from quorate.chaos.processes import (
    DeadlineError,
    ProcessError,
    ProcessGroup,
    Warden,
    clean_environment,
    group_members,
    wait_until,
)
from quorate.chaos.toml import to_toml
from quorate.chaos.warden import keep_watch

FAMILY = """
import subprocess, sys, time, signal
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if "gentle" in sys.argv:
    def end(*_):
        child.kill(); child.wait(); sys.exit(7)
    signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    time.sleep(600)
"""


@pytest.fixture
def warden() -> Iterator[Warden]:
    made = Warden()
    yield made
    made.close()


def family(warden: Warden, directory: Path, manner: str = "") -> ProcessGroup:
    """A process with a child of its own, as a node's supervisor is."""
    group = warden.spawn(
        "family",
        [sys.executable, "-c", FAMILY, manner],
        log=directory / "log",
        directory=directory,
    )
    wait_until("the family", lambda: group.log_tail() == "up" and len(group.members()) == 2, 20)
    return group


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_killing_ends_the_whole_group(warden: Warden, tmp_path: Path) -> None:
    group = family(warden, tmp_path)
    assert group.is_running()
    group.kill()
    assert not group.is_running()
    assert group_members(group.pgid) == []
    group.kill()  # again is harmless


def test_a_leader_that_died_by_itself_is_noticed_and_its_child_is_ended(
    warden: Warden, tmp_path: Path
) -> None:
    group = family(warden, tmp_path)
    os.kill(group.pgid, signal.SIGKILL)
    wait_until("its death", lambda: not group.is_running(), 10)
    assert len(group.members()) == 1
    group.kill()
    assert group_members(group.pgid) == []


def test_stopping_asks_the_leader_to_end_its_own(warden: Warden, tmp_path: Path) -> None:
    assert family(warden, tmp_path, "gentle").stop() == 7


def test_what_does_not_stop_is_killed_and_told(warden: Warden, tmp_path: Path) -> None:
    group = family(warden, tmp_path, "stubborn")
    with pytest.raises(ProcessError, match="did not stop"):
        group.stop(timeout_s=0.3)
    assert group_members(group.pgid) == []


def test_pausing_stops_every_process_and_resuming_continues_it(
    warden: Warden, tmp_path: Path
) -> None:
    group = family(warden, tmp_path)
    group.pause()
    wait_until("the pause", lambda: {state_of(pid) for pid in group.members()} == {"T"}, 10)
    group.resume()
    wait_until("going on", lambda: "T" not in {state_of(pid) for pid in group.members()}, 10)


def test_closing_ends_what_is_left_even_when_paused(tmp_path: Path) -> None:
    warden = Warden()
    group = family(warden, tmp_path)
    group.pause()
    warden.close()
    assert group_members(group.pgid) == []


@pytest.mark.parametrize("paused", [False, True])
def test_no_orphan_is_left_when_the_parent_is_killed(tmp_path: Path, paused: bool) -> None:
    parent = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from quorate.chaos.processes import Warden, wait_until
        here = Path({str(tmp_path)!r})
        group = Warden().spawn(
            "family", [sys.executable, "-c", {FAMILY!r}], log=here / "log", directory=here
        )
        wait_until("the family", lambda: len(group.members()) == 2, 20)
        if {paused}:
            group.pause()
        print(group.pgid, flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pgid = int(process.stdout.readline())
        assert len(group_members(pgid)) == 2
        process.kill()
    wait_until("the end of the orphans", lambda: not group_members(pgid), 10)


def test_the_warden_forgets_what_was_dropped() -> None:
    lines = iter(["add 5\n", "add 6\n", "drop 5\n", "nonsense\n"])
    assert keep_watch(lines) == {6}  # type: ignore[arg-type]


def test_waiting_ends_at_its_deadline() -> None:
    with pytest.raises(DeadlineError, match="the moon"):
        wait_until("the moon", lambda: False, 0.05)


def test_settings_for_another_node_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORATE_LISTEN__PEER", "0.0.0.0:1")
    environment = clean_environment({"A": "b"})
    assert "QUORATE_LISTEN__PEER" not in environment
    assert environment["A"] == "b"
    assert "PATH" in environment


def test_ports_that_are_claimed_are_not_given_twice() -> None:
    one, other = Ports(), Ports()
    addresses = [ports.address() for ports in (one, other) for _ in range(50)]
    assert len(set(addresses)) == 100
    one.close()
    other.close()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.dictionaries(
        texts,
        st.dictionaries(texts, st.one_of(texts, st.booleans(), st.integers(-(2**63), 2**63 - 1))),
    )
)
def test_toml_reads_back_as_it_was_written(document: dict[str, dict[str, str | int]]) -> None:
    assert tomllib.loads(to_toml(document)) == document
