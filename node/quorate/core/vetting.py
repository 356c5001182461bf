"""Whether what another node has sent as a state can be one, before this node lives by it.

Owns the look at every pair, once, in order of key: each is a record as it would have been written,
or a count or an entry of an index that the records call for, and what a record refers to is there.
A state that passes holds nothing that stops who reads it or executes commands on it. Does not own
whether it is the true one: a record that is well formed and false passes; nor whether it can have
become of the state that is here (`quorate.core.succession`). Pure, and in steps: the caller says
how many pairs it has time for.

An index agrees with its records when each record has its entry, and there are as many entries as
that: no entry is looked up backwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Final

from quorate.core import codec, dsse, ids, keys, patterns, protocol
from quorate.core.acts import ACTS, parse_act, set_under
from quorate.core.errors import MalformedError
from quorate.core.frozen import check_frozen
from quorate.core.genesis import check_certificate
from quorate.core.limits import (
    MAX_DEPTH,
    MAX_DOMAINS,
    MAX_ENTRY_BYTES,
    MAX_EVENTS_PER_LEASE,
    MAX_INTEGER,
    MAX_NODES_PER_DOMAIN,
    MAX_PARENTS,
    MAX_PATTERNS,
    MAX_REKEYINGS_PER_DOMAIN,
)
from quorate.core.lineage import NO_HEAD, Stage, check_head
from quorate.core.proposals import Proposal, ProposalStatus
from quorate.core.records import (
    Domain,
    Executor,
    Federation,
    Grant,
    Kind,
    Lease,
    LeaseStatus,
    Node,
    TrustEdge,
)
from quorate.core.rekeying import read_rekeying
from quorate.core.remembered import Remembered
from quorate.core.status import Status
from quorate.core.store import Reader
from quorate.core.stored import PARSERS
from quorate.core.thresholds import thresholds_from_json

_NUMBER_BYTES: Final = 8
_KEY_BYTES: Final = 32
_DIGEST_BYTES: Final = 32
_INDEXES: Final = (
    (keys.ACTIVE_NODES,),
    (keys.EDGES_OF_PAIR,),
    (keys.LIVE_GRANTS, keys.SPENT_GRANTS),
    (keys.LEASES_OF_GRANT,),
    (keys.OPEN_PROPOSALS,),
    (keys.FORGETTING,),
)
"""Each has an entry for every record that calls for one; the two of grants have one together."""


def read_node(state: Reader, ident: str) -> Node | None:
    """The record of one node of a state that nobody has looked at yet. Raises MalformedError."""
    key = keys.record(Kind.NODE, ident)
    data = None if key is None else state.get(key)
    if data is None:
        return None
    node = Node.from_json(codec.load(data))
    _check_node(node)
    _require(node.id == ident, f"a node lies where {ident} should")
    return node


class Vetting:
    """One look at a state, which does not change meanwhile."""

    def __init__(self, state: Reader) -> None:
        self._state = state
        self._next = b""
        self._ledger_time = -1  # to be read at the first step
        self._protocol = protocol.FIRST  # to be read at the first step
        self._domains: set[str] = set()
        self._nodes: Counter[str] = Counter()
        self._active: Counter[str] = Counter()
        self._voters: Counter[str] = Counter()
        self._executors: Counter[str] = Counter()
        self._rekeyings: Counter[str] = Counter()
        self._rekeyed: Counter[str] = Counter()
        self._counted: dict[bytes, Counter[str]] = {
            keys.NODE_COUNTS: Counter(),
            keys.EXECUTOR_COUNTS: Counter(),
        }
        self._expected: Counter[bytes] = Counter()
        self._found: Counter[bytes] = Counter()
        self._grant = b""  # whose leases are being counted
        self._leases = 0
        self._looks: dict[bytes, Callable[[bytes, bytes], None]] = {
            keys.FEDERATION: self._look_at_federation,
            keys.LEDGER_TIME: self._look_at_time,
            keys.OUTCOMES: self._look_at_outcome,
            keys.EXECUTOR_COUNTS: self._look_at_count,
            keys.NODE_COUNTS: self._look_at_count,
            keys.PUBLIC_KEYS: self._look_at_key,
            keys.LEASE_COUNTS: self._look_at_lease_count,
            keys.LINEAGE_HEADS: self._look_at_lineage_head,
            keys.THRESHOLDS: self._look_at_thresholds,
            keys.REKEYINGS: self._look_at_rekeying,
            **dict.fromkeys(_KINDS, self._look_at_record),
            **{prefix: self._look_at_entry for index in _INDEXES for prefix in index},
        }

    def step(self, most: int) -> bool:
        """Looks at the next `most` pairs; True when it has seen all. Raises MalformedError for a
        state that can be none, and what the reader raises."""
        try:
            if self._ledger_time < 0:
                self._begin()
            count = 0
            for key, value in islice(self._state.scan(b"", self._next), most):
                _require(key[:1] in self._looks, f"there is nothing at {key!r}")
                self._looks[key[:1]](key, value)
                self._next = key + b"\x00"
                count += 1
            if count < most:
                self._end()
            return count < most
        except (ValueError, OverflowError) as error:  # text that is not ASCII, or no hex
            raise MalformedError(f"something at or behind {self._next!r}: {error}") from error

    def _begin(self) -> None:
        time = self._state.get(keys.LEDGER_TIME) or b""
        self._look_at_time(keys.LEDGER_TIME, time)
        federation = self._state.get(keys.FEDERATION)
        _require(federation is not None, "no federation")
        self._look_at_federation(keys.FEDERATION, federation or b"")
        self._ledger_time = int.from_bytes(time, "big")

    def _end(self) -> None:
        self._end_leases()
        for index in _INDEXES:
            expected = sum(self._expected[prefix] for prefix in index)
            found = sum(self._found[prefix] for prefix in index)
            _require(expected == found, f"{found} entries at {index}, where {expected} belong")
        _require(self._counted[keys.NODE_COUNTS] == self._nodes, "nodes are not as counted")
        counted = self._counted[keys.EXECUTOR_COUNTS]
        _require(counted == self._executors, "executors are not as counted")
        _require(self._rekeyings == self._rekeyed, "keys were taken as nobody has counted")
        _require(self._voters.total() > 0, "nobody votes")
        for domain in self._domains:
            _require(self._voters[domain] <= 1, f"{domain} has more than one voter")
            _require(self._active[domain] <= MAX_NODES_PER_DOMAIN, f"{domain} has too many nodes")

    # -- what is not of one kind -----------------------------------------------------------------

    def _look_at_federation(self, key: bytes, value: bytes) -> None:
        record = Federation.from_json(codec.load(value))
        ids.check_origin(record.origin)
        self._protocol = record.protocol
        known = protocol.FIRST <= record.protocol <= protocol.LATEST
        _require(known, f"version {record.protocol} of the protocol, which is not known here")
        _require(key == keys.FEDERATION, "a second federation")
        _require(codec.encode(record.to_json()) == value, "a federation in another form")
        check_frozen(record.frozen, may_be=record.protocol >= protocol.SECOND)

    def _look_at_time(self, key: bytes, value: bytes) -> None:
        _require(key == keys.LEDGER_TIME, "a second time")
        _require(_number(value) <= MAX_INTEGER, "a time that none can be")

    def _look_at_count(self, key: bytes, value: bytes) -> None:
        domain = key[1:].decode("ascii")
        _require(self._has(keys.record(Kind.DOMAIN, domain)), f"a count of {domain}")
        self._counted[key[:1]][domain] = _number(value)

    def _look_at_key(self, key: bytes, value: bytes) -> None:
        owner = value.decode("ascii")
        kind = Kind.NODE if owner.startswith("spiffe://") else Kind.DOMAIN
        _require(len(key) == 1 + _KEY_BYTES, "a key of another length")
        _require(self._has(keys.record(kind, owner)), f"a key of {owner}")

    def _look_at_outcome(self, key: bytes, value: bytes) -> None:
        said = codec.decode(value, MAX_ENTRY_BYTES)
        remembered = Remembered.from_json(said)
        _require(remembered.to_json() == said, "an outcome in another form")
        command_id = remembered.outcome.command_id
        ids.check_command_id(command_id)
        _require(keys.outcome(command_id) == key, "an outcome lies where another should")
        self._expect(keys.forgetting(remembered.not_after, command_id))

    def _look_at_entry(self, key: bytes, value: bytes) -> None:
        _require(value == b"", "an entry of an index that says something")
        self._found[key[:1]] += 1
        if key[:1] == keys.LEASES_OF_GRANT:
            grant = key[1 : 1 + _DIGEST_BYTES]
            if grant != self._grant:
                self._end_leases()
                self._grant = grant
            self._leases += 1

    def _look_at_lease_count(self, key: bytes, value: bytes) -> None:
        """Where there are leases on file, they were counted; their key comes first."""
        _require(len(key) == 1 + _DIGEST_BYTES, "a count of leases of nothing")
        if _number(value):
            filed = next(self._state.scan(keys.LEASES_OF_GRANT + key[1:]), None)
            _require(filed is not None, "leases that are not on file were counted")

    def _look_at_lineage_head(self, key: bytes, value: bytes) -> None:
        node = key[1:].decode("ascii")
        _require(self._has(keys.record(Kind.NODE, node)), f"reports of {node}")
        _require(len(value) == _DIGEST_BYTES, "a head of another length")

    def _look_at_rekeying(self, key: bytes, value: bytes) -> None:
        name, _, number = key[1:].partition(b"\x00")
        domain = name.decode("ascii")
        _, body = read_rekeying(value, domain)
        self._check_keys(domain, body.governance_key, body.cosigner_key)
        _require(_number(number) == self._rekeyings[domain], f"proofs of {domain} out of order")
        self._rekeyings[domain] += 1

    def _look_at_thresholds(self, key: bytes, value: bytes) -> None:
        said = codec.decode_flat(value)
        _require(key == keys.THRESHOLDS, "thresholds twice")
        types = thresholds_from_json(said).keys()
        own = ACTS[set_under(types, self._protocol)].keys()
        _require(types == own, "thresholds of something else")

    def _end_leases(self) -> None:
        """All leases on file of one grant were seen."""
        if self._leases:
            counted = self._state.get(keys.LEASE_COUNTS + self._grant) or b""
            _require(_number(counted) == self._leases, "leases are not as counted")
        self._leases = 0

    # -- records ---------------------------------------------------------------------------------

    def _look_at_record(self, key: bytes, value: bytes) -> None:
        kind = _KINDS[key[:1]]
        said = codec.decode_flat(value)
        record = PARSERS[kind](said)
        assert isinstance(said, dict), "or it was no record"
        _require(keys.record(kind, record.id) == key, f"a {kind} lies where another should")
        _require(said.keys() == record.to_json().keys(), f"{record.id} has other fields")
        _require(said["id"] == record.id, f"{record.id} says that it is another")
        match record:
            case Domain():
                is_whole = said.get("frozen") == record.to_json().get("frozen")
                _require(is_whole, f"{record.id} is frozen in another form")
                self._look_at_domain(record)
            case Node():
                self._look_at_node(record)
            case Executor():
                ids.check_executor(record.id)
                self._check_home(record.id, record.domain)
                self._executors[record.domain] += 1
            case TrustEdge():
                self._look_at_edge(record)
            case Grant():
                self._look_at_grant(record)
            case Lease():
                self._look_at_lease(record)
            case Proposal():
                self._look_at_proposal(record)

    def _look_at_domain(self, domain: Domain) -> None:
        ids.check_domain(domain.id)
        check_certificate(domain.ca_certificate)
        is_possible = self._protocol >= protocol.SECOND and domain.status is not Status.REVOKED
        check_frozen(domain.frozen, may_be=is_possible)
        self._domains.add(domain.id)
        _require(len(self._domains) <= MAX_DOMAINS, "too many domains")
        self._check_keys(domain.id, domain.governance_key, domain.cosigner_key)
        _require(domain.rekeyings <= MAX_REKEYINGS_PER_DOMAIN, f"{domain.id} has too many keys")
        self._rekeyed[domain.id] += domain.rekeyings

    def _look_at_node(self, node: Node) -> None:
        _check_node(node)
        self._check_home(node.id, node.domain)
        self._check_keys(node.id, node.signing_key, node.log_key)
        self._nodes[node.domain] += 1
        self._voters[node.domain] += node.votes
        if not node.retired:
            self._active[node.domain] += 1
            self._expect(keys.active_node(node.id))

    def _look_at_edge(self, edge: TrustEdge) -> None:
        ids.check_name(edge.edge)
        for domain in (edge.truster, edge.trustee):
            _require(domain in self._domains, f"{edge.id} is about {domain}")
        is_first = self._protocol < protocol.SECOND
        _check_patterns(edge.truster if is_first else None, edge.actions, edge.resources)
        _require(edge.max_depth <= (0 if is_first else MAX_DEPTH), f"{edge.id} leads too far")
        if edge.status is not Status.REVOKED:
            self._expect(keys.edge_of_pair(edge.truster, edge.trustee, edge.edge))

    def _look_at_grant(self, grant: Grant) -> None:
        ids.check_name(grant.grant)
        _require(grant.issuer in self._domains, f"{grant.id} is of {grant.issuer}")
        self._refer(Kind.EXECUTOR, grant.executor)
        _check_patterns(grant.issuer, grant.actions, grant.resources)
        _require(grant.max_depth <= MAX_DEPTH, f"{grant.id} leads too far")
        if grant.parent:
            self._look_at_parent(grant)
        ends = grant.executor, grant.issuer, grant.grant
        live, spent = (
            keys.grant_of_executor(index, *ends) for index in (keys.LIVE_GRANTS, keys.SPENT_GRANTS)
        )
        is_over = grant.status is Status.REVOKED or grant.exhausted
        if self._has(live):
            _require(not is_over, f"{grant.id} is over, and filed as if it were not")
            self._expect(live)
        else:
            is_over = is_over or grant.expired(self._ledger_time)
            _require(is_over, f"{grant.id} may permit, and is filed as if it could not")
            self._expect(spent)

    def _look_at_parent(self, grant: Grant) -> None:
        """Depth shrinks with every link, so that no chain is endless."""
        key = keys.record(Kind.GRANT, grant.parent)
        data = None if key is None else self._state.get(key)
        _require(data is not None, f"{grant.id} was made of nothing")
        parent = Grant.from_json(codec.load(data or b""))
        _require(parent.id == grant.parent, f"{grant.id} was made of another")
        is_part = parent.issuer == grant.issuer and parent.max_depth > grant.max_depth
        _require(is_part, f"{grant.id} is no part of {parent.id}")

    def _look_at_lease(self, lease: Lease) -> None:
        ids.check_lease_id(lease.id)
        ids.check_action(lease.action)
        ids.check_resource(lease.resource)
        self._refer(Kind.EXECUTOR, lease.executor)
        self._refer(Kind.GRANT, lease.grant)
        home, issuer = ids.SpiffeId.parse(lease.executor).trust_domain, lease.grant.split("/")[0]
        relies_on = {f"domain:{home}", f"domain:{issuer}"}
        relies_on |= {f"executor:{lease.executor}", f"grant:{lease.grant}"}
        _require(bool(lease.edges) == (home != issuer), f"{lease.id} has an odd route")
        _require(bool(lease.trust_edge) or not lease.passed_on, f"{lease.id} has an odd route")
        _require(len(lease.edges) <= MAX_DEPTH + 1, f"{lease.id} has too long a route")
        _require(len({*lease.edges}) == len(lease.edges), f"{lease.id} goes round in circles")
        for edge in lease.edges:
            self._refer(Kind.TRUST, edge)
            relies_on |= {f"trust:{edge}", f"domain:{edge.split('/')[0]}"}
        said = set(lease.depends_on)
        if len(lease.grants) > 1:
            self._look_at_backing(lease, said - relies_on)
            said &= relies_on
        _require(said == relies_on, f"{lease.id} relies on something else")
        _require(lease.grants[0] == lease.grant, f"{lease.id} is a use of another grant")
        self._look_at_lineage(lease)
        if lease.status is LeaseStatus.ACTIVE:
            for grant in lease.grants:
                filed = keys.lease_of_grant(grant, lease.expires_at, lease.id)
                if not lease.expired(self._ledger_time) or self._has(filed):
                    self._expect(filed)

    def _look_at_backing(self, lease: Lease, more: set[str]) -> None:
        """What it relies on beyond its own: as many links as a chain has, with routes to each."""
        _require(len(more) <= MAX_DEPTH * (2 * MAX_DEPTH + 4), f"{lease.id} relies on too much")
        is_once = len({*lease.depends_on}) == len(lease.depends_on)
        _require(is_once, f"{lease.id} relies on something twice")
        for thing in more:
            kind, _, ident = thing.partition(":")
            known = kind in {Kind.DOMAIN, Kind.EXECUTOR, Kind.TRUST, Kind.GRANT}
            _require(known, f"{lease.id} relies on {thing}")
            self._refer(Kind(kind), ident)

    def _look_at_proposal(self, proposal: Proposal) -> None:
        ids.check_proposal_id(proposal.id)
        is_known = protocol.FIRST <= proposal.protocol <= self._protocol
        _require(is_known, f"{proposal.id} is of version {proposal.protocol}")
        parse_act(proposal.act, proposal.body, proposal.protocol)
        for domain in (proposal.proposer, *proposal.yes, *proposal.no):
            _require(domain in self._domains, f"{domain} has no voice")
        is_once = all(list(some) == sorted(set(some)) for some in (proposal.yes, proposal.no))
        _require(is_once and not {*proposal.yes} & {*proposal.no}, f"{proposal.id} has odd votes")
        if proposal.status is ProposalStatus.OPEN:
            filed = keys.open_proposal(proposal.proposer, proposal.id)
            if not proposal.expired(self._ledger_time) or self._has(filed):
                self._expect(filed)

    def _look_at_lineage(self, lease: Lease) -> None:
        for parent in lease.parents:
            self._refer(Kind.LEASE, parent)
        ascends = list(lease.parents) == sorted(set(lease.parents))
        _require(ascends and len(lease.parents) <= MAX_PARENTS, f"{lease.id} has odd parents")
        check_head(lease.lineage)
        said = lease.lineage != NO_HEAD
        agrees = said == (lease.events > 0) == (lease.stage is not Stage.AUTHORIZED)
        _require(agrees, f"{lease.id} does not agree with itself about its events")
        _require(lease.events <= MAX_EVENTS_PER_LEASE, f"{lease.id} has too many events")

    def _check_home(self, ident: str, domain: str) -> None:
        owner = ids.SpiffeId.parse(ident).trust_domain
        _require(owner == domain and domain in self._domains, f"{ident} is of {domain}")

    def _check_keys(self, owner: str, *public_keys: str) -> None:
        for public_key in public_keys:
            dsse.parse_public_key(public_key)
            filed = self._state.get(keys.public_key(public_key))
            _require(filed == owner.encode("ascii"), f"a key of {owner} is not on file as its own")

    def _refer(self, kind: Kind, ident: str) -> None:
        _require(self._has(keys.record(kind, ident)), f"there is no {kind} {ident}")

    def _expect(self, entry: bytes) -> None:
        _require(self._has(entry), f"there is no entry {entry!r}")
        self._expected[entry[:1]] += 1

    def _has(self, key: bytes | None) -> bool:
        return key is not None and self._state.get(key) is not None


_KINDS: Final = {prefix: kind for kind, prefix in keys.RECORDS.items()}


def _check_node(node: Node) -> None:
    ids.check_node(node.id)
    ids.check_address(node.peer_address)
    dsse.parse_public_key(node.signing_key)
    dsse.parse_public_key(node.log_key)
    _require(node.status is not Status.SUSPENDED, f"{node.id} is suspended")


def _check_patterns(
    owner: str | None, actions: tuple[str, ...], resources: tuple[str, ...]
) -> None:
    """owner: of the resources; None: anybody."""
    for action in actions:
        patterns.check_action_pattern(action)
    for resource in resources:
        of = patterns.pattern_owner(resource)
        _require(owner in {of, None}, f"{resource} is not of {owner}")
    _require(max(len(actions), len(resources)) <= MAX_PATTERNS, "too many patterns")


def _number(value: bytes) -> int:
    _require(len(value) == _NUMBER_BYTES, "a number of another length")
    return int.from_bytes(value, "big")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise MalformedError(problem)
