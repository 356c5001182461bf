"""What callers do with a node: propose a signed command, wait for its outcome, and for how widely
it holds; and what must be true of the answers.

Owns calls and the promises about them: an outcome is the same everywhere, an accepted command is
executed once, what was refused for good never is, what was acknowledged before a command was given
comes before it in the ledger, and fences are unique. Waits as `quorate.node.reaching` does. Does
not choose the commands (`workload`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from quorate.api.ports import Level
from quorate.core import codec
from quorate.core.outcome import Outcome
from quorate.core.state import StateView
from quorate.core.transitions import examine
from quorate.lease.bounds import Known
from quorate.node.machine import proposal_key
from quorate.testing.simulation.world import NS_PER_MS, World, require

if TYPE_CHECKING:
    from quorate.testing.simulation.authority_promises import AuthorityPromises
    from quorate.testing.simulation.machine import Machine

_PATIENCE_NS: Final = (200 * NS_PER_MS, 5_000 * NS_PER_MS)
_AGAIN_NS: Final = (20 * NS_PER_MS, 2_000 * NS_PER_MS)
_LEVEL_PATIENCE_NS: Final = 10_000 * NS_PER_MS
_LOOK_NS: Final = 20 * NS_PER_MS
_MOST_ATTEMPTS: Final = 4


@dataclass(eq=False)
class Call:
    """One command that somebody wants executed.

    revokes: the thing (`kind:id`) that may not be relied on once the command is accepted, nor ever
    again when it is_final.
    level: how far the caller waits.
    latest_before: the highest ledger index that any caller had been told of when this command was
    first given to anybody.
    open_attempts: begun or to come, without an end yet.
    is_possible: it may be in somebody's log.
    known: of what it revokes, and since when, at the node that its caller was answered by.
    """

    envelope: bytes
    key: bytes
    latest_before: int
    chance: random.Random
    revokes: str = ""
    is_final: bool = False
    level: Level = Level.COMMITTED
    on_accepted: Callable[[Outcome], None] = lambda _outcome: None
    attempts: int = 0
    open_attempts: int = 0
    is_possible: bool = False
    is_done: bool = False
    known: Known | None = None


@dataclass
class _Told:
    """What is known of the outcomes of one envelope: by ledger index, and where it was accepted."""

    by_index: dict[int, tuple[bool, str, str]] = field(default_factory=dict)
    accepted_at: int | None = None


class Calls:
    """All callers of a federation."""

    def __init__(self, world: World, authority: AuthorityPromises, sometimes: Counter[str]) -> None:
        self.acknowledged: dict[bytes, tuple[bytes, Outcome]] = {}
        """By key: the envelope, and the outcome that somebody was told."""
        self.never: set[bytes] = set()
        """Keys of envelopes that certainly will not be executed."""
        self.made = 0
        self._world = world
        self._authority = authority
        self._sometimes = sometimes
        self._forged: set[bytes] = set()
        self._asked: dict[bytes, int] = {}
        self._latest = 0
        self._waiting: dict[tuple[str, bytes], list[Call]] = {}
        self._told: dict[bytes, _Told] = {}
        self._fences: dict[int, str] = {}

    def call(
        self,
        machine: Machine,
        envelope: bytes,
        chance: random.Random,
        *,
        revokes: str = "",
        is_final: bool = False,
        level: Level = Level.COMMITTED,
    ) -> Call:
        """A new command, given to `machine`'s node. Set `on_accepted` before time passes."""
        self.made += 1
        key = proposal_key(envelope)
        before = self._asked.setdefault(key, self._latest)
        call = Call(envelope, key, before, chance, revokes, is_final, level)
        self.give(call, machine)
        return call

    # -- one attempt -------------------------------------------------------------------------

    def give(self, call: Call, machine: Machine) -> None:
        """Gives the command to a node, whether or not another has it already."""
        call.open_attempts += 1
        call.attempts += 1
        self._attempt(call, machine)

    def _attempt(self, call: Call, machine: Machine) -> None:
        if call.is_done or not machine.answers:
            self._ended(call, machine)
            return
        core, world = machine.running, self._world
        world.trace.note(world.now, machine.name, "call", call.key[:4].hex())
        if core.storage_problem:
            self._ended(call, machine)
            return
        with core.environment.read() as snapshot:
            view = StateView(snapshot.state)
            refusal = examine(view, call.envelope, core.ledger_clock.now_ms())
        if refusal is not None or not core.propose(call.key, call.envelope):
            self._sometimes["refused before it was proposed"] += 1
            self._ended(call, machine)
            return
        self._waiting.setdefault((machine.name, call.key), []).append(call)
        patience = call.chance.randrange(*_PATIENCE_NS)
        world.after(patience, partial(self._time_out, call, machine, machine.generation))
        machine.wake()

    def waits_at(self, call: Call, machine: Machine) -> bool:
        """Whether a caller waits for the outcome at this machine, and not somewhere else."""
        return call in self._waiting.get((machine.name, call.key), [])

    def is_settled(self, call: Call) -> bool:
        """Whether it is known what became of the command, or that nothing will."""
        return call.key in self._told or call.key in self.never

    def force(self, machine: Machine, envelope: bytes) -> None:
        """Has a node propose what it would have refused, as a node of a careless or lying member
        may. Nobody waits for the outcome, and it must not be accepted."""
        if not machine.answers or machine.running.storage_problem:
            return
        key = proposal_key(envelope)
        self._forged.add(key)
        if machine.running.propose(key, envelope):
            machine.wake()

    def widened(self, thing: str) -> None:
        """Somebody wants `thing` to be good again: from now on it may be."""
        self._authority.widened(thing)

    def _time_out(self, call: Call, machine: Machine, generation: int) -> None:
        waiting = self._waiting.get((machine.name, call.key), [])
        if machine.generation != generation or call not in waiting:
            return
        if machine.is_core_stopped:  # whoever counts the time is stopped, too
            self._world.after(_LOOK_NS, partial(self._time_out, call, machine, generation))
            return
        waiting.remove(call)
        attempted = True
        if not waiting:
            del self._waiting[machine.name, call.key]
            attempted = machine.running.forget(call.key)
        self._unanswered(call, machine, is_possible=attempted)

    def released(self, machine: Machine) -> None:
        """The node will tell nobody anything any more."""
        mine = [at for at in self._waiting if at[0] == machine.name]
        for at in mine:
            for call in self._waiting.pop(at):
                self._unanswered(call, machine, is_possible=True)

    def _unanswered(self, call: Call, machine: Machine, *, is_possible: bool) -> None:
        call.is_possible |= is_possible
        self._sometimes["outcome unknown" if is_possible else "refused for good"] += 1
        self._ended(call, machine)

    def _ended(self, call: Call, machine: Machine) -> None:
        """An attempt is over without an outcome; perhaps the caller tries elsewhere."""
        call.open_attempts -= 1
        if call.is_done:
            return
        if call.attempts < _MOST_ATTEMPTS and call.chance.random() < 0.6:
            call.attempts += 1
            call.open_attempts += 1
            delay = call.chance.randrange(*_AGAIN_NS)
            other = call.chance.choice(machine.others)
            self._world.after(delay, partial(self._attempt, call, other))
        elif not call.is_possible and call.open_attempts == 0 and call.key not in self._told:
            self.never.add(call.key)

    # -- outcomes ----------------------------------------------------------------------------

    def executed(self, machine: Machine, key: bytes, outcome: Outcome) -> None:
        """A node has executed an envelope, durably."""
        self._check_outcome(machine, key, outcome)
        for call in self._waiting.pop((machine.name, key), ()):
            call.open_attempts -= 1
            if not call.is_done:
                call.is_done = True
                self._acknowledge(call, machine, outcome)

    def _check_outcome(self, machine: Machine, key: bytes, outcome: Outcome) -> None:
        name = machine.name
        require(key not in self.never, "what was refused for good is not executed", name)
        said = outcome.accepted, str(outcome.reason or ""), outcome.thing
        told = self._told.setdefault(key, _Told())
        if outcome.index not in told.by_index:
            self._learn_time(machine, outcome.index)
        first = told.by_index.setdefault(outcome.index, said)
        require(first == said, "one outcome everywhere", name, f"{first} and {said}")
        if not outcome.accepted:
            return
        require(key not in self._forged, "what nobody signed is not accepted", name)
        if told.accepted_at is None:
            told.accepted_at = outcome.index
            self._check_fence(outcome)
        require(
            told.accepted_at == outcome.index,
            "an accepted command is executed once",
            name,
            f"at {told.accepted_at} and at {outcome.index}",
        )

    def _learn_time(self, machine: Machine, index: int) -> None:
        ledger = machine.disk.shadow.ledger
        if index < len(ledger):
            entry = codec.load(ledger[index])
            assert isinstance(entry, dict)
            time_ms = entry["time"]
            assert isinstance(time_ms, int)
            self._authority.ledger_time(time_ms)

    def _check_fence(self, outcome: Outcome) -> None:
        fence, lease = outcome.result.get("fence"), str(outcome.result.get("lease"))
        if not isinstance(fence, int):
            return
        require(self._fences.setdefault(fence, lease) == lease, "I7: one lease a fence", lease)
        require(
            fence <= outcome.index, "I7: a fence is its place in the ledger", fence, outcome.index
        )

    def _acknowledge(self, call: Call, machine: Machine, outcome: Outcome) -> None:
        world, name = self._world, machine.name
        world.trace.note(
            world.now, name, "told", f"{call.key[:4].hex()} {outcome.accepted} {outcome.index}"
        )
        self._sometimes["accepted" if outcome.accepted else "denied"] += 1
        if outcome.duplicate:
            self._sometimes["repeat answered with the first outcome"] += 1
        else:
            require(
                outcome.index > call.latest_before,
                "I5: what was acknowledged before comes before",
                name,
                f"{outcome.index}, told of {call.latest_before}",
            )
        self._latest = max(self._latest, outcome.index)
        self.acknowledged[call.key] = call.envelope, outcome
        require(
            recorded(machine.disk.shadow.ledger, call.envelope, outcome),
            "an acknowledged command is in the ledger",
            name,
            outcome.index,
        )
        if not outcome.accepted:
            return
        call.on_accepted(outcome)
        if call.revokes:
            self._authority.revocation_committed(call.revokes, is_final=call.is_final)
            call.known = Known(machine.clock.boottime_ns())
            self._promise(call, machine)
            if call.level > Level.COMMITTED:
                self._wait(call, machine, Level.ENFORCED, machine.running.durable_applied)

    # -- levels ------------------------------------------------------------------------------

    def _promise(self, call: Call, machine: Machine) -> None:
        """The caller is told for how long anybody can act on what it has revoked."""
        assert call.known is not None
        now_ns = machine.clock.boottime_ns()
        until_ns = now_ns + self._authority.bounds.left(call.known, now_ns).everybody_ms * NS_PER_MS
        self._authority.promised(
            call.revokes, machine.clock.true_at(until_ns), is_final=call.is_final
        )

    def _wait(self, call: Call, machine: Machine, level: Level, index: int) -> None:
        until = self._world.now + _LEVEL_PATIENCE_NS
        self._look(call, machine, level, machine.generation, (index, until))

    def _look(
        self, call: Call, machine: Machine, level: Level, generation: int, wait: tuple[int, int]
    ) -> None:
        if machine.generation != generation:
            return
        (index, until), keeper = wait, machine.running.keeper
        reached = keeper.watermark if level is Level.ENFORCED else keeper.drained
        if reached < index or machine.is_core_stopped:
            if self._world.now < until:
                again = partial(self._look, call, machine, level, generation, wait)
                self._world.after(_LOOK_NS, again)
            else:
                self._sometimes[f"not {level.name.lower()} in time"] += 1
        elif level is Level.ENFORCED:
            self._enforced(call, machine, index)
        else:
            self._authority.revocation_drained(call.revokes, is_final=call.is_final)
            self._sometimes["revocation drained"] += 1

    def _enforced(self, call: Call, machine: Machine, index: int) -> None:
        self._authority.revocation_enforced(call.revokes, is_final=call.is_final)
        self._sometimes["revocation enforced"] += 1
        assert call.known is not None
        call.known = replace(call.known, enforced_ns=machine.clock.boottime_ns())
        self._promise(call, machine)
        members = machine.running.replica.members
        behind = [
            other
            for other in machine.others
            if other.node_id in members and other.disk.shadow.applied < index
        ]
        self._sometimes["revocation enforced without a member"] += bool(behind)
        if call.level > Level.ENFORCED:
            self._wait(call, machine, Level.DRAINED, index)


def recorded(ledger: list[bytes], envelope: bytes, outcome: Outcome) -> bool:
    """Whether the ledger holds this envelope, with this outcome, where the outcome says."""
    if not 0 <= outcome.index < len(ledger):
        return False
    entry = codec.load(ledger[outcome.index])
    assert isinstance(entry, dict)
    decision = "accepted" if outcome.accepted else "denied"
    return entry["command"] == codec.load(envelope) and entry["decision"] == decision
