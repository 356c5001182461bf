"""A snapshot that comes in: staged, compared, installed; or given up."""

import random
import subprocess
import sys
import threading

import pytest

from quorate.core.errors import MalformedError
from quorate.proofs import merkle
from quorate.storage import Environment, StateDigest

MAP_SIZE_BYTES = 64 << 20
ROUNDS = 10

RECEIVER = """
import sys
from pathlib import Path
from quorate.storage import Environment
environment = Environment.open(Path(sys.argv[1]), map_size_bytes=64 << 20)
turn = environment.turn
while True:
    staged = turn.staged()
    if staged is None:
        environment.abort()
        turn.clear_idle_slot()
        index = turn.applied_index + 10
        turn.stage_begin(index, index * 3)
    elif not staged.is_state_complete:
        begin = 0 if staged.after_key is None else int(staged.after_key[-8:]) + 1
        end = min(begin + 7, staged.index)
        index = staged.index
        pairs = [(b"key/%08d" % key, b"%d of %d" % (key, index)) for key in range(begin, end)]
        turn.stage_state(pairs, done=end == staged.index)
    elif not staged.is_complete:
        end = min(staged.ledger_next + 7, staged.ledger_size)
        turn.stage_ledger(
            staged.ledger_next, [b"entry %d" % seq for seq in range(staged.ledger_next, end)]
        )
    else:
        turn.install_snapshot(staged.index, 1, b"configuration", staged.ledger_size)
    environment.commit()
    print(turn.applied_index, flush=True)
"""


def begun(environment, pairs=3, entries=5):
    """An environment with some state and ledger of its own, at Raft index 1."""
    turn = environment.turn
    for number in range(pairs):
        turn.state.put(b"old %d" % number, b"value")
    for seq in range(entries):
        turn.append_ledger(b"entry %d" % seq)
    turn.log_append(1, 1, b"command")
    turn.set_applied(1)
    environment.commit()
    return turn


def staged(turn, index=9, ledger_size=8):
    """All of a snapshot, staged."""
    turn.stage_begin(index, ledger_size)
    turn.stage_state([(b"new", b"value"), (b"new too", b"")], done=True)
    first = turn.staged().ledger_next
    turn.stage_ledger(first, [b"entry %d" % seq for seq in range(first, ledger_size)])


def test_what_is_staged_is_nobodys_to_see(environment):
    turn = begun(environment)
    root = turn.root()
    staged(turn)
    environment.commit()
    with environment.read() as snapshot:
        for reads in (snapshot, turn):
            assert reads.ledger_size == 5
            assert reads.ledger_entry(5) is None
            assert len(reads.ledger_entries(0, 100)) == 5
            assert reads.ledger_entries(5, 100) == []
            assert reads.root() == root
            assert reads.state.get(b"new") is None
            assert len(list(reads.state.scan(b""))) == 3
        assert snapshot.ledger_page(0, 100, 1 << 20) == [b"entry %d" % seq for seq in range(5)]
        assert [key for key, _ in snapshot.state_page(None, 1 << 20)] == [
            b"old 0",
            b"old 1",
            b"old 2",
        ]


def test_an_installed_snapshot_is_seen_whole_by_those_who_begin_after_it(environment):
    turn = begun(environment)
    staged(turn)
    environment.commit()
    with environment.read() as before:
        turn.install_snapshot(9, 4, b"configuration", 8)
        assert turn.state.get(b"new") == b"value"  # the turn sees its own flip
        assert turn.ledger_size == 8
        environment.commit()
        assert turn.clear_idle_slot()
        environment.commit()
        assert before.state.get(b"old 1") == b"value"
        assert before.ledger_size == 5
    with environment.read() as after:
        assert list(after.state.scan(b"")) == [(b"new", b"value"), (b"new too", b"")]
        assert (after.applied_index, after.ledger_size) == (9, 8)
        assert (after.log_first(), after.log_last()) == (9, (9, 4))
        assert after.configurations() == [(9, b"configuration")]
        assert after.state_count() == 2
    assert turn.staged() is None
    assert not turn.clear_idle_slot()
    list(environment.verify())


