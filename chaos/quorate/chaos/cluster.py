"""A federation of real nodes on this machine.

Owns its processes, the links between its nodes, and which nodes there are. Keys, genesis and
configuration are made by the `quorate` command line (`quorate.chaos.members`). Does not govern the
federation beyond what starting and replacing nodes needs: that is an operator's
(`quorate.chaos.operator`).

    directory/bank.example/          what `quorate init` made; data/ and node.log beside it
    directory/clinic.example/ ...
    directory/bank.example-2/        what `quorate node init` made: the node `bank.example/2`
    directory/genesis.json
"""

from __future__ import annotations

import atexit
import dataclasses
import itertools
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from quorate.chaos.links import Links
from quorate.chaos.members import (
    CLI_TIMEOUT_S,
    ClusterError,
    Maker,
    Member,
    Settings,
    cli_command,
    configure,
    node_id,
    node_name,
    run_cli,
)
from quorate.chaos.operator import NodeSilentError, Operator
from quorate.chaos.processes import (
    DeadlineError,
    ProcessError,
    ProcessGroup,
    Warden,
    wait_until,
)
from quorate.core.genesis import Genesis
from quorate.node.config import load_config
from quorate.node.organisation import GENESIS_FILE, NODE_FILE, Organisation, read_node
from quorate.v1 import node_pb2

__all__ = ["Cluster", "ClusterError", "Member", "Settings", "cli_command"]

DEFAULT_DOMAINS: Final = ("bank.example", "clinic.example", "freight.example")
DEFAULT_ORIGIN: Final = "quorate.example/federation-1"
READY_TIMEOUT_S: Final = 60.0


