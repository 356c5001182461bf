"""A certificate takes the place of another, whole or not at all, and a running node notices."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from quorate.core.errors import ConfigurationError
from quorate.node import certificate_keeper, certificates, identity, organisation, renewal
from quorate.node.certificate_keeper import NEAR, CertificateKeeper
from quorate.node.certificates import KeyPair, issued_by
from quorate.node.identity import TlsIdentity, load_tls_identity
from quorate.node.organisation import Organisation


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("organisations")
    for domain in ("bank.example", "clinic.example"):
        organisation.create(root / domain, domain=domain)
    return root


@pytest.fixture
def bank(tmp_path: Path, template: Path) -> Organisation:
    shutil.copytree(template, tmp_path / "orgs")
    return Organisation.load(tmp_path / "orgs" / "bank.example")


def clinic(bank: Organisation) -> Organisation:
    return Organisation.load(bank.directory.parent / "clinic.example")


def shown(org: Organisation) -> TlsIdentity:
    return load_tls_identity(org.config.tls.certificate, org.config.tls.private_key)


def content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def expire(org: Organisation, pair: KeyPair | None = None) -> None:
    """The node's certificate is two years old."""
    then = datetime.now(UTC) - timedelta(days=730)
    old = pair or certificates.issue_node(org.ca(), org.config.node.id, now=then)
    org.config.tls.certificate.write_bytes(old.certificate)
    org.config.tls.private_key.write_bytes(old.private_key)


# -- the files -------------------------------------------------------------------------------


def test_a_node_gets_a_new_key_under_its_own_name(bank: Organisation) -> None:
    before, files = shown(bank), set(content(bank.directory))
    made = renewal.renew_node(bank, bank.directory)
    after = shown(bank)
    assert made.spiffe_id == after.spiffe_id == before.spiffe_id == bank.config.node.id
    assert after.pair.private_key != before.pair.private_key
    assert issued_by(after.pair.certificate, bank.ca_certificate())
    assert set(content(bank.directory)) == files, "nothing is left beside"
    mode = {
        path: stat.S_IMODE(path.stat().st_mode) for path in (made.private_key, made.certificate)
    }
    assert list(mode.values()) == [0o600, 0o644]


def test_one_that_has_expired_is_renewed_as_well(bank: Organisation) -> None:
    expire(bank)
    with pytest.raises(ConfigurationError, match="not now") as refused:
        shown(bank)
    assert "quorate node renew" in refused.value.hint
    made = renewal.renew_node(bank, bank.directory)
    assert made.ends - datetime.now(UTC) > timedelta(days=364)
    assert shown(bank).spiffe_id == bank.config.node.id


def test_a_further_node_is_renewed_where_it_is(bank: Organisation, tmp_path: Path) -> None:
    addresses = {
        "peer_address": "127.0.0.1:7501",
        "governance_address": "127.0.0.1:7502",
        "lease_address": "127.0.0.1:7503",
    }
    organisation.create_node(bank, tmp_path / "second", node="2", **addresses)
    before = content(bank.directory)
    made = renewal.renew_node(bank, tmp_path / "second")
    assert made.spiffe_id == "spiffe://bank.example/node/2"
    assert made.certificate.is_relative_to(tmp_path / "second")
    assert content(bank.directory) == before


def test_an_operator_stays_who_it_is(bank: Organisation) -> None:
    before = bank.operator()
    made = renewal.renew_operator(bank)
    after = bank.operator()
    assert made.spiffe_id == after.spiffe_id == before.spiffe_id
    assert after.pair.private_key != before.pair.private_key
    assert issued_by(after.pair.certificate, bank.ca_certificate())


def test_nobody_is_renewed_by_another_organisation(bank: Organisation) -> None:
    other = clinic(bank)
    before = content(other.directory)
    with pytest.raises(ConfigurationError, match=r"is not of bank\.example"):
        renewal.renew_node(bank, other.directory)
    shutil.copy(other.directory / "operator.crt", bank.directory / "operator.crt")
    with pytest.raises(ConfigurationError, match=r"is not of bank\.example"):
        renewal.renew_operator(bank)
    assert content(other.directory) == before


def test_the_certificate_of_somebody_else_is_not_replaced(bank: Organisation) -> None:
    shutil.copy(bank.directory / "operator.crt", bank.config.tls.certificate)
    before = content(bank.directory)
    with pytest.raises(ConfigurationError, match=r"is of \S+/operator/admin"):
        renewal.renew_node(bank, bank.directory)
    assert content(bank.directory) == before


