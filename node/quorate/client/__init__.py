"""The executor's library: leases, permits, and nothing done without one.

    with Gate.open(Path("payments")) as gate:
        with gate.lease("payments.transfer", "//bank.example/accounts/payroll") as lease:
            for payment in payments:
                permit = lease.require()           # raises DeniedError(reason)
                book.write(payment, fence=permit.fence)

Everything that is not a whole and timely permit is a denial. The library imports the wire contract
and the core's vocabulary, never the server.
"""

from quorate.client.aio import AsyncGate, AsyncLease, AsyncLeasePool, AsyncWatch
from quorate.client.clock import Clock, Reading, SystemClock
from quorate.client.config import ClientConfig, load_config
from quorate.client.decisions import (
    AnyReason,
    Attested,
    Challenge,
    ClientReason,
    Delegated,
    Denied,
    DeniedError,
    Part,
    Permit,
    Recalled,
    Released,
    Reported,
)
from quorate.client.fences import FenceGuard, MemoryFenceGuard, SQLiteFenceGuard, StaleFenceError
from quorate.client.gate import Gate
from quorate.client.governed import current_permit, governed
from quorate.client.leases import Lease
from quorate.client.lineage import coming_from, current_lineage
from quorate.client.pool import LeasePool
from quorate.client.proving import prove_key
from quorate.client.watch import Watch
from quorate.client.watching import WatchEvent, WatchNotice
from quorate.core.lineage import EventType
from quorate.core.outcome import Reason

__all__ = [
    "AnyReason",
    "AsyncGate",
    "AsyncLease",
    "AsyncLeasePool",
    "AsyncWatch",
    "Attested",
    "Challenge",
    "ClientConfig",
    "ClientReason",
    "Clock",
    "Delegated",
    "Denied",
    "DeniedError",
    "EventType",
    "FenceGuard",
    "Gate",
    "Lease",
    "LeasePool",
    "MemoryFenceGuard",
    "Part",
    "Permit",
    "Reading",
    "Reason",
    "Recalled",
    "Released",
    "Reported",
    "SQLiteFenceGuard",
    "StaleFenceError",
    "SystemClock",
    "Watch",
    "WatchEvent",
    "WatchNotice",
    "coming_from",
    "current_lineage",
    "current_permit",
    "governed",
    "load_config",
    "prove_key",
]
