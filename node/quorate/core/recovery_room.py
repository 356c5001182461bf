"""How much room a recovery document needs.

Owns the bound that domains, keys and certificates are held to, so that no federation grows beyond
every recovery. The document itself is `quorate.core.recovery`'s.
"""

from __future__ import annotations

from collections.abc import Iterable

from quorate.core import codec, dsse, protocol, recovery
from quorate.core.acts import ACTS
from quorate.core.genesis import PARAMETER_RANGES, protocol_to_json
from quorate.core.keysets import key_set_of
from quorate.core.limits import MAX_ID_CHARS, MAX_INTEGER, MAX_RATE_PER_MIN, PROTOCOL_VERSION
from quorate.core.records import BY_BALLOT, Domain, Parameters, PolicyMark, Rates
from quorate.core.thresholds import Threshold


def longest_document(domains: Iterable[Domain], version: int) -> int:
    """How many bytes a recovery document about these domains takes at the most, under that version
    of the protocol: with the longest names that nodes and ledgers have, and all of it said of each
    that can be. Who is admitted is held to that, or a federation could grow beyond every
    recovery."""
    members = list(domains)
    text, digest = "x" * MAX_ID_CHARS, "0" * 64
    rows: list[codec.JsonValue] = [
        {
            "domain": item.id,
            "survives": False,
            "governance_key": digest,
            "cosigner_key": digest,
            "ca_certificate": item.ca_certificate,
            "node": {"id": text, "peer_address": text, "signing_key": digest, "log_key": digest},
            recovery.PROBATION: True,
            recovery.EXPELLED: True,
            recovery.SUSPENDED_BY: max(item.id, BY_BALLOT, key=len),
            **({} if item.key_set is None else {recovery.KEY_SET: item.key_set.to_json()}),
            **({recovery.NEXT_CA: item.next_ca} if item.next_ca else {}),
        }
        for item in members
    ]
    rules = max(Threshold, key=len).value
    most = Parameters(*([MAX_INTEGER] * len(PARAMETER_RANGES)))
    former = recovery.Former(text, digest, MAX_INTEGER, digest, MAX_INTEGER, MAX_INTEGER, digest)
    rates, policies = Rates(MAX_RATE_PER_MIN, MAX_RATE_PER_MIN), PolicyMark(MAX_INTEGER, digest)
    later: dict[str, object] = {
        recovery.FROZEN: True,
        recovery.RATES: rates.to_json(),
        recovery.POLICIES: policies.to_json(),
    }
    payload = codec.encode(
        {
            "v": PROTOCOL_VERSION,
            "origin": text,
            "created": MAX_INTEGER,
            "parameters": most.to_json(),
            "fence_base": MAX_INTEGER,
            "former": former.to_json(),
            "domains": rows,
            recovery.THRESHOLDS: {verb.value: rules for verb in ACTS[version]},
            **(later if version >= protocol.SECOND else {}),
            **protocol_to_json(protocol.MOST),
        }
    )
    signature = dsse.Signature(digest, bytes(dsse.SIGNATURE_BYTES))
    signatures = (signature,) * sum(key_set_of(item).threshold for item in members)
    return len(dsse.Envelope(payload, dsse.RECOVERY_TYPE, signatures).to_bytes())
