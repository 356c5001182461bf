"""One run of a plan, from boot to the last check.

Owns the order of a run: faults and wishes, then everything is repaired, and the federation must
settle: all are back, all permit again, every node takes commands, and all ledgers are one.
"""

from __future__ import annotations

import functools
import gc
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import structlog

from quorate.core import codec, dsse
from quorate.core.invariants import check, check_step
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.node.machine import proposal_key
from quorate.proofs import merkle
from quorate.testing.simulation.calls import Call, recorded
from quorate.testing.simulation.disk import Disk
from quorate.testing.simulation.federation import SimulatedFederation, memory_directory
from quorate.testing.simulation.machine import Machine
from quorate.testing.simulation.plan import Plan, Planned, Profile, make_plan
from quorate.testing.simulation.trace import Trace
from quorate.testing.simulation.world import NS_PER_MS, NS_PER_S, Violation, require

RESUME_S: Final = 15.0
"""I6: how long after everything is repaired every node permits and takes commands again."""
_AGAIN_NS: Final = 250 * NS_PER_MS
_SHOWN_EVENTS: Final = 60
_STEP_EVERY_NS: Final = 8 * NS_PER_S

Patches = Callable[[], AbstractContextManager[object]]
"""What is in force while a run lasts: for runs with a part that is broken on purpose."""


@dataclass(frozen=True)
class Failure:
    """How a run broke a promise. at: nanoseconds of true time. trace: the last events, in words."""

    promise: str
    message: str
    at: int
    trace: tuple[str, ...]


