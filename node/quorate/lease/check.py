"""The check path: may this lease be acted on now, on this node?

Owns the order of the steps (below), which is what makes a permit safe, and how long a permit lives.
A pure function of the authority word, the store and the clock; it changes nothing and never waits.

1. Read the authority word: its deadline D, once.
2. Open the snapshot, and require that it is at least as new as the word says.
3. Decide on the snapshot.
4. Read the clock, and permit only if now < D.

The word is read before the snapshot and never again. A process that was stopped anywhere between
the steps wakes up with an old snapshot; were the word read after it, the deadline could be one that
was renewed since, for a newer state than the one decided on: a revocation would be missed. In this
order the deadline is never newer than the state. The clock is read after the decision for the same
reason: what passed before the decision says nothing about now. And it is read before the snapshot
is closed: a revocation counts as enforced when no reader holds an older snapshot, so from then on
no permit may come to be on one.

Every fault on the way is a denial (INTERNAL), and is logged. Nothing here is ever a default permit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from quorate.core.containment import listed
from quorate.core.decision import check_lease
from quorate.core.effects import things_of
from quorate.core.errors import StorageDamagedError
from quorate.core.explaining import under, unseen
from quorate.core.explanation import Explanation
from quorate.core.outcome import Decision, Deny, Permit, Reason
from quorate.core.state import Lease, StateView
from quorate.core.store import Reader
from quorate.lease.clock import Clock
from quorate.lease.word import AuthorityRecord

MAX_CLOCK_STEP_MS: Final = 100
"""How far the wall clock and the boot clock may move apart between two grants."""

_NS_PER_MS: Final = 1_000_000
_PPM: Final = 1_000_000

_log = structlog.get_logger(__name__)


class SnapshotReader(Protocol):
    """The part of a storage snapshot that a check reads."""

    @property
    def state(self) -> Reader: ...

    @property
    def applied_index(self) -> int: ...

    @property
    def ledger_size(self) -> int: ...


class SnapshotSource(Protocol):
    """Where snapshots come from: the node's environment."""

    def read(self) -> AbstractContextManager[SnapshotReader]: ...


class WordReader(Protocol):
    """The authority word. None: there is no authority, or the record is not whole."""

    def read(self) -> AuthorityRecord | None: ...


@dataclass(frozen=True, slots=True)
class CheckQuery:
    """One lease to check. `action` and `resource`, when set, must be the lease's own."""

    lease_id: str
    executor: str
    action: str = ""
    resource: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """A state of the ledger: how many entries it has, and its time."""

    ledger_size: int
    ledger_time_ms: int


NOWHERE: Final = Position(0, 0)


