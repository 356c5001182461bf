"""The edge's connection to its core process.

Owns how a proposal's fate is told when the core is gone, hung or restarting: what certainly was
not proposed is a refusal, everything else that got no answer is unknown. Holds no state of the
ledger: a permit never comes through here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, Protocol

import grpc
import grpc.aio
import structlog

from quorate.api import convert
from quorate.api.errors import NotReadyError
from quorate.api.ports import Proposed
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.limits import MAX_MESSAGE_BYTES, MAX_SOCKET_PATH_BYTES
from quorate.core.outcome import Reason
from quorate.v1 import core_pb2, core_pb2_grpc, lease_pb2

CORE_SOCKET: Final = "core.sock"
CONNECT_MS: Final = 250
"""How long a proposal waits for a core that is just restarting."""
ANSWER_MARGIN_MS: Final = 100
"""How long before the end of a proposal's time the core gives up, so that its answer still
arrives; never more than a fifth of the time."""
REPORT_MS: Final = 2_000
"""How long a report of denials may take; it is tried again."""
_RECONNECT_FIRST_MS: Final = 20
_RECONNECT_LONGEST_MS: Final = 500
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", _RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", _RECONNECT_FIRST_MS),
    ("grpc.max_reconnect_backoff_ms", _RECONNECT_LONGEST_MS),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # A retry behind our back would make "certainly not proposed" a guess.
    ("grpc.enable_retries", 0),
)

_log = structlog.get_logger(__name__)


def core_socket(data_dir: Path) -> Path:
    """Where the core process of the node listens. Raises ConfigurationError when no socket can
    have that name."""
    path = data_dir / CORE_SOCKET
    if len(str(path).encode()) > MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"the path of the node's socket is longer than {MAX_SOCKET_PATH_BYTES} bytes: {path}",
            hint="choose a shorter node.data_dir",
        )
    return path


class DrainedReports(Protocol):
    """What the edge has to say (`quorate.api.watch.WatchHub`)."""

    async def drained_beyond(self, told: int) -> int:
        """The Raft index up to which everything is drained here, once it is larger than `told`."""
        ...


class CoreLink:
    """Made inside the event loop that uses it; `close` ends it."""

    def __init__(self, socket: Path, slot: int) -> None:
        """slot: which of the node's edges this is."""
        self._slot = slot
        self._channel = grpc.aio.secure_channel(
            f"unix:{socket}",
            grpc.local_channel_credentials(grpc.LocalConnectionType.UDS),
            options=_OPTIONS,
        )
        self._stub = core_pb2_grpc.CoreServiceStub(self._channel)

    async def propose(self, request: core_pb2.ProposeLeaseRequest, timeout_ms: int) -> Proposed:
        """What became of the proposal, within `timeout_ms`; never raises for a core that is gone.

        Sets the request's own timeout.
        """
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(min(CONNECT_MS, timeout_ms) / 1000):
                await self._channel.channel_ready()
        except TimeoutError:
            return Proposed(refused=Reason.INQUORATE, problem="the core process is not reachable")
        left_ms = max(2, timeout_ms - int((time.monotonic() - started_s) * 1000))
        request.timeout_ms = left_ms - min(ANSWER_MARGIN_MS, left_ms // 5 + 1)
        try:
            answer = await self._stub.ProposeLease(request, timeout=left_ms / 1000)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                # Both ends are of one version and validate alike: a fault of ours.
                raise
            _log.warning("the core process did not answer a proposal", code=error.code().name)
            return Proposed(problem=error.code().name)
        return _proposed(answer)

    async def report(
        self, request: core_pb2.ReportEventsRequest, timeout_ms: int
    ) -> lease_pb2.ReportResponse:
        """What the node has of a report. Raises NotReadyError when the core does not say: it may
        have it, and the same report again is harmless."""
        try:
            answer = await self._stub.ReportEvents(
                request, timeout=timeout_ms / 1000, wait_for_ready=True
            )
            return answer.report
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise
            _log.warning("the core process did not answer a report", code=error.code().name)
            raise NotReadyError("the node's core process did not answer") from error

    async def report_denials(self, request: core_pb2.ReportDenialsRequest) -> bool:
        """Whether all of it is durable."""
        try:
            await self._stub.ReportDenials(request, timeout=REPORT_MS / 1000)
        except grpc.aio.AioRpcError as error:
            _log.warning("denials wait for the core process", code=error.code().name)
            return False
        return True

    async def follow(self, moved: Callable[[], None], drained: DrainedReports) -> None:
        """Calls `moved` when the node's state has moved on, and after each reconnection, because
        it may have moved meanwhile; and says what `drained` tells. Runs until cancelled."""
        pause_ms = _RECONNECT_FIRST_MS
        connected = False
        while True:
            try:
                await self._channel.channel_ready()
                call = self._stub.Follow(self._reports(drained))
                async for _ in call:
                    if not connected:
                        _log.info("following the core process")
                    connected, pause_ms = True, _RECONNECT_FIRST_MS
                    moved()
                problem = "it ended the stream"
            except grpc.aio.AioRpcError as error:
                problem = error.code().name
            if connected:
                _log.warning("lost the core process", problem=problem)
            connected = False
            await asyncio.sleep(pause_ms / 1000)
            pause_ms = min(2 * pause_ms, _RECONNECT_LONGEST_MS)

    async def _reports(self, drained: DrainedReports) -> AsyncIterator[core_pb2.FollowRequest]:
        told = -1
        while True:
            told = await drained.drained_beyond(told)
            yield core_pb2.FollowRequest(slot=self._slot, drained_index=told)

    async def close(self) -> None:
        await self._channel.close()


def _proposed(answer: core_pb2.ProposeLeaseResponse) -> Proposed:
    """What the core said; an answer that contradicts itself leaves the outcome unknown."""
    try:
        outcome = convert.outcome_of_wire(answer.outcome) if answer.HasField("outcome") else None
        refused = convert.reason_of_wire(answer.reason)
    except MalformedError as error:
        _log.error("the core process gave a malformed answer", problem=str(error))
        return Proposed(problem=str(error))
    if answer.unknown + (outcome is not None) + (refused is not None) != 1:
        _log.error("the core process gave a contradictory answer")
        return Proposed(problem="contradictory answer")
    return Proposed(outcome=outcome, refused=refused, thing=answer.thing)
