"""Whole nodes without sockets, under one clock: what is said arrives at once, unless it is cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from quorate.consensus import PeerError, RaftSettings
from quorate.core import protocol
from quorate.core.outcome import Outcome
from quorate.core.transitions import install_genesis
from quorate.lease.clock import Clock
from quorate.lease.word import AuthorityWord
from quorate.node.machine import proposal_key
from quorate.node.node_core import NodeCore
from quorate.proofs.signing import SigningKey
from quorate.storage import Environment
from quorate.testing.builders import Federation, key_for
from quorate.testing.clock import FakeClock

MAP_SIZE_BYTES = 64 * 1024 * 1024
STEP_MS = 10


class Node:
    """A node's machine: its store, word and core; the core's `Observer` as well."""

    def __init__(self, world: Nodes, node_id: str, path: Path) -> None:
        self.world = world
        self.node_id = node_id
        self.clock: Clock = world.clock
        self.word = AuthorityWord.create()
        self.environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
        genesis = world.federation.parsed_genesis()
        self.environment.initialise(genesis.hash, node_id)
        turn = self.environment.turn
        if turn.ledger_size == 0:
            turn.append_ledger(install_genesis(turn.state, genesis))
            self.environment.commit()
        self.outcomes: dict[bytes, Outcome] = {}
        self.problems: list[str] = []
        self.rounds_ns: list[int] = []
        self.kept_through = 0
        self.releases = 0
        self.start()

    def start(self) -> None:
        """A new core on what the store holds."""
        self.environment.abort()
        self.kept_through = 0
        self.core = NodeCore(
            node_id=self.node_id,
            settings=self.world.settings,
            environment=self.environment,
            word=self.word,
            clock=self.clock,
            boot_id=b"0123456789abcdef",
            chance=random.Random(self.node_id),  # noqa: S311 - a test's chance
            first_seq=self.world.next_seq(),
            signing_key=self.world.federation.key_of(self.node_id),
            log_key=self.world.log_key(self.node_id),
            observer=self,
            edges=1,
        )

    def turn(self) -> None:
        """One turn of the core; a test may put another in its place."""
        self.core.turn()

    def propose(self, envelope: bytes) -> bytes:
        key = proposal_key(envelope)
        assert self.core.propose(key, envelope)
        return key

    def close(self) -> None:
        self.environment.abort()
        self.core.close()
        self.environment.close()
        self.word.close()

    @property
    def voters(self) -> tuple[str, ...]:
        return self.core.replica.configuration.voters

    def word_holds(self) -> bool:
        """Whether an edge of this node may permit now."""
        record = self.word.read()
        if record is None or record.reason is not None:
            return False
        return self.world.clock.boottime_ns() < record.deadline_ns

    def ledger(self) -> list[bytes]:
        with self.environment.read() as snapshot:
            return snapshot.ledger_entries(0, snapshot.ledger_size)

    def log_first(self) -> int:
        with self.environment.read() as snapshot:
            return snapshot.log_first()

    # -- the core's observer -----------------------------------------------------------------

    def executed(self, key: bytes, outcome: Outcome) -> None:
        self.outcomes[key] = outcome

    def kept(self, ticket: int) -> None:
        self.kept_through = ticket

    def grown(self) -> None:
        pass

    def enforced(self, watermark: int, drained: int) -> None:
        pass

    def round_confirmed(self, took_ns: int) -> None:
        self.rounds_ns.append(took_ns)

    def released(self) -> None:
        self.releases += 1

    def members_changed(self) -> None:
        pass

    def refused(self, peer: str, error: PeerError) -> None:
        self.problems.append(f"{peer}: {error}")


class Nodes:
    """The nodes of a federation of `domains`, and time, which passes in `run_ms` and `until`."""

    def __init__(
        self,
        directory: Path,
        domains: tuple[str, ...],
        settings: RaftSettings | None = None,
        version: int = protocol.LATEST,
    ) -> None:
        self.directory = directory
        self.settings = settings or RaftSettings(log_tail_entries=5)
        self.federation = Federation.build(domains, version=version)
        self.clock = FakeClock()
        self._seq = 0
        self.cut: set[str] = set()
        self.nodes: dict[str, Node] = {}
        self._closing = ExitStack()

    def log_key(self, node_id: str) -> SigningKey:
        for member in self.federation.organisations.values():
            if member.node == node_id:
                return member.log
        return key_for(f"{node_id} log")  # of a node that `builders.node_body` describes

    def next_seq(self) -> int:
        self._seq += 1_000_000
        return self._seq

    def add(self, node_id: str) -> Node:
        """A machine joins the network, on its own data."""
        node = Node(self, node_id, self.directory / node_id.replace("/", "_"))
        self._closing.callback(node.close)
        self.nodes[node_id] = node
        self.connect()
        return node

    def close(self) -> None:
        self._closing.close()

    def connect(self) -> None:
        """Links follow who is cut off."""
        for a in self.nodes.values():
            for b in self.nodes:
                if b == a.node_id:
                    continue
                is_up = not self.cut & {a.node_id, b}
                if is_up and b not in a.core.links_up:
                    a.core.connected(b)
                elif not is_up and b in a.core.links_up:
                    a.core.disconnected(b)

    def isolate(self, *node_ids: str) -> None:
        self.cut = set(node_ids)
        self.connect()

    def connect_again(self, node: Node) -> None:
        """The links of a node that was started again come up, on both sides."""
        for other in self.nodes.values():
            if other is not node and node.node_id in other.core.links_up:
                other.core.disconnected(node.node_id)
        self.connect()

    def run_ms(self, ms: int) -> None:
        for _ in range(ms // STEP_MS):
            self._step()

    def until(self, reached: Callable[[], object], timeout_ms: int = 20_000) -> None:
        for _ in range(timeout_ms // STEP_MS):
            if reached():
                return
            self._step()
        raise AssertionError("it did not come to that")

    def _step(self) -> None:
        self.clock.advance_ms(STEP_MS)
        for _ in range(4):  # what is said is answered within the step
            for node in list(self.nodes.values()):
                node.turn()
                for peer, message in node.core.take_outbox():
                    if peer in self.nodes and not self.cut & {peer, node.node_id}:
                        self.nodes[peer].core.deliver(node.node_id, message)

    @property
    def leader(self) -> Node | None:
        leading = [node for node in self.nodes.values() if node.core.replica.is_leader]
        return max(leading, key=lambda node: node.core.replica.term, default=None)

    def others(self) -> list[Node]:
        return [node for node in self.nodes.values() if node is not self.leader]

    def order(self, domain: str, kind: str, body: dict[str, object], at: Node) -> Outcome:
        """A domain's command through a node, until it is executed there."""
        key = at.propose(self.federation.command(domain, kind, body))
        self.until(lambda: key in at.outcomes)
        return at.outcomes[key]

    def register(self, domain: str, count: int, at: Node) -> None:
        """Commands that succeed, so many of them."""
        executors = [f"spiffe://{domain}/agent/{self.next_seq()}" for _ in range(count)]
        keys = [
            at.propose(self.federation.command(domain, "executor.register", {"executor": executor}))
            for executor in executors
        ]
        self.until(lambda: set(keys) <= set(at.outcomes))
        assert all(at.outcomes[key].accepted for key in keys)
