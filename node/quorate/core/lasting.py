"""What of one thing stays for ever, or only shrinks, whatever commands come.

Owns the comparison of a record with what has become of it, for tests and for whoever is sent a
state (`quorate.core.succession`).
"""

from __future__ import annotations

from quorate.core.patterns import scope_outside
from quorate.core.proposals import Proposal, ProposalStatus
from quorate.core.records import (
    Node,
    Policies,
    TrustEdge,
)
from quorate.core.status import Status
from quorate.core.stored import Lasting


def what_did_not_stay(old: Lasting, new: Lasting | None) -> str:
    """What is final of one thing, or only shrinks, and did not stay so; empty: nothing. new: what
    has become of it."""
    if new is None:
        return f"{old.kind} {old.id} is gone"
    if isinstance(old, Proposal):
        return _what_a_proposal_lost(old, new)
    if isinstance(old, Policies) or isinstance(new, Policies):
        return _what_policies_lost(old, new)
    if old.status is Status.REVOKED and new != old:
        return f"{old.kind} {old.id} was revoked, and has changed"
    if isinstance(old, TrustEdge) and isinstance(new, TrustEdge) and not _narrows(old, new):
        return f"trust {old.id} is for another domain, or for more"
    if isinstance(old, Node) and isinstance(new, Node) and _identity(old) != _identity(new):
        return f"node {old.id} has other keys or another address"
    return ""


def _what_a_proposal_lost(old: Proposal, new: Lasting) -> str:
    if old.status is not ProposalStatus.OPEN and new != old:
        return f"proposal {old.id} was closed, and has changed"
    if not isinstance(new, Proposal) or _proposed(old) != _proposed(new):
        return f"proposal {old.id} is for something else"
    return ""


def _what_policies_lost(old: Lasting, new: Lasting) -> str:
    """Versions are counted up, and each is one set, until it is retired. `changed` is not looked
    at: a recovery begins the count of entries anew."""
    assert isinstance(old, Policies)
    if not isinstance(new, Policies) or new.version < old.version:
        return f"the policies of {old.id} are an earlier version"
    if new.version == old.version and new.text not in {old.text, ""}:
        return f"the policies of {old.id} are another set of the same version"
    return ""


def _proposed(proposal: Proposal) -> tuple[object, ...]:
    """What of a proposal never changes."""
    asked = proposal.proposer, proposal.act, proposal.body, proposal.base
    return *asked, proposal.protocol, proposal.opened_at, proposal.expires_at


def _narrows(old: TrustEdge, new: TrustEdge) -> bool:
    """Whether an edge can have become this one: it leads to the same domain, for no more."""
    is_same = (old.trustee, old.max_depth) == (new.trustee, new.max_depth)
    return is_same and scope_outside(new, old) is None


def _identity(node: Node) -> tuple[str, ...]:
    """What of a node never changes."""
    return node.domain, node.peer_address, node.signing_key, node.log_key
