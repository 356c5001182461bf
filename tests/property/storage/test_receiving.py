"""Receiving snapshots, through any order of parts, turns given up, restarts and ordinary appends.

The federation's history is fixed; whatever happens to the store, what it shows is that history up
to what it has applied, and what is staged beside it is nobody's to see. Some of what is staged is
not of that history: somebody lied.
"""

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from quorate.proofs import merkle
from quorate.storage import Environment, StateDigest
from quorate.storage.seal import RunningDigest

STEPS = 24
MAP_SIZE_BYTES = 8 << 20


def changes(index):
    """What command `index` does to the state: (key, value or None)."""
    keys = [b"k/%d" % ((index * 7 + turn * 5) % 11) for turn in range(3)]
    return [(key, None if (index + at) % 4 == 0 else b"%d" % index) for at, key in enumerate(keys)]


def entries(index):
    """What command `index` appends to the ledger: none, one or two."""
    return [b"entry %d of %d" % (at, index) for at in range(index % 3)]


@cache
def state_at(index):
    state = dict(state_at(index - 1)) if index else {}
    for key, value in changes(index) if index else ():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    return state


@cache
def ledger_at(index):
    return [entry for step in range(1, index + 1) for entry in entries(step)]


@cache
def root(leaves):
    nodes = Nodes()
    for seq, entry in enumerate(leaves):
        merkle.append(nodes, seq, merkle.leaf_hash(entry))
    return merkle.root(nodes, len(leaves))


def root_of(size):
    return root(tuple(ledger_at(STEPS)[:size]))


def digest_of(state):
    running = RunningDigest(StateDigest())
    for key, value in state.items():
        running.add(key, value)
    return running.digest()


class Nodes(dict):
    def node(self, level, index):
        return self[level, index]

    def put_node(self, level, index, digest):
        self[level, index] = digest


@dataclass
class Staging:
    index: int
    sent: int = 0  # pairs of the state
    done: bool = False


@dataclass
class Model:
    applied: int = 0
    staging: Staging | None = None
    tail: list = field(default_factory=list)
    """What lies behind the ledger's end."""
    log: tuple = (1, 1)
    configurations: list = field(default_factory=list)
    replaced: bool = False
    """Whether the idle slot may hold what an installation has replaced."""


