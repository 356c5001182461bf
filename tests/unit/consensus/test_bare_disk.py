"""What the engine keeps on its disk when left alone, and what a crash leaves of it.

Hazards 6, 7, 8, 9 and 16 of docs/consensus.md. Ours has neither these files nor these steps, so its
tests are others, and are named with each.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from tests.unit.consensus import bare
from tests.unit.consensus.bare import TICK_S, Bare, command

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """An engine's settings with journal and dump on a disk."""
    return {
        "journalFile": str(tmp_path / "journal"),
        "fullDumpFile": str(tmp_path / "dump"),
        "useFork": False,
    }


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each call by which Python can ask for something to be made durable."""
    made: list[str] = []
    for name in ("fsync", "fdatasync", "sync"):
        monkeypatch.setattr(os, name, lambda *_, name=name: made.append(name))

    class Counted(mmap.mmap):
        def flush(self, *arguments: Any) -> None:
            made.append("msync")
            super().flush(*arguments)

    monkeypatch.setattr(bare.module("journal"), "mmap", SimpleNamespace(mmap=Counted))
    return made


def entries(first: int, last: int, term: int = 1) -> list[tuple[bytes, int, int]]:
    return [(command(f"value {index}"), index, term) for index in range(first, last + 1)]


# -- hazards 6 and 7: nothing is durable when it is said ------------------------------------------


def test_hazards_6_and_7_a_command_succeeds_without_one_sync(
    syncs: list[str], files: dict[str, Any]
) -> None:
    """Term, vote and entry are written, acknowledged, counted and reported, and a power cut takes
    them back: the leader's own share of the quorum was never on a disk.

    Ours: test_replica.test_hazard_7_an_entry_counts_and_leaves_only_when_its_turn_is_durable, and
    tests/unit/storage/test_environment.py, test_nothing_trades_durability_for_speed.
    """
    leader = Bare("bc", **files)
    leader.lead()
    outcome = leader.put("x")
    leader.tick()
    leader.acknowledge("b", 3)
    leader.tick()
    assert outcome == [(1, 0)]
    follower_of_another = Bare("bc", **files | {"journalFile": files["journalFile"] + "2"})
    follower_of_another.append("b", 1, 1, 0, *entries(2, 4))
    assert follower_of_another.wire.take()[-1][1]["success"]
    assert syncs == []
    for node in (leader, follower_of_another):
        node.engine.destroy()
    assert syncs == ["msync", "msync"], "the counting works: an orderly end does flush the journal"


@pytest.mark.parametrize("damage", [b"", b"\x80", b"not a pickle"], ids=["empty", "cut", "garbage"])
def test_hazard_6_a_damaged_vote_is_forgotten_and_cast_again(
    files: dict[str, Any], damage: bytes
) -> None:
    """Ours: test_replica.test_hazard_6_a_vote_survives_a_restart; damage is named at the start
    (tests/unit/storage/test_damage.py)."""
    node = Bare("bc", **files)
    node.ask_vote("b", 4)
    node.die()
    Path(files["journalFile"] + ".meta").write_bytes(damage)
    node.start()
    node.ask_vote("c", 4)
    assert node.wire.take() == [("c", {"type": "response_vote", "term": 4})], "a second vote"
    node.die()


GROWING: Final = """
import sys
from pysyncobj.journal import FileJournal
journal = FileJournal(sys.argv[1])
for index in range(1, 1000):
    journal.add(bytes(1000), index, 1)
"""


@pytest.mark.root
def test_hazard_6_a_full_disk_kills_the_process(tmp_path: Path) -> None:
    """Ours: tests/unit/storage/test_failures.py,
    test_a_full_disk_keeps_every_commit_and_heals_with_room."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr}")
    try:
        arguments = [sys.executable, "-c", GROWING, str(tmp_path / "journal")]
        ended = subprocess.run(arguments, capture_output=True, check=False)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert ended.returncode == -signal.SIGBUS


# -- hazard 8: removing the front of the log ------------------------------------------------------


def compacting(files: dict[str, Any]) -> Bare:
    """A follower whose dump reflects entry 20, and whose next tick removes what is before it from
    the journal. It has acknowledged up to entry 30."""
    node = Bare("bc", **files)
    node.append("b", 1, 1, 0, *entries(2, 20), commit_index=20)
    node.tick()
    node.engine.forceLogCompaction()
    node.tick()
    assert Path(files["fullDumpFile"]).exists()
    node.append("b", 1, 20, 1, *entries(21, 30), commit_index=20)
    assert node.wire.take()[-1] == ("b", acknowledgement(30))
    return node


def acknowledgement(index: int) -> dict[str, Any]:
    return {
        "type": "next_node_idx",
        "next_node_idx": index + 1,
        "reset": False,
        "success": True,
    }


