"""The gRPC servers of a node: how they are secured, limited, observed and stopped.

Owns the options of every server, TLS among them: a public server accepts certificates of the node's
own domain only. Owns no service; `quorate.node` puts services and servers together.
"""

from __future__ import annotations

import asyncio
import secrets
import socket as socket_module
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import grpc
import grpc.aio
import grpc_health.v1.health as health_service
import grpc_reflection.v1alpha.reflection as reflection_service
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quorate.api.access import Access
from quorate.api.core import CoreService
from quorate.api.core_link import core_socket
from quorate.api.explain import CoreExplainer, ExplainService
from quorate.api.governance import GovernanceService
from quorate.api.interceptors import ErrorInterceptor
from quorate.api.ledger import LedgerService
from quorate.api.lineage import Graph, LineageService
from quorate.api.node import NodeService
from quorate.api.pace import explanations, lineage_pages
from quorate.api.ports import Core
from quorate.api.watch import MAX_WATCHERS
from quorate.core.errors import ConfigurationError
from quorate.core.ids import SpiffeId
from quorate.core.limits import MAX_MESSAGE_BYTES
from quorate.lease.clock import SystemClock
from quorate.telemetry import Metrics
from quorate.v1 import (
    core_pb2_grpc,
    explain_pb2_grpc,
    governance_pb2_grpc,
    lease_pb2_grpc,
    ledger_pb2_grpc,
    lineage_pb2_grpc,
    node_pb2_grpc,
)

MAX_CALLS: Final = MAX_WATCHERS + 4_096
"""Calls in progress in one server, watchers among them; more are refused at once."""
MAX_CALLS_PER_CONNECTION: Final = 1_024
MAX_METADATA_BYTES: Final = 16 * 1024
STOP_GRACE_S: Final = 2.0
MAX_SOCKET_BYTES: Final = 107
"""Of a unix socket's path (sockaddr_un, less the NUL)."""
"""How long calls in progress may take when a server stops."""
_REBIND_RETRY_S: Final = 0.05
_REBIND_TRIES: Final = 100
_KEEPALIVE_MS: Final = 20_000
_KEEPALIVE_TIMEOUT_MS: Final = 10_000
_LEAST_PING_INTERVAL_MS: Final = 5_000

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    # A peer that vanished without a word must not hold a watcher's place for ever.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),  # which is a minute otherwise
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_INTERVAL_MS),
)

CORE_SERVICE: Final = "quorate.v1.CoreService"
EXPLAIN_SERVICE: Final = "quorate.v1.ExplainService"
LEASE_SERVICE: Final = "quorate.v1.LeaseService"
GOVERNANCE_SERVICE: Final = "quorate.v1.GovernanceService"
LEDGER_SERVICE: Final = "quorate.v1.LedgerService"
LINEAGE_SERVICE: Final = "quorate.v1.LineageService"
NODE_SERVICE: Final = "quorate.v1.NodeService"


