"""The disk in memory keeps a log as the real one does, wherever the log begins."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quorate.storage import Environment
from quorate.testing.raft_disk import MemoryLogStore

MAP_SIZE_BYTES = 8 << 20
commands = st.lists(st.binary(max_size=20), min_size=1, max_size=4)


def shown(turn):
    first, (last, term) = turn.log_first(), turn.log_last()
    assert turn.log_get(first - 1) is None
    assert turn.log_get(last + 1) is None
    entries = [turn.log_get(index) for index in range(first, last + 1)]
    sliced = turn.log_slice(0, last + 1, 1 << 20)
    assert sliced == [(first + at, *entry) for at, entry in enumerate(entries)]
    return first, last, term, entries, turn.configurations(), turn.applied_index


class Logs(RuleBasedStateMachine):
    """Every step is taken on both; after every step both show the same."""

    def __init__(self):
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.environment = Environment.open(self.path / "data", map_size_bytes=MAP_SIZE_BYTES)
        self.memory = MemoryLogStore()
        self.durable = shown(self.memory.turn)
        self.each(lambda turn: turn.log_append(1, 0, b"\x01"))

    def each(self, step):
        """Does it to both disks; they give the same answer."""
        answers = [step(self.environment.turn), step(self.memory.turn)]
        assert answers[0] == answers[1]
        return answers[0]

    def last(self):
        return self.memory.turn.log_last()[0]

    def teardown(self):
        self.environment.close()
        shutil.rmtree(self.path)

    @rule(commands=commands, term=st.integers(0, 2**40))
    def append(self, commands, term):
        for command in commands:
            index = self.last() + 1
            self.each(lambda turn, at=index, what=command: turn.log_append(at, term, what))

    @rule(back=st.integers(1, 6))
    def truncate(self, back):
        index = max(self.memory.turn.log_first() + 1, self.last() + 1 - back)
        self.each(lambda turn: turn.log_truncate_from(index))
        self.each(lambda turn: turn.drop_configurations_from(index))

    @rule(ahead=st.integers(-2, 12), most=st.integers(0, 5))
    def drop(self, ahead, most):
        index = self.memory.turn.log_first() + ahead
        kept = self.memory.turn.log_get(index)
        self.each(lambda turn: turn.log_drop_below(index, most))
        assert self.memory.turn.log_get(index) == kept

    @rule(ahead=st.integers(0, 9), term=st.integers(0, 2**40))
    def reset(self, ahead, term):
        index = self.memory.turn.log_first() + ahead
        self.each(lambda turn: turn.log_reset(index, term))
        assert self.memory.turn.log_last() == (index, term)

    @rule(index=st.integers(1, 30), data=st.binary(min_size=1, max_size=9))
    def configure(self, index, data):
        self.each(lambda turn: turn.put_configuration(index, data))

    @rule(index=st.integers(1, 30), which=st.sampled_from(["from", "below"]))
    def drop_configurations(self, index, which):
        self.each(lambda turn: getattr(turn, f"drop_configurations_{which}")(index))

    @rule()
    def commit(self):
        self.environment.commit()
        self.memory.commit()
        self.durable = shown(self.memory.turn)

    @rule()
    def abort(self):
        self.environment.abort()
        self.memory.abort()
        assert shown(self.memory.turn) == self.durable
        if not self.last():
            self.each(lambda turn: turn.log_append(1, 0, b"\x01"))

    @invariant()
    def both_show_the_same(self):
        self.each(shown)

    @invariant()
    def what_is_durable_shows_what_was_committed(self):
        """What `raft_safety` reads of the disk itself."""
        first, _, _, entries, configurations, _ = self.durable
        memory = self.memory
        assert (memory.base, memory.entries, memory.members) == (first, entries, configurations)


TestLogs = Logs.TestCase
TestLogs.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
