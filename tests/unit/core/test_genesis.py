from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest
from cryptography import x509

from quorate.core import codec, dsse
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.genesis import (
    build_genesis_payload,
    check_certificate,
    load_certificate,
    parse_descriptor,
    parse_draft,
    parse_genesis,
)
from quorate.core.limits import MAX_DOMAINS, MAX_ENTRY_BYTES
from quorate.core.state import StateView, Status, list_records, record_json
from quorate.core.store import MemoryStore
from quorate.core.transitions import apply, install_genesis
from quorate.proofs.signing import SigningKey, sign_envelope
from quorate.testing.builders import (
    CREATED_MS,
    ORIGIN,
    PARAMETERS,
    Federation,
    ca_certificate,
    key_for,
)

BANK, CLINIC = "bank.example", "clinic.example"


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation.build()


def payload_of(document: bytes) -> Any:
    return codec.decode(dsse.parse(document, 64_000).payload, 64_000)


def governance(federation: Federation) -> list[SigningKey]:
    return [item.governance for item in federation.organisations.values()]


def test_a_genesis_that_all_signed_is_parsed(federation: Federation) -> None:
    genesis = parse_genesis(federation.genesis)
    assert genesis.origin == ORIGIN
    assert genesis.parameters == PARAMETERS
    assert [item.domain for item in genesis.descriptors] == [BANK, CLINIC]
    bank = genesis.descriptors[0]
    assert bank.governance_key == federation[BANK].governance.public
    assert bank.node.id == "spiffe://bank.example/node/1"
    assert len(genesis.hash) == 32


def test_the_order_in_which_descriptors_come_does_not_matter(federation: Federation) -> None:
    documents = [item.descriptor() for item in federation.organisations.values()]
    one = build_genesis_payload(ORIGIN, CREATED_MS, PARAMETERS, documents)
    two = build_genesis_payload(ORIGIN, CREATED_MS, PARAMETERS, documents[::-1])
    assert one == two


def test_a_genesis_that_one_has_not_signed_is_refused(federation: Federation) -> None:
    payload = dsse.parse(federation.genesis, 64_000).payload
    for index, signer in enumerate(governance(federation)):
        document = sign_envelope(dsse.GENESIS_TYPE, payload, signer)
        with pytest.raises(MalformedError, match="not signed by"):
            parse_genesis(document)
        assert parse_draft(document)[1] == ((BANK, CLINIC)[index],)
    assert parse_draft(sign_envelope(dsse.GENESIS_TYPE, payload))[1] == ()


def test_a_strangers_signature_is_refused(federation: Federation) -> None:
    payload = dsse.parse(federation.genesis, 64_000).payload
    signers = [*governance(federation), key_for("stranger")]
    with pytest.raises(MalformedError, match="no member"):
        parse_genesis(sign_envelope(dsse.GENESIS_TYPE, payload, *signers))


def test_a_forged_signature_is_refused(federation: Federation) -> None:
    value: Any = codec.decode(federation.genesis, 64_000)
    first, second = value["signatures"]
    first["sig"] = second["sig"]
    with pytest.raises(MalformedError, match=f"not signed by {BANK}"):
        parse_genesis(codec.encode(value))


def test_a_genesis_of_another_payload_type_is_refused(federation: Federation) -> None:
    payload = dsse.parse(federation.genesis, 64_000).payload
    with pytest.raises(MalformedError, match="payloadType"):
        parse_genesis(sign_envelope(dsse.COMMAND_TYPE, payload, *governance(federation)))


CHANGES: list[tuple[str, Any]] = [
    ("v", 2),
    ("origin", "not an origin"),
    ("created", -1),
    ("more", 1),
    ("parameters", {}),
    ("parameters", PARAMETERS.to_json() | {"more": 1}),
    ("parameters", PARAMETERS.to_json() | {"authority_period_ms": 0}),
    (
        "parameters",
        PARAMETERS.to_json() | {"max_permit_ttl_ms": PARAMETERS.authority_period_ms + 1},
    ),
    ("parameters", PARAMETERS.to_json() | {"rho_ppm": 1_000_000}),
    ("descriptors", []),
    ("descriptors", [{}]),
]


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_genesis_that_is_signed_but_wrong_is_refused(
    federation: Federation, name: str, value: Any
) -> None:
    payload = payload_of(federation.genesis) | {name: value}
    with pytest.raises(MalformedError):
        parse_genesis(
            sign_envelope(dsse.GENESIS_TYPE, codec.encode(payload), *governance(federation))
        )


