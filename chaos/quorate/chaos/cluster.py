"""A federation of real nodes on this machine.

Owns its directory (keys, genesis and configuration are made by the `quorate` command line, as a
person would), its processes, and the links between them. Does not govern it beyond what starting
needs: that is an operator's (`quorate.chaos.operator`).

    directory/bank.example/          what `quorate init` made; data/ and node.log beside it
    directory/clinic.example/ ...
    directory/genesis.json
"""

from __future__ import annotations

import atexit
import itertools
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from quorate.chaos.links import Links
from quorate.chaos.operator import NodeSilentError, Operator
from quorate.chaos.ports import Ports
from quorate.chaos.processes import (
    DeadlineError,
    ProcessError,
    ProcessGroup,
    Warden,
    clean_environment,
    wait_until,
)
from quorate.chaos.toml import to_toml
from quorate.core.errors import QuorateError
from quorate.core.genesis import Genesis
from quorate.node.organisation import Organisation
from quorate.v1 import node_pb2

DEFAULT_DOMAINS: Final = ("bank.example", "clinic.example", "freight.example")
DEFAULT_ORIGIN: Final = "quorate.example/federation-1"
CLI_TIMEOUT_S: Final = 60.0
READY_TIMEOUT_S: Final = 60.0

Settings = Mapping[str, Mapping[str, str | int | bool]]


class ClusterError(QuorateError):
    """The federation could not be made, started or reached."""


@dataclass(frozen=True, slots=True)
class Member:
    """One organisation's node: who and where it is."""

    domain: str
    node_id: str
    directory: Path
    peer_address: str
    governance_address: str
    lease_address: str

    @property
    def log(self) -> Path:
        return self.directory / "node.log"


