"""The load of a soak: an organisation's writer and its executor, for each organisation.

Owns their threads and what they were told. Judges only what an answer says of itself.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from quorate.chaos.crew import Crew, Worker
from quorate.chaos.operator import Acknowledged, Operator
from quorate.chaos.workload import Tally, Writer
from quorate.core.limits import MAX_EXECUTORS_PER_DOMAIN
from quorate.v1 import decision_pb2

LEAST_PACE_S: Final = 0.02
"""A writer's pause: the nodes, the faults and the load share few cores."""
LIFETIME_MS: Final = 30 * 60 * 1_000
"""Of a command: far longer than a round, at whose end its outcome is learnt."""
LEASE_TTL_MS: Final = 2_000
CHECKS_A_LEASE: Final = 40
CHECK_EVERY_S: Final = 0.025
AGAIN_S: Final = 0.2


def pace_s(seconds: float) -> float:
    """A pause that keeps a writer well below as many executors as an organisation may have."""
    return max(LEAST_PACE_S, seconds / (0.8 * MAX_EXECUTORS_PER_DOMAIN))


@dataclass
class Asked:
    """What an executor was answered. silent: calls without an answer."""

    leases: int = 0
    permits: int = 0
    denials: int = 0
    silent: int = 0


class Executor:
    """Acquires a lease and checks it, again and again, in a thread of its own."""

    def __init__(self, worker: Worker, resource: str) -> None:
        self.asked = Asked()
        self.acknowledged: list[Acknowledged] = []
        self._worker = worker
        self._resource = resource
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"executor-{worker.domain}")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                lease = self._acquire()
                if lease is None:
                    self._stopping.wait(AGAIN_S)
                else:
                    self._check(lease)
            except grpc.RpcError:
                self.asked.silent += 1
                self._stopping.wait(AGAIN_S)

    def _acquire(self) -> str | None:
        answer = self._worker.acquire(self._resource, ttl_ms=LEASE_TTL_MS)
        if answer.verdict != decision_pb2.VERDICT_PERMIT:
            self.asked.denials += 1
            return None
        self.asked.leases += 1
        outcome = answer.outcome
        self.acknowledged.append(
            Acknowledged(outcome.command_id, outcome.ledger_index, outcome.accepted)
        )
        return str(answer.lease.id)

    def _check(self, lease: str) -> None:
        for _ in range(CHECKS_A_LEASE):
            if self._worker.check(lease).verdict == decision_pb2.VERDICT_PERMIT:
                self.asked.permits += 1
            else:
                self.asked.denials += 1
            if self._stopping.wait(CHECK_EVERY_S):
                return


class Load:
    """Everybody's load during one round."""

    def __init__(
        self, operators: Sequence[Operator], crew: Crew, number: int, seed: int, pace: float
    ) -> None:
        self.writers = [
            Writer(
                operator,
                operators,
                f"soak-{number}",
                seed * 1_000 + number * len(operators) + place,
                pace_s=pace,
                lifetime_ms=LIFETIME_MS,
            )
            for place, operator in enumerate(operators)
        ]
        domains = list(crew.workers)
        self.executors = [
            Executor(worker, f"//{domains[place - 1]}/records/soak")
            for place, worker in enumerate(crew.workers.values())
        ]

    def start(self) -> None:
        for writer in self.writers:
            writer.start()
        for executor in self.executors:
            executor.start()

    def stop(self) -> None:
        """Returns when nobody writes any more. Every node must be able to answer again."""
        for executor in self.executors:
            executor.stop()
        for writer in self.writers:
            writer.stop()
        for executor in self.executors:
            executor.join()

    def settle(self) -> None:
        """Learns every outcome that nobody told. Raises DeadlineError, NodeSilentError."""
        for writer in self.writers:
            writer.settle()

    def acknowledged(self) -> list[Acknowledged]:
        """Every command, of organisations and of executors, that a node has said was accepted."""
        told = [each for writer in self.writers for each in writer.acknowledged()]
        return told + [each for executor in self.executors for each in executor.acknowledged]

    def tallies(self) -> list[Tally]:
        return [writer.tally for writer in self.writers]

    def asked(self) -> list[Asked]:
        return [executor.asked for executor in self.executors]
