"""Commands that must not be executed: each is denied for its own precise reason. What its issuer
signed is in the ledger, denied; what nobody signed never gets that far."""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import Any

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import CALL_TIMEOUT_S
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.operator import COMMAND_LIFETIME_MS, Operator
from quorate.core import codec
from quorate.core.limits import MAX_COMMAND_LIFETIME_MS
from quorate.proofs.commands import build_command
from quorate.proofs.signing import SigningKey
from quorate.v1 import decision_pb2, governance_pb2

pytestmark = pytest.mark.cluster

BANK, CLINIC = "bank.example", "clinic.example"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def command(operator: Operator, **changes: Any) -> bytes:
    """A good command of the operator's domain, but for the changes."""
    fields: dict[str, Any] = {
        "origin": operator.origin,
        "issuer": operator.domain,
        "command_type": "executor.register",
        "body": {"executor": f"spiffe://{operator.domain}/agent/{secrets.token_hex(8)}"},
        "nonce": secrets.token_hex(16),
        "not_after": now_ms() + COMMAND_LIFETIME_MS,
        "key": operator.organisation.governance_key(),
    }
    return build_command(**(fields | changes))


def tampered(envelope: bytes) -> bytes:
    """The signatures of one command around another."""
    document = json.loads(envelope)
    payload = base64.b64decode(document["payload"]).replace(b"/agent/", b"/agent/x")
    document["payload"] = base64.b64encode(payload).decode()
    return codec.encode(document)


def submit(node: Operator, envelope: bytes) -> governance_pb2.SubmitResponse:
    return node.governance.Submit(
        governance_pb2.SubmitRequest(envelope=envelope), timeout=CALL_TIMEOUT_S
    )


UNFIT = {
    "REASON_WRONG_ORIGIN": lambda op: command(op, origin="quorate.example/federation-2"),
    "REASON_BAD_SIGNATURE": lambda op: command(op, key=SigningKey.generate()),
    "REASON_BAD_SIGNATURE ": lambda op: tampered(command(op)),
    "REASON_BAD_SIGNATURE  ": lambda op: command(op, issuer=CLINIC),
    "REASON_UNKNOWN_ISSUER": lambda op: command(op, issuer="nobody.example"),
    "REASON_UNKNOWN_ISSUER ": lambda op: command(
        op,
        issuer=f"spiffe://{BANK}/node/7",
        command_type="lease.release",
        body={"lease": "0" * 32, "executor": f"spiffe://{BANK}/agent/x"},
    ),
    "REASON_EXPIRED_COMMAND": lambda op: command(op, not_after=now_ms() - 3_600_000),
    "REASON_LIFETIME_TOO_LONG": lambda op: command(
        op, not_after=now_ms() + MAX_COMMAND_LIFETIME_MS + 60_000
    ),
}


@pytest.mark.parametrize(("reason", "make"), UNFIT.items(), ids=UNFIT.keys())
def test_what_could_be_denied_again_and_again_is_not_even_proposed(
    cluster: Cluster, mirror: LedgerMirror, reason: str, make
):
    bank, size = cluster.operator(BANK), mirror.count_decided()
    for node in cluster.operators():
        answer = submit(node, make(bank))
        assert not answer.HasField("outcome")
        assert not answer.unknown, "it certainly was not executed"
        assert decision_pb2.Reason.Name(answer.reason) == reason.strip()
    assert mirror.count_decided() == size


SIGNED = {
    "NOT_AUTHORIZED": lambda op: command(op, body={"executor": f"spiffe://{CLINIC}/agent/stolen"}),
    "NOT_AUTHORIZED ": lambda op: command(
        op,
        command_type="lease.acquire",
        body={
            "executor": f"spiffe://{BANK}/agent/worker",
            "action": "records.write",
            "resource": f"//{BANK}/records/book",
            "ttl_ms": 0,
        },
    ),
    "NOT_FOUND": lambda op: command(
        op, command_type="executor.revoke", body={"executor": f"spiffe://{BANK}/agent/nobody"}
    ),
    "NOT_AUTHORIZED  ": lambda op: command(
        op, command_type="domain.suspend", body={"domain": CLINIC}
    ),
}


@pytest.mark.parametrize(("reason", "make"), SIGNED.items(), ids=SIGNED.keys())
def test_what_its_issuer_signed_is_denied_in_the_ledger(
    cluster: Cluster, mirror: LedgerMirror, reason: str, make
):
    bank, size = cluster.operator(BANK), mirror.count_decided()
    envelope = make(bank)
    answer = submit(bank, envelope)
    assert not answer.outcome.accepted
    assert decision_pb2.Reason.Name(answer.outcome.reason) == f"REASON_{reason.strip()}"
    assert mirror.count_decided() == size + 1
    entry = mirror.entry(answer.outcome.ledger_index)
    assert (entry["decision"], entry["reason"]) == ("denied", reason.strip())
    assert codec.encode(entry["command"]) == envelope, "the ledger holds it as it was signed"


def test_a_replayed_command_does_nothing_more(cluster: Cluster, mirror: LedgerMirror):
    """The very bytes again, and again after what they did was undone."""
    bank = cluster.operator(BANK)
    envelope = command(bank)
    first = submit(bank, envelope).outcome
    assert first.accepted
    executor = mirror_executor(mirror, first.ledger_index)
    bank.order("executor.suspend", {"executor": executor})
    size = mirror.count_decided()
    for node in cluster.operators():
        again = submit(node, envelope).outcome
        assert again.duplicate
        assert again.ledger_index == first.ledger_index
    assert mirror.count_decided() == size
    record = bank.record(governance_pb2.KIND_EXECUTOR, executor)
    assert record["status"] == "suspended", "a replay brings nothing back"


def mirror_executor(mirror: LedgerMirror, index: int) -> str:
    mirror.catch_up()
    payload = base64.b64decode(mirror.entry(index)["command"]["payload"])
    return str(json.loads(payload)["body"]["executor"])


def test_a_captured_revocation_cannot_be_replayed_on_another_ledger(
    cluster: Cluster, mirror: LedgerMirror
):
    bank, size = cluster.operator(BANK), mirror.count_decided()
    envelope = command(
        bank,
        origin="quorate.example/federation-2",
        command_type="executor.revoke",
        body={"executor": f"spiffe://{BANK}/agent/worker"},
    )
    answer = bank.governance.Revoke(
        governance_pb2.RevokeRequest(envelope=envelope), timeout=CALL_TIMEOUT_S
    )
    assert answer.reason == decision_pb2.REASON_WRONG_ORIGIN
    assert answer.reached == governance_pb2.WAIT_LEVEL_UNSPECIFIED
    assert mirror.count_decided() == size
