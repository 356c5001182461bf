"""Denials as gRPC has them: a status with details on the wire, an RpcError in the program.

Owns both forms. The status says reason and thing, and not the denial's detail: that is for people
of this program, and may name addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from quorate.client.decisions import ClientReason, Denied, DeniedError
from quorate.client.lineage import HEADER

LEASE_METADATA_KEY: Final = HEADER
"""With the id of the lease that an outgoing RPC is made under. It proves nothing."""
ERROR_DOMAIN: Final = "quorate"
LATE: Final = "no lease within the time of the call"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an RPC is not made, not run, or ended. lease_id: empty when there was no lease yet."""

    denied: Denied
    lease_id: str = ""
    code: grpc.StatusCode = grpc.StatusCode.PERMISSION_DENIED

    @property
    def message(self) -> str:
        thing = f" ({self.denied.thing})" if self.denied.thing else ""
        return f"denied: {self.denied.reason}{thing}"

    def status(self) -> grpc.Status:
        """With google.rpc.ErrorInfo: the reason, and which thing and lease it is about."""
        about = {"thing": self.denied.thing, "lease": self.lease_id}
        info = error_details_pb2.ErrorInfo(
            reason=str(self.denied.reason),
            domain=ERROR_DOMAIN,
            metadata={name: value for name, value in about.items() if value},
        )
        packed = any_pb2.Any()
        packed.Pack(info)
        return _status(self.code, self.message, packed)


def no_lineage(error: ValueError) -> Refusal:
    """A call that names as its lineage what can be none."""
    denied = Denied(ClientReason.INVALID_REQUEST, HEADER, str(error))
    return Refusal(denied, code=grpc.StatusCode.INVALID_ARGUMENT)


def ungovernable(problem: str) -> grpc.Status:
    """A handler that cannot be run under a lease is not run at all."""
    return _status(grpc.StatusCode.INTERNAL, f"denied: {problem}")


def _status(code: grpc.StatusCode, message: str, *details: any_pb2.Any) -> grpc.Status:
    status: grpc.Status = rpc_status.to_status(
        status_pb2.Status(code=code.value[0], message=message, details=details)
    )
    return status


class AsyncCallDeniedError(DeniedError, grpc.aio.AioRpcError):
    """An outgoing RPC was not made, or was ended, because its lease denies it."""

    def __init__(self, refusal: Refusal) -> None:
        DeniedError.__init__(self, refusal.denied)
        self.refusal = refusal
        status = refusal.status()
        grpc.aio.AioRpcError.__init__(
            self,
            status.code,
            initial_metadata=grpc.aio.Metadata(),
            trailing_metadata=grpc.aio.Metadata(*status.trailing_metadata),
            details=status.details,
        )

    def __str__(self) -> str:
        return f"denied: {self.denied}"

    def __reduce__(self) -> tuple[type[Self], tuple[Refusal]]:
        return type(self), (self.refusal,)


class _EndedCall(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call that was not made, or was ended here. Where a call is returned before it has ended, it
    is that call, and has failed."""

    _status: grpc.Status

    def code(self) -> grpc.StatusCode:
        return self._status.code

    def details(self) -> str:
        return self._status.details

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return ()

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:  # type: ignore[override]
        return self._status.trailing_metadata

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        raise self

    def exception(self, timeout: float | None = None) -> Exception:
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        return self.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        fn(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> NoReturn:
        raise self


class CallDeniedError(DeniedError, _EndedCall):
    """An outgoing RPC was not made, or was ended, because its lease denies it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.denied)
        self.refusal = refusal
        self._status = refusal.status()

    def __reduce__(self) -> tuple[type[Self], tuple[Refusal]]:
        return type(self), (self.refusal,)


class LateCallError(_EndedCall):
    """An outgoing RPC was not made, for its time was over when there was a lease."""

    def __init__(self) -> None:
        super().__init__(LATE)
        self._status = _status(grpc.StatusCode.DEADLINE_EXCEEDED, LATE)
