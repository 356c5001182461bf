"""Who may call what: the certificate decides. Whoever is refused is told why, and nothing else."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import CALL_TIMEOUT_S
from quorate.chaos.processes import wait_until
from quorate.consensus.limits import MAX_FRAME_MESSAGES, MAX_PEER_MESSAGE_BYTES
from quorate.consensus.peers import PROTOCOL_VERSION
from quorate.core import codec
from quorate.node import certificates
from quorate.node.certificates import KeyPair
from quorate.testing.builders import node_body
from quorate.v1 import (
    decision_pb2,
    governance_pb2,
    governance_pb2_grpc,
    lease_pb2,
    lease_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    peer_pb2_grpc,
)
from quorate.v1 import peer_pb2 as pb

pytestmark = pytest.mark.cluster

BANK, CLINIC, FREIGHT = "bank.example", "clinic.example", "freight.example"
AGENT = f"spiffe://{BANK}/agent/worker"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def check(channel: grpc.Channel) -> object:
    stub = lease_pb2_grpc.LeaseServiceStub(channel)
    return stub.Check(lease_pb2.CheckRequest(lease_id="0" * 32), timeout=CALL_TIMEOUT_S)


def get_status(channel: grpc.Channel) -> object:
    stub = node_pb2_grpc.NodeServiceStub(channel)
    return stub.GetStatus(node_pb2.GetStatusRequest(), timeout=CALL_TIMEOUT_S)


def submit(channel: grpc.Channel) -> object:
    stub = governance_pb2_grpc.GovernanceServiceStub(channel)
    return stub.Submit(governance_pb2.SubmitRequest(envelope=b"{}"), timeout=CALL_TIMEOUT_S)


def greet(channel: grpc.Channel) -> object:
    stub = peer_pb2_grpc.PeerServiceStub(channel)
    return next(stub.Exchange(iter([pb.ExchangeRequest()]), timeout=CALL_TIMEOUT_S))


CALLS = {"lease": check, "governance": get_status, "peer": greet}


def ca_of(cluster: Cluster, domain: str) -> KeyPair:
    return cluster.operator(domain).organisation.ca()


def forged(ca: KeyPair, *uris: str, days: int = 1) -> KeyPair:
    """A certificate that a CA really signed, whatever it says: our own tools would refuse to."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(ca.certificate)
    now = datetime.now(UTC)
    names = [x509.UniformResourceIdentifier(uri) for uri in uris] or [x509.DNSName("a.example")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(certificates.parse_tls_key(ca.private_key), hashes.SHA256())
    )
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


@pytest.mark.parametrize("port", ["lease", "governance", "peer"])
def test_no_certificate_and_wrong_certificates_get_no_connection(
    cluster: Cluster, strangers, refused, port: str
):
    impostor = certificates.make_ca(BANK)  # the very name of the bank's CA, another key
    trusted = ca_of(cluster, CLINIC if port == "peer" else BANK)
    bearers = {
        "none": None,
        "another CA of the same name": forged(impostor, AGENT),
        "a node of another CA": forged(impostor, f"spiffe://{CLINIC}/node/1"),
        "expired": forged(trusted, AGENT, days=-1),
    }
    if port != "peer":
        clinic = ca_of(cluster, CLINIC)
        bearers["another domain's executor"] = forged(clinic, f"spiffe://{CLINIC}/agent/worker")
        bearers["another domain's CA for this domain"] = forged(clinic, AGENT)
    for what, pair in bearers.items():
        found = refused(lambda pair=pair: CALLS[port](strangers.channel(BANK, port, pair)))
        assert found.code is UNAVAILABLE, f"{what}: {found}"


