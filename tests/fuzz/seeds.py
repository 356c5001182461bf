"""What each target begins with, made of real artefacts: `python -m tests.fuzz.seeds`.

Rewrites the seeds of the corpus, and leaves what was found since. Keys and names follow from words,
so that the same program makes the same seeds.
"""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fuzz.harness import CORPUS, SEPARATOR
from tests.fuzz.spoken import answers, messages, requests, stream
from tests.fuzz.targets.evidence import ASKED
from tests.fuzz.targets.ledger import lived
from tests.fuzz.targets.proofs import LEAVES, OF_NOBODY, proof_files, tree
from tests.fuzz.targets.store import OFFSET_BYTES, STORE, sound_store
from tests.fuzz.targets.wire import PEER
from tests.unit.core.conftest import BANK, CLINIC, NODE

from quorate.client import Challenge, prove_key
from quorate.client.lineage import format_lineage
from quorate.consensus.configuration import Configuration
from quorate.core import codec, dsse, keys, protocol
from quorate.core.acts import ACTS
from quorate.core.outcome import Reason
from quorate.core.records import PolicyMark, Rates
from quorate.core.recovering import next_fence_base
from quorate.core.recovery import Former, build_recovery_payload, state_hash
from quorate.core.stored import PARSERS
from quorate.core.verbs import Verb
from quorate.lease import word
from quorate.node import certificates
from quorate.node.survivors import Summary
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint
from quorate.proofs.signing import sign_envelope
from quorate.proofs.vkey import COSIGNATURE, ED25519, VerifierKey
from quorate.storage import Environment, layout, seal
from quorate.testing.builders import (
    ORIGIN,
    ca_certificate,
    key_for,
    measurement_evidence,
    svid_evidence,
)

PREFIX: Final = "seed-"
"""Begins the names of what this script makes."""
PAGE_BYTES: Final = 4096


def payload_of(envelope: bytes) -> bytes:
    return dsse.parse(envelope, len(envelope), draft=True).payload


def commands() -> Iterator[bytes]:
    """The payload of one command of each kind that the ledger has seen."""
    seen = set()
    for entry in lived().entries[1:]:
        value = codec.decode(entry, len(entry))
        assert isinstance(value, dict)
        if value["type"] not in seen:
            seen.add(value["type"])
            yield payload_of(codec.encode(value["command"]))


def in_short() -> Iterator[bytes]:
    """The same as `payloads` takes them: less what it fills in."""
    for payload in commands():
        value = codec.decode(payload, len(payload))
        assert isinstance(value, dict)
        yield codec.encode({name: value[name] for name in ("type", "issuer", "body")})
    agent, held = lived().agent, [lease.id for lease in lived().view.leases()]
    for kind, body in (
        ("lease.renew", {"lease": held[0], "executor": agent, "ttl_ms": 0}),
        ("grant.delegate", _delegation()),
        ("grant.recall", {"executor": agent, "grant": f"{BANK}/grant"}),
        ("node.declare", {"protocol": 2}),
    ):
        yield codec.encode({"type": kind, "issuer": PEER, "body": body})
    for kind, more in (("trust.narrow", {"actions": ["read"], "resources": [f"//{BANK}/a"]}),):
        yield codec.encode({"type": kind, "issuer": BANK, "body": {"edge": "edge"} | more})
    yield codec.encode({"type": "domain.suspend", "issuer": BANK, "body": {"domain": BANK}})


def _delegation() -> dict[str, object]:
    return {
        "executor": lived().agent,
        "grant": f"{BANK}/grant",
        "to": lived().clinic.executor("other"),
        "actions": ["read"],
        "resources": [f"//{BANK}/accounts/7"],
        "not_after": lived().now + 1_000_000,
        "max_lease_ttl_ms": 1_000,
        "max_uses": 1,
        "max_concurrent": 1,
        "max_depth": 1,
        "conditions": [{"name": "ticket", "values": ["OPS-*", "SEC-1"]}],
    }


def recovery_payload() -> bytes:
    world = lived()
    federation = world.view.federation()
    former = Former(
        origin=federation.origin,
        genesis_hash=federation.genesis_hash,
        ledger_size=len(world.entries),
        root="0" * 64,
        log_index=len(world.entries) + 1,
        log_term=3,
        state=state_hash(world.store.items()),
    )
    return build_recovery_payload(
        origin="quorate.example/recovered-1",
        created_ms=federation.ledger_time + 5,
        parameters=federation.parameters,
        version=federation.protocol,
        fence_base=next_fence_base(federation, len(world.entries)),
        former=former,
        descriptors=world.federation.parsed_genesis().descriptors,
        survivors=[BANK],
        suspended_by={CLINIC: CLINIC},
        is_frozen=federation.frozen is not None,
        rates=Rates(60, 0),
        policies=PolicyMark(2, "0" * 64),
    )