@dataclass
class Report:
    """One run. digest: of everything that happened; the same for the same plan in any process.
    resumed_s: how long the federation took to be whole again, at the end."""

    plan: Plan
    digest: str
    simulated_s: float
    real_s: float
    events: int
    resumed_s: float = 0.0
    sometimes: Counter[str] = field(default_factory=Counter)
    failure: Failure | None = None


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan, trace: Trace, directory: Path) -> None:
        self.plan = plan
        self.federation = SimulatedFederation(plan, trace, directory)
        self.world = self.federation.world
        self.resumed_s = 0.0
        self._voters: tuple[str, ...] = ()

    def run(self) -> None:
        """Raises Violation."""
        for event in self.plan.events:
            self.world.at(event.at, partial(self._happen, event))
        self.world.after(_STEP_EVERY_NS, self._look_at_state)
        self.federation.boot()
        self.world.run_until(self.plan.length)
        self._settle()
        self._check_end()

    def _happen(self, event: Planned) -> None:
        kind, _, what = event.kind.partition(" ")
        if kind == "wish":
            self.federation.workload.wish(what, self.world.stream(f"wish {event.draw}"))
        elif event.kind == "narrow trust":
            self.federation.workload.narrow_trust(self.world.stream(f"narrow {event.draw}"))
        elif event.kind == "freeze":
            self.federation.workload.freeze(self.world.stream(f"freeze {event.draw}"))
        elif event.kind == "upgrade":
            self.federation.workload.upgrade(self.world.stream(f"upgrade {event.draw}"))
        else:
            self.federation.faults.happen(event)

    # -- the state, now and then -------------------------------------------------------------

    def _look_at_state(self) -> None:
        """Compares one node's state with what it is later on."""
        chance = self.world.stream(f"state at {self.world.now}")
        machine = chance.choice(self.federation.machines)
        for each in self.federation.machines:
            self.federation.sign_checkpoint(each)
        before = _state_of(machine)
        self.world.after(
            chance.randrange(_STEP_EVERY_NS),
            partial(self._compare_states, machine, machine.disk, before),
        )

    def _compare_states(self, machine: Machine, disk: Disk, before: MemoryStore) -> None:
        self.world.after(_STEP_EVERY_NS, self._look_at_state)
        if machine.disk is not disk:
            return  # it has lost what it had then
        problems = check_step(StateView(before), StateView(_state_of(machine)))
        require(not problems, "what is final stays", machine.name, *problems)

    # -- the end -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Repairs everything, and requires that the federation is whole again in time."""
        federation, world = self.federation, self.world
        world.trace.note(world.now, "", "repaired")
        federation.faults.repair_all(federation.true_realtime_ns())
        repaired_at = world.now
        last: dict[str, Call] = {}
        end = world.now + int(RESUME_S * NS_PER_S)
        while world.now < end:
            world.run_for(_AGAIN_NS)
            members = self._members()
            waiting = [
                *self._without_permit(members, repaired_at),
                *self._without_outcome(members, last),
                *self._with_reports(members),
            ]
            if not waiting and self._is_one(members):
                self.resumed_s = (world.now - repaired_at) / NS_PER_S
                return
        require(False, "I6: a healed federation is whole again in time", *self._what_lacks(waiting))

    def _members(self) -> list[tuple[str, Machine]]:
        """The machines of the nodes that are active by the newest state, with their domains. Who
        was added without its domain's hearing of it is started now."""
        federation, members = self.federation, []
        newest = max(federation.machines, key=lambda machine: len(machine.disk.shadow.ledger))
        with newest.disk.reader().read() as snapshot:
            nodes = list(StateView(snapshot.state).active_nodes())
        machines = {machine.node_id: machine for machine in federation.machines}
        for node in nodes:
            if node.id not in machines:
                federation.workload.know(node.domain, node.id)
            else:
                members.append((node.domain, machines[node.id]))
        self._voters = tuple(sorted(node.id for node in nodes if node.votes))
        return members

    def _without_permit(self, members: list[tuple[str, Machine]], since: int) -> list[str]:
        """The machines that have not permitted anything since. Each domain of one asks for a lease
        at one of them: so often as is looked here, and not more often the more nodes it has."""
        federation = self.federation
        lacking: dict[str, list[Machine]] = {}
        for domain, machine in members:
            if federation.authority.last_permit.get(machine.name, 0) <= since:
                lacking.setdefault(domain, []).append(machine)
        for domain, machines in lacking.items():
            chance = self.world.stream(f"renew {domain} {self.world.now}")
            federation.workload.renew_all(domain, chance.choice(machines), chance)
        return [f"{machine.name} does not permit" for some in lacking.values() for machine in some]

    def _without_outcome(
        self, members: list[tuple[str, Machine]], last: dict[str, Call]
    ) -> list[str]:
        """The machines whose last command has no outcome; each is given one. Callers try elsewhere,
        too: at a node that is retired they wait long, which says nothing of the one asked here."""
        lacking, calls = [], self.federation.calls
        for domain, machine in members:
            call, name = last.get(machine.name), machine.name
            if call is None or not (call.is_done or calls.waits_at(call, machine)):
                chance = self.world.stream(f"last {name} {self.world.now}")
                last[name] = self.federation.workload.register_at(domain, machine, chance)
            if not last[name].is_done:
                lacking.append(f"{machine.name} does not take commands")
        return lacking

    def _with_reports(self, members: list[tuple[str, Machine]]) -> list[str]:
        """The machines whose nodes still have something to tell the ledger."""
        reports = self.federation.reports
        return [f"{each.name} has something to say" for _, each in members if reports.waiting(each)]

    def _is_one(self, members: list[tuple[str, Machine]]) -> bool:
        """Whether all logs and ledgers are the same, all of it is applied, and those vote who are
        to vote."""
        shadows = [machine.disk.shadow for _, machine in members]
        configuration = members[0][1].running.replica.configuration
        if (configuration.voters, set(configuration.members)) != (
            self._voters,
            {machine.node_id for _, machine in members},
        ):
            return False
        first = shadows[0]
        return all(
            shadow.ledger == first.ledger
            and shadow.last_index == first.last_index
            and shadow.applied == shadow.last_index
            for shadow in shadows
        )

    def _what_lacks(self, waiting: list[str]) -> Iterator[str]:
        yield from waiting or ["ledgers differ"]
        for machine in self.federation.machines:
            core, shadow = machine.core, machine.disk.shadow
            if core is None:
                yield f"; {machine.name} is down"
                continue
            replica = core.replica
            yield (
                f"; {machine.name} {replica.role} of {replica.leader}, term {replica.term}, "
                f"of {len(replica.voters)} voters and {len(replica.members)} members, "
                f"log {shadow.last_index}, commit {replica.commit_index}, "
                f"applied {shadow.applied}, ledger {len(shadow.ledger)}, "
                f"{core.storage_problem or 'storage well'}"
            )

    def _check_end(self) -> None:
        federation = self.federation
        roots, states = set(), set()
        for _, machine in self._members():
            machine.disk.compare(machine.name, whole=True)
            with machine.disk.reader().read() as snapshot:
                view = StateView(snapshot.state)
                problems = check(view)
                leases = sorted(view.leases(), key=lambda lease: lease.fence)
                fences_grow = all(a.acquired_at <= b.acquired_at for a, b in pairwise(leases))
                require(fences_grow, "I7: fences grow", machine.name)
                roots.add((snapshot.ledger_size, snapshot.root()))
                for size, root in federation.checkpoints.items():
                    sound = size <= snapshot.ledger_size and merkle.root(snapshot, size) == root
                    require(sound, "I4: checkpoints are consistent", machine.name, size)
            require(not problems, "the state is sound", machine.name, *problems)
            states.add(tuple(_state_of(machine).items()))
        require(len(roots) == 1, "I4: one ledger, one root", roots)
        require(len(states) == 1, "one state", *(len(state) for state in states))
        self._check_calls()
        members = [machine for _, machine in self._members()]
        federation.reports.check(federation.raft.ledger, members)

    def _check_calls(self) -> None:
        """I3: what was acknowledged is in the ledger, once; what was refused for good is not."""
        calls, ledger = self.federation.calls, self.federation.raft.ledger
        accepted: Counter[bytes] = Counter()
        latest = 0
        for data in ledger[1:]:
            entry = codec.load(data)
            assert isinstance(entry, dict)
            key = proposal_key(codec.encode(entry["command"]))
            require(key not in calls.never, "what was refused for good is not executed")
            time_ms = entry["time"]
            assert isinstance(time_ms, int)
            require(time_ms >= latest, "ledger time never goes back", entry["seq"])
            latest = time_ms
            if entry["decision"] == "accepted":
                accepted[key] += 1
        most = max(accepted.values(), default=0)
        require(most <= 1, "an accepted command is in the ledger once")
        for call_envelope, outcome in calls.acknowledged.values():
            require(
                recorded(ledger, call_envelope, outcome),
                "I3: what was acknowledged is in every ledger",
                outcome.index,
            )


