"""Whose a certificate is: by direct issuance, on paper and over real TLS."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import stop

from quorate.core.errors import MalformedError
from quorate.core.ids import dns_name
from quorate.node import certificates
from quorate.node.certificates import KeyPair, issued_by

BANK = certificates.make_ca("bank.example")
CLINIC = certificates.make_ca("clinic.example")
NODE = "spiffe://bank.example/node/1"
EXECUTOR = "spiffe://bank.example/agent/payments"
BANK_NODE = certificates.issue_node(BANK, NODE)


def forge(
    issuer: KeyPair,
    spiffe: str,
    *,
    uris: int = 1,
    ca: bool = False,
    constraints: bool = True,
    issuer_name: x509.Name | None = None,
) -> KeyPair:
    """A certificate that our own tool would refuse to issue."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = x509.load_pem_x509_certificate(issuer.certificate)
    issuer_key = serialization.load_pem_private_key(issuer.private_key, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    names = [x509.UniformResourceIdentifier(f"{spiffe}{'x' * n}") for n in range(uris)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")]))
        .issuer_name(issuer_name or authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
    )
    if names:
        dns = x509.DNSName(dns_name(NODE))
        builder = builder.add_extension(x509.SubjectAlternativeName([*names, dns]), False)
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), True)
        usage = x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False)
        builder = builder.add_extension(usage, True)
    return KeyPair(
        builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def subject(pair: KeyPair) -> x509.Name:
    return x509.load_pem_x509_certificate(pair.certificate).subject


# -- what is made ----------------------------------------------------------------------------


def test_a_certificate_names_one_spiffe_id() -> None:
    for pair, spiffe in (
        (BANK_NODE, NODE),
        (certificates.issue_executor(BANK, EXECUTOR), EXECUTOR),
        (
            certificates.issue_operator(BANK, "spiffe://bank.example/operator/admin"),
            "spiffe://bank.example/operator/admin",
        ),
    ):
        certificate = certificates.parse_certificate(pair.certificate)
        assert str(certificates.spiffe_id(certificate)) == spiffe


def test_only_a_node_bears_a_dns_name_and_may_serve() -> None:
    # The DNS name of this executor would be that of the node, and its certificate the node's.
    impostor = "spiffe://bank.example/1.node"
    assert dns_name(impostor) == dns_name(NODE)
    pair = certificates.issue_executor(BANK, impostor)
    extensions = certificates.parse_certificate(pair.certificate).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert names.get_values_for_type(x509.DNSName) == []
    assert list(usages) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(
    ("issue", "spiffe"),
    [
        (certificates.issue_executor, NODE),
        (certificates.issue_executor, "spiffe://bank.example/operator/admin"),
        (certificates.issue_executor, "spiffe://clinic.example/agent/payments"),
        (certificates.issue_node, EXECUTOR),
        (certificates.issue_node, "spiffe://clinic.example/node/1"),
        (certificates.issue_node, f"spiffe://bank.example/node/{'x' * 64}"),
        (certificates.issue_operator, NODE),
        (certificates.issue_executor, "not an id"),
    ],
)
def test_what_is_not_its_to_issue_is_refused(issue: object, spiffe: str) -> None:
    assert callable(issue)
    with pytest.raises(MalformedError):
        issue(BANK, spiffe)


def test_no_leaf_outlives_its_issuer() -> None:
    old = datetime.now(UTC) - certificates.CA_LIFETIME + timedelta(days=3)
    ca = certificates.make_ca("bank.example", now=old)
    leaf = certificates.parse_certificate(certificates.issue_node(ca, NODE).certificate)
    root = certificates.parse_certificate(ca.certificate)
    assert leaf.not_valid_after_utc <= root.not_valid_after_utc


def test_long_names_are_no_obstacle() -> None:
    domain = "b" * 60 + ".example"
    ca = certificates.make_ca(domain)
    spiffe = f"spiffe://{domain}/agent/{'x' * 150}"
    leaf = certificates.issue_executor(ca, spiffe)
    assert issued_by(leaf.certificate, ca.certificate)


# -- direct issuance -------------------------------------------------------------------------


def test_the_domains_own_ca_issued_it() -> None:
    assert issued_by(BANK_NODE.certificate, BANK.certificate)


def test_a_foreign_ca_cannot_name_somebody_elses_node() -> None:
    forged = forge(CLINIC, NODE)
    # The certificate says that it is the bank's node, and the clinic's CA stands behind it.
    assert str(certificates.spiffe_id(certificates.parse_certificate(forged.certificate))) == NODE
    assert issued_by(forged.certificate, CLINIC.certificate)
    assert not issued_by(forged.certificate, BANK.certificate)


def test_a_foreign_ca_cannot_borrow_the_issuers_name() -> None:
    forged = forge(CLINIC, NODE, issuer_name=subject(BANK))
    assert not issued_by(forged.certificate, BANK.certificate)


def test_a_ca_of_the_same_name_is_not_the_same_ca() -> None:
    twin = certificates.make_ca("bank.example")
    assert subject(twin) == subject(BANK)
    pair = certificates.issue_node(twin, NODE)
    assert not issued_by(pair.certificate, BANK.certificate)


def test_a_leaf_issues_nothing() -> None:
    forged = forge(BANK_NODE, NODE)
    assert not issued_by(forged.certificate, BANK_NODE.certificate)
    assert not issued_by(forged.certificate, BANK.certificate)


def test_an_intermediate_does_not_make_its_leaves_direct() -> None:
    intermediate = forge(BANK, "spiffe://bank.example/x", ca=True)
    assert not issued_by(intermediate.certificate, BANK.certificate)
    leaf = forge(intermediate, NODE)
    assert not issued_by(leaf.certificate, BANK.certificate)


def test_a_ca_without_constraints_is_none() -> None:
    bare = forge(BANK, "spiffe://bank.example/x", constraints=False)
    assert not issued_by(forge(bare, NODE).certificate, bare.certificate)


@pytest.mark.parametrize(
    ("days", "good"), [(-1, False), (0, True), (364, True), (366, False), (3651, False)]
)
def test_validity_is_judged_at_the_time_in_question(days: int, good: bool) -> None:
    at = datetime.now(UTC) + timedelta(days=days)
    assert issued_by(BANK_NODE.certificate, BANK.certificate, at=at) is good


def test_an_expired_ca_vouches_for_nobody() -> None:
    old = datetime.now(UTC) - certificates.CA_LIFETIME - timedelta(days=1)
    ca = certificates.make_ca("bank.example", now=old)
    live = forge(ca, NODE)
    assert not issued_by(live.certificate, ca.certificate)


@given(st.binary(max_size=300))
def test_garbage_is_issued_by_nobody(garbage: bytes) -> None:
    assert not issued_by(garbage, BANK.certificate)
    assert not issued_by(BANK_NODE.certificate, garbage)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_no_bit_of_what_was_signed_can_change() -> None:
    leaf = x509.load_pem_x509_certificate(BANK_NODE.certificate)
    der = leaf.public_bytes(serialization.Encoding.DER)
    start = der.index(leaf.tbs_certificate_bytes)
    for bit in range(8 * start, 8 * (start + len(leaf.tbs_certificate_bytes))):
        changed = bytearray(der)
        changed[bit // 8] ^= 1 << bit % 8
        body = base64.b64encode(bytes(changed)).decode()
        pem = f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
        assert not issued_by(pem.encode(), BANK.certificate), bit


@pytest.mark.parametrize("uris", [0, 2])
def test_a_certificate_of_none_or_two_ids_has_none(uris: int) -> None:
    certificate = certificates.parse_certificate(forge(BANK, NODE, uris=uris).certificate)
    with pytest.raises(MalformedError):
        certificates.spiffe_id(certificate)


def test_a_descriptors_ca_must_be_the_domains_and_may_issue() -> None:
    certificates.check_ca(BANK.certificate, "bank.example")
    with pytest.raises(MalformedError, match=r"is of bank\.example"):
        certificates.check_ca(BANK.certificate, "clinic.example")
    with pytest.raises(MalformedError, match="may not issue"):
        certificates.check_ca(BANK_NODE.certificate, "bank.example")


# -- over real TLS ---------------------------------------------------------------------------


@contextmanager
def serving(pair: KeyPair, trusted: bytes) -> Iterator[tuple[str, list[dict[str, list[bytes]]]]]:
    """A server on loopback that notes who calls."""
    seen: list[dict[str, list[bytes]]] = []

    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append({name: list(values) for name, values in context.auth_context().items()})
        return request

    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(handle)}
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", handlers)])
    credentials = grpc.ssl_server_credentials(
        [(pair.private_key, pair.certificate)], trusted, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", seen
    finally:
        stop(server)


def call(address: str, pair: KeyPair, trusted: bytes, server_name: str) -> bytes:
    credentials = grpc.ssl_channel_credentials(trusted, pair.private_key, pair.certificate)
    options = [("grpc.ssl_target_name_override", server_name), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(address, credentials, options) as channel:
        answer = channel.unary_unary("/test.Echo/Echo")(b"hello", timeout=10)
        assert isinstance(answer, bytes)
        return answer


def test_both_sides_know_each_other_by_spiffe_id() -> None:
    executor = certificates.issue_executor(BANK, EXECUTOR)
    with serving(BANK_NODE, BANK.certificate) as (address, seen):
        assert call(address, executor, BANK.certificate, dns_name(NODE)) == b"hello"
    assert seen[0]["peer_spiffe_id"] == [EXECUTOR.encode()]
    (presented,) = seen[0]["x509_pem_cert"]
    assert issued_by(presented, BANK.certificate)


def test_in_a_bundle_of_cas_only_direct_issuance_tells_who_vouches() -> None:
    # What peers do: they trust every member's CA, so TLS alone lets the clinic's CA name the
    # bank's node.
    forged = forge(CLINIC, NODE)
    bundle = BANK.certificate + CLINIC.certificate
    with serving(BANK_NODE, bundle) as (address, seen):
        assert call(address, forged, BANK.certificate, dns_name(NODE)) == b"hello"
    assert seen[0]["peer_spiffe_id"] == [NODE.encode()]
    (presented,) = seen[0]["x509_pem_cert"]
    assert not issued_by(presented, BANK.certificate)


@pytest.mark.parametrize(
    "client",
    [
        certificates.issue_executor(CLINIC, "spiffe://clinic.example/agent/x"),
        forge(CLINIC, EXECUTOR),
        certificates.issue_executor(
            certificates.make_ca("bank.example"), EXECUTOR
        ),  # the name is right, the CA is not
    ],
    ids=["foreign", "forged", "twin"],
)
def test_a_stranger_does_not_get_in(client: KeyPair) -> None:
    with serving(BANK_NODE, BANK.certificate) as (address, seen), pytest.raises(grpc.RpcError):
        call(address, client, BANK.certificate, dns_name(NODE))
    assert seen == []


def test_an_expired_client_certificate_does_not_get_in() -> None:
    long_ago = datetime.now(UTC) - timedelta(days=400)
    expired = certificates.issue_executor(BANK, EXECUTOR, now=long_ago)
    with serving(BANK_NODE, BANK.certificate) as (address, seen), pytest.raises(grpc.RpcError):
        call(address, expired, BANK.certificate, dns_name(NODE))
    assert seen == []


def test_an_executor_cannot_pose_as_its_node() -> None:
    impostor = certificates.issue_executor(BANK, "spiffe://bank.example/1.node")
    client = certificates.issue_executor(BANK, EXECUTOR)
    with serving(impostor, BANK.certificate) as (address, seen):
        with pytest.raises(grpc.RpcError) as caught:
            call(address, client, BANK.certificate, dns_name(NODE))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert seen == []


def test_another_node_of_the_domain_is_not_the_node_meant() -> None:
    second = certificates.issue_node(BANK, "spiffe://bank.example/node/2")
    client = certificates.issue_executor(BANK, EXECUTOR)
    with serving(second, BANK.certificate) as (address, _), pytest.raises(grpc.RpcError):
        call(address, client, BANK.certificate, dns_name(NODE))
