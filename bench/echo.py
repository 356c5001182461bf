"""The peer that a check is measured against: an echo of 200 bytes on the same kind of server.

The same library, event loop, TLS, interceptor and server options as an edge has; what is missing is
the work. Run as a process of its own: it prints its port, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop

from quorate.api.servers import Registration, build_public_server
from quorate.node.organisation import Organisation
from quorate.telemetry import Metrics

METHOD = "/quorate.bench.Echo/Echo"


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


def _register(server: grpc.aio.Server) -> None:
    handler: Any = grpc.unary_unary_rpc_method_handler(_echo)
    service = grpc.method_handlers_generic_handler("quorate.bench.Echo", {"Echo": handler})
    server.add_generic_rpc_handlers((service,))


async def _serve(organisation: Organisation) -> None:
    config = organisation.config
    identity = _Pair(config.tls.certificate, config.tls.private_key)
    server = build_public_server(
        [Registration("quorate.bench.Echo", _register)],
        address="127.0.0.1:0",
        identity=identity,
        client_ca=(config.tls.certificate.parent.parent / "ca.crt").read_bytes(),
        metrics=Metrics(),
    )
    await server.start()
    print(server.port, flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    await ended.wait()
    await server.stop(0)


class _Pair:
    def __init__(self, certificate: Path, private_key: Path) -> None:
        self.certificate = certificate.read_bytes()
        self.private_key = private_key.read_bytes()


if __name__ == "__main__":
    uvloop.run(_serve(Organisation.load(Path(sys.argv[1]))))
