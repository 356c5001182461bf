"""One node of the consensus benchmark: the real replica, store and transport, and no governance.

Owns the loop of a turn (take in, tick, commit, then send), the callers that propose, and what is
done with a committed command: it is appended to the ledger and its tree, or to nothing, as its
first byte says. Run as a process of its own, told what to do by lines of JSON on its standard
input, one answer a line; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import sys
import time
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from bench.specs import COMMAND_BYTES, TO_LEDGER, MemberSpec
from quorate.consensus import RaftSettings, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.transport import LocalIdentity, Peer, Transport
from quorate.consensus.wire import decode, encode
from quorate.core.ids import dns_name
from quorate.node.certificates import issued_by
from quorate.storage import Environment
from quorate.telemetry import configure_logging
from quorate.v1 import peer_pb2 as pb

GENESIS_HASH: Final = bytes(32)
MAP_BYTES: Final = 8 * 1024**3
MAX_IDLE_S: Final = 1.0
PASSES: Final = 16
"""Of the event loop between two turns, as in a node's core."""
KEY_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class _Wish:
    """A line of standard input."""

    do: str
    flight: int = 0
    start_s: float = 0.0
    seconds: float = 0.0
    kind: str = ""


class Member:
    """The transport's handler, and the replica's state machine."""

    def __init__(self, spec: MemberSpec, environment: Environment) -> None:
        self._environment = environment
        self._transport: Transport | None = None
        self._inbox: list[tuple[str, pb.PeerMessage]] = []
        self._wake = asyncio.Event()
        self._waiting: dict[bytes, asyncio.Future[None]] = {}
        self._executed: list[bytes] = []
        self._applied = 0
        self._digest = 0
        self._proposed = 0
        self._name = secrets.token_bytes(8)
        self._filling = os.urandom(COMMAND_BYTES)
        self._replica = Replica(
            node_id=spec.node_id,
            initial=Configuration(tuple(sorted(spec.addresses))),
            settings=RaftSettings(),
            store=environment,
            apply=self._apply,
            stamp=lambda payload: payload,
            clock=time.monotonic,
            wall_clock_ms=lambda: time.time_ns() // 1_000_000,
            chance=random.Random(),  # noqa: S311 - election timeouts
        )

    # -- a turn ------------------------------------------------------------------------------

    async def run(self, transport: Transport) -> None:
        self._transport = transport
        while True:
            self._turn()
            for _ in range(PASSES):
                await asyncio.sleep(0)
            if not (self._inbox or self._replica.has_more or self._wake.is_set()):
                pause_s = min(MAX_IDLE_S, self._replica.next_timer() - time.monotonic())
                if pause_s > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await self._wake.wait()
            self._wake.clear()

    def _turn(self) -> None:
        arrived, self._inbox = self._inbox, []
        for peer, received in arrived:
            message = decode(received)
            assert message is not None, "nothing but consensus is spoken here"
            self._replica.receive(peer, message)
        self._replica.tick()
        self._replica.compact(self._replica.applied_index)
        self._environment.commit()
        executed, self._executed = self._executed, []
        for key in executed:
            self._replica.forget(key)
            waiting = self._waiting.pop(key, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        by_peer: dict[str, list[pb.PeerMessage]] = {}
        for peer, leaving in self._replica.take_outbox():
            by_peer.setdefault(peer, []).append(encode(leaving))
        assert self._transport is not None
        for peer, messages in by_peer.items():
            self._transport.send(peer, messages)

    def _apply(self, _index: int, command: bytes) -> None:
        if command[:1] == TO_LEDGER:
            self._environment.turn.append_ledger(command)
        self._digest = zlib.crc32(command, self._digest)
        self._applied += 1
        self._executed.append(command[1 : 1 + KEY_BYTES])

    # -- the transport's handler -------------------------------------------------------------

    async def messages(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        self._inbox += [(peer, message) for message in messages]
        self._wake.set()

    def connected(self, peer: str) -> None:
        self._replica.connected(peer)
        self._wake.set()

    def disconnected(self, peer: str) -> None:
        self._replica.disconnected(peer)
        self._wake.set()

    # -- what it is told to do ---------------------------------------------------------------

    def status(self) -> dict[str, object]:
        return {
            "leads": self._replica.is_leader and self._replica.commits_own_term,
            "links": len(self._replica.connected_ids),
            "term": self._replica.term,
            "applied": self._applied,
            "digest": self._digest,
            "durable_turns": self._environment.commits,
        }

    async def load(self, wish: _Wish) -> dict[str, object]:
        """So many callers, each with one command on its way, from `start_s` on (CLOCK_MONOTONIC)
        for `seconds`; how long each command took, in microseconds."""
        took = array("d")
        kind = wish.kind.encode()
        await asyncio.sleep(wish.start_s - time.monotonic())
        until = wish.start_s + wish.seconds
        await asyncio.gather(*(self._caller(kind, until, took) for _ in range(wish.flight)))
        return {"seconds": time.monotonic() - wish.start_s, "took_us": [round(t) for t in took]}

    async def _caller(self, kind: bytes, until: float, took: array[float]) -> None:
        loop = asyncio.get_running_loop()
        while (before := time.monotonic()) < until:
            self._proposed += 1
            key = self._name + self._proposed.to_bytes(KEY_BYTES - len(self._name), "big")
            command = kind + key + self._filling[: COMMAND_BYTES - 1 - KEY_BYTES]
            waiting = self._waiting[key] = loop.create_future()
            taken = self._replica.propose(key, command)
            assert taken, "fewer callers than a replica takes proposals"
            self._wake.set()
            await waiting
            took.append((time.monotonic() - before) * 1e6)


async def _obey(member: Member) -> None:
    """Reads what to do until there is nothing more to read."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        wish = _Wish(**json.loads(line))
        answer: Any = member.status() if wish.do == "status" else await member.load(wish)
        print(json.dumps(answer), flush=True)


class _Directory:
    """The members of a group, which never change."""

    def __init__(self, spec: MemberSpec) -> None:
        self._spec = spec

    def authorities(self) -> list[bytes]:
        return [self._spec.ca_of(node_id) for node_id in self._spec.addresses]

    def authorities_of(self, node_id: str) -> tuple[bytes, ...]:
        return (self._spec.ca_of(node_id),) if node_id in self._spec.addresses else ()

    def address_of(self, node_id: str) -> str | None:
        return self._spec.addresses.get(node_id)

    def own_address(self) -> str:
        return self._spec.addresses[self._spec.node_id]

    def own_order(self) -> bytes:
        return b""

    def belongs(self, node_id: str, order: bytes) -> bool:
        return node_id in self._spec.addresses


async def _serve(spec: MemberSpec) -> None:
    environment = Environment.open(spec.directory / "store", map_size_bytes=MAP_BYTES)
    environment.initialise(GENESIS_HASH, spec.node_id)
    member = Member(spec, environment)
    identity = LocalIdentity(spec.node_id, spec.certificate(), spec.private_key(), GENESIS_HASH)
    transport = Transport(identity, _Directory(spec), member, issued_by)
    transport.update(
        Peer(node_id, address, dns_name(node_id), (spec.ca_of(node_id),))
        for node_id, address in spec.addresses.items()
        if node_id != spec.node_id
    )
    await transport.start(spec.addresses[spec.node_id])
    turns = asyncio.create_task(member.run(transport))
    obeying = asyncio.create_task(_obey(member))
    await asyncio.wait([turns, obeying], return_when=asyncio.FIRST_COMPLETED)
    turns.cancel()
    obeying.cancel()
    results = await asyncio.gather(turns, obeying, return_exceptions=True)
    await transport.stop()
    environment.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


if __name__ == "__main__":
    configure_logging("warning", "text")  # to standard error: standard output is for the answers
    uvloop.run(_serve(MemberSpec.read(Path(sys.argv[1]))))
