"""The keys of the replicated state: where each record and index entry lies.

Owns their layout, and nothing that lies there. Ids are ASCII without a zero byte. Where several
ids would make a key longer than a store allows (511 bytes in LMDB), the first are hashed.

    F                                     federation            T  ledger time, 8 bytes
    D domain          N node id           E executor            C domain: how many executors
    m node id                             nodes not retired     M  domain: how many nodes ever
    k public key                          whose it is, for ever
    R truster/edge    p H(truster, trustee) edge                open edges of a pair
    G issuer/grant    g H(executor) issuer 0 grant              grants that may yet permit
                      h H(executor) issuer 0 grant              grants that never will again
    L lease id        l H(grant id) expires_at lease id         unreleased leases of a grant
                      n H(grant id)                             how many those are
    B executor, or lease id                   b domain: how much it contains; b: all of them
    P proposal id     q domain 0 proposal id                    open proposals of a domain
    A domain/name                         what executors of a domain have to prove
    r domain, or "the federation"         its policies
    V                                     how many have to agree on what
    o node id                             head of what the node has reported, 32 bytes
    c command id      x not_after command id                    outcomes; when to forget them
"""

from __future__ import annotations

import hashlib
from typing import Final

from quorate.core.limits import MAX_ID_CHARS, MAX_NAME_CHARS
from quorate.core.records import Kind

FEDERATION: Final = b"F"
LEDGER_TIME: Final = b"T"
OUTCOMES: Final = b"c"
FORGETTING: Final = b"x"
EXECUTOR_COUNTS: Final = b"C"
NODE_COUNTS: Final = b"M"
ACTIVE_NODES: Final = b"m"
PUBLIC_KEYS: Final = b"k"
EDGES_OF_PAIR: Final = b"p"
LIVE_GRANTS: Final = b"g"
SPENT_GRANTS: Final = b"h"
LEASES_OF_GRANT: Final = b"l"
LEASE_COUNTS: Final = b"n"
LINEAGE_HEADS: Final = b"o"
OPEN_PROPOSALS: Final = b"q"
THRESHOLDS: Final = b"V"

REKEYINGS: Final = b"K"
RATES: Final = b"z"
RATE_OF_DOMAIN: Final = b"d"
RATE_OF_NODES: Final = b"n"
RATE_OF_EXECUTOR: Final = b"e"
CONTAINMENT_COUNTS: Final = b"b"

RECORDS: Final = {
    Kind.DOMAIN: b"D",
    Kind.NODE: b"N",
    Kind.EXECUTOR: b"E",
    Kind.TRUST: b"R",
    Kind.GRANT: b"G",
    Kind.LEASE: b"L",
    Kind.PROPOSAL: b"P",
    Kind.CONTAINMENT: b"B",
    Kind.REFERENCE: b"A",
    Kind.POLICIES: b"r",
}

_MAX_KEY_CHARS: Final = MAX_ID_CHARS + 1 + MAX_NAME_CHARS
"""The longest id: a domain, a slash, a name."""


def record(kind: Kind, ident: str) -> bytes | None:
    """Where the record of an id lies; None when no id looks like that, so that nothing does."""
    if not ident or len(ident) > _MAX_KEY_CHARS or not ident.isascii():
        return None
    return RECORDS[kind] + ident.encode("ascii")


def after(kind: Kind, ident: str) -> bytes:
    """Where the records behind that of `ident` begin; `ident` may be any text."""
    tail = ident.encode("utf-8", "surrogatepass")[:_MAX_KEY_CHARS]
    return RECORDS[kind] + tail + b"\x00" if tail else RECORDS[kind]


def executor_count(domain: str) -> bytes:
    return EXECUTOR_COUNTS + domain.encode("ascii")


def node_count(domain: str) -> bytes:
    return NODE_COUNTS + domain.encode("ascii")


def containment_count(domain: str = "") -> bytes:
    """Without a domain: of all domains together."""
    return CONTAINMENT_COUNTS + domain.encode("ascii")


def active_node(node: str) -> bytes:
    return ACTIVE_NODES + node.encode("ascii")


def active_nodes(domain: str = "") -> bytes:
    """Where the active nodes of one domain lie, or of all: a node's id begins with its domain."""
    return ACTIVE_NODES + f"spiffe://{domain}/".encode("ascii") if domain else ACTIVE_NODES


def rate(kind: bytes, ident: str) -> bytes:
    """Where the moment of one rate lies. `kind` is one of RATE_OF_..., `ident` whose it is."""
    return RATES + kind + ident.encode("ascii")


def lineage_head(node: str) -> bytes:
    return LINEAGE_HEADS + node.encode("ascii")


def public_key(public_key: str) -> bytes:
    """`public_key` is 64 hex digits; so is the digest of a CA, which is on file beside them."""
    return PUBLIC_KEYS + bytes.fromhex(public_key)


def edges_of_pair(truster: str, trustee: str) -> bytes:
    return EDGES_OF_PAIR + _digest(f"{truster}\x00{trustee}")


def edge_of_pair(truster: str, trustee: str, edge: str) -> bytes:
    return edges_of_pair(truster, trustee) + edge.encode("ascii")


def grants_of_executor(index: bytes, executor: str, issuer: str = "") -> bytes:
    """`index` is LIVE_GRANTS or SPENT_GRANTS; without an issuer: of all issuers."""
    prefix = index + _digest(executor)
    return prefix + issuer.encode("ascii") + b"\x00" if issuer else prefix


def grant_of_executor(index: bytes, executor: str, issuer: str, grant: str) -> bytes:
    return grants_of_executor(index, executor, issuer) + grant.encode("ascii")


def leases_of_grant(grant_id: str, expires_at: int = 0) -> bytes:
    """Where the leases of a grant begin that expire at `expires_at` or later."""
    return LEASES_OF_GRANT + _digest(grant_id) + number(expires_at)


def lease_count(grant_id: str) -> bytes:
    return LEASE_COUNTS + _digest(grant_id)


def all_leases_of_grant(grant_id: str) -> bytes:
    return LEASES_OF_GRANT + _digest(grant_id)


def lease_of_grant(grant_id: str, expires_at: int, lease: str) -> bytes:
    return leases_of_grant(grant_id, expires_at) + lease.encode("ascii")


def open_proposals(domain: str) -> bytes:
    return OPEN_PROPOSALS + domain.encode("ascii") + b"\x00"


def open_proposal(domain: str, proposal: str) -> bytes:
    return open_proposals(domain) + proposal.encode("ascii")


def outcome(command_id: str) -> bytes:
    """`command_id` is 64 hex digits."""
    return OUTCOMES + bytes.fromhex(command_id)


def forgetting(not_after: int, command_id: str) -> bytes:
    return FORGETTING + number(not_after) + bytes.fromhex(command_id)


def number(value: int) -> bytes:
    """Eight bytes that sort as the number does."""
    return value.to_bytes(8, "big")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def rekeying(domain: str, place: int) -> bytes:
    """Where the proof lies that the domain took new keys, of the first time, the second, ..."""
    return REKEYINGS + domain.encode("ascii") + b"\x00" + number(place)


def references(domain: str) -> bytes:
    """Where the references of one domain lie."""
    return RECORDS[Kind.REFERENCE] + domain.encode("ascii") + b"/"
