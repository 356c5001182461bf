"""Reading the replicated state as typed records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Final, TypeVar, cast

from quorate.core import codec, keys
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.outcome import Outcome
from quorate.core.proposals import Proposal
from quorate.core.records import (
    Containment,
    Domain,
    Executor,
    Federation,
    Grant,
    Kind,
    Lease,
    Node,
    Policies,
    Reference,
    TrustEdge,
)
from quorate.core.remembered import Remembered
from quorate.core.store import Reader
from quorate.core.stored import PARSERS, Lasting, Stored
from quorate.core.thresholds import Thresholds, thresholds_from_json, thresholds_to_json

_PARSED_RECORDS: Final = 8192

R = TypeVar("R")
T = TypeVar("T", bound=Stored)


class StateView:
    """Typed reading. Getters of one thing return None when it does not exist, and for text that
    can be no id; iterators go in ascending order of id."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def federation(self) -> Federation:
        """Raises StorageDamagedError when no genesis was installed."""
        return replace(self.federation_record(), ledger_time=self.ledger_time())

    def federation_record(self) -> Federation:
        """The same, but for its time, which is that of its last change: one look less, for whoever
        decides. Raises StorageDamagedError."""
        data = self._reader.get(keys.FEDERATION)
        if data is None:
            raise StorageDamagedError("the state has no federation: no genesis was installed")
        return _parse(Federation.from_json, data, "the federation")

    def installed(self) -> bool:
        return self._reader.get(keys.FEDERATION) is not None

    def ledger_time(self) -> int:
        return self._number(keys.LEDGER_TIME)

    def domain(self, domain: str) -> Domain | None:
        return self._find(Kind.DOMAIN, domain, Domain.from_json)

    def domains(self) -> list[Domain]:
        return list(self._each(Kind.DOMAIN, Domain.from_json))

    def node(self, node: str) -> Node | None:
        return self._find(Kind.NODE, node, Node.from_json)

    def nodes(self) -> list[Node]:
        return list(self._each(Kind.NODE, Node.from_json))

    def active_nodes(self, domain: str = "") -> Iterator[Node]:
        """Those not retired, of one domain or of all; at most MAX_NODES_PER_DOMAIN of one."""
        for key, _ in self._reader.scan(keys.active_nodes(domain)):
            ident = key[len(keys.ACTIVE_NODES) :].decode("ascii", "replace")
            yield self._indexed(self.node(ident), key)

    def node_count(self, domain: str) -> int:
        """How many nodes the domain ever had."""
        return self._number(keys.node_count(domain))

    def key_owner(self, public_key: str) -> str | None:
        """The domain or node that a public key (hex) belongs to, or once belonged to."""
        data = self._reader.get(keys.public_key(public_key))
        return None if data is None else data.decode("ascii", "replace")

    def executor(self, executor: str) -> Executor | None:
        return self._find(Kind.EXECUTOR, executor, Executor.from_json)

    def executors(self) -> Iterator[Executor]:
        return self._each(Kind.EXECUTOR, Executor.from_json)

    def executor_count(self, domain: str) -> int:
        """How many executors the domain ever registered."""
        return self._number(keys.executor_count(domain))

    def trust_edge(self, truster: str, edge: str) -> TrustEdge | None:
        return self._find(Kind.TRUST, f"{truster}/{edge}", TrustEdge.from_json)

    def trust_edges(self) -> Iterator[TrustEdge]:
        return self._each(Kind.TRUST, TrustEdge.from_json)

    def trust_between(self, truster: str, trustee: str) -> Iterator[TrustEdge]:
        """The open edges; at most MAX_EDGES_PER_PAIR."""
        prefix = keys.edges_of_pair(truster, trustee)
        for key, _ in self._reader.scan(prefix):
            name = key[len(prefix) :].decode("ascii", "replace")
            yield self._indexed(self.trust_edge(truster, name), key)

    def grant(self, issuer: str, grant: str) -> Grant | None:
        return self._find(Kind.GRANT, f"{issuer}/{grant}", Grant.from_json)

    def grants(self) -> Iterator[Grant]:
        return self._each(Kind.GRANT, Grant.from_json)

    def grants_for(
        self, executor: str, issuer: str = "", *, spent: bool = False
    ) -> Iterator[Grant]:
        """The grants to an executor, of one issuer or of all, that may yet permit (there are at
        most MAX_GRANTS_PER_EXECUTOR_AND_ISSUER of one), or those that never will again."""
        index = keys.SPENT_GRANTS if spent else keys.LIVE_GRANTS
        prefix = keys.grants_of_executor(index, executor)
        for key, _ in self._reader.scan(keys.grants_of_executor(index, executor, issuer)):
            owner, _, name = key[len(prefix) :].decode("ascii", "replace").partition("\x00")
            yield self._indexed(self.grant(owner, name), key)

    def lease(self, lease: str) -> Lease | None:
        return self._find(Kind.LEASE, lease, Lease.from_json)

    def leases(self) -> Iterator[Lease]:
        return self._each(Kind.LEASE, Lease.from_json)

    def leases_in_force(self, grant: Grant, ledger_time: int, most: int) -> int:
        """How many leases of a grant are neither released nor expired; counts up to `most`."""
        found = self._reader.scan(
            keys.all_leases_of_grant(grant.id), keys.leases_of_grant(grant.id, ledger_time + 1)
        )
        return sum(1 for _ in islice(found, most))

    def is_lease_limit_reached(self, grant: Grant, ledger_time: int, most: int) -> bool:
        """Whether a grant has `most` leases in force. Counts them one by one only when the number
        on file, which may include expired ones, is that high."""
        on_file = self._number(keys.lease_count(grant.id))
        return on_file >= most and self.leases_in_force(grant, ledger_time, most) >= most

    def leases_on_file(self, grant: Grant) -> tuple[int, int]:
        """The unreleased leases of a grant, expired ones included: as counted, and as filed."""
        filed = sum(1 for _ in self._reader.scan(keys.all_leases_of_grant(grant.id)))
        return self._number(keys.lease_count(grant.id)), filed

    def proposal(self, proposal: str) -> Proposal | None:
        return self._find(Kind.PROPOSAL, proposal, Proposal.from_json)

    def proposals(self) -> Iterator[Proposal]:
        return self._each(Kind.PROPOSAL, Proposal.from_json)

    def open_proposals(self, domain: str) -> Iterator[Proposal]:
        """Those of one domain that are not closed, and at most MAX_OPEN_PROPOSALS_PER_DOMAIN; some
        may have expired."""
        prefix = keys.open_proposals(domain)
        for key, _ in self._reader.scan(prefix):
            ident = key[len(prefix) :].decode("ascii", "replace")
            yield self._indexed(self.proposal(ident), key)

    def containment(self, thing: str) -> Containment | None:
        return self._find(Kind.CONTAINMENT, thing, Containment.from_json)

    def containments(self) -> Iterator[Containment]:
        return self._each(Kind.CONTAINMENT, Containment.from_json)

    def containment_count(self, domain: str = "") -> int:
        """How much a domain contains; without one, how much all of them do."""
        return self._number(keys.containment_count(domain))

    def reference(self, domain: str, name: str) -> Reference | None:
        return self._find(Kind.REFERENCE, f"{domain}/{name}", Reference.from_json)

    def references(self, domain: str) -> Iterator[Reference]:
        """Those of one domain; at most MAX_REFERENCES_PER_DOMAIN."""
        for key, data in self._reader.scan(keys.references(domain)):
            yield _parse(Reference.from_json, data, repr(key))

    def all_references(self) -> Iterator[Reference]:
        return self._each(Kind.REFERENCE, Reference.from_json)

    def policies(self, owner: str) -> Policies | None:
        """Those of a domain, or of BY_BALLOT; None: there never were any."""
        return self._find(Kind.POLICIES, owner, Policies.from_json)

    def all_policies(self) -> Iterator[Policies]:
        return self._each(Kind.POLICIES, Policies.from_json)

    def thresholds(self) -> Thresholds:
        data = self._reader.get(keys.THRESHOLDS)
        return {} if data is None else _parse(thresholds_from_json, data, "the thresholds")

    def metered(self, key: bytes) -> int:
        """The moment of one rate (`quorate.core.rates`), microseconds since the epoch."""
        return self._number(key)

    def lineage_head(self, node: str) -> str:
        """The head of the chain of what a node has reported, in hex; empty: nothing yet."""
        return (self._reader.get(keys.lineage_head(node)) or b"").hex()

    def outcome(self, command_id: str) -> Outcome | None:
        """What became of a command, while the ledger remembers it."""
        remembered = self.remembered(command_id)
        return remembered.outcome if remembered else None

    def remembered(self, command_id: str) -> Remembered | None:
        try:
            key = keys.outcome(command_id)
        except ValueError:  # not hex: no command's id
            return None
        data = self._reader.get(key)
        return None if data is None else _parse(Remembered.from_json, data, command_id)

    def _find(self, kind: Kind, ident: str, parse: Callable[[object], T]) -> T | None:
        key = keys.record(kind, ident)
        data = None if key is None else self._reader.get(key)
        if data is None:
            return None
        record = _parse(parse, data, ident)
        if record.id != ident:
            raise StorageDamagedError(f"the {kind} {record.id} lies where {ident} should")
        return record

    def _each(self, kind: Kind, parse: Callable[[object], T]) -> Iterator[T]:
        for _, data in self._reader.scan(keys.RECORDS[kind]):
            yield _parse(parse, data, kind, keep=False)  # whoever looks at all comes by once

    def _number(self, key: bytes) -> int:
        return int.from_bytes(self._reader.get(key) or b"", "big")

    def _indexed(self, record: R | None, key: bytes) -> R:
        if record is None:
            raise StorageDamagedError(f"an index names what does not exist: {key!r}")
        return record