def test_a_log_that_holds_the_snapshots_last_entry_keeps_what_follows(environment):
    """This node may have acknowledged it: Raft, section 7."""
    turn = begun(environment)
    for index in range(2, 13):
        turn.log_append(index, 3, b"command %d" % index)
    for index in (1, 8, 11):
        turn.put_configuration(index, b"old")
    staged(turn)
    turn.install_snapshot(9, 3, b"configuration", 8)
    environment.commit()
    assert (turn.log_first(), turn.log_last()) == (9, (12, 3))
    assert turn.log_get(10) == (3, b"command 10")
    assert turn.configurations() == [(9, b"configuration"), (11, b"old")]


def test_a_log_with_another_entry_there_is_replaced(environment):
    turn = begun(environment)
    for index in range(2, 13):
        turn.log_append(index, 3, b"command %d" % index)
    turn.put_configuration(11, b"old")
    staged(turn)
    turn.install_snapshot(9, 4, b"configuration", 8)
    assert (turn.log_first(), turn.log_last()) == (9, (9, 4))
    assert turn.configurations() == [(9, b"configuration")]


def test_appending_what_was_staged_is_appending(environment):
    turn = begun(environment)
    staged(turn)
    environment.commit()
    assert turn.append_ledger(b"entry 5") == 5
    assert turn.staged_root(8) == root_of(8)
    environment.commit()
    turn.discard_staging(1)
    environment.commit()
    assert [turn.append_ledger(b"entry %d" % seq) for seq in (6, 7, 8)] == [6, 7, 8]
    assert turn.root() == root_of(9)


def test_what_was_staged_gives_way_to_what_is_appended(environment):
    """It is hearsay: whoever sent it must not be able to stop the node with it."""
    turn = begun(environment)
    staged(turn)
    environment.commit()
    turn.append_ledger(b"entry 5")
    assert not turn.has_remains
    assert turn.append_ledger(b"another entry") == 6
    assert turn.staged() is None
    environment.commit()
    assert environment.turn.ledger_entries(5, 9) == [b"entry 5", b"another entry"]
    list(environment.verify())
    assert turn.has_remains, "entry 7 of somebody"
    assert turn.append_ledger(b"entry 7") == 7
    assert turn.append_ledger(b"entry 8") == 8
    assert not turn.has_remains
    environment.commit()
    list(environment.verify())
    true = [b"entry %d" % seq for seq in range(9)]
    assert turn.root() == tree_root([*true[:6], b"another entry", *true[7:]])


@pytest.mark.parametrize("own", [1, 5, 8])
@pytest.mark.parametrize("appended", range(1, 9))
def test_what_gives_way_costs_one_entry_and_the_rest_goes_in_steps(environment, own, appended):
    """However much a stranger has staged, what is true is appended at once, and is whole."""
    turn = begun(environment, entries=own)
    turn.stage_begin(900, 600)
    turn.stage_state([(b"new", b"value")], done=True)
    turn.stage_ledger(own, [b"lie %d" % seq for seq in range(own, 600)])
    environment.commit()
    counted = Counted(turn)
    for seq in range(own, own + appended):
        # Every third is what was staged, by chance: its leaf is there, and not all above it.
        counted.append(b"lie %d" % seq if seq % 3 == 0 else b"entry %d" % seq)
    assert counted.writes <= 25 * appended
    environment.commit()
    expected = turn.ledger_entries(0, own + appended)
    assert turn.root() == tree_root(expected)
    assert list(turn.state.scan(b"")) == [(b"old %d" % number, b"value") for number in range(3)]
    while turn.has_remains:
        assert turn.staged() is None
        turn.discard_staging(100)
        environment.commit()
        list(environment.verify())
        assert turn.root() == tree_root(expected)
    assert turn.append_ledger(b"more") == own + appended
    environment.commit()
    list(environment.verify())


def test_nothing_is_staged_on_the_remains_of_what_was_given_up(environment):
    turn = begun(environment)
    staged(turn)
    turn.append_ledger(b"another entry")
    with pytest.raises(AssertionError):
        turn.stage_begin(10, 20)
    turn.discard_staging(100)
    turn.stage_begin(10, 20)


def test_a_snapshot_that_was_begun_anew_keeps_the_ledger_and_not_the_state(environment):
    turn = begun(environment)
    staged(turn)
    environment.commit()
    turn.stage_begin(10, 20)
    now = turn.staged()
    assert (now.after_key, now.is_state_complete, now.ledger_next) == (None, False, 8)
    assert turn.staged_state_digest() == StateDigest()
    turn.stage_state([(b"a", b"")], done=True)
    assert not turn.staged().is_complete
    assert turn.staged_state_digest().count == 1


