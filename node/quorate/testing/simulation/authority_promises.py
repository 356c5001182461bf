"""What must hold of permits at every moment of true time: I1 and I2 of the authority's design.

Owns the checks that see what nobody in the federation can see: all machines at once, and true time.

- I1: a state under which a node permits holds everything that was committed `L * (1 + rho)` ago,
  and no permit, however long an executor holds it, outlives that bound either;
- I2: once anybody has been told that a Raft index is enforced, no node permits on an older state;
  once a caller was told that a revocation is enforced, no node permits what relies on the thing
  revoked, and once it was told drained, no executor holds such a permit; what a narrowing leaves
  out of an edge is such a thing, by itself, and so is what a domain freezes;
- nobody acts on what was revoked later than the caller was promised (`quorate.lease.bounds`);
- no permit outlives its lease by more than that, in ledger time;
- what is told to be enforced is committed, and never falls while a process lives.

Not only permits that were given are judged, but those that could be: by the word as it stands, and
by checks that are held up half-way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING

from quorate.core.outcome import Reason
from quorate.core.records import Parameters
from quorate.core.state import StateView
from quorate.lease.bounds import Bounds
from quorate.lease.word import AuthorityRecord
from quorate.testing.simulation.scopes import parts_of
from quorate.testing.simulation.world import NS_PER_MS, World, require

if TYPE_CHECKING:
    from quorate.testing.simulation.edge import Granted
    from quorate.testing.simulation.machine import Machine

_ROUNDING_NS = 10
_ROUND_NS = 1_000_000
"""Whole milliseconds are what permits are counted in."""


class AuthorityPromises:
    """Watches words, watermarks and permits of all machines."""

    def __init__(self, world: World, parameters: Parameters, sometimes: Counter[str]) -> None:
        period_ns = parameters.authority_period_ms * NS_PER_MS
        self.bound_ns = period_ns + -(-period_ns * parameters.rho_ppm // 1_000_000)
        self.bounds = Bounds(
            parameters.authority_period_ms, parameters.max_permit_ttl_ms, parameters.rho_ppm
        )
        self.watermark = 0
        self.last_permit: dict[str, int] = {}
        """When each machine last permitted something, by its name."""
        self._world = world
        self._sometimes = sometimes
        self._machines: dict[str, Machine] = {}
        self._commit_times: list[int] = []
        self._commit_indexes: list[int] = []
        self._ledger_times: list[tuple[int, int]] = []
        """(true time at which somebody had it in the ledger, ledger time), both ascending."""
        self._told: dict[str, int] = {}
        self._expires: dict[str, int] = {}
        self._revoked: dict[str, int] = {}
        self._enforced: dict[str, int] = {}
        self._promised: dict[str, int] = {}
        self._held: dict[str, list[Granted]] = {}
        self._widened: set[str] = set()
        self._final: set[str] = set()

    @property
    def committed(self) -> int:
        return self._commit_indexes[-1] if self._commit_indexes else 0

    def _committed_before(self, ns: int) -> int:
        position = bisect_right(self._commit_times, ns)
        return self._commit_indexes[position - 1] if position else 0

    # -- nodes -------------------------------------------------------------------------------

    def started(self, machine: Machine) -> None:
        self._machines[machine.name] = machine
        self._told[machine.name] = 0

    def commits(self, commit_index: int) -> None:
        """Somebody knows from now on that so much is committed, and may tell."""
        self._commit_times.append(self._world.now)
        self._commit_indexes.append(commit_index)

    def ledger_time(self, ledger_time_ms: int) -> None:
        """An entry of this time is in somebody's ledger."""
        if not self._ledger_times or ledger_time_ms > self._ledger_times[-1][1]:
            self._ledger_times.append((self._world.now, ledger_time_ms))

    def published(self, machine: Machine, record: AuthorityRecord) -> None:
        """A node has given its edges authority."""
        world, core = self._world, machine.running
        left_ns = record.deadline_ns - machine.clock.boottime_ns()
        if left_ns <= 0:
            return
        self._sometimes["authority granted"] += 1
        # At the last moment of the record, whether or not another one follows it: an edge that was
        # stopped may still go by this one.
        expires = machine.clock.true_at(record.deadline_ns) - _ROUNDING_NS
        self._expires[machine.name] = max(self._expires.get(machine.name, 0), expires)
        require(record.index <= core.durable_applied, "authority for an applied state only")
        # What is committed by then is judged now: later commits do not reach back so far.
        require(
            record.index >= self._committed_before(expires - self.bound_ns),
            "I1: authority over a state that is recent enough",
            machine.name,
            f"index {record.index}",
        )
        self._check_exposed(machine, world.now)

    def enforced(self, machine: Machine, watermark: int) -> None:
        """`machine` tells whoever asks that this index is enforced."""
        told = self._told[machine.name]
        if watermark == told:
            return
        require(watermark > told, "the watermark never falls", machine.name, watermark, told)
        self._told[machine.name] = watermark
        require(watermark <= self.committed, "what is enforced is committed", machine.name)
        if watermark > self.watermark:
            self.watermark = watermark
            for each in self._machines.values():
                self._check_exposed(each, self._world.now)

    def _check_exposed(self, machine: Machine, now: int) -> None:
        """No edge could still permit on a state older than what is told to be enforced."""
        if machine.is_on and now < self._expires.get(machine.name, 0):
            applied = machine.disk.shadow.applied
            require(
                applied >= self.watermark,
                "I2: no node could permit on less than is enforced",
                machine.name,
                f"{applied} < {self.watermark}",
            )
        for edge in machine.edges:
            for reading in edge.readings:
                if now < reading.expires - _ROUNDING_NS:
                    require(
                        reading.applied_index >= self.watermark,
                        "I2: no check in progress could permit on less than is enforced",
                        machine.name,
                        f"{reading.applied_index} < {self.watermark}",
                    )

    def powered_off(self, machine: Machine) -> None:
        """The word and every edge of the machine are gone."""
        self._expires.pop(machine.name, None)
        self._told[machine.name] = 0

    # -- permits -----------------------------------------------------------------------------

    def permitted(self, granted: Granted) -> None:
        """An edge has said yes."""
        now, name = self._world.now, granted.machine.name
        self._sometimes["permit"] += 1
        if sum(thing.startswith("grant:") for thing in granted.depends_on) > 1:
            self._sometimes["permit by a delegation"] += 1
        if sum(thing.startswith("trust:") for thing in granted.depends_on) > 1:
            self._sometimes["permit by a route"] += 1
        self.last_permit[name] = now
        require(
            granted.applied_index >= self._committed_before(now - self.bound_ns),
            "I1: a permit on a state that is recent enough",
            name,
            granted.applied_index,
        )
        require(
            granted.applied_index >= self._committed_before(granted.expires - self.bound_ns),
            "I1: a permit that ends in time",
            name,
            granted.applied_index,
        )
        require(
            granted.applied_index >= self.watermark,
            "I2: a permit on what is enforced",
            name,
            f"{granted.applied_index} < {self.watermark}",
        )
        self._check_lease(granted)
        for thing in (*granted.depends_on, *parts_of(granted.depends_on, granted.resource)):
            self._check_thing(granted, thing)

    def _check_lease(self, granted: Granted) -> None:
        """Against the end that the lease has by now: it is renewed, never shortened."""
        position = bisect_right(self._ledger_times, (granted.expires - self.bound_ns, 0))
        if position:
            with granted.machine.disk.reader().read() as snapshot:
                lease = StateView(snapshot.state).lease(granted.lease_id)
            require(
                lease is not None and self._ledger_times[position - 1][1] < lease.expires_at,
                "I2: no permit outlives its lease",
                granted.machine.name,
                granted.lease_id,
            )

    def _check_thing(self, granted: Granted, thing: str) -> None:
        now, name = self._world.now, granted.machine.name
        require(thing not in self._enforced, "I2: nothing permitted that is revoked", name, thing)
        revoked = self._revoked.get(thing)
        if revoked is not None:
            require(now <= revoked + self.bound_ns, "I2: a revocation holds in time", name, thing)
            require(
                granted.expires <= revoked + self.bound_ns + _ROUND_NS,
                "I2: a permit ends in time after a revocation",
                name,
                thing,
            )
            self._check_promise(granted, thing)
            self._sometimes["permit while a revocation spreads"] += 1
        held = self._held.setdefault(thing, [])
        held[:] = [each for each in held if each.expires > now]
        held.append(granted)

    def _check_promise(self, granted: Granted, thing: str) -> None:
        promised = self._promised.get(thing)
        require(
            promised is None or granted.expires <= promised + _ROUND_NS,
            "I2: nobody acts later than was promised",
            granted.machine.name,
            thing,
        )

    def denied(self, reason: Reason) -> None:
        self._sometimes["denial"] += 1
        self._sometimes[f"denial {reason.value}"] += 1

    # -- what callers are told ---------------------------------------------------------------

    def widened(self, thing: str) -> None:
        """Somebody wants that `thing` may be relied on again; when that is so, nobody can say."""
        if thing not in self._final:
            self._widened.add(thing)
            self._revoked.pop(thing, None)
            self._enforced.pop(thing, None)
            self._promised.pop(thing, None)

    def revocation_committed(self, thing: str, *, is_final: bool) -> None:
        """A caller was told that `thing` is suspended, or revoked for good."""
        if is_final:
            self._final.add(thing)
        if self._holds(thing, is_final):
            self._revoked.setdefault(thing, self._world.now)

    def revocation_enforced(self, thing: str, *, is_final: bool) -> None:
        if self._holds(thing, is_final):
            self._enforced.setdefault(thing, self._world.now)

    def promised(self, thing: str, until: int, *, is_final: bool) -> None:
        """A caller was told that nobody acts on `thing` after `until`, in true time."""
        if not self._holds(thing, is_final):
            return
        self._promised[thing] = min(until, self._promised.get(thing, until))
        for granted in self._held.get(thing, ()):
            if granted.expires > self._world.now:
                self._check_promise(granted, thing)

    def revocation_drained(self, thing: str, *, is_final: bool) -> None:
        held = any(each.expires > self._world.now for each in self._held.get(thing, ()))
        require(
            not self._holds(thing, is_final) or not held,
            "I2: nobody holds a permit when a revocation is drained",
            thing,
        )

    def _holds(self, thing: str, is_final: bool) -> bool:
        """Whether what a caller was told of `thing` is to be true still: until somebody wanted it
        to be good again, or for ever."""
        return is_final or thing not in self._widened
