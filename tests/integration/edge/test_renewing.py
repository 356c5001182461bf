"""A server shows another certificate, and nobody who calls has to notice."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.integration.edge.conftest import DOMAIN, NODE, SERVER_NAME, Pki

from quorate.api.servers import MAX_SOCKET_BYTES, PublicServer, build_public_server
from quorate.core.errors import ConfigurationError
from quorate.node.certificates import KeyPair, issue_executor, issue_node, make_ca
from quorate.telemetry import Metrics


def shown(port: int, pki: Pki, directory: Path) -> bytes:
    """The certificate that whoever connects now is shown, DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pki.ca.certificate.decode())
    for name, data in (("c.crt", pki.executor.certificate), ("c.key", pki.executor.private_key)):
        (directory / name).write_bytes(data)
    context.load_cert_chain(directory / "c.crt", directory / "c.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as link,
    ):
        leaf = link.getpeercert(binary_form=True)
    assert leaf is not None
    return leaf


def der(pair: KeyPair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.decode())


async def until_ok(stub: health_pb2_grpc.HealthStub) -> None:
    """Whoever calls in the very moment in which a server stops is told so, and calls again."""
    async with asyncio.timeout(10):
        while True:
            try:
                await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() not in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}:
                    raise
            else:
                return


@pytest.fixture(params=[True, False], ids=["shared", "alone"])
async def server(
    request: pytest.FixtureRequest, pki: Pki, directory: Path
) -> AsyncIterator[PublicServer]:
    """Alone, or with an address that others may share."""
    made = build_public_server(
        [],
        address="127.0.0.1:0",
        identity=pki.node,
        client_ca=pki.ca.certificate,
        metrics=Metrics(),
        reuse_port=request.param,
        socket=directory / "lease.sock",
    )
    await made.start()
    await made.set_serving(True)
    yield made
    await made.stop(0)


async def test_whoever_connects_next_is_shown_the_new_one(server, dial, pki, directory) -> None:
    assert await asyncio.to_thread(shown, server.port, pki, directory) == der(pki.node)
    for _ in range(3):
        new = issue_node(pki.ca, NODE)
        await server.renew(new, pki.ca.certificate)
        await until_ok(health_pb2_grpc.HealthStub(dial(server.port, pki.executor)))
        assert await asyncio.to_thread(shown, server.port, pki, directory) == der(new)


async def test_health_stays_what_it_was(server, dial, pki) -> None:
    await server.renew(issue_node(pki.ca, NODE), pki.ca.certificate)
    stub = health_pb2_grpc.HealthStub(dial(server.port, pki.executor))
    answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_socket_leads_to_the_new_one_and_goes_with_the_last(
    server, pki, directory
) -> None:
    path = directory / "lease.sock"
    credentials = grpc.ssl_channel_credentials(
        pki.ca.certificate, pki.executor.private_key, pki.executor.certificate
    )
    named = [("grpc.ssl_target_name_override", SERVER_NAME)]
    for _ in range(3):
        await server.renew(issue_node(pki.ca, NODE), pki.ca.certificate)
        await asyncio.gather(*server._ending)
        assert path.is_socket()
        assert path.stat().st_mode & 0o777 == 0o666
        async with grpc.aio.secure_channel(f"unix:{path}", credentials, options=named) as channel:
            await until_ok(health_pb2_grpc.HealthStub(channel))
    await server.stop(0)
    assert not path.exists()
    assert not [each for each in directory.iterdir() if each.is_socket()], "none is left"


async def test_a_call_in_progress_goes_on(server, dial, pki) -> None:
    stub = health_pb2_grpc.HealthStub(dial(server.port, pki.executor))
    call = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
    await server.renew(issue_node(pki.ca, NODE), pki.ca.certificate)
    await server.set_serving(False)
    assert (await call.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    call.cancel()


async def test_a_server_stops_while_it_is_renewed(pki) -> None:
    made = build_public_server(
        [],
        address="127.0.0.1:0",
        identity=pki.node,
        client_ca=pki.ca.certificate,
        metrics=Metrics(),
    )
    await made.start()
    renewing = asyncio.create_task(made.renew(issue_node(pki.ca, NODE), pki.ca.certificate))
    await asyncio.sleep(0)
    renewing.cancel()
    await asyncio.wait([renewing])
    await made.stop(0)
    assert not made._ending


async def test_an_address_that_is_taken_meanwhile_is_told(pki, monkeypatch) -> None:
    monkeypatch.setattr("quorate.api.servers._REBIND_TRIES", 3)
    async with AsyncExitStack() as stack:
        made = build_public_server(
            [],
            address="127.0.0.1:0",
            identity=pki.node,
            client_ca=pki.ca.certificate,
            metrics=Metrics(),
        )
        await made.start()
        stack.push_async_callback(made.stop, 0)
        form = made._form

        def taken(*_: object) -> None:
            raise ConfigurationError("taken")

        monkeypatch.setattr(type(form), "make", taken)
        with pytest.raises(ConfigurationError, match="again"):
            await made.renew(issue_node(pki.ca, NODE), pki.ca.certificate)


async def test_whom_a_dropped_authority_vouches_for_is_cut_off(server, dial, pki) -> None:
    """On the connection that it has, too, and in the midst of a call."""
    ca = make_ca(DOMAIN)
    channel = dial(server.port, pki.executor)
    stub = health_pb2_grpc.HealthStub(channel)
    await until_ok(stub)
    call = stub.Watch(health_pb2.HealthCheckRequest())
    await call.read()
    both = b"\n".join([pki.ca.certificate, ca.certificate])
    await server.renew(pki.node, both)
    await until_ok(stub)  # both are trusted
    of_new = issue_executor(ca, f"spiffe://{DOMAIN}/agent/payments")
    await until_ok(health_pb2_grpc.HealthStub(dial(server.port, of_new)))
    call = stub.Watch(health_pb2.HealthCheckRequest())
    await call.read()
    await server.renew(pki.node, ca.certificate)
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert refused.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
    async with asyncio.timeout(10):
        with pytest.raises(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
    await until_ok(health_pb2_grpc.HealthStub(dial(server.port, of_new)))


async def test_a_socket_whose_path_leaves_no_room_says_so(pki, tmp_path) -> None:
    """For the one that is made beside it, and renamed."""
    short = tmp_path / ("d" * (MAX_SOCKET_BYTES - len(bytes(tmp_path)) - 4))
    short.mkdir()
    with pytest.raises(ConfigurationError, match="too long"):
        build_public_server(
            [],
            address="127.0.0.1:0",
            identity=pki.node,
            client_ca=pki.ca.certificate,
            metrics=Metrics(),
            socket=short / "l",
        )