class CertificatePair(Protocol):
    """A certificate chain and its private key, PEM (`quorate.node.identity.KeyPair`)."""

    @property
    def certificate(self) -> bytes: ...

    @property
    def private_key(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Registration:
    """A service, and how it is added to a server."""

    name: str
    add: Callable[[grpc.aio.Server], None]


class PublicServer:
    """A server with mutual TLS, health and reflection. Reported as not serving until told."""

    def __init__(
        self, form: _Form, identity: CertificatePair, client_ca: bytes, address: str
    ) -> None:
        self._form = form
        self._ending: set[asyncio.Task[None]] = set()
        self._server, self.port = form.make(identity, client_ca, address)
        """port: where it listens; of use when the address left it to the system."""
        self._address = f"{address.rpartition(':')[0]}:{self.port}"

    async def start(self) -> None:
        await self.set_serving(False)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """What the health service says of every service and of the server as a whole."""
        status = health_pb2.HealthCheckResponse
        for name in ("", *(service.name for service in self._form.services)):
            await self._form.checks.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def renew(self, identity: CertificatePair, client_ca: bytes) -> None:
        """Serves with another certificate from now on, and those whom these authorities vouch for.
        Calls in progress may take as long as when the server stops, and whoever calls next
        connects anew. An address that is shared is served
        all the while, another one but for a moment. Raises ConfigurationError when the address is
        taken meanwhile."""
        older = self._server
        if self._form.reuse_port:
            self._server, _ = self._form.make(identity, client_ca, self._address)
            await self._server.start()
            self._end(older)
            return
        self._end(older)
        for attempt in range(_REBIND_TRIES):
            await asyncio.sleep(_REBIND_RETRY_S if attempt else 0)
            try:
                self._server, _ = self._form.make(identity, client_ca, self._address)
            except ConfigurationError:  # what has stopped may hold its port for a moment
                continue
            await self._server.start()
            return
        raise ConfigurationError(
            f"cannot listen at {self._address} again", hint="is another process listening there?"
        )

    def _end(self, older: grpc.aio.Server) -> None:
        """Takes no more connections at once, and lets the calls in progress end."""
        task = asyncio.create_task(older.stop(STOP_GRACE_S))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Refuses new calls, and cancels after `grace_s` those that are still in progress."""
        await self._form.checks.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        if self._ending:
            await asyncio.wait(self._ending)
        if self._form.socket is not None:
            self._form.socket.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Form:
    """What a public server is made of, besides certificates and its address."""

    services: Sequence[Registration]
    metrics: Metrics
    reuse_port: bool
    socket: Path | None
    checks: health_service.aio.HealthServicer

    def make(
        self, identity: CertificatePair, client_ca: bytes, address: str
    ) -> tuple[grpc.aio.Server, int]:
        """A server that is not started, and its port. Raises ConfigurationError."""
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor(self.metrics)],
            maximum_concurrent_rpcs=MAX_CALLS,
            options=[*_OPTIONS, ("grpc.so_reuseport", int(self.reuse_port))],
        )
        for service in self.services:
            service.add(server)
        health_pb2_grpc.add_HealthServicer_to_server(self.checks, server)
        names = [service.name for service in self.services]
        reflection_service.enable_server_reflection(
            [*names, health_service.SERVICE_NAME, reflection_service.SERVICE_NAME], server
        )
        credentials = grpc.ssl_server_credentials(
            [(identity.private_key, identity.certificate)],
            root_certificates=client_ca,
            require_client_auth=True,
        )
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ConfigurationError(
                f"cannot listen at {address}", hint="is another process listening there?"
            ) from error
        if self.socket is not None:
            _listen_at(server, self.socket, credentials)
        return server, port


def build_public_server(
    services: Sequence[Registration],
    *,
    address: str,
    identity: CertificatePair,
    client_ca: bytes,
    metrics: Metrics,
    reuse_port: bool = False,
    socket: Path | None = None,
) -> PublicServer:
    """A server at `address` (host:port) that demands a certificate issued by `client_ca`, which
    is one or more in PEM.

    reuse_port: several processes may listen at the address (SO_REUSEPORT), and share its
    connections. socket: a unix socket to listen at as well, in the same way: whoever may reach it
    needs a certificate. Raises ConfigurationError when one of them cannot be used.
    """
    if socket is not None and _is_listening(socket):
        raise ConfigurationError(
            f"cannot listen at {socket}: it is in use", hint="is another process listening there?"
        )
    checks = health_service.aio.HealthServicer()
    form = _Form(services, metrics, reuse_port, socket, checks)
    return PublicServer(form, identity, client_ca, address)


def _listen_at(server: grpc.aio.Server, socket: Path, credentials: grpc.ServerCredentials) -> None:
    """Takes the place of a socket that is there, and of nothing else. The library removes a socket
    by the name that it was given, when the server stops: another one may have its place by then,
    and so it is given a name of its own, and that is changed."""
    made = socket.with_name(f".{secrets.token_hex(3)}")
    if len(bytes(made)) > MAX_SOCKET_BYTES:
        raise ConfigurationError(
            f"cannot listen at {socket}: the path is too long",
            hint=f"a directory and a name of seven characters may have {MAX_SOCKET_BYTES} bytes",
        )
    try:
        if socket.exists() and not socket.is_socket():
            raise FileExistsError(socket)
        server.add_secure_port(f"unix:{made}", credentials)
        made.chmod(0o666)  # as open as a port: certificates say who comes
        made.replace(socket)
    except (RuntimeError, OSError) as error:
        raise ConfigurationError(
            f"cannot listen at {socket}", hint="is another process listening there?"
        ) from error


def _is_listening(path: Path) -> bool:
    with socket_module.socket(socket_module.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise ConfigurationError(f"cannot listen at {path}: {error.strerror}") from error
        return True


def build_local_server(
    services: Sequence[Registration], *, socket: Path, metrics: Metrics
) -> grpc.aio.Server:
    """A server at a unix socket, for processes of this node. The directory of the socket must be
    the node's own. Raises ConfigurationError when the socket cannot be made."""
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(metrics)],
        maximum_concurrent_rpcs=MAX_CALLS,
        options=_OPTIONS,
    )
    for service in services:
        service.add(server)
    # These credentials accept nothing but a unix socket, whatever address is given.
    credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
    try:
        server.add_secure_port(f"unix:{socket}", credentials)
        socket.chmod(0o600)
    except (RuntimeError, OSError) as error:
        raise ConfigurationError(
            f"cannot listen at {socket}", hint="is another core process running on this directory?"
        ) from error
    return server


