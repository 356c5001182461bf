"""What people sign and send: envelopes, commands, descriptors, founding documents.

Mere bytes hardly ever carry a good signature. Where one is wanted, an input is what was signed, and
the target signs it.
"""

from __future__ import annotations

from functools import cache

from tests.fuzz.harness import Bounds, attempt, target
from tests.unit.core.conftest import BANK, SECOND, World

from quorate.api.errors import InvalidRequestError
from quorate.api.governance import _parse as parse_submitted
from quorate.core import codec, dsse, genesis, lineage, protocol, recovery
from quorate.core.acts import ACTS, parse_act
from quorate.core.commands import is_known, parse_command
from quorate.core.errors import MalformedError
from quorate.core.keysets import (
    KeySet,
    check_keyed,
    count_signatures,
    governance_keys,
    is_governed,
    key_set_of,
)
from quorate.core.limits import (
    MAX_ENVELOPE_BYTES,
    MAX_GENESIS_BYTES,
    MAX_KEYS_PER_SET,
    MAX_RECORD_BYTES,
)
from quorate.core.rekeying import read_rekeying
from quorate.node.introduction import is_order
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import Federation, key_for


@cache
def federation() -> Federation:
    """One that no target changes."""
    return Federation.build()


@target("quorate.core.codec")
def canonical_json(data: bytes) -> None:
    value = attempt(MalformedError, codec.decode, data, MAX_GENESIS_BYTES)
    if value is not None:
        assert codec.encode(value) == data
        assert codec.decode_flat(data) == value == codec.load(data)
    flat = attempt(MalformedError, codec.decode_flat, data)
    assert value is None or flat is not None
    stamped = attempt(MalformedError, codec.unstamp, data)
    assert stamped is None or codec.stamp(*stamped) == data


@target("quorate.core.dsse", "quorate.core.fields", "quorate.api.governance")
def envelope(data: bytes) -> None:
    whole = attempt(MalformedError, dsse.parse, data, MAX_ENVELOPE_BYTES)
    draft = attempt(MalformedError, lambda: dsse.parse(data, MAX_ENVELOPE_BYTES, draft=True))
    if draft is not None:
        assert draft.to_bytes() == data
        assert (whole is not None) == bool(draft.signatures)
        assert not draft.verify(key_for("nobody").public)
    attempt(InvalidRequestError, parse_submitted, data)


@target("quorate.core.commands", "quorate.core.acts")
def command(data: bytes) -> None:
    """An input is the payload."""
    read = {
        version: attempt(MalformedError, parse_command, data, version)
        for version in range(protocol.FIRST, protocol.LATEST + 1)
    }
    for version, found in read.items():
        if found is None:
            continue
        assert is_known(found.verb, version)
        value = codec.decode(data, MAX_ENVELOPE_BYTES)
        assert isinstance(value, dict)
        assert (value["type"], value["issuer"]) == (found.verb, found.issuer)
        assert {each.fingerprint for each in read.values() if each} == {found.fingerprint}
    signed = sign_envelope(dsse.COMMAND_TYPE, data, key_for("anybody"))
    submitted = attempt(InvalidRequestError, parse_submitted, signed)
    fits = len(signed) <= MAX_ENVELOPE_BYTES
    assert submitted == (read[protocol.LATEST] if fits else None)


@target("quorate.core.acts")
def proposed_act(data: bytes) -> None:
    """An input is which act it is, and its body as text. What one version of the protocol knows
    the next does, too."""
    acts = list(ACTS[protocol.LATEST])
    act = acts[data[0] % len(acts)].value if data else ""
    text = data[1:].decode("utf-8", "replace")
    for version in range(protocol.FIRST, protocol.LATEST + 1):
        read = attempt(MalformedError, parse_act, act, text, version)
        assert read is None or act in ACTS[version]


@target("quorate.core.rekeying", "quorate.core.keysets")
def proof_of_keys(data: bytes) -> None:
    """An input is a payload, which the domain has signed, or the whole envelope."""
    key = federation()[BANK].governance
    for shown in (data, sign_envelope(dsse.COMMAND_TYPE, data, key)):
        read = attempt(MalformedError, read_rekeying, shown, BANK)
        if read is not None:
            assert read[0].to_bytes() == shown
            assert read[1].domain == BANK
            check_keyed(read[1], may_be=True)
            assert len({*read[1].authorities}) == len(read[1].authorities) <= 2
            for each in read[1].authorities:
                genesis.check_certificate(each)
            key_set = key_set_of(read[1])
            assert key_set == KeySet.from_json(key_set.to_json())
            some = count_signatures(read[0], governance_keys(read[1]), MAX_KEYS_PER_SET)
            assert is_governed(read[0], read[1]) == (some >= key_set.threshold)