class Cluster:
    """Starts, hurts and ends a federation. Nodes are named by their domains.

    directory: new or empty; it is not removed.
    settings: additions to every node.toml, by section.
    progress: is told what is being done, in words.
    """

    def __init__(
        self,
        directory: Path,
        domains: Sequence[str] = DEFAULT_DOMAINS,
        *,
        origin: str = DEFAULT_ORIGIN,
        settings: Settings | None = None,
        progress: Callable[[str], None] = lambda _words: None,
    ) -> None:
        self.directory = directory.absolute()
        self.origin = origin
        self.links = Links()
        self.warden = Warden()
        self.members: dict[str, Member] = {}
        self._domains = tuple(domains)
        self._settings = settings or {}
        self._progress = progress
        self._ports = Ports()
        self._nodes: dict[str, ProcessGroup] = {}
        self._operators: dict[str, Operator] = {}
        self._closed = False
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process, politely first. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            for operator in self._operators.values():
                operator.close()
            for node in self._nodes.values():
                if node.is_running():
                    node.resume()
                    node.ask_to_stop()
            for node in self._nodes.values():
                node.wait(CLI_TIMEOUT_S)
        finally:
            self.warden.close()
            self.links.close()
            self._ports.close()

    # -- making it ---------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the organisations, their genesis, signed by all, and every node's configuration."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.directory.iterdir()):
            raise ClusterError(
                f"{self.directory} is not empty", hint="give a directory that is new or empty"
            )
        self._progress(f"making the keys and certificates of {len(self._domains)} organisations")
        with ThreadPoolExecutor(len(self._domains)) as together:
            made = list(together.map(self._init, self._domains))
        self.members = {member.domain: member for member in made}
        self._progress("drafting the genesis; each organisation signs it")
        genesis = self.directory / "genesis.json"
        descriptors = [str(member.directory / "descriptor.json") for member in made]
        self.cli("genesis", "draft", "--origin", self.origin, "--out", str(genesis), *descriptors)
        for member in made:
            self.cli("genesis", "sign", "--yes", str(member.directory), str(genesis))
        self.cli("genesis", "verify", str(genesis))
        for member in made:
            shutil.copy(genesis, member.directory / "genesis.json")
        for one, other in itertools.permutations(made, 2):
            self.links.add(one.domain, other.domain, other.peer_address)
        for member in made:
            self._configure(member)

    def cli(self, *arguments: str) -> str:
        """Runs the `quorate` command line and returns what it printed. Raises ClusterError."""
        done = subprocess.run(
            [*cli_command(), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=CLI_TIMEOUT_S,
            cwd=self.directory,
            env=clean_environment({"NO_COLOR": "1"}),
        )
        if done.returncode != 0:
            raise ClusterError(
                f"quorate {' '.join(arguments)}: exit code {done.returncode}: "
                f"{done.stderr.strip() or done.stdout.strip()}"
            )
        return done.stdout

    def issue_executor(self, domain: str, path: str) -> Path:
        """A client directory for the executor spiffe://domain/path, by its domain's own CA."""
        out = self.directory / "executors" / domain / path.replace("/", "-")
        out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.cli("executor", "issue", str(self.members[domain].directory), path, "--out", str(out))
        return out

    def _init(self, domain: str) -> Member:
        peer, governance, lease = (self._ports.address() for _ in range(3))
        directory = self.directory / domain
        self.cli(
            *("init", str(directory), "--domain", domain),
            *("--peer-address", peer),
            *("--governance-address", governance),
            *("--lease-address", lease),
        )
        node_id = f"spiffe://{domain}/node/1"
        return Member(domain, node_id, directory, peer, governance, lease)

    def _configure(self, member: Member) -> None:
        """The node.toml that `quorate init` made, with every peer dialled through its link."""
        file = member.directory / "node.toml"
        document = tomllib.loads(file.read_text())
        document["peers"] = {
            other.node_id: self.links.address(member.domain, other.domain)
            for other in self.members.values()
            if other is not member
        }
        for section, values in self._settings.items():
            document.setdefault(section, {}).update(values)
        file.write_text(to_toml(document))

    # -- running it --------------------------------------------------------------------------

    def start(self, domains: Sequence[str] | None = None) -> None:
        """Starts nodes, all by default. Does not wait until they are ready."""
        for domain in domains or self._domains:
            running = self._nodes.get(domain)
            assert running is None or not running.is_running(), f"{domain} runs already"
            member = self.members[domain]
            self._progress(f"starting the node of {domain}")
            self._nodes[domain] = self.warden.spawn(
                domain,
                [*cli_command(), "node", "run", "--config", str(member.directory / "node.toml")],
                log=member.log,
                directory=member.directory,
            )

    def wait_ready(
        self, domains: Sequence[str] | None = None, *, timeout_s: float = READY_TIMEOUT_S
    ) -> float:
        """Waits until each of these nodes says that it has authority; returns the seconds.

        Raises ProcessError as soon as one of them has ended instead.
        """
        waiting = set(domains or self._domains)

        def ready() -> bool:
            for domain in sorted(waiting):
                self._expect_running(domain)
                status = self.status_or_none(domain)
                if status is not None and status.has_authority:
                    waiting.discard(domain)
            return not waiting

        try:
            return wait_until("authority at every node", ready, timeout_s)
        except DeadlineError as error:
            tails = "\n".join(f"--- {d}\n{self._nodes[d].log_tail(8)}" for d in sorted(waiting))
            raise ClusterError(f"{error}: {', '.join(sorted(waiting))}\n{tails}") from error

    def operator(self, domain: str) -> Operator:
        """The operator of one organisation, connected to its own node."""
        if domain not in self._operators:
            organisation = Organisation.load(self.members[domain].directory)
            self._operators[domain] = Operator(organisation, self.origin)
        return self._operators[domain]

    def operators(self) -> list[Operator]:
        return [self.operator(domain) for domain in self._domains]

    def genesis(self) -> Genesis:
        """The federation's genesis, every signature verified."""
        return self.operator(self._domains[0]).organisation.genesis()

    def status(self, domain: str) -> node_pb2.GetStatusResponse:
        """Raises NodeSilentError."""
        return self.operator(domain).status()

    def status_or_none(self, domain: str) -> node_pb2.GetStatusResponse | None:
        """None when the node does not answer."""
        try:
            return self.status(domain)
        except NodeSilentError:
            return None

    def leader(self) -> str:
        """The domain of the node that leads. Raises ClusterError when no node says that it does."""
        for domain in self._domains:
            status = self.status_or_none(domain)
            if status is not None and status.role == node_pb2.ROLE_LEADER:
                return domain
        raise ClusterError("no node leads")

    # -- hurting it --------------------------------------------------------------------------

    def kill(self, domain: str) -> None:
        """SIGKILL to every process of a node; returns when none is left."""
        self._nodes[domain].kill()

    def stop(self, domain: str) -> int:
        """SIGTERM; returns the exit status when every process of the node has ended."""
        return self._nodes[domain].stop()

    def restart(self, domain: str) -> None:
        """Starts a node that was killed or stopped, or stops it first."""
        if self._nodes[domain].is_running():
            self.stop(domain)
        self.start([domain])

    def pause(self, domain: str) -> None:
        """SIGSTOP to every process of a node."""
        self._nodes[domain].pause()

    def resume(self, domain: str) -> None:
        """SIGCONT to every process of a node."""
        self._nodes[domain].resume()

    def processes(self, domain: str) -> ProcessGroup:
        return self._nodes[domain]

    def _expect_running(self, domain: str) -> None:
        node = self._nodes[domain]
        if not node.is_running():
            raise ProcessError(
                f"the node of {domain} has ended by itself\n{node.log_tail()}",
                hint=f"its log: {node.log}",
            )


def cli_command() -> list[str]:
    """The `quorate` command line of this very installation."""
    return [
        sys.executable,
        "-P",
        "-c",
        "import sys; from quorate.cli import main; sys.exit(main())",
    ]
