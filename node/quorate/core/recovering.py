"""The state as a recovery leaves it.

Owns what is carried over and what is not. Domains, executors, trust, grants, what executors have to
prove and have proved, and what is remembered of commands stay as they were. Each surviving domain
goes on with one node, which votes; every other node is retired. Every lease that was in force is
ended: the quorum may have ended it already, or given its place to another, and nobody is left to
ask; so is every proposal that was open: ballots may be lost that withdrew what is counted. What is
frozen stays so, as do policies. Does not own who may decide on a recovery
(`quorate.core.recovery`), nor where state and ledger lie.
"""

from __future__ import annotations

from dataclasses import replace

from quorate.core import entries, keys, state
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.frozen import Freeze
from quorate.core.genesis import Descriptor
from quorate.core.outcome import Outcome
from quorate.core.proposals import ProposalStatus
from quorate.core.records import BY_BALLOT, Domain, Federation, LeaseStatus, Node, Role
from quorate.core.recovery import FENCE_MARGIN, Recovery
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import Writer


def first_leaf(recovery: Recovery) -> bytes:
    """Leaf 0 of the new ledger."""
    return entries.entry(
        origin=recovery.origin,
        kind=entries.RECOVERY,
        outcome=Outcome(True, None, "", 0, recovery.hash.hex()),
        ledger_time=recovery.created,
        command=entries.of_envelope(recovery.envelope),
    )


def next_fence_base(former: Federation, ledger_size: int) -> int:
    """Beyond every fence that the former ledger gave, lost entries and all."""
    return former.fence_base + ledger_size + FENCE_MARGIN


def check_carried(view: StateView, recovery: Recovery) -> None:
    """Raises MalformedError unless the document is about this very state: its federation, with
    these domains and nodes, and no fence or moment of it comes again."""
    federation, former = view.federation(), recovery.former
    if (federation.origin, federation.genesis_hash) != (former.origin, former.genesis_hash):
        raise MalformedError("is about another federation", field="former")
    if federation.parameters != recovery.parameters:
        raise MalformedError("are not those of the federation", field="parameters")
    if federation.protocol != recovery.protocol:
        raise MalformedError("is not that of the federation", field="protocol")
    if recovery.created < federation.ledger_time:
        raise MalformedError("is before the former ledger's time", field="created")
    if recovery.fence_base != next_fence_base(federation, former.ledger_size):
        raise MalformedError("does not follow from the former ledger", field="fence_base")
    domains = view.domains()
    if [item.domain for item in recovery.descriptors] != [item.id for item in domains]:
        raise MalformedError("are not those of the state", field="domains")
    suspended_by = {item.id: item.suspended_by for item in domains if item.suspended_by}
    expelled = tuple(item.id for item in domains if item.status is Status.REVOKED)
    if (suspended_by, expelled) != (recovery.suspended_by, recovery.expelled):
        raise MalformedError("are not suspended or expelled as in the state", field="domains")
    if (federation.frozen is not None) != recovery.is_frozen:
        raise MalformedError("is not as in the state", field="frozen")
    if federation.rates != recovery.rates:
        raise MalformedError("are not those of the state", field="rates")
    if federation.policies != recovery.policies:
        raise MalformedError("are not those of the state", field="policies")
    if view.thresholds() != recovery.thresholds:
        raise MalformedError("are not those of the state", field="thresholds")
    for item in recovery.descriptors:
        _check_domain(view, item, survives=item.domain in recovery.survivors)


def _check_domain(view: StateView, item: Descriptor, *, survives: bool) -> None:
    domain, node = view.domain(item.domain), view.node(item.node.id)
    assert domain is not None
    known = domain.governance_key, domain.cosigner_key, domain.authorities, domain.key_set
    said = item.governance_key.hex(), item.cosigner_key.hex(), item.authorities, item.key_set
    if known != said:
        raise MalformedError(f"describes {item.domain} otherwise than the state", field="domains")
    if node is None or (
        (node.signing_key, node.log_key) != (item.node.signing_key.hex(), item.node.log_key.hex())
    ):
        raise MalformedError(f"describes {item.node.id} otherwise than the state", field="domains")
    if survives and node.retired:
        raise MalformedError(f"{item.node.id} is retired", field="domains")


