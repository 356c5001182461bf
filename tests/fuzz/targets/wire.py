"""What nodes say to each other, and to their callers: protobuf, and the text in it.

Bytes that are no message of a type never get further than the library that carries them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from tests.fuzz.harness import SEPARATOR, Bounds, attempt, passes, target
from tests.fuzz.targets.ledger import lived
from tests.unit.core.conftest import NODE

from quorate.api import convert, lineage, validate
from quorate.api.access import Access
from quorate.api.errors import InvalidRequestError, NotPermittedError, UnauthenticatedError
from quorate.api.explain import question_of
from quorate.api.governance import _after, _token
from quorate.consensus import wire
from quorate.consensus.configuration import Configuration
from quorate.consensus.errors import PeerError
from quorate.consensus.link import _Acked
from quorate.consensus.peers import PROTOCOL_VERSION, LocalIdentity
from quorate.consensus.servicer import PeerServicer, _Received, _Rejected
from quorate.core import ids, limits, patterns
from quorate.core.errors import MalformedError
from quorate.core.graph import Page
from quorate.core.limits import MAX_ENVELOPE_BYTES, MAX_ID_CHARS
from quorate.lease.confirm import Confirm
from quorate.node import authority_wire
from quorate.v1 import decision_pb2, explain_pb2, governance_pb2, lease_pb2, peer_pb2

MAX_NAME_CHARS = MAX_ID_CHARS + 1 + limits.MAX_NAME_CHARS
"""The longest id there is: of a domain, and a name of its own."""
PEER = "spiffe://clinic.example/node/1"
ME = LocalIdentity(NODE, b"", b"", b"\x00" * 32)

_M = TypeVar("_M", bound=Message)


def message_of(kind: type[_M], data: bytes) -> _M | None:
    return attempt(DecodeError, kind.FromString, data)


@target(
    "quorate.consensus.wire",
    "quorate.consensus.snapshot_wire",
    "quorate.node.authority_wire",
    "quorate.lease.confirm",
)
def peer_message(data: bytes) -> None:
    """Every kind is read by one side alone, and what was read says the same when it is written."""
    message = message_of(peer_pb2.PeerMessage, data)
    if message is None:
        return
    authority = authority_wire.decode(message)
    if authority is not None:
        assert wire.decode(message) is None
        assert authority_wire.decode(authority_wire.encode(authority)) == authority
        assert not isinstance(authority, Confirm) or authority.term >= 0
        return
    said = attempt(PeerError, wire.decode, message)
    if said is not None:
        assert wire.decode(wire.encode(said)) == said


@target("quorate.consensus.configuration")
def configuration(data: bytes) -> None:
    read = attempt(PeerError, Configuration.decode, data)
    if read is not None:
        assert read.encode() == data
        for member in read.members:
            assert read.role_of(member)


class _Directory:
    def authorities_of(self, _node: str) -> tuple[bytes, ...]:
        return (b"",)

    def belongs(self, _node: str, order: bytes) -> bool:
        return len(order) <= MAX_ENVELOPE_BYTES


class _Handler:
    def __init__(self) -> None:
        self.taken = 0

    async def messages(self, _peer: str, messages: Any) -> None:
        self.taken += len(messages)

    def connected(self, _peer: str) -> None:
        raise AssertionError("it only reads")

    disconnected = connected


def at_once(work: Coroutine[Any, Any, None]) -> None:
    """Runs what waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


async def _each(frames: list[peer_pb2.ExchangeRequest]) -> AsyncIterator[peer_pb2.ExchangeRequest]:
    for frame in frames:
        yield frame


@target("quorate.consensus.servicer", "quorate.consensus.link")
def stream(data: bytes) -> None:
    """What a peer sends on a stream: a hello, and frames; and how it acknowledges ours."""
    parts = data.split(SEPARATOR)[:16]
    handler = _Handler()
    directory: Any = _Directory()
    servicer = PeerServicer(
        ME, directory, handler, lambda *_: True, met=lambda *_: True, parted=lambda _: None
    )
    read = [message_of(peer_pb2.ExchangeRequest, part) for part in parts]
    frames = [frame for frame in read if frame is not None]
    first = frames.pop(0) if frames else None
    hello = attempt(_Rejected, servicer._check_hello, PEER, first)
    if hello is not None:
        assert (hello.sender, hello.receiver) == (PEER, NODE)
        assert hello.protocol_version == PROTOCOL_VERSION
        received = _Received()
        attempt(_Rejected, at_once, servicer._read(PEER, _each(frames), received))
        assert received.frame <= len(frames)
        assert handler.taken == sum(len(each.messages) for each in frames[: received.frame])
    acked = _Acked()
    acked.sent(1, 0.0)
    for part in parts:
        acked.received(message_of(peer_pb2.ExchangeResponse, part))


