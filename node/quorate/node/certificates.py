"""The X.509 certificates of Quorate: how they are made, and what one says.

Owns the profile (SPIFFE X.509-SVID: exactly one URI name; ECDSA P-256, which every TLS stack
speaks) and the rule by which a certificate belongs to a domain. Touches no file (see
`quorate.node.identity`), and decides nothing about what an identity may do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quorate.core import ids
from quorate.core.errors import ConfigurationError, MalformedError

CA_LIFETIME: Final = timedelta(days=3650)
LEAF_LIFETIME: Final = timedelta(days=365)
BACKDATED: Final = timedelta(minutes=5)
"""How long before its making a certificate is valid: other machines' clocks may be behind."""

_MAX_COMMON_NAME: Final = 64  # X.520 ub-common-name
_MAX_DNS_NAME: Final = 253
_MAX_DNS_LABEL: Final = 63
_GOOD_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for a certificate that it cannot make sense of."""


# -- making certificates ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM. The key never shows in a repr."""

    certificate: bytes
    private_key: bytes

    def __repr__(self) -> str:
        return f"KeyPair(certificate={len(self.certificate)} bytes)"


def make_ca(domain: str, *, now: datetime | None = None) -> KeyPair:
    """The root of a domain's certificates. It may issue leaves only (path length 0)."""
    ids.check_domain(domain)
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(f"Quorate CA of {domain}")
    builder = (
        _builder(name, name, key.public_key(), now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(_names(f"spiffe://{domain}", None), critical=False)
    )
    return _signed(builder, key, key)


def issue_node(ca: KeyPair, node_id: str, *, now: datetime | None = None) -> KeyPair:
    """A certificate for a node: the only kind that may serve, and that bears a DNS name."""
    ids.check_node(node_id)
    name = ids.dns_name(node_id)
    if len(name) > _MAX_DNS_NAME or max(map(len, name.split("."))) > _MAX_DNS_LABEL:
        raise MalformedError(f"the node id makes no DNS name: {name}")
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(ca, node_id, name, usages, now)


def issue_operator(ca: KeyPair, operator_id: str, *, now: datetime | None = None) -> KeyPair:
    """A certificate for a person or tool that governs the domain. It cannot serve."""
    ids.check_operator(operator_id)
    return _issue(ca, operator_id, None, [ExtendedKeyUsageOID.CLIENT_AUTH], now)


def issue_executor(ca: KeyPair, executor_id: str, *, now: datetime | None = None) -> KeyPair:
    """A certificate for an executor. It cannot serve, and bears no DNS name: that of
    `spiffe://bank.example/1.node` would be the name of `spiffe://bank.example/node/1`."""
    ids.check_executor(executor_id)
    return _issue(ca, executor_id, None, [ExtendedKeyUsageOID.CLIENT_AUTH], now)


def _issue(
    ca: KeyPair,
    spiffe: str,
    dns: str | None,
    usages: list[x509.ObjectIdentifier],
    now: datetime | None,
) -> KeyPair:
    now = now or datetime.now(UTC)
    issuer = parse_certificate(ca.certificate)
    issuer_key = parse_tls_key(ca.private_key)
    if issuer.public_key() != issuer_key.public_key():
        raise ConfigurationError(
            "the CA's key is not that of its certificate",
            hint="if `quorate domain set-ca` was interrupted, run it again",
        )
    owner = _trust_domain_of_ca(issuer)
    parsed = ids.SpiffeId.parse(spiffe)
    if owner != parsed.trust_domain:
        raise MalformedError(f"the CA of {owner} cannot vouch for {spiffe}")
    key = ec.generate_private_key(ec.SECP256R1())
    # No leaf outlives its issuer: it would verify nowhere, and nobody would see why.
    lifetime = min(LEAF_LIFETIME, issuer.not_valid_after_utc - now)
    if lifetime <= timedelta(0):
        raise ConfigurationError(
            "the CA certificate has expired", hint="make another: `quorate domain set-ca`"
        )
    builder = (
        _builder(_common_name(parsed.path), issuer.subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_names(spiffe, dns), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return _signed(builder, key, issuer_key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> KeyPair:
    certificate = builder.sign(issuer_key, hashes.SHA256())
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _common_name(text: str) -> x509.Name:
    """For people only: nothing is ever decided by it, so cutting it short loses nothing."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_MAX_COMMON_NAME])])


def _names(uri: str, dns: str | None) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    if dns is not None:
        names.append(x509.DNSName(dns))
    return x509.SubjectAlternativeName(names)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def parse_tls_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError("the TLS private key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigurationError("the TLS private key is not an ECDSA key")
    return key


# -- reading certificates --------------------------------------------------------------------


def parse_certificate(pem: bytes) -> x509.Certificate:
    """The first certificate of the text. Raises MalformedError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except _UNREADABLE as error:
        raise MalformedError("not an X.509 certificate in PEM") from error


def _uri_name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise MalformedError("the certificate has no subject alternative name") from error
    except _UNREADABLE as error:
        raise MalformedError("the certificate's extensions cannot be read") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    # X.509-SVID section 2: a certificate with more than one URI is rejected, not searched.
    if len(uris) != 1:
        raise MalformedError(f"the certificate names {len(uris)} URIs; a SPIFFE ID is exactly one")
    return uris[0]


def spiffe_id(certificate: x509.Certificate) -> ids.SpiffeId:
    """The identity that a leaf certificate claims. Who vouches for it, `issued_by` says.

    Raises MalformedError.
    """
    return ids.SpiffeId.parse(_uri_name(certificate))


def _trust_domain_of_ca(certificate: x509.Certificate) -> str:
    prefix, domain = "spiffe://", _uri_name(certificate)
    if not domain.startswith(prefix):
        raise MalformedError("the CA certificate names no trust domain")
    ids.check_domain(domain.removeprefix(prefix))
    return domain.removeprefix(prefix)


def issued_by(leaf_pem: bytes, ca_pem: bytes, *, at: datetime | None = None) -> bool:
    """Whether this CA itself, and no other in whatever bundle TLS accepted, signed this leaf, and
    both are valid now (RFC 5280 section 6.1, for a path of length one).

    Anything unreadable is False: the leaf comes from the network.
    """
    at = at or datetime.now(UTC)
    try:
        leaf = x509.load_pem_x509_certificate(leaf_pem)
        ca = x509.load_pem_x509_certificate(ca_pem)
        algorithm = leaf.signature_hash_algorithm
        issuers = _may_issue(ca), _may_issue(leaf)
        leaf.verify_directly_issued_by(ca)  # names match, and the signature verifies
    except (InvalidSignature, *_UNREADABLE):
        return False
    return (
        issuers == (True, False)
        and (algorithm is None or isinstance(algorithm, _GOOD_HASHES))  # None: Ed25519
        and valid_at(leaf, at)
        and valid_at(ca, at)
    )


def valid_at(certificate: x509.Certificate, at: datetime) -> bool:
    return certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and usage.key_cert_sign


def check_ca(pem: bytes, domain: str) -> None:
    """Raises MalformedError unless this is a certificate that may issue, of that domain."""
    certificate = parse_certificate(pem)
    try:
        may_issue = _may_issue(certificate)
    except _UNREADABLE as error:
        raise MalformedError("the CA certificate's extensions cannot be read") from error
    if not may_issue:
        raise MalformedError(f"the CA certificate of {domain} may not issue certificates")
    owner = _trust_domain_of_ca(certificate)
    if owner != domain:
        raise MalformedError(f"the CA certificate of {domain} is of {owner}")