def test_leases_are_for_executors_of_the_own_domain(cluster: Cluster, strangers, refused):
    bank = ca_of(cluster, BANK)
    organisation = cluster.operator(BANK).organisation
    node = KeyPair(
        (organisation.directory / "node/tls.crt").read_bytes(),
        (organisation.directory / "node/tls.key").read_bytes(),
    )
    foreign = f"spiffe://{CLINIC}/agent/worker"
    cases = [
        (node, PERMISSION_DENIED, "not for nodes and operators"),
        (organisation.operator().pair, PERMISSION_DENIED, "not for nodes and operators"),
        (forged(bank, foreign), PERMISSION_DENIED, "another trust domain"),
        (forged(bank), UNAUTHENTICATED, "does not name one SPIFFE ID"),
        (forged(bank, AGENT, AGENT + "2"), UNAUTHENTICATED, "does not name one SPIFFE ID"),
        (forged(bank, "https://bank.example/x"), UNAUTHENTICATED, "SPIFFE ID"),
    ]
    for pair, code, words in cases:
        found = refused(lambda pair=pair: check(strangers.channel(BANK, "lease", pair)))
        assert found.code is code
        assert words in found.text
    for call in (get_status, submit):
        pair = forged(bank, foreign)
        found = refused(lambda c=call, p=pair: c(strangers.channel(BANK, "governance", p)))
        assert found.code is PERMISSION_DENIED


def test_an_executor_nobody_registered_holds_nothing(cluster: Cluster, strangers):
    """A certificate is an identity, not a right: the ledger knows nothing of this executor."""
    stranger = certificates.issue_executor(ca_of(cluster, BANK), f"spiffe://{BANK}/agent/stranger")
    channel = strangers.channel(BANK, "lease", stranger)
    stub = lease_pb2_grpc.LeaseServiceStub(channel)
    wish = lease_pb2.AcquireRequest(action="records.write", resource=f"//{BANK}/records/book")
    answer = stub.Acquire(wish, timeout=CALL_TIMEOUT_S)
    assert answer.verdict == decision_pb2.VERDICT_DENY
    assert answer.reason == decision_pb2.REASON_UNKNOWN_EXECUTOR
    assert not answer.HasField("lease")
    assert not answer.HasField("outcome"), "and nothing of it fills the ledger"


# -- the peer port ---------------------------------------------------------------------------


class PeerSide:
    """Talks to the peer port of one node as some other, with frames of the test's choice."""

    def __init__(self, cluster: Cluster, strangers, refused) -> None:
        self._cluster = cluster
        self._strangers = strangers
        self._refused = refused
        self.genesis_hash = cluster.genesis().hash

    def node_pair(self, domain: str) -> KeyPair:
        directory = self._cluster.members[domain].directory
        return KeyPair(
            (directory / "node/tls.crt").read_bytes(), (directory / "node/tls.key").read_bytes()
        )

    def hello(self, domain: str, receiver: str = FREIGHT, **changes: object) -> pb.ExchangeRequest:
        fields: dict[str, object] = {
            "sender": f"spiffe://{domain}/node/1",
            "receiver": f"spiffe://{receiver}/node/1",
            "genesis_hash": self.genesis_hash,
            "protocol_version": PROTOCOL_VERSION,
        }
        return pb.ExchangeRequest(hello=pb.PeerHello(**(fields | changes)))

    def stream(self, pair: KeyPair, frames: list[pb.ExchangeRequest], receiver: str = FREIGHT):
        channel = self._strangers.channel(receiver, "peer", pair)
        stub = peer_pb2_grpc.PeerServiceStub(channel)

        def frames_and_silence() -> Iterator[pb.ExchangeRequest]:
            yield from frames
            # The stream stays open until the call ends: its end would end it otherwise.
            ended.wait_until_ended()

        ended = _Ended()
        call = stub.Exchange(frames_and_silence(), timeout=CALL_TIMEOUT_S)
        call.add_callback(ended.set)
        return call

    def refused(self, pair: KeyPair, *frames: pb.ExchangeRequest):
        call = self.stream(pair, list(frames))
        return self._refused(lambda: [None for _ in call])


class _Ended:
    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def wait_until_ended(self) -> None:
        self._event.wait(CALL_TIMEOUT_S)


@pytest.fixture
def side(cluster: Cluster, strangers, refused) -> PeerSide:
    return PeerSide(cluster, strangers, refused)


