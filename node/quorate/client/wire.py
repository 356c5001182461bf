"""Between the node's messages and the client's values.

Owns the connection's settings and the reading of answers: whatever is not a whole, consistent
permit is a denial. Takes no decision of its own to permit, and knows no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

import grpc

from quorate.client.config import ClientConfig
from quorate.client.decisions import AnyReason, ClientReason, Denied, Part
from quorate.core.limits import MAX_MESSAGE_BYTES
from quorate.core.outcome import Reason
from quorate.v1 import decision_pb2

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A proxy named by the environment is no place to send an executor's requests to.
    ("grpc.enable_http_proxy", 0),
    # Repeats are ours, with a request id; the library's own would hide them.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # A node that comes back is found again soon, and a connection whose other end is gone without a
    # word is given up.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

_REASON_OF_CODE: Final = {
    grpc.StatusCode.UNAVAILABLE: ClientReason.UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ClientReason.LATE,
    grpc.StatusCode.CANCELLED: ClientReason.UNREACHABLE,
    grpc.StatusCode.INVALID_ARGUMENT: ClientReason.INVALID_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: ClientReason.NOT_ACCEPTED,
    grpc.StatusCode.PERMISSION_DENIED: ClientReason.NOT_ACCEPTED,
}
_NEVER_EXECUTED: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_MAX_DETAIL_CHARS: Final = 300


def open_channel(config: ClientConfig) -> grpc.Channel:
    """A channel to the executor's own node with mutual TLS. Connects when it is first used."""
    return grpc.secure_channel(config.lease_address, _credentials(config), options=_options(config))


def open_aio_channel(config: ClientConfig) -> grpc.aio.Channel:
    """The same for asyncio. To be called where its loop runs."""
    return grpc.aio.secure_channel(
        config.lease_address, _credentials(config), options=_options(config)
    )


def _credentials(config: ClientConfig) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=config.ca_certificate,
        private_key=config.private_key,
        certificate_chain=config.certificate,
    )


def _options(config: ClientConfig) -> list[tuple[str, str | int]]:
    return [*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", config.server_name)]


def texts_of(context: Mapping[str, str]) -> list[str]:
    """A context as a request says it. Raises ValueError for a name that would be read as another,
    and AttributeError or TypeError for what is no context."""
    if any("=" in name for name in context):
        raise ValueError("a name in the context has an =")
    return [f"{name}={said}" for name, said in sorted(context.items())]


def fields_of(part: Part) -> dict[str, Any]:
    """Those of a `DelegateRequest` that say what is passed on. Raises TypeError, or AttributeError,
    for conditions that are none."""
    if any(isinstance(values, str) for values in part.conditions.values()):
        raise TypeError("a condition has a list of texts, and no text")
    said = {each.name: getattr(part, each.name) for each in fields(part)}
    asked = [{"name": name, "values": values} for name, values in part.conditions.items()]
    return said | {"conditions": asked}


def reason_of(number: decision_pb2.Reason.ValueType) -> AnyReason:
    """The reason that a wire number stands for; UNKNOWN_REASON when this client knows none."""
    try:
        return Reason(decision_pb2.Reason.Name(number).removeprefix("REASON_"))
    except ValueError:
        return ClientReason.UNKNOWN_REASON


def denial_of_verdict(
    verdict: decision_pb2.Verdict.ValueType,
    reason: decision_pb2.Reason.ValueType,
    thing: str,
    ledger_size: int = 0,
) -> Denied | None:
    """The denial in an answer, or None when it says PERMIT, and nothing but PERMIT."""
    if verdict == decision_pb2.VERDICT_PERMIT:
        if reason != decision_pb2.REASON_UNSPECIFIED:
            return Denied(ClientReason.MALFORMED_ANSWER, thing, f"a permit with reason {reason}")
        return None
    if verdict == decision_pb2.VERDICT_DENY:
        known = reason_of(reason)
        detail = f"reason number {reason}" if known is ClientReason.UNKNOWN_REASON else ""
        return Denied(known, thing, detail, ledger_size=ledger_size)
    return Denied(ClientReason.UNSPECIFIED_VERDICT, thing, f"verdict number {verdict}")


FAILURES: Final = (grpc.RpcError, grpc.aio.UsageError, ValueError)
"""How a call ends that has no answer. The last two are how the library says that its channel is
closed, for threads and for asyncio."""


def denial_of_error(error: Exception) -> Denied:
    """The denial that one of FAILURES amounts to; `unknown` when it may have been executed."""
    if not isinstance(error, grpc.RpcError):
        return Denied(ClientReason.CLOSED)
    if not isinstance(error, (grpc.Call, grpc.aio.AioRpcError)):
        return Denied(ClientReason.NODE_FAILED, detail=type(error).__name__, unknown=True)
    code = error.code()
    return Denied(
        _REASON_OF_CODE.get(code, ClientReason.NODE_FAILED),
        detail=f"{code.name}: {error.details() or ''}"[:_MAX_DETAIL_CHARS],
        unknown=code not in _NEVER_EXECUTED,
    )
