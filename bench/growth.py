"""What deciding costs as the state grows: the same work on states of 1,000 to 1,000,000 records.

One LMDB environment of a node, grown from one size to the next; half of the records are executors,
half are grants to them, spread evenly over nine organisations. CPU time of one process, so that
what else the machine does counts for less; a figure is the median of the rounds. Commands are
signed beforehand, and executed as a node executes them but for the commit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Final, TypeVar

from bench.pace import Pace
from quorate.core import codec, state
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.explaining import explain
from quorate.core.outcome import Permit
from quorate.core.records import Executor, Grant
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.transitions import apply, install_genesis
from quorate.storage import Environment
from quorate.testing.builders import CREATED_MS, Federation, acquire_body, trust_body

T = TypeVar("T")

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
_QUICK: Final = 2
"""So many of them where a measurement is to take less than a second."""
_DOMAINS: Final = tuple(f"d{number}.example" for number in range(9))
_ASKED: Final = 10_000
"""Different acts that are asked about, spread over the whole state: more than are kept parsed."""
_ASKED_QUICKLY: Final = 256
_MAP_BYTES: Final = 4 * 2**30
_FAR_MS: Final = CREATED_MS + 86_400_000
_PER_TURN: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Act:
    """An executor of one domain that has a grant of another."""

    executor: str
    home: str
    owner: str

    @property
    def resource(self) -> str:
        return f"//{self.owner}/books/1"

    @classmethod
    def of(cls, number: int) -> _Act:
        home, owner = _DOMAINS[number % 9], _DOMAINS[(number + 1) % 9]
        return cls(f"spiffe://{home}/agent/{number:07d}", home, owner)


class _Growing:
    """One node's state, and how many records it has of executors and grants."""

    def __init__(self, directory: Path) -> None:
        self.federation = Federation.build(_DOMAINS)
        genesis = self.federation.parsed_genesis()
        self.environment = Environment.open(directory / "growth", map_size_bytes=_MAP_BYTES)
        self.environment.initialise(genesis.hash, self.federation[_DOMAINS[0]].node)
        turn = self.environment.turn
        turn.append_ledger(install_genesis(turn.state, genesis))
        for number, truster in enumerate(_DOMAINS):
            body = trust_body("e", _DOMAINS[number - 1], [f"//{truster}/*"])
            envelope = self.federation.command(truster, "trust.open", body)
            applied = apply(turn.state, codec.stamp(CREATED_MS, envelope), turn.ledger_size)
            assert applied.outcome.accepted, applied.outcome
        self.environment.commit()
        self._pairs = 0

    def grow(self, records: int) -> None:
        """To so many records, as commands would have left them, but without the commands."""
        while self._pairs < records // 2:
            store = self.environment.turn.state
            for number in range(self._pairs, min(self._pairs + _PER_TURN, records // 2)):
                act = _Act.of(number)
                executor = Executor(act.executor, act.home, Status.ACTIVE, 1)
                state.save_executor(store, executor)
                state.save_grant(store, _grant(act, number), CREATED_MS)
                self._pairs = number + 1
            self.environment.commit()

    def acts(self, count: int, chance: random.Random) -> list[_Act]:
        return [_Act.of(chance.randrange(self._pairs)) for _ in range(count)]


def _grant(act: _Act, number: int) -> Grant:
    return Grant(
        issuer=act.owner,
        grant=f"g{number}",
        executor=act.executor,
        actions=("*",),
        resources=(f"//{act.owner}/*",),
        not_after=_FAR_MS,
        max_lease_ttl_ms=60_000,
        max_uses=0,
        max_concurrent=0,
        uses=0,
        status=Status.ACTIVE,
        changed=1,
    )


def growth(directory: Path, pace: Pace) -> dict[str, float]:
    """Microseconds of CPU of each kind of decision at each size, and what the largest state costs
    beside the smallest."""
    growing = _Growing(directory)
    sizes = SIZES if pace.seconds >= 1 else SIZES[:_QUICK]
    found: dict[str, dict[int, float]] = {}
    for size in sizes:
        pace.tell(f"a state of {size:,} records")
        growing.grow(size)
        for what, cost in _costs(growing, pace, random.Random(size)).items():  # noqa: S311
            found.setdefault(what, {})[size] = cost
    growing.environment.close()
    figures = {
        f"{what} at {size:,}, us of CPU": cost
        for what, costs in found.items()
        for size, cost in costs.items()
    }
    return figures | {
        f"{what}, {sizes[-1]:,} / {sizes[0]:,} records": costs[sizes[-1]] / costs[sizes[0]]
        for what, costs in found.items()
    }


def _costs(growing: _Growing, pace: Pace, chance: random.Random) -> dict[str, float]:
    acts = growing.acts(_ASKED if pace.seconds >= 1 else _ASKED_QUICKLY, chance)
    requests = [DecisionRequest(act.executor, "books.read", act.resource) for act in acts]
    payloads = [_acquisition(growing.federation, act) for act in acts]
    rounds: dict[str, list[float]] = {"acquire": [], "decide": [], "check": [], "explain": []}
    for _ in range(pace.rounds):
        turn = growing.environment.turn
        applied = [apply(turn.state, payload, turn.ledger_size) for payload in payloads]
        leases = [each.outcome.thing for each in applied]
        assert all(each.outcome.accepted for each in applied)
        view = StateView(turn.state)
        held = list(zip(leases, acts, strict=True))

        def check(one: tuple[str, _Act], view: StateView = view) -> bool:
            lease, act = one
            decision, _ = check_lease(view, lease, act.executor, "", "", CREATED_MS)
            return isinstance(decision, Permit)

        def decided(request: DecisionRequest, view: StateView = view) -> bool:
            return isinstance(decide(view, request, CREATED_MS), Permit)

        def explained(request: DecisionRequest, view: StateView = view) -> bool:
            return isinstance(explain(view, request, CREATED_MS).decision, Permit)

        rounds["decide"].append(_microseconds(decided, requests, pace.seconds))
        rounds["explain"].append(_microseconds(explained, requests, pace.seconds))
        rounds["check"].append(_microseconds(check, held, pace.seconds))
        growing.environment.abort()
        rounds["acquire"].append(_applied(growing, payloads, pace.seconds))
    return {what: median(costs) for what, costs in rounds.items()}


def _acquisition(federation: Federation, act: _Act) -> bytes:
    body = acquire_body(act.executor, "books.read", act.resource)
    envelope = federation.command(federation[act.home].node, "lease.acquire", body)
    return codec.stamp(CREATED_MS, envelope)


def _applied(growing: _Growing, payloads: Sequence[bytes], seconds: float) -> float:
    """Of CPU time for one acquisition: all of them in a turn, which is given up then."""
    calls, used = 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or not calls:
        turn = growing.environment.turn
        before = time.process_time_ns()
        for payload in payloads:
            apply(turn.state, payload, turn.ledger_size + calls)
            calls += 1
        used += time.process_time_ns() - before
        growing.environment.abort()
    return used / calls / 1_000


def _microseconds(ask: Callable[[T], bool], about: Sequence[T], seconds: float) -> float:
    """Of CPU time for one question, asked about one thing after the other; each is a permit."""
    calls, end, things = 0, time.monotonic() + seconds, cycle(about)
    before = time.process_time_ns()
    while time.monotonic() < end or calls < len(about):
        if not ask(next(things)):
            raise RuntimeError("what was asked about is not permitted")
        calls += 1
    return (time.process_time_ns() - before) / calls / 1_000
