"""A turn: reads its own writes, is committed whole, or never was."""

import pytest

from quorate.core.errors import StorageDamagedError
from quorate.proofs import merkle
from quorate.storage import layout


def test_an_empty_environment_says_so(environment):
    with environment.read() as snapshot:
        for reads in (snapshot, environment.turn):
            assert reads.ledger_size == 0
            assert reads.root() == merkle.EMPTY_ROOT
            assert reads.applied_index == 0
            assert (reads.term(), reads.voted_for(), reads.commit_index()) == (0, None, 0)
            assert (reads.log_first(), reads.log_last()) == (1, (0, 0))
            assert reads.log_slice(1, 100, 1000) == []
            assert reads.ledger_entry(0) is None
            assert reads.identity() is None
            assert list(reads.state.scan(b"")) == []


def test_a_turn_without_a_write_costs_no_commit(environment):
    assert environment.commit() is False
    assert environment.turn.term() == 0
    assert not environment.turn.writes
    assert environment.commit() is False
    assert environment.commits == 0


def test_a_turn_reads_its_own_writes_and_nobody_else_does(environment):
    turn = environment.turn
    assert turn.state.get(b"key") is None
    turn.state.put(b"key", b"value")
    turn.set_term_and_vote(3, "spiffe://bank.example/node/1")
    turn.log_append(1, 3, b"command")
    turn.append_ledger(b"entry")
    turn.put_meta("name", b"kept")
    assert turn.state.get(b"key") == b"value"
    assert (turn.term(), turn.voted_for()) == (3, "spiffe://bank.example/node/1")
    assert turn.log_last() == (1, 3)
    assert turn.ledger_size == 1
    with environment.read() as before:
        assert before.state.get(b"key") is None
        assert before.ledger_size == 0
        assert environment.commit() is True
        assert before.state.get(b"key") is None  # a snapshot is of one commit, for good
        assert before.log_last() == (0, 0)
    with environment.read() as after:
        assert after.state.get(b"key") == b"value"
        assert after.ledger_entry(0) == b"entry"
        assert after.log.log_get(1) == (3, b"command")
        assert after.get_meta("name") == b"kept"
        assert after.root() == merkle.leaf_hash(b"entry")
    assert environment.commits == 1


def test_an_aborted_turn_never_was(environment):
    turn = environment.turn
    turn.append_ledger(b"first")
    turn.log_append(1, 1, b"a")
    turn.set_applied(1)
    environment.commit()
    turn.append_ledger(b"second")
    turn.log_append(2, 1, b"b")
    turn.set_applied(2)
    turn.state.put(b"key", b"value")
    turn.outbox_append(b"denial")
    environment.abort()
    assert (turn.ledger_size, turn.log_last(), turn.applied_index) == (1, (1, 1), 1)
    assert turn.state.get(b"key") is None
    assert turn.outbox(0, 10) == []
    assert environment.commit() is False
    assert turn.append_ledger(b"other") == 1
    turn.log_append(2, 1, b"c")
    environment.commit()
    with environment.read() as snapshot:
        assert snapshot.ledger_entries(0, 10) == [b"first", b"other"]
        assert snapshot.log_slice(1, 3, 100) == [(1, 1, b"a"), (2, 1, b"c")]


def test_the_vote_goes_with_its_term(environment):
    turn = environment.turn
    turn.set_term_and_vote(5, "spiffe://bank.example/node/1")
    turn.set_term_and_vote(6, None)
    assert (turn.term(), turn.voted_for()) == (6, None)
    with pytest.raises(AssertionError):
        turn.set_term_and_vote(5, None)


def test_the_log_is_read_in_bounded_slices(environment):
    turn = environment.turn
    for index in range(1, 11):
        turn.log_append(index, 7, b"x" * 100)
    assert [entry[0] for entry in turn.log_slice(3, 6, 10_000)] == [3, 4, 5]
    assert [entry[0] for entry in turn.log_slice(3, 11, 250)] == [3, 4]
    assert [entry[0] for entry in turn.log_slice(3, 11, 300)] == [3, 4, 5]
    assert [entry[0] for entry in turn.log_slice(3, 11, 0)] == [3]  # progress
    assert turn.log_slice(3, 3, 1000) == []
    assert turn.log_slice(11, 20, 1000) == []
    assert turn.log_get(0) is None
    assert turn.log_get(11) is None


@pytest.mark.parametrize("committed", [False, True])
def test_truncating_removes_the_tail_and_lets_it_grow_again(environment, committed):
    turn = environment.turn
    for index in range(1, 301):
        turn.log_append(index, 1, b"command %d" % index)
    if committed:
        environment.commit()
    turn.log_truncate_from(100)
    assert turn.log_last() == (99, 1)
    assert turn.log_get(100) is None
    turn.log_append(100, 2, b"other")
    environment.commit()
    with environment.read() as snapshot:
        assert snapshot.log_first() == 1
        assert snapshot.log_last() == (100, 2)
        assert len(snapshot.log_slice(1, 1000, 1 << 20)) == 100
    turn.log_truncate_from(1)
    environment.commit()
    assert (turn.log_first(), turn.log_last()) == (1, (0, 0))
    turn.log_truncate_from(1)  # of nothing


def test_the_log_has_no_gaps(environment):
    turn = environment.turn
    turn.log_append(5, 1, b"")  # an empty log begins anywhere
    assert turn.log_first() == 5
    for index in (5, 7, 4, 0):
        with pytest.raises(AssertionError):
            turn.log_append(index, 1, b"")


