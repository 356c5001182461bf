"""Private keys: their files, what they sign, and that they do not show themselves."""

import base64
import copy
import hashlib
import pickle

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from quorate.core import dsse
from quorate.core.errors import ConfigurationError
from quorate.proofs.signing import SigningKey, sign_envelope

# RFC 8032, section 7.1, test 2.
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_signatures_are_those_of_rfc_8032():
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(SECRET))
    assert key.public.hex() == PUBLIC
    assert key.sign(b"\x72").hex() == SIGNATURE
    assert key.keyid == hashlib.sha256(bytes.fromhex(PUBLIC)).hexdigest()


def test_a_key_survives_its_file():
    key = SigningKey.generate()
    assert SigningKey.from_pem(key.to_pem()).public == key.public
    assert SigningKey.generate().public != key.public


def encrypted():
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


def other_kind():
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def unknown_curve():
    """A key on a curve of a number that no curve has."""
    der = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    number = bytes.fromhex("2a8648ce3d0301")
    body = base64.encodebytes(der.replace(number + b"\x07", number + b"\x77"))
    return b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n"


def wrong_length():
    """A key of another kind, as long as ours: the library knows no error of its own for it."""
    body = base64.encodebytes(bytes.fromhex("302e020100300506032b656f04220420") + SECRET)
    return b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "pem", [b"", b"not a key", encrypted(), other_kind(), unknown_curve(), wrong_length()]
)
def test_other_files_are_configuration_errors_with_a_hint(pem):
    with pytest.raises(ConfigurationError) as caught:
        SigningKey.from_pem(pem)
    assert "Ed25519" in caught.value.hint


def test_a_key_shows_its_id_and_is_not_copied():
    key = SigningKey.generate()
    assert key.keyid in repr(key)
    assert "PRIVATE" not in repr(key)
    for copier in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            copier(key)


def test_an_envelope_is_what_the_core_reads():
    first, second = SigningKey.generate(), SigningKey.generate()
    data = sign_envelope(dsse.COMMAND_TYPE, b'{"v":1}', first, second)
    envelope = dsse.parse(data, 10_000)
    assert envelope.payload == b'{"v":1}'
    assert envelope.payload_type == dsse.COMMAND_TYPE
    assert [signature.keyid for signature in envelope.signatures] == [first.keyid, second.keyid]
    assert envelope.verify(first.public)
    assert envelope.verify(second.public)
    assert not envelope.verify(SigningKey.generate().public)
