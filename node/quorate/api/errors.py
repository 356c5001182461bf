"""The errors that a service answers with, as exceptions, and their form on the wire.

Owns the mapping to gRPC status codes and google.rpc details. A denial is not among them: it is an
answer with gRPC status OK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

DETAILS_METADATA_KEY: Final = "grpc-status-details-bin"
MAX_VIOLATIONS_REPORTED: Final = 32
"""A request of 256 malformed checks must not be answered with trailers past the peer's limit."""
ERROR_DOMAIN: Final = "quorate"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field at fault: `field` is a dotted path (`checks[3].lease_id`)."""

    field: str
    problem: str


class ServiceError(Exception):
    """Root of what a handler raises to answer with an error; becomes that status, nothing else."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def details(self) -> list[any_pb2.Any]:
        """The google.rpc messages that go with the status."""
        return []


class InvalidRequestError(ServiceError):
    """The request breaks the contract; names every field that does."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, violations: Sequence[Violation]) -> None:
        assert violations
        first, more = violations[0], len(violations) - 1
        also = f" (and {more} more)" if more else ""
        super().__init__(f"{first.field}: {first.problem}{also}")
        self.violations = tuple(violations)

    def details(self) -> list[any_pb2.Any]:
        return [_pack(_bad_request(self.violations))]


class OutOfRangeError(ServiceError):
    """The request is well formed, and asks for what the ledger does not have (yet)."""

    code = grpc.StatusCode.OUT_OF_RANGE

    def __init__(self, violation: Violation) -> None:
        super().__init__(f"{violation.field}: {violation.problem}")
        self.violation = violation

    def details(self) -> list[any_pb2.Any]:
        return [_pack(_bad_request((self.violation,)))]


class UnauthenticatedError(ServiceError):
    """The connection does not say who the caller is."""

    code = grpc.StatusCode.UNAUTHENTICATED


class NotPermittedError(ServiceError):
    """The caller is known, and this service is not for it."""

    code = grpc.StatusCode.PERMISSION_DENIED


class TooManyError(ServiceError):
    """A limit of this node is reached. `limit` names it."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(message)
        self.limit = limit

    def details(self) -> list[any_pb2.Any]:
        info = error_details_pb2.ErrorInfo(
            reason="LIMIT_REACHED", domain=ERROR_DOMAIN, metadata={"limit": self.limit}
        )
        return [_pack(info)]


class NotVouchedError(ServiceError):
    """The node may have forgotten what it vouched for, and vouches for nothing until it has been
    readmitted; the same request to another node may succeed."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class NotReadyError(ServiceError):
    """The node is starting, or stopping; the same request may succeed soon."""

    code = grpc.StatusCode.UNAVAILABLE


def to_trailers(error: ServiceError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries the error's details (the gRPC rich error model)."""
    details = error.details()
    if not details:
        return ()
    status = status_pb2.Status(code=error.code.value[0], message=error.message, details=details)
    return ((DETAILS_METADATA_KEY, status.SerializeToString()),)


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=violation.field, description=violation.problem
            )
            for violation in violations[:MAX_VIOLATIONS_REPORTED]
        ]
    )


def _pack(message: error_details_pb2.BadRequest | error_details_pb2.ErrorInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
