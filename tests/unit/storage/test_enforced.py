"""What is enforced: no reader of any process is on an older snapshot."""

import pytest

from quorate.core.errors import StorageDamagedError
from quorate.storage import Environment, enforced

READER = """
import sys
from pathlib import Path
from quorate.storage import Environment
environment = Environment.open(Path(sys.argv[1]), map_size_bytes=16 << 20, read_only=True)
for line in sys.stdin:
    with environment.read() as snapshot:
        print(snapshot.applied_index, flush=True)
        sys.stdin.readline()
    print("closed", flush=True)
"""


def apply(environment, index):
    environment.turn.state.put(b"last", b"%d" % index)
    environment.turn.set_applied(index)
    environment.commit()


def test_without_readers_a_commit_is_enforced_at_once(environment):
    assert environment.enforced_through() == 0
    apply(environment, 3)
    assert environment.enforced_through() == 3
    assert environment.oldest_reader_txn() is None


def test_what_is_not_committed_is_not_enforced(environment):
    apply(environment, 3)
    environment.turn.set_applied(4)
    assert environment.enforced_through() == 3
    environment.abort()
    assert environment.enforced_through() == 3


def test_the_turn_s_own_reading_holds_nothing_back(environment):
    apply(environment, 3)
    assert environment.turn.term() == 0
    assert environment.enforced_through() == 3


def test_the_oldest_snapshot_holds_the_index_back(environment):
    apply(environment, 1)
    with environment.read():
        apply(environment, 2)
        apply(environment, 3)
        with environment.read():
            apply(environment, 4)
            assert environment.enforced_through() == 1
        assert environment.enforced_through() == 1
    assert environment.enforced_through() == 4


def test_each_reader_that_ends_lets_it_move_to_the_next(environment):
    snapshots = []
    for index in range(1, 6):
        apply(environment, index)
        snapshots.append(environment.read())
        snapshots[-1].__enter__()
    for index, snapshot in enumerate(snapshots, start=1):
        assert environment.enforced_through() == index
        snapshot.__exit__(None, None, None)
    assert environment.enforced_through() == 5


def test_an_old_snapshot_of_another_process_counts(environment, path, child):
    apply(environment, 1)
    with child(READER, path) as reader:
        assert reader.ask() == "1"
        apply(environment, 2)
        assert environment.enforced_through() == 1
        assert reader.ask() == "closed"
        assert environment.enforced_through() == 2
        assert reader.ask() == "2"  # a slot that was reset is used again
        apply(environment, 3)
        assert environment.enforced_through() == 2


def test_a_reader_that_was_killed_counts_no_longer(environment, path, child):
    apply(environment, 1)
    with child(READER, path) as reader:
        assert reader.ask() == "1"
        apply(environment, 2)
        assert environment.enforced_through() == 1
        reader.process.kill()
        reader.process.wait()
        assert environment.enforced_through() == 2


def test_a_restarted_writer_counts_what_it_finds(environment, path):
    apply(environment, 7)
    environment.close()
    again = Environment.open(path, map_size_bytes=16 << 20)
    with again.read():
        assert again.enforced_through() == 7
        apply(again, 8)
        assert again.enforced_through() == 7
    assert again.enforced_through() == 8
    again.close()


def test_a_reader_older_than_the_history_holds_everything_back():
    """A writer that starts anew while an edge still reads the state of before."""
    enforcement = enforced.Enforcement(txn_id=10, applied_index=50)
    assert enforcement.through(9) == 0
    assert enforcement.through(10) == 50


def test_a_long_history_is_thinned_and_errs_on_the_safe_side():
    enforcement = enforced.Enforcement(0, 0)
    commits = enforced.MAX_COMMITS_KEPT * 3
    for txn_id in range(1, commits + 1):
        enforcement.committed(txn_id, txn_id * 10)
        assert len(enforcement._commits) <= enforced.MAX_COMMITS_KEPT
    previous = 0
    for oldest in range(0, commits, 7):
        through = enforcement.through(oldest)
        assert previous <= through <= oldest * 10
        previous = through
    assert enforcement.through(None) == commits * 10


def test_a_stalled_reader_s_own_commit_is_never_thinned_away():
    enforcement = enforced.Enforcement(5, 50)
    for txn_id in range(6, 20_000):
        enforcement.committed(txn_id, txn_id * 10)
        if txn_id % 5_000 == 0:
            assert enforcement.through(5) == 50


def test_a_snapshot_aside_holds_nothing_back(environment):
    """It may take minutes to send it to another node."""
    apply(environment, 1)
    with environment.read_aside() as aside:
        apply(environment, 2)
        assert environment.enforced_through() == 2
        assert environment.oldest_reader_txn() == aside.txn_id
        assert aside.applied_index == 1
    assert environment.enforced_through() == 2


def test_a_snapshot_aside_hides_no_other_of_the_same_commit(environment):
    apply(environment, 1)
    with environment.read_aside(), environment.read(), environment.read_aside():
        apply(environment, 2)
        assert environment.enforced_through() == 1
    with environment.read_aside(), environment.read_aside():
        apply(environment, 3)
        with environment.read():
            apply(environment, 4)
            assert environment.enforced_through() == 3
    assert environment._aside_txns == []


def test_what_is_aside_here_is_not_aside_in_another_process(environment, path, child):
    apply(environment, 1)
    with child(READER, path) as reader, environment.read_aside():
        assert reader.ask() == "1"
        apply(environment, 2)
        assert environment.enforced_through() == 1


@pytest.mark.parametrize(
    ("table", "oldest"),
    [
        ("(no active readers)\n", None),
        ("(no reader locks)\n", None),
        ("    pid     thread     txnid\n      4602 7f50485c0b80 -\n", None),
        ("    pid     thread     txnid\n      4602 7f50485c0b80 12\n 1 7f 9\n 2 8 -\n", 9),
        ("    pid     thread     txnid\n", None),
    ],
)
def test_the_reader_table_is_read(table, oldest):
    assert enforced.oldest_reader(table) == oldest


@pytest.mark.parametrize(
    "table",
    [
        "pid thread\n1 2\n",
        "    pid     thread     txnid\n 1 2\n",
        "    pid     thread     txnid\n 1 2 0x3\n",
        "    pid     thread     txnid\n 1 2 3 4\n",
        "    pid     thread     txnid\n 1 2 -3\n",
    ],
)
def test_a_reader_table_of_another_form_is_not_guessed_at(table):
    with pytest.raises(StorageDamagedError):
        enforced.oldest_reader(table)
