"""Hearing at once when a lease stops being good: what is said on the stream, both ways.

Owns the notices, what they do to cached permits, and the requests of one watch, without any input
or output. Notices can only take permits away: a restored lease is asked for anew, so a lost or late
notice costs speed and never safety.

A stream that broke is followed by another, which goes on where the one before was read to: what
happened in between is told, as if it had been heard at once. Where the node cannot tell it any more
(OUT_OF_RANGE), that is told instead, as lost authority, and the next stream begins anew.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import grpc

from quorate.client import wire
from quorate.client.decisions import AnyReason, ClientReason
from quorate.client.slot import PermitSlot
from quorate.core.limits import MAX_LEASES_PER_WATCH
from quorate.core.outcome import Reason
from quorate.v1 import decision_pb2, lease_pb2

_FIRST_PAUSE_MS: Final = 50
_LONGEST_PAUSE_MS: Final = 1_000
_LONG_S: Final = 5.0
"""A stream that lasted so long was well: the next one is opened soon."""


class WatchEvent(StrEnum):
    """What happened to a lease."""

    ACTIVE = "ACTIVE"  # the first report: it is good
    INTERRUPTED = "INTERRUPTED"  # no longer good, and the reason
    AUTHORITY_LOST = "AUTHORITY_LOST"  # the node denies everything, or cannot be heard
    RESTORED = "RESTORED"  # good again


_GOOD: Final = frozenset({WatchEvent.ACTIVE, WatchEvent.RESTORED})
_OF_ENTRIES: Final = frozenset({WatchEvent.INTERRUPTED, WatchEvent.RESTORED})
"""What is told again of an entry whose other notices were perhaps not read."""
_LOOKED: Final = frozenset({WatchEvent.ACTIVE, WatchEvent.AUTHORITY_LOST})
_REASONS_OF_ENTRIES: Final[frozenset[AnyReason | None]] = frozenset(
    {
        Reason.CONTAINED,
        Reason.DOMAIN_REVOKED,
        Reason.DOMAIN_SUSPENDED,
        Reason.EXECUTOR_REVOKED,
        Reason.EXECUTOR_SUSPENDED,
        Reason.FROZEN,
        Reason.GRANT_REVOKED,
        Reason.GRANT_SUSPENDED,
        Reason.LEASE_RELEASED,
        Reason.NO_POLICY_PERMITS,
        Reason.NO_TRUST,
        Reason.POLICY_BROKEN,
        Reason.POLICY_FORBIDS,
        ClientReason.UNKNOWN_REASON,
        None,
    }
)
"""With which an entry may have interrupted a lease; with any other, the node has looked at it."""
_EVENT_OF_WIRE: Final = {
    lease_pb2.WATCH_EVENT_ACTIVE: WatchEvent.ACTIVE,
    lease_pb2.WATCH_EVENT_INTERRUPTED: WatchEvent.INTERRUPTED,
    lease_pb2.WATCH_EVENT_AUTHORITY_LOST: WatchEvent.AUTHORITY_LOST,
    lease_pb2.WATCH_EVENT_RESTORED: WatchEvent.RESTORED,
}


@dataclass(frozen=True, slots=True)
class WatchNotice:
    """One thing that happened to one lease. `reason` is set when it is not good.

    is_silence: nobody said it; the stream broke, and it is not known how the lease stands.
    """

    lease_id: str
    event: WatchEvent
    reason: AnyReason | None
    thing: str = ""
    ledger_size: int = 0
    is_silence: bool = False


Send = Callable[[lease_pb2.WatchRequest], None]


class WatchTalk:
    """What one watch says and hears, over one stream after the other. Safe to use from several
    threads."""

    def __init__(self, session: str, slots: Mapping[str, PermitSlot] | None = None) -> None:
        """session: as it stands in the gate's checks. slots: by the lease's id."""
        self._session = session
        self._lock = threading.RLock()
        self._slots = dict(slots or {})
        self._send: Send | None = None
        self._heard: dict[str, WatchNotice] = {}
        """Of each lease, the newest notice that says where in the ledger it is."""
        self._repeats: dict[str, WatchNotice] = {}
        self._told_lost = False
        self._has_read = self._got_on = False
        """Of the present stream: whether anything was heard, and anything that was new."""
        self._is_over = False
        assert len(self._slots) <= MAX_LEASES_PER_WATCH

    def add(self, lease_id: str, slot: PermitSlot) -> bool:
        """Watches one more; False when there is no room."""
        with self._lock:
            if self._is_over or len(self._slots) >= MAX_LEASES_PER_WATCH:
                return False
            self._slots[lease_id] = slot
            if self._send is not None:
                self._send(lease_pb2.WatchRequest(lease_ids=[lease_id]))
            return True

    def forget(self, lease_id: str) -> None:
        """Watches it no more. The stream stays, for what is still to be acknowledged on it."""
        with self._lock:
            self._heard.pop(lease_id, None)
            self._repeats.pop(lease_id, None)
            if self._slots.pop(lease_id, None) is not None and self._send is not None:
                self._send(lease_pb2.WatchRequest(forget_lease_ids=[lease_id]))

    def begin(self, send: Send) -> bool:
        """A stream is about to open; `send` must not block. Says first what is watched. False when
        that is nothing any more: then the watch is over."""
        with self._lock:
            if not self._slots:
                self._is_over = True
                return False
            self._send = send
            self._has_read = self._got_on = False
            known = [each for each in self._slots if each in self._heard]
            fresh = [each for each in self._slots if each not in self._heard]
            first = lease_pb2.WatchRequest(
                lease_ids=known or fresh, after_size=self._go_on(), session=self._session
            )
            send(first)
            if known and fresh:  # what was before they were watched is nothing to them
                send(lease_pb2.WatchRequest(lease_ids=fresh))
            return True

    def _go_on(self) -> int:
        """From which size of the ledger the next stream goes on; 0: it begins. A node tells of all
        leases in the order of the ledger, so that all before the newest notice was read; of what
        the same entry did to other leases perhaps not, and then it is told again. What the node
        says because it has looked at a lease comes after all that entries did until there."""
        newest = max((each.ledger_size for each in self._heard.values()), default=0)
        told = {lease: each for lease, each in self._heard.items() if each.ledger_size == newest}
        is_whole = len(told) == len(self._heard) or any(map(_is_of_a_look, told.values()))
        self._repeats = {} if is_whole else told
        return newest if is_whole else max(1, newest - 1)

    def heard(self, answer: lease_pb2.WatchResponse) -> WatchNotice | None:
        """Takes permits away if it must. None: of a lease that is not watched any more."""
        with self._lock:
            slot = self._slots.get(answer.lease_id)
            send = self._send
            if slot is None or send is None:
                return None
            self._told_lost = False
            notice = _notice_of(answer)
            is_repeat = self._repeats.pop(notice.lease_id, None) == notice
            self._has_read, self._got_on = True, self._got_on or not is_repeat
            if notice.ledger_size:
                self._heard[notice.lease_id] = notice
        if is_repeat and notice.event in _OF_ENTRIES:
            return None
        if notice.event not in _GOOD:
            unused = lease_pb2.Acknowledgement(lease_id=answer.lease_id, size=answer.position.size)
            slot.interrupted(lambda: send(lease_pb2.WatchRequest(acknowledgements=[unused])))
        return notice

    def broken(self, error: Exception | None) -> list[WatchNotice]:
        """The stream is over, because of this; None: the node ended it. Every permit goes; a notice
        for each. Nothing of that when it was so already and nothing was heard since: permits of
        that time were had without a watch. But where something may have been missed, it is told:
        an interruption may be among it."""
        with self._lock:
            self._send = None
            slots = dict(self._slots)
            # Cut off again and again at the same place, it would never hear the rest.
            is_stuck = self._has_read and not self._got_on and _is_cut_off(error)
            is_missed = bool(self._heard) and (is_stuck or _cannot_go_on(error))
            if is_missed:
                self._heard.clear()
        if self._told_lost and not is_missed:
            return []
        self._told_lost = True
        for slot in slots.values():
            slot.drop()
        event = WatchEvent.AUTHORITY_LOST
        reason = ClientReason.MISSED if is_missed else reason_of_end(error)
        return [WatchNotice(each, event, reason, is_silence=not is_missed) for each in slots]


def _notice_of(answer: lease_pb2.WatchResponse) -> WatchNotice:
    event = _EVENT_OF_WIRE.get(answer.event)
    reason: AnyReason | None = None
    if event is None:  # unspecified, or of a newer node: taken as the worst
        event, reason = WatchEvent.AUTHORITY_LOST, ClientReason.MALFORMED_ANSWER
    elif answer.reason != decision_pb2.REASON_UNSPECIFIED:
        reason = wire.reason_of(answer.reason)
    return WatchNotice(answer.lease_id, event, reason, answer.thing, answer.position.size)


def _is_of_a_look(notice: WatchNotice) -> bool:
    """Certainly; else an entry may have been the cause."""
    if notice.reason is ClientReason.MALFORMED_ANSWER:  # an event that is not known
        return False
    return notice.event in _LOOKED or (
        notice.event is WatchEvent.INTERRUPTED and notice.reason not in _REASONS_OF_ENTRIES
    )


def _cannot_go_on(error: Exception | None) -> bool:
    return _code_of(error) is grpc.StatusCode.OUT_OF_RANGE


def _is_cut_off(error: Exception | None) -> bool:
    return _code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED


def _code_of(error: Exception | None) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, (grpc.Call, grpc.aio.AioRpcError)) else None


class Pauses:
    """Between the end of a stream and the next: longer each time, by chance so that not all who
    have lost the same node come back at once."""

    def __init__(self) -> None:
        self._next_ms = _FIRST_PAUSE_MS
        self._began_s = 0.0

    def begin(self) -> None:
        self._began_s = time.monotonic()

    def after_end_s(self) -> float:
        if time.monotonic() - self._began_s >= _LONG_S:
            self._next_ms = _FIRST_PAUSE_MS
        pause_ms, self._next_ms = self._next_ms, min(2 * self._next_ms, _LONGEST_PAUSE_MS)
        return pause_ms * random.uniform(0.5, 1.0) / 1_000  # noqa: S311 - no secret


def reason_of_end(error: Exception | None) -> AnyReason:
    """Why a stream is over; None: the node ended it."""
    return ClientReason.UNREACHABLE if error is None else wire.denial_of_error(error).reason
