"""How a federation goes on that has lost its quorum for good: the recovery document.

Owns the document: building its payload, parsing and verifying it. It is what the genesis is to a
new federation, so that a `Recovery` is a `Genesis`: leaf 0 of a new ledger, signed by every domain
that survives. It commits to the former ledger (size and root), and to the state that is carried
over (`docs/adr/0013`). Does not own what becomes of that state (`quorate.core.recovering`), nor
whether the quorum is really lost, which nobody can prove.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from quorate.core import codec, dsse, ids, protocol
from quorate.core.acts import read_rates, set_thresholds, set_under
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.genesis import (
    Descriptor,
    Genesis,
    check_certificate,
    check_together,
    check_type,
    parse_genesis,
    protocol_to_json,
    read_key,
    read_node,
    read_parameters,
    read_protocol,
)
from quorate.core.keysets import count_signatures, key_set_of, read_key_set
from quorate.core.limits import (
    MAX_DOCUMENT_SIGNATURES,
    MAX_DOMAINS,
    MAX_GENESIS_BYTES,
    MAX_KEYS_PER_SET,
    PROTOCOL_VERSION,
)
from quorate.core.records import BY_BALLOT, Parameters, PolicyMark, Rates
from quorate.core.thresholds import Thresholds, thresholds_to_json

FENCE_MARGIN: Final = 2**32
"""How many entries may have been lost with the quorum: the new ledger's fences begin beyond them
all. Entries have 200 bytes at the least, so that no disk of today holds so many."""

PROBATION: Final = "probation"
EXPELLED: Final = "expelled"
SUSPENDED_BY: Final = "suspended_by"
THRESHOLDS: Final = "thresholds"
FROZEN: Final = "frozen"
RATES: Final = "rates"
POLICIES: Final = "policies"
KEY_SET: Final = "key_set"
NEXT_CA: Final = "next_ca"
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Former:
    """Where the former ledger ends.

    genesis_hash, root, state: SHA-256 in lower-case hex; `state` as `state_hash` makes it.
    log_index, log_term: the last entry of the replicated log that was executed.
    """

    origin: str
    genesis_hash: str
    ledger_size: int
    root: str
    log_index: int
    log_term: int
    state: str

    def to_json(self) -> dict[str, codec.JsonValue]:
        return {
            "origin": self.origin,
            "genesis_hash": self.genesis_hash,
            "ledger_size": self.ledger_size,
            "root": self.root,
            "log_index": self.log_index,
            "log_term": self.log_term,
            "state": self.state,
        }


@dataclass(frozen=True, slots=True)
class Recovery(Genesis):
    """A verified recovery document.

    descriptors: all domains of the state, each with its last voter, or the node that it goes on
    with. survivors: the domains that go on, and have signed. fence_base: what the fences of the new
    ledger are counted from. on_probation: those of the survivors whose node may have forgotten what
    it promised, so that it is one of no quorum. suspended_by, expelled, thresholds: as the state
    has them, so that whoever has the document alone knows who has a vote. is_frozen: whether the
    federation is; what it lets through all the same is in the state alone. rates, policies: the
    federation's, so that the next ballot on them can be decided again; the policies' text is in the
    state alone.
    """

    former: Former
    survivors: tuple[str, ...]
    fence_base: int
    on_probation: tuple[str, ...] = ()
    suspended_by: Mapping[str, str] = field(default_factory=dict)
    expelled: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=dict)
    is_frozen: bool = False
    rates: Rates | None = None
    policies: PolicyMark | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that go on: one for each surviving domain."""
        return tuple(d.node.id for d in self.descriptors if d.domain in self.survivors)

    @property
    def forgetful_nodes(self) -> tuple[str, ...]:
        """Those of `nodes` that may have forgotten what they promised."""
        return tuple(d.node.id for d in self.descriptors if d.domain in self.on_probation)


def state_hash(pairs: Iterable[tuple[bytes, bytes]]) -> str:
    """SHA-256, in hex, over the pairs of a state in ascending order of key: for each key and value
    its length in 4 bytes, big-endian, and it."""
    digest = hashlib.sha256()
    for pair in pairs:
        for part in pair:
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
    return digest.hexdigest()


