"""The peer that committed commands are measured against: three members of etcd on this machine.

Owns its processes. It runs as Debian's etcd-server comes, with its own defaults: every put is on
the disks of a majority before it is answered, and no connection is encrypted.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.client import Load, Target
from quorate.chaos.ports import Ports
from quorate.chaos.processes import ProcessGroup, Warden, wait_until

MEMBERS: Final = 3
READY_S: Final = 30.0
ASK_S: Final = 2.0
STOP_S: Final = 10.0
PUT: Final = "/etcdserverpb.KV/Put"
RANGE: Final = "/etcdserverpb.KV/Range"
KEYS: Final = 1_000


def missing() -> str:
    """What must be installed; empty when nothing is missing."""
    return "" if shutil.which("etcd") is not None else "etcd not found: install etcd-server"


class Etcd:
    """Three members, started anew in `directory`, until closed; nothing may be `missing`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True)
        self._directory = directory
        self._ports = Ports()
        self._clients = [self._ports.address() for _ in range(MEMBERS)]
        self._peers = [self._ports.address() for _ in range(MEMBERS)]
        self._warden = Warden()
        self._members: list[ProcessGroup] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._close)
            self._members = [self._start(number) for number in range(MEMBERS)]
            wait_until("a leader of etcd", lambda: self._leader() is not None, READY_S)
            stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        for member in self._members:
            member.ask_to_stop()
        for member in self._members:
            member.wait(STOP_S)
        self._warden.close()
        self._ports.close()

    @property
    def version(self) -> str:
        done = subprocess.run(["etcd", "--version"], capture_output=True, check=True)
        return done.stdout.decode().splitlines()[0]

    def pids(self) -> list[int]:
        return [member.pgid for member in self._members]

    def puts(self, value_bytes: int) -> Load:
        """Puts of values of that size, over KEYS keys; the leader is the first target."""
        leader = self._leader()
        if leader is None:
            raise RuntimeError("etcd has no leader")
        order = [leader, *(n for n in range(MEMBERS) if n != leader)]
        return Load(
            method=PUT,
            targets=[Target(self._clients[number]) for number in order],
            bodies=[_put(f"bench/{key:06d}".encode(), bytes(value_bytes)) for key in range(KEYS)],
        )

    def gets(self, number: int) -> Load:
        """Of those keys, as one member has them: it asks no other ("serializable")."""
        return Load(
            method=RANGE,
            targets=[Target(self._clients[number])],
            bodies=[_get(f"bench/{key:06d}".encode()) for key in range(KEYS)],
        )

    def _start(self, number: int) -> ProcessGroup:
        name = f"etcd-{number}"
        peers = [f"http://{address}" for address in self._peers]
        cluster = ",".join(f"etcd-{n}={peer}" for n, peer in enumerate(peers))
        client = f"http://{self._clients[number]}"
        arguments = {
            "name": name,
            "data-dir": str(self._directory / name),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peers[number],
            "initial-advertise-peer-urls": peers[number],
            "initial-cluster": cluster,
            "initial-cluster-state": "new",
        }
        return self._warden.spawn(
            name,
            ["etcd", *(f"--{key}={value}" for key, value in arguments.items())],
            log=self._directory / f"{name}.log",
            directory=self._directory,
        )

    def _leader(self) -> int | None:
        """The number of the member that leads; None while they do not all say the same."""
        statuses = [_status(address) for address in self._clients]
        leaders = {status.get("leader") for status in statuses}
        if len(leaders) != 1 or None in leaders:
            return None
        members = [status["header"]["member_id"] for status in statuses]
        return members.index(leaders.pop())


def _status(address: str) -> dict[str, Any]:
    """What a member says of itself; nothing when it does not answer."""
    request = urllib.request.Request(f"http://{address}/v3/maintenance/status", data=b"{}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ASK_S) as answer:
            status: dict[str, Any] = json.load(answer)
            return status
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return {}


def _put(key: bytes, value: bytes) -> bytes:
    """An etcdserverpb.PutRequest: field 1 is the key, field 2 the value."""
    return b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value


def _get(key: bytes) -> bytes:
    """An etcdserverpb.RangeRequest: field 1 is the key, field 7 says that it is serializable."""
    return b"\x0a" + _varint(len(key)) + key + b"\x38\x01"


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
