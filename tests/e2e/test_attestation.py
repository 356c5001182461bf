"""A real executor proves what its organisation asks for, with the tools that people have: it is
denied before, permitted while the proof counts, and stopped when it is not what it was."""

from __future__ import annotations

import json
import queue
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.federations import BANK, CLINIC, WAIT_S

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import ACTION, Crew, Worker
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.processes import wait_until
from quorate.client import (
    Attested,
    Challenge,
    Denied,
    Gate,
    Lease,
    Permit,
    Reason,
    WatchEvent,
    WatchNotice,
    prove_key,
)
from quorate.core.limits import DEFAULT_MAX_PERMIT_TTL_MS
from quorate.core.verifying import Asked
from quorate.proofs.signing import SigningKey
from quorate.testing.builders import measurement_evidence
from quorate.v1 import decision_pb2

pytestmark = pytest.mark.cluster

IMAGE, OTHER = "a" * 64, "b" * 64
SHORT_MS = 3_000


class Proving:
    """An executor of the clinic, which may act on the bank's records; and who measures it."""

    def __init__(self, cluster: Cluster, crew: Crew) -> None:
        self.cluster, self.name = cluster, f"proving-{secrets.token_hex(4)}"
        client = cluster.issue_executor(CLINIC, f"agent/{self.name}")
        self.worker = Worker(CLINIC, client)
        self.clinic, self.agent = cluster.operator(CLINIC), SigningKey.generate()
        self.clinic.order("executor.register", {"executor": self.worker.id})
        crew.grant(BANK, self.name, self.worker, f"{self.name}/*")
        self.gate = Gate.open(client, max_permit_ttl_ms=DEFAULT_MAX_PERMIT_TTL_MS)

    def acquire(self) -> Lease | Denied:
        return self.gate.acquire(ACTION, f"//{BANK}/{self.name}/1")

    def want(self, **terms: Any) -> None:
        body = {"reference": self.name, "executors": [self.worker.id], "max_age_ms": 600_000}
        self.clinic.order("attestation.set_reference", body | terms)

    def prove(self, image: str = IMAGE) -> Attested | Denied:
        challenge = self.gate.challenge()
        assert isinstance(challenge, Challenge), challenge
        assert challenge.executor == self.worker.id
        asked = Asked(challenge.origin, challenge.executor, challenge.text)
        evidence = measurement_evidence(asked, image, self.agent)
        return self.gate.attest(self.name, challenge, evidence)

    def cli(self, *arguments: str) -> Any:
        told = self.cluster.cli_at(CLINIC, *arguments, "--output", "json")
        return json.loads(told)

    def close(self) -> None:
        self.gate.close()
        self.worker.close()


@pytest.fixture
def proving(cluster: Cluster, crew: Crew) -> Iterator[Proving]:
    made = Proving(cluster, crew)
    yield made
    made.close()


def test_a_measurement_is_what_permits_and_what_interrupts(
    proving: Proving, mirror: LedgerMirror
) -> None:
    proving.want(evidence="measurement", signers=[proving.agent.public.hex()], images=[IMAGE])
    denied = proving.acquire()
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.thing) == (
        Reason.ATTESTATION_MISSING,
        f"{CLINIC}/{proving.name}",
    )
    assert isinstance(proving.prove(), Attested)
    lease = proving.acquire()
    assert isinstance(lease, Lease), lease
    assert isinstance(lease.check(), Permit)
    told: queue.Queue[WatchNotice] = queue.Queue()
    watch = proving.gate.on_change([lease], told.put)
    assert told.get(timeout=WAIT_S).event is WatchEvent.ACTIVE
    mismatch = proving.prove(OTHER)
    assert isinstance(mismatch, Denied)
    assert mismatch.reason is Reason.ATTESTATION_MISMATCH
    notice = told.get(timeout=WAIT_S)
    assert (notice.event, notice.reason) == (WatchEvent.INTERRUPTED, Reason.EXECUTOR_SUSPENDED)
    shown = proving.cli("executor", "show", proving.worker.id)
    assert shown["executor"]["suspended_for"] == f"{CLINIC}/{proving.name}"
    refused = proving.clinic.submit("executor.reinstate", {"executor": proving.worker.id})
    assert not refused.accepted
    assert isinstance(proving.prove(), Attested)
    assert isinstance(proving.acquire(), Denied), "a proof reinstates nobody"
    proving.clinic.order("executor.reinstate", {"executor": proving.worker.id})
    assert told.get(timeout=WAIT_S).event is WatchEvent.RESTORED
    assert isinstance(lease.check(), Permit)
    watch.close()
    mirror.catch_up()