class Store(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.environment = self.opened()
        self.turn = Model()
        self.disk = Model()

    def opened(self):
        return Environment.open(self.path / "data", map_size_bytes=MAP_SIZE_BYTES)

    def teardown(self):
        self.environment.close()
        shutil.rmtree(self.path)

    @initialize()
    def begin(self):
        self.environment.turn.log_append(1, 1, b"\x01")
        self.commit()

    # -- ordinary life -----------------------------------------------------------------------

    @precondition(lambda self: self.turn.applied < STEPS)
    @rule(count=st.integers(1, 3))
    def apply(self, count):
        turn = self.environment.turn
        for index in range(self.turn.applied + 1, min(self.turn.applied + count, STEPS) + 1):
            for key, value in changes(index):
                if value is None:
                    turn.state.delete(key)
                else:
                    turn.state.put(key, value)
            for entry in entries(index):
                turn.append_ledger(entry)
                if self.turn.tail and self.turn.tail.pop(0) != entry and self.turn.staging:
                    event("a lie was found out")
                    self.turn.staging, self.turn.replaced = None, False
            turn.set_applied(index)
            self.turn.applied = index

    @rule()
    def append_log(self):
        first, last = self.turn.log
        self.environment.turn.log_append(last + 1, last + 1, b"command")
        self.turn.log = first, last + 1

    # -- a snapshot --------------------------------------------------------------------------

    @precondition(lambda self: self.turn.applied < STEPS and not self.remains())
    @rule(data=st.data())
    def stage_begin(self, data):
        index = data.draw(st.integers(self.turn.applied + 1, STEPS))
        self.environment.turn.stage_begin(index, len(ledger_at(index)))
        self.turn.staging = Staging(index)
        self.turn.replaced = False

    @precondition(lambda self: self.in_time() and not self.turn.staging.done)
    @rule(count=st.integers(0, 6))
    def stage_state(self, count):
        staging = self.turn.staging
        pairs = sorted(state_at(staging.index).items())
        page = pairs[staging.sent : staging.sent + count]
        staging.sent += len(page)
        staging.done = staging.sent == len(pairs)
        self.environment.turn.stage_state(page, done=staging.done)

    @precondition(lambda self: self.in_time())
    @rule(count=st.integers(0, 6), is_true=st.sampled_from([True, True, False]))
    def stage_ledger(self, count, is_true=True):
        staged = self.environment.turn.staged()
        end = min(staged.ledger_next + count, staged.ledger_size)
        page = ledger_at(STEPS)[staged.ledger_next : end]
        if not is_true:
            page = [b"lie " + entry for entry in page]
        if staged.ledger_next <= end:
            self.environment.turn.stage_ledger(staged.ledger_next, page)
            self.turn.tail += page

    @precondition(lambda self: self.in_time())
    @rule()
    def stage_rest(self):
        if not self.turn.staging.done:
            self.stage_state(10_000)
        self.stage_ledger(10_000)

    def remains(self):
        return bool(self.turn.tail) and self.turn.staging is None

    def has_lies_until(self, size):
        own = len(ledger_at(self.turn.applied))
        return self.turn.tail[: size - own] != ledger_at(STEPS)[own:size]

    def in_time(self):
        """Whether a snapshot is being received that still leads further than the store is."""
        staging = self.turn.staging
        return staging is not None and staging.index > self.turn.applied

    @precondition(lambda self: self.turn.applied < STEPS and not self.remains())
    @rule(in_one_turn=st.booleans(), data=st.data())
    def install(self, in_one_turn, data):
        if not self.in_time():
            self.stage_begin(data)
        self.stage_rest()
        if not in_one_turn:
            self.commit()
        assert self.environment.turn.staged().is_complete
        turn, index = self.environment.turn, self.turn.staging.index
        size = len(ledger_at(index))
        assert (turn.staged_root(size) == root_of(size)) is not self.has_lies_until(size)
        if self.has_lies_until(size):
            return  # as whoever compares them does
        assert turn.staged_state_digest() == digest_of(state_at(index))
        event("installed")
        turn.install_snapshot(index, index, b"configuration %d" % index, size)
        first, last = self.turn.log
        self.turn.log = index, (last if first <= index <= last else index)
        self.turn.configurations = [(index, b"configuration %d" % index)]
        own = len(ledger_at(self.turn.applied))
        del self.turn.tail[: size - own]
        self.turn.applied, self.turn.staging, self.turn.replaced = index, None, True

    @rule()
    def clear(self):
        had = self.environment.turn.clear_idle_slot()
        assert self.turn.replaced or not had
        if had:
            self.turn.replaced = False

    @rule(most=st.integers(0, 4))
    def discard(self, most):
        done = self.environment.turn.discard_staging(most)
        if self.turn.staging is not None:
            self.turn.staging, self.turn.replaced = None, False
        del self.turn.tail[max(0, len(self.turn.tail) - most) :]
        assert done is (not self.turn.tail)

    # -- turns -------------------------------------------------------------------------------

    @rule()
    def commit(self):
        self.environment.commit()
        self.disk = copy.deepcopy(self.turn)

    @rule()
    def abort(self):
        self.environment.abort()
        self.turn = copy.deepcopy(self.disk)

    @rule()
    def restart(self):
        self.environment.close()
        self.environment = self.opened()
        list(self.environment.verify())
        self.turn = copy.deepcopy(self.disk)

    @invariant()
    def the_history_is_what_shows(self):
        assert_shows(self.environment.turn, self.turn)
        assert_staged(self.environment.turn, self.turn)
        with self.environment.read() as snapshot:
            assert_shows(snapshot, self.disk)
            assert_pages(snapshot, self.disk.applied)


def assert_shows(reads, model):
    state, ledger = state_at(model.applied), ledger_at(model.applied)
    assert reads.applied_index == model.applied
    assert list(reads.state.scan(b"")) == sorted(state.items())
    assert reads.state_digest() == digest_of(state)
    assert reads.ledger_size == len(ledger)
    assert reads.ledger_entries(0, 10_000) == ledger
    assert reads.ledger_entry(len(ledger)) is None
    assert reads.root() == root_of(len(ledger))
    if reads.log_last() != (0, 0):
        assert (reads.log_first(), reads.log_last()[0]) == model.log
    assert reads.configurations() == model.configurations


def assert_staged(turn, model):
    staged = turn.staged()
    assert (staged is None) == (model.staging is None)
    if staged is not None:
        pairs = sorted(state_at(staged.index).items())[: model.staging.sent]
        assert staged.index == model.staging.index
        assert staged.ledger_size == len(ledger_at(staged.index))
        assert staged.ledger_next == len(ledger_at(model.applied)) + len(model.tail)
        assert staged.after_key == (pairs[-1][0] if pairs else None)
        assert staged.is_state_complete == model.staging.done
        assert turn.staged_state_digest() == digest_of(dict(pairs))
    assert turn.has_remains == (bool(model.tail) and staged is None)
    if staged is not None:
        leaves = (*ledger_at(model.applied), *model.tail)
        assert turn.staged_root(len(leaves)) == root(leaves)


def assert_pages(snapshot, applied):
    pairs, after = [], None
    while page := snapshot.state_page(after, 12):
        assert len(page) == 1 or sum(len(key) + len(value) for key, value in page) <= 12
        pairs += page
        after = page[-1][0]
    assert pairs == sorted(state_at(applied).items())
    assert snapshot.state_count() == len(pairs)
    ledger = []
    while page := snapshot.ledger_page(len(ledger), 10_000, 30):
        ledger += page
    assert ledger == ledger_at(applied)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
