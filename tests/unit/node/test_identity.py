"""Secrets in files: their modes, and what is refused."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quorate.core.errors import ConfigurationError
from quorate.node import certificates, identity
from quorate.proofs.signing import SigningKey


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_a_secret_has_mode_0600_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        identity.write_private(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert mode(tmp_path / "key") == 0o600


def test_a_secret_is_0600_before_it_has_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = os.fdopen

    def watched(descriptor: int, how: str) -> object:
        status = os.fstat(descriptor)
        seen.append((stat.S_IMODE(status.st_mode), status.st_size))
        return real(descriptor, how)

    monkeypatch.setattr(os, "fdopen", watched)
    identity.write_private(tmp_path / "key", b"secret")
    assert seen == [(0o600, 0)]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    identity.write_private(tmp_path / "key", b"first")
    with pytest.raises(ConfigurationError, match="exists already"):
        identity.write_private(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigurationError):
        identity.write_private(tmp_path / "key", b"secret")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("wide", [0o640, 0o604, 0o660, 0o601, 0o644, 0o777])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, wide: int) -> None:
    path = tmp_path / "key"
    identity.save_signing_key(path, SigningKey.generate())
    path.chmod(wide)
    with pytest.raises(ConfigurationError, match="open to others") as caught:
        identity.load_signing_key(path)
    assert f"chmod 600 {path}" in caught.value.hint


@pytest.mark.parametrize("narrow", [0o600, 0o400])
def test_a_key_of_its_owner_alone_is_read(tmp_path: Path, narrow: int) -> None:
    key = SigningKey.generate()
    identity.save_signing_key(tmp_path / "key", key)
    (tmp_path / "key").chmod(narrow)
    assert identity.load_signing_key(tmp_path / "key").public == key.public


def test_the_mode_that_counts_is_of_the_file_behind_a_link(tmp_path: Path) -> None:
    identity.save_signing_key(tmp_path / "real", SigningKey.generate())
    (tmp_path / "key").symlink_to("real")
    identity.load_signing_key(tmp_path / "key")
    (tmp_path / "real").chmod(0o640)
    with pytest.raises(ConfigurationError, match="open to others"):
        identity.load_signing_key(tmp_path / "key")


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        identity.load_signing_key(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="regular file"):
        identity.read_private(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigurationError, match="regular file"):
        identity.read_private(tmp_path / "pipe")
    identity.write_private(tmp_path / "text", b"not a key")
    with pytest.raises(ConfigurationError, match="text"):
        identity.load_signing_key(tmp_path / "text")
    identity.write_private(tmp_path / "huge", b"x" * (identity.MAX_KEY_FILE_BYTES + 1))
    with pytest.raises(ConfigurationError, match="larger"):
        identity.read_private(tmp_path / "huge")


NODE = "spiffe://bank.example/node/1"


def save(directory: Path, pair: certificates.KeyPair) -> tuple[Path, Path]:
    identity.write_public(directory / "tls.crt", pair.certificate)
    identity.write_private(directory / "tls.key", pair.private_key)
    return directory / "tls.crt", directory / "tls.key"


def test_a_tls_identity_is_who_its_certificate_says(tmp_path: Path) -> None:
    paths = save(tmp_path, certificates.issue_node(certificates.make_ca("bank.example"), NODE))
    assert identity.load_tls_identity(*paths, expected_id=NODE).spiffe_id == NODE
    with pytest.raises(ConfigurationError, match=r"not of spiffe://bank\.example/node/2"):
        identity.load_tls_identity(*paths, expected_id="spiffe://bank.example/node/2")


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    ca = certificates.make_ca("bank.example")
    first, second = (certificates.issue_node(ca, NODE) for _ in range(2))
    mixed = certificates.KeyPair(first.certificate, second.private_key)
    with pytest.raises(ConfigurationError, match="is not the private key of"):
        identity.load_tls_identity(*save(tmp_path, mixed))


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=1000)
    ca = certificates.make_ca("bank.example", now=long_ago)
    pair = certificates.issue_node(ca, NODE, now=long_ago)
    with pytest.raises(ConfigurationError, match="not now"):
        identity.load_tls_identity(*save(tmp_path, pair))


def test_a_private_key_never_shows_in_a_repr(tmp_path: Path) -> None:
    pair = certificates.issue_node(certificates.make_ca("bank.example"), NODE)
    loaded = identity.load_tls_identity(*save(tmp_path, pair))
    for text in (repr(pair), repr(loaded)):
        assert "PRIVATE" not in text


def test_a_pair_keeps_its_owner_and_links_lead_where_they_led(tmp_path: Path) -> None:
    """Whoever renews as root must not take the files from the node's own user."""
    ca = certificates.make_ca("bank.example")
    kept = tmp_path / "kept"
    kept.mkdir()
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    for path, real in ((certificate, kept / "real.crt"), (key, kept / "real.key")):
        real.write_bytes(b"before")
        path.symlink_to(real)
    if os.geteuid() == 0:
        os.chown(kept / "real.key", 12345, 12345)
    made = certificates.issue_node(ca, "spiffe://bank.example/node/1")
    before = (kept / "real.key").stat()
    identity.replace_pair(certificate, key, made)
    after = (kept / "real.key").stat()
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert after.st_mode & 0o777 == 0o600
    assert certificate.is_symlink()
    assert key.is_symlink()
    assert key.read_bytes() == made.private_key
    assert certificate.read_bytes() == made.certificate
