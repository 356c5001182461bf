"""Work of one organisation that leads to work of another is so in every ledger, and nobody has said
so by hand: the lease of the caller goes along with its call, over gRPC and over HTTP."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import grpc
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from quorate.chaos.crew import Crew
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.processes import wait_until
from quorate.client import AsyncGate, Gate, LeasePool, current_permit
from quorate.client.asgi import LeaseMiddleware
from quorate.client.governed import Act
from quorate.client.interceptors import LeaseChannel, LeaseServerInterceptor
from quorate.client.lineage import outgoing
from quorate.core import ids

pytestmark = pytest.mark.cluster

BANK, CLINIC = "bank.example", "clinic.example"
ACTION = "records.receive"
OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
WAIT_S = 60.0


def book(domain: str, name: str) -> str:
    return f"//{domain}/{name}/book"


def granted(crew: Crew, domain: str, name: str) -> None:
    crew.grant(domain, name, crew.workers[domain], f"{name}/*")


def parents_in(mirror: LedgerMirror, resource: str) -> dict[str, list[str]]:
    """Of the leases on a resource that the ledgers have as granted, by their id."""
    mirror.catch_up()
    found = {}
    for data in mirror.entries:
        entry = json.loads(data)
        if entry["type"] == "lease.acquire" and entry["decision"] == "accepted":
            command = json.loads(b64decode(entry["command"]["payload"]))
            if command["body"]["resource"] == resource:
                acquired_by = ids.command_id(command["issuer"], command["nonce"])
                lease = ids.lease_id(command["origin"], acquired_by)
                found[lease] = command["body"].get("parents", [])
    return found


class Served:
    """The leases that a service has worked under."""

    def __init__(self) -> None:
        self.leases: list[str] = []

    def look(self) -> None:
        permit = current_permit()
        assert permit is not None
        self.leases.append(permit.lease_id)

    def unary(self, _request: Any, _context: Any) -> bytes:
        self.look()
        return b""

    async def http(self, _request: Any) -> Response:
        self.look()
        return Response(status_code=204)


@contextmanager
def grpc_service(crew: Crew, domain: str, act: Act, served: Served) -> Iterator[str]:
    """Its address. The service is the domain's executor, and has no lease yet."""
    with (
        Gate.open(crew.workers[domain].client) as gate,
        LeasePool(gate) as pool,
        futures.ThreadPoolExecutor(max_workers=4) as threads,
    ):
        interceptor = LeaseServerInterceptor(pool, lambda _: act)
        server = grpc.server(threads, interceptors=[interceptor], options=OPTIONS)
        handlers = {"Receive": grpc.unary_unary_rpc_method_handler(served.unary)}
        made = grpc.method_handlers_generic_handler("clinic.Inbox", handlers)
        server.add_generic_rpc_handlers((made,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@contextmanager
def http_service(crew: Crew, domain: str, act: Act, served: Served) -> Iterator[str]:
    client = crew.workers[domain].client
    app = Starlette(routes=[Route("/records", served.http)])
    leased = LeaseMiddleware(app, lambda: AsyncGate.open(client), lambda _: act)
    config = uvicorn.Config(leased, "127.0.0.1", 0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until("the service", lambda: server.started, WAIT_S)
        yield "{}:{}".format(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        thread.join(WAIT_S)


@pytest.mark.usefixtures("cluster")
def test_a_call_of_another_organisation_makes_its_lease_the_parent(
    crew: Crew, mirror: LedgerMirror
) -> None:
    granted(crew, BANK, "calls")
    granted(crew, CLINIC, "called")
    served = Served()
    theirs = Act(ACTION, book(CLINIC, "called"))
    mine = Act(ACTION, book(BANK, "calls"))
    with (
        grpc_service(crew, CLINIC, theirs, served) as address,
        Gate.open(crew.workers[BANK].client) as gate,
        LeasePool(gate) as pool,
        grpc.insecure_channel(address, options=OPTIONS) as plain,
    ):
        leased = LeaseChannel(plain, pool, lambda _: mine)
        for _ in range(2):
            leased.unary_unary("/clinic.Inbox/Receive")(b"", timeout=WAIT_S)
    [parent] = parents_in(mirror, mine.resource)
    [child] = set(served.leases)
    assert len(served.leases) == 2, "one lease for both calls: they come from the same"
    assert parents_in(mirror, theirs.resource) == {child: [parent]}


@pytest.mark.usefixtures("cluster")
def test_an_http_request_of_another_organisation_does_too(crew: Crew, mirror: LedgerMirror) -> None:
    granted(crew, BANK, "requests")
    granted(crew, CLINIC, "requested")
    served = Served()
    theirs = Act(ACTION, book(CLINIC, "requested"))
    with (
        http_service(crew, CLINIC, theirs, served) as address,
        Gate.open(crew.workers[BANK].client) as gate,
        gate.lease(ACTION, book(BANK, "requests")) as parent,
        closing(HTTPConnection(address, timeout=WAIT_S)) as connection,
    ):
        connection.request("GET", "/records", headers=outgoing())
        assert connection.getresponse().status == 204
    [child] = served.leases
    assert parents_in(mirror, theirs.resource) == {child: [parent.id]}
