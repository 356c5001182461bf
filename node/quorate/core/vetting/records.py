"""Whether each record of a state that another node has sent can be one."""

from __future__ import annotations

from collections import Counter
from typing import Final

from quorate.core import cedar, codec, dsse, ids, keys, patterns, protocol
from quorate.core.acts import parse_act
from quorate.core.conditions import check_conditions, first_unmet
from quorate.core.containment import ancestry_of, containers
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.frozen import check_frozen
from quorate.core.genesis import check_certificate
from quorate.core.keysets import all_keys, check_keyed
from quorate.core.limits import (
    MAX_ANCESTOR_EXECUTORS,
    MAX_ANCESTORS,
    MAX_CONTAINMENTS_PER_DOMAIN,
    MAX_DELEGATIONS_PER_GRANT,
    MAX_DEPTH,
    MAX_DOMAINS,
    MAX_EVENTS_PER_LEASE,
    MAX_LEASE_TTL_MS,
    MAX_NODES_PER_DOMAIN,
    MAX_PARENTS,
    MAX_PATTERNS,
    MAX_PROPOSAL_LIFETIME_MS,
    MAX_REFERENCES_PER_DOMAIN,
    MAX_REKEYINGS_PER_DOMAIN,
)
from quorate.core.lineage import NO_HEAD, Stage, check_head, check_whole_context
from quorate.core.outcome import Deny
from quorate.core.proposals import Proposal, ProposalStatus
from quorate.core.records import (
    BY_BALLOT,
    Containment,
    Domain,
    Executor,
    Federation,
    Grant,
    Kind,
    Lease,
    LeaseStatus,
    Node,
    Policies,
    Reference,
    TrustEdge,
    check_mark,
)
from quorate.core.status import Status
from quorate.core.store import Reader
from quorate.core.stored import PARSERS
from quorate.core.vetting.attested import check_proofs, check_reference
from quorate.core.vetting.bounds import Bounds, require


