"""Leases that are held: a permit always at hand, and who is told when there is none.

Owns the rules, without any input or output: when a held lease is asked for again, when its renewal
is due, and when its holder is told to stop. `Gate` and `AsyncGate` do the asking.

A holder is told to stop when the node denies, when a watch says that the lease is interrupted, or,
when nothing is heard at all, at the end of the last permit that came: nobody acts later than that.
A stream or a call that breaks is no reason by itself; it is asked again at once.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from quorate.client.calls import Calls, Question
from quorate.client.clock import MAX_CLOCK_DRIFT_NS, Reading
from quorate.client.decisions import ClientReason, Denied, DeniedError, Permit
from quorate.client.facts import NS_PER_MS, LeaseFacts
from quorate.client.slot import PermitSlot
from quorate.client.watching import WatchEvent, WatchNotice
from quorate.core.limits import MAX_CHECKS_PER_BATCH
from quorate.v1 import lease_pb2

LONGEST_WAIT_MS: Final = 100
"""Between two looks at what is held. A wait goes on while the machine sleeps, the boot clock goes
on too: so late may a holder hear, after it has woken, that its permit is over."""
_FIRST_PAUSE_MS: Final = 25
_LONGEST_PAUSE_MS: Final = 1_000
_SHORTEST_RENEWAL_PAUSE_MS: Final = 1_000
_log: Final = logging.getLogger("quorate.client")

_OF_THIS_MACHINE: Final = frozenset(
    {ClientReason.EXPIRED_ON_ARRIVAL, ClientReason.CLOCK_STEP, ClientReason.CLOSED}
)
"""Denials of a permit that the node gave: it is asked for another."""

Told = Callable[[Permit | Denied], None]


@dataclass(frozen=True, slots=True, eq=False)
class Holder:
    """One who holds a lease, and is told what becomes of it."""

    lease_id: str
    tell: Told


@dataclass(slots=True, eq=False)
class Held:
    """One lease that is held, and how it stands.

    covering: the last permit that came, also after it was dropped: until its end, work that began
    under it may go on. None: its holders were told to stop, `last` says why.
    until_ns: the boot clock at the lease's end, as far as it is known; 0: not at all.
    """

    lease: LeaseFacts
    slot: PermitSlot
    ask_at_ns: int = 0
    covering: Permit | None = None
    holders: list[Holder] = field(default_factory=list)
    until_ns: int = 0
    renew_at_ns: int = 0
    lifetime_ns: int = 0
    is_asking: bool = False
    is_renewing: bool = False
    last: Denied = field(default_factory=lambda: Denied(ClientReason.LATE))
    pause_ms: int = _FIRST_PAUSE_MS


class Upkeep:
    """The leases that one gate holds. Safe to use from several threads; holders are told outside of
    its lock, in order."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._clock = calls.clock
        self._lock = threading.RLock()  # a signal's handler may close the gate at any moment
        self._telling = threading.RLock()
        self._held: dict[str, Held] = {}
        self._news: deque[tuple[Holder, Permit | Denied]] = deque()
        self._abandoned: Denied | None = None

    def hold(
        self,
        lease: LeaseFacts,
        slot: PermitSlot,
        permit: Permit,
        epoch: int,
        tell: Told,
        *,
        renew: bool,
    ) -> tuple[Holder, bool] | None:
        """Holds a lease from here on, or takes part in that; with whether it is the first. None:
        the lease was interrupted since the permit was asked for, in that epoch of its slot.

        tell: called with a denial when the holder is to stop, and with a permit
        when it may go on. renew: extends the lease before it expires, again and again; for all
        who hold it. Raises DeniedError when leases are kept no more.
        """
        holder = Holder(lease.id, tell)
        with self._lock:
            if self._abandoned is not None:
                raise DeniedError(self._abandoned)
            # Whoever tells of an interruption changes the epoch first, and then comes here: either
            # it is seen now, or the holder is told.
            if slot.epoch != epoch:
                return None
            held = self._held.get(lease.id)
            is_first = held is None
            if held is None:
                held = self._held[lease.id] = Held(lease, slot, until_ns=lease.until_ns)
            self._covered(held, permit)
            held.holders.append(holder)
            if renew and not held.renew_at_ns:
                self._renew_later(held)
        return holder, is_first

    def let_go(self, holder: Holder) -> bool:
        """The holder is told nothing any more. Returns whether nobody holds the lease now."""
        with self._lock:
            self._news = deque(each for each in self._news if each[0] is not holder)
            held = self._held.get(holder.lease_id)
            if held is None or holder not in held.holders:
                return False
            held.holders.remove(holder)
            if not held.holders:
                del self._held[holder.lease_id]
            return not held.holders

    # -- what is to be done ------------------------------------------------------------------

    def due(self) -> list[list[Question]]:
        """The checks that are to leave now, in batches as large as the node takes."""
        now_ns = self._clock.boottime_ns()
        with self._lock:
            if self._abandoned is not None:
                return []
            due = [h for h in self._held.values() if not h.is_asking and h.ask_at_ns <= now_ns]
            for held in due:
                held.is_asking = True
            questions = [self._calls.question(held.lease, held.slot, held) for held in due]
        size = MAX_CHECKS_PER_BATCH
        return [questions[at : at + size] for at in range(0, len(questions), size)]

    @property
    def has_due_renewals(self) -> bool:
        with self._lock:
            return bool(self._renewable())

    def due_renewals(self) -> list[Held]:
        """Those that are to be renewed now; each is to be `renewed`, whatever comes of it."""
        with self._lock:
            due = self._renewable()
            for held in due:
                held.is_renewing = True
            return due

    def _renewable(self) -> list[Held]:
        now_ns = self._clock.boottime_ns()
        return [
            held
            for held in self._held.values()
            # What is denied is not renewed: that would be an entry of the ledger, for nothing.
            if held.covering is not None
            and held.renew_at_ns
            and not held.is_renewing
            and held.renew_at_ns <= now_ns
        ]

    def lapse(self) -> None:
        """Tells the holders whose last permit is over, or not to be believed any more."""
        now = Reading.of(self._clock)
        with self._lock:
            for held in self._held.values():
                covering = held.covering
                if covering is None:
                    continue
                judged = covering.judge(now)
                if isinstance(judged, Denied):
                    is_late = judged.reason is ClientReason.EXPIRED_ON_ARRIVAL
                    self._stopped(held, held.last if is_late else judged)

    def wait_s(self) -> float | None:
        """How long nothing is to be done; None: as long as nothing is held."""
        now_ns = self._clock.boottime_ns()
        with self._lock:
            if not self._held:
                return None
            due = [now_ns + LONGEST_WAIT_MS * NS_PER_MS]
            for held in self._held.values():
                if not held.is_asking:
                    due.append(held.ask_at_ns)
                if held.covering is not None:
                    due.append(held.covering.expires_at_ns)
            return max(0, min(due) - now_ns) / 1e9

    # -- what came of it ---------------------------------------------------------------------

    def answered(self, questions: Sequence[Question], answer: lease_pb2.CheckBatchResponse) -> None:
        answers = self._calls.batch_answered(questions, answer)
        with self._lock:
            for question, each in zip(questions, answers, strict=True):
                self._take_in(question, each, is_said=True)

    def failed(self, questions: Sequence[Question], error: Exception) -> None:
        with self._lock:
            for question in questions:
                denied = self._calls.unanswered(question, error)
                self._take_in(question, denied, is_said=False)

    def renewed(self, held: Held, answer: LeaseFacts | Denied) -> None:
        now_ns = self._clock.boottime_ns()
        with self._lock:
            held.is_renewing = False
            if isinstance(answer, Denied):
                pause_ns = max(held.lifetime_ns // 12, _SHORTEST_RENEWAL_PAUSE_MS * NS_PER_MS)
                held.renew_at_ns = now_ns + pause_ns
            else:
                held.lease, held.until_ns = answer, answer.until_ns
                if held.covering is not None:
                    self._know_end(held, held.covering)
                self._renew_later(held)

    def heard(self, notices: Iterable[WatchNotice]) -> None:
        """What a watch says of held leases; its notices have dropped the permits already."""
        now_ns = self._clock.boottime_ns()
        with self._lock:
            for notice in notices:
                held = self._held.get(notice.lease_id)
                if held is None:
                    continue
                held.pause_ms = _FIRST_PAUSE_MS
                if notice.event in (WatchEvent.ACTIVE, WatchEvent.RESTORED):
                    if not held.slot.kept_until_ns():
                        held.ask_at_ns = now_ns
                elif notice.is_silence:
                    held.ask_at_ns = now_ns
                else:
                    reason = notice.reason or ClientReason.UNKNOWN_REASON
                    size = notice.ledger_size
                    self._stopped(held, Denied(reason, notice.thing, ledger_size=size))

    def abandon(self, reason: ClientReason, detail: str = "") -> None:
        """Nobody keeps leases any more: all holders are told to stop, and nothing more is held."""
        with self._lock:
            self._abandoned = Denied(reason, detail=detail)
            for held in self._held.values():
                self._stopped(held, self._abandoned)

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def tell(self) -> None:
        """Tells the holders what is new to them."""
        with self._telling:
            while True:
                with self._lock:
                    if not self._news:
                        return
                    holder, news = self._news.popleft()
                holder.tell(news)

    # -- inside ------------------------------------------------------------------------------

    def _take_in(self, question: Question, answer: Permit | Denied, *, is_said: bool) -> None:
        """is_said: the node has said something, if only what cannot be understood."""
        held = self._held.get(question.lease.id)
        if held is None or held is not question.asker:
            return
        held.is_asking = False
        now_ns = self._clock.boottime_ns()
        if isinstance(answer, Permit):
            # Else it was taken away since it came, and who did that may have been here already.
            if question.epoch == held.slot.epoch:
                self._covered(held, answer)
            else:
                held.ask_at_ns = now_ns
        elif answer.reason is ClientReason.INTERRUPTED:  # asked before the interruption
            held.ask_at_ns = now_ns
        else:
            held.last = answer
            held.ask_at_ns = now_ns + held.pause_ms * NS_PER_MS
            held.pause_ms = min(2 * held.pause_ms, _LONGEST_PAUSE_MS)
            if is_said and answer.reason not in _OF_THIS_MACHINE:
                self._stopped(held, answer)

    def _ask_again(self, permit: Permit) -> int:
        """When the permit after this one is asked for: with half of its life left to get it."""
        half_ns = (permit.expires_at_ns - permit.sent.boottime_ns) // 2
        soonest_ns = self._clock.boottime_ns() + _FIRST_PAUSE_MS * NS_PER_MS
        return max(permit.sent.boottime_ns + half_ns, soonest_ns)

    def _renew_later(self, held: Held) -> None:
        """With a third of the lease's life left, which the boot clock alone counts."""
        now_ns = self._clock.boottime_ns()
        left_ns = held.until_ns - now_ns
        held.lifetime_ns = max(left_ns, _SHORTEST_RENEWAL_PAUSE_MS * NS_PER_MS)
        held.renew_at_ns = now_ns + held.lifetime_ns * 2 // 3

    def _know_end(self, held: Held, permit: Permit) -> None:
        """Ledger time was what a permit says, or later. Where that leaves the lease less than is
        known of it, ledger time has jumped ahead, and the renewal comes sooner."""
        left_ms = held.lease.expires_at_ms - permit.ledger_time_ms
        latest_ns = self._clock.boottime_ns() + left_ms * NS_PER_MS
        if held.until_ns and held.until_ns - latest_ns <= MAX_CLOCK_DRIFT_NS:
            return
        held.until_ns = latest_ns
        if held.renew_at_ns:
            held.renew_at_ns = min(held.renew_at_ns, latest_ns - held.lifetime_ns // 3)

    def _covered(self, held: Held, permit: Permit) -> None:
        if self._abandoned is not None:
            return
        held.pause_ms = _FIRST_PAUSE_MS
        held.ask_at_ns = self._ask_again(permit)
        self._know_end(held, permit)
        held.last = Denied(ClientReason.LATE, held.lease.id, "no answer came in time")
        before, held.covering = held.covering, permit
        if before is None:
            self._news.extend((holder, permit) for holder in held.holders)

    def _stopped(self, held: Held, denied: Denied) -> None:
        before, held.covering = held.covering, None
        held.last = denied
        if before is not None:
            self._news.extend((holder, denied) for holder in held.holders)


def telling(on_change: Told | None) -> Told:
    """Tells a holder's own function; what it raises is logged, for the others are to be told."""

    def tell(news: Permit | Denied) -> None:
        if on_change is None:
            return
        try:
            on_change(news)
        except BaseException:  # noqa: BLE001 - another's program: the others are to be told, too
            _log.exception("on_change failed for lease %s", getattr(news, "lease_id", ""))

    return tell
