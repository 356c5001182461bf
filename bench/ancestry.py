"""What lineage costs as leases grow: the same work among 1,000 to 100,000 of them.

One LMDB environment of a node, and its graph of lineage, grown from one size to the next. Leases
come in families of four: one, one that came from it, and so on; all rely on one domain. CPU time of
one process, the median of the rounds. Asked are checks of leases that came from three others, with
nothing contained and with a lease of another family contained; and the page of a blast radius: 100
of all leases that rely on the domain, from anywhere on, and how each stood before an entry in the
middle of the ledger and with it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from bench.pace import Pace
from quorate.core import codec, graph, keys, state
from quorate.core.containment import listed
from quorate.core.decision import check_lease
from quorate.core.entries import entry as entry_of
from quorate.core.graph import Found, Standings
from quorate.core.outcome import Outcome, Permit
from quorate.core.records import Containment, Executor, Grant, Lease, LeaseStatus
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import Writer
from quorate.core.transitions import install_genesis
from quorate.storage import Environment
from quorate.storage.graph import GraphStore
from quorate.testing.builders import CREATED_MS, ORIGIN, Federation, acquire_body

SIZES: Final = (1_000, 10_000, 100_000)
_QUICK: Final = 2
_FAMILY: Final = 4
_PAGE: Final = 100
_PER_TURN: Final = 5_000
_MAP_BYTES: Final = 16 * 2**30
_FAR_MS: Final = CREATED_MS + 80_000_000
_DOMAIN: Final = "bank.example"
_WHO: Final = f"spiffe://{_DOMAIN}/agent/payments"
_GRANT: Final = f"{_DOMAIN}/g"
_RESOURCE: Final = f"//{_DOMAIN}/accounts/1"


class _Growing:
    """One node's state and graph, and how many leases they have."""

    def __init__(self, directory: Path) -> None:
        federation = Federation.build()
        genesis = federation.parsed_genesis()
        self.environment = Environment.open(directory / "ancestry", map_size_bytes=_MAP_BYTES)
        self.environment.initialise(genesis.hash, federation[_DOMAIN].node)
        self.graph = GraphStore.open(directory, genesis.hash, map_size_bytes=_MAP_BYTES)
        turn = self.environment.turn
        turn.append_ledger(install_genesis(turn.state, genesis))
        state.save_executor(turn.state, Executor(_WHO, _DOMAIN, Status.ACTIVE, 0))
        state.save_grant(turn.state, _grant(), CREATED_MS)
        self.environment.commit()
        body = acquire_body(_WHO, "accounts.read", _RESOURCE)
        envelope = federation.command(federation[_DOMAIN].node, "lease.acquire", body)
        self._command = codec.load(envelope)
        self.count = 0

    def grow(self, leases: int) -> None:
        """To so many, as commands would have left them, but without the commands."""
        while self.count < leases:
            numbers = range(self.count, min(self.count + _PER_TURN, leases))
            store = self.environment.turn.state
            for number in numbers:
                state.save_lease(store, lease_of(number), None)
            self.environment.commit()
            with self.environment.read() as snapshot:
                view = StateView(snapshot.state)

                def fill(rows: Writer, view: StateView = view, numbers: range = numbers) -> None:
                    for number in numbers:
                        graph.take(rows, view, number + 1, self._entry(number))

                self.graph.write(fill)
            self.count = numbers[-1] + 1

    def _entry(self, number: int) -> bytes:
        outcome = Outcome(True, None, _name(number), number + 1, "0" * 64)
        return entry_of(
            origin=ORIGIN,
            kind="lease.acquire",
            outcome=outcome,
            ledger_time=CREATED_MS,
            command=self._command,
        )


def _name(number: int) -> str:
    return f"{number * 2_654_435_761 % 2**32:08x}{number:024x}"


def lease_of(number: int) -> Lease:
    above = [_name(other) for other in range(number - number % _FAMILY, number)]
    return Lease(
        lease=_name(number),
        executor=_WHO,
        action="accounts.read",
        resource=_RESOURCE,
        grant=_GRANT,
        trust_edge="",
        fence=number + 1,
        acquired_at=CREATED_MS,
        expires_at=_FAR_MS,
        status=LeaseStatus.ACTIVE,
        depends_on=(f"domain:{_DOMAIN}", f"executor:{_WHO}", f"grant:{_GRANT}"),
        policy_version=0,
        changed=number + 1,
        parents=tuple(above[-1:]),
        ancestors=tuple(sorted(above)),
        ancestor_executors=(_WHO,) if above else (),
    )


