"""Verifying a ledger whose members have changed: whose keys count, and from which entry on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quorate.cli.ledger_members import Members
from quorate.core import dsse, protocol
from quorate.core.commands import parse_command
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_COMMAND_LIFETIME_MS, MAX_ENVELOPE_BYTES
from quorate.core.state import StateView
from quorate.proofs.signing import SigningKey
from quorate.testing.builders import (
    CREATED_MS,
    Federation,
    Organisation,
    ballot_body,
    node_body,
    proposal_body,
    trust_body,
)

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
    """Members as they change with what a ledger says."""

    def __init__(self, *domains: str, version: int = protocol.LATEST) -> None:
        members = domains or ("bank.example", "clinic.example")
        self.federation = Federation.build(members, version=version)
        self.members = Members(self.federation.parsed_genesis())
        self.size = 1
        self.now = CREATED_MS

    def read(
        self, issuer: str, kind: str, body: dict[str, object], executed: object = None
    ) -> None:
        self.show(self.federation.command(issuer, kind, body), executed)

    def show(self, data: bytes, executed: object = None) -> None:
        envelope = dsse.parse(data, MAX_ENVELOPE_BYTES)
        command = parse_command(envelope.payload, self.members.protocol)
        entry: dict[str, object] = {"seq": self.size, "time": self.now}
        if executed is not None:
            entry["executed"] = executed
        self.members.reach(entry)
        self.members.check(command, envelope)
        self.members.learn(command, envelope, entry)
        self.size += 1

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
    with pytest.raises(MalformedError, match="FINAL"):
        reading.read("bank.example", "node.add", node_body(SECOND))


@pytest.mark.parametrize(
    ("kind", "body"),
    [("node.add", node_body(SECOND)), ("node.retire", {"node": "spiffe://bank.example/node/1"})],
)
def test_nobodys_word_counts_for_anothers_nodes(kind: str, body: dict[str, object]) -> None:
    with pytest.raises(MalformedError, match="NOT_AUTHORIZED"):
        Reading().read("clinic.example", kind, body)


def test_who_is_admitted_follows_from_the_ballots() -> None:
    """And from nothing that the node says of it."""
    joiner = Organisation.named("new.example", "127.0.0.1:7999")
    reading = Reading("a.example", "b.example", "c.example")
    body = proposal_body("domain.admit", {"descriptor": json.loads(joiner.descriptor())})
    admitted = {"type": "domain.admit", "thing": joiner.domain}
    with pytest.raises(MalformedError, match="something else than it does"):
        reading.read("a.example", "proposal.open", body, admitted)
    reading.read("a.example", "proposal.open", body)
    [proposal] = StateView(reading.members._store).proposals()
    assert reading.members.log_key("1.node.new.example") is None
    with pytest.raises(MalformedError, match="something else than it does"):
        reading.read("b.example", "ballot.cast", ballot_body(proposal.id))
    reading.read("b.example", "ballot.cast", ballot_body(proposal.id), admitted)
    assert reading.members.log_key("1.node.new.example") == joiner.log.public
    reading.federation.organisations[joiner.domain] = joiner
    reading.read(joiner.domain, "executor.register", {"executor": joiner.executor("e")})
    with pytest.raises(MalformedError, match="PROPOSAL_CLOSED"):
        reading.read("c.example", "ballot.cast", ballot_body(proposal.id), admitted)


def test_who_was_expelled_signs_nothing_more() -> None:
    reading = Reading("a.example", "b.example", "c.example")
    reading.read(
        "a.example", "proposal.open", proposal_body("domain.expel", {"domain": "c.example"})
    )
    [proposal] = StateView(reading.members._store).proposals()
    expelled = {"type": "domain.expel", "thing": "c.example"}
    reading.read("b.example", "ballot.cast", ballot_body(proposal.id), expelled)
    for issuer in ("c.example", "spiffe://c.example/node/1"):
        with pytest.raises(MalformedError, match="not signed by"):
            reading.read(issuer, "proposal.withdraw", {"proposal": proposal.id})
    assert reading.members.log_key("1.node.c.example") is not None, "it has signed before"


def admission() -> tuple[Reading, dict[str, object]]:
    """A proposal to admit a domain, and the ballot that agrees to it."""
    joiner = Organisation.named("new.example", "127.0.0.1:7999")
    reading = Reading("a.example", "b.example", "c.example", "d.example")
    body = proposal_body("domain.admit", {"descriptor": json.loads(joiner.descriptor())})
    reading.read("a.example", "proposal.open", body)
    [proposal] = StateView(reading.members._store).proposals()
    return reading, ballot_body(proposal.id)


def test_a_ballot_that_was_taken_back_does_not_count_again() -> None:
    """A node could show it anew, behind the one that took it back, and so admit whom it likes."""
    reading, yes = admission()
    agreed = reading.federation.command("b.example", "ballot.cast", yes)
    reading.show(agreed)
    no = yes | {"choice": "no"}
    reading.show(reading.federation.command("b.example", "ballot.cast", no))
    with pytest.raises(MalformedError, match="was executed before"):
        reading.show(agreed)


def test_a_command_counts_at_the_times_that_it_was_signed_for() -> None:
    reading, yes = admission()
    reading.now += 3_600_001
    with pytest.raises(MalformedError, match="EXPIRED_COMMAND"):
        reading.show(reading.federation.command("b.example", "ballot.cast", yes))
    reading.now = CREATED_MS
    with pytest.raises(MalformedError, match="before the entry before it"):
        reading.show(reading.federation.command("b.example", "ballot.cast", yes))
    reading, yes = admission()
    far = CREATED_MS + MAX_COMMAND_LIFETIME_MS + 1
    with pytest.raises(MalformedError, match="LIFETIME_TOO_LONG"):
        reading.show(reading.federation.command("b.example", "ballot.cast", yes, not_after=far))


def test_what_was_forgotten_may_be_executed_again() -> None:
    """Its nonce is kept until its time is over, and no longer: an honest ledger may have both."""
    reading, yes = admission()
    command = reading.federation.command
    reading.show(command("b.example", "ballot.cast", yes, "a" * 32, CREATED_MS + 10))
    reading.now += 10
    again = command("b.example", "ballot.cast", yes, "a" * 32, CREATED_MS + 20)
    with pytest.raises(MalformedError, match="was executed before"):
        reading.show(again)
    reading.now += 1
    reading.show(again)


def test_commands_are_read_by_the_rules_that_the_ledger_had_come_to() -> None:
    reading = Reading("a.example", "b.example", version=protocol.FIRST)
    trust = trust_body("e", "b.example", ["//b.example/*"], max_depth=1)
    with pytest.raises(MalformedError, match="max_depth"):
        reading.read("a.example", "trust.open", trust)
    asked = proposal_body("federation.upgrade", {"protocol": protocol.SECOND})
    with pytest.raises(MalformedError, match="UNSUPPORTED_PROTOCOL"):
        reading.read("a.example", "proposal.open", asked)
    for domain in ("a.example", "b.example"):
        node = reading.federation[domain].node
        reading.read(node, "node.declare", {"protocol": protocol.SECOND})
    opened = reading.federation.command("a.example", "proposal.open", asked)
    reading.show(opened)
    (proposal,) = StateView(reading.members._store).proposals()
    done = {"type": "federation.upgrade", "thing": reading.federation.origin}
    reading.read("b.example", "ballot.cast", ballot_body(proposal.id), done)
    assert reading.members.protocol == protocol.SECOND
    reading.read("a.example", "trust.open", trust)


def test_what_is_frozen_by_ballot_is_decided_again() -> None:
    """Also what was let through, which no other command says."""
    reading = Reading("a.example", "b.example", "c.example")
    origin, view = reading.federation.origin, reading.members.state
    listed = ["alarms.*"]

    def done(act: str, actions: list[str]) -> dict[str, object]:
        return {"type": f"federation.{act}", "thing": origin, "actions": actions}

    def agree(act: str, body: dict[str, object], executed: dict[str, object]) -> None:
        known = {proposal.id for proposal in view.proposals()}
        reading.read("a.example", "proposal.open", proposal_body(f"federation.{act}", body))
        [ident] = {proposal.id for proposal in view.proposals()} - known
        reading.read("b.example", "ballot.cast", ballot_body(ident), executed)

    with pytest.raises(MalformedError, match="something else than it does"):
        agree("freeze", {"actions": listed}, done("freeze", ["*"]))
    with pytest.raises(MalformedError, match="ILLEGAL_TRANSITION"):
        agree("thaw", {}, done("thaw", listed))
    agree("freeze", {"actions": listed}, done("freeze", listed))
    with pytest.raises(MalformedError, match="ILLEGAL_TRANSITION"):
        agree("freeze", {"actions": []}, done("freeze", []))
    with pytest.raises(MalformedError, match="something else than it does"):
        agree("thaw", {}, done("thaw", []))
    agree("thaw", {}, done("thaw", listed))
    assert view.federation().frozen is None


def test_what_a_domain_freezes_of_its_own_changes_no_ballot() -> None:
    """It is not decided again, and what is must not depend on it."""
    reading = Reading("a.example", "b.example", "c.example")
    view = reading.members.state
    for act in ("domain.suspend", "domain.reinstate"):
        known = {proposal.id for proposal in view.proposals()}
        reading.read("a.example", "proposal.open", proposal_body(act, {"domain": "c.example"}))
        [ident] = {proposal.id for proposal in view.proposals()} - known
        frozen = {"type": "resources.freeze", "thing": "c.example", "actions": []}
        reading.read("c.example", "resources.freeze", {"actions": []}, frozen)
        executed = {"type": act, "thing": "c.example"}
        reading.read("b.example", "ballot.cast", ballot_body(ident), executed)


def test_ballots_on_an_executor_are_counted_and_its_proofs_are_the_ledgers_word() -> None:
    """Nothing is known of executors here, before a recovery least of all."""
    reading = Reading("a.example", "b.example", "c.example")
    view, agent = reading.members.state, "spiffe://c.example/agent/a"
    act = "federation.reinstate_executor"
    done = {"type": act, "thing": agent}

    def opened() -> str:
        known = {proposal.id for proposal in view.proposals()}
        body = proposal_body(act, {"executor": agent})
        reading.read("a.example", "proposal.open", body)
        [ident] = {proposal.id for proposal in view.proposals()} - known
        return ident

    ident = opened()
    with pytest.raises(MalformedError, match="something else than it does"):
        no = ballot_body(ident, "no")
        reading.read("b.example", "ballot.cast", no, done)
    for other in (agent + "b", "c.example"):
        with pytest.raises(MalformedError, match="something else than it does"):
            told = {"type": act, "thing": other}
            reading.read("b.example", "ballot.cast", ballot_body(ident), told)
    reading.read("b.example", "ballot.cast", ballot_body(ident), done)
    assert view.proposal(ident).status == "executed"  # type: ignore[union-attr]
    assert list(view.executors()) == []
    ident = opened()
    reading.read("b.example", "ballot.cast", ballot_body(ident))
    assert view.proposal(ident).status == "failed"  # type: ignore[union-attr]
    with pytest.raises(MalformedError, match="PROPOSAL_CLOSED"):
        reading.read("c.example", "ballot.cast", ballot_body(ident), done)
    ident = opened()
    reading.read("c.example", "domain.suspend", {"domain": "c.example"})
    with pytest.raises(MalformedError, match="something else than it does"):
        reading.read("b.example", "ballot.cast", ballot_body(ident), done)
    assert list(view.executors()) == []
