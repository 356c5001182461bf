"""What must hold of every state, whatever commands made it.

Owns the checks that tests, the simulator and chaos run. They look at everything, so that they take
as long as the state is large; a running node, which is sent a state, depends on what one thing
must be held to alone (`quorate.core.lasting`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from quorate.core import protocol
from quorate.core.conditions import check_conditions
from quorate.core.containment import containers
from quorate.core.delegation import chain_of, why_unmet
from quorate.core.errors import MalformedError
from quorate.core.keysets import all_keys, check_keyed
from quorate.core.lasting import what_did_not_stay
from quorate.core.limits import (
    MAX_CONCURRENT_LEASES,
    MAX_CONTAINMENTS_PER_DOMAIN,
    MAX_EDGES_PER_PAIR,
    MAX_EVENTS_PER_LEASE,
    MAX_GRANTS_PER_EXECUTOR_AND_ISSUER,
    MAX_LEASE_TTL_MS,
    MAX_NODES_EVER_PER_DOMAIN,
    MAX_NODES_PER_DOMAIN,
    MAX_OPEN_PROPOSALS_PER_DOMAIN,
    MAX_REFERENCES_PER_DOMAIN,
)
from quorate.core.lineage import Stage
from quorate.core.patterns import covers, pattern_owner, scope_outside
from quorate.core.proposals import ProposalStatus
from quorate.core.records import (
    Domain,
    Grant,
    Lease,
    LeaseStatus,
    Node,
    TrustEdge,
    check_mark,
)
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.stored import Lasting

G = TypeVar("G", bound=Lasting)


def check(view: StateView) -> list[str]:
    """What is wrong with a state; empty when nothing is. Raises StorageError if it is damaged."""
    return [
        *_check_members(view),
        *_check_executors(view),
        *_check_proofs(view),
        *_check_trust(view),
        *_check_grants(view),
        *_check_leases(view),
        *_check_containments(view),
        *_check_proposals(view),
        *_check_policies(view),
    ]


def check_step(before: StateView, after: StateView) -> list[str]:
    """What is wrong with getting from one state to a later one: time that went back, or something
    final that did not stay."""
    problems = []
    if after.ledger_time() < before.ledger_time():
        problems.append(f"ledger time fell from {before.ledger_time()} to {after.ledger_time()}")
    problems += check_final(before, after)
    for lease in before.leases():
        later = after.lease(lease.id)
        if later is None:
            problems.append(f"lease {lease.id} is gone")
        elif later.fence != lease.fence:
            problems.append(f"lease {lease.id} has another fence")
        elif lease.status is LeaseStatus.RELEASED and _less_lineage(later) != _less_lineage(lease):
            problems.append(f"lease {lease.id} was released, and has changed")
        elif later.events < lease.events:
            problems.append(f"lease {lease.id} has lost events")
    return problems


def check_final(before: StateView, after: StateView) -> Iterator[str]:
    """What of the things that domains govern did not stay, though it is final, or grew, though it
    only narrows. One thing at a time:
    there may be more than memory holds."""
    pairs: Iterator[tuple[Lasting, Lasting | None]] = chain(
        _paired(before.domains(), after.domains()),
        _paired(before.nodes(), after.nodes()),
        _paired(before.executors(), after.executors()),
        _paired(before.trust_edges(), after.trust_edges()),
        _paired(before.grants(), after.grants()),
        _paired(before.proposals(), after.proposals()),
        _paired(before.all_policies(), after.all_policies()),
    )
    for old, new in pairs:
        problem = what_did_not_stay(old, new)
        if problem:
            yield problem


def _paired(before: Iterable[G], after: Iterable[G]) -> Iterator[tuple[G, G | None]]:
    """Each of the first with that of the second which has its id. Both ascend."""
    others = iter(after)
    other = next(others, None)
    for one in before:
        while other is not None and other.id < one.id:
            other = next(others, None)
        yield one, other if other is not None and other.id == one.id else None


def _check_members(view: StateView) -> Iterator[str]:
    domains = {domain.id: domain for domain in view.domains()}
    nodes = view.nodes()
    for node in nodes:
        if node.domain not in domains or not node.id.startswith(f"spiffe://{node.domain}/node/"):
            yield f"node {node.id} is of no domain, or of another than its id says"
        if node.status is Status.SUSPENDED:
            yield f"node {node.id} is suspended"
    if not any(node.votes for node in nodes):
        yield "nobody votes"
    active = [node for node in nodes if not node.retired]
    if list(view.active_nodes()) != active:
        yield "the index of active nodes disagrees with the nodes"
    if len({node.peer_address for node in active}) != len(active):
        yield "two active nodes have one peer address"
    for domain in domains:
        yield from _check_nodes(view, domain, [node for node in nodes if node.domain == domain])
    yield from _check_keys(view, domains.values(), nodes)
    for item in domains.values():
        if (item.status is Status.SUSPENDED) != bool(item.suspended_by):
            yield f"domain {item.id} does not know who suspended it"
        if item.status is Status.REVOKED and any(view.active_nodes(item.id)):
            yield f"domain {item.id} was expelled, and has nodes"
        if item.status is Status.REVOKED and item.frozen is not None:
            yield f"domain {item.id} was expelled, and its resources are frozen"
    yield from _check_frozen(view)


def _check_frozen(view: StateView) -> Iterator[str]:
    federation = view.federation()
    all_frozen = (federation.frozen, *(domain.frozen for domain in view.domains()))
    if federation.protocol < protocol.SECOND and any(each is not None for each in all_frozen):
        yield "something is frozen, which the first version does not know"


def _check_policies(view: StateView) -> Iterator[str]:
    federation = view.federation()
    domains = view.domains()
    gone = {item.id for item in domains if item.status is Status.REVOKED}
    marks = {item.policies_id: item.policies for item in domains}
    marks[federation.policies_id] = federation.policies
    found = {item.id: item for item in view.all_policies()}
    for owner in found.keys() - marks.keys():
        yield f"{owner} has policies, and is nobody"
    for owner, mark in marks.items():
        try:
            may_be = federation.protocol >= protocol.SECOND
            check_mark(mark, found.get(owner), may_be=may_be, is_over=owner in gone)
        except MalformedError as error:
            yield f"{owner} {error}"


def _check_nodes(view: StateView, domain: str, nodes: Sequence[Node]) -> Iterator[str]:
    """What must hold of the nodes of one domain."""
    active = [node for node in nodes if not node.retired]
    if list(view.active_nodes(domain)) != active or len(active) > MAX_NODES_PER_DOMAIN:
        yield f"domain {domain} has {len(active)} active nodes, or an index that disagrees"
    if sum(1 for node in nodes if node.votes) > 1:
        yield f"domain {domain} has more than one voter"
    if view.node_count(domain) != len(nodes) or len(nodes) > MAX_NODES_EVER_PER_DOMAIN:
        yield f"domain {domain} had {len(nodes)} nodes, and counted {view.node_count(domain)}"


def _check_keys(view: StateView, domains: Iterable[Domain], nodes: Iterable[Node]) -> Iterator[str]:
    used = [(key, item.id) for item in domains for key in all_keys(item)]
    used += [(key, item.id) for item in nodes for key in (item.signing_key, item.log_key)]
    if len({key for key, _ in used}) != len(used):
        yield "a key serves two purposes"
    may_be = view.federation().protocol >= protocol.SECOND
    for domain in view.domains():
        try:
            check_keyed(domain, may_be=may_be)
        except MalformedError as error:
            yield f"the keys of {domain.id}: {error}"
    for key, owner in used:
        if view.key_owner(key) != owner:
            yield f"the key {key} of {owner} is not on file as its own"


def _check_executors(view: StateView) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for executor in view.executors():
        counts[executor.domain] += 1
        if not executor.id.startswith(f"spiffe://{executor.domain}/"):
            yield f"executor {executor.id} is in another domain than its id says"
        if view.domain(executor.domain) is None:
            yield f"executor {executor.id} is of no domain"
    for domain in view.domains():
        if view.executor_count(domain.id) != counts[domain.id]:
            yield f"domain {domain.id} has {counts[domain.id]} executors, and counted otherwise"


def _check_proofs(view: StateView) -> Iterator[str]:
    counts = Counter(reference.domain for reference in view.all_references())
    for domain in view.domains():
        if domain.references != counts[domain.id]:
            yield f"domain {domain.id} has {counts[domain.id]} references, and counted otherwise"
    for executor in view.executors():
        if executor.suspended_for and executor.status is not Status.SUSPENDED:
            yield f"executor {executor.id} is not suspended, and says why it is"
        if (executor.suspended_by_domain or executor.failed_at) and not executor.suspended_for:
            yield f"executor {executor.id} does not say what it failed in"
        names = [each.reference for each in executor.attestations]
        if names != sorted({*names}) or len(names) > MAX_REFERENCES_PER_DOMAIN:
            yield f"executor {executor.id} has proofs that cannot be"


def _check_trust(view: StateView) -> Iterator[str]:
    pairs: dict[tuple[str, str], list[TrustEdge]] = {}
    for edge in view.trust_edges():
        if view.domain(edge.truster) is None or view.domain(edge.trustee) is None:
            yield f"edge {edge.id} has an end that is no domain"
        if edge.truster == edge.trustee:
            yield f"edge {edge.id} leads nowhere"
        foreign = any(pattern_owner(pattern) != edge.truster for pattern in edge.resources)
        if foreign and view.federation().protocol < protocol.SECOND:
            yield f"edge {edge.id} gives away what is another's"
        pairs.setdefault((edge.truster, edge.trustee), [])
        if edge.status is not Status.REVOKED:
            pairs[edge.truster, edge.trustee].append(edge)
    for pair, edges in pairs.items():
        if list(view.trust_between(*pair)) != edges:
            yield f"the index of open edges of {pair} disagrees with the edges"
        if len(edges) > MAX_EDGES_PER_PAIR:
            yield f"{pair} has {len(edges)} open edges"


def _check_grants(view: StateView) -> Iterator[str]:
    now = view.ledger_time()
    given = Counter(grant for lease in view.leases() for grant in lease.grants)
    filed: dict[str, set[str]] = {}
    for grant in view.grants():
        if view.executor(grant.executor) is None:
            yield f"grant {grant.id} is to nobody"
        if any(pattern_owner(pattern) != grant.issuer for pattern in grant.resources):
            yield f"grant {grant.id} gives away what is another's"
        if grant.uses != given[grant.id]:
            yield f"grant {grant.id} counts {grant.uses} uses, and gave {given[grant.id]} leases"
        parent = view.grant(*_split(grant.parent)) if grant.parent else None
        if grant.parent and (parent is None or not _is_part(grant, parent)):
            yield f"grant {grant.id} is no part of {grant.parent}"
        if not _is_asked_rightly(grant):
            yield f"grant {grant.id} has conditions that none can be"
        if grant.max_uses and grant.uses > grant.max_uses:
            yield f"grant {grant.id} was used {grant.uses} times"
        most = grant.max_concurrent or MAX_CONCURRENT_LEASES
        if view.leases_in_force(grant, now, most + 1) > most:
            yield f"grant {grant.id} has more than {most} leases in force"
        counted, filed_leases = view.leases_on_file(grant)
        if counted != filed_leases:
            yield f"grant {grant.id} counts {counted} leases on file, and has {filed_leases}"
        filed.setdefault(grant.executor, set()).add(grant.id)
    for executor, expected in filed.items():
        yield from _check_files(view, executor, expected)


def _check_files(view: StateView, executor: str, expected: set[str]) -> Iterator[str]:
    live = list(view.grants_for(executor))
    spent = list(view.grants_for(executor, spent=True))
    if {grant.id for grant in live} | {grant.id for grant in spent} != expected or len(live) + len(
        spent
    ) != len(expected):
        yield f"the grants of {executor} are not each filed once"
    for grant in live:
        if grant.status is Status.REVOKED or grant.exhausted:
            yield f"grant {grant.id} is over, and filed as if it were not"
    for grant in spent:
        if not (grant.status is Status.REVOKED or grant.exhausted or _expired(view, grant)):
            yield f"grant {grant.id} may permit, and is filed as if it could not"
    for issuer, count in Counter(grant.issuer for grant in live).items():
        if count > MAX_GRANTS_PER_EXECUTOR_AND_ISSUER:
            yield f"{executor} has {count} grants of {issuer}"


def _check_proposals(view: StateView) -> Iterator[str]:
    now, domains = view.ledger_time(), {domain.id for domain in view.domains()}
    is_open: dict[str, set[str]] = {domain: set() for domain in domains}
    for proposal in view.proposals():
        yes, no = {*proposal.yes}, {*proposal.no}
        if yes & no or not yes | no <= domains:
            yield f"proposal {proposal.id} has votes of nobody, or two of one"
        if proposal.status is ProposalStatus.OPEN and not proposal.expired(now):
            is_open[proposal.proposer].add(proposal.id)
    for domain, expected in is_open.items():
        filed = list(view.open_proposals(domain))
        if not expected <= {proposal.id for proposal in filed}:
            yield f"open proposals of {domain} are not on file"
        if any(proposal.status is not ProposalStatus.OPEN for proposal in filed):
            yield f"proposals of {domain} are closed, and filed as if they were not"
        if len(filed) > MAX_OPEN_PROPOSALS_PER_DOMAIN:
            yield f"{domain} has {len(filed)} open proposals"


def _check_leases(view: StateView) -> Iterator[str]:
    fences: Counter[int] = Counter()
    for lease in view.leases():
        fences[lease.fence] += 1
        if lease.fence < 1:
            yield f"lease {lease.id} has the fence {lease.fence}"
        if not lease.acquired_at < lease.expires_at <= view.ledger_time() + MAX_LEASE_TTL_MS:
            yield f"lease {lease.id} expires at {lease.expires_at}"
        yield from _check_references(view, lease)
        yield from _check_lineage(view, lease)
    for fence, count in fences.items():
        if count > 1:
            yield f"{count} leases have the fence {fence}"


def _less_lineage(lease: Lease) -> Lease:
    return replace(lease, stage=Stage.AUTHORIZED, events=0, lineage="")


def _check_lineage(view: StateView, lease: Lease) -> Iterator[str]:
    if any(view.lease(parent) is None for parent in lease.parents):
        yield f"lease {lease.id} came from one that does not exist"
    came_from = _ancestors(view, lease)
    rests_on = {executor for each in came_from for executor in each.executors}
    lists = {*lease.ancestors}, {*lease.ancestor_executors}
    if any(lists) and lists != ({each.id for each in came_from}, rests_on):
        yield f"lease {lease.id} does not say all that it came from"
    said = lease.events > 0
    if said != (lease.stage is not Stage.AUTHORIZED) or said != bool(lease.lineage):
        yield f"lease {lease.id} does not agree with itself about its events"
    if lease.events > MAX_EVENTS_PER_LEASE:
        yield f"lease {lease.id} has {lease.events} events"


def _ancestors(view: StateView, lease: Lease) -> list[Lease]:
    """By parents alone, one after the other."""
    found: dict[str, Lease] = {}
    left = list(lease.parents)
    while left:
        parent = view.lease(left.pop())
        if parent is not None and parent.id not in found:
            found[parent.id] = parent
            left += parent.parents
    return list(found.values())


def _check_containments(view: StateView) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for each in view.containments():
        lease = view.lease(each.thing)
        if lease is None and view.executor(each.thing) is None:
            yield f"{each.thing} is contained, and is nothing"
        elif not each.by or not {*each.by} <= containers(each.thing, lease):
            yield f"{each.thing} is contained by nobody who may"
        counts.update(each.by)
    if view.containment_count() != counts.total():
        yield "what is contained is counted wrongly"
    for domain in view.domains():
        counted = view.containment_count(domain.id)
        if counted != counts[domain.id] or counted > MAX_CONTAINMENTS_PER_DOMAIN:
            yield f"domain {domain.id} contains {counts[domain.id]}, and counted {counted}"


def _check_references(view: StateView, lease: Lease) -> Iterator[str]:
    executor = view.executor(lease.executor)
    grant = view.grant(*_split(lease.grant))
    if executor is None or grant is None:
        yield f"lease {lease.id} relies on what does not exist"
        return
    if grant.executor != lease.executor:
        yield f"lease {lease.id} relies on somebody else's grant"
    if not covers(grant.actions, grant.resources, lease.action, lease.resource):
        yield f"lease {lease.id} is not covered by its grant"
    if lease.expires_at > grant.not_after:
        yield f"lease {lease.id} outlives its grant"
    domains = [grant.issuer]
    for ident in lease.edges:
        edge = view.trust_edge(*_split(ident))
        if edge is None or edge.truster != domains[-1]:
            yield f"lease {lease.id} relies on edges that do not meet"
            return
        domains.append(edge.trustee)
    if domains[-1] != executor.domain:
        yield f"lease {lease.id} crosses domains without an edge"
    if len({*domains}) != len(domains):
        yield f"lease {lease.id} passes by a domain twice"
    expected = {f"domain:{domain}" for domain in domains}
    expected |= {f"executor:{executor.id}", f"grant:{grant.id}"}
    expected |= {f"trust:{ident}" for ident in lease.edges}
    for behind in chain_of(view, grant):
        expected |= {f"grant:{behind.id}", f"executor:{behind.executor}"}
    if any(why_unmet(each, lease.context) for each in (grant, *chain_of(view, grant))):
        yield f"lease {lease.id} is not what its grant asks for"
    said = set(lease.depends_on)
    is_all = said >= expected if grant.parent else said == expected
    if not is_all or len(lease.depends_on) != len(said):
        yield f"lease {lease.id} does not say what it depends on"


def _is_part(grant: Grant, parent: Grant) -> bool:
    """Whether the one can have been made of the other."""
    is_shorter = grant.max_depth < parent.max_depth and grant.not_after <= parent.not_after
    return is_shorter and grant.issuer == parent.issuer and scope_outside(grant, parent) is None


def _is_asked_rightly(grant: Grant) -> bool:
    """Whether a command can have given it its conditions."""
    try:
        check_conditions(grant.conditions)
    except MalformedError:
        return False
    return True


def _expired(view: StateView, grant: Grant) -> bool:
    return grant.expired(view.ledger_time())


def _split(record_id: str) -> tuple[str, str]:
    domain, _, name = record_id.partition("/")
    return domain, name