def test_descriptors_must_be_sorted_and_single(federation: Federation) -> None:
    payload = payload_of(federation.genesis)
    one, two = payload["descriptors"]
    for descriptors in ([two, one], [one, one], [one, two, two]):
        document = codec.encode(payload | {"descriptors": descriptors})
        with pytest.raises(MalformedError):
            parse_genesis(sign_envelope(dsse.GENESIS_TYPE, document, *governance(federation)))


def changed_descriptor(federation: Federation, signer: str, **changes: Any) -> bytes:
    payload = payload_of(federation[BANK].descriptor())
    node = payload["node"] | changes.pop("node", {})
    document = codec.encode(payload | {"node": node} | changes)
    return sign_envelope(dsse.DESCRIPTOR_TYPE, document, key_for(signer))


DESCRIPTOR_CHANGES: list[dict[str, Any]] = [
    {"v": 0},
    {"domain": "Bank"},
    {"domain": "other.example"},
    {"governance_key": "00" * 32},
    {"governance_key": key_for("other").public.hex()},
    {"cosigner_key": "01" + "00" * 31},
    {"cosigner_key": "ff" * 32},
    {"cosigner_key": key_for("x").public.hex().upper()},
    {"ca_certificate": ""},
    {"ca_certificate": "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n"},
    {"ca_certificate": "-----BEGIN CERTIFICATE-----\nAAB=\n-----END CERTIFICATE-----\n"},
    {"node": {"id": "spiffe://other.example/node/1"}},
    {"node": {"id": "spiffe://bank.example/agent/1"}},
    {"node": {"peer_address": "nowhere"}},
    {"node": {"signing_key": "00" * 32}},
    {"node": {"log_key": "7f"}},
    {"node": {"more": 1}},
    {"more": 1},
]


@pytest.mark.parametrize("changes", DESCRIPTOR_CHANGES)
def test_a_descriptor_that_is_wrong_is_refused(
    federation: Federation, changes: dict[str, Any]
) -> None:
    with pytest.raises(MalformedError):
        parse_descriptor(changed_descriptor(federation, f"{BANK} governance", **changes))


def test_what_is_a_certificate_is_for_a_founding_to_ask_and_not_for_the_ledger(
    federation: Federation,
) -> None:
    """Libraries do not agree on it, and nodes must."""
    text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    odd = changed_descriptor(federation, f"{BANK} governance", ca_certificate=text)
    assert parse_descriptor(odd).ca_certificate == text
    payload = payload_of(federation.genesis)
    others = [
        each for each in payload["descriptors"] if BANK.encode() not in b64decode(each["payload"])
    ]
    assert len(others) == 1
    document = codec.encode(payload | {"descriptors": [codec.load(odd), *others]})
    with pytest.raises(MalformedError, match=r"no X\.509 certificate"):
        parse_genesis(sign_envelope(dsse.GENESIS_TYPE, document, *governance(federation)))


def test_a_descriptor_is_signed_by_its_own_key(federation: Federation) -> None:
    assert parse_descriptor(changed_descriptor(federation, f"{BANK} governance")).domain == BANK
    with pytest.raises(MalformedError, match="not signed by"):
        parse_descriptor(changed_descriptor(federation, "somebody else"))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("serial", [b"\x00", b"\xff"])
def test_a_certificate_is_refused_that_the_library_only_warns_of(serial: bytes) -> None:
    """Its next release refuses it: nodes with the one and the other would part."""
    pem = ca_certificate(BANK)
    check_certificate(pem)
    der = b64decode("".join(pem.splitlines()[1:-1]))
    text = b64encode(der.replace(b"\x02\x01\x01", b"\x02\x01" + serial, 1)).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    odd = "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
    check_certificate(odd)
    with pytest.raises(MalformedError, match="serial number"):
        load_certificate(odd)


