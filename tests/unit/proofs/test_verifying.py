"""Proofs in one file, verified offline: what is good, and each way in which it is not."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from quorate.core import codec, entries
from quorate.core.errors import MalformedError
from quorate.core.outcome import Outcome, Reason
from quorate.proofs import merkle, note
from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint
from quorate.proofs.cosignature import cosign
from quorate.proofs.policy import Policy, parse_policy
from quorate.proofs.signing import SigningKey
from quorate.proofs.tlog_proof import MAX_PROOF_BYTES, TlogProof, parse_proof
from quorate.proofs.verifying import Step, Verdict, verify_proof
from quorate.proofs.vkey import COSIGNATURE, ED25519, VerifierKey

ORIGIN = "quorate.example/federation-1"
NAMES = ("bank.example", "clinic.example", "freight.example")
SIZE = 11
WHEN = 1_790_000_000


class Tree:
    """A tree in memory, of these leaves."""

    def __init__(self, leaves: list[bytes]) -> None:
        self._nodes: dict[tuple[int, int], bytes] = {}
        for size, leaf in enumerate(leaves):
            merkle.append(self, size, merkle.leaf_hash(leaf))

    def node(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self._nodes[level, index] = digest


def entry_at(seq: int, origin: str = ORIGIN, reason: Reason | None = None) -> bytes:
    outcome = Outcome(reason is None, reason, "", seq, "0" * 64)
    return entries.entry(
        origin=origin,
        kind="executor.revoke",
        outcome=outcome,
        ledger_time=1_790_000_000_000 + seq,
        command={"payload": "", "payloadType": "", "signatures": []},
    )


@dataclass
class Federation:
    """Keys of a log and three cosigners, a ledger, and a policy that asks for two of them."""

    log: SigningKey
    cosigners: dict[str, SigningKey]
    leaves: list[bytes]

    @property
    def policy(self) -> Policy:
        return self.policy_of(self.log, "group sealed 2 " + " ".join(NAMES))

    def policy_of(self, log: SigningKey, group: str, name: str = ORIGIN) -> Policy:
        lines = [f"log {VerifierKey(name, ED25519, log.public).encode()}"]
        for domain, key in self.cosigners.items():
            vkey = VerifierKey(domain, COSIGNATURE, key.public).encode()
            lines.append(f"witness {domain} {vkey}")
        lines += [group, f"quorum {group.split()[1]}"]
        return parse_policy("\n".join(lines).encode())

    def checkpoint(self, *domains: str, head: Checkpoint | None = None) -> str:
        head = head or Checkpoint(ORIGIN, SIZE, merkle.root(Tree(self.leaves), SIZE))
        signed = note.parse_note(sign_checkpoint(head, self.log))
        lines = (cosign(signed.text, name, self.cosigners[name], WHEN) for name in domains)
        return replace(signed, signatures=(*signed.signatures, *lines)).encode()

    def proof(self, index: int = 6, *domains: str) -> TlogProof:
        hashes = merkle.inclusion_proof(Tree(self.leaves), index, SIZE)
        checkpoint = self.checkpoint(*(domains or NAMES[:2]))
        return TlogProof(index, tuple(hashes), checkpoint, self.leaves[index])

    def verify(self, proof: TlogProof, entry: bytes | None = None) -> Verdict:
        return verify_proof(proof.encode().encode(), self.policy, entry=entry)


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation(
        SigningKey.generate(),
        {name: SigningKey.generate() for name in NAMES},
        [entry_at(seq) for seq in range(SIZE)],
    )


def failed(verdict: Verdict) -> tuple[Step, str]:
    assert not verdict.is_good
    assert verdict.entry_bytes == b""
    assert all(each.is_good for each in verdict.findings[:-1])
    last = verdict.findings[-1]
    assert not last.is_good
    return last.step, last.told


def test_every_entry_of_a_sealed_ledger_verifies(federation: Federation) -> None:
    for index in range(SIZE):
        verdict = federation.verify(federation.proof(index))
        assert verdict.is_good
        assert [each.step for each in verdict.findings] == list(Step)
        assert verdict.entry_bytes == federation.leaves[index]
        assert verdict.entry == entries.parse(federation.leaves[index])
        assert verdict.cosigned == tuple((name, WHEN) for name in NAMES[:2])
        assert verdict.checkpoint is not None
        assert verdict.checkpoint.size == SIZE


def test_it_reads_what_it_writes(federation: Federation) -> None:
    for proof in (federation.proof(), replace(federation.proof(), extra=None)):
        assert parse_proof(proof.encode().encode()) == proof
    lone = TlogProof(0, (), federation.checkpoint(), b"")
    assert parse_proof(lone.encode().encode()) == lone


def test_an_entry_may_be_shown_beside_its_proof(federation: Federation) -> None:
    bare = replace(federation.proof(), extra=None)
    assert federation.verify(bare, federation.leaves[6]).is_good
    assert federation.verify(federation.proof(), federation.leaves[6]).is_good
    assert failed(federation.verify(bare))[0] is Step.ENTRY
    assert failed(federation.verify(bare, federation.leaves[5]))[0] is Step.INCLUSION
    step, told = failed(federation.verify(federation.proof(), federation.leaves[5]))
    assert (step, "another entry" in told) == (Step.ENTRY, True)


def test_no_byte_of_a_proof_can_be_another(federation: Federation) -> None:
    """With as many cosignatures as the policy asks for, every byte of the file matters."""
    data = federation.proof().encode().encode()
    policy = federation.policy
    assert verify_proof(data, policy).is_good
    for place in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            changed = bytearray(data)
            changed[place] ^= mask
            assert not verify_proof(bytes(changed), policy).is_good, (place, mask)
        assert not verify_proof(data[:place] + data[place + 1 :], policy).is_good, place
        assert not verify_proof(data[:place], policy).is_good, place


def test_two_entries_cannot_change_places(federation: Federation) -> None:
    one, other = federation.proof(6), federation.proof(7)
    swapped = replace(one, extra=other.extra)
    assert failed(federation.verify(swapped))[0] is Step.INCLUSION
    moved = replace(one, index=7)
    assert failed(federation.verify(moved))[0] is Step.INCLUSION
    turned = replace(one, hashes=one.hashes[::-1])
    assert failed(federation.verify(turned))[0] is Step.INCLUSION
    beyond = replace(one, index=SIZE)
    assert failed(federation.verify(beyond))[0] is Step.INCLUSION
    for hashes in (one.hashes[:-1], (*one.hashes, one.hashes[0]), ()):
        assert failed(federation.verify(replace(one, hashes=hashes)))[0] is Step.INCLUSION


def test_an_inner_node_is_no_entry(federation: Federation) -> None:
    """The hash of two leaves is that of no leaf: the prefixes keep them apart (RFC 9162, 2.1.1)."""
    left, right = (merkle.leaf_hash(leaf) for leaf in federation.leaves[6:8])
    inner = replace(federation.proof(6), index=3, hashes=federation.proof(6).hashes[1:])
    forged = replace(inner, extra=b"\x01" + left + right)
    assert failed(federation.verify(forged))[0] is Step.ENTRY


def test_what_the_entry_says_of_its_place_must_be_so(federation: Federation) -> None:
    leaves = list(federation.leaves)
    leaves[3], leaves[4] = entry_at(3, "quorate.example/federation-2"), entry_at(5)
    other = replace(federation, leaves=leaves)
    assert failed(other.verify(other.proof(3)))[0] is Step.PLACE
    assert failed(other.verify(other.proof(4)))[0] is Step.PLACE
    assert other.verify(other.proof(2)).is_good


def signatures(change: Callable[[list[note.NoteSignature]], object]) -> Callable[[str], str]:
    def changed(checkpoint: str) -> str:
        parsed = note.parse_note(checkpoint)
        lines = list(parsed.signatures)
        change(lines)
        return replace(parsed, signatures=tuple(lines)).encode()

    return changed


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda lines: lines.pop(), Step.QUORUM),
        (lambda lines: lines.pop(0), Step.LOG),
        (lambda lines: lines.append(lines[1]), Step.LOG),
        (lambda lines: lines.append(lines[0]), Step.LOG),
        (lambda lines: lines.__setitem__(2, replace(lines[1], name=NAMES[1])), Step.QUORUM),
        (
            lambda lines: lines.__setitem__(2, replace(lines[1], key_id=lines[2].key_id)),
            Step.QUORUM,
        ),
        (lambda lines: lines.__setitem__(0, replace(lines[1], name=ORIGIN)), Step.LOG),
    ],
    ids=["one less", "not the log's", "one twice", "the log's twice", "a name", "an id", "moved"],
)
def test_signatures_count_by_their_keys(
    federation: Federation, change: Callable[[list[note.NoteSignature]], object], step: Step
) -> None:
    proof = federation.proof()
    changed = replace(proof, checkpoint=signatures(change)(proof.checkpoint))
    assert failed(federation.verify(changed))[0] is step


def test_order_and_strangers_do_not_matter(federation: Federation) -> None:
    stranger = cosign("x\n", "stranger.example", SigningKey.generate(), WHEN)

    def turned(lines: list[note.NoteSignature]) -> None:
        lines.reverse()
        lines.insert(1, stranger)

    proof = federation.proof()
    changed = replace(proof, checkpoint=signatures(turned)(proof.checkpoint))
    assert federation.verify(changed).is_good


def test_other_keys_of_the_same_names_are_others(federation: Federation) -> None:
    data = federation.proof().encode().encode()
    group = "group sealed 2 " + " ".join(NAMES)
    other = federation.policy_of(SigningKey.generate(), group)
    assert failed(verify_proof(data, other))[0] is Step.LOG
    renamed = federation.policy_of(federation.log, group, name="quorate.example/federation-2")
    assert failed(verify_proof(data, renamed))[0] is Step.LOG
    everybody = federation.policy_of(federation.log, "group sealed all " + " ".join(NAMES))
    assert failed(verify_proof(data, everybody))[0] is Step.QUORUM
    stolen = replace(federation, cosigners=federation.cosigners | {NAMES[1]: SigningKey.generate()})
    assert failed(verify_proof(data, stolen.policy))[0] is Step.QUORUM


def test_a_checkpoint_of_another_log_proves_nothing(federation: Federation) -> None:
    root = merkle.root(Tree(federation.leaves), SIZE)
    elsewhere = Checkpoint("quorate.example/federation-2", SIZE, root)
    proof = replace(federation.proof(), checkpoint=federation.checkpoint(*NAMES, head=elsewhere))
    assert failed(federation.verify(proof))[0] is Step.LOG
    grown = Checkpoint(ORIGIN, SIZE + 1, root)
    last = replace(federation.proof(10), checkpoint=federation.checkpoint(*NAMES, head=grown))
    assert failed(federation.verify(last))[0] is Step.INCLUSION


def test_a_policy_without_a_quorum_says_that_it_rests_on_one_key(federation: Federation) -> None:
    vkey = VerifierKey(ORIGIN, ED25519, federation.log.public).encode()
    policy = parse_policy(f"log {vkey}\nquorum none\n".encode())
    proof = replace(federation.proof(), checkpoint=federation.checkpoint())
    verdict = verify_proof(proof.encode().encode(), policy)
    assert verdict.is_good
    told = {each.step: each.told for each in verdict.findings}
    assert "the log's key alone" in told[Step.QUORUM]


GOOD_HASH = b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "head",
    [
        "",
        "c2sp.org/tlog-proof@v2\nindex 0",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v1\nindex",
        "c2sp.org/tlog-proof@v1\nindex 1_0",
        "c2sp.org/tlog-proof@v1\nindex 01",
        "c2sp.org/tlog-proof@v1\nindex -1",
        "c2sp.org/tlog-proof@v1\nindex +1",
        "c2sp.org/tlog-proof@v1\nindex \u0661",
        f"c2sp.org/tlog-proof@v1\nindex {2**63}",
        f"c2sp.org/tlog-proof@v1\nindex {'9' * 400}",
        "c2sp.org/tlog-proof@v1\nindex 1\nextra YQ==",
        "c2sp.org/tlog-proof@v1\nextra YQ=\nindex 1",
        "c2sp.org/tlog-proof@v1\nextra YR==\nindex 1",
        "c2sp.org/tlog-proof@v1\nextra YQ==\nextra YQ==\nindex 1",
        "c2sp.org/tlog-proof@v1\r\nindex 1",
        "c2sp.org/tlog-proof@v1\nindex 1\nAAAA",
        f"c2sp.org/tlog-proof@v1\nindex 1\n{GOOD_HASH} ",
        "c2sp.org/tlog-proof@v1\nindex 1" + f"\n{GOOD_HASH}" * 64,
    ],
)
def test_what_is_not_exactly_a_proof_is_refused(federation: Federation, head: str) -> None:
    data = f"{head}\n\n{federation.checkpoint()}".encode()
    with pytest.raises(MalformedError):
        parse_proof(data)
    assert failed(verify_proof(data, federation.policy))[0] is Step.FORM


@pytest.mark.parametrize("data", [b"", b"\xff", b"x" * (MAX_PROOF_BYTES + 1)])
def test_what_is_no_text_is_refused(federation: Federation, data: bytes) -> None:
    assert failed(verify_proof(data, federation.policy))[0] is Step.FORM


def test_an_entry_in_other_bytes_is_another(federation: Federation) -> None:
    """Duplicate keys, spaces, other numbers: the leaf is what was hashed, and canonical."""
    good = federation.leaves[6]
    for other in (
        good.replace(b'"v":1', b'"v":1,"v":1'),
        good.replace(b":", b": ", 1),
        good.replace(b'"v":1', b'"v":1.0'),
        good + b"\n",
    ):
        leaves = list(federation.leaves)
        leaves[6] = other
        forged = replace(federation, leaves=leaves)
        assert failed(forged.verify(forged.proof(6)))[0] is Step.ENTRY
    assert codec.decode(good, len(good))


def test_a_log_speaks_for_itself_alone(federation: Federation) -> None:
    """Another log of the same policy has signed this one's checkpoint, under its own name."""
    other = SigningKey.generate()
    stranger = VerifierKey("b.example/log", ED25519, other.public)
    policy = federation.policy
    both = replace(policy, logs=(*policy.logs, stranger))
    proof = federation.proof()
    text = note.parse_note(proof.checkpoint).text
    signed = note.parse_note(note.sign_note(text, stranger.name, other)).signatures
    swapped = signatures(lambda lines: lines.__setitem__(0, signed[0]))(proof.checkpoint)
    data = replace(proof, checkpoint=swapped).encode().encode()
    assert failed(verify_proof(data, both))[0] is Step.LOG
