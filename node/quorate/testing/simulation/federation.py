"""A simulated federation, put together: machines, network, callers, and whoever looks on.

Owns how the parts are wired, and what every observer is told. Does not own what happens (`plan`,
`faults`, `workload`) nor what must hold (`raft_promises`, `authority_promises`, `calls`).
"""

from __future__ import annotations

import tempfile
from base64 import b64decode
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

from quorate.consensus import PeerError, RaftSettings
from quorate.core import protocol
from quorate.core.lineage import REASONS_OF_THE_NODE
from quorate.core.outcome import Outcome, Reason
from quorate.core.records import Parameters
from quorate.core.transitions import install_genesis
from quorate.lease.word import AuthorityRecord
from quorate.node.node_core import NodeCore
from quorate.proofs.signing import SigningKey
from quorate.testing import builders
from quorate.testing.simulation.authority_promises import AuthorityPromises
from quorate.testing.simulation.calls import Calls
from quorate.testing.simulation.disk import Backup, Disk
from quorate.testing.simulation.edge import Edge, Granted, Holder
from quorate.testing.simulation.faults import USUAL_FSYNC_NS, Faults
from quorate.testing.simulation.machine import Machine
from quorate.testing.simulation.majorities import Majorities
from quorate.testing.simulation.network import Network
from quorate.testing.simulation.plan import Plan
from quorate.testing.simulation.raft_promises import RaftPromises
from quorate.testing.simulation.reports import Reports
from quorate.testing.simulation.trace import Trace
from quorate.testing.simulation.workload import Workload
from quorate.testing.simulation.world import NS_PER_MS, SimulatedClock, World, require
from quorate.v1 import peer_pb2 as pb

_DOMAINS: Final = tuple(f"{letter}.example" for letter in "abcdefghi")
_CREATED_NS: Final = builders.CREATED_MS * NS_PER_MS
_LOOK_AGAIN_NS: Final = 500 * NS_PER_MS
_HANDED_ON: Final = 0.2
"""Of the calls that an edge denied, those that its core is told of before the edge ends."""
_SKEW_NS: Final = 40 * NS_PER_MS


def memory_directory() -> Path | None:
    """Where files lie in memory; None when there is no such place that can be written."""
    shared = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
    try:
        with tempfile.TemporaryDirectory(dir=shared):
            return shared
    except OSError:
        return None


