"""gRPC under leases: an RPC runs only under one, and is ended, mid-stream too, when trust goes.

    interceptor = AsyncLeaseServerInterceptor(pool, by_method({
        "/bank.Inbox/Receive": Act("records.receive", "//bank.example/books/inbox"),
        "/grpc.health.v1.Health/*": EXEMPT,
    }))
    server = grpc.aio.server(interceptors=[interceptor])

For servers and for clients, for asyncio and for threads. docs/services.md says what each can do.
"""

from quorate.client.governed import EXEMPT, Act, Exempt, Rule
from quorate.client.interceptors.aio_client import AsyncLeaseClientInterceptors
from quorate.client.interceptors.aio_server import AsyncLeaseServerInterceptor
from quorate.client.interceptors.client import LeaseChannel
from quorate.client.interceptors.refusals import (
    LEASE_METADATA_KEY,
    AsyncCallDeniedError,
    CallDeniedError,
)
from quorate.client.interceptors.rules import Outgoing, by_method
from quorate.client.interceptors.server import LeaseServerInterceptor

__all__ = [
    "EXEMPT",
    "LEASE_METADATA_KEY",
    "Act",
    "AsyncCallDeniedError",
    "AsyncLeaseClientInterceptors",
    "AsyncLeaseServerInterceptor",
    "CallDeniedError",
    "Exempt",
    "LeaseChannel",
    "LeaseServerInterceptor",
    "Outgoing",
    "Rule",
    "by_method",
]