def test_an_index_is_never_applied_twice(environment):
    environment.turn.set_applied(4)
    with pytest.raises(AssertionError):
        environment.turn.set_applied(3)


def test_the_tree_follows_the_ledger(environment):
    turn = environment.turn
    hashes = []
    for seq in range(20):
        assert turn.append_ledger(b"entry %d" % seq) == seq
        hashes.append(merkle.leaf_hash(b"entry %d" % seq))
        if seq % 3 == 0:
            environment.commit()
    environment.commit()
    with environment.read() as snapshot:
        root = snapshot.root()
        for seq in range(20):
            proof = merkle.inclusion_proof(snapshot, seq, 20)
            assert merkle.verify_inclusion(hashes[seq], seq, 20, proof, root)
        assert snapshot.ledger_entries(18, 5) == [b"entry 18", b"entry 19"]
        assert snapshot.ledger_entries(3, 0) == []


def test_a_missing_node_of_the_tree_is_damage(environment):
    environment.turn.append_ledger(b"entry")
    environment.turn._delete(environment._dbs.tree, layout.tree_key(0, 0))
    environment.commit()
    with pytest.raises(StorageDamagedError, match="no node"), environment.read() as snapshot:
        snapshot.root()
    with pytest.raises(StorageDamagedError):
        environment.turn.append_ledger(b"more")


def test_more_entries_than_the_count_says_is_damage(environment):
    environment.turn._put(environment._dbs.ledger, layout.number(7), b"stray")
    with pytest.raises(StorageDamagedError, match="more than"):
        environment.turn.append_ledger(b"entry")


def test_scanning_is_by_prefix_and_start_in_order(environment):
    state = environment.turn.state
    for key in (b"a", b"b/1", b"b/2", b"b/20", b"b/3", b"b0", b"c"):
        state.put(key, key.upper())
    environment.commit()
    with environment.read() as snapshot:
        for reads in (snapshot.state, environment.turn.state):
            assert [key for key, _ in reads.scan(b"b/")] == [b"b/1", b"b/2", b"b/20", b"b/3"]
            assert [key for key, _ in reads.scan(b"b/", b"b/2\x00")] == [b"b/20", b"b/3"]
            assert next(key for key, _ in reads.scan(b"b/", b"a")) == b"b/1"
            assert list(reads.scan(b"b/", b"z")) == []
            assert list(reads.scan(b"\xff" * 600)) == []
            assert len(list(reads.scan(b""))) == 7
            assert reads.get(b"b/2") == b"B/2"


def test_a_scan_of_a_turn_goes_on_through_the_writes_beside_it(environment):
    state = environment.turn.state
    keys = [b"k%03d" % number for number in range(200)]
    for key in keys:
        state.put(key, b"v")
    environment.commit()
    seen = []
    for key, _ in state.scan(b"k"):
        seen.append(key)
        state.delete(key)
        state.put(b"other" + key, b"v" * 100)
    assert seen == keys
    assert list(state.scan(b"k")) == []


def test_keys_that_the_store_cannot_hold_are_absent_and_not_written(environment):
    state = environment.turn.state
    longest = b"k" * layout.MAX_STATE_KEY_BYTES
    state.put(longest, b"v")
    assert state.get(longest) == b"v"
    for key in (b"", longest + b"k"):
        assert state.get(key) is None
        state.delete(key)
        with pytest.raises(AssertionError):
            state.put(key, b"v")
    environment.commit()


def test_the_outbox_is_kept_in_order_and_forgotten_when_told(environment):
    turn = environment.turn
    assert [turn.outbox_append(b"denial %d" % number) for number in range(5)] == [0, 1, 2, 3, 4]
    environment.commit()
    with environment.read() as snapshot:
        assert snapshot.outbox(1, 2) == [(1, b"denial 1"), (2, b"denial 2")]
    turn.outbox_drop(2)
    assert turn.outbox(0, 10) == [(3, b"denial 3"), (4, b"denial 4")]
    turn.outbox_drop(4)
    assert turn.outbox_append(b"next") == 5  # numbers are not used again


def test_a_row_of_the_outbox_is_written_anew(environment):
    turn = environment.turn
    for number in range(3):
        turn.outbox_append(b"row %d" % number)
    turn.outbox_replace(1, b"another")
    assert turn.outbox(0, 10) == [(0, b"row 0"), (1, b"another"), (2, b"row 2")]


def test_whoever_may_have_forgotten_has_nothing_to_say(environment):
    environment.turn.outbox_append(b"row")
    environment.commit()
    environment.mark_probation("restored")
    with environment.read() as snapshot:
        assert (snapshot.outbox(0, 10), snapshot.outbox_next()) == ([], 1)


def test_using_a_snapshot_after_its_end_is_a_mistake_and_not_damage(environment):
    environment.turn.state.put(b"a", b"1")
    environment.turn.state.put(b"b", b"2")
    environment.commit()
    with environment.read() as snapshot:
        scan = snapshot.state.scan(b"")
        next(scan)
    with pytest.raises(AssertionError):
        next(scan)
    with pytest.raises(AssertionError):
        snapshot.state.get(b"a")
    with environment.read() as snapshot:  # the environment goes on
        assert snapshot.state.get(b"a") == b"1"
