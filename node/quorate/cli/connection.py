"""A connection from the command line to one node.

Owns mutual TLS towards the node, the deadline of every call, and what a failed call means to a
person. Does not repeat calls (see `quorate.cli.submit`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from quorate.cli.errors import BusyError, RefusedError, UnreachableError
from quorate.client.config import load_config as load_client
from quorate.core import codec, ids
from quorate.core.errors import MalformedError, QuorateError
from quorate.node.organisation import Organisation, dialable, lease_dialable
from quorate.v1 import (
    explain_pb2_grpc,
    governance_pb2_grpc,
    lease_pb2_grpc,
    ledger_pb2_grpc,
    node_pb2_grpc,
)

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""A page of 256 entries of 32 KiB each, twice."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    # A proxy named by the environment is no place to send commands to.
    ("grpc.enable_http_proxy", 0),
    # Repeats are ours, and only of what is harmless to repeat.
    ("grpc.enable_retries", 0),
)

_AnswerT = TypeVar("_AnswerT")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a node is, who it must be, and as whom to call it."""

    address: str
    server_name: str
    domain: str
    ca_certificate: bytes
    certificate: bytes
    private_key: bytes = field(repr=False)


def operator_target(organisation: Organisation, address: str = "") -> Target:
    """The governance side of the organisation's own node, as its operator."""
    identity = organisation.operator()
    return Target(
        address=dialable(address or organisation.config.listen.governance, "--address"),
        server_name=ids.dns_name(organisation.config.node.id),
        domain=organisation.domain,
        ca_certificate=organisation.ca_certificate(),
        certificate=identity.pair.certificate,
        private_key=identity.pair.private_key,
    )


def executor_target(directory: Path, address: str = "", *, lease: bool) -> Target:
    """The node of an executor, as that executor: its lease side, or its governance side."""
    client = load_client(directory)
    configured = client.lease_address if lease else client.governance_address
    check = lease_dialable if lease else dialable
    return Target(
        address=check(address or configured, "--address"),
        server_name=client.server_name,
        domain=ids.SpiffeId.parse(client.spiffe_id).trust_domain,
        ca_certificate=client.ca_certificate,
        certificate=client.certificate,
        private_key=client.private_key,
    )


def choose_target(org: Path | None, client: Path | None, address: str) -> Target:
    """The governance side of a node, asked as operator or executor. Raises MalformedError unless
    exactly one of the two directories is given."""
    if (org is None) == (client is None):
        raise MalformedError("give either --org DIR or --client DIR")
    if org is not None:
        return operator_target(Organisation.load(org), address)
    assert client is not None
    return executor_target(client, address, lease=False)


class Connection:
    """An open channel to a node, with its services. For use as a context manager."""

    def __init__(self, target: Target) -> None:
        self.target = target
        credentials = grpc.ssl_channel_credentials(
            root_certificates=target.ca_certificate,
            private_key=target.private_key,
            certificate_chain=target.certificate,
        )
        # The name decides who may answer, wherever the address leads: only the node's certificate
        # bears it (`quorate.node.certificates`).
        options = (*_OPTIONS, ("grpc.ssl_target_name_override", target.server_name))
        self.channel = grpc.secure_channel(target.address, credentials, options=options)
        self.governance = governance_pb2_grpc.GovernanceServiceStub(self.channel)
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(self.channel)
        self.node = node_pb2_grpc.NodeServiceStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)
        self.explanations = explain_pb2_grpc.ExplainServiceStub(self.channel)
        self.leases = lease_pb2_grpc.LeaseServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.channel.close()

    def probe(self, timeout_ms: int) -> None:
        """Makes sure that the node answers, before something is sent to it that a broken connection
        would leave in doubt. Raises UnreachableError or RefusedError."""
        request = health_pb2.HealthCheckRequest()
        try:
            self.health.Check(request, timeout=timeout_ms / 1000)
        except grpc.RpcError as error:
            call: Any = error
            # Any other answer is one: whether the node is healthy is not the question.
            if call.code() not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
                raise self.explain(error) from error

    def ask(self, method: Callable[..., _AnswerT], request: object, timeout_ms: int) -> _AnswerT:
        """A query, once. Raises UnreachableError, MalformedError, or RefusedError."""
        try:
            return method(request, timeout=timeout_ms / 1000)
        except grpc.RpcError as error:
            raise self.explain(error) from error

    def explain(self, error: grpc.RpcError) -> QuorateError:
        """What a failed call means."""
        call: Any = error
        code, details = call.code(), call.details() or ""
        where = f"the node at {self.target.address}"
        if code is grpc.StatusCode.UNAVAILABLE:
            return UnreachableError(f"{where} cannot be reached: {_cause(details)}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnreachableError(
                f"{where} did not answer in time", hint="try again, or wait longer with --timeout"
            )
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return MalformedError(f"{where} found the request malformed: {_violations(error)}")
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return RefusedError(
                f"{where} does not accept this certificate: {details}",
                hint="executors ask for leases, operators govern; each at its own address",
            )
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return BusyError(f"{where} has reached a limit: {details}")
        return RefusedError(
            f"{where} failed: {code.name} {details}".rstrip(), hint="see the node's log"
        )


def read_json(data: bytes) -> dict[str, Any]:
    """An object that a node sent as JSON. Raises RefusedError: a node that sends anything else is
    broken, and the person who asked is not to blame."""
    try:
        value = codec.load(data)
    except MalformedError as error:
        raise RefusedError(f"the node's answer is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise RefusedError("the node's answer is no JSON object")
    return value


def _cause(details: str) -> str:
    """The end of gRPC's chain of reasons, which is the one that says something."""
    last = details.rpartition("last error: ")[2] or "unavailable"
    return re.sub(r"^UNKNOWN: \S+: ", "", last)


def _violations(error: grpc.RpcError) -> str:
    """The fields at fault (google.rpc.BadRequest), or the bare message."""
    call: Any = error
    status = rpc_status.from_call(call)
    told = []
    for detail in status.details if status is not None else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            told += [f"{item.field}: {item.description}" for item in bad_request.field_violations]
    return "; ".join(told) or call.details() or "no reason given"
