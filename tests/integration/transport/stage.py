"""What the tests of the transport have in common: nodes with real certificates, on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import aio

from quorate.consensus.peers import PROTOCOL_VERSION, LocalIdentity, Peer
from quorate.consensus.transport import Transport
from quorate.core.ids import SpiffeId, dns_name
from quorate.node.certificates import KeyPair, issue_node, issued_by, make_ca
from quorate.v1 import peer_pb2 as pb
from quorate.v1 import peer_pb2_grpc

GENESIS = b"\x01" * 32
TIMEOUT_S = 10
Stack = contextlib.AsyncExitStack


class Handler:
    """The node above a transport. `open`: whether it takes messages in."""

    def __init__(self) -> None:
        self.received: list[tuple[str, int]] = []
        self.links: list[tuple[str, bool]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = 0
        self._news = asyncio.Condition()

    async def messages(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        if not self.open.is_set():
            await self._wait()
        self.received += [(peer, message.confirm.round) for message in messages]
        await self._tell()

    async def _wait(self) -> None:
        self.waiting += 1
        await self._tell()
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1

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

    def is_linked(self, peer: Member) -> bool:
        told = [is_up for node_id, is_up in self.links if node_id == peer.node_id]
        return bool(told) and told[-1]

    def rounds(self, peer: str) -> list[int]:
        return [number for sender, number in self.received if sender == peer]


class Book:
    """What a node knows of the federation: a `Directory` that a test writes in."""

    def __init__(self) -> None:
        self.domains: dict[str, bytes] = {}
        self.further: dict[str, tuple[bytes, ...]] = {}
        self.nodes: set[str] = set()
        self.retired: set[str] = set()
        self.configured: dict[str, str] = {}
        self.own = ""
        self.order = b""
        self.asked = asyncio.Event()

    def know(self, *members: Member) -> None:
        self.domains |= {member.domain: member.ca.certificate for member in members}

    def authorities(self) -> list[bytes]:
        return [*self.domains.values(), *(each for some in self.further.values() for each in some)]

    def authorities_of(self, node_id: str) -> tuple[bytes, ...]:
        self.asked.set()
        domain = SpiffeId.parse(node_id).trust_domain
        if node_id in self.retired or domain not in self.domains:
            return ()
        return (self.domains[domain], *self.further.get(domain, ()))

    def address_of(self, node_id: str) -> str | None:
        return self.configured.get(node_id)

    def own_address(self) -> str:
        return self.own

    def own_order(self) -> bytes:
        return self.order

    def belongs(self, node_id: str, order: bytes) -> bool:
        return node_id in self.nodes or order == order_of(node_id)


def order_of(node_id: str) -> bytes:
    """Stands for the order of a node's domain to add it."""
    return b"add " + node_id.encode()


@dataclass
class Member:
    """A node, and its domain."""

    domain: str
    ca: KeyPair
    tls: KeyPair
    port: int
    name: str = "1"
    handler: Handler = field(default_factory=Handler)
    book: Book = field(default_factory=Book)

    @property
    def node_id(self) -> str:
        return f"spiffe://{self.domain}/node/{self.name}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def peer(self) -> Peer:
        return Peer(self.node_id, self.address, dns_name(self.node_id), (self.ca.certificate,))

    @property
    def identity(self) -> LocalIdentity:
        return LocalIdentity(self.node_id, self.tls.certificate, self.tls.private_key, GENESIS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_member(domain: str, name: str = "1", ca: KeyPair | None = None) -> Member:
    ca = ca or make_ca(domain)
    tls = issue_node(ca, f"spiffe://{domain}/node/{name}")
    return Member(domain, ca, tls, free_port(), name)


def sibling(member: Member, name: str) -> Member:
    """Another node of the same domain."""
    return make_member(member.domain, name, member.ca)


def made(member: Member, *peers: Member, **changes: Any) -> Transport:
    """A transport that is not started, of a node that knows the domains of its peers."""
    member.book.own = member.address
    member.book.order = order_of(member.node_id)
    member.book.know(member, *peers)
    member.book.nodes |= {peer.node_id for peer in peers}
    identity = replace(member.identity, **changes)
    transport = Transport(identity, member.book, member.handler, issued_by)
    transport.update(peer.peer for peer in peers)
    return transport


async def start(stack: Stack, member: Member, *peers: Member, **changes: Any) -> Transport:
    transport = made(member, *peers, **changes)
    await transport.start(member.address)
    stack.push_async_callback(transport.stop)
    return transport


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
        async with aio.secure_channel(self.to.address, credentials, options=options) as channel:
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
        "address": by.address,
        "order": order_of(by.node_id),
    }
    return pb.ExchangeRequest(hello=pb.PeerHello(**(said | changes)))


def frame(number: int, *rounds: int) -> pb.ExchangeRequest:
    return pb.ExchangeRequest(frame=number, messages=numbered(*rounds))


async def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(TIMEOUT_S):
        with contextlib.suppress(aio.AioRpcError):
            while await call.read() != aio.EOF:
                pass
        return await call.code(), await call.details()


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