@dataclass(frozen=True, slots=True)
class _Now:
    """One reading of both clocks."""

    boottime_ns: int
    realtime_ns: int


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer to one query.

    decision: as of the last reading of the clock.
    ttl_ms: a permit's life from when its request was sent; 0 for a denial, and only then.
    at: the state decided on; NOWHERE when none was read.
    expires_ns: boot time at which the lease's own expiry ends a permit, or that of what its
        executor has proved; 0 for a denial. The authority's deadline is not part of it.
    things: what an entry can name that ends a permit; none for a denial.
    is_of_node: it is the node that denies, whatever the lease: it holds no authority, or cannot
        tell. Any reason can stand there, as the authority word can carry any.
    """

    decision: Decision
    at: Position = NOWHERE
    ttl_ms: int = 0
    fence: int = 0
    expires_ns: int = 0
    is_of_node: bool = False
    things: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert isinstance(self.decision, Permit) == (self.ttl_ms > 0)
        assert not (self.is_of_node and self.ttl_ms), "only a denial is the node's"


class LeaseChecker:
    """Checks leases against one node's word, store and clock.

    boot_id: of this boot. A record of another one carries a deadline of a clock that has started
        again since.
    source: None while the node has no store yet.
    on_damaged: called when the store turns out to be damaged. It goes on being denied; only a new
        process may open the store again.
    """

    def __init__(
        self,
        word: WordReader,
        source: Callable[[], SnapshotSource | None],
        clock: Clock,
        boot_id: bytes,
        on_damaged: Callable[[], None] = lambda: None,
    ) -> None:
        self._word = word
        self._source = source
        self._clock = clock
        self._boot_id = boot_id
        self._on_damaged = on_damaged

    def check(self, query: CheckQuery) -> Checked:
        return self.check_all((query,))[0]

    def check_all(self, queries: Sequence[CheckQuery]) -> list[Checked]:
        """Answers all queries under one reading of the word and on one snapshot."""
        try:
            return self._check_all(queries)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no permit
            return _same(self._fault(error), queries)

    def authority(self) -> AuthorityRecord | Deny:
        """The authority that the node holds at this moment, or why it holds none.

        For telling and for refusing early. It is no permission: a permit comes from `check` alone.
        """
        try:
            record = self._word.read()
            if record is None:
                return Deny(Reason.INQUORATE)
            return self._lapsed(record, self._now()) or record
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no authority
            return self._fault(error)

    def explain(self, ask: Callable[[StateView, int], Explanation]) -> tuple[Explanation, Position]:
        """What `ask` makes of the node's state and of ledger time, and whether the node may permit
        anything at all, with or without authority.

        For telling, as `authority` is. It is no permission.
        """
        try:
            return self._explain(ask)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no permit
            return unseen(self._fault(error)), NOWHERE

    def _explain(
        self, ask: Callable[[StateView, int], Explanation]
    ) -> tuple[Explanation, Position]:
        record, source, early = self._word.read(), self._source(), self._now()
        if source is None:
            return unseen(Deny(Reason.INQUORATE)), NOWHERE
        refused = Deny(Reason.INQUORATE) if record is None else self._lapsed(record, early)
        with source.read() as snapshot:
            view = StateView(snapshot.state)
            at = Position(snapshot.ledger_size, view.ledger_time())
            latest_ms = at.ledger_time_ms
            if record is not None and refused is None:
                latest_ms = _latest_ms(record, early, at)
                if snapshot.applied_index < record.index:
                    refused = Deny(Reason.INQUORATE)
            explanation = ask(view, latest_ms)
        if record is not None and refused is None:
            refused = self._lapsed(record, self._now())
        return under(explanation, refused), at

    def _check_all(self, queries: Sequence[CheckQuery]) -> list[Checked]:
        record = self._word.read()  # step 1; never again below
        source = self._source()
        if record is None or source is None:
            return _same(Deny(Reason.INQUORATE), queries)
        early = self._now()
        lapsed = self._lapsed(record, early)  # saves the reading; step 4 is what counts
        if lapsed is not None:
            return _same(lapsed, queries)
        with source.read() as snapshot:  # step 2
            if snapshot.applied_index < record.index:
                return _same(Deny(Reason.INQUORATE), queries)
            view = StateView(snapshot.state)
            at = Position(snapshot.ledger_size, view.ledger_time())
            latest_ms = _latest_ms(record, early, at)
            decided = [self._decide(view, query, latest_ms) for query in queries]  # step 3
            origin = view.federation_record().origin
            now = self._now()  # step 4, while the snapshot still counts as read
        lapsed = self._lapsed(record, now)
        if lapsed is not None:
            return _same(lapsed, queries, at)
        return [_answer(*each, record, now, at, origin=origin) for each in decided]

    def _decide(
        self, view: StateView, query: CheckQuery, latest_ms: int
    ) -> tuple[Decision, Lease | None]:
        """Decides one query; a fault denies it, and leaves the others of its call alone. The lease
        says what it came from."""
        try:
            decision, lease = check_lease(
                view, query.lease_id, query.executor, query.action, query.resource, latest_ms
            )
            return decision, None if lease is None else listed(view, lease)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no permit
            return self._fault(error), None

    def _fault(self, error: Exception) -> Deny:
        _log.error("a check failed; denying", exc_info=error)
        if isinstance(error, StorageDamagedError):
            self._on_damaged()
        return Deny(Reason.INTERNAL)

    def _now(self) -> _Now:
        # The boot clock last: whatever stops the process before it makes `now` later, and whatever
        # stops it between the two looks like a step of the wall clock, which only denies.
        realtime_ns = self._clock.realtime_ns()
        return _Now(self._clock.boottime_ns(), realtime_ns)

    def _lapsed(self, record: AuthorityRecord, now: _Now) -> Deny | None:
        """Why this record gives no authority at `now`; None when it does."""
        if record.reason is not None:
            return Deny(record.reason)
        if record.boot_id != self._boot_id:
            return Deny(Reason.INQUORATE)
        elapsed_ns = now.boottime_ns - record.granted_at_boottime_ns
        if elapsed_ns < 0 or now.boottime_ns >= record.deadline_ns:
            return Deny(Reason.INQUORATE)
        wall_elapsed_ns = now.realtime_ns - record.granted_at_realtime_ns
        if abs(wall_elapsed_ns - elapsed_ns) > MAX_CLOCK_STEP_MS * _NS_PER_MS:
            return Deny(Reason.CLOCK_STEP)
        return None


def latest_ledger_time_ms(record: AuthorityRecord, now_ns: int) -> int:
    """The latest that ledger time can be at boot time `now_ns`, rounded up.

    The leader's clock may run faster than this one by rho, and answered after the request left at
    `granted_at_boottime_ns`; so this errs on the side of expiry.
    """
    elapsed_ns = now_ns - record.granted_at_boottime_ns
    return record.ledger_time_ms - (-elapsed_ns * (_PPM + record.rho_ppm) // (_PPM * _NS_PER_MS))


def expiry_ns(record: AuthorityRecord, expires_at_ms: int) -> int:
    """The first boot time at which `latest_ledger_time_ms` reaches `expires_at_ms`."""
    ahead_ms = expires_at_ms - record.ledger_time_ms
    # Rounded up, the estimate reaches `ahead_ms` as soon as it exceeds the millisecond before.
    before_ns = (ahead_ms - 1) * _PPM * _NS_PER_MS // (_PPM + record.rho_ppm)
    return record.granted_at_boottime_ns + before_ns + 1


def _latest_ms(record: AuthorityRecord, now: _Now, at: Position) -> int:
    """The latest that ledger time can be; never earlier than what the state itself says."""
    return max(at.ledger_time_ms, latest_ledger_time_ms(record, now.boottime_ns))


def _same(deny: Deny, queries: Sequence[CheckQuery], at: Position = NOWHERE) -> list[Checked]:
    return [Checked(deny, at, is_of_node=True)] * len(queries)


def _answer(
    decision: Decision,
    lease: Lease | None,
    record: AuthorityRecord,
    now: _Now,
    at: Position,
    *,
    origin: str,
) -> Checked:
    """The answer at `now`, at which the record is known to give authority. origin: of the ledger
    that was decided on."""
    if isinstance(decision, Deny):
        return Checked(decision, at)
    assert lease is not None, "what is permitted is a lease"
    ends_at, over = lease.expires_at, Deny(Reason.LEASE_EXPIRED, lease.id)
    if decision.lapse is not None and decision.lapse.at < ends_at:
        ends_at = decision.lapse.at
        over = Deny(Reason.ATTESTATION_STALE, decision.lapse.reference)
    lease_ms = ends_at - _latest_ms(record, now, at)
    if lease_ms <= 0:  # it ended while it was decided on
        return Checked(over, at)
    authority_ms = (record.deadline_ns - now.boottime_ns) // _NS_PER_MS
    ttl_ms = min(authority_ms, lease_ms, record.max_permit_ttl_ms)
    if ttl_ms <= 0:  # less than a millisecond of authority left: nothing that could be used
        return Checked(Deny(Reason.INQUORATE), at, is_of_node=True)
    ends_ns, things = expiry_ns(record, ends_at), things_of(lease, origin)
    return Checked(decision, at, ttl_ms, lease.fence, ends_ns, things=things)