def test_only_nodes_certified_by_their_own_domain_are_peers(cluster: Cluster, side: PeerSide):
    bank, clinic = ca_of(cluster, BANK), ca_of(cluster, CLINIC)
    member = f"spiffe://{BANK}/node/1"
    cases = [
        (certificates.issue_executor(bank, AGENT), "is no node's id"),
        (cluster.operator(BANK).organisation.operator().pair, "is no node's id"),
        (side.node_pair(FREIGHT), "can be no peer of this node"),
        # The clinic's CA may say who is of the clinic; never who is of the bank.
        (forged(clinic, member), "was not issued by its own domain"),
    ]
    for pair, words in cases:
        found = side.refused(pair, side.hello(BANK))
        assert found.code is PERMISSION_DENIED
        assert words in found.text
    found = side.refused(forged(bank), side.hello(BANK))
    assert found.code is UNAUTHENTICATED


STRANGER = f"spiffe://{BANK}/node/9"


def test_a_node_that_its_domain_has_not_ordered_is_no_peer(cluster: Cluster, side: PeerSide):
    """Its certificate is its domain's; what counts is the order to add it, and who has signed."""
    pair = certificates.issue_node(ca_of(cluster, BANK), STRANGER)
    bank, clinic = cluster.operator(BANK), cluster.operator(CLINIC)
    orders = [
        b"",
        bank.sign("node.add", node_body(f"spiffe://{BANK}/node/8")),
        bank.sign("node.retire", {"node": STRANGER}),
        clinic.sign("node.add", node_body(STRANGER)),
    ]
    for order in orders:
        found = side.refused(pair, side.hello(BANK, sender=STRANGER, order=order))
        assert found.code is PERMISSION_DENIED
        assert "shows no order of its domain to add it" in found.text


def test_a_node_that_was_ordered_and_not_added_is_let_in_and_proposes_nothing(
    cluster: Cluster, side: PeerSide, mirror
):
    """For this node may lag behind the command that added it. It is no member for that."""
    pair = certificates.issue_node(ca_of(cluster, BANK), STRANGER)
    order = cluster.operator(BANK).sign("node.add", node_body(STRANGER))
    log = cluster.members[FREIGHT].log
    refused = f"{STRANGER} is not a member".encode()
    said = [
        pb.PeerMessage(propose=pb.Propose(id=b"x" * 16, payload=b"y")),
        pb.PeerMessage(authority_ask=pb.AuthorityAsk(seq=1)),
    ]
    frames = [
        side.hello(BANK, sender=STRANGER, order=order),
        pb.ExchangeRequest(frame=1, messages=said),
    ]
    call = side.stream(pair, frames)
    assert next(call).received_frame == 0
    assert next(call).received_frame == 1
    wait_until(
        "refusals in the node's log",
        lambda: refused in log.read_bytes(),
        CALL_TIMEOUT_S,
    )
    call.cancel()
    mirror.catch_up()


def test_a_member_must_mean_this_node_and_this_federation(side: PeerSide):
    pair = side.node_pair(BANK)
    cases = [
        ((side.hello(CLINIC),), PERMISSION_DENIED, "names another node"),
        ((side.hello(BANK, CLINIC),), FAILED_PRECONDITION, f"this is spiffe://{FREIGHT}/node/1"),
        ((side.hello(BANK, genesis_hash=b"\0" * 32),), FAILED_PRECONDITION, "genesis differs"),
        (
            (side.hello(BANK, protocol_version=PROTOCOL_VERSION - 1),),
            FAILED_PRECONDITION,
            "protocol version",
        ),
        ((pb.ExchangeRequest(frame=1),), INVALID_ARGUMENT, "first frame must be a hello"),
        ((side.hello(BANK), pb.ExchangeRequest(frame=2)), INVALID_ARGUMENT, "out of order"),
        ((side.hello(BANK), side.hello(BANK)), INVALID_ARGUMENT, "beyond the limits"),
        (
            (
                side.hello(BANK),
                pb.ExchangeRequest(frame=1, messages=[pb.PeerMessage()] * (MAX_FRAME_MESSAGES + 1)),
            ),
            INVALID_ARGUMENT,
            "beyond the limits",
        ),
    ]
    for frames, code, words in cases:
        found = side.refused(pair, *frames)
        assert found.code is code, found
        assert words in found.text


