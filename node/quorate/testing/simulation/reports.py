"""What executors say of their work, and edges of what they had to deny; and that none is lost.

Owns these callers and their promise: what a node has taken in durably is in the ledger at the end,
once and in order, unless its disk is lost or it is retired; what it has not may be there, once.
Does not own how a node keeps it (`quorate.node.outbox`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from quorate.core import codec
from quorate.core.commands import envelope_in
from quorate.core.lineage import Denials, Event, EventType, Stage, next_stage, parse_record
from quorate.core.outcome import Deny, Reason
from quorate.testing.simulation.disk import Disk
from quorate.testing.simulation.edge import Holder
from quorate.testing.simulation.machine import Machine
from quorate.testing.simulation.world import World, require

_NUMBER: Final = "number"


@dataclass(frozen=True, slots=True)
class _Told:
    """Something that a node was told. ticket: durable with this one. number: of an event; 0: calls
    that were denied, so many."""

    disk: Disk
    ticket: int
    number: int
    denied: int = 0


class Reports:
    """All of one federation."""

    def __init__(self, world: World, sometimes: Counter[str]) -> None:
        self._world = world
        self._sometimes = sometimes
        self._numbers = 0
        self._open: dict[str, list[_Told]] = {}
        """By machine: what its node has taken in, and not said to be durable."""
        self._kept: dict[str, list[_Told]] = {}
        self._stages: dict[str, Stage] = {}
        self._denied: Counter[str] = Counter()
        """By machine: how many calls it was ever told of."""

    # -- who reports -------------------------------------------------------------------------

    def report(self, machine: Machine, holder: Holder, chance: random.Random) -> None:
        """An executor says something of its work: in order or not; once, or what it said last."""
        if not machine.answers or machine.running.storage_problem:
            return
        core = machine.running
        events = []
        for _ in range(chance.choice((1, 1, 2))):
            self._numbers += 1
            kind = self._type(holder.lease_id, chance)
            said = {_NUMBER: str(self._numbers)}
            at = core.ledger_clock.now_ms()
            events.append(Event(holder.lease_id, holder.executor, kind, said, at))
        taken = core.outbox.report(events, None)
        if isinstance(taken, Deny):
            self._sometimes["report refused"] += 1
            return
        self._stages[holder.lease_id] = taken.stage
        self._note(machine, [int(event.attributes[_NUMBER]) for event in events], taken.ticket)
        if chance.random() < 0.2:
            head = core.outbox.report(events, "00" * 32)
            require(
                isinstance(head, Deny) and head.reason is Reason.OUT_OF_ORDER,
                "a report that follows nothing is refused",
                machine.name,
            )
        machine.wake()

    def deny(self, machine: Machine, holder: Holder, reason: Reason) -> None:
        """An edge hands on that it denied a call by itself."""
        if not machine.answers or machine.running.storage_problem:
            return
        core = machine.running
        at = core.ledger_clock.now_ms()
        item = Denials(
            holder.executor, "Check", holder.lease_id, reason, core.ledger_size, at, at, 1
        )
        ticket = core.outbox.deny([item])
        self._open.setdefault(machine.name, []).append(_Told(machine.disk, ticket, 0, 1))
        self._denied[machine.node_id] += 1
        machine.wake()

    def _type(self, lease_id: str, chance: random.Random) -> EventType:
        """Mostly one that may follow what the lease's holder knows of."""
        stage = self._stages.get(lease_id, Stage.AUTHORIZED)
        legal = [each for each in EventType if next_stage(stage, each) is not None]
        return chance.choice(legal if legal and chance.random() < 0.9 else list(EventType))

    def _note(self, machine: Machine, numbers: Iterable[int], ticket: int) -> None:
        told = self._open.setdefault(machine.name, [])
        told += [_Told(machine.disk, ticket, number) for number in numbers]

    # -- what becomes of it ------------------------------------------------------------------

    def kept(self, machine: Machine, ticket: int) -> None:
        """What the node took in up to this ticket is durable."""
        told = self._open.get(machine.name)
        if not told:
            return
        self._kept.setdefault(machine.name, []).extend(
            each for each in told if each.ticket <= ticket
        )
        self._open[machine.name] = [each for each in told if each.ticket > ticket]

    def released(self, machine: Machine) -> None:
        """The node's callers hear nothing more."""
        if self._open.pop(machine.name, None):
            self._sometimes["report unanswered"] += 1

    def waiting(self, machine: Machine) -> bool:
        """Whether the node still has something to tell the ledger."""
        return machine.core is not None and machine.core.outbox.waiting > 0

    def check(self, ledger: list[bytes], members: Iterable[Machine]) -> None:
        """members: the machines of the nodes that are active."""
        numbers: Counter[int] = Counter()
        order: list[int] = []
        denied: Counter[str] = Counter()
        for issuer, record in _recorded(ledger):
            if isinstance(record, Denials):
                denied[issuer] += record.count
            else:
                order.append(int(record.attributes[_NUMBER]))
                numbers[order[-1]] += 1
        self._sometimes["event in the ledger"] += len(order)
        self._sometimes["denials in the ledger"] += len(denied)
        twice = [number for number, count in numbers.items() if count > 1]
        require(not twice, "what was reported is in the ledger once", twice)
        place = {number: at for at, number in enumerate(order)}
        for machine in members:
            kept = [each for each in self._kept.get(machine.name, ()) if each.disk is machine.disk]
            mine = [each.number for each in kept if each.number]
            lost = [number for number in mine if number not in place]
            require(not lost, "what was reported is in the ledger", machine.name, lost)
            places = [place[number] for number in mine]
            require(places == sorted(places), "what was reported is in order", machine.name)
            least = sum(each.denied for each in kept)
            require(
                least <= denied[machine.node_id] <= self._denied[machine.node_id],
                "what was denied is counted",
                machine.name,
                f"{denied[machine.node_id]}, of {least} to {self._denied[machine.node_id]}",
            )


def _recorded(ledger: list[bytes]) -> Iterable[tuple[str, Event | Denials]]:
    """The records that the ledger has, with the node that each is of."""
    for data in ledger[1:]:
        entry = codec.load(data)
        assert isinstance(entry, dict)
        if entry["type"] != "lineage.append" or entry["decision"] != "accepted":
            continue
        command = codec.load(_payload(entry["command"]))
        assert isinstance(command, dict)
        body = command["body"]
        assert isinstance(body, dict)
        records = body["records"]
        assert isinstance(records, list)
        for item in records:
            yield str(command["issuer"]), parse_record(item)


def _payload(envelope: object) -> bytes:
    return envelope_in(envelope, "").payload