class Cluster:
    """Starts, hurts and ends a federation. An organisation's first node is named by its domain, a
    further one `bank.example/2`.

    directory: new or empty; it is not removed.
    settings: additions to every node.toml, by section.
    parameters: of the federation, as options of `quorate genesis draft`.
    spares: for so many further nodes of each organisation the others are told from the start to
        dial them through links; a node that is added beyond them is dialled directly.
    progress: is told what is being done, in words.
    """

    def __init__(
        self,
        directory: Path,
        domains: Sequence[str] = DEFAULT_DOMAINS,
        *,
        origin: str = DEFAULT_ORIGIN,
        settings: Settings | None = None,
        parameters: Sequence[str] = (),
        spares: int = 0,
        progress: Callable[[str], None] = lambda _words: None,
    ) -> None:
        self.directory = directory.absolute()
        self.origin = origin
        self.domains = tuple(domains)
        self.links = Links()
        self.warden = Warden()
        self.members: dict[str, Member] = {}
        """By name; those that were retired, too."""
        self._settings = settings or {}
        self._parameters = tuple(parameters)
        self._spares = spares
        self._progress = progress
        self._maker = Maker(self.directory)
        self._nodes: dict[str, ProcessGroup] = {}
        self._operators: dict[str, Operator] = {}
        self._retired: set[str] = set()
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
            self._maker.close()

    # -- making it ---------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the organisations, their genesis, signed by all, and every node's configuration."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.directory.iterdir()):
            raise ClusterError(
                f"{self.directory} is not empty", hint="give a directory that is new or empty"
            )
        self._progress(f"making the keys and certificates of {len(self.domains)} organisations")
        with ThreadPoolExecutor(len(self.domains)) as together:
            founders = list(together.map(self._maker.found, self.domains))
        self.members = {member.name: member for member in founders}
        self._progress("drafting the genesis; each organisation signs it")
        self._maker.agree(founders, self.origin, self._parameters)
        for one, other in itertools.permutations(self._linked_names(), 2):
            self.links.add(one, other, self._maker.peer_address(other))
        for member in founders:
            self._configure(member)

    def cli(self, *arguments: str) -> str:
        """Runs the `quorate` command line and returns what it printed. Raises ClusterError."""
        return run_cli(self.directory, *arguments)

    def cli_at(self, name: str, *arguments: str) -> str:
        """The same, of a command that speaks to a node: as its organisation, to that very node."""
        member = self.members[name]
        where = ("--org", str(member.organisation), "--address", member.governance_address)
        return run_cli(self.directory, *arguments, *where, environment=member.as_target)

    def issue_executor(self, name: str, path: str) -> Path:
        """A client directory for the executor spiffe://domain/path, by its domain's own CA, bound
        to the node of this name."""
        member = self.members[name]
        out = self.directory / "executors" / member.directory.name / path.replace("/", "-")
        out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        run_cli(
            self.directory,
            *("executor", "issue", str(member.organisation), path, "--out", str(out)),
            *("--lease-address", member.lease_address),
            *("--governance-address", member.governance_address),
            environment=member.as_target,
        )
        return out

    def configure(self, name: str, settings: Settings) -> None:
        """Adds to one node's configuration, from its next start on."""
        configure(self.members[name], settings)

    def _linked_names(self) -> list[str]:
        numbers = range(1, 2 + self._spares)
        return [node_name(domain, number) for domain in self.domains for number in numbers]

    def _configure(self, member: Member) -> None:
        """Every other node is dialled through the link to it, if there is one."""
        linked = self._linked_names()
        peers = {
            node_id(other): self.links.address(member.name, other)
            for other in linked
            if other != member.name and member.name in linked
        }
        configure(member, {**self._settings, "peers": peers})

    # -- its nodes ---------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Every node that was not retired."""
        return [name for name in self.members if name not in self._retired]

    def found(self, domain: str) -> str:
        """Makes an organisation that is no member yet, with the genesis of the others and a node
        that does not run; returns the node's name."""
        self._progress(f"making the keys and certificates of {domain}")
        member = self.members[domain] = self._maker.found(domain)
        genesis = self.members[self.domains[0]].directory / GENESIS_FILE
        shutil.copy(genesis, member.directory / GENESIS_FILE)
        self._configure(member)
        return domain

    def make_node(self, domain: str) -> str:
        """Makes the keys and configuration of one more node of an organisation; returns its name.
        It is no member yet, and does not run."""
        number = 1 + sum(member.domain == domain for member in self.members.values())
        name = node_name(domain, number)
        self._progress(f"making the node {name}")
        self.members[name] = self._maker.make_node(self.members[domain], name)
        self._configure(self.members[name])
        return name

    def add_node(self, domain: str, *, through: str = "") -> str:
        """Makes one more node of an organisation, adds it to the federation as an observer, and
        starts it; returns its name. through: the organisation's node that takes the command."""
        through = through or next(n for n in self.names if self.members[n].domain == domain)
        name = self.make_node(domain)
        self.cli_at(through, "node", "add", str(self.members[name].directory))
        self.start([name])
        return name

    def promote(self, name: str, *, through: str = "") -> None:
        """Lets a node vote. through: as in `add_node`; the node itself by default."""
        self.cli_at(through or name, "node", "promote", self.members[name].node_id)

    def demote(self, name: str, *, through: str = "") -> None:
        """Lets a node vote no more."""
        self.cli_at(through or name, "node", "demote", self.members[name].node_id)

    def retire(self, name: str, *, through: str = "") -> None:
        """Takes a node out of the federation for ever. It is not stopped."""
        self.cli_at(through or name, "node", "retire", self.members[name].node_id)
        self.forget(name)

    def forget(self, name: str) -> None:
        """A node was retired, by whomever: it is not waited for any more."""
        self._retired.add(name)

    # -- running it --------------------------------------------------------------------------

    def start(self, names: Sequence[str] | None = None) -> None:
        """Starts nodes, all by default. Does not wait until they are ready."""
        for name in names or self.names:
            running = self._nodes.get(name)
            assert running is None or not running.is_running(), f"{name} runs already"
            member = self.members[name]
            self._progress(f"starting the node of {name}")
            self._nodes[name] = self.warden.spawn(
                name,
                [*cli_command(), "node", "run", "--config", str(member.directory / "node.toml")],
                log=member.log,
                directory=member.directory,
            )

    def wait_ready(
        self, names: Sequence[str] | None = None, *, timeout_s: float = READY_TIMEOUT_S
    ) -> float:
        """Waits until each of these nodes says that it has authority; returns the seconds.

        Raises ProcessError as soon as one of them has ended instead.
        """
        waiting = set(names or self.names)

        def ready() -> bool:
            for name in sorted(waiting):
                self._expect_running(name)
                status = self.status_or_none(name)
                if status is not None and status.has_authority:
                    waiting.discard(name)
            return not waiting

        try:
            return wait_until("authority at every node", ready, timeout_s)
        except DeadlineError as error:
            tails = "\n".join(f"--- {n}\n{self._nodes[n].log_tail(8)}" for n in sorted(waiting))
            raise ClusterError(f"{error}: {', '.join(sorted(waiting))}\n{tails}") from error

    def operator(self, name: str) -> Operator:
        """The operator of a node's organisation, connected to that node."""
        if name not in self._operators:
            member = self.members[name]
            organisation = Organisation.load(member.organisation)
            log_key = organisation.descriptor().node.log_key
            if member.directory != member.organisation:
                organisation = dataclasses.replace(organisation, config=load_config(member.config))
                log_key = read_node(member.directory / NODE_FILE).log_key
            self._operators[name] = Operator(organisation, self.origin, log_key=log_key)
        return self._operators[name]

    def reconnect(self, name: str) -> None:
        """The next time that a node's operator is asked for, it goes by the certificates that are
        in the directory then."""
        operator = self._operators.pop(name, None)
        if operator is not None:
            operator.close()

    def operators(self) -> list[Operator]:
        """Of every node that was not retired."""
        return [self.operator(name) for name in self.names]

    def genesis(self) -> Genesis:
        """The federation's genesis, every signature verified."""
        return self.operator(self.domains[0]).organisation.genesis()

    def status(self, name: str) -> node_pb2.GetStatusResponse:
        """Raises NodeSilentError."""
        return self.operator(name).status()

    def status_or_none(self, name: str) -> node_pb2.GetStatusResponse | None:
        """None when the node does not answer."""
        try:
            return self.status(name)
        except NodeSilentError:
            return None

    def leader(self) -> str:
        """The node that leads, in the latest term of which one says so. Raises ClusterError when
        none does."""
        leading = {}
        for name in self.names:
            status = self.status_or_none(name)
            if status is not None and status.role == node_pb2.ROLE_LEADER:
                leading[name] = status.term
        if not leading:
            raise ClusterError("no node leads")
        return max(leading, key=lambda name: leading[name])

    # -- hurting it --------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """SIGKILL to every process of a node; returns when none is left."""
        self._nodes[name].kill()

    def stop(self, name: str) -> int:
        """SIGTERM; returns the exit status when every process of the node has ended."""
        return self._nodes[name].stop()

    def restart(self, name: str) -> None:
        """Starts a node that was killed or stopped, or stops it first."""
        if self._nodes[name].is_running():
            self.stop(name)
        self.start([name])

    def pause(self, name: str) -> None:
        """SIGSTOP to every process of a node."""
        self._nodes[name].pause()

    def resume(self, name: str) -> None:
        """SIGCONT to every process of a node."""
        self._nodes[name].resume()

    def processes(self, name: str) -> ProcessGroup:
        return self._nodes[name]

    def _expect_running(self, name: str) -> None:
        node = self._nodes[name]
        if not node.is_running():
            raise ProcessError(
                f"the node of {name} has ended by itself\n{node.log_tail()}",
                hint=f"its log: {node.log}",
            )
