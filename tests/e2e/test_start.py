"""What a node refuses to start with: each mistake has its own clear words, and exit code 78, which
no supervisor should answer by starting it again."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quorate.chaos.cluster import cli_command
from quorate.chaos.ports import Ports
from quorate.chaos.processes import clean_environment
from quorate.core.dsse import GENESIS_TYPE
from quorate.core.genesis import build_genesis_payload
from quorate.core.limits import (
    DEFAULT_AUTHORITY_PERIOD_MS,
    DEFAULT_MAX_PERMIT_TTL_MS,
    DEFAULT_MAX_SKEW_MS,
    DEFAULT_RHO_PPM,
)
from quorate.core.records import Parameters
from quorate.node import certificates, exit_codes, organisation
from quorate.node.config import load_config
from quorate.node.organisation import Organisation, read_genesis
from quorate.node.store import open_environment
from quorate.proofs.signing import SigningKey, sign_envelope

pytestmark = pytest.mark.cluster

BANK, CLINIC = "bank.example", "clinic.example"
END_S = 30.0
PARAMETERS = Parameters(
    authority_period_ms=DEFAULT_AUTHORITY_PERIOD_MS,
    max_permit_ttl_ms=DEFAULT_MAX_PERMIT_TTL_MS,
    rho_ppm=DEFAULT_RHO_PPM,
    max_skew_ms=DEFAULT_MAX_SKEW_MS,
)


class Place:
    """Two organisations that have agreed on a genesis, and have not started yet."""

    def __init__(self, directory: Path, ports: Ports) -> None:
        self.bank, self.clinic = (
            organisation.create(
                directory / domain,
                domain=domain,
                peer_address=ports.address(),
                governance_address=ports.address(),
                lease_address=ports.address(),
            )
            for domain in (BANK, CLINIC)
        )
        self.agree([self.bank, self.clinic])

    @property
    def config(self) -> Path:
        return self.bank.directory / "node.toml"

    def agree(self, signers: list[Organisation], origin: str = "quorate.example/f") -> None:
        """Puts a genesis of both into the bank's directory, signed by some."""
        payload = build_genesis_payload(
            origin,
            time.time_ns() // 1_000_000,
            PARAMETERS,
            [(o.directory / "descriptor.json").read_bytes() for o in (self.bank, self.clinic)],
        )
        keys: list[SigningKey] = [signer.governance_key() for signer in signers]
        (self.bank.directory / "genesis.json").write_bytes(
            sign_envelope(GENESIS_TYPE, payload, *keys)
        )

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the bank's node, which must end by itself."""
        return subprocess.run(
            [*cli_command(), "node", "run", "--config", str(self.config)],
            env=clean_environment({"NO_COLOR": "1"} | environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=END_S,
        )

    def refused(self, *words: str, **environment: str) -> None:
        done = self.run(**environment)
        said = done.stdout + done.stderr
        assert done.returncode == exit_codes.CONFIGURATION == 78, said
        for word in words:
            assert word in said
        assert "Traceback" not in said


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    ports = Ports()
    yield Place(tmp_path, ports)
    ports.close()


def test_a_private_key_that_others_may_read(place: Place):
    (place.bank.directory / "node/tls.key").chmod(0o644)
    place.refused("node/tls.key", "0644")


def test_a_key_of_the_configuration_that_is_none(place: Place):
    place.config.write_text(place.config.read_text() + "\n[storage]\nmap_size = 1\n")
    place.refused("unknown key storage.map_size", "did you mean map_size_bytes")


def test_a_variable_of_the_environment_that_is_none(place: Place):
    place.refused("QUORATE_LISTEN__PEEER", QUORATE_LISTEN__PEEER="127.0.0.1:1")


def test_no_configuration_at_all(place: Place):
    place.config.unlink()
    place.refused("node.toml")


def test_a_genesis_that_not_everybody_signed(place: Place):
    place.agree([place.bank])
    place.refused(f"not signed by {CLINIC}")


def test_a_genesis_that_was_altered(place: Place):
    genesis = place.bank.directory / "genesis.json"
    genesis.write_bytes(genesis.read_bytes().replace(b'"sig":"', b'"sig":"AAAA', 1))
    place.refused("genesis.json")


def test_no_genesis(place: Place):
    (place.bank.directory / "genesis.json").unlink()
    place.refused("genesis.json")


def test_the_data_of_another_federation(place: Place):
    config = load_config(place.config)
    open_environment(config, read_genesis(config.node.genesis)).close()
    place.agree([place.bank, place.clinic], origin="quorate.example/another")
    place.refused("belongs to another federation", "a new genesis needs an empty data directory")


def test_the_data_of_another_node(place: Place):
    shutil.copy(place.bank.directory / "genesis.json", place.clinic.directory)
    config = load_config(place.clinic.directory / "node.toml")
    open_environment(config, read_genesis(config.node.genesis)).close()
    shutil.copytree(place.clinic.directory / "data", place.bank.directory / "data")
    place.refused(f"belongs to spiffe://{CLINIC}/node/1")


def test_keys_that_are_not_those_in_the_genesis(place: Place):
    for name in ("signing.key", "log.key"):
        shutil.copy2(place.clinic.directory / "node" / name, place.bank.directory / "node")
    place.refused("the node's keys are not those in the genesis")


def test_a_certificate_of_a_ca_that_is_not_in_the_genesis(place: Place):
    pair = certificates.issue_node(certificates.make_ca(BANK), f"spiffe://{BANK}/node/1")
    (place.bank.directory / "node/tls.crt").write_bytes(pair.certificate)
    (place.bank.directory / "node/tls.key").write_bytes(pair.private_key)
    place.refused("was not issued by its domain's authority")


def test_a_node_that_is_no_member(place: Place):
    text = place.config.read_text().replace("/node/1", "/node/2")
    place.config.write_text(text)
    place.refused(f"spiffe://{BANK}/node")
