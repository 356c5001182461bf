"""Whatever happens between: what a node has acknowledged is in the ledger once, in order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.node.nodes import Node
from tests.unit.node.reporters import DOMAINS, Reporters, denied, numbers

from quorate.core.errors import StorageFullError
from quorate.core.lineage import EventType
from quorate.core.outcome import Deny
from quorate.core.state import StateView
from quorate.node.outbox import Taken
from quorate.storage.turn import Turn

SETTINGS = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])

Step = Callable[["World"], None]


@dataclass
class Told:
    """What one node was told. waits: (ticket, number), not acknowledged; a number of 0 or less
    stands for so many denials. kept: acknowledged, in order. denied: all that it was told of."""

    waits: list[tuple[int, int]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    denied: int = 0


class World(Reporters):
    """A federation, and what its nodes were told and have acknowledged."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, DOMAINS)
        self.told = {domain: Told() for domain in DOMAINS}
        self.number = 0
        for domain in DOMAINS:
            self.node(domain).kept = partial(self.kept, domain)  # type: ignore[method-assign]

    def kept(self, domain: str, ticket: int) -> None:
        told = self.told[domain]
        told.kept += [number for at, number in told.waits if at <= ticket]
        told.waits = [(at, number) for at, number in told.waits if at > ticket]

    def report(self, domain: str, count: int) -> None:
        self.number += count
        said = range(self.number - count + 1, self.number + 1)
        rest = [self.event(domain, number) for number in said[1:]]
        for kind in (EventType.REPORTED, EventType.STARTED):
            events = [self.event(domain, said[0], kind), *rest]
            taken = self.node(domain).core.outbox.report(events, None)
            if isinstance(taken, Taken):
                self.told[domain].waits += [(taken.ticket, number) for number in said]
                self.told[domain].taken += said
                return
            assert isinstance(taken, Deny)
        raise AssertionError("it has started, or has not")

    def deny(self, domain: str, count: int) -> None:
        ticket = self.node(domain).core.outbox.deny([self.denials(domain, count)])
        self.told[domain].waits.append((ticket, -count))
        self.told[domain].denied += count

    def lose(self, domain: str, moment: str) -> None:
        """The core ends: what it has not acknowledged, nobody waits for any more."""
        node = self.node(domain)
        if moment == "in a turn":
            node.core.decide()
        elif moment == "after a turn":
            node.core.turn()
        self.told[domain].waits.clear()
        self.crash(node)

    def fill(self, domain: str) -> None:
        """There is no room for what was taken in; then there is."""
        node = self.node(domain)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Turn, "outbox_append", no_room)
            node.core.turn()
        if not node.core.storage_problem:
            return  # it had nothing to write
        self.told[domain].waits.clear()
        node.core.probe_storage()
        self.connect_again(node)

    def check(self, domain: str) -> None:
        node, told = self.node(domain), self.told[domain]
        order = numbers(node, node.node_id)
        assert order == [number for number in told.taken if number in set(order)], "once, in order"
        events = [number for number in told.kept if number > 0]
        assert set(events) <= set(order), "what was acknowledged is there"
        least = -sum(number for number in told.kept if number <= 0)
        assert least <= denied(node, node.node_id) <= told.denied
        with node.environment.read() as snapshot:
            lease = StateView(snapshot.state).lease(self.leases[domain])
        assert lease is not None
        assert lease.events == len(order), "and none of it was refused"


def no_room(*_: object) -> None:
    raise StorageFullError("no room")


domains = st.sampled_from(DOMAINS)
few = st.integers(1, 3)
moments = st.sampled_from(("before a turn", "in a turn", "after a turn"))
steps: st.SearchStrategy[tuple[str, Step]] = st.one_of(
    st.builds(lambda d, n: (f"report {d} {n}", lambda w: w.report(d, n)), domains, few),
    st.builds(lambda d, n: (f"report {d} {n}", lambda w: w.report(d, n)), domains, few),
    st.builds(lambda d, n: (f"deny {d} {n}", lambda w: w.deny(d, n)), domains, few),
    st.builds(lambda d, m: (f"crash {d} {m}", lambda w: w.lose(d, m)), domains, moments),
    st.builds(lambda d: (f"turn {d}", lambda w: w.node(d).core.turn()), domains),
    st.builds(lambda d: (f"full {d}", lambda w: w.fill(d)), domains),
    st.builds(
        lambda ms: (f"run {ms}", lambda w: w.run_ms(ms)), st.sampled_from((10, 20, 50, 200, 3_000))
    ),
    st.builds(
        lambda cut: (f"cut {sorted(cut)}", lambda w: w.isolate(*(w.node(d).node_id for d in cut))),
        st.sets(domains),
    ),
)


@SETTINGS
@given(script=st.lists(steps, min_size=3, max_size=30))
def test_what_was_acknowledged_is_in_the_ledger_once_in_order(
    script: list[tuple[str, Step]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            for _, step in script:
                step(world)
            world.isolate()
            world.settle()
            world.until(world.emptied, timeout_ms=60_000)
            for domain in DOMAINS:
                world.check(domain)
        finally:
            world.close()


def test_the_rule_sees_what_breaks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that acknowledges before it has written."""
    world = World(tmp_path)
    node: Node = world.node(DOMAINS[0])
    world.report(DOMAINS[0], 2)
    world.kept(DOMAINS[0], 2)
    world.lose(DOMAINS[0], "in a turn")
    assert node.core.outbox.waiting == 0
    world.until(world.emptied)
    with pytest.raises(AssertionError, match="acknowledged"):
        world.check(DOMAINS[0])
    world.close()