def test_a_snapshot_that_does_not_fit_is_given_up_in_bounded_steps(environment):
    turn = begun(environment)
    staged(turn, ledger_size=30)
    environment.commit()
    steps = 1
    while not turn.discard_staging(4):
        environment.commit()
        list(environment.verify())  # whole after each
        steps += 1
    assert steps == 7  # 25 entries
    assert turn.staged() is None
    environment.commit()
    assert turn.discard_staging(4)
    assert turn.append_ledger(b"another") == 5
    environment.commit()
    list(environment.verify())


@pytest.mark.parametrize(
    "pairs",
    [
        [(b"b", b""), (b"a", b"")],
        [(b"b", b""), (b"b", b"")],
        [(b"", b"")],
        [(b"k" * 512, b"")],
        [(b"a", b"")],  # not behind what is staged
    ],
)
def test_pairs_that_cannot_be_are_refused_with_nothing_written(environment, pairs):
    turn = begun(environment)
    turn.stage_begin(9, 8)
    turn.stage_state([(b"a", b"staged")], done=False)
    before = turn.staged(), turn.staged_state_digest()
    with pytest.raises(MalformedError):
        turn.stage_state(pairs, done=True)
    assert (turn.staged(), turn.staged_state_digest()) == before


@pytest.mark.parametrize(("first", "count"), [(4, 1), (6, 1), (0, 1), (5, 4)])
def test_entries_that_do_not_come_next_are_refused(environment, first, count):
    turn = begun(environment)
    turn.stage_begin(9, 8)
    with pytest.raises(MalformedError):
        turn.stage_ledger(first, [b"entry"] * count)
    assert turn.staged().ledger_next == 5


def test_pages_of_a_state_are_bounded_and_lead_on(environment):
    state = environment.turn.state
    pairs = [(b"key %02d" % number, b"v" * number) for number in range(30)] + [(b"\xff" * 511, b"")]
    for key, value in pairs:
        state.put(key, value)
    environment.commit()
    with environment.read() as snapshot:
        assert snapshot.state_page(None, 1 << 20) == pairs
        assert snapshot.state_page(None, 0) == pairs[:1]  # progress
        assert snapshot.state_page(b"key 10", 6 + 11 + 6 + 12) == pairs[11:13]
        assert snapshot.state_page(b"key 10", 6 + 11 + 6 + 11) == pairs[11:12]
        assert snapshot.state_page(b"\xff" * 511, 1 << 20) == []
        assert snapshot.state_count() == 31


class Nodes(dict):
    def node(self, level, index):
        return self[level, index]

    def put_node(self, level, index, digest):
        self[level, index] = digest


def tree_root(entries):
    nodes = Nodes()
    for seq, entry in enumerate(entries):
        merkle.append(nodes, seq, merkle.leaf_hash(entry))
    return merkle.root(nodes, len(entries))


def root_of(size):
    return tree_root([b"entry %d" % seq for seq in range(size)])


class Counted:
    """Appends, and counts what is written."""

    def __init__(self, turn):
        self.turn = turn
        self.writes = 0

    def append(self, entry):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_put_raw", "_delete"):
                patch.setattr(type(self.turn), name, self.counting(getattr(self.turn, name)))
            self.turn.append_ledger(entry)

    def counting(self, write):
        def counted(_turn, *arguments, **named):
            self.writes += 1
            write(*arguments, **named)

        return counted


def killed_receiver(path, after_s):
    process = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        lines = [process.stdout.readline()]
        killer = threading.Timer(after_s, process.kill)
        killer.start()
        lines += process.stdout.readlines()
        killer.join()
    assert process.returncode == -9
    return int([line for line in lines if line.endswith("\n")][-1])


def test_a_receiver_that_is_killed_goes_on_where_it_was(path):
    chance = random.Random(5)  # noqa: S311
    for _ in range(ROUNDS):
        applied = killed_receiver(path, chance.uniform(0, 0.15))
        environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
        list(environment.verify())
        with environment.read() as snapshot:
            index = snapshot.applied_index
            assert index in (applied, applied + 10)
            assert snapshot.ledger_size == index * 3
            assert snapshot.root() == root_of(index * 3)
            assert list(snapshot.state.scan(b"")) == [
                (b"key/%08d" % key, b"%d of %d" % (key, index)) for key in range(index)
            ]
        environment.close()
