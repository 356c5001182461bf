"""Makes a small store of everything, and reads a store as a node does, to see what damage does.

Run as a program: `victims.py STORE`, where STORE is a sound store; each line of its input is a
damage (`flip POSITION MASK` or `cut SIZE`), each line of its output what became of a node that
started from a copy that was damaged so: `same`, the type and message of an error, or `WRONG` and
what it was. A process is forked for each, so that a signal shows too.
"""

import hashlib
import os
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from quorate.core.errors import QuorateError
from quorate.proofs import merkle
from quorate.storage import Environment, layout

MAP_SIZE_BYTES = 16 << 20
MEMORY = Path("/dev/shm")
"""Hundreds of stores that need no disk."""
GENESIS = bytes(range(32))
NODE = "spiffe://bank.example/node/1"


def made(path):
    """A store with something of every kind, a free page here and there, and a staged snapshot."""
    chance = random.Random(4)  # noqa: S311
    environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    environment.initialise(GENESIS, NODE)
    turn = environment.turn
    for index in range(1, 61):
        turn.log_append(index, 1 + index // 20, chance.randbytes(2500 if index == 50 else 40))
        for _ in range(3):
            key = b"executor/%03d" % chance.randrange(120)
            turn.state.put(key + b"/name" * 12, chance.randbytes(80))
        turn.append_ledger(chance.randbytes(2500 if index % 20 == 0 else 60))
        turn.outbox_append(chance.randbytes(60))
        turn.set_applied(index)
        if index % 10 == 0:
            environment.commit()
    turn.log_drop_below(30, 100)
    turn.put_configuration(1, b"first")
    turn.put_configuration(40, b"second")
    turn.set_term_and_vote(4, NODE)
    turn.put_meta("name", b"kept")
    turn.set_probation("restored")
    environment.commit()
    turn.stage_begin(100, 70)
    turn.stage_state([(b"k%03d" % key, b"v" * 90) for key in range(50)], done=False)
    turn.stage_ledger(60, [b"staged %d" % seq for seq in range(60, 66)])
    environment.commit()
    return environment


def shown(reads):
    """Everything that a reader is told."""
    size = reads.ledger_size
    everything = [
        list(reads.state.scan(b"")),
        [reads.state.get(key) for key, _ in reads.state.scan(b"")],
        reads.state_digest(),
        reads.applied_index,
        reads.log_slice(reads.log_first(), 2**63, 1 << 30),
        reads.log_last(),
        reads.configurations(),
        (reads.term(), reads.voted_for(), reads.commit_index()),
        (reads.identity(), reads.probation(), reads.get_meta("name")),
        reads.outbox(0, 1000),
        [reads.ledger_entry(seq) for seq in range(size)],
        reads.ledger_entries(0, size),
        [merkle.inclusion_proof(reads, seq, size) for seq in range(size)],
        reads.root(),
    ]
    return hashlib.sha256(repr(everything).encode()).hexdigest()


def lived(path):
    """What a node that starts from `path` shows, before and after a turn."""
    environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    environment.verify_identity(GENESIS, NODE)
    for _ in environment.check():
        pass
    with environment.read() as snapshot:
        before = shown(snapshot)
    turn = environment.turn
    for number in range(40):
        turn.state.put(b"more/%d" % number, b"x" * 100)
        turn.outbox_append(b"more" * 40)
    turn.append_ledger(b"staged 60")
    turn.append_ledger(b"staged 61")
    turn.log_append(61, 9, b"y" * 9000)
    environment.commit()
    for _ in environment.verify():
        pass
    with environment.read() as snapshot:
        after = shown(snapshot)
    environment.close()
    return f"{before} {after}"


def damaged(path, what):
    kind, *numbers = what.split()
    with (path / layout.DATA_FILE).open("r+b") as file:
        if kind == "cut":
            file.truncate(int(numbers[0]))
        else:
            position, mask = map(int, numbers)
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ mask]))


def outcome(store, expected, what):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        path.mkdir()
        shutil.copy(store / layout.DATA_FILE, path)
        damaged(path, what)
        try:
            return "same" if lived(path) == expected else "WRONG: other data"
        except QuorateError as error:
            return f"{type(error).__name__}: {error}"


def main(store):
    tempfile.tempdir = str(MEMORY) if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "store"
        path.mkdir()
        shutil.copy(store / layout.DATA_FILE, path)
        expected = lived(path)
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.write(writer, outcome(store, expected, line).encode())
                status = 0
            finally:
                if status:
                    traceback.print_exc()
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if status:
            said = f"WRONG: ended with status {status}"
        sys.stdout.write(said.replace("\n", " ") + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
