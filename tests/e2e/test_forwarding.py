"""A proposal through any node is executed once, however often and wherever it is made."""

from __future__ import annotations

import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.operator import COMMAND_LIFETIME_MS, Operator
from quorate.proofs.commands import build_command
from quorate.v1 import decision_pb2, governance_pb2

pytestmark = pytest.mark.cluster

BANK = "bank.example"
SUBMIT_S = 30.0


def register(issuer: Operator, nonce: str, executor: str, later_ms: int = 0) -> bytes:
    """A registration whose nonce and lifetime the test chooses."""
    return build_command(
        origin=issuer.origin,
        issuer=issuer.domain,
        command_type="executor.register",
        body={"executor": executor},
        nonce=nonce,
        not_after=time.time_ns() // 1_000_000 + COMMAND_LIFETIME_MS + later_ms,
        key=issuer.organisation.governance_key(),
    )


def somebody() -> str:
    return f"spiffe://{BANK}/agent/{secrets.token_hex(8)}"


def submit(node: Operator, envelope: bytes) -> decision_pb2.Outcome:
    """The outcome that a node tells; unknown ones are asked for again, as a caller must."""
    request = governance_pb2.SubmitRequest(envelope=envelope)
    return node._settle("submit", node.governance.Submit, request, SUBMIT_S).outcome


def test_a_proposal_through_any_node_lands_once(cluster: Cluster, mirror: LedgerMirror):
    bank, leader = cluster.operator(BANK), cluster.leader()
    assert leader in cluster.members
    told = {}
    for domain in cluster.members:  # the leader is one of them, the others forward
        envelope = register(bank, secrets.token_hex(16), somebody())
        told[domain] = submit(cluster.operator(domain), envelope)
        assert told[domain].accepted
        assert not told[domain].duplicate
    mirror.catch_up()
    for outcome in told.values():
        assert mirror.indexes_of(outcome.command_id) == [outcome.ledger_index]


def test_a_repeat_returns_the_first_outcome_and_leaves_no_entry(
    cluster: Cluster, mirror: LedgerMirror
):
    bank, nonce, executor = cluster.operator(BANK), secrets.token_hex(16), somebody()
    envelope = register(bank, nonce, executor)
    first = submit(bank, envelope)
    assert first.accepted
    size = mirror.count_decided()
    signed_again = register(bank, nonce, executor, later_ms=1_000)
    assert signed_again != envelope
    for node in cluster.operators():
        for repeat in (envelope, signed_again):
            again = submit(node, repeat)
            assert again.duplicate
            again.duplicate = False
            assert again == first
    assert mirror.count_decided() == size, "repeats leave no entry"

    other = bank.ask(
        bank.governance.Submit,
        governance_pb2.SubmitRequest(envelope=register(bank, nonce, somebody())),
    )
    assert (other.HasField("outcome"), other.unknown) == (False, False)
    assert other.reason == decision_pb2.REASON_NONCE_REUSED
    assert mirror.count_decided() == size, "nor does another command under the same nonce"
    assert mirror.indexes_of(first.command_id) == [first.ledger_index]
    found = bank.ask(
        bank.governance.GetOutcome,
        governance_pb2.GetOutcomeRequest(command_id=first.command_id),
    )
    assert found.outcome == first, "what is remembered is the first outcome"


def test_the_same_command_through_all_nodes_at_once_is_one_entry(
    cluster: Cluster, mirror: LedgerMirror
):
    bank, operators = cluster.operator(BANK), cluster.operators()
    size = mirror.count_decided()
    rounds, told = 12, []
    together = threading.Barrier(len(operators))

    def at_once(node: Operator, envelope: bytes) -> decision_pb2.Outcome:
        together.wait()
        return submit(node, envelope)

    with ThreadPoolExecutor(len(operators)) as pool:
        for _ in range(rounds):
            envelope = register(bank, secrets.token_hex(16), somebody())
            answers = list(pool.map(at_once, operators, [envelope] * len(operators)))
            assert {(a.accepted, a.ledger_index, a.command_id) for a in answers} == {
                (True, answers[0].ledger_index, answers[0].command_id)
            }
            told.append(answers[0])
    assert mirror.count_decided() == size + rounds
    for outcome in told:
        assert mirror.indexes_of(outcome.command_id) == [outcome.ledger_index]


def test_a_repeated_lease_request_is_one_lease(cluster: Cluster, crew: Crew, mirror: LedgerMirror):
    """Several calls with one request id, at once: the executor holds one lease, not many."""
    worker, request_id = crew.workers[BANK], secrets.token_hex(16)
    size = mirror.count_decided()

    def acquire(_number: int):
        return worker.acquire(f"//{BANK}/records/once", request_id=request_id)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(acquire, range(6)))
    assert {answer.lease.id for answer in answers} == {answers[0].lease.id}
    assert answers[0].lease.id
    assert mirror.count_decided() == size + 1
