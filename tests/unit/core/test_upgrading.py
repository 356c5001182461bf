"""The way from one version of the protocol to the next: who is waited for, and what changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from quorate.core import codec, commands, dsse, keys, protocol, state
from quorate.core.commands import parse_command
from quorate.core.effects import effect_of
from quorate.core.errors import MalformedError, UnsupportedProtocolError
from quorate.core.genesis import build_genesis_payload, parse_draft
from quorate.core.invariants import check
from quorate.core.outcome import Reason
from quorate.core.records import Federation as FederationRecord
from quorate.core.records import Node
from quorate.core.store import MemoryStore
from quorate.core.succession import Succession
from quorate.core.transitions import Applied, examine
from quorate.core.verbs import Verb
from quorate.core.vetting import Vetting
from quorate.testing.builders import (
    CREATED_MS,
    PARAMETERS,
    Federation,
    Ledger,
    ballot_body,
    node_body,
    proposal_body,
)

A, B, C = (f"{name}.example" for name in ("alpha", "beta", "gamma"))


@pytest.fixture
def ledger() -> Ledger:
    """Of three domains, that begin with the first version."""
    return Ledger(Federation.build((A, B, C), version=protocol.FIRST))


def node_of(ledger: Ledger, domain: str) -> str:
    return ledger.federation[domain].node


def declare(ledger: Ledger, *domains: str, version: int = protocol.SECOND) -> None:
    for domain in domains:
        done = ledger.run(node_of(ledger, domain), "node.declare", {"protocol": version})
        assert done.outcome.accepted, done.outcome


def propose(ledger: Ledger, by: str, version: int = protocol.SECOND) -> Applied:
    body = proposal_body("federation.upgrade", {"protocol": version}, ledger.now + 60_000)
    return ledger.run(by, "proposal.open", body)


def vote(ledger: Ledger, by: str, proposal: Mapping[str, Any]) -> Applied:
    return ledger.run(by, "ballot.cast", ballot_body(proposal["id"]))


def upgrade(ledger: Ledger) -> Applied:
    declare(ledger, A, B, C)
    opened = propose(ledger, A)
    assert opened.outcome.accepted, opened.outcome
    return vote(ledger, B, opened.outcome.result)


def copy_of(ledger: Ledger) -> MemoryStore:
    copy = MemoryStore()
    for key, value in ledger.store.items():
        copy.put(key, value)
    return copy


def is_well(ledger: Ledger) -> bool:
    return check(ledger.view) == [] and Vetting(ledger.store).step(1_000_000)


def test_the_rules_change_with_the_ballot_that_makes_enough(ledger: Ledger) -> None:
    assert ledger.view.federation().protocol == protocol.FIRST
    done = upgrade(ledger)
    executed = {"type": "federation.upgrade", "thing": ledger.federation.origin}
    assert done.outcome.result["executed"] == executed
    assert ledger.view.federation().protocol == protocol.SECOND
    assert is_well(ledger)
    assert done.entry is not None
    assert effect_of(done.outcome.index, done.entry) is None, "no lease is touched"


def test_a_new_federation_begins_with_the_latest_version() -> None:
    ledger = Ledger(Federation.build((A, B)))
    assert ledger.view.federation().protocol == protocol.LATEST
    nodes = ledger.view.nodes()
    assert {node.protocol for node in nodes} == {protocol.LATEST}, "nothing to declare"
    assert propose(ledger, A, protocol.LATEST).outcome.reason is Reason.ILLEGAL_TRANSITION


def test_the_first_version_leaves_no_trace_in_what_it_writes(ledger: Ledger) -> None:
    assert b"protocol" not in ledger.federation.parsed_genesis().envelope.payload
    assert "protocol" not in ledger.view.federation().to_json()
    assert all("protocol" not in node.to_json() for node in ledger.view.nodes())
    upgrade(ledger)
    federation = ledger.view.federation().to_json()
    assert federation["protocol"] == protocol.SECOND
    assert FederationRecord.from_json(federation).protocol == protocol.SECOND
    for node in ledger.view.nodes():
        assert Node.from_json(node.to_json()) == node


@pytest.mark.parametrize("missing", [A, B, C])
def test_every_node_is_waited_for(ledger: Ledger, missing: str) -> None:
    declare(ledger, *({A, B, C} - {missing}))
    refused = propose(ledger, A)
    want = (Reason.UNSUPPORTED_PROTOCOL, node_of(ledger, missing))
    assert (refused.outcome.reason, refused.outcome.thing) == want


def test_an_observer_is_waited_for_until_it_is_retired(ledger: Ledger) -> None:
    observer = f"spiffe://{A}/node/n2"
    assert ledger.run(A, "node.add", node_body(observer)).outcome.accepted
    declare(ledger, A, B, C)
    assert propose(ledger, A).outcome.thing == observer
    assert ledger.run(A, "node.retire", {"node": observer}).outcome.accepted
    assert propose(ledger, A).outcome.accepted


def test_it_is_asked_again_when_it_is_decided(ledger: Ledger) -> None:
    declare(ledger, A, B, C)
    opened = propose(ledger, A).outcome.result
    declare(ledger, C, version=protocol.FIRST)  # its older program was started again
    told = vote(ledger, B, opened).outcome.result
    assert (told["status"], told["reason"]) == ("failed", Reason.UNSUPPORTED_PROTOCOL)
    assert told["thing"] == node_of(ledger, C)
    assert ledger.view.federation().protocol == protocol.FIRST


def test_versions_come_one_at_a_time_and_never_go_back(ledger: Ledger) -> None:
    declare(ledger, A, B, C, version=9)
    assert propose(ledger, A, 3).outcome.reason is Reason.ILLEGAL_TRANSITION
    assert vote(ledger, B, propose(ledger, A).outcome.result).outcome.result["executed"]
    for version in (1, 2):
        said = propose(ledger, A, version).outcome
        assert said.reason in {Reason.ILLEGAL_TRANSITION, Reason.MALFORMED_COMMAND}


def test_two_proposals_for_one_version_go_one_step(ledger: Ledger) -> None:
    declare(ledger, A, B, C)
    one, two = propose(ledger, A).outcome.result, propose(ledger, B).outcome.result
    assert vote(ledger, C, one).outcome.result["executed"]
    late = vote(ledger, C, two).outcome.result
    assert (late["status"], late["reason"]) == ("failed", Reason.ILLEGAL_TRANSITION)
    assert ledger.view.federation().protocol == protocol.SECOND


def test_no_domain_upgrades_alone(ledger: Ledger) -> None:
    said = ledger.run(A, "federation.upgrade", {"protocol": 2}).outcome
    assert said.reason is Reason.NEEDS_BALLOT


def test_a_program_that_does_not_know_the_rules_executes_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(ledger)
    before = ledger.store.items()
    monkeypatch.setattr(protocol, "LATEST", protocol.FIRST)
    with pytest.raises(UnsupportedProtocolError, match="version 2"):
        ledger.run(A, "domain.suspend", {"domain": A})
    assert ledger.store.items() == before
    with pytest.raises(MalformedError, match="not known here"):
        Vetting(ledger.store).step(1_000_000)


def test_an_older_program_decides_an_upgrade_as_the_others_do(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was replaced by an older one after it had declared: it takes the step, and stops."""
    declare(ledger, A, B, C)
    opened = propose(ledger, A).outcome.result
    monkeypatch.setattr(protocol, "LATEST", protocol.FIRST)
    assert vote(ledger, B, opened).outcome.result["executed"]
    assert ledger.view.federation().protocol == protocol.SECOND