def kill_at_write(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """The process ends after that many writes to the journal."""
    file = bare.module("journal").ResizableFile
    write: Callable[..., None] = file.write
    writes = [0]

    def counted(self: Any, offset: int, values: bytes) -> None:
        if writes[0] == last:
            raise Killed
        writes[0] += 1
        write(self, offset, values)

    monkeypatch.setattr(file, "write", counted)


@pytest.mark.parametrize("writes", [1, 2, 5, 9])
def test_hazard_8_a_crash_in_compaction_loses_what_was_acknowledged(
    writes: int, files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: tests/unit/node/test_hazards_of_compaction.py,
    test_hazard_8_a_crash_at_any_commit_of_compaction_loses_nothing."""
    node = compacting(files)
    with monkeypatch.context() as patch:
        kill_at_write(patch, writes)
        with pytest.raises(Killed):
            node.tick()
    node.die()
    node.start()
    node.tick()
    assert node.last_index < 30
    node.die()


def test_hazard_8_compaction_without_a_crash_keeps_it(files: dict[str, Any]) -> None:
    """That the cases above are the crash's doing."""
    node = compacting(files)
    node.tick()
    assert (node.log[0][1], node.last_index) == (19, 30)
    node.die()
    node.start()
    node.tick()
    assert node.last_index == 30
    node.die()


def test_hazard_8_compaction_after_a_truncation_empties_the_log() -> None:
    """And no tick ends well from then on. Ours: a truncation behind what is committed accuses the
    peer (tests/property/consensus/test_rules.py, test_what_matches_is_never_truncated)."""
    node = Bare("bc")
    node.append("b", 1, 1, 0, *entries(2, 5), commit_index=5)
    node.tick()
    node.engine.forceLogCompaction()
    node.tick()
    node.append("b", 1, 1, 0, *entries(2, 2), commit_index=5)
    node.tick()
    assert node.log == []
    for _ in range(20):
        with pytest.raises(IndexError):
            node.tick(after_s=TICK_S * 100)


# -- hazard 9: dumps that contradict the journal --------------------------------------------------


def test_hazard_9_a_kill_between_dump_and_compaction_loses_what_was_acknowledged(
    files: dict[str, Any],
) -> None:
    """Ours: tests/unit/node/test_hazards_of_compaction.py,
    test_hazard_9_a_crash_at_any_commit_of_an_installation_leaves_log_and_state_in_step."""
    node = compacting(files)
    node.die()
    node.start()
    node.tick()
    assert node.last_index == 20
    node.die()


@pytest.mark.parametrize("damage", [b"", b"not a dump"], ids=["empty", "garbage"])
def test_hazard_9_an_unreadable_dump_is_swallowed(files: dict[str, Any], damage: bytes) -> None:
    """The node goes on with an empty state; it votes and acknowledges as if it had it.

    Ours: test_replica.test_hazard_9_a_state_ahead_of_its_log_stops_the_node, and
    tests/unit/storage/test_damage.py, test_a_flipped_byte_is_named_or_changes_nothing.
    """
    node = compacting(files)
    node.tick()
    assert len(node.values) == 19
    node.die()
    Path(files["fullDumpFile"]).write_bytes(damage)
    node.start()
    node.tick()
    assert node.values == []
    node.append("b", 1, 30, 1, *entries(31, 31), commit_index=31)
    node.tick(after_s=TICK_S)
    assert node.values == []
    node.ask_vote("b", 2)
    assert [message["type"] for _, message in node.wire.take()] == ["response_vote"]
    node.die()


# -- hazard 16: a fork for every dump -------------------------------------------------------------


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads the process had at each fork. The child is never made, and never ends."""
    threads: list[int] = []

    def fork() -> int:
        threads.append(threading.active_count())
        return 4_000_000

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(os, "waitpid", lambda _pid, _options: (0, 0))
    return threads


def test_hazard_16_a_process_with_threads_is_forked(
    files: dict[str, Any], forks: list[int]
) -> None:
    """The child has one thread, and every lock that another held at that moment, for ever. The
    engine's own thread is one that it has by default.

    Ours: tests/unit/node/test_hazards_of_compaction.py,
    test_hazard_16_state_is_sent_without_a_fork_and_without_stopping, for this and the next.
    """
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    node = Bare("bc", **files | {"useFork": True})
    node.append("b", 1, 1, 0, *entries(2, 5), commit_index=5)
    node.tick()
    node.engine.forceLogCompaction()
    node.tick()
    end.set()
    other.join()
    node.die()
    [threads] = forks
    assert threads > 1, "this test's, and whatever others have left"


def test_hazard_16_a_leader_spins_while_its_dump_is_written(
    files: dict[str, Any], forks: list[int]
) -> None:
    """To a follower that needs the dump it sends messages without content, one after the other, for
    as long as a heartbeat lasts, and nothing else is done meanwhile."""
    leader = Bare("bc", **files | {"useFork": True})
    leader.lead()
    for number in range(20):
        leader.put(number)
    leader.tick()
    leader.acknowledge("c", 22)
    leader.tick()
    leader.engine.forceLogCompaction()
    leader.tick()
    leader.engine._SyncObj__deleteEntriesTo(21)
    leader.refuse("b", 1, 2)
    leader.wire.take()
    leader.now += 1
    began = leader.now

    def running_clock() -> float:
        leader.now += 0.001
        return leader.now

    bare.hands.clock = running_clock
    leader.engine.doTick(0.0)
    empty = [m for peer, m in leader.wire.take() if peer == "b" and m["serialized"] is None]
    assert len(empty) > 50
    assert leader.now - began > leader.engine.conf.appendEntriesPeriod
    leader.die()
    assert len(forks) == 1