def test_a_member_that_sends_nonsense_harms_nobody(cluster: Cluster, side: PeerSide, mirror):
    """Frames that are in order and messages that make no sense: refused one by one, and logged."""
    nonsense = [
        pb.PeerMessage(),
        pb.PeerMessage(append_request=pb.AppendRequest(term=1)),
        pb.PeerMessage(
            append_request=pb.AppendRequest(
                term=1, prev_log_index=1, entries=[pb.LogEntry(index=99, term=7, command=b"x")]
            )
        ),
        pb.PeerMessage(propose=pb.Propose(id=b"x" * 1_000, payload=b"y")),
        pb.PeerMessage(authority_grant=pb.AuthorityGrant()),
        pb.PeerMessage(confirm=pb.Confirm(term=1)),
    ]
    log = cluster.members[FREIGHT].log
    before = log.read_bytes().count(b"peer.message_refused")
    call = side.stream(
        side.node_pair(BANK), [side.hello(BANK), pb.ExchangeRequest(frame=1, messages=nonsense)]
    )
    assert next(call).received_frame == 0
    assert next(call).received_frame == 1, "the stream goes on"
    wait_until(
        "refusals in the node's log",
        lambda: log.read_bytes().count(b"peer.message_refused") >= before + 3,
        CALL_TIMEOUT_S,
    )
    call.cancel()
    mirror.catch_up()


def test_what_a_member_proposes_is_judged_by_all(cluster: Cluster, side: PeerSide, mirror):
    """A node that lets bytes through that are no command, or not signed: every node denies them
    alike, and the ledger says so."""
    leader = cluster.leader()
    sender = next(domain for domain in cluster.members if domain != leader)
    signed = cluster.operator(sender).sign(
        "executor.register", {"executor": f"spiffe://{sender}/agent/forged"}
    )
    envelope = json.loads(signed)
    envelope["payload"] = base64.b64encode(
        base64.b64decode(envelope["payload"]).replace(b"forged", b"altered")
    ).decode()
    tampered = codec.encode(envelope)
    garbage = [b"", b"\xff" * 64, b"{}", tampered, b"x" * 17_000]
    messages = [
        pb.PeerMessage(propose=pb.Propose(id=bytes([n]) * 32, payload=payload))
        for n, payload in enumerate(garbage)
    ]
    size = mirror.catch_up()
    call = side.stream(
        side.node_pair(sender),
        [side.hello(sender, leader), pb.ExchangeRequest(frame=1, messages=messages)],
        receiver=leader,
    )
    assert next(call).received_frame == 0
    wait_until(
        "the denials in the ledger",
        lambda: cluster.status(leader).position.size >= size + len(garbage),
        CALL_TIMEOUT_S,
    )
    call.cancel()
    mirror.catch_up()
    new = [mirror.entry(index) for index in range(size, size + len(garbage))]
    assert {entry["decision"] for entry in new} == {"denied"}
    assert [(entry["type"], entry["reason"]) for entry in new] == [
        ("malformed", "MALFORMED_COMMAND"),
        ("malformed", "MALFORMED_COMMAND"),
        ("malformed", "MALFORMED_COMMAND"),
        ("executor.register", "BAD_SIGNATURE"),
        ("malformed", "TOO_LARGE"),
    ]


def test_an_oversized_frame_of_a_member_is_refused(side: PeerSide):
    large = pb.PeerMessage(propose=pb.Propose(id=b"x", payload=b"y" * (MAX_PEER_MESSAGE_BYTES + 1)))
    found = side.refused(
        side.node_pair(BANK), side.hello(BANK), pb.ExchangeRequest(frame=1, messages=[large])
    )
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