@target("quorate.node.introduction")
def order(data: bytes) -> None:
    """An input is a payload, which the domain has signed, or the whole order."""
    domain, now = _world().view.domain(BANK), _world().view.ledger_time()
    assert domain is not None
    key = federation()[BANK].governance
    for shown in (data, sign_envelope(dsse.COMMAND_TYPE, data, key)):
        if is_order(shown, SECOND, federation().origin, domain, now):
            assert parse_command(dsse.parse(shown, MAX_ENVELOPE_BYTES).payload).issuer == BANK


@cache
def _world() -> World:
    return World()


@target("quorate.core.genesis")
def descriptor(data: bytes) -> None:
    """An input is a payload, or the whole document."""
    attempt(MalformedError, genesis.parse_descriptor, data)
    signed = sign_envelope(dsse.DESCRIPTOR_TYPE, data, federation()[BANK].governance)
    read = attempt(MalformedError, genesis.parse_descriptor, signed)
    if read is not None:
        assert read.envelope.to_bytes() == signed
        again = genesis.build_descriptor_payload(
            domain=read.domain,
            governance_key=read.governance_key,
            cosigner_key=read.cosigner_key,
            ca_certificate=read.ca_certificate,
            node=read.node,
        )
        assert again == data
        attempt(MalformedError, genesis.load_certificate, read.ca_certificate)


@target("quorate.core.genesis")
def node_description(data: bytes) -> None:
    node = attempt(MalformedError, genesis.parse_node, data)
    assert node is None or codec.encode(node.to_json()) == data


@target("quorate.core.genesis", "quorate.core.recovery", bounds=Bounds(steps=(12_000, 60)))
def founding_document(data: bytes) -> None:
    read = attempt(MalformedError, recovery.parse_founding, data)
    if read is not None:
        assert read.envelope.to_bytes() == data
    attempt(MalformedError, genesis.parse_draft, data)
    attempt(MalformedError, recovery.parse_recovery_draft, data)


@target("quorate.core.genesis", bounds=Bounds(steps=(12_000, 60)))
def genesis_payload(data: bytes) -> None:
    keys = [member.governance for member in federation().organisations.values()]
    signed = sign_envelope(dsse.GENESIS_TYPE, data, *keys)
    draft = attempt(MalformedError, genesis.parse_draft, signed)
    whole = attempt(MalformedError, genesis.parse_genesis, signed)
    assert whole is None or draft is not None
    if draft is not None:
        read, _ = draft
        again = genesis.build_genesis_payload(
            read.origin,
            read.created,
            read.parameters,
            [each.envelope.to_bytes() for each in read.descriptors],
            read.protocol,
        )
        assert again == data


@target("quorate.core.recovery", bounds=Bounds(steps=(12_000, 60)))
def recovery_payload(data: bytes) -> None:
    """Signed by everybody, and by one only."""
    keys = [member.governance for member in federation().organisations.values()]
    for signers in (keys, keys[:1]):
        signed = sign_envelope(dsse.RECOVERY_TYPE, data, *signers)
        draft = attempt(MalformedError, recovery.parse_recovery_draft, signed)
        whole = attempt(MalformedError, recovery.parse_recovery, signed)
        if whole is None:
            continue
        assert draft is not None
        read, _ = draft
        assert read == whole
        again = recovery.build_recovery_payload(
            origin=read.origin,
            created_ms=read.created,
            parameters=read.parameters,
            version=read.protocol,
            fence_base=read.fence_base,
            former=read.former,
            descriptors=read.descriptors,
            survivors=read.survivors,
            on_probation=read.on_probation,
            suspended_by=read.suspended_by,
            expelled=read.expelled,
            thresholds=read.thresholds,
            is_frozen=read.is_frozen,
            rates=read.rates,
            policies=read.policies,
        )
        assert again == data


@target("quorate.core.lineage")
def lineage_record(data: bytes) -> None:
    value = attempt(MalformedError, codec.decode, data, MAX_RECORD_BYTES)
    record = attempt(MalformedError, lineage.parse_record, value)
    if record is not None:
        assert lineage.encoded(record) == data
        assert lineage.parse_record(record.to_json()) == record


@target("quorate.core.genesis", "quorate.core.dsse")
def certificate_in_document(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    attempt(MalformedError, genesis.check_certificate, text)
    attempt(MalformedError, genesis.load_certificate, text)
    key = attempt(MalformedError, dsse.parse_public_key, text)
    assert key is None or key.hex() == text
