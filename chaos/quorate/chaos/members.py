"""The nodes of a federation on one machine, as they are made: names, directories, configuration.

Owns the making of organisations and nodes, by the `quorate` command line, as a person would, and
what their node.toml says. Runs no node and cuts no link (see `quorate.chaos.cluster`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quorate.chaos.ports import Ports
from quorate.chaos.processes import clean_environment
from quorate.chaos.toml import to_toml
from quorate.core.errors import QuorateError
from quorate.node.organisation import CONFIG_FILE, GENESIS_FILE

CLI_TIMEOUT_S: Final = 60.0

Settings = Mapping[str, Mapping[str, str | int | bool]]
"""Additions to a node.toml, by section."""


class ClusterError(QuorateError):
    """The federation could not be made, started or reached."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node: who and where it is. organisation: the directory with its organisation's keys."""

    name: str
    domain: str
    node_id: str
    directory: Path
    organisation: Path
    peer_address: str
    governance_address: str
    lease_address: str

    @property
    def log(self) -> Path:
        return self.directory / "node.log"

    @property
    def config(self) -> Path:
        return self.directory / CONFIG_FILE

    @property
    def store(self) -> Path:
        return self.directory / "data" / "ledger" / "data.mdb"

    @property
    def as_target(self) -> dict[str, str]:
        """The environment in which its organisation's tools speak to this node, at `--address`."""
        return {"QUORATE_NODE__ID": self.node_id}


def node_name(domain: str, number: int) -> str:
    """What a node is called here: by its domain, and a further one `bank.example/2`."""
    return domain if number == 1 else f"{domain}/{number}"


def node_id(name: str) -> str:
    """The SPIFFE ID of the node of this name."""
    domain, _, number = name.partition("/")
    return f"spiffe://{domain}/node/{number or 1}"


def cli_command() -> list[str]:
    """The `quorate` command line of this very installation."""
    return [
        sys.executable,
        "-P",
        "-c",
        "import sys; from quorate.cli import main; sys.exit(main())",
    ]


def run_cli(directory: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Runs the `quorate` command line and returns what it printed. Raises ClusterError."""
    done = subprocess.run(
        [*cli_command(), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=CLI_TIMEOUT_S,
        cwd=directory,
        env=clean_environment({"NO_COLOR": "1", **(environment or {})}),
    )
    if done.returncode != 0:
        raise ClusterError(
            f"quorate {' '.join(arguments)}: exit code {done.returncode}: "
            f"{done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


class Maker:
    """Makes the members of one federation, each in a directory below `directory`.

    Where a node will listen for its peers is decided before it exists: others may be told to dial
    it through something.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = Ports()
        self._peer_addresses: dict[str, str] = {}

    def close(self) -> None:
        self._ports.close()

    def peer_address(self, name: str) -> str:
        """Where the node of this name listens, or will listen, for its peers."""
        if name not in self._peer_addresses:
            self._peer_addresses[name] = self._ports.address()
        return self._peer_addresses[name]

    def found(self, domain: str) -> Member:
        """An organisation with its first node."""
        member = self._member(domain, domain, self._directory / domain)
        options = ("--domain", domain, *self._addresses(member))
        run_cli(self._directory, "init", str(member.directory), *options)
        return member

    def make_node(self, founder: Member, name: str) -> Member:
        """A further node of an organisation, whose first node's directory has its keys."""
        directory = self._directory / name.replace("/", "-")
        member = self._member(name, founder.domain, directory, founder.directory)
        number = name.partition("/")[2]
        options = ("--org", str(founder.directory), "--node", number, *self._addresses(member))
        run_cli(self._directory, "node", "init", str(directory), *options)
        return member

    def agree(self, founders: Sequence[Member], origin: str, parameters: Sequence[str]) -> None:
        """Drafts the genesis; every organisation signs it, and puts it beside its node.toml.
        parameters: further options of the draft."""
        genesis = str(self._directory / GENESIS_FILE)
        descriptors = [str(member.directory / "descriptor.json") for member in founders]
        draft = ("genesis", "draft", "--origin", origin, "--out", genesis, *parameters)
        run_cli(self._directory, *draft, *descriptors)
        for member in founders:
            run_cli(self._directory, "genesis", "sign", "--yes", str(member.directory), genesis)
        run_cli(self._directory, "genesis", "verify", genesis)
        for member in founders:
            shutil.copy(genesis, member.directory / GENESIS_FILE)

    def _member(
        self, name: str, domain: str, directory: Path, organisation: Path | None = None
    ) -> Member:
        return Member(
            name=name,
            domain=domain,
            node_id=node_id(name),
            directory=directory,
            organisation=organisation or directory,
            peer_address=self.peer_address(name),
            governance_address=self._ports.address(),
            lease_address=self._ports.address(),
        )

    @staticmethod
    def _addresses(member: Member) -> tuple[str, ...]:
        return (
            *("--peer-address", member.peer_address),
            *("--governance-address", member.governance_address),
            *("--lease-address", member.lease_address),
        )


def configure(member: Member, settings: Settings) -> None:
    """Adds to a node's configuration, from its next start on."""
    document = tomllib.loads(member.config.read_text())
    for section, values in settings.items():
        document.setdefault(section, {}).update(values)
    member.config.write_text(to_toml(document))