def build_recovery_payload(
    *,
    origin: str,
    created_ms: int,
    parameters: Parameters,
    version: int,
    fence_base: int,
    former: Former,
    descriptors: Sequence[Descriptor],
    survivors: Iterable[str],
    on_probation: Iterable[str] = (),
    suspended_by: Mapping[str, str] | None = None,
    expelled: Iterable[str] = (),
    thresholds: Thresholds | None = None,
    is_frozen: bool = False,
    rates: Rates | None = None,
    policies: PolicyMark | None = None,
) -> bytes:
    """What every surviving domain signs. version: of the protocol, as the state has it. The domains
    may come in any order. Raises MalformedError."""
    goes_on, forgetful, gone = set(survivors), set(on_probation), set(expelled)
    suspenders = suspended_by or {}
    described = {item.domain: item for item in descriptors}

    def standing(domain: str) -> dict[str, codec.JsonValue]:
        """What is said of a domain only if it is so."""
        said: dict[str, codec.JsonValue] = {}
        if domain in forgetful:
            said[PROBATION] = True
        if domain in gone:
            said[EXPELLED] = True
        if domain in suspenders:
            said[SUSPENDED_BY] = suspenders[domain]
        item = described[domain]
        if item.key_set is not None:
            said[KEY_SET] = item.key_set.to_json()
        if item.next_ca:
            said[NEXT_CA] = item.next_ca
        return said

    payload = codec.encode(
        {
            "v": PROTOCOL_VERSION,
            "origin": origin,
            "created": created_ms,
            "parameters": parameters.to_json(),
            "fence_base": fence_base,
            "former": former.to_json(),
            "domains": [
                {
                    "domain": item.domain,
                    "survives": item.domain in goes_on,
                    "governance_key": item.governance_key.hex(),
                    "cosigner_key": item.cosigner_key.hex(),
                    "ca_certificate": item.ca_certificate,
                    "node": item.node.to_json(),
                    **standing(item.domain),
                }
                for item in sorted(descriptors, key=lambda item: item.domain)
            ],
            **({THRESHOLDS: thresholds_to_json(thresholds)} if thresholds else {}),
            **({FROZEN: True} if is_frozen else {}),
            **({} if rates is None else {RATES: rates.to_json()}),
            **({} if policies is None else {POLICIES: policies.to_json()}),
            **protocol_to_json(version),
        }
    )
    _read(dsse.Envelope(payload, dsse.RECOVERY_TYPE, ()), b"")
    return payload


def parse_recovery(data: bytes) -> Recovery:
    """Parses a recovery document and verifies every signature. Raises MalformedError."""
    envelope = _open(data)
    recovery = _read(envelope, hashlib.sha256(data).digest())
    for domain in recovery.survivors:
        if signatures_missing(recovery, domain) > 0:
            raise MalformedError(f"not signed by {domain}", field="signatures")
    _refuse_others(recovery)
    return recovery


def signatures_missing(recovery: Recovery, domain: str) -> int:
    """How many more keys of a surviving domain have to sign the document. No more may than have
    to: the hash of the document is that of its signatures, too."""
    [item] = [each for each in recovery.descriptors if each.domain == domain]
    return key_set_of(item).threshold - _count(recovery.envelope, item)


def _count(envelope: dsse.Envelope, item: Descriptor) -> int:
    return count_signatures(envelope, governance_keys_of(item), MAX_KEYS_PER_SET)


def governance_keys_of(item: Descriptor) -> tuple[str, ...]:
    """In hex, in the order in which signatures stand."""
    return (item.governance_key.hex(), *key_set_of(item).governance_keys)


def _refuse_others(recovery: Recovery) -> None:
    """Each signature is that of a domain that goes on, and one that it needs."""
    envelope, left = recovery.envelope, 0
    for item in recovery.descriptors:
        count = _count(envelope, item) if item.domain in recovery.survivors else 0
        if count > key_set_of(item).threshold:
            raise MalformedError(f"signed by {item.domain} more than needed", field="signatures")
        left += count
    if len(envelope.signatures) != left:
        raise MalformedError("signed by somebody who does not go on", field="signatures")


def parse_recovery_draft(data: bytes) -> tuple[Recovery, tuple[str, ...]]:
    """A recovery document that need not be signed by all yet, and the domains that have signed it.
    Raises MalformedError."""
    envelope = _open(data, draft=True)
    recovery = _read(envelope, hashlib.sha256(data).digest())
    _refuse_others(recovery)
    signed = tuple(each for each in recovery.survivors if not signatures_missing(recovery, each))
    return recovery, signed


def _open(data: bytes, *, draft: bool = False) -> dsse.Envelope:
    return dsse.parse(data, MAX_GENESIS_BYTES, draft=draft, most=MAX_DOCUMENT_SIGNATURES)


def parse_founding(data: bytes) -> Genesis:
    """What a ledger begins with: a genesis, or a recovery document. Raises MalformedError."""
    if _open(data).payload_type == dsse.RECOVERY_TYPE:
        return parse_recovery(data)
    return parse_genesis(data)


