"""The files that programs are given, and what clients hear from their own node."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from tests.fuzz.harness import SEPARATOR, Bounds, attempt, target
from tests.fuzz.targets.store import file_of
from tests.fuzz.targets.wire import message_of

from quorate.cli.connection import read_json
from quorate.cli.errors import RefusedError
from quorate.cli.genesis import _fill_in
from quorate.client import wire
from quorate.client.calls import Calls
from quorate.client.config import _settings
from quorate.client.decisions import Denied
from quorate.client.facts import LeaseFacts
from quorate.client.lineage import format_lineage, parse_lineage
from quorate.client.slot import PermitSlot
from quorate.client.watching import WatchTalk
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.node.config import load_config
from quorate.node.survivors import read_summary
from quorate.testing.clock import FakeClock
from quorate.v1 import lease_pb2

LEASE = LeaseFacts(
    id="0" * 32,
    executor="spiffe://bank.example/agent/payments",
    action="payments.transfer",
    resource="//bank.example/accounts/payroll",
    fence=7,
    expires_at_ms=1_000,
    grant="bank.example/g",
    trust_edge="",
    ttl_ms=0,
    parents=(),
)
MAX_TTL_MS = 1_000


@target("quorate.node.config", bounds=Bounds(steps=(40_000, 400), allocated=(1024 * 1024, 2_000)))
def node_config(data: bytes) -> None:
    with file_of(data) as path:
        attempt(ConfigurationError, load_config, path)


@target("quorate.client.config", bounds=Bounds(steps=(20_000, 100)))
def client_config(data: bytes) -> None:
    with file_of(data) as path:
        attempt(ConfigurationError, _settings, path)


@target("quorate.node.survivors", "quorate.cli.genesis")
def summary(data: bytes) -> None:
    with file_of(data) as path:
        read = attempt(ConfigurationError, read_summary, path)
    assert read is None or (read.to_bytes() == data and read.domain)
    attempt(MalformedError, _fill_in, data)


@target("quorate.client.lineage")
def lineage_header(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    leases = attempt(ValueError, parse_lineage, text)
    assert leases is None or parse_lineage(format_lineage(leases)) == leases


def _calls(clock: FakeClock) -> Calls:
    return Calls(
        clock,
        executor=LEASE.executor,
        is_closed=lambda: False,
        max_permit_ttl_ms=MAX_TTL_MS,
        new_request_id=lambda: "1",
    )


@target("quorate.client.calls", "quorate.client.wire", "quorate.client.slot")
def answered_check(data: bytes) -> None:
    """No answer makes a permit that outlives what the federation allows, or of another lease."""
    message = message_of(lease_pb2.CheckResponse, data)
    batch = message_of(lease_pb2.CheckBatchResponse, data)
    clock = FakeClock()
    calls, slot = _calls(clock), PermitSlot(clock)
    question = calls.question(LEASE, slot)
    said: list[Any] = [] if message is None else [calls.answered(question, message, is_handed=True)]
    said += [] if batch is None else calls.batch_answered([question], batch)
    for each in said:
        if not isinstance(each, Denied):
            assert (each.lease_id, each.fence) == (LEASE.id, LEASE.fence)
            assert each.expires_at_ns <= clock.boottime_ns() + MAX_TTL_MS * 1_000_000


@target("quorate.client.calls", "quorate.client.facts")
def answered_command(data: bytes) -> None:
    """An input is what was asked, and the answer."""
    clock = FakeClock()
    calls = _calls(clock)
    steps: list[Any] = [
        (
            lease_pb2.AcquireResponse,
            calls.acquire("a", "//bank.example/a", 0, "1", 1_000, parents=()),
        ),
        (lease_pb2.RenewResponse, calls.renew(LEASE, 0, 1_000)),
        (lease_pb2.ReleaseResponse, calls.release(LEASE, 1_000)),
        (lease_pb2.RecallResponse, calls.recall("bank.example/g", 1_000)),
    ]
    kind, talk = steps[data[0] % len(steps)] if data else steps[0]
    message = message_of(kind, data[1:])
    if message is None:
        return
    next(talk)
    with suppress(StopIteration):  # else it settles nothing, and something follows
        talk.send(message)


@target("quorate.client.watching", "quorate.client.wire")
def watched(data: bytes) -> None:
    """Parts are notices. Whatever is not known to be good takes the permit away."""
    clock = FakeClock()
    slot = PermitSlot(clock)
    sent: list[lease_pb2.WatchRequest] = []
    talk = WatchTalk("s" * 16, {LEASE.id: slot})
    assert talk.begin(sent.append)
    for part in data.split(SEPARATOR)[:16]:
        answer = message_of(lease_pb2.WatchResponse, part)
        if answer is not None:
            epoch = slot.epoch
            notice = talk.heard(answer)
            is_good = notice is None or notice.event in ("ACTIVE", "RESTORED")
            assert is_good or slot.epoch > epoch
            wire.reason_of(answer.reason)
    talk.broken(None)
    assert talk.begin(sent.append)


@target("quorate.cli.connection")
def answer_in_json(data: bytes) -> None:
    attempt(RefusedError, read_json, data)
