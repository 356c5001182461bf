"""Publishing policies, and retiring them: a domain's own, and what domains agree on together.

Owns what each may change and when. What is published takes the place of what was there, in one
entry. That may let something through which was not; so whoever has policies in force and is not
active cannot replace or retire them. Who has none may always publish: that can only narrow. What
they say of a request is `quorate.core.policies`'.
"""

from __future__ import annotations

from dataclasses import replace

from quorate.core import cedar, state
from quorate.core.acts import SetPolicy
from quorate.core.bodies import PublishPolicy, RetirePolicy
from quorate.core.errors import MalformedError
from quorate.core.governing import may_widen
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Domain, Federation, Policies, PolicyMark, digest_of
from quorate.core.turn import Done, Turn, Verdict
from quorate.core.verbs import Verb


def publish_policy(turn: Turn, body: PublishPolicy) -> Verdict:
    refusal = may_widen(turn) if turn.domain.has_policies else None
    return refusal or _told(turn, turn.domain, body.text)


def retire_policy(turn: Turn, _body: RetirePolicy) -> Verdict:
    return may_widen(turn) or _told(turn, turn.domain, "")


def set_policy(turn: Turn, act: SetPolicy) -> Verdict:
    return _decided(turn, Verb.FEDERATION_SET_POLICY, act.text)


def retire_federation_policy(turn: Turn) -> Verdict:
    return _decided(turn, Verb.FEDERATION_RETIRE_POLICY, "")


def ended(turn: Turn, domain: Domain) -> Domain:
    """A domain that is expelled: nothing is let through any more, for ever, and it says nothing of
    it. Whoever begins with the document of a recovery alone does not know that it ever did."""
    found = turn.view.policies(domain.policies_id)
    if found is not None and found.text:
        state.save_policies(turn.store, replace(found, text="", changed=turn.seq))
    return replace(domain, frozen=None, policies=None)


def _told(turn: Turn, domain: Domain, text: str) -> Verdict:
    policies = _put(turn, domain, text)
    if isinstance(policies, Deny):
        return policies
    return Done(domain.id, {"id": domain.id, "version": policies.version})


def _decided(turn: Turn, verb: Verb, text: str) -> Verdict:
    """What stands in the entry of the ballot that decided it: also the text, so that whoever
    follows the ledger knows for which leases it changes something."""
    federation = turn.view.federation()
    policies = _put(turn, federation, text)
    if isinstance(policies, Deny):
        return policies
    done = {"type": verb, "thing": federation.id, "version": policies.version, "text": text}
    return Done(federation.id, {"id": federation.id, "executed": done})


def _put(turn: Turn, item: Domain | Federation, text: str) -> Policies | Deny:
    """The set in force from here on; empty: none. By the mark alone: behind a recovery, whoever
    decides the ledger again knows what was in force by nothing else."""
    before = item.policies or PolicyMark(0, "")
    if (digest_of(text) if text else "") == before.sha256:
        return Deny(Reason.ILLEGAL_TRANSITION, item.id)
    if text:
        try:
            cedar.check_set(text)
        except MalformedError:
            return Deny(Reason.POLICY_BROKEN, item.id)
    version = before.version + 1 if text else before.version
    policies = Policies(item.policies_id, version, text, turn.seq)
    state.save_policies(turn.store, policies)
    if isinstance(item, Federation):
        changed = replace(item, policies=policies.mark, ledger_time=turn.ledger_time)
        state.save_federation(turn.store, changed)
    else:
        state.save_domain(turn.store, replace(item, policies=policies.mark))
    return policies
