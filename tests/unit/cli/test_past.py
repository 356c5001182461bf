"""How far a ledger is read, and what is held against it: by a node that became a member late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, SECOND, World

from quorate.cli.errors import VerificationError
from quorate.cli.past import Past
from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint
from quorate.testing.builders import key_for, node_body
from quorate.v1 import ledger_pb2


@pytest.fixture(name="world")
def _world() -> World:
    return World()


class Node:
    """The ledger of a node, as a connection to it."""

    def __init__(self, world: World, name: str, log_key: str) -> None:
        self.entries = list(world.entries)
        self.listed: list[int] = []
        self.target = SimpleNamespace(server_name=ids.dns_name(name), domain=BANK)
        self.ledger = SimpleNamespace(
            GetCheckpoint=self.checkpoint,
            ListEntries=self.list,
            GetConsistencyProof=self.prove,
        )
        self._origin, self._key = world.federation.origin, key_for(log_key)
        self._tree: dict[tuple[int, int], bytes] = {}
        for index, entry in enumerate(self.entries):
            merkle.append(self, index, merkle.leaf_hash(entry))

    def node(self, level: int, index: int) -> bytes:
        return self._tree[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self._tree[level, index] = digest

    def ask(self, method: Any, request: Any, _timeout_ms: int) -> Any:
        return method(request)

    def checkpoint(self, _request: Any) -> Any:
        size = len(self.entries)
        signed = Checkpoint(self._origin, size, merkle.root(self, size))
        return ledger_pb2.GetCheckpointResponse(note=sign_checkpoint(signed, self._key))

    def list(self, request: Any) -> Any:
        page = self.entries[request.start : request.start + request.limit]
        self.listed += range(request.start, request.start + len(page))
        return ledger_pb2.ListEntriesResponse(size=len(self.entries), entries=page)

    def prove(self, request: Any) -> Any:
        hashes = merkle.consistency_proof(self, request.old_size, request.new_size)
        return ledger_pb2.GetConsistencyProofResponse(hashes=hashes)


def past_of(world: World, node: Any) -> Past:
    return Past(node, world.federation.parsed_genesis(), 1_000, lambda _done, _total: None)


def test_no_more_is_read_than_is_asked_about(world: World) -> None:
    world.setup()
    world.acquire()
    node = Node(world, world.bank.node, f"{BANK} log")
    past = past_of(world, node)
    past.read_to(3)
    assert past.verify().size == len(world.entries)
    assert node.listed == [0, 1, 2]


def test_the_ledger_of_a_node_that_was_added_later_is_read_to_the_end(world: World) -> None:
    world.must(BANK, "executor.register", {"executor": world.bank.executor("a")})
    world.must(BANK, "node.add", node_body(SECOND))
    node = Node(world, SECOND, f"{SECOND} log")
    past = past_of(world, node)
    past.read_to(2)
    assert past.view.node(SECOND) is None
    assert past.verify().size == 3
    assert node.listed == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "key"), [(SECOND, f"{SECOND} log"), (f"spiffe://{BANK}/node/1", "another")]
)
def test_what_no_member_has_signed_is_no_ledger(world: World, name: str, key: str) -> None:
    past = past_of(world, Node(world, name, key))
    past.read_to(1)
    with pytest.raises(VerificationError):
        past.verify()


def test_an_index_is_there_or_it_is_told(world: World) -> None:
    past = past_of(world, Node(world, world.bank.node, f"{BANK} log"))
    past.require(0)
    with pytest.raises(MalformedError, match="none at index 1"):
        past.require(1)