def test_whatever_a_library_raises_for_a_certificate_is_its_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And commands that hold one are executed without asking it."""

    def fail(_: bytes) -> None:
        raise TypeError("odd")

    pem = ca_certificate(BANK)
    monkeypatch.setattr(x509, "load_pem_x509_certificate", fail)
    check_certificate(pem)
    with pytest.raises(MalformedError, match="is no X"):
        load_certificate(pem)


def test_two_certificates_in_one_are_refused(federation: Federation) -> None:
    pem = payload_of(federation[BANK].descriptor())["ca_certificate"]
    with pytest.raises(MalformedError, match="one certificate"):
        parse_descriptor(
            changed_descriptor(federation, f"{BANK} governance", ca_certificate=pem + pem)
        )


def test_a_key_serves_one_purpose(federation: Federation) -> None:
    shared = key_for(f"{CLINIC} signing").public.hex()
    documents = [
        changed_descriptor(federation, f"{BANK} governance", node={"signing_key": shared}),
        federation[CLINIC].descriptor(),
    ]
    with pytest.raises(MalformedError, match="two purposes"):
        build_genesis_payload(ORIGIN, CREATED_MS, PARAMETERS, documents)


def test_nodes_have_addresses_of_their_own(federation: Federation) -> None:
    taken = {"peer_address": federation[CLINIC].peer_address}
    documents = [
        changed_descriptor(federation, f"{BANK} governance", node=taken),
        federation[CLINIC].descriptor(),
    ]
    with pytest.raises(MalformedError, match="peer address"):
        build_genesis_payload(ORIGIN, CREATED_MS, PARAMETERS, documents)


def test_the_largest_federation_fits_and_a_larger_does_not() -> None:
    names = [f"d{index}.example" for index in range(MAX_DOMAINS + 1)]
    largest = Federation.build(names[:-1])
    entry = install_genesis(MemoryStore(), largest.parsed_genesis())
    assert len(entry) <= MAX_ENTRY_BYTES
    with pytest.raises(MalformedError):
        Federation.build(names)


def test_installing_makes_the_first_state_and_entry(federation: Federation) -> None:
    store = MemoryStore()
    genesis = federation.parsed_genesis()
    entry: Any = codec.decode(install_genesis(store, genesis), MAX_ENTRY_BYTES)
    command = entry.pop("command")
    assert codec.encode(command) == federation.genesis
    assert entry == {
        "v": 1,
        "origin": ORIGIN,
        "seq": 0,
        "type": "genesis",
        "decision": "accepted",
        "reason": "",
        "thing": "",
        "policy_version": 0,
        "time": CREATED_MS,
    }
    view = StateView(store)
    recorded = view.federation()
    assert recorded.origin == ORIGIN
    assert recorded.genesis_hash == genesis.hash.hex()
    assert recorded.ledger_time == CREATED_MS
    assert [domain.id for domain in view.domains()] == [BANK, CLINIC]
    assert {domain.status for domain in view.domains()} == {Status.ACTIVE}
    assert [node.domain for node in view.nodes()] == [BANK, CLINIC]
    assert codec.decode(record_json(view, "federation", ORIGIN) or b"", 4096)["id"] == ORIGIN  # type: ignore[index, call-overload]
    assert [ident for ident, _ in list_records(view, "domain", BANK, 10)] == [CLINIC]


def test_a_genesis_is_installed_once(federation: Federation) -> None:
    store = MemoryStore()
    genesis = federation.parsed_genesis()
    install_genesis(store, genesis)
    before = store.items()
    with pytest.raises(StorageDamagedError):
        install_genesis(store, genesis)
    assert store.items() == before


def test_without_a_genesis_nothing_is_applied() -> None:
    store = MemoryStore()
    with pytest.raises(StorageDamagedError):
        apply(store, codec.stamp(0, b""), 1)
    assert store.items() == []
