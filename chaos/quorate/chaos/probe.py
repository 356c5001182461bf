"""An executor that asks one question again and again, and writes down every answer with its times.

Owns the asking process (`python -m quorate.chaos.probe CLIENT LEASE JOURNAL`) and the reading of
what it wrote. Speaks the wire contract with nothing in between: no permit is cached, no answer is
smoothed over. Claims nothing about what the answers ought to be.

Times are CLOCK_BOOTTIME, one clock for all processes of a machine, so that they compare exactly. A
decision cannot have been taken before its question was sent: a permit whose question was sent
after a deadline was decided after it, however slow the machine is.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from quorate.chaos.stopping import Stopping
from quorate.client import wire
from quorate.client.config import load_config
from quorate.core.limits import DEFAULT_MAX_PERMIT_TTL_MS
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

PACE_S: Final = 0.004
"""Between an answer and the next question: three of these leave the nodes some processor time."""
NS_PER_MS: Final = 1_000_000
_OK: Final = "OK"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and its answer. code: the gRPC status; the rest only means something when it is
    OK. ttl_ms: a permit's life from `sent_ns`. size: of the ledger that was decided on."""

    sent_ns: int
    answered_ns: int
    code: str
    verdict: str
    reason: str
    ttl_ms: int
    size: int = 0

    @property
    def is_permit(self) -> bool:
        return self.code == _OK and self.verdict == "VERDICT_PERMIT"

    @property
    def is_denial(self) -> bool:
        return self.code == _OK and self.verdict == "VERDICT_DENY"

    @property
    def good_until_ns(self) -> int:
        """When a permit's holder must stop."""
        return self.sent_ns + self.ttl_ms * NS_PER_MS

    def line(self) -> str:
        fields = (self.sent_ns, self.answered_ns, self.code, self.verdict, self.reason)
        return " ".join(map(str, (*fields, self.ttl_ms, self.size))) + "\n"

    @classmethod
    def parse(cls, line: str) -> Asked:
        sent, answered, code, verdict, reason, ttl, size = line.split(" ")
        return cls(int(sent), int(answered), code, verdict, reason, int(ttl), int(size))


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ProbeJournal:
    """What a probe has written so far; a line that is half written is left for the next look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._asked: list[Asked] = []

    def all(self) -> list[Asked]:
        """Every answer, in order."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._asked += [Asked.parse(line) for line in whole.decode().splitlines()]
        return self._asked

    def since(self, moment_ns: int) -> list[Asked]:
        """Those whose question was sent later than `moment_ns`."""
        return [asked for asked in self.all() if asked.sent_ns > moment_ns]

    def permits(self, moment_ns: int = 0) -> list[Asked]:
        return [asked for asked in self.since(moment_ns) if asked.is_permit]

    def denials(self, reason: str, moment_ns: int = 0) -> list[Asked]:
        return [a for a in self.since(moment_ns) if a.is_denial and a.reason == reason]


def ask_for_ever(client: Path, lease_id: str, stopping: Stopping) -> Iterator[Asked]:
    """Asks whether the lease may be acted on, until `stopping` is set."""
    with wire.open_channel(load_config(client)) as channel:
        stub = lease_pb2_grpc.LeaseServiceStub(channel)
        request = lease_pb2.CheckRequest(lease_id=lease_id)
        while not stopping.wait(PACE_S):
            sent_ns = boottime_ns()
            try:
                answer = stub.Check(request, timeout=DEFAULT_MAX_PERMIT_TTL_MS / 1_000)
            except grpc.RpcError as error:
                code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
                yield Asked(sent_ns, boottime_ns(), code, "-", "-", 0)
                continue
            yield Asked(
                sent_ns,
                boottime_ns(),
                _OK,
                decision_pb2.Verdict.Name(answer.verdict),
                decision_pb2.Reason.Name(answer.reason).removeprefix("REASON_"),
                answer.ttl_ms,
                answer.position.size,
            )


def main(client: str, lease_id: str, journal: str) -> int:
    """Runs until SIGTERM or SIGINT."""
    stopping = Stopping()
    stopping.by(signal.SIGTERM, signal.SIGINT)
    with Path(journal).open("a", buffering=1) as lines:
        for asked in ask_for_ever(Path(client), lease_id, stopping):
            lines.write(asked.line())
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
