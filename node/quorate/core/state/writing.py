"""Writing typed records, and every index that they belong in."""

from __future__ import annotations

from itertools import islice

from quorate.core import codec, keys
from quorate.core.errors import StorageDamagedError
from quorate.core.keysets import all_keys
from quorate.core.proposals import Proposal, ProposalStatus
from quorate.core.records import (
    Containment,
    Domain,
    Executor,
    Federation,
    Grant,
    Lease,
    LeaseStatus,
    Node,
    Policies,
    Reference,
    TrustEdge,
)
from quorate.core.remembered import Remembered
from quorate.core.state.view import StateView
from quorate.core.status import Status
from quorate.core.store import Writer
from quorate.core.stored import Stored
from quorate.core.thresholds import Thresholds, thresholds_to_json


def save_federation(store: Writer, federation: Federation) -> None:
    store.put(keys.FEDERATION, codec.encode(federation.to_json()))
    save_ledger_time(store, federation.ledger_time)


def save_ledger_time(store: Writer, ledger_time: int) -> None:
    store.put(keys.LEDGER_TIME, keys.number(ledger_time))


def save_domain(store: Writer, domain: Domain) -> None:
    _save(store, domain)


def save_node(store: Writer, node: Node) -> None:
    """Writes the node; a retired one leaves the index of those that are not."""
    _save(store, node)
    key = keys.active_node(node.node)
    if node.retired:
        store.delete(key)
    else:
        store.put(key, b"")


def save_member(store: Writer, domain: Domain, node: Node) -> None:
    """Writes a domain that comes to be, with its first node and the keys of both."""
    save_domain(store, domain)
    save_node(store, node)
    count_node(store, domain.id, 1)
    for public_key in all_keys(domain):
        claim_key(store, public_key, domain.id)
    for public_key in (node.signing_key, node.log_key):
        claim_key(store, public_key, node.id)


def count_node(store: Writer, domain: str, count: int) -> None:
    store.put(keys.node_count(domain), keys.number(count))


def claim_key(store: Writer, public_key: str, owner: str) -> None:
    """Files a public key (hex) under the domain or node that it belongs to, for ever."""
    store.put(keys.public_key(public_key), owner.encode("ascii"))


def save_executor(store: Writer, executor: Executor) -> None:
    _save(store, executor)


def count_executor(store: Writer, domain: str, count: int) -> None:
    store.put(keys.executor_count(domain), keys.number(count))


def save_edge(store: Writer, edge: TrustEdge) -> None:
    """Writes the edge; a closed one leaves the index, so that closing makes room."""
    _save(store, edge)
    key = keys.edge_of_pair(edge.truster, edge.trustee, edge.edge)
    if edge.status is Status.REVOKED:
        store.delete(key)
    else:
        store.put(key, b"")


def save_grant(store: Writer, grant: Grant, ledger_time: int) -> None:
    """Writes the grant, and files it under those that may yet permit or those that never will.

    A grant that merely grew old stays where it is until somebody files it again: both the rules
    and the limits look at the grant itself.
    """
    _save(store, grant)
    spent = grant.status is Status.REVOKED or grant.exhausted or grant.expired(ledger_time)
    here, gone = keys.LIVE_GRANTS, keys.SPENT_GRANTS
    if spent:
        here, gone = gone, here
    store.put(keys.grant_of_executor(here, grant.executor, grant.issuer, grant.grant), b"")
    store.delete(keys.grant_of_executor(gone, grant.executor, grant.issuer, grant.grant))


def save_lease(store: Writer, lease: Lease, before: Lease | None) -> None:
    """Writes the lease in the place of `before`. A released one leaves the count of its grant, and
    of those behind it."""
    _save(store, lease)
    for grant in lease.grants:
        change = 0
        if before is not None:
            store.delete(keys.lease_of_grant(grant, before.expires_at, before.lease))
            change -= 1
        if lease.status is LeaseStatus.ACTIVE:
            store.put(keys.lease_of_grant(grant, lease.expires_at, lease.lease), b"")
            change += 1
        _count_leases(store, grant, change)