def _read(envelope: dsse.Envelope, digest: bytes) -> Recovery:
    check_type(envelope, dsse.RECOVERY_TYPE)
    fields = Fields(codec.decode(envelope.payload, MAX_GENESIS_BYTES))
    fields.integer("v", PROTOCOL_VERSION, PROTOCOL_VERSION)
    origin = fields.text("origin", ids.check_origin)
    created = fields.integer("created")
    parameters = read_parameters(fields.nested("parameters"))
    fence_base = fields.integer("fence_base")
    former = _read_former(fields.nested("former"))
    items = fields.objects("domains", 1, MAX_DOMAINS)
    version = read_protocol(fields)
    thresholds = _read_thresholds(fields, version) if fields.has(THRESHOLDS) else {}
    is_frozen = fields.has(FROZEN)
    if is_frozen and not (fields.truth(FROZEN) and version >= protocol.SECOND):
        raise MalformedError("is true, of later rules, or left out", field=FROZEN)
    is_later = version >= protocol.SECOND
    rates = read_rates(fields.nested(RATES)) if is_later and fields.has(RATES) else None
    policies = _read_mark(fields.nested(POLICIES)) if is_later and fields.has(POLICIES) else None
    fields.done()
    read = [
        _read_domain(Fields(item, f"domains[{n}]"), envelope, version)
        for n, item in enumerate(items)
    ]
    descriptors = tuple(each.descriptor for each in read)
    survivors = tuple(each.domain for each in read if each.survives)
    # Other nodes are retired, and the addresses that they had may be others' by now.
    present = [each.descriptor for each in read if each.survives]
    check_together(descriptors, "domains", present)
    if not survivors:
        raise MalformedError("nobody goes on", field="domains")
    if origin == former.origin:
        raise MalformedError("must be another than before", field="origin")
    if fence_base < former.ledger_size + FENCE_MARGIN:
        raise MalformedError("must be beyond every fence of before", field="fence_base")
    return Recovery(
        origin=origin,
        created=created,
        parameters=parameters,
        descriptors=descriptors,
        envelope=envelope,
        hash=digest,
        protocol=version,
        former=former,
        survivors=survivors,
        fence_base=fence_base,
        on_probation=tuple(each.domain for each in read if each.is_forgetful),
        suspended_by={each.domain: each.suspended_by for each in read if each.suspended_by},
        expelled=tuple(each.domain for each in read if each.is_expelled),
        thresholds=thresholds,
        is_frozen=is_frozen,
        rates=rates,
        policies=policies,
    )


def _read_thresholds(fields: Fields, version: int) -> Thresholds:
    """As they were set, under this version or an earlier one."""
    said = fields.peek(THRESHOLDS)
    types = said.keys() if isinstance(said, dict) else set[str]()
    return set_thresholds(set_under(types, version), fields).thresholds


def _read_mark(fields: Fields) -> PolicyMark:
    """Of what was retired there is no hash."""
    version, sha256 = fields.integer("version", 1), fields.text("sha256")
    fields.done()
    if sha256:
        fields.checked("sha256", sha256, _check_hash)
    return PolicyMark(version, sha256)


def _read_former(fields: Fields) -> Former:
    former = Former(
        origin=fields.text("origin", ids.check_origin),
        genesis_hash=fields.text("genesis_hash", _check_hash),
        ledger_size=fields.integer("ledger_size", 1),
        root=fields.text("root", _check_hash),
        log_index=fields.integer("log_index"),
        log_term=fields.integer("log_term"),
        state=fields.text("state", _check_hash),
    )
    fields.done()
    return former


@dataclass(frozen=True, slots=True)
class _Member:
    """A domain as the document has it."""

    descriptor: Descriptor
    survives: bool
    is_forgetful: bool
    is_expelled: bool
    suspended_by: str

    @property
    def domain(self) -> str:
        return self.descriptor.domain


def _read_domain(fields: Fields, envelope: dsse.Envelope, version: int) -> _Member:
    domain = fields.text("domain", ids.check_domain)
    survives = fields.truth("survives")
    is_forgetful, is_expelled = fields.has(PROBATION), fields.has(EXPELLED)
    if is_forgetful and not (fields.truth(PROBATION) and survives):
        raise MalformedError("is true, of a survivor, or left out", field=fields.at(PROBATION))
    if is_expelled and (survives or not fields.truth(EXPELLED)):
        raise MalformedError("is true, of no survivor, or left out", field=fields.at(EXPELLED))
    suspended_by = fields.text(SUSPENDED_BY) if fields.has(SUSPENDED_BY) else ""
    if suspended_by not in {"", domain, BY_BALLOT} or (suspended_by and is_expelled):
        raise MalformedError(
            "is the domain itself or the federation", field=fields.at(SUSPENDED_BY)
        )
    descriptor = Descriptor(
        domain=domain,
        governance_key=read_key(fields, "governance_key"),
        cosigner_key=read_key(fields, "cosigner_key"),
        ca_certificate=fields.text("ca_certificate", check_certificate),
        node=read_node(fields.nested("node")),
        envelope=envelope,
        key_set=read_key_set(fields) if version >= protocol.SECOND else None,
        next_ca=_read_next_ca(fields) if version >= protocol.SECOND else "",
    )
    if descriptor.next_ca == descriptor.ca_certificate:
        raise MalformedError("is the present one", field=fields.at(NEXT_CA))
    fields.done()
    if ids.SpiffeId.parse(descriptor.node.id).trust_domain != domain:
        raise MalformedError(f"must be a node of {domain}", field=fields.at("node.id"))
    return _Member(descriptor, survives, is_forgetful, is_expelled, suspended_by)


def _read_next_ca(fields: Fields) -> str:
    return fields.text(NEXT_CA, check_certificate) if fields.has(NEXT_CA) else ""


def _check_hash(text: str) -> None:
    if _HASH.fullmatch(text) is None:
        raise MalformedError("must be 64 lower-case hex digits")
