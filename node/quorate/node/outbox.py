"""What a node has to tell the ledger: events of its executors' work, and what it had to deny.

Owns the records from when the node takes them in, with or without a quorum, until its own state
shows that the ledger has them: each is an entry once, in order, whatever crashes between (a
transactional outbox). Does not own their form and order (`quorate.core.lineage`), nor what the
ledger does with them (`quorate.core.reporting`).

The rows lie in the node's store, signed by the node. The first of them are *sealed*: they were, or
are about to be, in a command, and each has the head that the node's chain has with it. The state
has the head of what was executed. So the state says which rows are done: those up to the one with
that head. A head that no row has was made by a command of before this store began; then the rows
follow it. A command fits one head only, so that it is executed once, however often it is proposed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import structlog

from quorate.consensus import Replica
from quorate.core import codec, dsse
from quorate.core.decision import held_lease
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.limits import MAX_EVENTS_PER_LEASE, MAX_RECORD_BYTES, MAX_RECORDS_PER_COMMAND
from quorate.core.lineage import (
    NO_HEAD,
    RECORD_TYPE,
    Denials,
    Event,
    Record,
    Stage,
    chained,
    encoded,
    next_stage,
    parse_record,
)
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.core.records import Lease
from quorate.core.state import StateView
from quorate.core.verbs import Verb
from quorate.node.lease_commands import LeaseCommands
from quorate.node.machine import proposal_key
from quorate.proofs.signing import SigningKey
from quorate.storage import Turn

log = structlog.get_logger(__name__)

MAX_RECORDS: Final = 10_000
MAX_BYTES: Final = 16 * 1024 * 1024
EXECUTORS_SHARE: Final = 4
"""One executor's events may fill one part in so many: others have something to tell, too."""
MAX_KINDS_OF_DENIALS: Final = 4_000
"""Beyond it, denials are counted by method and reason only. The rest of the room is for events."""
PATIENCE_S: Final = 10.0
"""How long a command that was proposed is waited for before it is proposed anew."""
RETRY_S: Final = 30.0
"""When to try again what the ledger has denied."""
RETRY_EXPIRED_S: Final = 1.0
"""The same, when ledger time had gone on further than this node knew: by now it knows."""
_BATCH_BYTES: Final = 8 * 1024
"""Records of one command; base64 and the rest make it a third more (MAX_ENVELOPE_BYTES)."""

MAX_ROWS: Final = 2**31
"""More than can ever wait."""
_HEAD_BYTES: Final = 32
_UNSEALED: Final = bytes(_HEAD_BYTES)

assert _BATCH_BYTES >= MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Taken:
    """Events that were taken in. ticket: durable when this one is. head, stage: of the lease, with
    them."""

    ticket: int
    head: str
    stage: Stage


@dataclass(frozen=True, slots=True)
class Work:
    """How far the work under a lease has come, with what the ledger does not have yet."""

    stage: Stage
    events: int
    head: str
    waiting: int = 0

    def after(self, event: Event) -> Work | Reason:
        """With one event more, which waits for the ledger; or why that cannot be."""
        stage = next_stage(self.stage, event.type)
        if stage is None:
            return Reason.ILLEGAL_TRANSITION
        if self.events >= MAX_EVENTS_PER_LEASE:
            return Reason.LIMIT_EXCEEDED
        return Work(stage, self.events + 1, chained(self.head, [event.said]), self.waiting + 1)


@dataclass(slots=True)
class Row:
    """A record as it lies in the store. head: of the node's chain with it; empty: not sealed."""

    seq: int
    record: Record
    payload: bytes
    signature: bytes
    head: str = NO_HEAD

    def to_bytes(self) -> bytes:
        head = bytes.fromhex(self.head) if self.head else _UNSEALED
        return head + self.signature + self.payload

    @classmethod
    def parse(cls, seq: int, data: bytes) -> Row:
        """Raises StorageDamagedError."""
        head, rest = data[:_HEAD_BYTES], data[_HEAD_BYTES:]
        signature, payload = rest[: dsse.SIGNATURE_BYTES], rest[dsse.SIGNATURE_BYTES :]
        try:
            record = parse_record(codec.decode(payload, MAX_RECORD_BYTES))
        except MalformedError as error:
            raise StorageDamagedError(f"row {seq} of the outbox is no record: {error}") from error
        return cls(seq, record, payload, signature, "" if head == _UNSEALED else head.hex())


@dataclass(frozen=True, slots=True)
class _Flight:
    """A command that was proposed. until_s: when it is proposed anew, on the boot clock."""

    key: bytes
    until_s: float


Kind = tuple[str, str, str, Reason]
"""Of denials that are counted together: executor, method, lease, reason."""