def lease_registration(service: lease_pb2_grpc.LeaseServiceServicer) -> Registration:
    return Registration(
        LEASE_SERVICE,
        lambda server: lease_pb2_grpc.add_LeaseServiceServicer_to_server(service, server),
    )


def explain_registration(service: explain_pb2_grpc.ExplainServiceServicer) -> Registration:
    return Registration(
        EXPLAIN_SERVICE,
        lambda server: explain_pb2_grpc.add_ExplainServiceServicer_to_server(service, server),
    )


def core_registrations(
    core: Core, access: Access, metrics: Metrics, certificate_end_ms: Callable[[], int]
) -> tuple[Registration, ...]:
    """The public services of a core process."""
    governance = GovernanceService(core, access, metrics)
    ledger = LedgerService(core, access)
    node = NodeService(core, access, certificate_end_ms)
    pace = explanations(SystemClock())
    explain = ExplainService(CoreExplainer(core), access, access.any_for_operators, pace)
    return (
        Registration(
            GOVERNANCE_SERVICE,
            lambda server: governance_pb2_grpc.add_GovernanceServiceServicer_to_server(
                governance, server
            ),
        ),
        Registration(
            LEDGER_SERVICE,
            lambda server: ledger_pb2_grpc.add_LedgerServiceServicer_to_server(ledger, server),
        ),
        Registration(
            NODE_SERVICE,
            lambda server: node_pb2_grpc.add_NodeServiceServicer_to_server(node, server),
        ),
        explain_registration(explain),
    )


def lineage_registration(service: LineageService) -> Registration:
    return Registration(
        LINEAGE_SERVICE,
        lambda server: lineage_pb2_grpc.add_LineageServiceServicer_to_server(service, server),
    )


def core_service_registration(core: Core, metrics: Metrics) -> Registration:
    """The service of a core process for the edges of its own node."""
    service = CoreService(core, metrics)
    return Registration(
        CORE_SERVICE,
        lambda server: core_pb2_grpc.add_CoreServiceServicer_to_server(service, server),
    )


# -- the core process's servers ----------------------------------------------------------------


class _Node(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def data_dir(self) -> Path: ...


class _Listen(Protocol):
    @property
    def governance(self) -> str: ...


class CoreServersConfig(Protocol):
    """The part of a node's configuration that its core servers need."""

    @property
    def node(self) -> _Node: ...

    @property
    def listen(self) -> _Listen: ...


@dataclass(frozen=True, slots=True)
class CoreServers:
    """The servers of a core process, serving."""

    public: PublicServer
    local: grpc.aio.Server

    async def stop(self) -> None:
        """Stops taking calls, lets those in progress end, and cuts what does not."""
        await self.public.stop()
        await self.local.stop(STOP_GRACE_S)


async def start_core_servers(
    core: Core,
    config: CoreServersConfig,
    identity: CertificatePair,
    own_ca: bytes,
    metrics: Metrics | None = None,
    *,
    graph: Graph | None = None,
    certificate_end_ms: Callable[[], int] = lambda: 0,
) -> CoreServers:
    """Serves governance, ledger and node to the own domain, and CoreService to the node's edges.

    graph: of lineage; None: that is not served. certificate_end_ms: until when the node's
    certificate of now is valid, in Unix milliseconds; 0: not known. Raises ConfigurationError when
    an address cannot be used; nothing is left listening then.
    """
    metrics = metrics if metrics is not None else Metrics()
    access = Access(SpiffeId.parse(config.node.id).trust_domain)
    async with AsyncExitStack() as stack:
        services = core_registrations(core, access, metrics, certificate_end_ms)
        if graph is not None:
            lineage = LineageService(core, access, graph, lineage_pages(SystemClock()))
            services += (lineage_registration(lineage),)
        public = build_public_server(
            services,
            address=config.listen.governance,
            identity=identity,
            client_ca=own_ca,
            metrics=metrics,
        )
        stack.push_async_callback(public.stop, 0.0)
        local = build_local_server(
            [core_service_registration(core, metrics)],
            socket=core_socket(config.node.data_dir),
            metrics=metrics,
        )
        stack.push_async_callback(local.stop, 0.0)
        await public.start()
        await local.start()
        await public.set_serving(True)
        stack.pop_all()
    return CoreServers(public, local)
