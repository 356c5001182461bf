"""The executor's library: leases, permits, and nothing done without one.

    with Gate.open(Path("payments")) as gate:
        with gate.lease("payments.transfer", "//bank.example/accounts/payroll") as lease:
            for payment in payments:
                permit = lease.require()           # raises DeniedError(reason)
                book.write(payment, fence=permit.fence)

Everything that is not a whole and timely permit is a denial. The library imports the wire contract
and the core's vocabulary, never the server.
"""

from quorate.client.clock import Clock, Reading, SystemClock
from quorate.client.config import ClientConfig, load_config
from quorate.client.decisions import (
    AnyReason,
    ClientReason,
    Denied,
    DeniedError,
    Permit,
    Released,
)
from quorate.client.gate import Gate
from quorate.client.leases import Lease
from quorate.client.watch import Watch
from quorate.client.watching import WatchEvent, WatchNotice
from quorate.core.outcome import Reason

__all__ = [
    "AnyReason",
    "ClientConfig",
    "ClientReason",
    "Clock",
    "Denied",
    "DeniedError",
    "Gate",
    "Lease",
    "Permit",
    "Reading",
    "Reason",
    "Released",
    "SystemClock",
    "Watch",
    "WatchEvent",
    "WatchNotice",
    "load_config",
]