def _grant() -> Grant:
    return Grant(
        issuer=_DOMAIN,
        grant="g",
        executor=_WHO,
        actions=("*",),
        resources=(f"//{_DOMAIN}/*",),
        not_after=_FAR_MS,
        max_lease_ttl_ms=86_400_000,
        max_uses=0,
        max_concurrent=0,
        uses=0,
        status=Status.ACTIVE,
        changed=0,
    )


def ancestry(directory: Path, pace: Pace, sizes: Sequence[int] = SIZES) -> dict[str, float]:
    """Microseconds of CPU of each at each size, and what the most leases cost beside the fewest."""
    growing = _Growing(directory)
    sizes = sizes if pace.seconds >= 1 else sizes[:_QUICK]
    found: dict[str, dict[int, float]] = {}
    for size in sizes:
        pace.tell(f"{size:,} leases")
        growing.grow(size)
        for what, cost in _costs(growing, pace, random.Random(size)).items():  # noqa: S311
            found.setdefault(what, {})[size] = cost
    growing.graph.close()
    growing.environment.close()
    figures = {
        f"{what} at {size:,} leases, us of CPU": cost
        for what, costs in found.items()
        for size, cost in costs.items()
    }
    return figures | {
        f"{what}, {sizes[-1]:,} / {sizes[0]:,} leases": costs[sizes[-1]] / costs[sizes[0]]
        for what, costs in found.items()
    }


def _costs(growing: _Growing, pace: Pace, chance: random.Random) -> dict[str, float]:
    lowest = range(_FAMILY - 1, growing.count, _FAMILY)
    names = [_name(chance.choice(lowest[: len(lowest) // 2])) for _ in range(1_000)]
    other = Containment(_name(lowest[-1] - 3), (_DOMAIN,), 1, 1)
    rounds: dict[str, list[float]] = {}
    for _ in range(pace.rounds):
        for what, is_contained in (("check", False), ("check, something contained", True)):
            turn = growing.environment.turn
            if is_contained:
                state.save_containment(turn.state, other, None)
            view = StateView(turn.state)
            cost = _microseconds(lambda n=0, view=view: _checked(view, names[n % 1_000]), pace)
            rounds.setdefault(what, []).append(cost)
            growing.environment.abort()
        cost = _microseconds(lambda n=0: _page(growing, chance), pace)
        rounds.setdefault("a page of a blast radius", []).append(cost)
    return {what: median(costs) for what, costs in rounds.items()}


def _checked(view: StateView, name: str) -> None:
    decision, _ = check_lease(view, name, _WHO, "", "", CREATED_MS)
    assert isinstance(decision, Permit), decision


def _page(growing: _Growing, chance: random.Random) -> None:
    middle = growing.count // 2
    start = keys.number(chance.randrange(max(1, growing.count - _PAGE)))
    with growing.graph.read() as rows, growing.environment.read() as snapshot:
        view = StateView(snapshot.state)
        before = Standings(rows, ORIGIN, middle, CREATED_MS)
        after = Standings(rows, ORIGIN, middle + 1, CREATED_MS)
        page = graph.relying(rows, f"domain:{_DOMAIN}", start, _PAGE)
        assert len(page.found) >= _PAGE - 1
        for each in page.found:
            _stands(view, before, after, each)


def _stands(view: StateView, before: Standings, after: Standings, each: Found) -> None:
    record = view.lease(each.lease)
    assert record is not None
    record = listed(view, record)
    before.of(record, each.index)
    after.of(record, each.index)


def _microseconds(ask: Callable[..., None], pace: Pace) -> float:
    calls, end = 0, time.monotonic() + pace.seconds
    began = time.process_time_ns()
    while time.monotonic() < end or calls < 3:
        ask(calls)
        calls += 1
    return (time.process_time_ns() - began) / calls / 1_000
