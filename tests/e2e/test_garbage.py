"""Bytes that are no request at all, and requests that are too large or malformed: refused clearly,
at every port, and nobody else is hurt."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import CALL_TIMEOUT_S, Crew
from quorate.core.limits import (
    MAX_CHECKS_PER_BATCH,
    MAX_ENTRIES_PER_PAGE,
    MAX_ENVELOPE_BYTES,
    MAX_LEASES_PER_WATCH,
    MAX_MESSAGE_BYTES,
    MAX_PROPOSAL_TIMEOUT_MS,
    MAX_RECORDS_PER_PAGE,
    MAX_REQUEST_ID_CHARS,
)
from quorate.node.certificates import KeyPair
from quorate.proofs.signing import SigningKey, sign_envelope
from quorate.v1 import (
    decision_pb2,
    governance_pb2,
    lease_pb2,
    lease_pb2_grpc,
    ledger_pb2,
)

pytestmark = pytest.mark.cluster

BANK = "bank.example"
PORTS = ("peer", "governance", "lease")
HTTP1 = b"GET / HTTP/1.1\r\nHost: bank.example\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + b"\x00" * 60
NOISE = random.Random(2)  # noqa: S311 - the same in every run: what fails can be repeated
GARBAGE = {
    "nothing": b"",
    "zeros": bytes(1_000),
    "noise": NOISE.randbytes(4_096),
    "http1": HTTP1,
    "http2 in the clear": PREFACE + SETTINGS,
    "half a TLS hello": CLIENT_HELLO,
    "a giant TLS record": b"\x17\x03\x03\xff\xff" + NOISE.randbytes(65_535),
}
UNFINISHED = ("nothing", "half a TLS hello")  # good so far: it is for the caller to end it
LEASE_ID = "0" * 32
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def dial(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=CALL_TIMEOUT_S)


def told_until_closed(connection: socket.socket, data: bytes, *, half_close: bool = False) -> bytes:
    """Says `data`, then listens until the node ends the connection, orderly or by a reset; returns
    what it said. A node that keeps the connection is a timeout, and that is a failure."""
    told = b""
    try:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65_536):
            told += part
    except (ConnectionError, ssl.SSLEOFError):  # reset, or ended without a TLS farewell
        pass
    return told


def still_works(cluster: Cluster, crew: Crew) -> None:
    for domain, worker in crew.workers.items():
        assert cluster.status(domain).has_authority
        lease = worker.lease(f"//{domain}/records/unharmed")
        assert worker.check(lease.id).verdict == decision_pb2.VERDICT_PERMIT


@pytest.mark.parametrize("port", PORTS)
def test_garbage_bytes_are_no_connection(cluster: Cluster, crew: Crew, strangers, port: str):
    address = strangers.address(BANK, port)
    for name, data in GARBAGE.items():
        with dial(address) as plain:
            answer = told_until_closed(plain, data, half_close=name in UNFINISHED)
            # A TLS alert or an HTTP/2 error at most: no greeting, no text.
            assert b"HTTP/1" not in answer
            assert b"quorate" not in answer
    still_works(cluster, crew)


@pytest.mark.parametrize("port", PORTS)
def test_connections_that_say_nothing_do_not_keep_others_out(
    cluster: Cluster, crew: Crew, strangers, port: str
):
    with ExitStack() as held:
        for number in range(100):
            silent = held.enter_context(dial(strangers.address(BANK, port)))
            if number % 2:
                silent.sendall(CLIENT_HELLO)
        still_works(cluster, crew)


def client_pair(crew: Crew) -> KeyPair:
    config = crew.workers[BANK].config
    return KeyPair(config.certificate, config.private_key)


@pytest.mark.parametrize("port", ["governance", "lease"])
@pytest.mark.parametrize(
    "data",
    [
        HTTP1,
        NOISE.randbytes(2_000),
        PREFACE + NOISE.randbytes(2_000),
        PREFACE + SETTINGS + b"\xff" * 100,
    ],
    ids=["http1", "noise", "preface and noise", "a frame of 16 MiB"],
)
def test_garbage_inside_tls_ends_that_connection_alone(
    cluster: Cluster, crew: Crew, strangers, port: str, data: bytes
):
    """From somebody with a good certificate."""
    client: Path = crew.workers[BANK].client
    context = ssl.create_default_context(cafile=str(client / "ca.crt"))
    context.load_cert_chain(client / "executor.crt", client / "executor.key")
    context.set_alpn_protocols(["h2"])
    name = crew.workers[BANK].config.server_name
    with (
        dial(strangers.address(BANK, port)) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        assert b"Traceback" not in told_until_closed(secure, data)
    worker = crew.workers[BANK]
    lease = worker.lease(f"//{BANK}/records/unharmed")
    assert worker.check(lease.id).verdict == decision_pb2.VERDICT_PERMIT


# -- too large -------------------------------------------------------------------------------


def test_oversized_messages_are_refused(cluster: Cluster, crew: Crew, strangers, refused):
    operator = cluster.operator(BANK)
    large = governance_pb2.SubmitRequest(envelope=b"x" * (MAX_MESSAGE_BYTES + 1))
    found = refused(lambda: operator.governance.Submit(large, timeout=CALL_TIMEOUT_S))
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    leases = lease_pb2_grpc.LeaseServiceStub(strangers.channel(BANK, "lease", client_pair(crew)))
    check = lease_pb2.CheckRequest(lease_id="0" * (MAX_MESSAGE_BYTES + 1))
    found = refused(lambda: leases.Check(check, timeout=CALL_TIMEOUT_S))
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    small = lease_pb2.CheckRequest(lease_id=LEASE_ID)
    metadata = (("x-large", "y" * 1_000_000),)
    found = refused(lambda: leases.Check(small, timeout=CALL_TIMEOUT_S, metadata=metadata))
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    still_works(cluster, crew)


def test_an_envelope_beyond_the_limit_is_named_as_such(cluster: Cluster, mirror, refused):
    operator, size = cluster.operator(BANK), mirror.count_decided()
    large = governance_pb2.SubmitRequest(envelope=b"x" * (MAX_ENVELOPE_BYTES + 1))
    found = refused(lambda: operator.governance.Submit(large, timeout=CALL_TIMEOUT_S))
    assert (found.code, found.fields) == (INVALID, ("envelope",))
    assert mirror.count_decided() == size, "what is no command is no business of the ledger's"


# -- malformed -------------------------------------------------------------------------------


def lease_cases() -> dict[str, tuple[str, object, tuple[str, ...]]]:
    pb, good = lease_pb2, "//bank.example/records/book"
    long_id = "x" * (MAX_REQUEST_ID_CHARS + 1)
    many = [LEASE_ID] * (MAX_CHECKS_PER_BATCH + 1)
    return {
        "nothing": ("Acquire", pb.AcquireRequest(), ("action", "resource")),
        "action": ("Acquire", pb.AcquireRequest(action="A B", resource=good), ("action",)),
        "resource": ("Acquire", pb.AcquireRequest(action="a", resource="/x"), ("resource",)),
        "ttl": ("Acquire", pb.AcquireRequest(action="a", resource=good, ttl_ms=-1), ("ttl_ms",)),
        "request id": (
            "Acquire",
            pb.AcquireRequest(action="a", resource=good, request_id=long_id),
            ("request_id",),
        ),
        "check": ("Check", pb.CheckRequest(lease_id="x"), ("lease_id",)),
        "scope": (
            "Check",
            pb.CheckRequest(lease_id=LEASE_ID, action="*", resource="x"),
            ("action", "resource"),
        ),
        "no checks": ("CheckBatch", pb.CheckBatchRequest(), ("checks",)),
        "many checks": (
            "CheckBatch",
            pb.CheckBatchRequest(checks=[pb.CheckRequest(lease_id=each) for each in many]),
            ("checks",),
        ),
        "renew": ("Renew", pb.RenewRequest(lease_id="x", ttl_ms=2**62), ("lease_id", "ttl_ms")),
        "release": ("Release", pb.ReleaseRequest(), ("lease_id",)),
        "watch nothing": ("Watch", pb.WatchRequest(), ("lease_ids",)),
        "watch much": (
            "Watch",
            pb.WatchRequest(lease_ids=[f"{n:032x}" for n in range(MAX_LEASES_PER_WATCH + 1)]),
            ("lease_ids",),
        ),
    }


@pytest.mark.parametrize(
    ("method", "request_", "fields"), lease_cases().values(), ids=lease_cases().keys()
)
def test_malformed_lease_requests_name_their_fields(
    crew: Crew, refused, method: str, request_, fields: tuple[str, ...]
):
    stub = crew.workers[BANK].leases

    def call() -> object:
        if method == "Watch":
            return list(stub.Watch(iter([request_]), timeout=CALL_TIMEOUT_S))
        return getattr(stub, method)(request_, timeout=CALL_TIMEOUT_S)

    found = refused(call)
    assert (found.code, found.fields) == (INVALID, fields)


def test_one_check_of_many_that_is_none_is_denied_by_itself(crew: Crew) -> None:
    checks = [lease_pb2.CheckRequest(lease_id=LEASE_ID), lease_pb2.CheckRequest(lease_id="z")]
    stub = crew.workers[BANK].leases
    answer = stub.CheckBatch(lease_pb2.CheckBatchRequest(checks=checks), timeout=CALL_TIMEOUT_S)
    assert [each.verdict for each in answer.results] == [decision_pb2.VERDICT_DENY] * 2
    assert [decision_pb2.Reason.Name(each.reason) for each in answer.results] == [
        "REASON_UNKNOWN_LEASE",
        "REASON_MALFORMED_REQUEST",
    ]


def enveloped(payload: bytes, payload_type: str) -> bytes:
    return sign_envelope(payload_type, payload, SigningKey.generate())


COMMAND = "application/vnd.quorate.command.v1+json"
SUBMISSIONS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "envelope"),
    "no JSON": (b"\xff\xfe", "envelope"),
    "JSON, and nothing else": (b"{}", "envelope.payload"),
    "not canonical": (b'{ "payload": ""}', "envelope"),
    "deep": (b"[" * 10_000 + b"]" * 10_000, "envelope"),
    "another type": (enveloped(b"{}", "text/plain"), "envelope.payloadType"),
    "payload no JSON": (enveloped(b"nonsense", COMMAND), "envelope.payload"),
    "payload without fields": (enveloped(b"{}", COMMAND), "envelope.payload.v"),
    "a float": (enveloped(b'{"v":1.5}', COMMAND), "envelope.payload"),
}


@pytest.mark.parametrize(("envelope", "field"), SUBMISSIONS.values(), ids=SUBMISSIONS.keys())
def test_what_is_no_command_is_refused_and_leaves_no_entry(
    cluster: Cluster, mirror, refused, envelope: bytes, field: str
):
    governance, size = cluster.operator(BANK).governance, mirror.count_decided()
    request = governance_pb2.SubmitRequest(envelope=envelope)
    found = refused(lambda: governance.Submit(request, timeout=CALL_TIMEOUT_S))
    assert found.code is INVALID
    assert [name[: len(field)] for name in found.fields] == [field]
    assert mirror.count_decided() == size


def core_cases() -> dict[str, tuple[str, object, tuple[str, ...]]]:
    gov, led = governance_pb2, ledger_pb2
    return {
        "timeout": (
            "Governance.Submit",
            gov.SubmitRequest(envelope=b"{}", timeout_ms=MAX_PROPOSAL_TIMEOUT_MS + 1),
            ("timeout_ms",),
        ),
        "level": ("Governance.Revoke", gov.RevokeRequest(envelope=b"{}", wait=99), ("wait",)),
        "no kind": ("Governance.GetState", gov.GetStateRequest(id="x"), ("kind",)),
        "long id": (
            "Governance.GetState",
            gov.GetStateRequest(kind=gov.KIND_DOMAIN, id="x" * 1_000),
            ("id",),
        ),
        "page size": (
            "Governance.ListState",
            gov.ListStateRequest(kind=gov.KIND_DOMAIN, page_size=MAX_RECORDS_PER_PAGE + 1),
            ("page_size",),
        ),
        "page token": (
            "Governance.ListState",
            gov.ListStateRequest(kind=gov.KIND_DOMAIN, page_token="\u00fc"),
            ("page_token",),
        ),
        "command id": (
            "Governance.GetOutcome",
            gov.GetOutcomeRequest(command_id="0" * 63),
            ("command_id",),
        ),
        "page": (
            "Ledger.ListEntries",
            led.ListEntriesRequest(limit=MAX_ENTRIES_PER_PAGE + 1),
            ("limit",),
        ),
        "outside": (
            "Ledger.GetInclusionProof",
            led.GetInclusionProofRequest(index=9, size=9),
            ("index",),
        ),
        "empty tree": (
            "Ledger.GetConsistencyProof",
            led.GetConsistencyProofRequest(),
            ("old_size",),
        ),
    }


@pytest.mark.parametrize(
    ("method", "request_", "fields"), core_cases().values(), ids=core_cases().keys()
)
def test_malformed_questions_name_their_fields(
    cluster: Cluster, refused, method: str, request_, fields: tuple[str, ...]
):
    operator = cluster.operator(BANK)
    service, _, name = method.partition(".")
    stub = {"Governance": operator.governance, "Ledger": operator.ledger}[service]
    call: Callable[..., object] = getattr(stub, name)
    found = refused(lambda: call(request_, timeout=CALL_TIMEOUT_S))
    assert (found.code, found.fields) == (INVALID, fields)


def test_what_the_ledger_does_not_have_yet_is_out_of_range(cluster: Cluster, refused):
    ledger = cluster.operator(BANK).ledger
    beyond = 2**40
    calls = [
        lambda: ledger.ListEntries(ledger_pb2.ListEntriesRequest(start=beyond), timeout=5),
        lambda: ledger.GetInclusionProof(
            ledger_pb2.GetInclusionProofRequest(index=1, size=beyond), timeout=5
        ),
        lambda: ledger.GetConsistencyProof(
            ledger_pb2.GetConsistencyProofRequest(old_size=1, new_size=beyond), timeout=5
        ),
    ]
    for call in calls:
        assert refused(call).code is grpc.StatusCode.OUT_OF_RANGE


def test_only_narrowing_commands_are_revocations(cluster: Cluster, mirror, refused):
    operator, size = cluster.operator(BANK), mirror.count_decided()
    widening = operator.sign("executor.register", {"executor": f"spiffe://{BANK}/agent/wide"})
    request = governance_pb2.RevokeRequest(envelope=widening)
    found = refused(lambda: operator.governance.Revoke(request, timeout=CALL_TIMEOUT_S))
    assert (found.code, found.fields) == (INVALID, ("envelope",))
    assert mirror.count_decided() == size


def test_bytes_that_are_no_message_and_methods_that_are_none(cluster: Cluster, crew: Crew, refused):
    channel = crew.workers[BANK].channel
    check = channel.unary_unary("/quorate.v1.LeaseService/Check")
    found = refused(lambda: check(b"\xff\xff\xff\xff", timeout=CALL_TIMEOUT_S))
    assert (found.code, found.fields) == (INVALID, ("request",))
    for method in ("/quorate.v1.LeaseService/Erase", "/quorate.v1.GovernanceService/Submit", "/x"):
        unknown = channel.unary_unary(method)
        found = refused(lambda call=unknown: call(b"", timeout=CALL_TIMEOUT_S))
        assert found.code is grpc.StatusCode.UNIMPLEMENTED
    still_works(cluster, crew)