def test_the_others_reinstate_whom_its_proofs_have_suspended(
    proving: Proving, mirror: LedgerMirror
) -> None:
    """By ballot, once it has proved anew what it has to; what its domain says of it is its own."""
    proving.want(evidence="measurement", signers=[proving.agent.public.hex()], images=[IMAGE])
    assert isinstance(proving.prove(), Attested)
    lease = proving.acquire()
    assert isinstance(lease, Lease), lease
    told: queue.Queue[WatchNotice] = queue.Queue()
    watch = proving.gate.on_change([lease], told.put)
    assert told.get(timeout=WAIT_S).event is WatchEvent.ACTIVE
    assert isinstance(proving.prove(OTHER), Denied)
    assert told.get(timeout=WAIT_S).event is WatchEvent.INTERRUPTED
    wished = {
        "act": "federation.reinstate_executor",
        "body": {"executor": proving.worker.id},
        "expires_at": int(time.time() * 1_000) + 3_600_000,
    }
    bank = proving.cluster.operator(BANK)
    assert not bank.submit("proposal.open", wished).accepted, "it has proved nothing since"
    assert isinstance(proving.prove(), Attested)
    open_it = ("proposal", "open", "reinstate-executor", proving.worker.id, "--output", "json")
    ident = json.loads(proving.cluster.cli_at(BANK, *open_it))["result"]["id"]
    shown = proving.cli("proposal", "show", ident)["changes"]
    what = f"suspended: what it proved did not equal {CLINIC}/{proving.name}"
    assert shown == [
        [proving.worker.id, what, "active"],
        [f"proof for {proving.name}", "fresh", "fresh"],
    ]
    proving.cli("proposal", "vote", ident, "yes")
    assert told.get(timeout=WAIT_S).event is WatchEvent.RESTORED
    assert isinstance(lease.check(), Permit)
    watch.close()
    mirror.catch_up()


def test_a_key_is_proved_and_lapses_by_itself(proving: Proving) -> None:
    lease = proving.acquire()
    assert isinstance(lease, Lease), lease
    told: queue.Queue[WatchNotice] = queue.Queue()
    watch = proving.gate.on_change([lease], told.put)
    assert told.get(timeout=WAIT_S).event is WatchEvent.ACTIVE
    proving.want(evidence="svid", max_age_ms=SHORT_MS)
    notice = told.get(timeout=WAIT_S)
    assert (notice.event, notice.reason) == (WatchEvent.INTERRUPTED, Reason.ATTESTATION_MISSING)
    challenge = proving.gate.challenge()
    assert isinstance(challenge, Challenge)
    stranger = prove_key(SigningKey.generate().to_pem(), challenge)
    foreign = proving.gate.attest(proving.name, challenge, stranger)
    assert isinstance(foreign, Denied)
    assert foreign.reason is Reason.BAD_EVIDENCE
    evidence = prove_key(proving.worker.config.private_key, challenge)
    proved = proving.gate.attest(proving.name, challenge, evidence)
    assert isinstance(proved, Attested), proved
    assert told.get(timeout=WAIT_S).event is WatchEvent.RESTORED
    notice = told.get(timeout=WAIT_S)
    assert (notice.event, notice.reason) == (WatchEvent.INTERRUPTED, Reason.ATTESTATION_STALE)
    stale = lease.check()
    assert isinstance(stale, Denied)
    assert stale.reason is Reason.ATTESTATION_STALE
    [proof] = proving.cli("executor", "show", proving.worker.id)["proofs"]
    assert proof["state"] == "stale"
    watch.close()


def test_who_says_that_it_drifted_is_suspended(proving: Proving) -> None:
    lease = proving.acquire()
    assert isinstance(lease, Lease), lease
    assert isinstance(proving.gate.report_drift(), int)
    wait_until(
        "a denial",
        lambda: proving.worker.check(lease.id).reason == decision_pb2.REASON_EXECUTOR_SUSPENDED,
        WAIT_S,
    )
    proving.clinic.order("executor.reinstate", {"executor": proving.worker.id})
    wait_until("a permit", lambda: isinstance(lease.check(), Permit), WAIT_S)