def _state_of(machine: Machine) -> MemoryStore:
    copy = MemoryStore()
    with machine.disk.reader().read() as snapshot:
        for key, value in snapshot.state.scan(b""):
            copy.put(key, value)
    return copy


# -- running -----------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Without logs, without the collector's pauses, and with signatures verified once instead of
    once for each node: a signature is good or not wherever it is looked at."""
    before = structlog.get_config()
    verify = dsse.verify_bytes
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    dsse.verify_bytes = functools.lru_cache(maxsize=4096)(verify)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        dsse.verify_bytes = verify
        structlog.configure(**before)


def run_plan(plan: Plan, *, trace: Trace | None = None, patches: Patches = nullcontext) -> Report:
    """Runs a plan. A broken promise is in the report, not raised."""
    trace = trace or Trace()
    started = time.perf_counter()
    failure = None
    with (
        _quiet(),
        tempfile.TemporaryDirectory(prefix="quorate-sim-", dir=memory_directory()) as directory,
        patches(),
    ):
        run = Run(plan, trace, Path(directory))
        try:
            run.run()
        except Violation as violation:
            at = run.world.now
            failure = Failure(
                violation.promise, str(violation), at, tuple(trace.last(_SHOWN_EVENTS))
            )
        finally:
            run.federation.close()
    return Report(
        plan=plan,
        digest=trace.digest(),
        simulated_s=run.world.now / NS_PER_S,
        real_s=time.perf_counter() - started,
        events=trace.events,
        resumed_s=run.resumed_s,
        sometimes=run.federation.sometimes,
        failure=failure,
    )


def run_seed(
    seed: int, profile: Profile, *, trace: Trace | None = None, patches: Patches = nullcontext
) -> Report:
    """Runs what the seed says, in this kind of run."""
    return run_plan(make_plan(seed, profile), trace=trace, patches=patches)