def parse_lasting(kind: Kind, data: bytes) -> Lasting:
    """The record of something that is never gone. Raises StorageDamagedError."""
    record = _parse(PARSERS[kind], data, kind, keep=False)
    assert not isinstance(record, Lease | Containment | Reference), "looked at by themselves"
    return record


def record_json(view: StateView, kind: str, ident: str) -> bytes | None:
    """One record as canonical JSON. Raises ValueError for a kind that is none (see Kind)."""
    wanted = Kind(kind)
    if wanted is Kind.FEDERATION:
        return _federation_json(view) if ident in ("", view.federation().id) else None
    found = view._find(wanted, ident, PARSERS[wanted])
    return None if found is None else codec.encode(found.to_json())


def list_records(view: StateView, kind: str, after: str, limit: int) -> list[tuple[str, bytes]]:
    """At most `limit` records (id, canonical JSON) whose id comes after `after`, in order of id.

    Raises ValueError for a kind that is none.
    """
    wanted = Kind(kind)
    if wanted is Kind.FEDERATION:
        ident = view.federation().id
        return [(ident, _federation_json(view))] if ident > after and limit > 0 else []
    prefix = keys.RECORDS[wanted]
    rows = islice(view._reader.scan(prefix, keys.after(wanted, after)), max(limit, 0))
    return [(key[len(prefix) :].decode("ascii", "replace"), data) for key, data in rows]


def _federation_json(view: StateView) -> bytes:
    """With how many have to agree on what, which lies elsewhere."""
    thresholds = thresholds_to_json(view.thresholds())
    return codec.encode({**view.federation().to_json(), "thresholds": thresholds})


def _parse(parse: Callable[[object], R], data: bytes, what: str, *, keep: bool = True) -> R:
    try:
        return cast("R", (_parsed if keep else _parsed.__wrapped__)(parse, data))
    except MalformedError as error:
        raise StorageDamagedError(f"the record of {what} is damaged: {error}") from error


@lru_cache(maxsize=_PARSED_RECORDS)
def _parsed(parse: Callable[[object], object], data: bytes) -> object:
    """Records are immutable, and the same bytes are the same record: most of what a decision reads
    was read by the one before."""
    return parse(codec.load(data))
