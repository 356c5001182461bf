"""The recovery document, and the state as it leaves it."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from quorate.cli.ledger_members import Members
from quorate.core import codec, dsse, keys, protocol, state
from quorate.core.acts import ACTS
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.frozen import Freeze
from quorate.core.genesis import parse_genesis
from quorate.core.invariants import check
from quorate.core.outcome import Reason
from quorate.core.records import Kind, LeaseStatus, Role
from quorate.core.recovering import begin_without, carry_over, check_carried, next_fence_base
from quorate.core.recovery import (
    FENCE_MARGIN,
    Former,
    Recovery,
    build_recovery_payload,
    parse_founding,
    parse_recovery,
    parse_recovery_draft,
    state_hash,
)
from quorate.core.recovery_room import longest_document
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import MemoryStore
from quorate.core.succession import Succession
from quorate.core.thresholds import Threshold
from quorate.core.transitions import apply
from quorate.core.vetting import Vetting
from quorate.node.recover import _descriptor
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import (
    Federation,
    Ledger,
    acquire_body,
    ballot_body,
    grant_body,
    node_body,
    proposal_body,
    svid_body,
)

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK, CLINIC, PORT = DOMAINS
NEW = "quorate.example/recovered-1"
Change = Callable[[Recovery, Ledger], Recovery]


@pytest.fixture
def ledger() -> Ledger:
    """A bank whose executor holds two leases, one of them for long; a clinic; a port."""
    ledger = Ledger(Federation.build(DOMAINS))
    agent = ledger.federation[BANK].executor("payments")
    ledger.run(BANK, "executor.register", {"executor": agent})
    ledger.run(BANK, "grant.issue", grant_body("g", agent, [f"//{BANK}/*"]))
    node = ledger.federation[BANK].node
    for name in ("a", "b"):
        body = acquire_body(agent, "read", f"//{BANK}/{name}")
        assert ledger.run(node, "lease.acquire", body).outcome.accepted
    return ledger


def former(ledger: Ledger, **changes: object) -> Former:
    federation = ledger.view.federation()
    whole = Former(
        origin=federation.origin,
        genesis_hash=federation.genesis_hash,
        ledger_size=len(ledger.entries),
        root="0" * 64,
        log_index=len(ledger.entries) + 1,
        log_term=3,
        state=state_hash(ledger.store.items()),
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


def payload(ledger: Ledger, *survivors: str, **changes: object) -> bytes:
    federation = ledger.view.federation()
    given: dict[str, object] = {
        "origin": NEW,
        "created_ms": federation.ledger_time + 5,
        "parameters": federation.parameters,
        "version": federation.protocol,
        "fence_base": next_fence_base(federation, len(ledger.entries)),
        "former": former(ledger),
        "descriptors": ledger.federation.parsed_genesis().descriptors,
        "survivors": survivors,
    }
    return build_recovery_payload(**(given | changes))  # type: ignore[arg-type]


def signed(ledger: Ledger, data: bytes, *signers: str) -> bytes:
    keys = [ledger.federation[domain].governance for domain in signers]
    return sign_envelope(dsse.RECOVERY_TYPE, data, *keys)


def recovery_of(ledger: Ledger, *survivors: str, **changes: object) -> Recovery:
    return parse_recovery(signed(ledger, payload(ledger, *survivors, **changes), *survivors))


# -- the document ----------------------------------------------------------------------------


def test_a_document_says_what_it_was_made_of(ledger: Ledger) -> None:
    recovery = recovery_of(ledger, BANK, CLINIC)
    assert recovery.origin == NEW
    assert recovery.former == former(ledger)
    assert recovery.survivors == (BANK, CLINIC)
    assert recovery.nodes == tuple(ledger.federation[d].node for d in (BANK, CLINIC))
    assert [item.domain for item in recovery.descriptors] == list(DOMAINS)
    assert parse_founding(recovery.envelope.to_bytes()) == recovery
    genesis = ledger.federation.genesis
    assert parse_founding(genesis) == parse_genesis(genesis)


@pytest.mark.parametrize("signers", [(), (BANK,), (BANK, CLINIC, PORT), (BANK, PORT)])
def test_every_survivor_has_signed_and_nobody_else(ledger: Ledger, signers: tuple[str]) -> None:
    data = signed(ledger, payload(ledger, BANK, CLINIC), *signers)
    with pytest.raises(MalformedError):
        parse_recovery(data)
    with pytest.raises(MalformedError):
        parse_founding(data)


def test_a_draft_says_who_has_signed(ledger: Ledger) -> None:
    data = payload(ledger, BANK, CLINIC)
    assert parse_recovery_draft(signed(ledger, data))[1] == ()
    assert parse_recovery_draft(signed(ledger, data, CLINIC))[1] == (CLINIC,)
    with pytest.raises(MalformedError):
        parse_recovery_draft(signed(ledger, data, PORT))


def test_every_word_is_signed_for(ledger: Ledger) -> None:
    document = json.loads(recovery_of(ledger, BANK).envelope.to_bytes())
    changed = b64decode(document["payload"]).replace(b'"log_term":3', b'"log_term":4')
    keep = dsse.parse(codec.encode(document), 100_000).signatures
    with pytest.raises(MalformedError, match="not signed by"):
        parse_recovery(dsse.Envelope(changed, dsse.RECOVERY_TYPE, keep).to_bytes())


def test_a_document_says_who_may_have_forgotten_promises(ledger: Ledger) -> None:
    recovery = recovery_of(ledger, BANK, CLINIC, on_probation=(CLINIC,))
    assert recovery.on_probation == (CLINIC,)
    assert recovery.forgetful_nodes == (ledger.federation[CLINIC].node,)
    assert recovery_of(ledger, BANK, CLINIC).forgetful_nodes == ()
    assert b"probation" not in payload(ledger, BANK, CLINIC), "one spelling of nobody"


@pytest.mark.parametrize("probation", [b"false", b"1", b'""'])
def test_probation_is_true_or_left_out(ledger: Ledger, probation: bytes) -> None:
    whole = payload(ledger, BANK, CLINIC, on_probation=(CLINIC,))
    changed = whole.replace(b'"probation":true', b'"probation":' + probation)
    assert changed != whole
    with pytest.raises(MalformedError) as refused:
        parse_recovery(signed(ledger, changed, BANK, CLINIC))
    assert refused.value.field == "domains[1].probation"


def test_only_who_survives_can_be_on_probation(ledger: Ledger) -> None:
    with pytest.raises(MalformedError) as refused:
        payload(ledger, BANK, CLINIC, on_probation=(PORT,))
    assert refused.value.field == "domains[2].probation"


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("origin", {"origin": Federation.build(DOMAINS).origin}),
        ("fence_base", {"fence_base": FENCE_MARGIN}),
        ("domains", {"survivors": ()}),
        ("domains", {"descriptors": ()}),
    ],
)
def test_what_cannot_be_is_no_document(
    ledger: Ledger, field: str, changes: dict[str, object]
) -> None:
    with pytest.raises(MalformedError) as refused:
        payload(ledger, BANK, **changes)
    assert refused.value.field == field


def test_a_state_has_one_hash() -> None:
    pairs = [(b"a", b"bc"), (b"ab", b"c")]
    assert state_hash(pairs) != state_hash([(b"ab", b"c"), (b"a", b"bc")])
    assert state_hash([(b"a", b"b")]) != state_hash([(b"ab", b"")])


# -- what is carried over --------------------------------------------------------------------


def test_one_node_for_each_survivor_votes_and_all_others_are_retired(ledger: Ledger) -> None:
    ledger.run(BANK, "node.add", node_body(f"spiffe://{BANK}/node/2"))
    carry_over(ledger.store, recovery_of(ledger, BANK, CLINIC))
    nodes = {node.id: node for node in ledger.view.nodes()}
    goes_on = {ledger.federation[each].node for each in (BANK, CLINIC)}
    assert {name for name, node in nodes.items() if not node.retired} == goes_on
    assert all(nodes[name].role is Role.VOTER for name in goes_on)
    assert {node.id for node in ledger.view.active_nodes()} == goes_on
    assert [domain.status for domain in ledger.view.domains()] == [Status.ACTIVE] * 3


def test_an_observer_goes_on_as_the_voter_of_its_domain(ledger: Ledger) -> None:
    second = node_body(f"spiffe://{BANK}/node/2")
    ledger.run(BANK, "node.add", second)
    bank, *others = ledger.federation.parsed_genesis().descriptors
    node = replace(
        bank.node,
        id=str(second["node"]),
        signing_key=bytes.fromhex(str(second["signing_key"])),
        log_key=bytes.fromhex(str(second["log_key"])),
        peer_address=str(second["peer_address"]),
    )
    descriptors = (replace(bank, node=node), *others)
    carry_over(ledger.store, recovery_of(ledger, BANK, descriptors=descriptors))
    [active] = ledger.view.active_nodes()
    assert (active.id, active.role) == (node.id, Role.VOTER)


def test_every_lease_in_force_has_ended_and_the_rest_is_as_it_was(ledger: Ledger) -> None:
    before = dict(ledger.store.items())
    carry_over(ledger.store, recovery_of(ledger, *DOMAINS))
    assert [lease.status for lease in ledger.view.leases()] == [LeaseStatus.RELEASED] * 2
    grant = ledger.view.grant(BANK, "g")
    assert grant is not None
    assert ledger.view.leases_on_file(grant) == (0, 0)
    kept = [keys.OUTCOMES, keys.RECORDS[Kind.EXECUTOR], keys.RECORDS[Kind.GRANT]]
    kept += [keys.RECORDS[Kind.DOMAIN], keys.FORGETTING, keys.LIVE_GRANTS]
    for prefix in kept:
        there = {key: value for key, value in before.items() if key.startswith(prefix)}
        assert there
        assert there == dict(ledger.store.scan(prefix))


def test_what_executors_have_to_prove_stays_but_for_who_was_expelled(ledger: Ledger) -> None:
    for domain in (BANK, CLINIC):
        body = svid_body("key", [f"spiffe://{domain}/*"])
        assert ledger.run(domain, "attestation.set_reference", body).outcome.accepted
    domain = ledger.view.domain(CLINIC)
    assert domain is not None
    state.save_domain(ledger.store, replace(domain, status=Status.REVOKED))
    expelled = recovery_of(ledger, BANK)
    carry_over(ledger.store, replace(expelled, expelled=(CLINIC,)))
    left = [each.id for each in ledger.view.all_references()]
    assert left == [f"{BANK}/key"]
    counted = {each.id: each.references for each in ledger.view.domains()}
    assert (counted[BANK], counted[CLINIC]) == (1, 0)


def test_a_lease_that_had_expired_is_counted_once(ledger: Ledger) -> None:
    """Its grant may have dropped it from its count already."""
    ledger.now += 61_000
    agent = ledger.federation[BANK].executor("payments")
    body = acquire_body(agent, "read", f"//{BANK}/c")
    assert ledger.run(ledger.federation[BANK].node, "lease.acquire", body).outcome.accepted
    carry_over(ledger.store, recovery_of(ledger, BANK))
    grant = ledger.view.grant(BANK, "g")
    assert grant is not None
    assert ledger.view.leases_on_file(grant) == (0, 0)


def test_fences_only_grow_even_beyond_entries_that_were_lost(ledger: Ledger) -> None:
    bank, agent = ledger.federation[BANK], ledger.federation[BANK].executor("payments")
    highest = max(lease.fence for lease in ledger.view.leases())
    for origin in (NEW, "quorate.example/recovered-2"):
        recovery = recovery_of(ledger, BANK, origin=origin)
        ledger.entries = [carry_over(ledger.store, recovery)]
        ledger.federation.origin = origin
        ledger.now = ledger.view.ledger_time()
        lost = 1_000_000_000  # entries that only the lost quorum had
        body = acquire_body(agent, "read", f"//{BANK}/{origin}")
        acquired = ledger.run(bank.node, "lease.acquire", body).outcome
        assert acquired.accepted, acquired
        fence = int(str(acquired.result["fence"]))
        assert fence == recovery.fence_base + acquired.index
        assert fence > highest + lost
        highest = fence


def test_commands_of_the_former_ledger_mean_nothing_in_the_new_one(ledger: Ledger) -> None:
    command = ledger.federation.command(BANK, "domain.suspend", {"domain": BANK})
    carry_over(ledger.store, recovery_of(ledger, BANK))
    applied = apply(ledger.store, codec.stamp(ledger.now, command), 1)
    assert applied.outcome.reason is Reason.WRONG_ORIGIN


def test_the_first_leaf_is_the_document(ledger: Ledger) -> None:
    recovery = recovery_of(ledger, BANK)
    leaf = json.loads(carry_over(ledger.store, recovery))
    assert leaf["command"] == json.loads(recovery.envelope.to_bytes())
    shown = leaf["seq"], leaf["type"], leaf["origin"], leaf["time"]
    assert shown == (0, "recovery", NEW, recovery.created)
    federation = ledger.view.federation()
    assert (federation.origin, federation.genesis_hash) == (NEW, recovery.hash.hex())
    assert federation.ledger_time == recovery.created


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("former", lambda r, _: replace(r, former=replace(r.former, genesis_hash="1" * 64))),
        ("created", lambda r, _: replace(r, created=0)),
        ("fence_base", lambda r, _: replace(r, fence_base=r.fence_base - 1)),
        ("domains", lambda r, _: replace(r, descriptors=r.descriptors[1:])),
        (
            "parameters",
            lambda r, _: replace(r, parameters=replace(r.parameters, rho_ppm=0)),
        ),
        (
            "domains",
            lambda r, ledger: replace(
                r,
                descriptors=(
                    replace(r.descriptors[0], governance_key=ledger.federation[PORT].log.public),
                    *r.descriptors[1:],
                ),
            ),
        ),
    ],
)
def test_a_document_about_another_state_changes_nothing(
    ledger: Ledger, field: str, change: Change
) -> None:
    before = ledger.digest()
    with pytest.raises(MalformedError) as refused:
        carry_over(ledger.store, change(recovery_of(ledger, BANK), ledger))
    assert refused.value.field == field
    assert ledger.digest() == before


def test_a_retired_node_does_not_go_on(ledger: Ledger) -> None:
    recovery = recovery_of(ledger, BANK)
    ledger.run(BANK, "node.retire", {"node": ledger.federation[BANK].node})
    with pytest.raises(MalformedError, match="is retired"):
        check_carried(StateView(ledger.store), recovery)


def test_an_empty_store_is_not_carried_over(ledger: Ledger) -> None:
    with pytest.raises(StorageDamagedError, match="no genesis was installed"):
        carry_over(MemoryStore(), recovery_of(ledger, BANK))


# -- who begins with the document alone ------------------------------------------------------


def of_state(ledger: Ledger, *survivors: str) -> Recovery:
    """A document that says of members what the state says, as `recover propose` makes it."""
    view = ledger.view
    names = {ledger.federation[domain].node for domain in survivors}
    domains = view.domains()
    return recovery_of(
        ledger,
        *survivors,
        descriptors=[_descriptor(view, domain.id, names) for domain in domains],
        suspended_by={each.id: each.suspended_by for each in domains if each.suspended_by},
        expelled={each.id for each in domains if each.status is Status.REVOKED},
        thresholds=view.thresholds(),
        is_frozen=view.federation().frozen is not None,
        rates=view.federation().rates,
        policies=view.federation().policies,
    )


def decide(ledger: Ledger, act: str, domain: str, *voters: str) -> None:
    agree(ledger, act, {"domain": domain}, *voters)


def agree(ledger: Ledger, act: str, what: dict[str, object], *voters: str) -> None:
    body = proposal_body(act, what, ledger.now + 60_000)
    opened = ledger.run(voters[0], "proposal.open", body).outcome
    for voter in voters[1:]:
        cast = ledger.run(voter, "ballot.cast", ballot_body(str(opened.result["id"]))).outcome
    assert cast.result["status"] == "executed"


@pytest.mark.parametrize("what", ["expelled", "suspended", "retired"])
def test_what_was_carried_over_follows_from_the_document_alone(ledger: Ledger, what: str) -> None:
    """Or a node that begins empty takes it from nobody."""
    match what:
        case "expelled":
            decide(ledger, "domain.expel", PORT, BANK, CLINIC)
        case "suspended":
            decide(ledger, "domain.suspend", PORT, BANK, CLINIC)
        case "retired":
            node = ledger.federation[PORT].node
            for verb in ("node.demote", "node.retire"):
                assert ledger.run(PORT, verb, {"node": node}).outcome.accepted
    recovery = of_state(ledger, BANK, CLINIC)
    alone = MemoryStore()
    begin_without(alone, recovery)
    carry_over(ledger.store, recovery)
    assert check(ledger.view) == []
    assert Vetting(ledger.store, 1).step(1_000_000)
    assert Succession(alone, ledger.store).step(1_000_000)


def test_an_address_that_a_lost_domain_has_left_is_anothers(ledger: Ledger) -> None:
    """Whoever does not go on is retired, and is dialled by nobody."""
    gone, place = ledger.federation[PORT].node, ledger.federation[PORT].peer_address
    other = f"spiffe://{BANK}/node/2"
    for issuer, verb, body in (
        (PORT, "node.retire", {"node": gone}),
        (BANK, "node.add", node_body(other, place)),
        (BANK, "node.retire", {"node": ledger.federation[BANK].node}),
        (BANK, "node.promote", {"node": other}),
    ):
        assert ledger.run(issuer, verb, body).outcome.accepted
    view = ledger.view
    descriptors = [_descriptor(view, domain, {other}) for domain in DOMAINS]
    recovery = recovery_of(ledger, BANK, descriptors=descriptors)
    carry_over(ledger.store, recovery)
    assert check(ledger.view) == []


def test_no_document_takes_more_than_it_is_counted_for(ledger: Ledger) -> None:
    ledger.run(CLINIC, "domain.suspend", {"domain": CLINIC})
    recovery = of_state(ledger, *DOMAINS)
    longest = longest_document(ledger.view.domains(), recovery.protocol)
    assert len(recovery.envelope.to_bytes()) <= longest


# -- what is frozen --------------------------------------------------------------------------


def freeze(ledger: Ledger) -> None:
    """By all, and by one that survives and one that does not."""
    agree(ledger, "federation.freeze", {"actions": ["alarms.*"]}, BANK, CLINIC)
    for domain, actions in ((BANK, []), (PORT, ["records.read"])):
        assert ledger.run(domain, "resources.freeze", {"actions": actions}).outcome.accepted


def test_what_is_frozen_stays_so(ledger: Ledger) -> None:
    freeze(ledger)
    recovery = parse_recovery(of_state(ledger, BANK, CLINIC).envelope.to_bytes())
    assert recovery.is_frozen
    alone = MemoryStore()
    begin_without(alone, recovery)
    carry_over(ledger.store, recovery)
    assert ledger.view.federation().frozen == Freeze(("alarms.*",), 0)
    frozen = {each.id: each.frozen for each in ledger.view.domains()}
    assert frozen == {BANK: Freeze((), 0), CLINIC: None, PORT: Freeze(("records.read",), 0)}
    assert check(ledger.view) == []
    assert Vetting(ledger.store, 1).step(1_000_000)
    assert StateView(alone).federation().frozen == Freeze((), 0), "what it lets through is unknown"
    assert Succession(alone, ledger.store).step(1_000_000)


def test_whoever_is_expelled_is_frozen_no_more(ledger: Ledger) -> None:
    """A node that begins with the document alone would not know of it, and what is final stays."""
    freeze(ledger)
    decide(ledger, "domain.expel", PORT, BANK, CLINIC)
    recovery = of_state(ledger, BANK, CLINIC)
    alone = MemoryStore()
    begin_without(alone, recovery)
    carry_over(ledger.store, recovery)
    assert Succession(alone, ledger.store).step(1_000_000)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_document_says_whether_the_federation_is_frozen(
    ledger: Ledger, *, is_frozen: bool
) -> None:
    if is_frozen:
        freeze(ledger)
    recovery = of_state(ledger, BANK, CLINIC)
    assert (b"frozen" in recovery.envelope.payload) is is_frozen
    with pytest.raises(MalformedError) as refused:
        check_carried(ledger.view, replace(recovery, is_frozen=not is_frozen))
    assert refused.value.field == "frozen"


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said | {"frozen": False},
        lambda said: said | {"frozen": 1},
        lambda said: {name: value for name, value in said.items() if name != "protocol"},
    ],
)
def test_frozen_is_true_or_left_out_and_of_later_rules(ledger: Ledger, change: Any) -> None:
    freeze(ledger)
    said = codec.load(of_state(ledger, BANK, CLINIC).envelope.payload)
    data = codec.encode(change(said))
    with pytest.raises(MalformedError) as refused:
        parse_recovery_draft(dsse.Envelope(data, dsse.RECOVERY_TYPE, ()).to_bytes())
    assert refused.value.field == "frozen"


def test_thresholds_of_the_first_version_are_carried_over(ledger: Ledger) -> None:
    """They were set before the upgrade, and name nothing that it brought."""
    rules = {verb.value: Threshold.TWO_THIRDS for verb in ACTS[protocol.FIRST]}
    state.save_thresholds(ledger.store, rules)
    recovery = parse_recovery(of_state(ledger, BANK, CLINIC).envelope.to_bytes())
    assert recovery.protocol == protocol.SECOND
    assert recovery.thresholds == rules
    carry_over(ledger.store, recovery)
    assert Vetting(ledger.store, 1).step(1_000_000)


def test_ballots_are_decided_again_behind_a_recovery_of_what_is_frozen(ledger: Ledger) -> None:
    freeze(ledger)
    members = Members(of_state(ledger, BANK, CLINIC))
    assert members.state.federation().frozen is not None


# -- policies --------------------------------------------------------------------------------


ALL = "permit (principal, action, resource);"


def publish(ledger: Ledger) -> None:
    """By all, and by one that survives and one that does not."""
    agree(ledger, "federation.set_policy", {"text": ALL}, BANK, CLINIC)
    for domain in (BANK, PORT):
        assert ledger.run(domain, "policy.publish", {"text": f"{ALL} // {domain}"}).outcome.accepted


def test_policies_stay_in_force(ledger: Ledger) -> None:
    publish(ledger)
    before = {item.id: item.policies for item in ledger.view.domains()}
    recovery = of_state(ledger, BANK, CLINIC)
    alone = MemoryStore()
    begin_without(alone, recovery)
    carry_over(ledger.store, recovery)
    assert {item.id: item.policies for item in ledger.view.domains()} == before
    assert ledger.view.federation().policies is not None
    found = {each.id: (each.text, each.changed) for each in ledger.view.all_policies()}
    assert found == {
        BANK: (f"{ALL} // {BANK}", 0),
        PORT: (f"{ALL} // {PORT}", 0),
        "the federation": (ALL, 0),
    }
    assert check(ledger.view) == []
    assert Vetting(ledger.store, 1).step(1_000_000)
    assert Succession(alone, ledger.store).step(1_000_000)


def test_whoever_is_expelled_has_no_policies_any_more(ledger: Ledger) -> None:
    publish(ledger)
    decide(ledger, "domain.expel", PORT, BANK, CLINIC)
    port = ledger.view.domain(PORT)
    assert port is not None
    assert port.policies is None
    assert [each.text for each in ledger.view.all_policies() if each.id == PORT] == [""]
    assert check(ledger.view) == []
    assert Vetting(ledger.store).step(1_000_000)
    recovery = of_state(ledger, BANK, CLINIC)
    alone = MemoryStore()
    begin_without(alone, recovery)
    carry_over(ledger.store, recovery)
    assert Succession(alone, ledger.store).step(1_000_000)
    assert Vetting(ledger.store, 1).step(1_000_000)
