"""Private keys and certificates in files.

Owns the modes of secret files: made 0600 before they have content, refused when others may read
them. What a certificate is made of and whom it belongs to: `quorate.node.certificates`, of which
this module passes on what a caller that has files needs.
"""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from quorate.core.errors import ConfigurationError, MalformedError
from quorate.node.certificates import (
    KeyPair,
    issued_by,
    parse_certificate,
    parse_tls_key,
    spiffe_id,
    valid_at,
)
from quorate.proofs.signing import SigningKey

__all__ = [
    "KeyPair",
    "TlsIdentity",
    "issued_by",
    "load_certificate",
    "load_signing_key",
    "load_tls_identity",
    "read_private",
    "read_public",
    "replace_pair",
    "replace_public",
    "save_signing_key",
    "spiffe_id",
    "write_private",
    "write_public",
]

PRIVATE_FILE_MODE: Final = 0o600
PUBLIC_FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o700
MAX_KEY_FILE_BYTES: Final = 64 * 1024


def write_private(path: Path, data: bytes) -> None:
    """Makes a new file of mode 0600. It has that mode before it has content, and an existing file
    is never touched. Raises ConfigurationError."""
    _write_new(path, data, PRIVATE_FILE_MODE)


def write_public(path: Path, data: bytes) -> None:
    """Makes a new file that others may read. Raises ConfigurationError if it exists."""
    _write_new(path, data, PUBLIC_FILE_MODE)


def replace_public(path: Path, data: bytes) -> None:
    """Puts a file that others may read in the place of another: whole, or not at all."""
    beside = _write_beside(path, data, PUBLIC_FILE_MODE)
    try:
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def replace_pair(certificate: Path, private_key: Path, pair: KeyPair) -> None:
    """Puts a certificate and its key in the place of others. Both are on the disk before either
    takes its place; in between is a moment in which they do not belong together, and whoever reads
    them then notices (`load_tls_identity`). They keep their owner, and links lead where they led.
    Raises ConfigurationError."""
    certificate, private_key = certificate.resolve(), private_key.resolve()
    beside: list[Path] = []
    try:
        beside.append(_write_beside(private_key, pair.private_key, PRIVATE_FILE_MODE))
        beside.append(_write_beside(certificate, pair.certificate, PUBLIC_FILE_MODE))
        beside[0].replace(private_key)
        beside[1].replace(certificate)
        for directory in {certificate.parent, private_key.parent}:
            _sync_directory(directory)
    except OSError as error:
        raise ConfigurationError(
            f"{certificate} cannot be replaced: {error.strerror}",
            hint="check the directory and its owner, and try again",
        ) from error
    finally:
        for path in beside:
            path.unlink(missing_ok=True)


def _write_beside(path: Path, data: bytes, mode: int) -> Path:
    """A new file in the same directory, durable, with what is to take the place of `path`. It is
    0600 until it has all its content."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            if path.exists():
                os.fchown(descriptor, path.stat().st_uid, path.stat().st_gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, mode)
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} exists already", hint="nothing is ever overwritten; choose another directory"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)  # a umask may have taken bits of ours away
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error


def read_private(path: Path) -> bytes:
    """The content of a secret file. Raises ConfigurationError when anybody but its owner has any
    access to it: a key that others may have read is nobody's proof of identity."""
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hang the node.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # Of the open file, not of the path: what is judged is what is read.
            _check_private(path, os.fstat(descriptor).st_mode)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_KEY_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(
            f"private key {path} cannot be read: {error.strerror}",
            hint="check the path, and that this user owns the file",
        ) from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise ConfigurationError(f"private key {path} is larger than {MAX_KEY_FILE_BYTES} bytes")
    return data


def _check_private(path: Path, st_mode: int) -> None:
    if not stat.S_ISREG(st_mode):
        raise ConfigurationError(f"private key {path} is not a regular file")
    mode = stat.S_IMODE(st_mode)
    if mode & 0o077:
        raise ConfigurationError(
            f"private key {path} is open to others (mode {mode:04o})",
            hint=f"chmod 600 {path}, and replace the key if others may have read it",
        )


def read_public(path: Path, max_bytes: int = MAX_KEY_FILE_BYTES) -> bytes:
    """The content of a file that is no secret. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise ConfigurationError(f"{path} is larger than {max_bytes} bytes")
    return data


def load_signing_key(path: Path) -> SigningKey:
    """An Ed25519 key from a file of mode 0600. Raises ConfigurationError."""
    data = read_private(path)
    try:
        return SigningKey.from_pem(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", hint=error.hint) from error


def save_signing_key(path: Path, key: SigningKey) -> None:
    write_private(path, key.to_pem())


def load_certificate(path: Path) -> x509.Certificate:
    """Raises ConfigurationError."""
    try:
        return parse_certificate(read_public(path))
    except MalformedError as error:
        raise ConfigurationError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """A certificate with its key, checked against each other, and who it says its holder is."""

    spiffe_id: str
    pair: KeyPair


def load_tls_identity(
    certificate: Path, private_key: Path, *, expected_id: str | None = None
) -> TlsIdentity:
    """Reads what TLS will present. Raises ConfigurationError: when the key does not belong to the
    certificate, the certificate is not valid now, or it names somebody else than `expected_id`."""
    pem = read_public(certificate)
    key_pem = read_private(private_key)
    try:
        leaf = parse_certificate(pem)
        claimed = str(spiffe_id(leaf))
        key = parse_tls_key(key_pem)
    except (MalformedError, ConfigurationError) as error:
        raise ConfigurationError(f"{certificate}, {private_key}: {error}") from error
    if key.public_key() != leaf.public_key():
        raise ConfigurationError(f"{private_key} is not the private key of {certificate}")
    if not valid_at(leaf, datetime.now(UTC)):
        raise ConfigurationError(
            f"{certificate} is valid from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, not now",
            hint="check this machine's clock; else renew it: `quorate node renew`, or `quorate "
            "operator renew`",
        )
    if expected_id is not None and claimed != expected_id:
        raise ConfigurationError(
            f"{certificate} is of {claimed}, not of {expected_id}",
            hint="use the certificate that was issued to this node",
        )
    return TlsIdentity(claimed, KeyPair(pem, key_pem))