class Outbox:
    """One node's. Between turns it takes in (`report`, `deny`); `tick` is called in each turn, and
    `executed` when a turn is durable. `load` begins anew with what is durable."""

    def __init__(
        self, turn: Turn, commands: LeaseCommands, key: SigningKey, now_s: Callable[[], float]
    ) -> None:
        self._turn = turn
        self._commands = commands
        self._key = key
        self._now_s = now_s
        self._ticket = self._written = 0
        self.load()

    def load(self) -> None:
        """Forgets what is not durable."""
        self._rows: deque[Row] = deque()
        self._bytes = 0
        self._next = self._turn.outbox_next()
        self._works: dict[str, Work] = {}
        self._shares: dict[str, tuple[int, int]] = {}  # records and bytes of each executor's events
        self._denials: dict[Kind, Row] = {}  # those that may yet be added to
        self._unwritten: dict[int, Row] = {}
        self._written = self._ticket  # whoever waited for more was told that it is lost
        self._flight: _Flight | None = None
        self._retry_s = 0.0
        self._denied = 0
        rows = [Row.parse(seq, data) for seq, data in self._turn.outbox(0, MAX_ROWS)]
        head = self._state.lineage_head(self._commands.node_id)
        done = _done(rows, head)
        self._done = rows[done - 1].seq if done else None
        for row in rows[done:]:
            self._keep(row)

    @property
    def _state(self) -> StateView:
        """As the turn leaves it: this process is the only one that writes."""
        return StateView(self._turn.state)

    @property
    def waiting(self) -> int:
        """How many records the ledger does not have yet."""
        return len(self._rows)

    @property
    def kept(self) -> int:
        """The newest ticket that the turn has written; durable when that is."""
        return self._written

    # -- what comes in -----------------------------------------------------------------------

    def report(self, events: Sequence[Event], after: str | None) -> Taken | Deny:
        """Takes in events of one executor's work under one lease: all or none.

        after: the head that they follow; None: any. A repeat with the same head is the same again.
        """
        lease = held_lease(self._state, events[0].lease, events[0].executor)
        if isinstance(lease, Deny):
            return lease
        node = self._state.node(self._commands.node_id)
        if node is None or node.retired:  # what it signs is denied: nothing gets out any more
            return Deny(Reason.NODE_RETIRED, self._commands.node_id)
        work = self._work(lease)
        if after is not None and after != work.head:
            if chained(after, [event.said for event in events]) != work.head:
                return Deny(Reason.OUT_OF_ORDER, work.head)
            return Taken(self._ticket, work.head, work.stage)
        size = sum(len(encoded(event)) for event in events)
        if len(self._rows) + len(events) > MAX_RECORDS or self._bytes + size > MAX_BYTES:
            return Deny(Reason.LIMIT_EXCEEDED, "outbox")
        records, held = self._shares.get(lease.executor, (0, 0))
        if (
            records + len(events) > MAX_RECORDS // EXECUTORS_SHARE
            or held + size > MAX_BYTES // EXECUTORS_SHARE
        ):
            return Deny(Reason.LIMIT_EXCEEDED, lease.executor)
        for event in events:
            later = work.after(event)
            if isinstance(later, Reason):
                return Deny(later, event.type)
            work = later
        for event in events:
            self._write(self._keep(self._row(self._next, event)))
        return Taken(self._ticket, work.head, work.stage)

    def _work(self, lease: Lease) -> Work:
        return self._works.get(lease.id) or Work(lease.stage, lease.events, lease.lineage)

    def deny(self, denials: Iterable[Denials]) -> int:
        """Takes in what was denied; returns the ticket with which it is durable. What no command
        has yet is added to."""
        for item in denials:
            kind: Kind = (item.executor, item.method, item.lease, item.reason)
            if kind not in self._denials and len(self._denials) >= MAX_KINDS_OF_DENIALS:
                kind = ("", item.method, "", item.reason)
                item = replace(item, executor="", lease="")  # noqa: PLW2901
            known = self._denials.get(kind)
            if known is None:
                self._write(self._keep(self._row(self._next, item)))
            else:
                self._add(known, item)
        return self._ticket

    def _add(self, row: Row, item: Denials) -> None:
        assert isinstance(row.record, Denials)
        total = replace(
            row.record,
            count=row.record.count + item.count,
            last_at=max(row.record.last_at, item.last_at),
        )
        added = self._row(row.seq, total)
        self._bytes += len(added.payload) - len(row.payload)
        row.record, row.payload, row.signature = total, added.payload, added.signature
        self._write(row)

    def _row(self, seq: int, record: Record) -> Row:
        payload = encoded(record)
        return Row(seq, record, payload, self._key.sign(dsse.pae(RECORD_TYPE, payload)))

    def _keep(self, row: Row) -> Row:
        """Takes a row into the account of what waits."""
        self._rows.append(row)
        self._next = row.seq + 1
        self._bytes += len(row.payload)
        record = row.record
        if isinstance(record, Denials):
            if not row.head:
                self._denials[record.executor, record.method, record.lease, record.reason] = row
            return row
        self._share(row, record, +1)
        lease = self._state.lease(record.lease)
        if lease is not None:
            work = self._work(lease)
            later = work.after(record)
            if not isinstance(later, Work):  # the ledger will refuse it; until then it waits
                later = replace(work, waiting=work.waiting + 1)
            self._works[record.lease] = later
        return row

    def _share(self, row: Row, event: Event, by: int) -> None:
        """One event more, or less, of an executor waits."""
        records, held = self._shares.get(event.executor, (0, 0))
        share = records + by, held + by * len(row.payload)
        self._shares[event.executor] = share
        if not share[0]:
            del self._shares[event.executor]

    def _write(self, row: Row) -> None:
        self._unwritten[row.seq] = row
        self._ticket += 1

    # -- a turn ------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        """Whether a turn would write something."""
        return bool(self._unwritten) or self._done is not None

    def next_due_s(self) -> float:
        """When a turn has something to do without any event, on the boot clock."""
        if self._flight is not None:
            return self._flight.until_s
        return self._retry_s if self._rows and self._retry_s > self._now_s() else float("inf")

    def tick(self, replica: Replica, *, may_propose: bool, ledger_time_ms: int) -> bool:
        """Within a turn, when consensus has run: writes what came in, drops what the ledger has,
        and proposes what is next. may_propose: the node holds authority; without, a command would
        wait for a quorum, and nothing could be added to its records. Returns whether it did."""
        self._flush()
        if self._rows:
            self._settle(self._state.lineage_head(self._commands.node_id))
        now_s = self._now_s()
        if self._flight is not None and now_s >= self._flight.until_s:
            replica.forget(self._flight.key)
            self._flight = None
        if self._rows and self._flight is None and may_propose and now_s >= self._retry_s:
            return self._propose(replica, ledger_time_ms, now_s)
        return False

    def executed(self, key: bytes, outcome: Outcome) -> None:
        """A command has its outcome, and the turn is durable."""
        if self._flight is None or key != self._flight.key:
            return
        self._flight = None
        if not outcome.accepted and outcome.reason is not Reason.OUT_OF_ORDER:
            log.error("outbox.denied", reason=outcome.reason, thing=outcome.thing)
            is_expired = outcome.reason is Reason.EXPIRED_COMMAND
            self._retry_s = self._now_s() + (RETRY_EXPIRED_S if is_expired else RETRY_S)
            self._denied += 1

    def _flush(self) -> None:
        if self._done is not None:
            self._turn.outbox_drop(self._done)
            self._done = None
        appended = self._turn.outbox_next()
        for seq in sorted(self._unwritten):
            row = self._unwritten[seq]
            if seq < appended:
                self._turn.outbox_replace(seq, row.to_bytes())
            else:
                self._turn.outbox_append(row.to_bytes())
        self._unwritten.clear()
        self._written = self._ticket

    def _settle(self, head: str) -> None:
        """Drops the rows that the ledger has, of which the chain's head is `head`."""
        sealed = self._sealed()
        done = _done(sealed, head)
        if done:
            self._drop(done)
        elif sealed and chained(head, [sealed[0].payload]) != sealed[0].head:
            # The ledger has what this store does not know of: the rows follow that.
            for row in sealed:
                row.head = NO_HEAD
                self._write(row)
            self._flush()

    def _sealed(self) -> list[Row]:
        sealed = []
        for row in self._rows:
            if not row.head:
                break
            sealed.append(row)
        return sealed

    def _drop(self, count: int) -> None:
        for _ in range(count):
            row = self._rows.popleft()
            self._bytes -= len(row.payload)
            if isinstance(row.record, Event):
                self._share(row, row.record, -1)
                self._arrived(row.record.lease)
        self._turn.outbox_drop(row.seq)

    def _arrived(self, lease: str) -> None:
        """The ledger has an event more; when it has all, its state says how far the work is."""
        work = self._works.get(lease)
        if work is None:
            return
        if work.waiting > 1:
            self._works[lease] = replace(work, waiting=work.waiting - 1)
        else:
            del self._works[lease]

    def _propose(self, replica: Replica, ledger_time_ms: int, now_s: float) -> bool:
        after = self._state.lineage_head(self._commands.node_id)
        batch: list[Row] = []
        size = 0
        for row in islice(self._rows, MAX_RECORDS_PER_COMMAND):
            size += len(row.payload)
            if batch and size > _BATCH_BYTES:
                break
            batch.append(row)
        head = after
        for row in batch:
            head = chained(head, [row.payload])
            if row.head != head:
                row.head = head
                self._turn.outbox_replace(row.seq, row.to_bytes())
            if isinstance(row.record, Denials):
                record = row.record
                kind = (record.executor, record.method, record.lease, record.reason)
                if self._denials.get(kind) is row:
                    del self._denials[kind]
        envelope = self._commands.build(
            Verb.LINEAGE_APPEND,
            {"after": after, "records": [row.record.to_json() for row in batch]},
            # A repeat is the same command. What was denied is another one, or it is answered again.
            hashlib.sha256(f"{after} {head} {self._denied}".encode("ascii")).hexdigest(),
            ledger_time_ms,
        )
        key = proposal_key(envelope)
        if not replica.propose(key, envelope):
            self._retry_s = now_s + PATIENCE_S
            return False
        self._flight = _Flight(key, now_s + PATIENCE_S)
        return True


def _done(rows: Sequence[Row], head: str) -> int:
    """How many rows the ledger has, of which the chain's head is `head`. A chain that is empty has
    no row, and a row that is not sealed is in none."""
    return next((place for place, row in enumerate(rows, 1) if head and row.head == head), 0)