@pytest.mark.parametrize("name", ["ca.crt", "node/tls.crt", "descriptor.json"])
def test_only_an_operator_is_renewed_as_one(bank: Organisation, name: str) -> None:
    shutil.copy(bank.directory / name, bank.directory / "operator.crt")
    before = content(bank.directory)
    with pytest.raises(ConfigurationError, match=r"operator\.crt"):
        renewal.renew_operator(bank)
    assert content(bank.directory) == before


def test_a_directory_without_a_node_is_refused(bank: Organisation, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no node's directory"):
        renewal.renew_node(bank, tmp_path)


def test_without_the_ca_key_nothing_changes(bank: Organisation) -> None:
    (bank.directory / "ca.key").unlink()
    before = content(bank.directory)
    with pytest.raises(ConfigurationError):
        renewal.renew_node(bank, bank.directory)
    assert content(bank.directory) == before


def test_a_full_disk_leaves_what_there_was(
    bank: Organisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(bank.directory)
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:  # the key is on the disk, the certificate is not
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(identity.os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        renewal.renew_node(bank, bank.directory)
    assert content(bank.directory) == before


def test_no_moment_has_a_key_that_others_can_read(
    bank: Organisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    real = Path.replace

    def watched(path: Path, target: Path) -> Path:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    renewal.renew_node(bank, bank.directory)
    assert modes == [0o600, 0o644], "the key first"


# -- the node that runs ----------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


def keeping(org: Organisation, clock: Clock | None = None) -> CertificateKeeper:
    return CertificateKeeper(
        org.config, shown(org), lambda: (org.ca_certificate(),), now=clock or Clock()
    )


def test_what_is_renewed_is_taken_once(bank: Organisation) -> None:
    keeper = keeping(bank)
    assert keeper.look() is None
    renewal.renew_node(bank, bank.directory)
    found = keeper.look()
    assert found is not None
    assert found.pair == shown(bank).pair == keeper.current.pair
    assert keeper.look() is None


def not_of_the_domain(bank: Organisation) -> KeyPair:
    """The right name, by an authority that calls itself like ours."""
    return certificates.issue_node(certificates.make_ca(bank.domain), bank.config.node.id)


def of_the_operator(bank: Organisation) -> KeyPair:
    return bank.operator().pair


def of_the_past(bank: Organisation) -> KeyPair:
    then = datetime.now(UTC) - timedelta(days=730)
    return certificates.issue_node(bank.ca(), bank.config.node.id, now=then)


def half(bank: Organisation) -> KeyPair:
    """The moment between the two files."""
    new = certificates.issue_node(bank.ca(), bank.config.node.id)
    return KeyPair(shown(bank).pair.certificate, new.private_key)


def nonsense(bank: Organisation) -> KeyPair:
    return KeyPair(b"no certificate", b"no key")


@pytest.mark.parametrize("make", [not_of_the_domain, of_the_operator, of_the_past, half, nonsense])
def test_what_is_no_identity_of_the_node_changes_nothing(bank: Organisation, make: Any) -> None:
    keeper = keeping(bank)
    before, ends = keeper.current, keeper.ends
    expire(bank, make(bank))
    with capture_logs() as logs:
        assert keeper.look() is None
        assert keeper.look() is None
    assert (keeper.current, keeper.ends) == (before, ends)
    assert [each["event"] for each in logs] == ["certificate.not_taken"], "told once"
    renewal.replace_pair(bank.config.tls.certificate, bank.config.tls.private_key, before.pair)
    assert keeper.look() is None
    renewal.renew_node(bank, bank.directory)
    assert keeper.look() is not None


def test_files_that_are_gone_or_open_to_others_change_nothing(bank: Organisation) -> None:
    keeper = keeping(bank)
    renewal.renew_node(bank, bank.directory)
    bank.config.tls.private_key.chmod(0o640)
    assert keeper.look() is None
    bank.config.tls.private_key.unlink()
    assert keeper.look() is None


def test_the_log_warns_from_thirty_days_before_once_a_day(bank: Organisation) -> None:
    clock = Clock()
    keeper = keeping(bank, clock)
    clock.now = keeper.ends - NEAR - timedelta(seconds=1)
    assert not keeper.warn()
    clock.now = keeper.ends - NEAR
    with capture_logs() as logs:
        assert keeper.warn()
        assert not keeper.warn()
        clock.now += timedelta(hours=23)
        assert not keeper.warn()
        clock.now += timedelta(hours=1)
        assert keeper.warn()
    assert [(each["event"], each["days"]) for each in logs] == [
        ("certificate.ends", 30),
        ("certificate.ends", 29),
    ]


def test_one_that_is_over_is_warned_of_and_has_nothing_left(bank: Organisation) -> None:
    clock = Clock()
    keeper = keeping(bank, clock)
    assert keeper.remaining_s() == pytest.approx(365 * 86_400, abs=600)
    clock.now = keeper.ends + timedelta(days=3)
    assert keeper.remaining_s() == 0
    with capture_logs() as logs:
        assert keeper.warn()
    assert logs[0]["days"] == 0


def test_a_renewed_one_is_warned_of_no_more(bank: Organisation) -> None:
    clock = Clock()
    soon = clock.now - timedelta(days=340)
    expire(bank, certificates.issue_node(bank.ca(), bank.config.node.id, now=soon))
    keeper = keeping(bank, clock)
    assert keeper.warn()
    renewal.renew_node(bank, bank.directory)
    assert keeper.look() is not None
    clock.now += timedelta(days=1)
    assert not keeper.warn()
    assert keeper.end_ms() == pytest.approx(
        (clock.now + timedelta(days=364)).timestamp() * 1000, abs=60_000
    )


def test_a_leaf_counts_no_longer_than_its_issuer(bank: Organisation) -> None:
    old = datetime.now(UTC) - certificates.CA_LIFETIME + timedelta(days=10)
    ca = certificates.make_ca(bank.domain, now=old)
    pair = certificates.issue_node(ca, bank.config.node.id)
    keeper = CertificateKeeper(
        bank.config, TlsIdentity(bank.config.node.id, pair), lambda: (ca.certificate,)
    )
    assert keeper.warn()
    assert timedelta(days=9) < keeper.ends - datetime.now(UTC) <= timedelta(days=10)


# -- another CA ------------------------------------------------------------------------------


class Following:
    """A keeper that runs, and what it has handed over."""

    def __init__(self, org: Organisation) -> None:
        self.authorities = (org.ca_certificate(),)
        self.keeper = CertificateKeeper(
            org.config, shown(org), lambda: self.authorities, founding=self.authorities
        )
        self.handed: asyncio.Queue[tuple[KeyPair, bytes]] = asyncio.Queue()

    async def hand(self, pair: KeyPair, client_ca: bytes) -> None:
        await self.handed.put((pair, client_ca))

    async def after(self, *authorities: bytes) -> tuple[KeyPair, bytes]:
        self.authorities = authorities
        self.keeper.moved()
        async with asyncio.timeout(30):
            return await self.handed.get()


@pytest.fixture
async def following(
    bank: Organisation, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Following]:
    monkeypatch.setattr(certificate_keeper, "LOOK_S", 3600.0)  # nothing happens by itself
    monkeypatch.setattr(certificate_keeper, "_PAUSE_S", 0.0)
    made = Following(bank)
    running = asyncio.create_task(made.keeper.run(made.hand))
    yield made
    running.cancel()
    await asyncio.wait([running])


async def test_what_the_state_trusts_is_handed_over_at_once(
    bank: Organisation, following: Following
) -> None:
    old, new = bank.ca_certificate(), certificates.make_ca(bank.domain)
    pair = shown(bank).pair
    assert await following.after(old, new.certificate) == (pair, old + b"\n" + new.certificate)
    assert following.keeper.is_of_founding
    renewed = certificates.issue_node(new, bank.config.node.id)
    renewal.replace_pair(bank.config.tls.certificate, bank.config.tls.private_key, renewed)
    assert await following.after(new.certificate) == (renewed, new.certificate)
    assert not following.keeper.is_of_founding, "whoever was away may not know it"


async def test_a_node_that_its_domain_vouches_for_no_more_says_so(
    bank: Organisation, following: Following
) -> None:
    new = certificates.make_ca(bank.domain)
    with capture_logs() as logs:
        assert await following.after(new.certificate) == (shown(bank).pair, new.certificate)
    assert "certificate.not_trusted" in [each["event"] for each in logs]


async def test_a_domain_without_any_ca_ends_its_nodes(bank: Organisation) -> None:
    made = Following(bank)
    made.authorities = ()
    with pytest.raises(ConfigurationError, match="no CA"):
        made.keeper.follow()
    made.keeper.moved()
    with pytest.raises(ConfigurationError, match="no CA"):
        await made.keeper.run(made.hand)
    assert made.handed.empty()
