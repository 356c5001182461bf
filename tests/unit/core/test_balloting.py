"""Proposals and ballots: who has a vote, when enough agree, and what is done then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from quorate.core import codec, dsse, protocol
from quorate.core.acts import ACTS
from quorate.core.effects import effect_of
from quorate.core.invariants import check
from quorate.core.limits import (
    MAX_DOMAINS,
    MAX_OPEN_PROPOSALS_PER_DOMAIN,
    MAX_PROPOSAL_LIFETIME_MS,
)
from quorate.core.outcome import Reason
from quorate.core.proposals import ProposalStatus
from quorate.core.records import BY_BALLOT, Role
from quorate.core.status import Status
from quorate.core.store import MemoryStore
from quorate.core.thresholds import Threshold
from quorate.core.transitions import Applied
from quorate.core.verbs import Verb
from quorate.core.vetting import Vetting
from quorate.testing.builders import (
    CREATED_MS,
    Federation,
    Ledger,
    Organisation,
    acquire_body,
    ballot_body,
    grant_body,
    proposal_body,
)

A, B, C, D, E = (f"{name}.example" for name in ("alpha", "beta", "gamma", "delta", "epsilon"))
NEW = Organisation.named("new.example", "127.0.0.1:7999")
EVERY = {verb.value: Threshold.MAJORITY.value for verb in ACTS[protocol.LATEST]}


def ledger_of(*domains: str) -> Ledger:
    return Ledger(Federation.build(domains))


@pytest.fixture
def ledger() -> Ledger:
    return ledger_of(A, B, C)


def accepted(applied: Applied) -> Mapping[str, Any]:
    assert applied.outcome.accepted, applied.outcome
    return applied.outcome.result


def denied(applied: Applied) -> tuple[Reason | None, str]:
    assert not applied.outcome.accepted, applied.outcome
    return applied.outcome.reason, applied.outcome.thing


def propose(ledger: Ledger, by: str, act: str, /, **body: object) -> Mapping[str, Any]:
    expires = ledger.now + 60_000
    return accepted(ledger.run(by, "proposal.open", proposal_body(act, body, expires)))


def vote(ledger: Ledger, by: str, proposal: Mapping[str, Any], choice: str = "yes") -> Applied:
    return ledger.run(by, "ballot.cast", ballot_body(proposal["id"], choice))


def status_of(ledger: Ledger, proposal: Mapping[str, Any]) -> ProposalStatus:
    record = ledger.view.proposal(proposal["id"])
    assert record is not None
    return record.status


def is_well(ledger: Ledger) -> bool:
    """Its invariants hold, and whoever is sent this state takes it."""
    return check(ledger.view) == [] and Vetting(ledger.store).step(1_000_000)


# -- how a ballot goes ---------------------------------------------------------------------------


def test_a_majority_does_it_with_the_ballot_that_makes_it(ledger: Ledger) -> None:
    proposal = propose(ledger, A, "domain.suspend", domain=C)
    assert (proposal["status"], proposal["yes"], proposal["needed"]) == ("open", 1, 2)
    cast = vote(ledger, B, proposal)
    assert accepted(cast)["executed"] == {"type": "domain.suspend", "thing": C}
    entry = codec.load(cast.entry or b"")
    assert isinstance(entry, dict)
    assert entry["executed"] == {"type": "domain.suspend", "thing": C}
    domain = ledger.view.domain(C)
    assert domain is not None
    assert (domain.status, domain.suspended_by) == (Status.SUSPENDED, BY_BALLOT)
    assert domain.changed == cast.outcome.index
    assert status_of(ledger, proposal) is ProposalStatus.EXECUTED
    assert denied(vote(ledger, A, proposal)) == (Reason.PROPOSAL_CLOSED, proposal["id"])
    assert is_well(ledger)


@pytest.mark.parametrize(
    ("rule", "voters", "needed"),
    [
        (Threshold.MAJORITY, 0, 1),
        (Threshold.MAJORITY, 1, 1),
        (Threshold.MAJORITY, 2, 2),
        (Threshold.MAJORITY, 4, 3),
        (Threshold.MAJORITY, 5, 3),
        (Threshold.TWO_THIRDS, 0, 1),
        (Threshold.TWO_THIRDS, 3, 2),
        (Threshold.TWO_THIRDS, 4, 3),
        (Threshold.TWO_THIRDS, 6, 4),
        (Threshold.TWO_THIRDS, 7, 5),
        (Threshold.UNANIMITY, 0, 1),
        (Threshold.UNANIMITY, 4, 4),
    ],
)
def test_how_many_are_needed(rule: Threshold, voters: int, needed: int) -> None:
    assert rule.needed(voters) == needed


def test_it_is_rejected_when_too_few_are_left_who_could_agree(ledger: Ledger) -> None:
    proposal = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    assert accepted(vote(ledger, B, proposal, "no"))["status"] == "open"
    assert accepted(vote(ledger, C, proposal, "no"))["status"] == "rejected"
    assert ledger.view.domain(NEW.domain) is None
    assert denied(vote(ledger, A, proposal))[0] is Reason.PROPOSAL_CLOSED
    assert is_well(ledger)


def test_the_last_word_of_a_domain_counts_and_counts_once(ledger: Ledger) -> None:
    proposal = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    for choice in ("no", "no"):
        accepted(vote(ledger, B, proposal, choice))
    again = accepted(vote(ledger, A, proposal))
    assert (again["yes"], again["no"]) == (1, 1)
    withdrawn = accepted(vote(ledger, A, proposal, "no"))
    assert (withdrawn["yes"], withdrawn["no"], withdrawn["status"]) == (0, 2, "rejected")


def test_it_may_be_withdrawn_by_who_proposed_it_alone(ledger: Ledger) -> None:
    proposal = propose(ledger, A, "domain.suspend", domain=C)
    body = {"proposal": proposal["id"]}
    assert denied(ledger.run(B, "proposal.withdraw", body))[0] is Reason.NOT_AUTHORIZED
    accepted(ledger.run(A, "proposal.withdraw", body))
    assert denied(vote(ledger, B, proposal))[0] is Reason.PROPOSAL_CLOSED
    assert denied(ledger.run(A, "proposal.withdraw", body))[0] is Reason.PROPOSAL_CLOSED
    assert is_well(ledger)


def test_it_expires_by_ledger_time(ledger: Ledger) -> None:
    proposal = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    ledger.now += 59_999
    accepted(vote(ledger, B, proposal, "no"))
    ledger.now += 1
    assert denied(vote(ledger, B, proposal)) == (Reason.PROPOSAL_EXPIRED, proposal["id"])
    assert denied(ledger.run(A, "proposal.withdraw", {"proposal": proposal["id"]}))[0] is (
        Reason.PROPOSAL_EXPIRED
    )
    assert is_well(ledger)


@pytest.mark.parametrize(
    ("after_ms", "reason"),
    [
        (0, Reason.PROPOSAL_EXPIRED),
        (MAX_PROPOSAL_LIFETIME_MS, None),
        (MAX_PROPOSAL_LIFETIME_MS + 1, Reason.LIFETIME_TOO_LONG),
    ],
)
def test_how_long_it_may_be_open(ledger: Ledger, after_ms: int, reason: Reason | None) -> None:
    body = proposal_body("domain.suspend", {"domain": C}, ledger.now + after_ms)
    assert ledger.run(A, "proposal.open", body).outcome.reason is reason


def test_what_could_not_be_done_now_is_not_opened(ledger: Ledger) -> None:
    for act, body, reason in (
        ("domain.suspend", {"domain": "nobody.example"}, Reason.UNKNOWN_DOMAIN),
        ("domain.reinstate", {"domain": C}, Reason.ILLEGAL_TRANSITION),
        ("federation.set_thresholds", {"thresholds": EVERY}, Reason.ILLEGAL_TRANSITION),
        (
            "domain.admit",
            {"descriptor": json.loads(ledger.federation[B].descriptor())},
            Reason.ALREADY_EXISTS,
        ),
    ):
        opened = ledger.run(A, "proposal.open", proposal_body(act, body, ledger.now + 1))
        assert denied(opened)[0] is reason, act
    assert list(ledger.view.proposals()) == []


def test_a_domain_has_a_bounded_number_open_and_the_expired_make_room(ledger: Ledger) -> None:
    for _ in range(MAX_OPEN_PROPOSALS_PER_DOMAIN):
        propose(ledger, A, "domain.suspend", domain=C)
    body = proposal_body("domain.suspend", {"domain": C}, ledger.now + 60_001)
    assert denied(ledger.run(A, "proposal.open", body)) == (Reason.LIMIT_EXCEEDED, A)
    propose(ledger, B, "domain.suspend", domain=C)  # is another's
    ledger.now += 60_000
    accepted(ledger.run(A, "proposal.open", body))
    assert is_well(ledger)


def test_the_id_says_what_is_proposed_and_nothing_else() -> None:
    """Whoever votes for it has agreed to that, by whom it was proposed, and until when."""
    ids = set[str]()
    for by, domain, expires in ((A, B, 1), (A, C, 1), (B, C, 1), (A, B, 2)):
        ledger = ledger_of(A, B, C)
        body = proposal_body("domain.suspend", {"domain": domain}, ledger.now + expires)
        ids.add(accepted(ledger.run(by, "proposal.open", body, "a" * 32))["id"])
    assert len(ids) == 4


# -- who has a vote ------------------------------------------------------------------------------


def test_who_a_proposal_is_against_has_no_vote_and_is_not_counted(ledger: Ledger) -> None:
    proposal = propose(ledger, A, "domain.expel", domain=C)
    assert denied(vote(ledger, C, proposal, "no")) == (Reason.NO_VOTE, C)
    assert accepted(vote(ledger, B, proposal))["status"] == "executed"


def test_who_proposes_its_own_expulsion_has_not_voted_for_it(ledger: Ledger) -> None:
    proposal = propose(ledger, C, "domain.expel", domain=C)
    assert proposal["yes"] == 0
    accepted(vote(ledger, A, proposal))
    assert accepted(vote(ledger, B, proposal))["status"] == "executed"


def test_nobody_alone_decides_over_another() -> None:
    ledger = ledger_of(A, B)
    assert propose(ledger, A, "domain.expel", domain=B)["status"] == "rejected"
    assert propose(ledger, A, "domain.suspend", domain=B)["status"] == "rejected"


@pytest.mark.parametrize("how", ["by itself", "by the others"])
def test_a_suspended_domain_loses_its_vote_and_what_it_has_voted(how: str) -> None:
    ledger = ledger_of(A, B, C, D, E)
    proposal = propose(ledger, D, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    accepted(vote(ledger, E, proposal))
    for domain in (D, E):
        if how == "by itself":
            accepted(ledger.run(domain, "domain.suspend", {"domain": domain}))
        else:
            other = propose(ledger, A, "domain.suspend", domain=domain)
            for by in (B, C):
                if status_of(ledger, other) is ProposalStatus.OPEN:
                    accepted(vote(ledger, by, other))
            assert status_of(ledger, other) is ProposalStatus.EXECUTED
    assert denied(vote(ledger, E, proposal)) == (Reason.DOMAIN_SUSPENDED, E)
    opened = ledger.run(E, "proposal.open", proposal_body("domain.suspend", {"domain": A}))
    assert denied(opened) == (Reason.DOMAIN_SUSPENDED, E)
    counted = accepted(vote(ledger, A, proposal))
    assert (counted["yes"], counted["needed"], counted["status"]) == (1, 3, "open")


def test_whoever_votes_next_has_it_counted_anew_when_a_vote_is_lost() -> None:
    """Nothing is done but with a ballot."""
    ledger = ledger_of(A, B, C)
    strict = EVERY | {"domain.admit": "unanimity"}
    accepted(vote(ledger, B, propose(ledger, A, "federation.set_thresholds", thresholds=strict)))
    proposal = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    accepted(vote(ledger, B, proposal))
    accepted(ledger.run(C, "domain.suspend", {"domain": C}))
    assert status_of(ledger, proposal) is ProposalStatus.OPEN
    assert accepted(vote(ledger, A, proposal))["status"] == "executed"


@pytest.mark.parametrize("others", [1, 2, 4])
def test_that_others_have_no_vote_makes_nobodys_worth_more(others: int) -> None:
    """Who waits until all others have suspended themselves decides nothing alone."""
    names = (A, B, C, D, E)[: others + 1]
    ledger = ledger_of(*names)
    for name in names[1:]:
        accepted(ledger.run(name, "domain.suspend", {"domain": name}))
    opened = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    assert (opened["status"], opened["needed"]) == ("rejected", len(names) // 2 + 1)
    for name in names[1:]:
        opened = propose(ledger, A, "domain.expel", domain=name)
        assert opened["status"] == "rejected"
    assert ledger.view.domain(NEW.domain) is None


def test_a_federation_of_one_decides_alone() -> None:
    ledger = ledger_of(A)
    opened = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    assert opened["status"] == "executed"


def test_an_expelled_domain_and_its_nodes_give_no_commands_any_more(ledger: Ledger) -> None:
    executor = ledger.federation[C].executor("e")
    accepted(ledger.run(C, "executor.register", {"executor": executor}))
    proposal = propose(ledger, A, "domain.expel", domain=C)
    open_one = propose(ledger, C, "domain.suspend", domain=B)
    accepted(vote(ledger, B, proposal))
    before = len(ledger.entries)
    for body in (ballot_body(open_one["id"]), ballot_body(proposal["id"])):
        assert denied(ledger.run(C, "ballot.cast", body)) == (Reason.DOMAIN_REVOKED, C)
    suspend = ledger.run(C, "executor.suspend", {"executor": executor})
    assert denied(suspend) == (Reason.DOMAIN_REVOKED, C)
    node = ledger.federation[C].node
    acquire = ledger.run(node, "lease.acquire", acquire_body(executor, "a.b", f"//{A}/x"))
    assert denied(acquire) == (Reason.NODE_RETIRED, node)
    assert len(ledger.entries) == before + 4
    assert is_well(ledger)


# -- what the acts do ----------------------------------------------------------------------------


def test_an_admitted_domain_is_there_with_a_voter_and_takes_part(ledger: Ledger) -> None:
    ledger.federation.organisations[NEW.domain] = NEW
    unknown = ledger.run(NEW.domain, "executor.register", {"executor": NEW.executor("e")})
    assert denied(unknown)[0] is Reason.UNKNOWN_ISSUER
    proposal = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    accepted(vote(ledger, B, proposal))
    domain, node = ledger.view.domain(NEW.domain), ledger.view.node(NEW.node)
    assert domain is not None
    assert node is not None
    assert (domain.status, node.role, node.retired) == (Status.ACTIVE, Role.VOTER, False)
    assert node.signing_key == NEW.signing.public.hex()
    accepted(ledger.run(NEW.domain, "executor.register", {"executor": NEW.executor("e")}))
    other = propose(ledger, NEW.domain, "domain.suspend", domain=C)
    assert other["needed"] == 2
    assert accepted(vote(ledger, A, other))["status"] == "executed"
    assert is_well(ledger)


@pytest.mark.parametrize("what", ["key", "address"])
def test_who_joins_brings_nothing_that_is_another_s(ledger: Ledger, what: str) -> None:
    bank = ledger.federation[A]
    joiner = (
        Organisation("new.example", *(bank.governance, NEW.cosigner, NEW.signing, NEW.log), "h:1")
        if what == "key"
        else Organisation.named("new.example", bank.peer_address)
    )
    body = proposal_body("domain.admit", {"descriptor": json.loads(joiner.descriptor())})
    reason, thing = denied(ledger.run(B, "proposal.open", body))
    assert reason is Reason.ALREADY_EXISTS
    assert thing == (bank.governance.public.hex() if what == "key" else bank.peer_address)


def test_a_federation_has_a_bounded_number_of_domains() -> None:
    ledger = ledger_of(*(f"d{number}.example" for number in range(MAX_DOMAINS)))
    body = proposal_body("domain.admit", {"descriptor": json.loads(NEW.descriptor())})
    opened = ledger.run("d0.example", "proposal.open", body)
    assert denied(opened) == (Reason.LIMIT_EXCEEDED, NEW.domain)


def test_a_descriptor_must_be_signed_by_its_own_domain(ledger: Ledger) -> None:
    descriptor = json.loads(NEW.descriptor())
    signature = descriptor["signatures"][0]
    signature["sig"] = "A" * 86 + "=="
    body = proposal_body("domain.admit", {"descriptor": descriptor})
    reason, thing = denied(ledger.run(A, "proposal.open", body))
    assert (reason, thing) == (Reason.MALFORMED_COMMAND, "body.body.descriptor")


def test_expulsion_is_for_good_and_retires_the_nodes(ledger: Ledger) -> None:
    proposal = propose(ledger, A, "domain.expel", domain=C)
    accepted(vote(ledger, B, proposal))
    node = ledger.view.node(ledger.federation[C].node)
    assert node is not None
    assert node.retired
    assert list(ledger.view.active_nodes(C)) == []
    for act, body in (
        ("domain.expel", {"domain": C}),
        ("domain.suspend", {"domain": C}),
        ("domain.reinstate", {"domain": C}),
        ("domain.admit", {"descriptor": json.loads(ledger.federation[C].descriptor())}),
    ):
        opened = ledger.run(A, "proposal.open", proposal_body(act, body))
        assert denied(opened) == (Reason.FINAL, C), act
    assert is_well(ledger)


def test_the_last_voter_is_not_expelled(ledger: Ledger) -> None:
    for domain in (A, B):
        accepted(ledger.run(domain, "node.demote", {"node": ledger.federation[domain].node}))
    body = proposal_body("domain.expel", {"domain": C})
    assert denied(ledger.run(A, "proposal.open", body)) == (Reason.LAST_VOTER, C)


def test_who_was_suspended_by_the_others_is_reinstated_by_them_alone(ledger: Ledger) -> None:
    accepted(vote(ledger, B, propose(ledger, A, "domain.suspend", domain=C)))
    own = ledger.run(C, "domain.reinstate", {"domain": C})
    assert denied(own) == (Reason.NOT_AUTHORIZED, C)
    proposal = propose(ledger, A, "domain.reinstate", domain=C)
    assert accepted(vote(ledger, B, proposal))["executed"]["type"] == "domain.reinstate"
    domain = ledger.view.domain(C)
    assert domain is not None
    assert (domain.status, domain.suspended_by) == (Status.ACTIVE, "")
    accepted(ledger.run(C, "domain.suspend", {"domain": C}))
    body = proposal_body("domain.reinstate", {"domain": C})
    assert denied(ledger.run(A, "proposal.open", body)) == (Reason.NOT_AUTHORIZED, C)


def test_to_have_suspended_oneself_is_no_way_out(ledger: Ledger) -> None:
    """Neither before the ballot nor while it is on."""
    proposal = propose(ledger, A, "domain.suspend", domain=C)
    accepted(ledger.run(C, "domain.suspend", {"domain": C}))
    assert accepted(vote(ledger, B, proposal))["status"] == "executed"
    assert denied(ledger.run(C, "domain.reinstate", {"domain": C}))[0] is Reason.NOT_AUTHORIZED


def test_of_two_that_widen_the_same_the_second_is_superseded(ledger: Ledger) -> None:
    stricter = EVERY | {"domain.expel": "unanimity"}
    one = propose(ledger, A, "federation.set_thresholds", thresholds=stricter)
    two = propose(
        ledger, B, "federation.set_thresholds", thresholds=EVERY | {"domain.admit": "two-thirds"}
    )
    accepted(vote(ledger, C, one))
    cast = accepted(vote(ledger, C, two))
    assert (cast["status"], cast["reason"], cast["thing"]) == ("failed", "SUPERSEDED", two["id"])
    assert ledger.view.thresholds() == stricter
    assert is_well(ledger)


def test_a_reinstatement_is_of_the_suspension_that_there_was(ledger: Ledger) -> None:
    accepted(vote(ledger, B, propose(ledger, A, "domain.suspend", domain=C)))
    stale = propose(ledger, A, "domain.reinstate", domain=C)
    accepted(vote(ledger, B, propose(ledger, A, "domain.reinstate", domain=C)))
    accepted(vote(ledger, B, propose(ledger, A, "domain.suspend", domain=C)))
    assert accepted(vote(ledger, B, stale))["reason"] == "SUPERSEDED"


def test_what_cannot_be_done_any_more_fails_and_changes_nothing_else(ledger: Ledger) -> None:
    one = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    two = propose(ledger, B, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    accepted(vote(ledger, C, one))
    accepted(vote(ledger, C, two))  # the new one has a vote, too: three are needed
    cast = vote(ledger, A, two)
    assert accepted(cast)["reason"] == "ALREADY_EXISTS"
    assert "executed" not in codec.load(cast.entry or b"")  # type: ignore[operator]
    record = ledger.view.proposal(two["id"])
    assert record is not None
    assert (record.status, record.reason) == (ProposalStatus.FAILED, "ALREADY_EXISTS")
    assert record.thing == NEW.domain
    assert C in record.yes
    assert is_well(ledger)


def test_the_thresholds_are_those_that_were_set(ledger: Ledger) -> None:
    strict = EVERY | {"domain.admit": "unanimity"}
    proposal = propose(ledger, A, "federation.set_thresholds", thresholds=strict)
    accepted(vote(ledger, B, proposal))
    admission = propose(ledger, A, "domain.admit", descriptor=json.loads(NEW.descriptor()))
    assert admission["needed"] == 3
    accepted(vote(ledger, B, admission))
    assert accepted(vote(ledger, C, admission))["status"] == "executed"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"act": "executor.register"}, "body.act"),
        ({"body": {"domain": C, "more": 1}}, "body.body.more"),
        ({"body": {}}, "body.body.domain"),
        ({"body": 7}, "body.body"),
        ({"more": 1}, "body.more"),
        (
            {"act": "federation.set_thresholds", "body": {"thresholds": {}}},
            "body.body.thresholds.domain.admit",
        ),
        (
            {
                "act": "federation.set_thresholds",
                "body": {"thresholds": EVERY | {"domain.admit": "few"}},
            },
            "body.body.thresholds.domain.admit",
        ),
        (
            {
                "act": "federation.set_thresholds",
                "body": {"thresholds": EVERY | {"executor.register": "majority"}},
            },
            "body.body.thresholds.executor.register",
        ),
        ({"act": "domain.admit", "body": {"descriptor": {}}}, "body.body.descriptor.payload"),
    ],
)
def test_a_proposal_that_is_wrong_says_where(
    ledger: Ledger, changes: Mapping[str, object], field: str
) -> None:
    body = proposal_body("domain.suspend", {"domain": C}) | changes
    assert denied(ledger.run(A, "proposal.open", body)) == (Reason.MALFORMED_COMMAND, field)


@pytest.mark.parametrize("verb", ["domain.admit", "domain.expel", "federation.set_thresholds"])
def test_no_domain_does_alone_what_needs_a_ballot(ledger: Ledger, verb: str) -> None:
    bodies: dict[str, dict[str, object]] = {
        "domain.admit": {"descriptor": json.loads(NEW.descriptor())},
        "domain.expel": {"domain": C},
        "federation.set_thresholds": {"thresholds": EVERY},
    }
    assert denied(ledger.run(A, verb, bodies[verb])) == (Reason.NEEDS_BALLOT, verb)


def test_unknown_proposals_and_choices_are_refused(ledger: Ledger) -> None:
    ident = "0" * 64
    assert denied(ledger.run(A, "ballot.cast", ballot_body(ident))) == (Reason.NOT_FOUND, ident)
    maybe = ledger.run(A, "ballot.cast", ballot_body(ident, "maybe"))
    assert denied(maybe) == (Reason.MALFORMED_COMMAND, "body.choice")
    assert denied(ledger.run(A, "proposal.withdraw", {"proposal": "x"}))[1] == "body.proposal"


def test_a_repeated_ballot_has_its_first_outcome(ledger: Ledger) -> None:
    proposal = propose(ledger, A, "domain.suspend", domain=C)
    envelope = ledger.federation.command(B, "ballot.cast", ballot_body(proposal["id"]))
    first, again = ledger.apply(envelope), ledger.apply(envelope)
    assert again.outcome.duplicate
    assert again.entry is None
    assert again.outcome.result == first.outcome.result


# -- what follows from it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "reason"),
    [("domain.suspend", Reason.DOMAIN_SUSPENDED), ("domain.expel", Reason.DOMAIN_REVOKED)],
)
def test_leases_that_rely_on_the_domain_are_told_by_the_deciding_ballot(
    ledger: Ledger, act: str, reason: Reason
) -> None:
    proposal = propose(ledger, A, act, domain=C)
    assert effect_of(1, ledger.entries[-1]) is None
    vote(ledger, B, proposal)
    effect = effect_of(2, ledger.entries[-1])
    assert effect is not None
    assert (effect.thing, effect.reason, effect.index) == (f"domain:{C}", reason, 2)


def test_a_reinstatement_lets_them_go_on(ledger: Ledger) -> None:
    vote(ledger, B, propose(ledger, A, "domain.suspend", domain=C))
    vote(ledger, B, propose(ledger, A, "domain.reinstate", domain=C))
    effect = effect_of(4, ledger.entries[-1])
    assert effect is not None
    assert (effect.thing, effect.reason) == (f"domain:{C}", None)


def test_its_leases_are_denied_as_soon_as_a_domain_is_expelled(ledger: Ledger) -> None:
    executor = ledger.federation[C].executor("e")
    accepted(ledger.run(C, "executor.register", {"executor": executor}))
    accepted(ledger.run(C, "grant.issue", grant_body("g", executor, [f"//{C}/x/*"])))
    node = ledger.federation[C].node
    body = acquire_body(executor, "a.b", f"//{C}/x/y")
    accepted(ledger.run(node, "lease.acquire", body))
    vote(ledger, B, propose(ledger, A, "domain.suspend", domain=C))
    assert denied(ledger.run(node, "lease.acquire", body)) == (Reason.DOMAIN_SUSPENDED, C)


def test_a_ledger_says_the_same_when_it_is_executed_again(ledger: Ledger) -> None:
    """From its entries alone: what was decided follows from who signed what."""
    vote(ledger, B, propose(ledger, A, "domain.suspend", domain=C))
    vote(ledger, B, propose(ledger, A, "domain.expel", domain=C))
    again = Ledger(ledger.federation)
    for entry in ledger.entries[1:]:
        fields = codec.load(entry)
        assert isinstance(fields, dict)
        envelope = dsse.from_json(fields["command"])
        again.now = int(str(fields["time"]))
        again.apply(envelope.to_bytes())
    assert again.digest() == ledger.digest()
    assert isinstance(again.store, MemoryStore)
    assert again.now >= CREATED_MS
    assert Verb.DOMAIN_EXPEL in ACTS[protocol.LATEST]