class SimulatedFederation:
    """All machines of one run, and what is known of them."""

    def __init__(self, plan: Plan, trace: Trace, directory: Path) -> None:
        self.plan = plan
        self.world = World(plan.seed, trace)
        self.sometimes: Counter[str] = Counter()
        self.settings = RaftSettings(log_tail_entries=plan.log_tail)
        self._directory = directory
        self.documents = builders.Federation.build(
            _DOMAINS[: plan.size],
            parameters=Parameters(
                authority_period_ms=builders.PARAMETERS.authority_period_ms,
                max_permit_ttl_ms=builders.PARAMETERS.max_permit_ttl_ms,
                rho_ppm=plan.rho_ppm,
                max_skew_ms=builders.PARAMETERS.max_skew_ms,
            ),
            version=plan.version or protocol.LATEST,
        )
        self._genesis = self.documents.parsed_genesis()
        self.parameters = self._genesis.parameters
        founders = [each.node for each in self.documents.organisations.values()]
        self.raft = RaftPromises(self.sometimes, founders)
        self.authority = AuthorityPromises(self.world, self.parameters, self.sometimes)
        self.calls = Calls(self.world, self.authority, self.sometimes)
        self.reports = Reports(self.world, self.sometimes)
        self.machines: list[Machine] = []
        self.by_domain: dict[str, list[Machine]] = {}
        """Each organisation's machines."""
        self.network = Network(self.world, plan.delay_ms, plan.roughness)
        majorities = Majorities(self.machines, self.raft, lambda: self.workload.pending)
        self.workload = Workload(
            self.documents,
            self.by_domain,
            self.calls,
            self.reports,
            self.sometimes,
            add_machine=self.add_machine,
            take_away=self.take_away,
            majorities=majorities,
            passes_on=plan.version == protocol.SECOND,
        )
        self.faults = Faults(
            self.world,
            self.machines,
            self.network,
            rho_ppm=plan.rho_ppm,
            new_disk=self.new_disk,
            back_up=self.back_up,
            restored_disk=self.restored_disk,
            majorities=majorities,
            sometimes=self.sometimes,
        )
        self._disks = 0
        for organisation in self.documents.organisations.values():
            self.by_domain[organisation.domain] = []
            self.add_machine(organisation.domain, organisation.node)
        self.checkpoints: dict[int, bytes] = {}
        """Root by size of every checkpoint that was ever signed."""

    def add_machine(self, domain: str, node_id: str) -> Machine:
        """A machine for a node of the domain, without power."""
        name = f"n{len(self.machines) + 1}"
        chance = self.world.stream(f"clock {name}")
        slowest = -(1_000_000 * self.plan.rho_ppm // (1_000_000 + self.plan.rho_ppm))
        clock = SimulatedClock(
            self.world,
            boottime_ns=0,
            realtime_ns=self.true_realtime_ns() + chance.randint(0, _SKEW_NS),
            rate_ppm=chance.choice((0, slowest, chance.randint(slowest, 0))),
        )
        machine = Machine(
            world=self.world,
            name=name,
            node_id=node_id,
            clock=clock,
            disk=self.new_disk(node_id),
            build_core=self._build_core,
            watcher=self,
            sometimes=self.sometimes,
        )
        machine.fsync_ns = USUAL_FSYNC_NS
        machine.lag_ns = self.plan.lag_ns
        machine.others = self.machines
        machine.network = self.network
        machine.edges.append(self._make_edge(domain, machine))
        self.machines.append(machine)
        self.by_domain[domain].append(machine)
        self.network.add(machine)
        return machine

    def new_disk(self, node_id: str, probation: str = "") -> Disk:
        """A disk with nothing on it but the genesis, for this node."""
        disk = Disk(self._new_path(), self.sometimes)
        environment = disk.mount()
        environment.initialise(self._genesis.hash, node_id)
        environment.turn.append_ledger(install_genesis(environment.turn.state, self._genesis))
        environment.commit()
        if probation:
            self._mark(disk, probation)
        return disk

    def back_up(self, disk: Disk) -> Backup:
        return disk.back_up(self._new_path())

    def restored_disk(self, backup: Backup, probation: str) -> Disk:
        """A disk with what was on another when the backup was taken."""
        disk = Disk.restored(backup, self._new_path(), self.sometimes)
        self._mark(disk, probation)
        return disk

    @staticmethod
    def _mark(disk: Disk, probation: str) -> None:
        """As `rejoin` and `restore` do (`quorate.node.store_care`)."""
        disk.mount().mark_probation(probation)
        disk.was_lost = True

    def _new_path(self) -> Path:
        self._disks += 1
        return self._directory / str(self._disks)

    def _build_core(self, machine: Machine) -> NodeCore:
        assert machine.word is not None
        return NodeCore(
            node_id=machine.node_id,
            settings=self.settings,
            environment=machine.disk.mount(),
            word=machine.word,
            clock=machine.clock,
            boot_id=machine.boot_id,
            chance=machine.chance,
            first_seq=machine.chance.getrandbits(62),
            signing_key=self.documents.key_of(machine.node_id),
            log_key=self._log_key(machine.node_id),
            observer=machine,
            edges=len(machine.edges),
        )

    def _log_key(self, node_id: str) -> SigningKey:
        for organisation in self.documents.organisations.values():
            if organisation.node == node_id:
                return organisation.log
        return builders.key_for(f"{node_id} log")  # of a node that `builders.node_body` adds

    def _make_edge(self, domain: str, machine: Machine) -> Edge:
        chance = self.world.stream(f"holders {machine.name}")
        return Edge(
            world=self.world,
            machine=machine,
            domain=domain,
            watcher=self,
            next_holder=partial(self.workload.next_holder, domain, chance),
            every_ns=self.plan.check_every_ns,
            rho_ppm=self.plan.rho_ppm,
            sometimes=self.sometimes,
        )

    def boot(self) -> None:
        for machine in list(self.machines):
            machine.boot()

    def close(self) -> None:
        self.world.is_over = True
        for machine in self.machines:
            machine.close()

    def take_away(self, machine: Machine) -> None:
        """Whoever runs a node that is retired switches it off for good; not before a leader has it
        out of the configuration in force, and everybody else that runs too."""
        # Who hears of it may hear from the very node, in the middle of its turn.
        self.world.at(self.world.now, partial(self._take_away, machine))

    def _take_away(self, machine: Machine) -> None:
        others = [each.core for each in self.machines if each is not machine and each.core]
        replicas = [core.replica for core in others]
        if not any(each.is_leader and each.is_settled for each in replicas) or any(
            machine.node_id in each.members for each in replicas
        ):
            self.world.after(_LOOK_AGAIN_NS, partial(self._take_away, machine))
            return
        self.sometimes["retired node taken away"] += 1
        machine.is_gone = True
        if machine.is_on:
            machine.power_off()

    def sign_checkpoint(self, machine: Machine) -> None:
        """Has a node sign a checkpoint of its ledger, and compares it with all others."""
        if machine.core is None or machine.core.is_on_probation:
            return
        body = machine.core.checkpoint().splitlines()
        size, root = int(body[1]), b64decode(body[2])
        known = self.checkpoints.setdefault(size, root)
        require(known == root, "I4: checkpoints are consistent", machine.name, size)

    def true_realtime_ns(self) -> int:
        """The true time of day."""
        return _CREATED_NS + self.world.now

    # -- whoever looks on (`watcher.Watcher`, `edge.CheckWatcher`) ------------------------------

    def started(self, machine: Machine) -> None:
        self.world.trace.note(self.world.now, machine.name, "starts", machine.generation)
        self.raft.started(machine)
        self.authority.started(machine)

    def settled(self, machine: Machine, wrote: bool) -> None:
        world = self.world
        if self.raft.settled(machine, wrote):
            self.authority.commits(machine.running.replica.commit_index)
        if wrote:
            shadow = machine.disk.shadow
            world.trace.note(
                world.now,
                machine.name,
                "durable",
                f"term {shadow.term} log {shadow.last_index} applied {shadow.applied} "
                f"ledger {len(shadow.ledger)}",
            )
        if machine.running.storage_problem:
            self.sometimes["storage full"] += 1

    def sent(self, machine: Machine, peer: str, message: pb.PeerMessage) -> None:
        self.raft.sent(machine, peer, message)

    def executed(self, machine: Machine, key: bytes, outcome: Outcome) -> None:
        self.calls.executed(machine, key, outcome)

    def kept(self, machine: Machine, ticket: int) -> None:
        self.reports.kept(machine, ticket)

    def published(self, machine: Machine, record: AuthorityRecord) -> None:
        self.authority.published(machine, record)

    def powered_off(self, machine: Machine) -> None:
        self.world.trace.note(self.world.now, machine.name, "off")
        self.authority.powered_off(machine)

    def enforced(self, machine: Machine, watermark: int) -> None:
        self.authority.enforced(machine, watermark)

    def released(self, machine: Machine) -> None:
        self.calls.released(machine)
        self.reports.released(machine)
        if machine.core is not None and machine.core.storage_problem:
            self.sometimes["storage full"] += 1

    def accused(self, machine: Machine, peer: str, error: PeerError) -> None:
        self.sometimes["peer accused"] += 1
        is_known = peer in machine.running.replica.members
        require(
            self.plan.roughness > 0 or not is_known,  # who lags behind does not know everybody
            "correct peers are not accused",
            machine.name,
            f"{peer}: {error}",
        )

    def permitted(self, granted: Granted) -> None:
        world = self.world
        world.trace.note(
            world.now,
            granted.machine.name,
            "permits",
            f"{granted.lease_id[:12]} on {granted.applied_index}",
        )
        self.authority.permitted(granted)

    def denied(self, edge: Edge, holder: Holder, reason: Reason) -> None:
        self.world.trace.note(self.world.now, edge.machine.name, "denies", reason.value)
        self.authority.denied(reason)
        if reason in REASONS_OF_THE_NODE and edge.machine.chance.random() < _HANDED_ON:
            self.reports.deny(edge.machine, holder, reason)
        self.workload.denied(edge.domain, holder, reason, edge.machine.chance)