def paths() -> Iterator[bytes]:
    for first, second in ((0, 1), (5, 7), (3, 40), (7, 8)):
        for proof in (
            merkle.inclusion_proof(tree(), first, second),
            merkle.consistency_proof(tree(), first or 1, second),
        ):
            yield keys.number(first) + keys.number(min(second, LEAVES)) + b"".join(proof)


def make_store() -> bytes:
    """With branches, large values, and pages that are free, in as few pages as that takes."""
    with tempfile.TemporaryDirectory() as directory:
        environment = Environment.open(Path(directory) / "data", map_size_bytes=1 << 20)
        for turn in range(3):
            for number in range(45):
                environment.turn.state.put(b"key %d" % number, b"%d" % turn * 100)
            environment.turn.append_ledger(b"entry %d" % turn)
            environment.turn.log_append(turn + 1, 1, b"x" * 5_000)
            environment.commit()
        environment.turn.log_drop_below(3, 100)
        environment.commit()
        environment.close()
        return (Path(directory) / "data" / layout.DATA_FILE).read_bytes()


def damages() -> Iterator[bytes]:
    """Nothing yet, but where: the beginning of each page, and its end."""
    image = sound_store()
    for page in range(len(image) // PAGE_BYTES):
        begin = page * PAGE_BYTES
        for at, size in ((begin, 160 if page < 2 else 32), (begin + PAGE_BYTES - 48, 48)):
            if any(image[at : at + size]):
                yield at.to_bytes(OFFSET_BYTES, "big") + image[at : at + size]
    yield (len(image) - PAGE_BYTES).to_bytes(OFFSET_BYTES, "big")


def files() -> Iterator[tuple[str, bytes]]:
    made = Summary(NODE, ORIGIN, "0" * 64, 3, 9, 8, "0" * 64, False)
    yield "summary", made.to_bytes()
    yield "summary", codec.encode({**asdict(made), "signatures": []})
    node = f'[node]\nid = "{NODE}"\ngenesis = "genesis.json"\ndata_dir = "data"\n'
    yield "node_config", node.encode()
    listen = "[listen]\n" + "".join(
        f'{name} = "127.0.0.1:{7401 + number}"\n'
        for number, name in enumerate(("peer", "governance", "lease"))
    )
    secrets = '[tls]\ncertificate = "a"\nprivate_key = "b"\n[keys]\nsigning = "c"\nlog = "~/d"\n'
    more = f'[storage]\nmap_size_bytes = 1048576\n[peers]\n"{PEER}" = "127.0.0.1:1"\n'
    yield "node_config", (node + listen + secrets + more).encode()
    names = ("lease_address", "governance_address", "server_name", "spiffe_id")
    client = "[node]\n" + "".join(f'{name} = "x"\n' for name in names)
    yield "client_config", client.encode()
    yield "lineage_header", format_lineage(["0" * 32, "f" * 32]).encode()
    yield "answer_in_json", b'{"id":"x","n":[1,2.5,null]}'


def proofs() -> Iterator[tuple[str, bytes]]:
    root = merkle.root(tree(), LEAVES)
    for extensions in ((), ("more 1",)):
        checkpoint = Checkpoint(ORIGIN, LEAVES, root, extensions)
        yield "checkpoint", checkpoint.body().encode()
        yield "signed_note", sign_checkpoint(checkpoint, key_for("log"), key_for("b")).encode()
    yield "signed_note", b"no note"
    for file in sorted(proof_files()):
        yield "proof_file", file
    yield "proof_file", b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + checkpoint.body().encode()
    log = VerifierKey(ORIGIN, ED25519, key_for("log").public).encode()
    members = ("a", "b", "c")
    cosigning = (VerifierKey(each, COSIGNATURE, key_for(each).public).encode() for each in members)
    lines = [f"witness {each} {key}" for each, key in zip(members, cosigning, strict=True)]
    yield "verifier_key", log.encode()
    yield "trust_policy", f"# one\nlog {log} https://a.example/\nquorum none\n".encode()
    group = "group g 2 a b c\nquorum g\n"
    yield "trust_policy", "\n".join([f"log {log}", *lines, group]).encode()
    yield "path", keys.number(50) + keys.number(60)
    for path in paths():
        yield "path", path
    key = key_for("log")
    yield "public_key", key.public
    yield "public_key", key.public + key.sign(b"message") + b"message"
    yield "private_key", key.to_pem().replace(b"PRIVATE KEY", OF_NOBODY)
    ca = certificates.make_ca(BANK)
    leaf = certificates.issue_node(ca, NODE)
    yield "private_key", leaf.private_key.replace(b"PRIVATE KEY", OF_NOBODY)
    yield "certificate", leaf.certificate + SEPARATOR + ca.certificate
    yield "certificate", ca.certificate
    yield "certificate_in_document", ca_certificate(BANK).encode()
    yield "certificate_in_document", key.public.hex().encode()


def documents() -> Iterator[tuple[str, bytes]]:
    world = lived()
    for payload in commands():
        yield "command", payload
    for number, act in enumerate(ACTS[protocol.LATEST]):
        bodies = [p.body for p in world.view.proposals() if p.act == act] or ['{"domain":"a.b"}']
        yield "proposed_act", bytes([number]) + bodies[0].encode()
        if act is Verb.FEDERATION_UPGRADE:
            yield "proposed_act", bytes([number]) + b'{"protocol":2}'
    fresh = {"domain": BANK, "governance_key": key_for("a").public.hex()}
    fresh["cosigner_key"] = key_for("b").public.hex()
    rekeying = world.federation.command(BANK, "domain.rekey", fresh, "0" * 32)
    yield "proof_of_keys", rekeying
    yield "proof_of_keys", payload_of(rekeying)
    several = fresh | {
        "key_set": {
            "governance_keys": sorted(key_for(name).public.hex() for name in ("c", "d")),
            "threshold": 2,
            "recovery_keys": [key_for("e").public.hex()],
            "recovery_threshold": 1,
            "not_after": 2_000_000_000_000,
        }
    }
    payload = payload_of(world.federation.command(BANK, "domain.rekey", several, "1" * 32))
    yield "proof_of_keys", payload
    yield "proof_of_keys", sign_envelope(dsse.COMMAND_TYPE, payload, *map(key_for, "abcd"))
    of_two = several | {"ca_certificates": [ca_certificate(BANK), ca_certificate("next")]}
    payload = payload_of(world.federation.command(BANK, "domain.rekey", of_two, "2" * 32))
    yield "proof_of_keys", payload
    yield "command", payload
    first = next(commands())
    yield "envelope", sign_envelope(dsse.COMMAND_TYPE, first, key_for("a"), key_for("b"))
    yield "envelope", dsse.Envelope(first, dsse.COMMAND_TYPE, ()).to_bytes()
    yield "canonical_json", codec.stamp(7, b"x")
    yield "canonical_json", codec.encode({"a": [1, -1, None, True, "é\n"], "b": {"": {}}})
    yield "order", next(each for each in commands() if b'"type":"node.add"' in each)
    descriptor = payload_of(world.bank.descriptor())
    yield "descriptor", descriptor
    value = codec.decode(descriptor, len(descriptor))
    assert isinstance(value, dict)
    yield "node_description", codec.encode(value["node"])
    yield "founding_document", world.federation.genesis
    yield "genesis_payload", payload_of(world.federation.genesis)
    recovery = recovery_payload()
    yield "recovery_payload", recovery
    key = world.bank.governance
    yield "founding_document", sign_envelope(dsse.RECOVERY_TYPE, recovery, key)


def lineage_records() -> Iterator[bytes]:
    payload = next(each for each in commands() if b'"type":"lineage.append"' in each)
    value = codec.decode(payload, len(payload))
    assert isinstance(value, dict)
    body = value["body"]
    assert isinstance(body, dict)
    records = body["records"]
    assert isinstance(records, list)
    yield from (codec.encode(record) for record in records)
    denials = {"kind": "denials", "executor": "", "method": "Check", "lease": ""}
    numbers = {"ledger_size": 3, "first_at": 1, "last_at": 2, "count": 7}
    yield codec.encode({**denials, **numbers, "reason": "INQUORATE"})


def states() -> Iterator[tuple[str, bytes]]:
    """Each record of the state in its place, once for every kind of thing that lies there."""
    seen: dict[bytes, int] = {}
    for key, value in lived().store.items():
        seen[key[:1]] = seen.get(key[:1], 0) + 1
        if seen[key[:1]] <= (2 if key[:1] in b"GL" else 1):
            yield "vetted_state", bytes([len(key)]) + key + (value or b"\x00")
        if seen[key[:1]] == 1:
            yield "other_record", value
            if key[:1] in b"DGLPk":
                yield "vetted_state", bytes([len(key)]) + key
    kinds = list(PARSERS)
    for kind, prefix in keys.RECORDS.items():
        for _, value in list(lived().store.scan(prefix))[:2]:
            yield "record", bytes([kinds.index(kind)]) + value
    yield "key", BANK.encode()
    yield "key", f"{BANK}/grant".encode()


def ledgers() -> Iterator[tuple[str, bytes]]:
    world, seen = lived(), set()
    for entry in world.entries:
        kind = codec.decode(entry, len(entry))
        assert isinstance(kind, dict)
        if (kind["type"], kind["decision"]) not in seen:
            seen.add((kind["type"], kind["decision"]))
            yield "entry", entry
    yield "ledger", SEPARATOR.join(world.entries[1:5])
    for command in in_short():
        yield "payloads", command
    yield "payloads", b"not a command"
    envelope = world.federation.command(BANK, "executor.register", {"executor": "x"}, "0" * 32)
    yield "stamped_payload", codec.stamp(world.now, envelope)


def proved() -> Iterator[tuple[str, bytes]]:
    for place, measured in (("", ""), ("production", "c" * 96)):
        shown = measurement_evidence(
            ASKED, builder="urn:b", environment=place, measurement=measured
        )
        yield "evidence", codec.encode(shown)
        for name in ("measurement", "provenance"):
            signed = dsse.from_json(shown[name])
            yield name, signed.payload
    yield "evidence", codec.encode(svid_evidence(ASKED))
    private = ec.derive_private_key(7, ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    asked = Challenge(ASKED.challenge, {}, ASKED.origin, ASKED.executor, 0, 0)
    yield "evidence", codec.encode(prove_key(pem, asked))
    for each in (pem, key_for("svid").to_pem()):
        yield "executor_key", each.replace(b"PRIVATE KEY", OF_NOBODY)


def others() -> Iterator[tuple[str, bytes]]:
    for message in messages():
        yield "peer_message", message
    for request in requests():
        yield "request", request
    yield "configuration", Configuration((NODE,), (PEER,), ((PEER, "a" * 32),)).encode()
    yield "stream", stream()
    yield "caller", f"spiffe://{BANK}/operator/admin".encode()
    yield "caller", SEPARATOR.join([NODE.encode(), PEER.encode()])
    yield "page_token", b64encode(b"1:bank.example")
    for text in (NODE, BANK, f"//{BANK}/*", "a.*", "[::1]:7401", "unix:/run/q.sock", "0" * 32):
        yield "name", text.encode()
    head, signature = bytes(range(32)), bytes(64)
    for record in lineage_records():
        yield "lineage_record", record
        yield "outbox_row", head + signature + record
    held = word.AuthorityRecord(bytes(16), 9, 8, 7, 3, 9, 1_700_000_000_000, 500, 10_000)
    none = word.AuthorityRecord(bytes(16), 0, 8, 7, 3, 9, 1, 500, 10_000, Reason.INQUORATE)
    for authority_record in (held, none):
        yield "authority_word", word.encode(authority_record, 4)
    yield "sealed_value", b"\x03key" + seal.seal(b"key", seal.StateDigest(7, 2).encode())
    yield "sealed_value", b"\x00" + seal.StateDigest(7, 2).encode()
    for damage in damages():
        yield "store_file", damage


def policies() -> Iterator[tuple[str, bytes]]:
    ticket = 'context.given.hasTag("ticket") && context.given.getTag("ticket") like "OPS-*"'
    scope = 'principal in Domain::"clinic.example", action == Action::"lease", resource'
    yield "policies", f"permit ({scope}) when {{ {ticket} }};".encode()
    yield "policies", f"permit ({scope}); // x\rforbid ({scope});".encode()
    yield "policies", b'@id("a") forbid (principal, action, resource) unless { context.hops < 3 };'
    yield "policies", b"permit (principal, action, resource) when { context.cross_domain };"
    yield (
        "policies",
        b"permit (principal is Executor, action, resource) when { [1] == {a: 1} };",
    )
    yield "policies", b"forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };"
    deep = "(" * 14 + "if true then 1 else -2" + ")" * 14
    yield "policies", f"permit (principal, action, resource) when {{ {deep} == 1 }}; // x".encode()
    case = {"executor": f"spiffe://{BANK}/agent/a", "action": "a", "resource": f"//{BANK}/a"}
    told = {"context": {"ticket": "1"}, "by": ["a"], "grant": f"{BANK}/g", "delegations": 1}
    yield "policy_cases", codec.encode({"case": [case | told | {"expect": "permit"}]})
    yield (
        "policy_cases",
        "[[case]]\n{}\n".format(
            "\n".join(f'{name} = "{said}"' for name, said in {**case, "expect": "deny"}.items())
        ).encode(),
    )


SOURCES: Final[tuple[Callable[[], Iterable[tuple[str, bytes]]], ...]] = (
    documents,
    ledgers,
    states,
    proofs,
    answers,
    files,
    proved,
    others,
    policies,
)


def save(place: Path, data: bytes, prefix: str = "") -> Path:
    """Under a name that follows from the bytes."""
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{prefix}{hashlib.sha256(data).hexdigest()[:16]}"
    file.write_bytes(data)
    return file


def main() -> None:
    STORE.write_bytes(zlib.compress(make_store(), 9))
    sound_store.cache_clear()
    for file in CORPUS.glob(f"*/{PREFIX}*"):
        file.unlink()
    for source in SOURCES:
        for name, data in source():
            save(CORPUS / name, data, PREFIX)


if __name__ == "__main__":
    main()
