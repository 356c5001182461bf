"""Three members of the consensus benchmark, as processes, and the load on them.

Owns starting them (`bench.member`), the spreading of callers over them, and the check that all of
them executed the same commands in the same order: a rate of commands that were lost says nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.client import Sample, cpu_seconds
from bench.specs import MemberSpec
from quorate.chaos.ports import Ports
from quorate.chaos.processes import wait_until
from quorate.node.certificates import issue_node, make_ca

MEMBERS: Final = 3
READY_S: Final = 30.0
SETTLE_S: Final = 30.0
END_S: Final = 10.0
LEAD_IN_S: Final = 0.1
"""Between telling the members and the common start of their callers."""


class Group:
    """Three members in `directory`, until closed."""

    def __init__(self, directory: Path) -> None:
        self._ports = Ports()
        ids = [f"spiffe://member-{number}.example/node/1" for number in range(MEMBERS)]
        addresses = {node_id: self._ports.address() for node_id in ids}
        cas = {node_id: make_ca(f"member-{n}.example") for n, node_id in enumerate(ids)}
        authorities = {node_id: ca.certificate for node_id, ca in cas.items()}
        self._specs = []
        for number, node_id in enumerate(ids):
            pair = issue_node(cas[node_id], node_id)
            spec = MemberSpec(node_id, addresses, directory / f"member-{number}")
            spec.write(pair.certificate, pair.private_key, authorities)
            self._specs.append(spec)
        self._members: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._ports.close)
            for spec in self._specs:
                command = [sys.executable, "-m", "bench.member", str(spec.directory)]
                member = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                stack.callback(_end, member)
                self._members.append(member)
            wait_until("a leader with links to all", self._is_ready, READY_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def load(self, kind: bytes, *, flight: int, seconds: float) -> Sample:
        """One run: the callers take the members in turn, the leader first. Raises RuntimeError
        when the members did not all execute the same."""
        pids = [member.pid for member in self._members]
        first = next(n for n, status in enumerate(self._statuses()) if status["leads"])
        order = [first, *(n for n in range(MEMBERS) if n != first)]
        wish = {"do": "load", "seconds": seconds, "kind": kind.decode()}
        wish["start_s"] = time.monotonic() + LEAD_IN_S
        used = cpu_seconds(pids)
        for place, number in enumerate(order):
            callers = len(range(place, flight, MEMBERS))
            _tell(self._members[number], wish | {"flight": callers})
        results = [_hear(member) for member in self._members]
        self._settle()
        used = cpu_seconds(pids) - used
        took = sorted(us for result in results for us in result["took_us"])
        return Sample(
            calls=len(took),
            rate=len(took) / max(result["seconds"] for result in results),
            p50_us=took[len(took) // 2],
            p99_us=took[len(took) * 99 // 100],
            cpu_us=used / len(took) * 1e6,
        )

    def _statuses(self) -> list[dict[str, Any]]:
        for member in self._members:
            _tell(member, {"do": "status"})
        return [_hear(member) for member in self._members]

    def _is_ready(self) -> bool:
        statuses = self._statuses()
        linked = all(status["links"] == MEMBERS - 1 for status in statuses)
        return linked and sum(status["leads"] for status in statuses) == 1

    def _settle(self) -> None:
        statuses: list[dict[str, Any]] = []

        def level() -> bool:
            statuses[:] = self._statuses()
            return len({status["applied"] for status in statuses}) == 1

        wait_until("as many commands at every member", level, SETTLE_S)
        if len({status["digest"] for status in statuses}) != 1:
            raise RuntimeError(f"the members executed different commands: {statuses}")


def _tell(member: subprocess.Popen[bytes], wish: dict[str, Any]) -> None:
    assert member.stdin is not None
    member.stdin.write(json.dumps(wish).encode() + b"\n")
    member.stdin.flush()


def _hear(member: subprocess.Popen[bytes]) -> Any:
    assert member.stdout is not None
    line = member.stdout.readline()
    if not line:
        raise RuntimeError("a member has ended by itself")
    return json.loads(line)


def _end(member: subprocess.Popen[bytes]) -> None:
    assert member.stdin is not None
    member.stdin.close()
    try:
        member.wait(END_S)
    except subprocess.TimeoutExpired:
        member.kill()
        member.wait()
