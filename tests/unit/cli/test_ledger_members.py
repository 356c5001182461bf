"""Verifying a ledger whose members have changed: whose keys count, and from which entry on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from quorate.cli.ledger_check import Keys
from quorate.core import dsse
from quorate.core.commands import parse_command
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ENVELOPE_BYTES
from quorate.proofs.signing import SigningKey
from quorate.testing.builders import Federation, node_body

SECOND, THIRD = (f"spiffe://bank.example/node/{name}" for name in "23")


@pytest.fixture
def third(
    run: Any, serving: Any, federation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The node 3 of the bank, which the ledger that it serves has added; node 2 came and went. The
    command line is told to speak to it."""
    first, org = serving.start(), federation.org()
    for name in "23":
        run(
            *("node", "init", tmp_path / name, "--org", org, "--node", name),
            *("--peer-address", f"127.0.0.1:{9000 + int(name)}"),
        )
    for arguments in (("add", tmp_path / "2"), ("retire", "2"), ("add", tmp_path / "3")):
        assert run("node", *arguments, "--org", org).exit_code == 0
    shutil.copytree(tmp_path / "3" / "node", org / "node", dirs_exist_ok=True)
    node = serving.start()
    node.entries = list(first.entries)
    monkeypatch.setenv("QUORATE_NODE__ID", THIRD)
    return node


@pytest.fixture
def verify(run: Any, third: Any, federation: Any) -> Any:
    asked = ("--org", federation.org(), "--address", third.address, "-o", "json")
    return lambda: run("ledger", "verify", *asked)


def test_the_checkpoint_of_an_added_node_is_verified(verify: Any, third: Any) -> None:
    ran = verify()
    assert ran.exit_code == 0, ran.stderr
    assert (ran.json["size"], ran.json["command_signatures"]) == (4, 3 + 3)


def test_an_added_nodes_checkpoint_needs_its_own_key(
    verify: Any, third: Any, federation: Any
) -> None:
    third.log_key = SigningKey.generate()
    ran = verify()
    assert ran.exit_code == 6
    assert "key has not signed" in ran.error["message"]


def test_a_node_that_the_ledger_does_not_name_is_told(verify: Any, third: Any) -> None:
    third.entries.pop()
    ran = verify()
    assert ran.exit_code == 6
    assert "3.node.bank.example is no node of" in ran.error["message"]


class Reading:
    """Keys as they grow with what a ledger says."""

    def __init__(self) -> None:
        self.federation = Federation.build()
        self.keys = Keys(self.federation.parsed_genesis())

    def read(self, issuer: str, kind: str, body: dict[str, object]) -> None:
        data = self.federation.command(issuer, kind, body)
        envelope = dsse.parse(data, MAX_ENVELOPE_BYTES)
        command = parse_command(envelope.payload)
        self.keys.check(command, envelope)
        self.keys.learn(command)

    def lease(self, node: str) -> None:
        lease = "0" * 32
        executor = "spiffe://bank.example/agent/a"
        self.read(node, "lease.release", {"lease": lease, "executor": executor})


def test_a_node_signs_from_its_adding_to_its_retiring() -> None:
    reading = Reading()
    reading.lease("spiffe://bank.example/node/1")
    with pytest.raises(MalformedError, match="not signed by"):
        reading.lease(SECOND)
    reading.read("bank.example", "node.add", node_body(SECOND))
    reading.lease(SECOND)
    reading.read("bank.example", "node.retire", {"node": SECOND})
    with pytest.raises(MalformedError, match="not signed by"):
        reading.lease(SECOND)
    with pytest.raises(MalformedError, match="was added before"):
        reading.read("bank.example", "node.add", node_body(SECOND))


@pytest.mark.parametrize(
    ("kind", "body"),
    [("node.add", node_body(SECOND)), ("node.retire", {"node": "spiffe://bank.example/node/1"})],
)
def test_nobodys_word_counts_for_anothers_nodes(kind: str, body: dict[str, object]) -> None:
    with pytest.raises(MalformedError, match=r"is no node of clinic\.example"):
        Reading().read("clinic.example", kind, body)