class RecordLooks:
    """What was seen of the records, and what they call for elsewhere: their entries in indexes, and
    the counts that count them.

    domains, nodes, executors, rekeyings: what there is, by domain. containments: likewise, by who
    wants them, and of all together under "". expected: how many entries each
    index must have, by its prefix.
    """

    def __init__(self, state: Reader) -> None:
        self._state = state
        self._bounds = Bounds()  # to be told at the first step
        self.domains: set[str] = set()
        self.nodes: Counter[str] = Counter()
        self.executors: Counter[str] = Counter()
        self.rekeyings: Counter[str] = Counter()
        self.containments: Counter[str] = Counter()
        self._references: Counter[str] = Counter()  # they lie before the domains
        self.expected: Counter[bytes] = Counter()
        self._active: Counter[str] = Counter()
        self._voters: Counter[str] = Counter()

    def begin(self, bounds: Bounds) -> None:
        """Says what the state lives by, before anything is looked at."""
        self._bounds = bounds

    @property
    def _protocol(self) -> int:
        return self._bounds.version

    def end(self) -> None:
        """All records were seen. Raises MalformedError, as every look."""
        require(self._voters.total() > 0, "nobody votes")
        for domain in self.domains:
            require(self._voters[domain] <= 1, f"{domain} has more than one voter")
            require(self._active[domain] <= MAX_NODES_PER_DOMAIN, f"{domain} has too many nodes")

    def look(self, key: bytes, value: bytes) -> None:
        kind = KINDS[key[:1]]
        said = codec.decode_flat(value)
        record = PARSERS[kind](said)
        assert isinstance(said, dict), "or it was no record"
        require(keys.record(kind, record.id) == key, f"a {kind} lies where another should")
        require(said.keys() == record.to_json().keys(), f"{record.id} has other fields")
        require(said["id"] == record.id, f"{record.id} says that it is another")
        self._bounds.check_any_index(record.changed, record.id)
        match record:
            case Domain():
                whole = record.to_json()
                for name in ("frozen", "key_set", "policies"):  # which have fields of their own
                    is_whole = said.get(name) == whole.get(name)
                    require(is_whole, f"{record.id} is {name} in another form")
                self._look_at_domain(record)
            case Node():
                self._look_at_node(record)
            case Executor():
                ids.check_executor(record.id)
                self._check_home(record.id, record.domain)
                check_proofs(record, said, self._bounds)
                self.executors[record.domain] += 1
            case TrustEdge():
                self._look_at_edge(record)
            case Grant():
                is_whole = said.get("conditions") == record.to_json().get("conditions")
                require(is_whole, f"{record.id} has conditions in another form")
                self._look_at_grant(record)
            case Lease():
                self._look_at_lease(record)
            case Proposal():
                self._look_at_proposal(record)
            case Containment():
                self._look_at_containment(record)
            case Reference():
                check_reference(record, said, self._bounds)
                self._refer(Kind.DOMAIN, record.domain)
                self._references[record.domain] += 1
            case Policies():
                self._look_at_policies(record)

    def _look_at_domain(self, domain: Domain) -> None:
        ids.check_domain(domain.id)
        self._look_at_authorities(domain)
        is_possible = self._protocol >= protocol.SECOND and domain.status is not Status.REVOKED
        check_frozen(domain.frozen, may_be=is_possible)
        if domain.frozen is not None:
            self._bounds.check_index(domain.frozen.since, f"what {domain.id} has frozen")
        self.check_policies(domain, self._protocol)
        self.domains.add(domain.id)
        require(len(self.domains) <= MAX_DOMAINS, "too many domains")
        check_keyed(domain, may_be=self._protocol >= protocol.SECOND)
        self.check_keys(domain.id, *all_keys(domain))
        require(domain.rekeyings <= MAX_REKEYINGS_PER_DOMAIN, f"{domain.id} has too many keys")
        self.rekeyings[domain.id] += domain.rekeyings
        counted = self._references[domain.id]
        require(domain.references == counted, f"{domain.id} has {counted} references")
        require(counted <= MAX_REFERENCES_PER_DOMAIN, f"{domain.id} has too many references")

    def _look_at_authorities(self, domain: Domain) -> None:
        for certificate in domain.authorities:
            check_certificate(certificate)
        may_be_two = self._protocol >= protocol.SECOND
        is_two = domain.next_ca not in {"", domain.ca_certificate}
        require(not domain.next_ca or (may_be_two and is_two), f"{domain.id} has no next CA")

    def check_policies(self, item: Domain | Federation, version: int) -> None:
        """Whether those on file are the ones that it says it has."""
        key = keys.record(Kind.POLICIES, item.policies_id)
        data = None if key is None else self._state.get(key)
        found = None if data is None else Policies.from_json(codec.load(data))
        is_over = isinstance(item, Domain) and item.status is Status.REVOKED
        may_be = version >= protocol.SECOND
        check_mark(item.policies, found, may_be=may_be, is_over=is_over)

    def _look_at_policies(self, policies: Policies) -> None:
        """Not by the engine: what it cannot be asked permits nothing, here as with whoever has sent
        it, and a state is no place from which to reach it."""
        if policies.owner != BY_BALLOT:
            require(policies.owner in self.domains, f"policies of {policies.owner}")
        cedar.check_text(policies.text)
        what = f"the policies of {policies.owner}"
        require(policies.version > 0, f"{what} have no version")
        require(policies.version < self._bounds.ever, f"{what} were published too often")
        self._bounds.check_index(policies.changed, what)

    def _look_at_node(self, node: Node) -> None:
        check_node(node)
        self._check_home(node.id, node.domain)
        self.check_keys(node.id, node.signing_key, node.log_key)
        self.nodes[node.domain] += 1
        self._voters[node.domain] += node.votes
        if not node.retired:
            self._active[node.domain] += 1
            self.expect(keys.active_node(node.id))

    def _look_at_edge(self, edge: TrustEdge) -> None:
        ids.check_name(edge.edge)
        for domain in (edge.truster, edge.trustee):
            require(domain in self.domains, f"{edge.id} is about {domain}")
        is_first = self._protocol < protocol.SECOND
        _check_patterns(edge.truster if is_first else None, edge.actions, edge.resources)
        require(edge.max_depth <= (0 if is_first else MAX_DEPTH), f"{edge.id} leads too far")
        if edge.status is not Status.REVOKED:
            self.expect(keys.edge_of_pair(edge.truster, edge.trustee, edge.edge))

    def _look_at_grant(self, grant: Grant) -> None:
        ids.check_name(grant.grant)
        require(grant.issuer in self.domains, f"{grant.id} is of {grant.issuer}")
        self._refer(Kind.EXECUTOR, grant.executor)
        _check_patterns(grant.issuer, grant.actions, grant.resources)
        require(grant.max_depth <= MAX_DEPTH, f"{grant.id} leads too far")
        is_few = grant.delegations <= MAX_DELEGATIONS_PER_GRANT
        require(is_few, f"{grant.id} was passed on too often")
        self._bounds.check_any_index(grant.made, grant.id)
        may_be = self._protocol >= protocol.SECOND
        require(may_be or not grant.conditions, f"{grant.id} has conditions")
        check_conditions(grant.conditions)
        if grant.parent:
            self._look_at_parent(grant)
        ends = grant.executor, grant.issuer, grant.grant
        live, spent = (
            keys.grant_of_executor(index, *ends) for index in (keys.LIVE_GRANTS, keys.SPENT_GRANTS)
        )
        is_over = grant.status is Status.REVOKED or grant.exhausted
        if self.has(live):
            require(not is_over, f"{grant.id} is over, and filed as if it were not")
            self.expect(live)
        else:
            is_over = is_over or grant.expired(self._bounds.ledger_time)
            require(is_over, f"{grant.id} may permit, and is filed as if it could not")
            self.expect(spent)

    def _look_at_parent(self, grant: Grant) -> None:
        """Depth shrinks with every link, so that no chain is endless."""
        parent = self._grant(grant.parent)
        require(parent.id == grant.parent, f"{grant.id} was made of another")
        is_part = parent.issuer == grant.issuer and parent.max_depth > grant.max_depth
        require(is_part, f"{grant.id} is no part of {parent.id}")

    def _grant(self, ident: str) -> Grant:
        """One that may not have been looked at yet."""
        key = keys.record(Kind.GRANT, ident)
        data = None if key is None else self._state.get(key)
        require(data is not None, f"there is no grant {ident}")
        return Grant.from_json(codec.load(data or b""))

    def _look_at_lease(self, lease: Lease) -> None:
        ids.check_lease_id(lease.id)
        ids.check_action(lease.action)
        ids.check_resource(lease.resource)
        self._bounds.check_any_index(lease.fence, f"the fence of {lease.id}")
        self._bounds.check_moment(lease.acquired_at, lease.id)
        self._bounds.check_moment(lease.expires_at, f"the end of {lease.id}", MAX_LEASE_TTL_MS)
        self._refer(Kind.EXECUTOR, lease.executor)
        self._refer(Kind.GRANT, lease.grant)
        home, issuer = ids.SpiffeId.parse(lease.executor).trust_domain, lease.grant.split("/")[0]
        relies_on = {f"domain:{home}", f"domain:{issuer}"}
        relies_on |= {f"executor:{lease.executor}", f"grant:{lease.grant}"}
        require(bool(lease.edges) == (home != issuer), f"{lease.id} has an odd route")
        require(bool(lease.trust_edge) or not lease.passed_on, f"{lease.id} has an odd route")
        require(len(lease.edges) <= MAX_DEPTH + 1, f"{lease.id} has too long a route")
        require(len({*lease.edges}) == len(lease.edges), f"{lease.id} goes round in circles")
        for edge in lease.edges:
            self._refer(Kind.TRUST, edge)
            relies_on |= {f"trust:{edge}", f"domain:{edge.split('/')[0]}"}
        said = set(lease.depends_on)
        if len(lease.grants) > 1:
            self._look_at_backing(lease, said - relies_on)
            said &= relies_on
        require(said == relies_on, f"{lease.id} relies on something else")
        require(lease.grants[0] == lease.grant, f"{lease.id} is a use of another grant")
        self._look_at_lineage(lease)
        self._look_at_context(lease)
        if lease.status is LeaseStatus.ACTIVE:
            for grant in lease.grants:
                filed = keys.lease_of_grant(grant, lease.expires_at, lease.id)
                if not lease.expired(self._bounds.ledger_time) or self.has(filed):
                    self.expect(filed)

    def _look_at_context(self, lease: Lease) -> None:
        may_be = self._protocol >= protocol.SECOND
        require(may_be or not lease.context, f"{lease.id} has a context")
        check_whole_context(lease.context)
        for ident in lease.grants:
            unmet = first_unmet(self._grant(ident).conditions, lease.context)
            require(unmet is None, f"{lease.id} is not what {ident} asks for")

    def _look_at_backing(self, lease: Lease, more: set[str]) -> None:
        """What it relies on beyond its own: as many links as a chain has, with routes to each."""
        require(len(more) <= MAX_DEPTH * (2 * MAX_DEPTH + 4), f"{lease.id} relies on too much")
        require(len(lease.grants) <= MAX_DEPTH + 1, f"{lease.id} relies on too many grants")
        is_once = len({*lease.depends_on}) == len(lease.depends_on)
        require(is_once, f"{lease.id} relies on something twice")
        for thing in more:
            kind, _, ident = thing.partition(":")
            known = kind in {Kind.DOMAIN, Kind.EXECUTOR, Kind.TRUST, Kind.GRANT}
            require(known, f"{lease.id} relies on {thing}")
            self._refer(Kind(kind), ident)

    def _look_at_proposal(self, proposal: Proposal) -> None:
        ids.check_proposal_id(proposal.id)
        is_known = protocol.FIRST <= proposal.protocol <= self._protocol
        require(is_known, f"{proposal.id} is of version {proposal.protocol}")
        parse_act(proposal.act, proposal.body, proposal.protocol)
        self._bounds.check_moment(proposal.opened_at, proposal.id)
        lasts_ms = proposal.expires_at - proposal.opened_at
        require(lasts_ms <= MAX_PROPOSAL_LIFETIME_MS, f"{proposal.id} is open for too long")
        for domain in (proposal.proposer, *proposal.yes, *proposal.no):
            require(domain in self.domains, f"{domain} has no voice")
        is_once = all(list(some) == sorted(set(some)) for some in (proposal.yes, proposal.no))
        require(is_once and not {*proposal.yes} & {*proposal.no}, f"{proposal.id} has odd votes")
        if proposal.status is ProposalStatus.OPEN:
            filed = keys.open_proposal(proposal.proposer, proposal.id)
            if not proposal.expired(self._bounds.ledger_time) or self.has(filed):
                self.expect(filed)

    def _look_at_lineage(self, lease: Lease) -> None:
        for parent in lease.parents:
            self._refer(Kind.LEASE, parent)
        ascends = list(lease.parents) == sorted(set(lease.parents))
        require(ascends and len(lease.parents) <= MAX_PARENTS, f"{lease.id} has odd parents")
        self._look_at_ancestry(lease)
        check_head(lease.lineage)
        said = lease.lineage != NO_HEAD
        agrees = said == (lease.events > 0) == (lease.stage is not Stage.AUTHORIZED)
        require(agrees, f"{lease.id} does not agree with itself about its events")
        require(lease.events <= MAX_EVENTS_PER_LEASE, f"{lease.id} has too many events")

    def _look_at_ancestry(self, lease: Lease) -> None:
        """It says exactly what its parents do, and themselves: nothing gets out from below them."""
        said = lease.ancestors, lease.ancestor_executors
        if said == ((), ()):
            return  # the parents say it, as of every lease of version 1
        require(self._protocol >= protocol.SECOND, f"{lease.id} says too much of where it is from")
        short = len(said[0]) <= MAX_ANCESTORS and len(said[1]) <= MAX_ANCESTOR_EXECUTORS
        require(short and bool(lease.parents), f"{lease.id} has odd ancestors")
        try:
            found = ancestry_of(self._lease, lease.parents)
        except StorageDamagedError as error:
            raise MalformedError(str(error)) from error
        agrees = not isinstance(found, Deny) and said == (found.leases, found.executors)
        require(agrees, f"{lease.id} does not come from where its parents do")

    def _lease(self, ident: str) -> Lease | None:
        """One that may not have been looked at yet."""
        key = keys.record(Kind.LEASE, ident)
        data = None if key is None else self._state.get(key)
        return None if data is None else Lease.from_json(codec.load(data))

    def _look_at_containment(self, containment: Containment) -> None:
        thing, by = containment.thing, containment.by
        require(self._protocol >= protocol.SECOND, f"{thing} is contained")
        lease = None
        if thing.startswith("spiffe://"):
            self._refer(Kind.EXECUTOR, thing)
        else:
            ids.check_lease_id(thing)
            lease = self._lease(thing)
            require(lease is not None, f"{thing} is contained, and is nothing")
        is_own = bool(by) and containers(thing, lease) >= {*by}
        require(is_own and list(by) == sorted({*by}), f"{thing} is contained by {by}")
        for domain in by:
            self._refer(Kind.DOMAIN, domain)
            self.containments[domain] += 1
            most = MAX_CONTAINMENTS_PER_DOMAIN
            require(self.containments[domain] <= most, f"{domain} contains too much")
        self.containments[""] += len(by)
        self._bounds.check_index(containment.since, thing)
        self._bounds.check_index(containment.changed, thing)

    def _check_home(self, ident: str, domain: str) -> None:
        owner = ids.SpiffeId.parse(ident).trust_domain
        require(owner == domain and domain in self.domains, f"{ident} is of {domain}")

    def check_keys(self, owner: str, *public_keys: str) -> None:
        for public_key in public_keys:
            dsse.parse_public_key(public_key)
            filed = self._state.get(keys.public_key(public_key))
            require(filed == owner.encode("ascii"), f"a key of {owner} is not on file as its own")

    def _refer(self, kind: Kind, ident: str) -> None:
        require(self.has(keys.record(kind, ident)), f"there is no {kind} {ident}")

    def expect(self, entry: bytes) -> None:
        require(self.has(entry), f"there is no entry {entry!r}")
        self.expected[entry[:1]] += 1

    def has(self, key: bytes | None) -> bool:
        return key is not None and self._state.get(key) is not None


KINDS: Final = {prefix: kind for kind, prefix in keys.RECORDS.items()}


def check_node(node: Node) -> None:
    ids.check_node(node.id)
    ids.check_address(node.peer_address)
    dsse.parse_public_key(node.signing_key)
    dsse.parse_public_key(node.log_key)
    require(node.status is not Status.SUSPENDED, f"{node.id} is suspended")


def _check_patterns(
    owner: str | None, actions: tuple[str, ...], resources: tuple[str, ...]
) -> None:
    """owner: of the resources; None: anybody."""
    for action in actions:
        patterns.check_action_pattern(action)
    for resource in resources:
        of = patterns.pattern_owner(resource)
        require(owner in {of, None}, f"{resource} is not of {owner}")
    require(max(len(actions), len(resources)) <= MAX_PATTERNS, "too many patterns")
