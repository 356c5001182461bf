"""A gRPC service whose methods run only under leases, and a client to look at it with.

    python grpc_service.py serve billing 127.0.0.1:7500
    python grpc_service.py read 127.0.0.1:7500
    python grpc_service.py follow 127.0.0.1:7500

The service is the executor. Its client knows nothing of leases: it sees PERMISSION_DENIED. Needs no
generated code, for its messages are protobuf's own.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import Int64Value

from quorate.client import AsyncGate, AsyncLeasePool
from quorate.client.interceptors import Act, AsyncLeaseServerInterceptor, by_method

METER: Final = "//bank.example/meter"
SERVICE: Final = "example.Meter"
RULE: Final = by_method(
    {
        f"/{SERVICE}/Read": Act("meter.read", METER),
        f"/{SERVICE}/Follow": Act("meter.read", METER),
    }
)
TICK_S: Final = 0.2
CALL_TIMEOUT_S: Final = 10.0
_CHANNEL: Final = (("grpc.enable_http_proxy", 0),)


class Meter:
    """Stands for a device: it counts the readings that were taken."""

    def __init__(self) -> None:
        self._value = 0

    async def read(self, _request: Empty, _context: Any) -> Int64Value:
        self._value += 1
        return Int64Value(value=self._value)

    async def follow(self, request: Empty, context: Any) -> AsyncIterator[Int64Value]:
        while True:
            yield await self.read(request, context)
            await asyncio.sleep(TICK_S)  # the device's own pace; cancelled when trust goes


def server(pool: AsyncLeasePool) -> grpc.aio.Server:
    """A server of the meter, each RPC under the pool's lease."""
    meter = Meter()
    made = grpc.aio.server(interceptors=[AsyncLeaseServerInterceptor(pool, RULE)])
    made.add_registered_method_handlers(
        SERVICE,
        {
            "Read": grpc.unary_unary_rpc_method_handler(
                meter.read, Empty.FromString, Int64Value.SerializeToString
            ),
            "Follow": grpc.unary_stream_rpc_method_handler(
                meter.follow, Empty.FromString, Int64Value.SerializeToString
            ),
        },
    )
    return made


async def serve(directory: Path, address: str) -> None:
    async with AsyncGate.open(directory) as gate, AsyncLeasePool(gate) as pool:
        serving = server(pool)
        serving.add_insecure_port(address)  # with certificates: add_secure_port
        await serving.start()
        print(f"serving at {address}")
        await serving.wait_for_termination()


def ask(method: str, address: str) -> int:
    """What anybody's client does. Returns the exit code."""
    with grpc.insecure_channel(address, options=_CHANNEL) as channel:
        read = channel.unary_unary(
            f"/{SERVICE}/Read", Empty.SerializeToString, Int64Value.FromString
        )
        follow = channel.unary_stream(
            f"/{SERVICE}/Follow", Empty.SerializeToString, Int64Value.FromString
        )
        try:
            if method == "read":
                print(f"reading {read(Empty(), timeout=CALL_TIMEOUT_S).value}")
            else:
                for reading in follow(Empty()):
                    print(f"reading {reading.value}")
        except grpc.RpcError as error:
            print(f"stopped: {error.code().name} {error.details()}")
            return 3
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A gRPC service under leases.")
    modes = parser.add_subparsers(dest="mode", required=True)
    serving_mode = modes.add_parser("serve", help="serve the meter")
    serving_mode.add_argument("directory", type=Path, help="made by quorate executor issue")
    for each in (
        serving_mode,
        modes.add_parser("read", help="ask for one reading"),
        modes.add_parser("follow", help="print readings as they come"),
    ):
        each.add_argument("address", help="like 127.0.0.1:7500")
    options = parser.parse_args()
    if options.mode == "serve":
        asyncio.run(serve(options.directory, options.address))
    else:
        sys.exit(ask(options.mode, options.address))
