"""What domains decide together: proposals, the ballots on them, and what comes of it.

Owns who has a vote, when a proposal is decided, and what each act does. A ballot is counted when it
is cast: with the one that makes enough, the act is done, within the same entry of the ledger. What
is decided names a hash of exactly what was proposed, so that nobody has agreed to anything else;
and what widens is done only to what it was proposed for, as it was.

A suspended domain has no vote, nor one that is expelled, nor one that an act is about. But that
others have none makes nobody's vote worth more than it was: it always takes more than half of all
members that the act is not about. Nobody alone decides over another: about a domain it takes two.
To narrow what is its own (to suspend itself, to close its trust) a domain needs no ballot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from quorate.core import codec, publishing, state
from quorate.core.acts import (
    AdmitDomain,
    FederationAct,
    FreezeFederation,
    JudgeDomain,
    ReinstateExecutor,
    RetireFederationPolicy,
    SetParameters,
    SetPolicy,
    SetRates,
    SetThresholds,
    ThawFederation,
    UpgradeFederation,
    parse_act,
)
from quorate.core.bodies import CastBallot, OpenProposal, WithdrawProposal
from quorate.core.frozen import Freeze
from quorate.core.governing import executed, may_widen, reinstate_by_ballot
from quorate.core.ids import proposal_id
from quorate.core.limits import (
    MAX_DOMAINS,
    MAX_GENESIS_BYTES,
    MAX_OPEN_PROPOSALS_PER_DOMAIN,
    MAX_PROPOSAL_LIFETIME_MS,
)
from quorate.core.outcome import Deny, Reason
from quorate.core.proposals import Proposal, ProposalStatus
from quorate.core.records import BY_BALLOT, Domain, Node, Role
from quorate.core.recovery_room import longest_document
from quorate.core.state import StateView
from quorate.core.status import Act, Status, follow
from quorate.core.store import Overlay
from quorate.core.thresholds import Threshold, Thresholds, thresholds_to_json
from quorate.core.turn import Done, Turn, Verdict
from quorate.core.verbs import Verb


@dataclass(frozen=True, slots=True)
class Count:
    """How a proposal stands. voters: the domains that have a vote. needed: how many must agree."""

    voters: frozenset[str]
    yes: int
    no: int
    needed: int

    @property
    def is_hopeless(self) -> bool:
        return len(self.voters) - self.no < self.needed


def count(domains: Iterable[Domain], thresholds: Thresholds, proposal: Proposal) -> Count:
    """domains: all that there are. Raises MalformedError for a proposal of nothing known."""
    subject = _subject(parse_act(proposal.act, proposal.body, proposal.protocol))
    others = [each for each in domains if each.status is not Status.REVOKED and each.id != subject]
    voters = frozenset(domain.id for domain in others if domain.status is Status.ACTIVE)
    rule = thresholds.get(proposal.act, Threshold.MAJORITY)
    quorum = Threshold.MAJORITY.needed(len(others))
    needed = max(rule.needed(len(voters)), quorum, 2 if subject else 1)
    return Count(voters, len(voters & {*proposal.yes}), len(voters & {*proposal.no}), needed)


# -- commands ----------------------------------------------------------------------------------


def needs_ballot(turn: Turn, body: FederationAct) -> Verdict:
    """What no domain may do by a command of its own."""
    return Deny(Reason.NEEDS_BALLOT, turn.command.verb)


def open_proposal(turn: Turn, body: OpenProposal) -> Verdict:
    """The proposer agrees. What could not be done now is refused now."""
    command_id = turn.command.command_id
    ident = proposal_id(command_id, body.act, body.text, body.expires_at)
    refusal = may_widen(turn) or _may_last(turn, body, ident)
    if refusal is not None:
        return refusal
    possible = _done(turn, body.body, Overlay(turn.store))
    if isinstance(possible, Deny):
        return possible
    state.drop_expired_proposals(turn.store, turn.domain.id, turn.ledger_time)
    filed = sum(1 for _ in turn.view.open_proposals(turn.domain.id))
    if filed >= MAX_OPEN_PROPOSALS_PER_DOMAIN:
        return Deny(Reason.LIMIT_EXCEEDED, turn.domain.id)
    proposal = Proposal(
        proposal=ident,
        proposer=turn.domain.id,
        act=body.act,
        body=body.text,
        base=_base(turn.view, body.body),
        opened_at=turn.ledger_time,
        expires_at=body.expires_at,
        yes=(turn.domain.id,),
        no=(),
        status=ProposalStatus.OPEN,
        reason="",
        thing="",
        changed=turn.seq,
        protocol=turn.view.federation().protocol,
    )
    return _decided(turn, proposal)


def withdraw_proposal(turn: Turn, body: WithdrawProposal) -> Verdict:
    proposal = _open(turn, body.proposal)
    if isinstance(proposal, Deny):
        return proposal
    if proposal.proposer != turn.domain.id:
        return Deny(Reason.NOT_AUTHORIZED, proposal.id)
    status = ProposalStatus.WITHDRAWN
    state.save_proposal(turn.store, replace(proposal, status=status, changed=turn.seq))
    return Done.named(proposal.id)


def cast_ballot(turn: Turn, body: CastBallot) -> Verdict:
    """A domain may change its mind as long as nothing is decided: its last word counts."""
    proposal = _open(turn, body.proposal)
    if isinstance(proposal, Deny):
        return proposal
    own = turn.domain.id
    if own not in _count(turn.view, proposal).voters:
        return may_widen(turn) or Deny(Reason.NO_VOTE, own)
    yes, no = ({*before} - {own} for before in (proposal.yes, proposal.no))
    (yes if body.is_yes else no).add(own)
    voted = replace(proposal, yes=tuple(sorted(yes)), no=tuple(sorted(no)), changed=turn.seq)
    return _decided(turn, voted)


# -- deciding ----------------------------------------------------------------------------------


def _count(view: StateView, proposal: Proposal) -> Count:
    return count(view.domains(), view.thresholds(), proposal)


def _may_last(turn: Turn, body: OpenProposal, ident: str) -> Deny | None:
    if body.expires_at <= turn.ledger_time:
        return Deny(Reason.PROPOSAL_EXPIRED, ident)
    if body.expires_at > turn.ledger_time + MAX_PROPOSAL_LIFETIME_MS:
        return Deny(Reason.LIFETIME_TOO_LONG, ident)
    # Its command was executed so long ago that the ledger forgot its nonce.
    return None if turn.view.proposal(ident) is None else Deny(Reason.ALREADY_EXISTS, ident)


def _open(turn: Turn, ident: str) -> Proposal | Deny:
    proposal = turn.view.proposal(ident)
    if proposal is None:
        return Deny(Reason.NOT_FOUND, ident)
    if proposal.status is not ProposalStatus.OPEN:
        return Deny(Reason.PROPOSAL_CLOSED, ident)
    if proposal.expired(turn.ledger_time):
        return Deny(Reason.PROPOSAL_EXPIRED, ident)
    return proposal


def _decided(turn: Turn, proposal: Proposal) -> Verdict:
    """Counts, and does what enough have agreed to. That it cannot be done closes the proposal, and
    undoes no ballot."""
    counted = _count(turn.view, proposal)
    result: dict[str, object] = {"yes": counted.yes, "no": counted.no, "needed": counted.needed}
    if counted.yes >= counted.needed:
        done = _execute(turn, proposal)
        if isinstance(done, Done):
            proposal = replace(proposal, status=ProposalStatus.EXECUTED)
            done_by = {"type": proposal.act, "thing": done.thing}
            result["executed"] = done.result.get("executed", done_by)
        else:
            proposal = replace(
                proposal, status=ProposalStatus.FAILED, reason=done.reason.value, thing=done.thing
            )
            result |= {"reason": proposal.reason, "thing": proposal.thing}
    elif counted.is_hopeless:
        proposal = replace(proposal, status=ProposalStatus.REJECTED)
    state.save_proposal(turn.store, proposal)
    return Done(proposal.id, {"id": proposal.id, "status": proposal.status.value, **result})


def _execute(turn: Turn, proposal: Proposal) -> Verdict:
    act = parse_act(proposal.act, proposal.body, proposal.protocol)
    if _base(turn.view, act) != proposal.base:
        return Deny(Reason.SUPERSEDED, proposal.id)
    overlay = Overlay(turn.store)
    done = _done(turn, act, overlay)
    if isinstance(done, Done):
        overlay.commit()
    return done


def _done(turn: Turn, act: FederationAct, overlay: Overlay) -> Verdict:
    """Does it in the overlay."""
    inner = replace(turn, store=overlay, view=StateView(overlay))
    match act:
        case AdmitDomain():
            return _admit_domain(inner, act)
        case JudgeDomain():
            return _judge_domain(inner, act)
        case SetThresholds():
            return _set_thresholds(inner, act)
        case SetParameters():
            return _set_parameters(inner, act)
        case SetRates():
            return _set_rates(inner, act)
        case UpgradeFederation():
            return _upgrade_federation(inner, act)
        case FreezeFederation():
            return _freeze_federation(inner, act)
        case ThawFederation():
            return _thaw_federation(inner)
        case SetPolicy():
            return publishing.set_policy(inner, act)
        case RetireFederationPolicy():
            return publishing.retire_federation_policy(inner)
        case ReinstateExecutor():
            return reinstate_by_ballot(inner, act)


def _subject(act: FederationAct) -> str:
    """The domain that the others decide about; empty when they decide about none."""
    return act.domain if isinstance(act, JudgeDomain) else ""


def _base(view: StateView, act: FederationAct) -> str:
    """What a widening act would change, as it is: domains agreed to it as it was. What is against a
    domain has none, or the domain could get out of its way by changing something."""
    if isinstance(act, JudgeDomain) and act.act is Act.REINSTATE:
        domain = view.domain(act.domain)
        own = None if domain is None else replace(domain, frozen=None, policies=None, references=0)
        return _digest(None if own is None else own.to_json())
    if isinstance(act, ReinstateExecutor):
        executor = view.executor(act.executor)
        # What it proves meanwhile is no other suspension.
        same = None if executor is None else replace(executor, attestations=(), challenge=None)
        return _digest(None if same is None else same.to_json())
    if isinstance(act, SetThresholds):
        return _digest(_beyond_majority(view.thresholds()))
    if isinstance(act, SetParameters):
        return _digest(view.federation().parameters.to_json())
    if isinstance(act, SetRates):
        rates = view.federation().rates
        return _digest(None if rates is None else rates.to_json())
    if isinstance(act, ThawFederation):
        frozen = view.federation().frozen
        return _digest(None if frozen is None else frozen.to_json())
    if isinstance(act, SetPolicy | RetireFederationPolicy):
        mark = view.federation().policies
        return _digest(None if mark is None else mark.to_json())
    return ""


def _beyond_majority(rules: Thresholds) -> dict[str, str]:
    """Those that say something: a majority is needed of what is not named, too."""
    said = thresholds_to_json(rules)
    return {act: rule for act, rule in said.items() if rule != Threshold.MAJORITY}


def _digest(value: object) -> str:
    return hashlib.sha256(codec.encode(value)).hexdigest()


# -- what the acts do ----------------------------------------------------------------------------


def _admit_domain(turn: Turn, act: AdmitDomain) -> Verdict:
    item = act.descriptor
    domain = Domain(
        domain=item.domain,
        status=Status.ACTIVE,
        suspended_by="",
        governance_key=item.governance_key.hex(),
        cosigner_key=item.cosigner_key.hex(),
        ca_certificate=item.ca_certificate,
        changed=turn.seq,
    )
    refusal = _may_join(turn, act, domain)
    if refusal is not None:
        return refusal
    node = Node(
        node=item.node.id,
        domain=item.domain,
        peer_address=item.node.peer_address,
        signing_key=item.node.signing_key.hex(),
        log_key=item.node.log_key.hex(),
        role=Role.VOTER,
        status=Status.ACTIVE,
        changed=turn.seq,
        protocol=turn.view.federation().protocol,
    )
    state.save_member(turn.store, domain, node)
    return Done.named(domain.id)


def _may_join(turn: Turn, act: AdmitDomain, joining: Domain) -> Deny | None:
    item, view = act.descriptor, turn.view
    known = view.domain(item.domain)
    if known is not None:
        final = known.status is Status.REVOKED
        return Deny(Reason.FINAL if final else Reason.ALREADY_EXISTS, known.id)
    members = [*view.domains(), joining]
    longest = longest_document(members, view.federation().protocol)
    if len(members) > MAX_DOMAINS or longest > MAX_GENESIS_BYTES:
        return Deny(Reason.LIMIT_EXCEEDED, item.domain)
    for public_key in item.keys:
        if view.key_owner(public_key.hex()) is not None:
            return Deny(Reason.ALREADY_EXISTS, public_key.hex())
    if any(node.peer_address == item.node.peer_address for node in view.active_nodes()):
        return Deny(Reason.ALREADY_EXISTS, item.node.peer_address)
    return None


def _judge_domain(turn: Turn, act: JudgeDomain) -> Verdict:
    domain = turn.view.domain(act.domain)
    if domain is None:
        return Deny(Reason.UNKNOWN_DOMAIN, act.domain)
    by_others = domain.suspended_by == BY_BALLOT
    if act.act is Act.REINSTATE and domain.status is Status.SUSPENDED and not by_others:
        return Deny(Reason.NOT_AUTHORIZED, domain.id)  # it has suspended itself
    # To have suspended itself is no way out of being suspended by the others.
    is_own = domain.status is Status.SUSPENDED and not by_others
    before = Status.ACTIVE if is_own and act.act is Act.SUSPEND else domain.status
    status = follow(before, act.act)
    if isinstance(status, Reason):
        return Deny(status, domain.id)
    if status is Status.REVOKED and (refusal := _retire_all(turn, domain)) is not None:
        return refusal
    suspended_by = BY_BALLOT if status is Status.SUSPENDED else ""
    changed = replace(domain, status=status, suspended_by=suspended_by, changed=turn.seq)
    if status is Status.REVOKED:
        changed = publishing.ended(turn, changed)
    state.save_domain(turn.store, changed)
    return Done.named(domain.id)


def _retire_all(turn: Turn, domain: Domain) -> Deny | None:
    """Nobody of an expelled domain takes part any more; somebody must be left to vote."""
    nodes = list(turn.view.active_nodes())
    if not any(node.votes for node in nodes if node.domain != domain.id):
        return Deny(Reason.LAST_VOTER, domain.id)
    for node in nodes:
        if node.domain == domain.id:
            state.save_node(turn.store, replace(node, status=Status.REVOKED, changed=turn.seq))
    return None


def _set_thresholds(turn: Turn, act: SetThresholds) -> Verdict:
    if _beyond_majority(turn.view.thresholds()) == _beyond_majority(act.thresholds):
        return Deny(Reason.ILLEGAL_TRANSITION, Verb.FEDERATION_SET_THRESHOLDS)
    state.save_thresholds(turn.store, act.thresholds)
    return Done.named(turn.command.origin)


def _set_parameters(turn: Turn, act: SetParameters) -> Verdict:
    """From the next command on. Who waits for something to be over counts by the largest that were
    ever in force (docs/authority.md)."""
    federation = turn.view.federation()
    if act.parameters == federation.parameters:
        return Deny(Reason.ILLEGAL_TRANSITION, Verb.FEDERATION_SET_PARAMETERS)
    widest = federation.bounding.joined(act.parameters)
    changed = replace(
        federation,
        parameters=act.parameters,
        widest=None if widest == act.parameters else widest,
        ledger_time=turn.ledger_time,
    )
    state.save_federation(turn.store, changed)
    return Done.named(federation.origin)


def _set_rates(turn: Turn, act: SetRates) -> Verdict:
    federation = turn.view.federation()
    if act.rates == federation.rates:
        return Deny(Reason.ILLEGAL_TRANSITION, Verb.FEDERATION_SET_RATES)
    changed = replace(federation, rates=act.rates, ledger_time=turn.ledger_time)
    state.save_federation(turn.store, changed)
    return Done.named(federation.origin)


def _upgrade_federation(turn: Turn, act: UpgradeFederation) -> Verdict:
    """One version at a time, when every node has said that its program knows it: whoever does not
    stops."""
    federation = turn.view.federation()
    if act.protocol != federation.protocol + 1:
        return Deny(Reason.ILLEGAL_TRANSITION, f"protocol {act.protocol}")
    for node in turn.view.active_nodes():
        if node.protocol < act.protocol:
            return Deny(Reason.UNSUPPORTED_PROTOCOL, node.id)
    if longest_document(turn.view.domains(), act.protocol) > MAX_GENESIS_BYTES:
        return Deny(Reason.LIMIT_EXCEEDED, federation.origin)
    upgraded = replace(federation, protocol=act.protocol, ledger_time=turn.ledger_time)
    state.save_federation(turn.store, upgraded)
    return Done.named(federation.origin)


def _freeze_federation(turn: Turn, act: FreezeFederation) -> Verdict:
    """What a domain has frozen of its own is another matter: both must let an act through."""
    federation = turn.view.federation()
    if federation.frozen is not None:
        return Deny(Reason.ILLEGAL_TRANSITION, federation.origin)
    frozen = Freeze(act.actions, turn.seq)
    changed = replace(federation, frozen=frozen, ledger_time=turn.ledger_time)
    state.save_federation(turn.store, changed)
    done = executed(Verb.FEDERATION_FREEZE, federation.origin, frozen)
    return Done(federation.origin, done)


def _thaw_federation(turn: Turn) -> Verdict:
    federation = turn.view.federation()
    if federation.frozen is None:
        return Deny(Reason.ILLEGAL_TRANSITION, federation.origin)
    changed = replace(federation, frozen=None, ledger_time=turn.ledger_time)
    state.save_federation(turn.store, changed)
    done = executed(Verb.FEDERATION_THAW, federation.origin, federation.frozen)
    return Done(federation.origin, done)
