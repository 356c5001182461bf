"""The executor's library for asyncio: the same gate, leases and rules, awaited.

    async with AsyncGate.open(Path("payments")) as gate:
        async with gate.lease("payments.transfer", "//bank.example/accounts/payroll") as lease:
            async for payment in payments:
                permit = await lease.require()     # raises DeniedError(reason)
                await book.write(payment, fence=permit.fence)

The block is cancelled when the lease is interrupted, and raises DeniedError then.
"""

from quorate.client.aio.gate import AsyncGate
from quorate.client.aio.leases import AsyncLease
from quorate.client.aio.pool import AsyncLeasePool
from quorate.client.aio.watch import AsyncWatch

__all__ = ["AsyncGate", "AsyncLease", "AsyncLeasePool", "AsyncWatch"]
