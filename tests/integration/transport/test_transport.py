"""Two nodes and strangers, over real sockets and real certificates on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from quorate.consensus import link as linking
from quorate.consensus import servicer
from quorate.consensus.limits import MAX_FRAME_BYTES, MAX_FRAME_MESSAGES, MAX_PEER_MESSAGE_BYTES
from quorate.consensus.peers import PROTOCOL_VERSION
from quorate.consensus.transport import LocalIdentity, Peer, Transport
from quorate.core.ids import dns_name
from quorate.node.certificates import KeyPair, issue_executor, issue_node, issued_by, make_ca
from quorate.v1 import peer_pb2 as pb
from quorate.v1 import peer_pb2_grpc

GENESIS = b"\x01" * 32
TIMEOUT_S = 10


class Handler:
    """The node above a transport. `open`: whether it takes messages in."""

    def __init__(self) -> None:
        self.received: list[tuple[str, int]] = []
        self.links: list[tuple[str, bool]] = []
        self.open = asyncio.Event()
        self.open.set()
        self._news = asyncio.Condition()

    async def messages(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        await self.open.wait()
        self.received += [(peer, message.confirm.round) for message in messages]
        await self._tell()

    def connected(self, peer: str) -> None:
        self._link(peer, True)

    def disconnected(self, peer: str) -> None:
        self._link(peer, False)

    def _link(self, peer: str, is_up: bool) -> None:
        self.links.append((peer, is_up))
        self._telling = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S), self._news:
            await self._news.wait_for(reached)

    def rounds(self, peer: str) -> list[int]:
        return [number for sender, number in self.received if sender == peer]


@dataclass
class Member:
    """A domain with one node."""

    domain: str
    ca: KeyPair
    tls: KeyPair
    port: int
    handler: Handler = field(default_factory=Handler)

    @property
    def node_id(self) -> str:
        return f"spiffe://{self.domain}/node/1"

    @property
    def peer(self) -> Peer:
        address = f"127.0.0.1:{self.port}"
        return Peer(self.node_id, address, dns_name(self.node_id), self.ca.certificate)

    @property
    def identity(self) -> LocalIdentity:
        return LocalIdentity(self.node_id, self.tls.certificate, self.tls.private_key, GENESIS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_member(domain: str) -> Member:
    ca = make_ca(domain)
    return Member(domain, ca, issue_node(ca, f"spiffe://{domain}/node/1"), free_port())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "_IDLE_FRAME_S": 0.05,
        "_LINK_TIMEOUT_S": 0.5,
        "_REDIAL_S": 0.05,
    }.items():
        monkeypatch.setattr(linking, name, value)
    monkeypatch.setattr(servicer, "_ACK_PERIOD_S", 0.02)


@pytest.fixture
async def a() -> Member:
    return make_member("a.example")


@pytest.fixture
async def b() -> Member:
    return make_member("b.example")


@pytest.fixture
async def c() -> Member:
    return make_member("c.example")


@pytest.fixture
async def tasks() -> AsyncIterator[contextlib.AsyncExitStack]:
    """Stops what was started, and sees that nothing is left running."""
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack:
        yield stack
    async with asyncio.timeout(TIMEOUT_S):
        while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
            names = {getattr(task.get_coro(), "__qualname__", "") for task in left}
            ours = {name for name in names if name.startswith(("Link", "Transport", "PeerServ"))}
            assert not ours, f"tasks left behind: {ours}"
            await asyncio.wait(left, timeout=0.1)


Stack = contextlib.AsyncExitStack


async def start(stack: Stack, member: Member, *peers: Member, **changes: Any) -> Transport:
    identity = replace(member.identity, **changes)
    made = Transport(identity, [peer.peer for peer in peers], member.handler, issued_by)
    await made.start(f"127.0.0.1:{member.port}")
    stack.push_async_callback(made.stop)
    return made


def numbered(*numbers: int) -> list[pb.PeerMessage]:
    return [pb.PeerMessage(confirm=pb.Confirm(round=number)) for number in numbers]


@dataclass
class Stranger:
    """A dialler of any kind: its own certificate, its own hello, its own frames."""

    tls: KeyPair
    to: Member

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[Any]:
        credentials = grpc.ssl_channel_credentials(
            self.to.ca.certificate, self.tls.private_key, self.tls.certificate
        )
        options = [
            ("grpc.ssl_target_name_override", dns_name(self.to.node_id)),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        async with aio.secure_channel(
            self.to.peer.address, credentials, options=options
        ) as channel:
            stub: Any = peer_pb2_grpc.PeerServiceStub(channel)
            call = stub.Exchange(timeout=TIMEOUT_S)
            yield call
            call.cancel()

    async def refusal(self, *frames: pb.ExchangeRequest) -> tuple[grpc.StatusCode, str]:
        """Sends the frames, and returns how the stream ends."""
        async with self.stream() as call:
            with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                for frame in frames:
                    await call.write(frame)
            try:
                while await call.read() != aio.EOF:
                    pass
            except aio.AioRpcError as error:
                return error.code(), error.details() or ""
            return await call.code(), ""


def hello(by: Member, to: Member, **changes: Any) -> pb.ExchangeRequest:
    said = {
        "sender": by.node_id,
        "receiver": to.node_id,
        "genesis_hash": GENESIS,
        "protocol_version": PROTOCOL_VERSION,
    }
    return pb.ExchangeRequest(hello=pb.PeerHello(**(said | changes)))


def frame(number: int, *rounds: int) -> pb.ExchangeRequest:
    return pb.ExchangeRequest(frame=number, messages=numbered(*rounds))


# -- two members ---------------------------------------------------------------------------------


async def test_messages_arrive_in_order_both_ways(tasks: Stack, a: Member, b: Member) -> None:
    from_a, from_b = await start(tasks, a, b), await start(tasks, b, a)
    await a.handler.until(lambda: a.handler.links == [(b.node_id, True)])
    await b.handler.until(lambda: b.handler.links == [(a.node_id, True)])
    for first in range(0, 3000, 100):
        from_a.send(b.node_id, numbered(*range(first, first + 100)))
        from_b.send(a.node_id, numbered(*range(first, first + 50)))
    await b.handler.until(lambda: len(b.handler.received) == 3000)
    await a.handler.until(lambda: len(a.handler.received) == 1500)
    assert b.handler.rounds(a.node_id) == list(range(3000))
    assert a.handler.rounds(b.node_id) == sorted(a.handler.rounds(b.node_id))


async def test_without_a_link_messages_are_dropped(tasks: Stack, a: Member, b: Member) -> None:
    from_a = await start(tasks, a, b)
    from_a.send(b.node_id, numbered(1))
    await start(tasks, b, a)
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    from_a.send(b.node_id, numbered(2))
    await b.handler.until(lambda: bool(b.handler.received))
    assert b.handler.rounds(a.node_id) == [2]


async def test_a_member_that_comes_back_is_dialled_again(
    tasks: Stack, a: Member, b: Member
) -> None:
    from_a = await start(tasks, a, b)
    first = await start(tasks, b, a)
    await a.handler.until(lambda: a.handler.links == [(b.node_id, True)])
    await first.stop()
    await a.handler.until(lambda: a.handler.links[1:] == [(b.node_id, False)])
    await start(tasks, b, a)
    await a.handler.until(lambda: a.handler.links[2:] == [(b.node_id, True)])
    from_a.send(b.node_id, numbered(7))
    await b.handler.until(lambda: b.handler.rounds(a.node_id) == [7])


async def test_a_member_that_takes_nothing_in_is_dropped(
    tasks: Stack, a: Member, b: Member
) -> None:
    """It keeps the connection, and answers at the level of HTTP/2; it is stuck all the same."""
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    b.handler.open.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    from_a.send(b.node_id, numbered(1))
    await a.handler.until(lambda: (b.node_id, False) in a.handler.links)
    assert loop.time() - began < 5 * linking._LINK_TIMEOUT_S
    b.handler.open.set()
    await a.handler.until(lambda: a.handler.links[-1] == (b.node_id, True))


async def test_a_slow_member_costs_bounded_memory(
    tasks: Stack, a: Member, b: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take in queues up to a limit; then the link is dropped, with the queue."""
    monkeypatch.setattr(linking, "MAX_QUEUED_MESSAGES", 500)
    monkeypatch.setattr(linking, "_LINK_TIMEOUT_S", 60)  # it is the queue that ends the link
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    b.handler.open.clear()
    link = from_a._links[b.node_id]
    sent = 0
    async with asyncio.timeout(TIMEOUT_S):
        while (b.node_id, False) not in a.handler.links:
            from_a.send(b.node_id, numbered(*range(100)))
            sent += 100
            assert len(link._queue) <= 500 + 100
            await asyncio.sleep(0)
    await a.handler.until(lambda: (b.node_id, False) in a.handler.links)
    assert not link._queue
    assert sent > 500
    b.handler.open.set()


