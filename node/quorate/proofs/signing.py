"""Ed25519 private keys, and what is signed with them.

Owns the only type of the package that holds a private key. Verifying is elsewhere
(`quorate.core.dsse`, `quorate.proofs.note`), so that a verifier never loads this module. Where a
key is kept, and with which file mode, is the caller's business.
"""

from __future__ import annotations

from typing import NoReturn, Protocol

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quorate.core import dsse
from quorate.core.errors import ConfigurationError

_HINT = "a key file holds one unencrypted Ed25519 private key in PKCS #8 PEM"


class Signer(Protocol):
    """Whatever signs as an Ed25519 key does: a `SigningKey`, or a device that keeps one."""

    @property
    def public(self) -> bytes:
        """The 32 raw bytes of the public key."""
        ...

    @property
    def keyid(self) -> str:
        """Lower-case hex SHA-256 of `public`."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature over `message`."""
        ...


class SigningKey:
    """An Ed25519 private key (RFC 8032). It never shows itself in a repr or a log."""

    __slots__ = ("_private", "keyid", "public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()
        """The 32 raw bytes of the public key."""
        self.keyid: str = dsse.key_id(self.public)
        """Lower-case hex SHA-256 of `public`: the `keyid` of DSSE signatures."""

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> SigningKey:
        """Raises `ConfigurationError` for anything but one unencrypted Ed25519 key."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
            # The library's message may quote the file; a key file must not reach a log.
            raise ConfigurationError("the private key cannot be read", hint=_HINT) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigurationError("the private key is not an Ed25519 key", hint=_HINT)
        return cls(private)

    def to_pem(self) -> bytes:
        """PKCS #8 PEM, unencrypted: for a file of mode 0600."""
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature over `message`."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"SigningKey(keyid={self.keyid!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not copied by pickling")


def sign_envelope(payload_type: str, payload: bytes, *keys: Signer) -> bytes:
    """The DSSE envelope of `payload`, one signature a key in the order given, in canonical JSON.

    An envelope without a key is what a draft is: it has no signatures yet.
    """
    message = dsse.pae(payload_type, payload)
    signatures = tuple(dsse.Signature(key.keyid, key.sign(message)) for key in keys)
    return dsse.Envelope(payload, payload_type, signatures).to_bytes()