def carry_over(store: Writer, recovery: Recovery) -> bytes:
    """Makes the former state, which `store` holds, that of the new ledger; returns leaf 0. Raises
    MalformedError, with nothing written, when the document is not about it."""
    view = StateView(store)
    check_carried(view, recovery)
    named = {item.node.id: item for item in recovery.descriptors}
    for node in view.nodes():
        if node.id in named:
            state.save_node(store, _node(recovery, named[node.id]))
        elif not node.retired:
            state.save_node(store, replace(node, status=Status.REVOKED, changed=0))
    _carry_domains(store, view, recovery)
    for lease in list(view.leases()):
        if lease.status is LeaseStatus.ACTIVE and not lease.expired(recovery.created):
            state.save_lease(store, replace(lease, status=LeaseStatus.RELEASED, changed=0), lease)
    for contained in list(view.containments()):  # as what is frozen
        state.save_containment(store, replace(contained, since=0, changed=0), contained)
    for proposal in list(view.proposals()):
        if proposal.status is ProposalStatus.OPEN:
            closed = replace(proposal, status=ProposalStatus.WITHDRAWN, changed=0)
            state.save_proposal(store, closed)
    for proof, _ in list(store.scan(keys.REKEYINGS)):  # the document is the new root of all keys
        store.delete(proof)
    was = view.federation()
    carried = replace(
        _federation(recovery),
        frozen=_since_now(was.frozen),
        widest=was.widest,
    )
    state.save_federation(store, carried)
    return first_leaf(recovery)


def _carry_domains(store: Writer, view: StateView, recovery: Recovery) -> None:
    """With what each has of its own, beyond what the document says of it."""
    for item in recovery.descriptors:
        former = view.domain(item.domain)
        assert former is not None, "the document was checked"
        frozen = _since_now(former.frozen)
        references = former.references
        if former.status is Status.REVOKED:  # final, and so as the document alone has it
            for each in list(view.references(former.id)):
                state.drop_reference(store, each)
            references = 0
        domain = replace(
            _domain(recovery, item),
            frozen=frozen,
            references=references,
            policies=former.policies,
        )
        state.save_domain(store, domain)
    # The new ledger counts from 1: what comes next must not look earlier than what is there.
    for reference in list(view.all_references()):
        state.save_reference(store, replace(reference, changed=0))
    for executor in list(view.executors()):
        if executor.attestations or executor.failed_at:
            proofs = tuple(replace(each, reported=0) for each in executor.attestations)
            state.save_executor(store, replace(executor, attestations=proofs, failed_at=0))
    for owner in (BY_BALLOT, *(item.domain for item in recovery.descriptors)):
        policies = view.policies(owner)
        if policies is not None:
            state.save_policies(store, replace(policies, changed=0))


def begin_without(store: Writer, recovery: Recovery) -> bytes:
    """What the document alone says of the federation, in an empty store; returns leaf 0. For a node
    that is sent the state by the others, and decides nothing before it has it."""
    if StateView(store).installed():
        raise StorageDamagedError("the store has a federation already")
    state.save_federation(store, _federation(recovery))
    for item in recovery.descriptors:
        state.save_domain(store, _domain(recovery, item))
        state.save_node(store, _node(recovery, item))
    if recovery.thresholds:
        state.save_thresholds(store, recovery.thresholds)
    return first_leaf(recovery)


def _domain(recovery: Recovery, item: Descriptor) -> Domain:
    """As the document has it. The same with the former state and without it: what is final must
    not look changed to a node that began with the document alone, and is sent the state."""
    return Domain(
        domain=item.domain,
        status=_status(recovery, item.domain),
        suspended_by=recovery.suspended_by.get(item.domain, ""),
        governance_key=item.governance_key.hex(),
        cosigner_key=item.cosigner_key.hex(),
        ca_certificate=item.ca_certificate,
        changed=0,
        key_set=item.key_set,
        next_ca=item.next_ca,
    )


def _node(recovery: Recovery, item: Descriptor) -> Node:
    """A domain's node that the document names, as `_domain`."""
    survives = item.domain in recovery.survivors
    return Node(
        node=item.node.id,
        domain=item.domain,
        peer_address=item.node.peer_address,
        signing_key=item.node.signing_key.hex(),
        log_key=item.node.log_key.hex(),
        role=Role.VOTER,
        status=Status.ACTIVE if survives else Status.REVOKED,
        changed=0,
        protocol=recovery.protocol,
    )


def _status(recovery: Recovery, domain: str) -> Status:
    if domain in recovery.expelled:
        return Status.REVOKED
    return Status.SUSPENDED if domain in recovery.suspended_by else Status.ACTIVE


def _federation(recovery: Recovery) -> Federation:
    return Federation(
        origin=recovery.origin,
        genesis_hash=recovery.hash.hex(),
        created=recovery.created,
        parameters=recovery.parameters,
        ledger_time=recovery.created,
        fence_base=recovery.fence_base,
        protocol=recovery.protocol,
        frozen=Freeze((), 0) if recovery.is_frozen else None,
        rates=recovery.rates,
        policies=recovery.policies,
    )


def _since_now(frozen: Freeze | None) -> Freeze | None:
    """What is frozen stays so; the new ledger has no entry that says since when."""
    return None if frozen is None else replace(frozen, since=0)
