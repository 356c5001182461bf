"""The commands of domains about their nodes: who is a member of the federation, and who votes.

Owns what each may change and when. A domain decides about its own nodes only, and has at most one
voter: no domain can give itself a second vote, or take another's. Retiring is final, for the id and
for its keys. Does not own how the replicated log gets there: the leader follows this state, one
change of the configuration at a time, and nothing here waits for it.
"""

from __future__ import annotations

from dataclasses import replace

from quorate.core import state
from quorate.core.bodies import AddNode, AssignRole, DeclareNode, RetireNode
from quorate.core.governing import is_new, may_widen
from quorate.core.ids import SpiffeId
from quorate.core.limits import MAX_NODES_EVER_PER_DOMAIN, MAX_NODES_PER_DOMAIN
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Node, Role
from quorate.core.status import Act, Status, follow
from quorate.core.turn import Done, Turn, Verdict


def add_node(turn: Turn, body: AddNode) -> Verdict:
    if not _owns(turn, body.node):
        return Deny(Reason.NOT_AUTHORIZED, body.node)
    refusal = (
        may_widen(turn)
        or is_new(turn.view.node(body.node))
        or _has_room(turn)
        or _is_taken(turn, body)
        or (_may_vote(turn) if body.role is Role.VOTER else None)
    )
    if refusal is not None:
        return refusal
    node = Node(
        node=body.node,
        domain=turn.domain.id,
        peer_address=body.peer_address,
        signing_key=body.signing_key,
        log_key=body.log_key,
        role=body.role,
        status=Status.ACTIVE,
        changed=turn.seq,
        protocol=turn.view.federation().protocol,
    )
    state.save_node(turn.store, node)
    state.count_node(turn.store, node.domain, turn.view.node_count(node.domain) + 1)
    for public_key in (node.signing_key, node.log_key):
        state.claim_key(turn.store, public_key, node.id)
    return Done.named(node.id)


def assign_role(turn: Turn, body: AssignRole) -> Verdict:
    node = _own_node(turn, body.node)
    if isinstance(node, Deny):
        return node
    promoting = body.role is Role.VOTER
    refusal = may_widen(turn) if promoting else None
    if refusal is not None:
        return refusal
    if node.retired:
        return Deny(Reason.FINAL, node.id)
    if node.role is body.role:
        return Deny(Reason.ILLEGAL_TRANSITION, node.id)
    refusal = _may_vote(turn) if promoting else _may_stop_voting(turn, node)
    if refusal is not None:
        return refusal
    state.save_node(turn.store, replace(node, role=body.role, changed=turn.seq))
    return Done.named(node.id)


def retire_node(turn: Turn, body: RetireNode) -> Verdict:
    node = _own_node(turn, body.node)
    if isinstance(node, Deny):
        return node
    status = follow(node.status, Act.REVOKE)
    if isinstance(status, Reason):
        return Deny(status, node.id)
    refusal = _may_stop_voting(turn, node)
    if refusal is not None:
        return refusal
    state.save_node(turn.store, replace(node, status=status, changed=turn.seq))
    return Done.named(node.id)


def declare_node(turn: Turn, body: DeclareNode) -> Verdict:
    """A node says which rules its program knows: an upgrade waits for all (`balloting`)."""
    node = turn.view.node(turn.command.issuer)
    assert node is not None, "a node has signed it"
    if body.protocol < turn.view.federation().protocol:
        return Deny(Reason.UNSUPPORTED_PROTOCOL, node.id)
    if body.protocol == node.protocol:
        return Deny(Reason.ILLEGAL_TRANSITION, node.id)
    state.save_node(turn.store, replace(node, protocol=body.protocol, changed=turn.seq))
    return Done.named(node.id)


def _owns(turn: Turn, node: str) -> bool:
    return SpiffeId.parse(node).trust_domain == turn.domain.id


def _own_node(turn: Turn, ident: str) -> Node | Deny:
    if not _owns(turn, ident):
        return Deny(Reason.NOT_AUTHORIZED, ident)
    return turn.view.node(ident) or Deny(Reason.NOT_FOUND, ident)


def _has_room(turn: Turn) -> Deny | None:
    active = sum(1 for _ in turn.view.active_nodes(turn.domain.id))
    ever = turn.view.node_count(turn.domain.id)
    if active >= MAX_NODES_PER_DOMAIN or ever >= MAX_NODES_EVER_PER_DOMAIN:
        return Deny(Reason.LIMIT_EXCEEDED, turn.domain.id)
    return None


def _is_taken(turn: Turn, body: AddNode) -> Deny | None:
    """Whether a key was ever anybody's, or an active node is where the new one wants to be. What a
    retired node leaves behind is its address, not its keys."""
    for public_key in (body.signing_key, body.log_key):
        if turn.view.key_owner(public_key) is not None:
            return Deny(Reason.ALREADY_EXISTS, public_key)
    if any(node.peer_address == body.peer_address for node in turn.view.active_nodes()):
        return Deny(Reason.ALREADY_EXISTS, body.peer_address)
    return None


def _may_vote(turn: Turn) -> Deny | None:
    """One voter a domain: whoever is in the way is what the denial is about."""
    for node in turn.view.active_nodes(turn.domain.id):
        if node.votes:
            return Deny(Reason.LIMIT_EXCEEDED, node.id)
    return None


def _may_stop_voting(turn: Turn, node: Node) -> Deny | None:
    """Somebody must be left to decide anything at all, of whatever domain."""
    others = (other for other in turn.view.active_nodes() if other.id != node.id)
    if node.votes and not any(other.votes for other in others):
        return Deny(Reason.LAST_VOTER, node.id)
    return None