@target("quorate.consensus.servicer", "quorate.api.access", "quorate.core.ids")
def caller(data: bytes) -> None:
    """Whom a certificate names: parts are its names."""
    names = data.split(SEPARATOR)
    auth = {
        "transport_security_type": [b"ssl"],
        "peer_spiffe_id": names,
        "x509_pem_cert": [b"leaf"],
    }
    context: Any = SimpleNamespace(auth_context=lambda: auth)
    refusals = (UnauthenticatedError, NotPermittedError)
    access = Access("bank.example")
    member = attempt(refusals, access.member, context)
    executor = attempt(refusals, access.executor, context)
    assert executor in (None, member)
    attempt(refusals, access.any_for_operators, context, "spiffe://bank.example/agent/other")
    directory: Any = _Directory()
    servicer = PeerServicer(
        ME, directory, _Handler(), lambda *_: True, met=lambda *_: True, parted=lambda _: None
    )
    identified = attempt(_Rejected, servicer._identify, context)
    assert identified is None or len(names) == 1


def _explain_request(request: explain_pb2.ExplainRequest) -> None:
    """As the service does."""
    validate.check_explain(request, request.executor)
    question_of(request, request.executor)(lived().view, lived().now)


_REQUESTS: tuple[tuple[type[Message], Any], ...] = (
    (lease_pb2.AcquireRequest, validate.check_acquire),
    (lease_pb2.RenewRequest, validate.check_renew),
    (lease_pb2.ReleaseRequest, validate.check_release),
    (lease_pb2.CheckRequest, validate.check_check),
    (lease_pb2.CheckBatchRequest, validate.check_batch),
    (lease_pb2.DelegateRequest, validate.check_delegate),
    (lease_pb2.RecallRequest, validate.check_recall),
    (lease_pb2.ReportRequest, validate.check_report),
    (lease_pb2.WatchRequest, lambda request: validate.check_watch(request, is_first=True)),
    (lease_pb2.WatchRequest, lambda request: validate.check_watch(request, is_first=False)),
    (explain_pb2.ExplainRequest, _explain_request),
)
"""All that `validate` looks at; a test holds this to it."""


@target(
    "quorate.api.validate",
    "quorate.api.explain",
    "quorate.core.patterns",
    bounds=Bounds(steps=(20_000, 300)),
)
def request(data: bytes) -> None:
    """An input is which request it is, and the request."""
    kind, check = _REQUESTS[data[0] % len(_REQUESTS)] if data else _REQUESTS[0]
    message = message_of(kind, data[1:])
    if message is not None:
        attempt(InvalidRequestError, check, message)


@target("quorate.api.governance", "quorate.api.lineage")
def page_token(data: bytes) -> None:
    """An input is a token, and what one is made of."""
    text = data.decode("utf-8", "replace")
    for kind in governance_pb2.Kind.values():
        after = attempt(MalformedError, _after, kind, text)
        assert not after or _token(kind, after) == text
        if text.isascii() and len(text) <= MAX_ID_CHARS:
            assert _after(kind, _token(kind, text)) == text
    after_row = attempt(MalformedError, lineage._after, "descendants", text)
    assert not after_row or lineage._token("descendants", Page((), after_row)) == text
    if data:
        token = lineage._token("descendants", Page((), data[:64]))
        assert lineage._after("descendants", token) == data[:64]


@target("quorate.api.convert")
def outcome(data: bytes) -> None:
    """As the edge hears it of its core process."""
    message = message_of(decision_pb2.Outcome, data)
    read = message and attempt(MalformedError, convert.outcome_of_wire, message)
    if read:
        assert convert.outcome_of_wire(convert.outcome_to_wire(read)) == read


_CHECKS = (
    ids.check_domain,
    ids.check_node,
    ids.check_executor,
    ids.check_operator,
    ids.check_action,
    ids.check_resource,
    ids.check_name,
    ids.check_origin,
    ids.check_nonce,
    ids.check_command_id,
    ids.check_lease_id,
    ids.check_grant_id,
    ids.check_address,
    ids.check_lease_address,
    ids.dns_name,
    ids.resource_owner,
    patterns.check_action_pattern,
    patterns.check_resource_pattern,
)


@target("quorate.core.ids", "quorate.core.patterns")
def name(data: bytes) -> None:
    """No name has what would end a line, a key of the store, or a name of the host."""
    text = data.decode("utf-8", "replace")
    for check in _CHECKS:
        if passes(MalformedError, check, text):
            assert check is ids.check_lease_address or text.isascii()
            assert text.isprintable()
            assert len(text) <= MAX_NAME_CHARS
    parsed = attempt(MalformedError, ids.SpiffeId.parse, text)
    assert parsed is None or str(parsed) == text