def save_proposal(store: Writer, proposal: Proposal) -> None:
    """Writes the proposal; one that is closed leaves the index of those that are open."""
    _save(store, proposal)
    key = keys.open_proposal(proposal.proposer, proposal.id)
    if proposal.status is ProposalStatus.OPEN:
        store.put(key, b"")
    else:
        store.delete(key)


def drop_expired_proposals(store: Writer, proposer: str, ledger_time: int) -> None:
    """Takes what has expired out of the index of a domain's open proposals; the records stay."""
    for proposal in list(StateView(store).open_proposals(proposer)):
        if proposal.expired(ledger_time):
            store.delete(keys.open_proposal(proposer, proposal.id))


def save_containment(store: Writer, after: Containment, before: Containment | None) -> None:
    """Writes it in the place of `before`; one that nobody wants any more goes."""
    _save(store, after)
    if not after.by:
        store.delete(keys.RECORDS[after.kind] + after.id.encode("ascii"))
    was = before.by if before is not None else ()
    for domain in dict.fromkeys((*was, *after.by)):
        _count_containments(store, domain, (domain in after.by) - (domain in was))


def _count_containments(store: Writer, domain: str, change: int) -> None:
    for whose in (domain, ""):
        key = keys.containment_count(whose)
        count = int.from_bytes(store.get(key) or b"", "big") + change
        if count < 0:
            raise StorageDamagedError("what is contained was counted wrongly")
        if count:
            store.put(key, keys.number(count))
        else:
            store.delete(key)


def save_policies(store: Writer, policies: Policies) -> None:
    """Writes them alone: that they are in force is said in the record of whose they are."""
    _save(store, policies)


def save_thresholds(store: Writer, thresholds: Thresholds) -> None:
    store.put(keys.THRESHOLDS, codec.encode(thresholds_to_json(thresholds)))


def save_reference(store: Writer, reference: Reference) -> None:
    _save(store, reference)


def drop_reference(store: Writer, reference: Reference) -> None:
    """A reference that is retired is gone: the ledger has it."""
    key = keys.record(reference.kind, reference.id)
    assert key is not None, "it was read"
    store.delete(key)


def save_lineage(store: Writer, lease: Lease) -> None:
    """Writes a lease of which nothing but its lineage has changed: it stays in its grant's count,
    or out of it."""
    _save(store, lease)


def save_lineage_head(store: Writer, node: str, head: str) -> None:
    store.put(keys.lineage_head(node), bytes.fromhex(head))


def drop_expired_leases(store: Writer, grant: Grant, ledger_time: int, most: int) -> None:
    """Takes at most `most` expired leases out of their grant's count; their records stay."""
    prefix = keys.all_leases_of_grant(grant.id)
    end = keys.leases_of_grant(grant.id, ledger_time + 1)
    expired = [key for key, _ in islice(store.scan(prefix), most) if key < end]
    for key in expired:
        store.delete(key)
    _count_leases(store, grant.id, -len(expired))


def _count_leases(store: Writer, grant_id: str, change: int) -> None:
    if change == 0:
        return
    key = keys.lease_count(grant_id)
    count = int.from_bytes(store.get(key) or b"", "big") + change
    if count < 0:
        raise StorageDamagedError(f"the leases of {grant_id} were counted wrongly")
    store.put(key, keys.number(count))


def remember(store: Writer, remembered: Remembered, before: Remembered | None = None) -> None:
    command_id = remembered.outcome.command_id
    if before is not None:
        store.delete(keys.forgetting(before.not_after, command_id))
    store.put(keys.outcome(command_id), codec.encode(remembered.to_json()))
    store.put(keys.forgetting(remembered.not_after, command_id), b"")


def forget(store: Writer, ledger_time: int, most: int) -> None:
    """Forgets at most `most` outcomes of commands that could not be executed again anyhow."""
    end = keys.FORGETTING + keys.number(ledger_time)
    for key, _ in list(islice(store.scan(keys.FORGETTING), most)):
        if key < end:
            store.delete(key)
            store.delete(keys.OUTCOMES + key[len(end) :])


def _save(store: Writer, record: Stored) -> None:
    key = keys.record(record.kind, record.id)
    assert key is not None, "ids are checked before they are written"
    store.put(key, codec.encode(record.to_json()))
