"""Who is let in: the node's own domain, and each kind of caller only where it belongs."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from quorate.api.access import Access
from quorate.api.core_link import core_socket
from quorate.api.errors import NotPermittedError, ServiceError, UnauthenticatedError
from quorate.core.errors import ConfigurationError
from quorate.node.certificates import issue_executor, make_ca
from quorate.v1 import lease_pb2, lease_pb2_grpc, node_pb2, node_pb2_grpc

CHECK = lease_pb2.CheckRequest(lease_id="0" * 32)


async def code_of(call) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_executors_ask_for_leases_and_nobody_else_does(edge, dial, pki) -> None:
    codes = {
        name: await code_of(
            lease_pb2_grpc.LeaseServiceStub(dial(edge.port, getattr(pki, name))).Check(CHECK)
        )
        for name in ("executor", "other", "operator", "node")
    }
    assert codes == {
        "executor": grpc.StatusCode.OK,
        "other": grpc.StatusCode.OK,
        "operator": grpc.StatusCode.PERMISSION_DENIED,
        "node": grpc.StatusCode.PERMISSION_DENIED,
    }


@pytest.mark.parametrize("name", ["executor", "operator", "node"])
async def test_the_whole_domain_reads_the_core_s_services(servers, dial, pki, name) -> None:
    stub = node_pb2_grpc.NodeServiceStub(dial(servers.public.port, getattr(pki, name)))
    assert await code_of(stub.GetStatus(node_pb2.GetStatusRequest())) is grpc.StatusCode.OK


async def test_no_certificate_and_a_foreign_one_are_not_even_connected(
    edge, servers, dial, foreign
) -> None:
    impostor = issue_executor(make_ca("bank.example"), "spiffe://bank.example/agent/payments")
    for who in (None, foreign.executor, impostor):
        stub = lease_pb2_grpc.LeaseServiceStub(dial(edge.port, who))
        assert await code_of(stub.Check(CHECK)) is grpc.StatusCode.UNAVAILABLE
        node = node_pb2_grpc.NodeServiceStub(dial(servers.public.port, who))
        status = node.GetStatus(node_pb2.GetStatusRequest())
        assert await code_of(status) is grpc.StatusCode.UNAVAILABLE


class Context:
    def __init__(self, **properties: list[bytes]) -> None:
        self.properties = properties

    def auth_context(self) -> dict[str, list[bytes]]:
        return self.properties


def context(spiffe: str | None, transport: str = "ssl") -> Context:
    properties = {"transport_security_type": [transport.encode()]}
    if spiffe is not None:
        properties["peer_spiffe_id"] = [spiffe.encode()]
    return Context(**properties)


@pytest.mark.parametrize(
    ("spiffe", "error"),
    [
        (None, UnauthenticatedError),
        ("", UnauthenticatedError),
        ("spiffe://bank.example", UnauthenticatedError),
        ("spiffe://bank.example/../node/1", UnauthenticatedError),
        ("spiffe://bank.example/agent/\u00e9", UnauthenticatedError),
        ("https://bank.example/agent/payments", UnauthenticatedError),
        ("spiffe://clinic.example/agent/payments", NotPermittedError),
        ("spiffe://bank.example.evil/agent/payments", NotPermittedError),
        ("spiffe://bank.example/node/1", NotPermittedError),
        ("spiffe://bank.example/node", NotPermittedError),
        ("spiffe://bank.example/operator/admin", NotPermittedError),
    ],
)
def test_who_is_no_executor(spiffe: str | None, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        Access("bank.example").executor(context(spiffe))


@pytest.mark.parametrize("transport", ["insecure", "local", ""])
def test_an_identity_without_tls_is_none(transport: str) -> None:
    with pytest.raises(UnauthenticatedError):
        Access("bank.example").member(context("spiffe://bank.example/agent/a", transport))


def test_two_identities_are_none() -> None:
    both = Context(
        transport_security_type=[b"ssl"],
        peer_spiffe_id=[b"spiffe://bank.example/agent/a", b"spiffe://bank.example/agent/b"],
    )
    with pytest.raises(UnauthenticatedError):
        Access("bank.example").member(both)


def test_names_that_merely_begin_like_a_role_are_executors() -> None:
    spiffe = "spiffe://bank.example/nodes/1"
    assert Access("bank.example").executor(context(spiffe)) == spiffe


# -- health, reflection, the local socket ---------------------------------------------------------


async def test_health_says_what_was_told(edge, dial, pki) -> None:
    stub = health_pb2_grpc.HealthStub(dial(edge.port, pki.executor))
    for serving in (False, True):
        await edge.server.set_serving(serving)
        for service in ("", "quorate.v1.LeaseService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert (answer.status == health_pb2.HealthCheckResponse.SERVING) is serving


async def test_health_can_be_watched(edge, dial, pki) -> None:
    stub = health_pb2_grpc.HealthStub(dial(edge.port, pki.executor))
    call = stub.Watch(health_pb2.HealthCheckRequest(service="quorate.v1.LeaseService"))
    assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
    await edge.server.set_serving(False)
    assert (await call.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    call.cancel()


async def test_reflection_lists_the_services(edge, servers, dial, pki) -> None:
    expected = {
        edge.port: {"quorate.v1.LeaseService"},
        servers.public.port: {
            "quorate.v1.GovernanceService",
            "quorate.v1.LedgerService",
            "quorate.v1.NodeService",
        },
    }
    for port, services in expected.items():
        stub = reflection_pb2_grpc.ServerReflectionStub(dial(port, pki.executor))
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        async for answer in call:
            listed = {service.name for service in answer.list_services_response.service}
            break
        assert services <= listed
        assert "quorate.v1.CoreService" not in listed
        call.cancel()


async def test_the_local_socket_is_the_owner_s(servers, directory) -> None:
    assert core_socket(directory).stat().st_mode & 0o777 == 0o600


def test_a_socket_path_that_no_kernel_takes_is_told(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="107"):
        core_socket(tmp_path / ("x" * 120))
