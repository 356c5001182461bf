"""A node with one lease to check, whose word, store and clocks a test can disturb between the steps
of the check path.

Owns nothing that a node runs on: everything is in memory, and stands still until the test moves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

from quorate.core.store import Reader
from quorate.lease.check import LeaseChecker
from quorate.lease.word import AuthorityRecord
from quorate.testing.builders import Federation, Ledger, acquire_body, grant_body
from quorate.testing.clock import FakeClock

BOOT = bytes(range(16))
PERIOD_NS = 2_000_000_000
MS = 1_000_000
EXECUTOR = "spiffe://bank.example/agent/payments"
ACTION = "payments.transfer"
RESOURCE = "//bank.example/accounts/payroll"


def nothing() -> None:
    """A hook that does nothing."""


@dataclass
class HookedReader:
    """A state whose first read lets a test act."""

    inner: Reader
    on_read: Callable[[], None]

    def get(self, key: bytes) -> bytes | None:
        hook, self.on_read = self.on_read, nothing
        hook()
        return self.inner.get(key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self.inner.scan(prefix, start)


@dataclass
class Snapshot:
    state: Reader
    applied_index: int
    entries: list[bytes]

    @property
    def ledger_size(self) -> int:
        return len(self.entries)

    def ledger_entries(self, first: int, limit: int) -> list[bytes]:
        return self.entries[first : first + limit]


@dataclass
class World:
    """A node with one lease: its word, its store and its clocks, each with hooks.

    before_open, during, before_close: run before the snapshot is opened, at the first read of its
    state, and before it is closed.
    """

    ledger: Ledger
    lease_id: str
    clock: FakeClock = field(default_factory=FakeClock)
    record: AuthorityRecord | None = None
    applied_index: int = 7
    before_open: Callable[[], None] = nothing
    during: Callable[[], None] = nothing
    before_close: Callable[[], None] = nothing
    open_snapshots: int = 0
    opened: int = 0
    words_read: int = 0
    damaged: int = 0

    @property
    def checker(self) -> LeaseChecker:
        return LeaseChecker(Word(self), lambda: Source(self), self.clock, BOOT, self.on_damaged)

    def on_damaged(self) -> None:
        self.damaged += 1

    def grant(self, **changes: object) -> AuthorityRecord:
        """Authority from this moment on."""
        now = self.clock.boottime_ns()
        record = AuthorityRecord(
            boot_id=BOOT,
            deadline_ns=now + PERIOD_NS,
            granted_at_boottime_ns=now,
            granted_at_realtime_ns=self.clock.realtime_ns(),
            term=3,
            index=7,
            ledger_time_ms=self.ledger.now,
            max_permit_ttl_ms=1_000,
            rho_ppm=10_000,
        )
        self.record = replace(record, **changes)  # type: ignore[arg-type]
        return self.record

    def revoke_executor(self) -> None:
        self.govern_executor("revoke")

    def govern_executor(self, act: str) -> None:
        """act: suspend, reinstate or revoke."""
        applied = self.ledger.run("bank.example", f"executor.{act}", {"executor": EXECUTOR})
        assert applied.outcome.accepted, applied.outcome

    # -- the word -----------------------------------------------------------------------------

    def word_read(self) -> AuthorityRecord | None:
        self.words_read += 1
        return self.record

    # -- the store ----------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        self.before_open()
        # What LMDB does: a snapshot shows what was committed when it was opened.
        frozen = Ledger(self.ledger.federation)
        for key, value in self.ledger.store.items():
            frozen.store.put(key, value)
        self.opened += 1
        self.open_snapshots += 1
        yield Snapshot(
            HookedReader(frozen.store, self.during), self.applied_index, list(self.ledger.entries)
        )
        self.before_close()
        self.open_snapshots -= 1


class Word:
    def __init__(self, world: World) -> None:
        self.world = world

    def read(self) -> AuthorityRecord | None:
        return self.world.word_read()


class Source:
    def __init__(self, world: World) -> None:
        self.world = world

    def read(self) -> AbstractContextManager[Snapshot]:
        return self.world.snapshot()


def make_world(ttl_ms: int = 60_000) -> World:
    """A node that holds authority from now on, with a lease of `ttl_ms`."""
    ledger = Ledger(Federation.build())
    ledger.run("bank.example", "executor.register", {"executor": EXECUTOR})
    ledger.run(
        "bank.example", "grant.issue", grant_body("g", EXECUTOR, ["//bank.example/accounts/*"])
    )
    acquired = ledger.run(
        "spiffe://bank.example/node/1",
        "lease.acquire",
        acquire_body(EXECUTOR, ACTION, RESOURCE, ttl_ms),
    )
    assert acquired.outcome.accepted, acquired.outcome
    world = World(ledger, str(acquired.outcome.result["lease"]))
    world.grant()
    return world
