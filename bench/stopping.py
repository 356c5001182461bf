"""How long somebody may still act after a revocation, or after a node lost its core, its network or
its peers: real processes, real TLS, against the bounds that are promised.

A probe asks one node without pause and writes down every answer with the boot clock's time. What is
measured of a revocation begins just before its command leaves. Two ends are told: the sending of
the last question that was permitted, and the end of the longest life among the permits, when the
last executor must have stopped.
"""

from __future__ import annotations

import os
import queue
import signal
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from bench.pace import Pace
from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import ACTION, Crew, Probing
from quorate.chaos.parts import CORE, part_pid
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import wait_until
from quorate.client import Denied, DeniedError, Gate, Lease, Permit
from quorate.v1 import governance_pb2

OWNER, HOLDER = "clinic.example", "bank.example"
"""Who revokes, and whose node and executor it is about."""
DRAINED = governance_pb2.WAIT_LEVEL_DRAINED
COMMITTED = governance_pb2.WAIT_LEVEL_COMMITTED
CORE_KILLED = "core killed"
_SOON_S = 30.0
_News = queue.Queue[tuple[int, Permit | Denied]]
_FRESH_MS = 100
_WINDOW_MS = 300
"""How long after the bound it is watched that nothing is permitted."""


@dataclass(slots=True)
class Spans:
    """What was measured of one thing, milliseconds. bound_ms: what is promised, if anything is."""

    what: str
    bound_ms: float | None
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        return sorted(self.samples)[max(0, -(-99 * len(self.samples) // 100) - 1)]

    @property
    def worst(self) -> float:
        return max(self.samples)

    def to_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "bound_ms": self.bound_ms,
            "samples": len(self.samples),
            "median_ms": self.median,
            "p99_ms": self.p99,
            "worst_ms": self.worst,
        }


class Stopping:
    """The measurements, on a federation of three that runs."""

    def __init__(self, cluster: Cluster, crew: Crew, pace: Pace) -> None:
        self._cluster = cluster
        self._crew = crew
        self._pace = pace
        parameters = cluster.genesis().parameters
        self._authority_ms = float(parameters.authority_period_ms)
        self._permit_ms = float(parameters.max_permit_ttl_ms)
        self._committed_bound_ms = self._authority_ms * (1 + parameters.rho_ppm / 1e6)
        self._names = 0

    def revocations(self) -> list[Spans]:
        return [*self.healthy(), *self.watched(), *self.cut_off()]

    def faults(self) -> list[Spans]:
        found: list[Spans] = []
        for what, hurt, mend in self._faults():
            found += self.without(what, hurt, mend)
        return found

    # -- revocations -------------------------------------------------------------------------

    def healthy(self) -> list[Spans]:
        """Everybody is in touch, and the executor asks for each act, and watches nothing."""
        last = Spans("revoke, healthy: last permit decided", self._committed_bound_ms)
        over = Spans("revoke, healthy: last permit over", self._committed_bound_ms)
        drained = Spans("revoke, healthy, nobody watches: DRAINED told", None)
        self._pace.tell("revocations, healthy")
        for _ in range(self._rounds):
            grant, probing = self._probed()
            began_ns = boottime_ns()
            self._revoke(grant, DRAINED)
            drained.samples.append(_ms(boottime_ns() - began_ns))
            self._ended(probing, began_ns, last, over)
        return [last, over, drained]

    def watched(self) -> list[Spans]:
        """The executor holds its lease and goes by acts: it is told, and tells that they ended."""
        told = Spans("revoke, healthy: holder that watches is told", self._committed_bound_ms)
        last = Spans("revoke, healthy, holder watches: last act begun", self._committed_bound_ms)
        drained = Spans("revoke, healthy, holder watches: DRAINED told", None)
        self._pace.tell("revocations, watched")
        with Gate.open(self._crew.workers[HOLDER].client) as gate:
            for _ in range(self._rounds):
                grant, resource = self._granted()
                lease = gate.acquire(ACTION, resource)
                if isinstance(lease, Denied):
                    raise RuntimeError(f"no lease: {lease}")
                news: _News = queue.Queue()

                def tell(what: Permit | Denied, news: _News = news) -> None:
                    news.put((boottime_ns(), what))

                with _acting(lease) as acts, lease.hold(tell):
                    wait_until("acts", lambda acts=acts: acts, _SOON_S)  # type: ignore[misc]
                    began_ns = boottime_ns()
                    self._revoke(grant, DRAINED)
                    drained.samples.append(_ms(boottime_ns() - began_ns))
                    at_ns, what = news.get(timeout=_SOON_S)
                    if not isinstance(what, Denied):
                        raise RuntimeError("told of a permit, not of the revocation")
                    told.samples.append(_ms(at_ns - began_ns))
                last.samples.append(_ms(max(0, acts[-1] - began_ns)))
        return [told, last, drained]

    def cut_off(self) -> list[Spans]:
        """The holder's node is cut off, and the others revoke."""
        last = Spans("revoke, its node cut off: last permit decided", self._committed_bound_ms)
        over = Spans("revoke, its node cut off: last permit over", self._committed_bound_ms)
        for _ in range(self._rounds):
            self._pace.tell("a revocation that a node cannot hear of")
            grant, probing = self._probed()
            self._lead_from(OWNER)
            began_ns = boottime_ns()
            self._cluster.links.isolate(HOLDER)
            self._revoke(grant, COMMITTED)
            # From here on the bound counts: what is permitted before that was not revoked yet.
            committed_ns = boottime_ns()
            _let_pass_until(committed_ns + int((self._committed_bound_ms + _WINDOW_MS) * NS_PER_MS))
            self._ended(probing, committed_ns, last, over, at_least_ns=began_ns)
            self._cluster.links.heal()
            self._cluster.wait_ready()
        return [last, over]

    # -- a node that is hurt -----------------------------------------------------------------

    def without(self, what: str, hurt: Callable[[], None], mend: Callable[[], None]) -> list[Spans]:
        """Nothing is revoked: the node stops by itself."""
        last = Spans(f"{what}: last permit decided", self._authority_ms)
        over = Spans(f"{what}: last permit over", self._authority_ms)
        for _ in range(self._rounds):
            self._pace.tell(what)
            _, probing = self._probed()
            began_ns = boottime_ns()
            hurt()
            if what != CORE_KILLED:  # that one is back, and has authority again, before the bound
                _let_pass_until(began_ns + int((self._authority_ms + _WINDOW_MS) * NS_PER_MS))
            self._ended(probing, began_ns, last, over, comes_back=what == CORE_KILLED)
            mend()
            self._cluster.wait_ready()
        return [last, over]

    def _faults(self) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
        cluster, others = self._cluster, [n for n in self._cluster.names if n != HOLDER]

        def signal_core(number: int) -> None:
            pid = part_pid(cluster.processes(HOLDER), CORE)
            if pid is None:
                raise RuntimeError("the node has no core process")
            os.kill(pid, number)

        def nothing() -> None:
            pass

        def kill_others() -> None:
            for name in others:
                cluster.kill(name)

        yield (
            "core frozen",
            lambda: signal_core(signal.SIGSTOP),
            lambda: signal_core(signal.SIGCONT),
        )
        yield CORE_KILLED, lambda: signal_core(signal.SIGKILL), nothing
        yield "network lost", lambda: cluster.links.isolate(HOLDER), cluster.links.heal
        yield (
            "all peers killed",
            kill_others,
            lambda: cluster.start(others),
        )

    # -- inside ------------------------------------------------------------------------------

    @property
    def _rounds(self) -> int:
        return self._pace.rounds

    def _granted(self) -> tuple[str, str]:
        """A fresh grant of the owner's to the holder's executor, and what it is for."""
        self._names += 1
        name = f"stop-{self._names}"
        self._crew.grant(OWNER, name, self._crew.workers[HOLDER], f"{name}/*")
        return name, f"//{OWNER}/{name}/book"

    def _probed(self) -> tuple[str, Probing]:
        """The same, with an executor that asks without pause and is permitted to act just now."""
        grant, resource = self._granted()
        lease = self._crew.workers[HOLDER].lease(resource)
        probing = self._crew.probe(HOLDER, lease.id)

        def works() -> bool:
            return bool(probing.journal.permits(boottime_ns() - _FRESH_MS * NS_PER_MS))

        wait_until("permits", works, _SOON_S)
        return grant, probing

    def _revoke(self, grant: str, wait: governance_pb2.WaitLevel.ValueType) -> None:
        revoked = self._cluster.operator(OWNER).revoke("grant.revoke", {"grant": grant}, wait)
        if revoked.reached < wait:
            raise RuntimeError(f"reached only level {revoked.reached}")

    def _lead_from(self, name: str) -> None:
        """Who is to be cut off does not lead: what is measured is the bound, not an election."""
        if self._cluster.leader() == HOLDER:
            self._cluster.restart(HOLDER)
            self._cluster.wait_ready()
        wait_until(f"a leader beside {name}", lambda: self._cluster.leader() != HOLDER, _SOON_S)

    def _ended(
        self,
        probing: Probing,
        began_ns: int,
        last: Spans,
        over: Spans,
        *,
        at_least_ns: int = 0,
        comes_back: bool = False,
    ) -> None:
        """Reads what the probe was told, and ends it. comes_back: what follows the first denial is
        under new authority, and does not count."""
        journal = probing.journal

        def has_stopped() -> bool:
            asked = journal.since(began_ns)
            return bool(asked) and asked[-1].is_denial

        def was_denied() -> bool:
            return bool(journal.denials("INQUORATE", began_ns))

        wait_until("denials", was_denied if comes_back else has_stopped, _SOON_S)
        permits = [each for each in journal.all() if each.is_permit]
        if comes_back:
            first = journal.denials("INQUORATE", began_ns)[0].sent_ns
            permits = [each for each in permits if each.sent_ns < first]
        probing.process.stop()
        latest = max(each.sent_ns for each in permits)
        longest = max(each.good_until_ns for each in permits)
        if latest < at_least_ns:
            raise RuntimeError("the probe was not permitted when it began")
        last.samples.append(_ms(max(0, latest - began_ns)))
        over.samples.append(_ms(max(0, longest - began_ns)))


@contextmanager
def _acting(lease: Lease) -> Iterator[list[int]]:
    """Acts follow each other without pause, each for a moment, until the block ends; when each of
    them began."""
    done = threading.Event()
    began: list[int] = []

    def act() -> None:
        while not done.wait(0.002):
            if lease.slot.cached_for_act():
                now_ns = boottime_ns()
                with suppress(DeniedError), lease.act():
                    began.append(now_ns)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    try:
        yield began
    finally:
        done.set()
        thread.join()


def _ms(nanoseconds: int) -> float:
    return nanoseconds / NS_PER_MS


def _let_pass_until(moment_ns: int) -> None:
    left_s = max(0.0, (moment_ns - boottime_ns()) / 1e9)
    wait_until("the end of the window", lambda: boottime_ns() >= moment_ns, left_s + 10)