def test_a_node_says_what_it_knows_once_and_never_less_than_the_federation(ledger: Ledger) -> None:
    own = node_of(ledger, A)
    same = ledger.run(own, "node.declare", {"protocol": protocol.FIRST}).outcome
    assert same.reason is Reason.ILLEGAL_TRANSITION
    upgrade(ledger)
    less = ledger.run(own, "node.declare", {"protocol": protocol.FIRST}).outcome
    assert (less.reason, less.thing) == (Reason.UNSUPPORTED_PROTOCOL, own)
    by_domain = ledger.run(A, "node.declare", {"protocol": 3}).outcome
    assert by_domain.reason is Reason.NOT_AUTHORIZED


@pytest.mark.parametrize("version", [0, -1, 1_001, True, "2", None])
def test_odd_versions_are_malformed(ledger: Ledger, version: object) -> None:
    said = ledger.run(node_of(ledger, A), "node.declare", {"protocol": version}).outcome
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "body.protocol")


def test_a_node_that_joins_an_upgraded_federation_knows_its_rules(ledger: Ledger) -> None:
    upgrade(ledger)
    observer = f"spiffe://{A}/node/n2"
    assert ledger.run(A, "node.add", node_body(observer)).outcome.accepted
    node = ledger.view.node(observer)
    assert node is not None
    assert node.protocol == protocol.SECOND


