"""A federation that was recovered: it elects, decides, and whoever comes is sent what was carried
over."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.node.nodes import MAP_SIZE_BYTES, Node, Nodes

from quorate.core import dsse
from quorate.core.recovering import begin_without, next_fence_base
from quorate.core.recovery import (
    Former,
    Recovery,
    build_recovery_payload,
    parse_recovery,
    state_hash,
)
from quorate.core.state import StateView
from quorate.node.recover import _found, _pairs
from quorate.node.store import new_token
from quorate.proofs.signing import sign_envelope
from quorate.storage import Environment

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK, CLINIC, PORT = DOMAINS
NEW = "quorate.example/recovered-1"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, DOMAINS)
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None)
    assert nodes.leader is not None
    nodes.register(BANK, 30, nodes.leader)
    nodes.run_ms(1_000)
    yield nodes
    nodes.close()


def document(nodes: Nodes, base: Environment) -> Recovery:
    with base.read() as snapshot:
        view = StateView(snapshot.state)
        federation = view.federation()
        index, term = snapshot.log_last()
        payload = build_recovery_payload(
            origin=NEW,
            created_ms=federation.ledger_time,
            parameters=federation.parameters,
            version=federation.protocol,
            fence_base=next_fence_base(federation, snapshot.ledger_size),
            former=Former(
                federation.origin,
                federation.genesis_hash,
                snapshot.ledger_size,
                snapshot.root().hex(),
                index,
                term,
                state_hash(_pairs(snapshot)),
            ),
            descriptors=nodes.federation.parsed_genesis().descriptors,
            survivors=DOMAINS,
        )
    keys = [nodes.federation[domain].governance for domain in DOMAINS]
    return parse_recovery(sign_envelope(dsse.RECOVERY_TYPE, payload, *keys))


def put(nodes: Nodes, node: Node, make: Callable[[Environment], None]) -> None:
    """The node starts on another store."""
    path = node.environment._path
    node.environment.abort()
    node.core.close()
    node.environment.close()
    shutil.rmtree(path)
    node.environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    make(node.environment)
    node.start()


@pytest.fixture
def recovered(nodes: Nodes, tmp_path: Path) -> Nodes:
    """Bank and clinic have installed; the port begins empty, and has not heard anybody yet."""
    bank, clinic, port = (nodes.nodes[nodes.federation[each].node] for each in DOMAINS)
    nodes.isolate(*nodes.nodes)
    bank.environment.abort()
    bank.environment.backup(tmp_path / "base")
    base = Environment.open(tmp_path / "base", map_size_bytes=MAP_SIZE_BYTES)
    recovery = document(nodes, base)

    def install(node: Node) -> Callable[[Environment], None]:
        def make(fresh: Environment) -> None:
            with base.read() as snapshot:
                _found(fresh, snapshot, recovery, node.node_id, lambda _: None)

        return make

    def begin(fresh: Environment) -> None:
        fresh.initialise(recovery.hash, port.node_id)
        fresh.turn.append_ledger(begin_without(fresh.turn.state, recovery))
        fresh.turn.set_probation(new_token())
        fresh.commit()

    put(nodes, bank, install(bank))
    put(nodes, clinic, install(clinic))
    put(nodes, port, begin)
    base.close()
    nodes.federation.origin = NEW
    nodes.isolate(port.node_id)
    nodes.until(lambda: nodes.leader is not None)
    return nodes


def test_the_survivors_elect_and_decide_at_once(recovered: Nodes) -> None:
    bank, clinic = (recovered.nodes[recovered.federation[each].node] for each in (BANK, CLINIC))
    recovered.until(lambda: bank.word_holds() and clinic.word_holds())
    recovered.register(BANK, 3, bank)
    recovered.until(lambda: bank.ledger() == clinic.ledger())
    assert len(bank.ledger()) == 4, "the document, and what came since"


def test_whoever_begins_empty_is_sent_what_was_carried_over(recovered: Nodes) -> None:
    bank, port = (recovered.nodes[recovered.federation[each].node] for each in (BANK, PORT))
    recovered.register(BANK, 1, bank)
    assert count(port) == 0
    assert not port.word_holds()
    recovered.isolate()
    recovered.until(lambda: not port.core.is_on_probation and port.word_holds())
    assert count(port) == count(bank) == 31
    assert port.ledger() == bank.ledger()
    recovered.register(PORT, 1, port)


def count(node: Node) -> int:
    with node.environment.read() as snapshot:
        return sum(1 for _ in StateView(snapshot.state).executors())


def test_those_who_begin_empty_elect_nobody_among_themselves(recovered: Nodes) -> None:
    """What was carried over would be forgotten."""
    port = recovered.nodes[recovered.federation[PORT].node]
    recovered.isolate(recovered.federation[BANK].node)
    recovered.run_ms(5_000)
    assert port.core.is_on_probation
    assert recovered.leader is None or recovered.leader.node_id != port.node_id
    assert not port.word_holds()
