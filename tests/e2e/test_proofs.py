"""A decision of one organisation's node convinces somebody who has no node, by another's policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.members import run_cli
from quorate.chaos.mirror import LedgerMirror

pytestmark = pytest.mark.cluster

BANK, CLINIC = "bank.example", "clinic.example"


def test_a_revocation_is_proven_offline(
    cluster: Cluster, mirror: LedgerMirror, tmp_path: Path
) -> None:
    executor = f"spiffe://{BANK}/agent/proven"
    for verb in ("register", "revoke"):
        told = json.loads(cluster.cli_at(BANK, "executor", verb, executor, "--output", "json"))
    index = told["ledger_index"]
    proof, policy = str(tmp_path / "revoked.tlog-proof"), str(tmp_path / "policy.txt")
    cluster.cli_at(BANK, "proof", "export", str(index), "--file", proof)
    cluster.cli_at(CLINIC, "proof", "policy", "--file", policy)
    words = ("verify", proof, "--policy", policy, "--output", "json")
    verdict = json.loads(run_cli(tmp_path, *words))
    assert verdict["verified"] is True
    assert (verdict["index"], verdict["type"]) == (index, "executor.revoke")
    assert verdict["decision"] == "accepted"
    mirror.catch_up()
    assert verdict["entry"].encode() == mirror.entries[index]
    assert verdict["origin"] == cluster.genesis().origin
