"""What an executor asks of the ledger, until it is settled.

Owns the repeating of a request, as the same one, until an answer carries the ledger's outcome.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import grpc

from quorate.cli.connection import Connection
from quorate.cli.errors import (
    InterruptedOutcomeError,
    UnknownOutcomeError,
    interruptions,
)
from quorate.cli.submit import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    NEVER_EXECUTED,
    QUERY_TIMEOUT_MS,
    reason_name,
)
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_REQUEST_ID_CHARS
from quorate.v1 import decision_pb2


def new_request_id() -> str:
    return uuid.uuid4().hex


def settle(
    connection: Connection,
    method: Callable[..., Any],
    request: Any,
    timeout: int,
    *,
    same: str = "",
) -> Any:
    """The answer that settles a request: one with the ledger's outcome, or a refusal of the only
    attempt. Raises UnknownOutcomeError when there is none in time.

    same: the options without which a repeat would ask for something else.
    """
    if len(request.request_id) > MAX_REQUEST_ID_CHARS:
        raise MalformedError(f"a request id has at most {MAX_REQUEST_ID_CHARS} characters")
    connection.probe(min(timeout, QUERY_TIMEOUT_MS))
    again = f"--request-id {request.request_id} {same}".rstrip()
    hint = f"repeat it with {again}: it cannot happen twice"
    details: dict[str, object] = {"request_id": request.request_id}
    interrupted = "interrupted: it is not known whether the ledger grants this"
    with interruptions(lambda: InterruptedOutcomeError(interrupted, hint=hint, details=details)):
        answer, last = _repeat(connection, method, request, timeout)
    if answer is None:
        message = f"it is not known whether the ledger granted this ({last})"
        raise UnknownOutcomeError(message, hint=hint, details=details)
    return answer


def _repeat(
    connection: Connection, method: Callable[..., Any], request: Any, timeout: int
) -> tuple[Any, str]:
    """The answer that settles a request, or None in time; and what was heard last."""
    deadline = time.monotonic() + timeout / 1000
    maybe_executed, last, pause_s = False, "no answer", FIRST_PAUSE_S
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            answer = method(request, timeout=left_s)
        except grpc.RpcError as error:
            problem = connection.explain(error)
            call: Any = error
            if not maybe_executed and call.code() in NEVER_EXECUTED:
                raise problem from error
            maybe_executed, last = True, str(problem)
        else:
            refused = answer.verdict == decision_pb2.VERDICT_DENY and not answer.unknown
            if answer.HasField("outcome") or (refused and not maybe_executed):
                return answer, ""
            maybe_executed = True
            last = reason_name(answer.reason) or "the node does not know the outcome"
        time.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return None, last
