"""A real gRPC server on loopback whose answers a test scripts, and a clock that a test turns."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from tests.servers import stop

from quorate.client import Clock, Gate, Lease
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

MS = 1_000_000
EXECUTOR = "spiffe://bank.example/agent/payments"
ACTION = "payments.transfer"
RESOURCE = "//bank.example/accounts/payroll"


class FakeClock:
    """Both clocks in step, until a test moves one of them."""

    def __init__(self) -> None:
        self.boot_ns = 1_000_000 * MS
        self.wall_ns = 5_000_000 * MS

    def boottime_ns(self) -> int:
        return self.boot_ns

    def realtime_ns(self) -> int:
        return self.wall_ns

    def advance(self, ms: float) -> None:
        self.boot_ns += int(ms * MS)
        self.wall_ns += int(ms * MS)


Handler = Callable[[Any, grpc.ServicerContext], Any]


class ScriptedNode(lease_pb2_grpc.LeaseServiceServicer):
    """Answers each method from its script, in order, and fails the call when there is none."""

    def __init__(self) -> None:
        self.script: dict[str, deque[Any]] = defaultdict(deque)
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.deadlines: list[float] = []
        self.watching = threading.Semaphore(0)
        self.acknowledged: queue.Queue[tuple[str, int]] = queue.Queue()
        self.later: queue.Queue[lease_pb2.WatchRequest] = queue.Queue()

    def then(self, method: str, *answers: Any) -> None:
        self.script[method].extend(answers)

    def _answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests[method].append(request)
        self.deadlines.append(context.time_remaining())
        if not self.script[method]:
            context.abort(grpc.StatusCode.INTERNAL, "the script is at its end")
        answer = self.script[method].popleft()
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "scripted")
        return answer(request, context) if callable(answer) else answer

    def Acquire(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Acquire", request, context)

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Check", request, context)

    def CheckBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("CheckBatch", request, context)

    def Renew(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Renew", request, context)

    def Release(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Release", request, context)

    def Delegate(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Delegate", request, context)

    def Recall(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Recall", request, context)

    def Report(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer("Report", request, context)

    def _hear(self, requests: Iterator[Any]) -> None:
        with contextlib.suppress(grpc.RpcError):  # the call is over
            for request in requests:
                if request.lease_ids or request.forget_lease_ids:
                    self.later.put(request)
                for each in request.acknowledgements:
                    self.acknowledged.put((each.lease_id, each.size))

    def Watch(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        request = next(requests)
        threading.Thread(target=self._hear, args=(requests,), daemon=True).start()
        self.requests["Watch"].append(request)
        self.watching.release()
        if not self.script["Watch"]:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the script is at its end")
        yield from self.script["Watch"].popleft()(request, context)


class World:
    """One scripted node, one gate to it, one clock."""

    def __init__(self) -> None:
        self.node = ScriptedNode()
        self.clock = FakeClock()
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        lease_pb2_grpc.add_LeaseServiceServicer_to_server(self.node, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.gate = self.open_gate(self.clock)

    def open_gate(self, clock: Clock, **settings: Any) -> Gate:
        channel = grpc.insecure_channel(
            f"127.0.0.1:{self.port}",
            options=(("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)),
        )
        return Gate(channel, executor=EXECUTOR, clock=clock, **settings)

    def lease(self) -> Lease:
        self.node.then("Acquire", granted())
        lease = self.gate.acquire(ACTION, RESOURCE)
        assert isinstance(lease, Lease)
        return lease

    def close(self) -> None:
        self.gate.close()
        stop(self.server)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def lease_message(**changes: Any) -> lease_pb2.Lease:
    fields: dict[str, Any] = {
        "id": "lease-7",
        "executor": EXECUTOR,
        "action": ACTION,
        "resource": RESOURCE,
        "fence": 7,
        "expires_at_ms": 1_000,
        "grant": "bank.example/g1",
    }
    return lease_pb2.Lease(**(fields | changes))


def granted(kind: Any = lease_pb2.AcquireResponse, **changes: Any) -> Any:
    return kind(
        verdict=decision_pb2.VERDICT_PERMIT,
        lease=lease_message(**changes),
        outcome=decision_pb2.Outcome(accepted=True, ledger_index=7),
    )


def permit(**changes: Any) -> lease_pb2.CheckResponse:
    fields: dict[str, Any] = {
        "verdict": decision_pb2.VERDICT_PERMIT,
        "ttl_ms": 800,
        "fence": 7,
        "position": decision_pb2.LedgerPosition(size=9, ledger_time_ms=5),
    }
    return lease_pb2.CheckResponse(**(fields | changes))
