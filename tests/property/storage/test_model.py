"""The environment against a model in memory, through any order of turns, aborts and restarts."""

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quorate.core.store import MemoryStore
from quorate.proofs import merkle
from quorate.storage import Environment

keys = st.binary(min_size=1, max_size=3).map(lambda tail: b"k/" + tail) | st.binary(
    min_size=1, max_size=4
)
values = st.binary(max_size=40)


@dataclass
class Model:
    state: dict = field(default_factory=dict)
    log: dict = field(default_factory=dict)
    ledger: list = field(default_factory=list)
    applied: int = 0
    vote: tuple = (0, None)
    commit: int = 0


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


class Storage(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.environment = self.opened()
        self.disk = Model()
        self.turn = Model()
        self.dirty = False
        self.snapshots = []

    def opened(self):
        return Environment.open(self.path / "data", map_size_bytes=8 << 20)

    def teardown(self):
        for snapshot, _ in self.snapshots:
            snapshot.__exit__(None, None, None)
        self.environment.close()
        shutil.rmtree(self.path)

    @rule(key=keys, value=values)
    def put(self, key, value):
        self.environment.turn.state.put(key, value)
        self.turn.state[key] = value
        self.dirty = True

    @rule(key=keys)
    def delete(self, key):
        self.environment.turn.state.delete(key)
        self.turn.state.pop(key, None)
        self.dirty = True

    @rule(entries=st.lists(values, min_size=1, max_size=5))
    def append_ledger(self, entries):
        for entry in entries:
            assert self.environment.turn.append_ledger(entry) == len(self.turn.ledger)
            self.turn.ledger.append(entry)
        self.dirty = True

    @rule(commands=st.lists(values, min_size=1, max_size=5), rise=st.sampled_from([0, 1, 2**50]))
    def append_log(self, commands, rise):
        term = max((term for term, _ in self.turn.log.values()), default=0) + rise
        for command in commands:
            index = max(self.turn.log, default=0) + 1
            self.environment.turn.log_append(index, term, command)
            self.turn.log[index] = term, command
        self.dirty = True

    @rule(back=st.integers(0, 8))
    def truncate_log(self, back):
        index = max(1, max(self.turn.log, default=0) + 1 - back)
        self.environment.turn.log_truncate_from(index)
        self.turn.log = {at: entry for at, entry in self.turn.log.items() if at < index}
        self.dirty = True

    @rule(step=st.integers(0, 5), voted_for=st.none() | st.just("spiffe://a.example/node/1"))
    def set_numbers(self, step, voted_for):
        turn = self.environment.turn
        self.turn.vote = self.turn.vote[0] + step, voted_for
        self.turn.applied += step
        self.turn.commit += step
        turn.set_term_and_vote(*self.turn.vote)
        turn.set_applied(self.turn.applied)
        turn.set_commit_index(self.turn.commit)
        self.dirty = True

    @rule()
    def commit(self):
        assert self.environment.commit() is self.dirty
        self.disk = copy.deepcopy(self.turn)
        self.dirty = False

    @rule()
    def abort(self):
        self.environment.abort()
        self.turn = copy.deepcopy(self.disk)
        self.dirty = False

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule()
    def open_snapshot(self):
        snapshot = self.environment.read()
        snapshot.__enter__()
        self.snapshots.append((snapshot, copy.deepcopy(self.disk)))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def close_snapshot(self, data):
        which = data.draw(st.integers(0, len(self.snapshots) - 1))
        snapshot, _ = self.snapshots.pop(which)
        snapshot.__exit__(None, None, None)

    @precondition(lambda self: not self.snapshots)
    @rule()
    def restart(self):
        self.environment.close()
        self.environment = self.opened()
        list(self.environment.verify())
        self.turn = copy.deepcopy(self.disk)
        self.dirty = False

    @invariant()
    def everybody_reads_what_he_should(self):
        for snapshot, model in self.snapshots:
            assert_shows(snapshot, model)
        with self.environment.read() as snapshot:
            assert_shows(snapshot, self.disk)

    @precondition(lambda self: self.dirty)  # reading must not be what begins the turn
    @invariant()
    def the_turn_reads_its_writes(self):
        assert_shows(self.environment.turn, self.turn)

    @invariant()
    def nothing_is_enforced_that_a_snapshot_lacks(self):
        known = [model.applied for _, model in self.snapshots] + [self.disk.applied]
        assert self.environment.enforced_through() == min(known)


def assert_shows(reads, model):
    reference = MemoryStore()
    for key, value in model.state.items():
        reference.put(key, value)
    assert list(reads.state.scan(b"")) == reference.items()
    for start in (b"", b"k/\x80"):
        assert list(reads.state.scan(b"k/", start)) == list(reference.scan(b"k/", start))
    assert all(reads.state.get(key) == value for key, value in model.state.items())
    assert reads.ledger_entries(0, 10_000) == model.ledger
    assert reads.ledger_size == len(model.ledger)
    assert reads.root() == root_of(model.ledger)
    last = max(model.log, default=0)
    assert reads.log_last() == (last, model.log[last][0] if last else 0)
    assert reads.log_slice(1, last + 1, 1 << 20) == [
        (index, *entry) for index, entry in sorted(model.log.items())
    ]
    assert (reads.term(), reads.voted_for()) == model.vote
    assert (reads.applied_index, reads.commit_index()) == (model.applied, model.commit)


TestStorage = Storage.TestCase
TestStorage.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
