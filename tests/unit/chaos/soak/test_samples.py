"""What is sampled is what the kernel and the store say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quorate.chaos.parts import EDGE
from quorate.chaos.soak import samples
from quorate.chaos.soak.samples import Sampler, read_process, read_store
from quorate.storage import layout

MIB = 1024 * 1024


def test_memory_is_what_the_process_holds_and_not_what_it_maps(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(64 * MIB))
    code = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "sum(mapped[::4096])\n"
        "held = bytearray(b'x' * int(sys.argv[2]))\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )

    def anon_bytes(held: int) -> int:
        command = [sys.executable, "-c", code, str(file), str(held)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
            process.stdout.readline()
            found = read_process(process.pid)
            process.stdin.close()
        assert found is not None
        return int(found[1])

    small, large = anon_bytes(MIB), anon_bytes(33 * MIB)
    assert small < 48 * MIB
    assert 31 * MIB < large - small < 33 * MIB


def test_a_process_that_is_gone_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert read_process(process.pid) is None  # ended, and not yet reaped
    assert read_process(process.pid) is None


def test_a_processs_name_is_its_alone() -> None:
    found = read_process(os.getpid())
    assert found is not None
    assert found[0].startswith(f"{os.getpid()}/")
    assert read_process(os.getpid()) is not None


WRITER = """
import sys
from pathlib import Path
from quorate.storage import Environment

environment = Environment.open(Path(sys.argv[1]), map_size_bytes=2**26)
environment.initialise(bytes(32), "spiffe://bank.example/node/1")
print(flush=True)
sys.stdin.readline()
for index in range(1, 301):
    environment.turn.log_append(index, 1, bytes(1_000))
for _ in range(200):
    environment.turn.append_ledger(bytes(500))
environment.commit()
print(flush=True)
sys.stdin.readline()
"""


def test_a_stores_log_and_ledger_are_counted_beside_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    command = [sys.executable, "-c", WRITER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as writer:  # type: ignore[call-overload]
        writer.stdout.readline()
        empty = read_store(path, "bank.example", 1.0)
        writer.stdin.write(b"\n")
        writer.stdin.flush()
        writer.stdout.readline()
        full = read_store(path, "bank.example", 2.0)
        writer.stdin.close()
    assert writer.returncode == 0
    assert (empty.log_entries, empty.ledger_entries) == (0, 0)
    assert (full.log_entries, full.ledger_entries) == (300, 200)
    assert 300_000 < full.log_bytes < full.used_bytes <= full.file_bytes
    assert full.file_bytes == (path / layout.DATA_FILE).stat().st_size
    assert full.used_bytes - full.log_bytes > 200 * 500


class Nodes:
    """A cluster of one node, of one process that looks like an edge."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.members = {"bank.example": None}
        self._pid = pid
        node = SimpleNamespace(data_dir=directory)
        self._organisation = SimpleNamespace(config=SimpleNamespace(node=node))

    def processes(self, _domain: str) -> SimpleNamespace:
        return SimpleNamespace(members=lambda: [self._pid])

    def operator(self, _domain: str) -> SimpleNamespace:
        return SimpleNamespace(organisation=self._organisation)


def test_a_process_has_settled_when_it_is_old_enough_and_every_node_was_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(samples, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(samples, "read_store", lambda *_: None)
    monkeypatch.setattr(samples, "part_of", lambda _pid: EDGE)
    nodes: Any = Nodes(tmp_path, os.getpid())
    sampler = Sampler(nodes, 1.0)
    sampler.whole()
    for now in (101.0, 120.0, 121.0, 122.0):
        if now == 121.0:
            sampler.whole()
        sampler.take()
    assert [sample.age_s for sample in sampler.memory] == [0, 19, 20, 21]
    assert [sample.settled for sample in sampler.memory] == [False, False, True, True]