# -- who is let in -------------------------------------------------------------------------------


async def refused(
    stack: Stack, to: Member, members: list[Member], tls: KeyPair, *frames: pb.ExchangeRequest
) -> tuple[grpc.StatusCode, str]:
    await start(stack, to, *members)
    answer = await Stranger(tls, to).refusal(*frames)
    assert to.handler.received == []
    return answer


async def test_a_node_that_is_no_member_is_refused(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    """Its authority is known, its name is not."""
    other = issue_node(a.ca, "spiffe://a.example/node/2")
    code, why = await refused(tasks, b, [a], other, hello(a, b))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "spiffe://a.example/node/2 is not a member" in why


async def test_an_executor_of_a_member_is_refused(tasks: Stack, a: Member, b: Member) -> None:
    executor = issue_executor(a.ca, "spiffe://a.example/agent/payments")
    code, _ = await refused(tasks, b, [a], executor, hello(a, b))
    assert code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


async def test_an_authority_that_nobody_knows_is_refused(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    code, _ = await refused(tasks, b, [a], c.tls, hello(c, b))
    assert code is grpc.StatusCode.UNAVAILABLE, "TLS itself says no"


async def test_a_member_cannot_name_another_members_node(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    """Both authorities are in the bundle that TLS accepts; each vouches for its own domain only."""
    forged = forge(c.ca, a.node_id)
    code, why = await refused(tasks, b, [a, c], forged, hello(a, b))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "not issued by its own domain" in why


def forge(ca: KeyPair, node_id: str) -> KeyPair:
    """A certificate for a node of another domain: what `issue_node` itself refuses to make."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(ca.certificate)
    signer: Any = serialization.load_pem_private_key(ca.private_key, None)
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.UniformResourceIdentifier(node_id), x509.DNSName(dns_name(node_id))]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return KeyPair(leaf.public_bytes(pem), private)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"sender": "spiffe://c.example/node/1"}, ("PERMISSION_DENIED", "names another node")),
        ({"receiver": "spiffe://c.example/node/1"}, ("FAILED_PRECONDITION", "this is")),
        ({"receiver": "x" * 5000}, ("FAILED_PRECONDITION", "this is")),
        ({"genesis_hash": b"\x02" * 32}, ("FAILED_PRECONDITION", "another federation")),
        ({"genesis_hash": b""}, ("FAILED_PRECONDITION", "another federation")),
        ({"protocol_version": 99}, ("FAILED_PRECONDITION", "another protocol version")),
    ],
)
async def test_a_hello_that_does_not_fit_is_refused(
    tasks: Stack, a: Member, b: Member, changes: dict[str, Any], answer: tuple[str, str]
) -> None:
    code, why = await refused(tasks, b, [a], a.tls, hello(a, b, **changes))
    assert code.name == answer[0]
    assert answer[1] in why


async def test_another_federation_is_no_peer(tasks: Stack, a: Member, b: Member) -> None:
    await start(tasks, b, a)
    await start(tasks, a, b, genesis_hash=b"\x09" * 32)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4 * linking._REDIAL_S):
            await a.handler.until(lambda: bool(a.handler.links))


async def test_a_dialler_does_not_talk_to_another_node(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    """Somebody else answers at the address: his certificate is not b's."""
    await start(tasks, c, a)
    mistaken = replace(b, port=c.port)
    await start(tasks, a, mistaken)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4 * linking._REDIAL_S):
            await a.handler.until(lambda: bool(a.handler.links))
    assert c.handler.received == []


# -- what is let in ------------------------------------------------------------------------------


async def test_frames_before_a_hello_are_refused(tasks: Stack, a: Member, b: Member) -> None:
    code, why = await refused(tasks, b, [a], a.tls, frame(1, 1))
    assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be a hello")


@pytest.mark.parametrize(
    "bad",
    [
        frame(2, 1),
        frame(0, 1),
        pb.ExchangeRequest(messages=numbered(1)),
        pb.ExchangeRequest(frame=1, hello=pb.PeerHello(), messages=numbered(1)),
        pb.ExchangeRequest(frame=1, messages=numbered(*[1] * (MAX_FRAME_MESSAGES + 1))),
    ],
    ids=["skips", "goes back", "no number", "second hello", "too many messages"],
)
async def test_a_frame_that_breaks_the_rules_ends_the_stream(
    tasks: Stack, a: Member, b: Member, bad: pb.ExchangeRequest
) -> None:
    code, _ = await refused(tasks, b, [a], a.tls, hello(a, b), bad)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_frame_that_comes_twice_ends_the_stream(tasks: Stack, a: Member, b: Member) -> None:
    await start(tasks, b, a)
    code, _ = await Stranger(a.tls, b).refusal(hello(a, b), frame(1, 5), frame(1, 5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert b.handler.rounds(a.node_id) == [5]


async def test_a_frame_beyond_the_size_limit_is_refused(tasks: Stack, a: Member, b: Member) -> None:
    assert MAX_PEER_MESSAGE_BYTES > MAX_FRAME_BYTES
    huge = pb.PeerMessage(propose=pb.Propose(payload=bytes(MAX_PEER_MESSAGE_BYTES)))
    bad = pb.ExchangeRequest(frame=1, messages=[huge])
    code, _ = await refused(tasks, b, [a], a.tls, hello(a, b), bad)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00" * 4096, b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01"]
)
async def test_garbage_on_the_port_harms_nobody(
    tasks: Stack, a: Member, b: Member, garbage: bytes
) -> None:
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    reader, writer = await asyncio.open_connection("127.0.0.1", b.port)
    writer.write(garbage)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(TIMEOUT_S):
            await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    from_a.send(b.node_id, numbered(3))
    await b.handler.until(lambda: b.handler.rounds(a.node_id) == [3])


async def test_who_dials_and_says_nothing_is_dropped(
    tasks: Stack, monkeypatch: pytest.MonkeyPatch, a: Member, b: Member
) -> None:
    monkeypatch.setattr(servicer, "_HELLO_TIMEOUT_S", 0.1)
    await start(tasks, b, a)
    async with Stranger(a.tls, b).stream() as silent, asyncio.timeout(TIMEOUT_S):
        with contextlib.suppress(aio.AioRpcError):
            await silent.read()
        assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_second_stream_of_a_member_ends_the_first(
    tasks: Stack, a: Member, b: Member
) -> None:
    await start(tasks, b, a)
    stranger = Stranger(a.tls, b)
    async with stranger.stream() as first, stranger.stream() as second:
        await first.write(hello(a, b))
        await first.read()
        await first.write(frame(1, 1))
        await b.handler.until(lambda: b.handler.rounds(a.node_id) == [1])
        await second.write(hello(a, b))
        await second.read()
        await second.write(frame(1, 3))
        await b.handler.until(lambda: 3 in b.handler.rounds(a.node_id))
        async with asyncio.timeout(TIMEOUT_S):
            with contextlib.suppress(aio.AioRpcError):
                while await first.read() != aio.EOF:
                    pass
            code, why = await first.code(), await first.details()
        assert code is grpc.StatusCode.ABORTED
        assert "a newer stream" in why


async def test_of_many_streams_at_once_one_is_left(tasks: Stack, a: Member, b: Member) -> None:
    """Whatever the order in which they are let in, only one may deliver."""
    receiver = await start(tasks, b, a)
    stranger = Stranger(a.tls, b)
    async with contextlib.AsyncExitStack() as streams:
        calls = [await streams.enter_async_context(stranger.stream()) for _ in range(6)]
        b.handler.open.clear()
        for call in calls:
            await call.write(hello(a, b))
            await call.write(frame(1, 1))
        for call in calls:
            with contextlib.suppress(aio.AioRpcError):
                await call.read()
        readers = [
            task
            for task in asyncio.all_tasks()
            if "_read" in getattr(task.get_coro(), "__qualname__", "")
            and "PeerServicer" in getattr(task.get_coro(), "__qualname__", "")
        ]
        assert len(readers) == 1
        assert receiver._servicer._streams == {a.node_id: readers[0]}
        b.handler.open.set()


# -- starting and stopping -----------------------------------------------------------------------


async def test_a_port_that_is_taken_is_an_error_of_the_operating_system(
    tasks: Stack, a: Member, b: Member
) -> None:
    await start(tasks, b, a)
    second = Transport(b.identity, [a.peer], b.handler, issued_by)
    with pytest.raises(OSError, match="cannot listen for peers"):
        await second.start(f"127.0.0.1:{b.port}")
    await second.stop()


async def test_a_federation_of_one_neither_listens_nor_dials(tasks: Stack, a: Member) -> None:
    alone = Transport(a.identity, [], a.handler, issued_by)
    assert await alone.start(f"127.0.0.1:{a.port}") == 0
    await alone.stop()


async def test_stopping_tells_that_the_links_are_gone(tasks: Stack, a: Member, b: Member) -> None:
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    await from_a.stop()
    assert a.handler.links[-1] == (b.node_id, False)
    from_a.send(b.node_id, numbered(1))
