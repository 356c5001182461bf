"""What was acknowledged outlives kill -9; what was not is there whole or not at all."""

import random
import subprocess
import sys
import threading

from quorate.proofs import merkle
from quorate.storage import Environment

MAP_SIZE_BYTES = 64 * 1024 * 1024
ROUNDS = 12

WRITER = """
import sys
from pathlib import Path
from quorate.storage import Environment
environment = Environment.open(Path(sys.argv[1]), map_size_bytes=64 << 20)
turn = environment.turn
index = turn.log_last()[0]
number = int(turn.state.get(b"turn") or b"0")
while True:
    number += 1
    if number % 7 == 0 and index > turn.applied_index:
        turn.log_truncate_from(index)
        index -= 1
    for _ in range(1 + number % 5):
        index += 1
        turn.log_append(index, number, b"command %d" % index)
    for applied in range(turn.applied_index + 1, index):
        seq = turn.append_ledger(b"entry of %d" % applied)
        turn.state.put(b"entry/%08d" % seq, b"entry of %d" % applied)
        turn.set_applied(applied)
    turn.set_term_and_vote(number, "spiffe://bank.example/node/%d" % number)
    turn.set_commit_index(index - 1)
    turn.state.put(b"turn", b"%d" % number)
    environment.commit()
    print(number, turn.applied_index, turn.ledger_size, turn.root().hex(), flush=True)
"""


def killed_writer(path, after_s):
    """Runs the writer, kills it `after_s` after its first acknowledgement; returns the last one."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        lines = [process.stdout.readline()]
        killer = threading.Timer(after_s, process.kill)
        killer.start()
        lines += process.stdout.readlines()
        killer.join()
    assert process.returncode == -9
    return [line for line in lines if line.endswith("\n")][-1].split()


def assert_whole(environment, acknowledged):
    """Nothing acknowledged is missing, and everything that is there agrees."""
    number, applied, size, root = acknowledged
    with environment.read() as snapshot:
        written = int(snapshot.state.get(b"turn"))
        assert written in (int(number), int(number) + 1)  # the turn in flight, whole
        assert snapshot.applied_index >= int(applied)
        assert snapshot.ledger_size >= int(size)
        if written == int(number):
            assert snapshot.root().hex() == root
        entries = snapshot.ledger_entries(0, snapshot.ledger_size + 1)
        assert len(entries) == snapshot.ledger_size == snapshot.applied_index
        assert entries == [b"entry of %d" % index for index in range(1, len(entries) + 1)]
        assert [value for _, value in snapshot.state.scan(b"entry/")] == entries
        assert snapshot.root() == root_of(entries)
        assert snapshot.term() == written
        assert snapshot.voted_for() == f"spiffe://bank.example/node/{written}"
        assert snapshot.commit_index() == snapshot.applied_index
        last, _ = snapshot.log_last()
        assert last == snapshot.applied_index + 1
        log = snapshot.log_slice(1, last + 1, 1 << 30)
        assert [index for index, _, _ in log] == list(range(1, last + 1))
        assert all(command == b"command %d" % index for index, _, command in log)


class Nodes(dict):
    def node(self, level, index):
        return self[level, index]

    def put_node(self, level, index, digest):
        self[level, index] = digest


def root_of(entries):
    nodes = Nodes()
    for seq, entry in enumerate(entries):
        merkle.append(nodes, seq, merkle.leaf_hash(entry))
    return merkle.root(nodes, len(entries))


def test_nothing_acknowledged_is_lost_and_nothing_is_torn_by_kill_9(path):
    chance = random.Random(2)  # noqa: S311
    for _ in range(ROUNDS):
        acknowledged = killed_writer(path, chance.uniform(0, 0.12))
        environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
        assert_whole(environment, acknowledged)
        environment.close()
