"""Acts one to three: founding, work across borders, a revocation.

Owns what is done, what is waited for, and which measured value is compared with which bound (see
`quorate.chaos.demo.measure`). The faults are in `faults`, the reckoning in `ending`.
"""

from __future__ import annotations

from quorate.chaos.demo import cast
from quorate.chaos.demo.book import INBOX, Book, Record
from quorate.chaos.demo.claims import MILLISECONDS, at_most, equal, more_than
from quorate.chaos.demo.journal import NS_PER_MS, Did, Event, boottime_ns
from quorate.chaos.demo.measure import SETTLE_S, WINDOW_MS, elapsed_ms
from quorate.chaos.demo.narrator import Narrator
from quorate.chaos.demo.stage import Stage
from quorate.client import StaleFenceError
from quorate.core.outcome import Reason
from quorate.v1 import governance_pb2


def build(stage: Stage, narrator: Narrator) -> None:
    """Three organisations come to be, and a federation of them."""
    narrator.act("1. Three organisations found a federation")
    stage.cluster.prepare()
    stage.equip()
    stage.cluster.start()
    ready_s = stage.cluster.wait_ready()
    narrator.tell(
        f"three nodes, mutual TLS, authority at each after {ready_s:.1f} s; "
        f"{stage.cluster.leader()} leads"
    )
    narrator.tell(
        f"agreed at genesis: L = {stage.authority_period_ms} ms; "
        f"a permit lives {stage.max_permit_ttl_ms} ms at most"
    )


def work(stage: Stage, narrator: Narrator) -> None:
    """Executors are registered, trusted, granted; they work across borders or are denied."""
    narrator.act("2. Executors work under leases, across borders")
    stage.govern()
    for worker in cast.WORKERS:
        narrator.tell(
            f"{worker.partner} trusts {worker.domain} and lets {worker.id} write into its inbox"
        )
    stage.start_executors()
    stage.observe(
        "work everywhere",
        lambda: all(len(_inbox_acts(stage, w)) >= 10 for w in cast.WORKERS),
        SETTLE_S,
    )
    working = [worker for worker in cast.WORKERS if _inbox_acts(stage, worker)]
    for worker in working:
        first = _inbox_acts(stage, worker)[0]
        narrator.tell(
            f"{worker.domain}: first permit "
            f"{elapsed_ms(first.at_ns, first.sent_ns):.1f} ms after it was asked for, "
            f"fence {first.fence}"
        )
    narrator.claim(
        equal(
            "permit.across_domains",
            "executors with permits for another organisation's book",
            len(working),
            len(cast.WORKERS),
        )
    )
    for worker, id_, statement, expected in (
        (cast.UNTRUSTED, "deny.no_trust", "freight to bank, without trust", Reason.NO_TRUST),
        (cast.REVOKED, "deny.no_grant", "clinic erasing at bank, without grant", Reason.NO_GRANT),
    ):
        probes = stage.events(worker.domain, Did.PROBED)
        got = ", ".join(probe.reason or "PERMITTED" for probe in probes) or "not tried"
        narrator.claim(equal(id_, statement, got, expected.value))


def _inbox_acts(stage: Stage, worker: cast.Worker) -> list[Event]:
    inbox = cast.inbox(worker.partner)
    return [event for event in stage.acts(worker.domain) if event.resource == inbox]


def revoke(stage: Stage, narrator: Narrator) -> None:
    """A grant is revoked under a working executor; a new one follows, with a higher fence."""
    narrator.act("3. A grant is revoked in the middle of the work")
    worker = cast.REVOKED
    bank = stage.cluster.operator(worker.partner)
    lease = _inbox_acts(stage, worker)[-1]
    stage.observe("work", lambda: stage.works(worker.domain), SETTLE_S)
    ordered_ns = boottime_ns()
    revocation = bank.revoke(
        "grant.revoke", {"grant": worker.grant}, governance_pb2.WAIT_LEVEL_DRAINED
    )
    drained_ns = boottime_ns()
    stage.let_pass_until(drained_ns + WINDOW_MS * NS_PER_MS)
    used = [event.at_ns for event in stage.acts(worker.domain) if event.lease == lease.lease]
    last_ms = elapsed_ms(max(used), ordered_ns)
    drained_ms = elapsed_ms(drained_ns, ordered_ns)
    denied = [e.reason for e in stage.events(worker.domain, Did.DENIED) if e.at_ns > ordered_ns]
    narrator.tell(
        f"ordered; the last permit fell {_after_the_order(last_ms)}; acknowledged as drained after "
        f"{drained_ms:.1f} ms"
    )
    narrator.tell(f"the executor was told: {', '.join(dict.fromkeys(denied)) or 'nothing'}")
    narrator.claim(
        equal(
            "revoke.reached",
            "the revocation holds at",
            governance_pb2.WaitLevel.Name(revocation.reached).removeprefix("WAIT_LEVEL_"),
            "DRAINED",
        )
    )
    narrator.claim(
        equal(
            "revoke.none_after_drained",
            "permits on the revoked lease used after the acknowledgement",
            sum(at_ns > drained_ns for at_ns in used),
            0,
        )
    )
    narrator.claim(
        at_most(
            "revoke.last_permit",
            "last permit after the order, against the time of the acknowledgement",
            last_ms,
            drained_ms,
            MILLISECONDS,
        )
    )
    _grant_again(stage, narrator, lease)


def _after_the_order(ms: float) -> str:
    """When something happened, seen from an order; work that pauses may have ended before it."""
    return f"after {ms:.1f} ms" if ms >= 0 else f"{-ms:.1f} ms before the order"


def _grant_again(stage: Stage, narrator: Narrator, old: Event) -> None:
    """The work goes on under a new grant; the old lease's fence is worth nothing any more."""
    worker = cast.REVOKED
    granted_ns = boottime_ns()
    stage.cluster.operator(worker.partner).order(
        "grant.issue", stage.inbox_grant(worker, f"{worker.grant}-2")
    )

    def newer() -> list[Event]:
        return [event for event in _inbox_acts(stage, worker) if event.at_ns > granted_ns]

    stage.observe("work under the new grant", lambda: bool(newer()), SETTLE_S)
    new_fence = newer()[-1].fence if newer() else 0
    narrator.claim(
        more_than("fence.grows", "the new lease's fence, against the old", new_fence, old.fence)
    )
    refused = "written"
    with Book(stage.book(worker.partner)) as book:
        try:
            book.receive(Record("late/1", "a write that comes too late"), fence=old.fence)
        except StaleFenceError:
            refused = "refused"
        highest = book.highest_fence(INBOX)
    narrator.tell(f"a late writer presents fence {old.fence}; the book has seen {highest}")
    narrator.claim(equal("fence.stale_write", "the late write is", refused, "refused"))
