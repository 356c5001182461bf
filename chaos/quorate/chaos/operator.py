"""An organisation's operator: signed commands and questions to one node.

Owns the calls of the governance side that experiments need, with mutual TLS and the organisation's
real keys, and the record of what was acknowledged. Judges nothing (see `quorate.chaos.checks`).
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from quorate.core import ids
from quorate.core.errors import QuorateError
from quorate.node.organisation import Organisation
from quorate.proofs.commands import build_command
from quorate.v1 import (
    decision_pb2,
    governance_pb2,
    governance_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
)

CALL_TIMEOUT_S: Final = 5.0
SUBMIT_TIMEOUT_S: Final = 30.0
COMMAND_LIFETIME_MS: Final = 120_000
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
)

_T = TypeVar("_T")


class NodeSilentError(QuorateError):
    """The node did not answer."""


class CommandFailedError(QuorateError):
    """The ledger denied a command, or its outcome could not be learnt in time."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A command whose outcome a node has told: it must be in every ledger, there, once."""

    command_id: str
    ledger_index: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class Revocation:
    """A narrowing command and how far it had reached when the node answered."""

    outcome: decision_pb2.Outcome
    reached: governance_pb2.WaitLevel.ValueType


class Operator:
    """The operator of the organisation in a directory, connected to the node that its configuration
    names. Safe to use from several threads.

    log_key: with which that node signs its checkpoints.
    """

    def __init__(self, organisation: Organisation, origin: str, *, log_key: bytes) -> None:
        self.organisation = organisation
        self.origin = origin
        self.log_key = log_key
        self.acknowledged: list[Acknowledged] = []
        self._lock = threading.Lock()
        self._key = organisation.governance_key()
        pair = organisation.operator().pair
        config = organisation.config
        self._channel = grpc.secure_channel(
            config.listen.governance,
            grpc.ssl_channel_credentials(
                organisation.ca_certificate(), pair.private_key, pair.certificate
            ),
            options=(
                *_OPTIONS,
                ("grpc.ssl_target_name_override", ids.dns_name(config.node.id)),
            ),
        )
        self.governance = governance_pb2_grpc.GovernanceServiceStub(self._channel)
        self.ledger = ledger_pb2_grpc.LedgerServiceStub(self._channel)
        self.node = node_pb2_grpc.NodeServiceStub(self._channel)

    @property
    def domain(self) -> str:
        return self.organisation.domain

    def close(self) -> None:
        self._channel.close()

    def ask(self, method: Callable[..., _T], request: object) -> _T:
        """One call, once. Raises NodeSilentError."""
        try:
            return method(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._silent(error) from error

    def status(self) -> node_pb2.GetStatusResponse:
        """What the node says of itself. Raises NodeSilentError."""
        return self.ask(self.node.GetStatus, node_pb2.GetStatusRequest())

    def checkpoint(self) -> str:
        """The node's newest signed checkpoint, a note."""
        answer = self.ask(self.ledger.GetCheckpoint, ledger_pb2.GetCheckpointRequest())
        return answer.note

    def record(self, kind: governance_pb2.Kind.ValueType, thing: str) -> Mapping[str, object]:
        """One governed thing. Raises CommandFailedError when there is none."""
        request = governance_pb2.GetStateRequest(kind=kind, id=thing)
        answer = self.ask(self.governance.GetState, request)
        if not answer.found:
            raise CommandFailedError(f"{self.domain}: there is no {thing}")
        found: dict[str, object] = json.loads(answer.record)
        return found

    # -- commands ----------------------------------------------------------------------------

    def sign(
        self, kind: str, body: Mapping[str, object], *, lifetime_ms: int = COMMAND_LIFETIME_MS
    ) -> bytes:
        """The envelope of a command of this organisation, with a nonce of its own."""
        return build_command(
            origin=self.origin,
            issuer=self.domain,
            command_type=kind,
            body=body,
            nonce=secrets.token_hex(16),
            not_after=time.time_ns() // 1_000_000 + lifetime_ms,
            key=self._key,
        )

    def submit(
        self, kind: str, body: Mapping[str, object], *, timeout_s: float = SUBMIT_TIMEOUT_S
    ) -> decision_pb2.Outcome:
        """Gives a command and returns what the ledger decided, accepted or not.

        As long as that is unknown the same bytes are submitted again. Raises CommandFailedError
        when it is still unknown after `timeout_s`.
        """
        request = governance_pb2.SubmitRequest(envelope=self.sign(kind, body))
        answer = self._settle(kind, self.governance.Submit, request, timeout_s)
        return self._acknowledge(answer.outcome)

    def order(self, kind: str, body: Mapping[str, object]) -> decision_pb2.Outcome:
        """Gives a command that must be accepted. Raises CommandFailedError when it is not."""
        outcome = self.submit(kind, body)
        if not outcome.accepted:
            reason = decision_pb2.Reason.Name(outcome.reason)
            raise CommandFailedError(f"{self.domain}: {kind} denied: {reason} {outcome.thing}")
        return outcome

    def revoke(
        self,
        kind: str,
        body: Mapping[str, object],
        wait: governance_pb2.WaitLevel.ValueType,
        *,
        timeout_s: float = SUBMIT_TIMEOUT_S,
    ) -> Revocation:
        """Gives a narrowing command and waits until it holds as widely as `wait` says."""
        request = governance_pb2.RevokeRequest(
            envelope=self.sign(kind, body), wait=wait, timeout_ms=int(timeout_s * 1_000)
        )
        answer = self._settle(kind, self.governance.Revoke, request, timeout_s)
        return Revocation(self._acknowledge(answer.outcome), answer.reached)

    def _settle(
        self, kind: str, method: Callable[..., Any], request: object, timeout_s: float
    ) -> Any:
        deadline = time.monotonic() + timeout_s
        last = "no answer"
        pause = threading.Event()
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                answer = method(request, timeout=left_s)
            except grpc.RpcError as error:
                silent = self._silent(error)
                if isinstance(error, grpc.Call) and error.code() in (
                    grpc.StatusCode.INVALID_ARGUMENT,
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.UNAUTHENTICATED,
                    grpc.StatusCode.UNIMPLEMENTED,
                ):
                    raise CommandFailedError(f"{kind}: {silent}") from error
                last = str(silent)
            else:
                if not answer.unknown and answer.HasField("outcome"):
                    return answer
                last = decision_pb2.Reason.Name(answer.reason) if answer.reason else "unknown"
            pause.wait(0.05)  # between repeats of one request, which are harmless
        raise CommandFailedError(f"{self.domain}: {kind}: outcome unknown: {last}")

    def _acknowledge(self, outcome: decision_pb2.Outcome) -> decision_pb2.Outcome:
        with self._lock:
            self.acknowledged.append(
                Acknowledged(outcome.command_id, outcome.ledger_index, outcome.accepted)
            )
        return outcome

    def _silent(self, error: grpc.RpcError) -> NodeSilentError:
        if isinstance(error, grpc.Call):
            return NodeSilentError(f"{self.domain}: {error.code().name}: {error.details()}")
        return NodeSilentError(f"{self.domain}: {error}")