def test_no_state_goes_back_to_earlier_rules(ledger: Ledger) -> None:
    before = copy_of(ledger)
    upgrade(ledger)
    assert Succession(before, ledger.store).step(1_000)
    with pytest.raises(MalformedError, match="earlier version"):
        Succession(ledger.store, before).step(1_000)


def test_a_genesis_of_later_rules_is_refused_by_who_does_not_know_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation = Federation.build((A, B))
    assert federation.parsed_genesis().protocol == protocol.LATEST
    documents = [federation[domain].descriptor() for domain in (A, B)]
    monkeypatch.setattr(protocol, "LATEST", protocol.FIRST)
    with pytest.raises(MalformedError, match="knows them up to 1"):
        federation.parsed_genesis()
    first = build_genesis_payload("quorate.example/f", CREATED_MS, PARAMETERS, documents, 1)
    drafted, _ = parse_draft(dsse.Envelope(first, dsse.GENESIS_TYPE, ()).to_bytes())
    assert drafted.protocol == protocol.FIRST


def test_what_the_second_version_brought_is_malformed_in_the_first(ledger: Ledger) -> None:
    """As to a program that does not know it: the entry is the same on every node."""
    brought = commands._BODIES[protocol.SECOND].keys() - commands._BODIES[protocol.FIRST].keys()
    for verb in brought:
        said = ledger.run(A, verb.value, {}).outcome
        assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "type")
    assert brought <= set(Verb)


def test_whoever_knows_better_says_what_is_missing(ledger: Ledger) -> None:
    """Before it is proposed, so that a person learns more than that it is malformed."""
    body = {
        "edge": "passed",
        "trustee": B,
        "actions": ["*"],
        "resources": [f"//{A}/*"],
        "max_depth": 1,
    }
    command = ledger.federation.command(A, "trust.open", body)
    refused = examine(ledger.view, command, ledger.now)
    assert refused is not None
    assert (refused.reason, refused.thing) == (Reason.UNSUPPORTED_PROTOCOL, "protocol 1")
    applied = ledger.run(A, "trust.open", body).outcome
    assert (applied.reason, applied.thing) == (Reason.MALFORMED_COMMAND, "body.max_depth")
    upgrade(ledger)
    assert examine(ledger.view, command, ledger.now) is None


def test_a_payload_is_read_by_the_rules_that_are_asked_for() -> None:
    federation = Federation.build((A, B))
    body = {"edge": "e", "trustee": B, "actions": ["*"], "resources": [f"//{A}/*"], "max_depth": 2}
    envelope = dsse.parse(federation.command(A, "trust.open", body), 16_384)
    assert parse_command(envelope.payload).verb is Verb.TRUST_OPEN
    with pytest.raises(MalformedError, match="max_depth"):
        parse_command(envelope.payload, protocol.FIRST)
    assert codec.decode(envelope.payload, 16_384)


def test_an_upgrade_does_not_depend_on_repeats() -> None:
    """They make no entry, and yet move ledger time."""

    def run(*, repeating: bool) -> list[tuple[bytes, bytes]]:
        ledger = Ledger(Federation.build((A, B, C), version=protocol.FIRST))
        declare(ledger, A, B, C)
        opened = propose(ledger, A).outcome.result
        again = ledger.federation.command(A, "domain.suspend", {"domain": A}, "e" * 16)
        ledger.apply(again)
        ledger.now += 500
        if repeating:
            assert ledger.apply(again).outcome.duplicate
        ledger.now += 500
        vote(ledger, B, opened)
        assert vote(ledger, C, opened).outcome is not None
        return [item for item in ledger.store.items() if item[0] == keys.FEDERATION]

    assert run(repeating=True) == run(repeating=False)


@pytest.mark.parametrize("version", [0, 3])
def test_no_state_lives_by_a_version_that_there_is_not(ledger: Ledger, version: int) -> None:
    odd = replace(ledger.view.federation(), protocol=version)
    state.save_federation(ledger.store, odd)
    with pytest.raises(MalformedError, match="not known here"):
        Vetting(ledger.store).step(1_000_000)
    with pytest.raises(UnsupportedProtocolError):
        ledger.run(A, "domain.suspend", {"domain": A})
