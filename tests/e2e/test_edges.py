"""A node with two edges: who holds a permit of either is waited for, unless it says that it uses it
no more; and neither permits longer than the other without a core."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Worker
from quorate.chaos.parts import CORE, EDGE, part_of, part_pid
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until
from quorate.client import Denied, Gate, Lease, Permit, Reason, WatchEvent, WatchNotice
from quorate.v1 import governance_pb2

pytestmark = pytest.mark.cluster

BANK = "bank.example"
PERMIT_MS = 6_000
AUTHORITY_MS = 8_000
TERMS = ("--authority-period", f"{AUTHORITY_MS}ms", "--max-permit-ttl", f"{PERMIT_MS}ms")
CONNECTIONS = 12
"""The kernel spreads them over the edges: that all go to one happens once in 2048 times."""
DRAINED = governance_pb2.WAIT_LEVEL_DRAINED
SOON_S = 30.0


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("edges")
    settings = {"edge": {"processes": 2}}
    with Cluster(directory, (BANK,), settings=settings, parameters=TERMS) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="module")
def crew(bank: Cluster) -> Iterator[Crew]:
    crew = Crew(bank)
    yield crew
    crew.close()


def edges(bank: Cluster) -> set[int]:
    return {pid for pid in bank.processes(BANK).members() if part_of(pid) == EDGE}


def is_over(pid: int) -> bool:
    """Whether nothing of a process is left, its sockets included: it has lost its name before."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return len(threads) <= 1 and state == "Z"


def granted(crew: Crew, name: str) -> Lease:
    """A lease of the worker under a grant of its own, as a gate has it."""
    crew.grant(BANK, name, crew.workers[BANK], f"{name}/*")
    lease = open_gate(crew.workers[BANK]).acquire("records.receive", f"//{BANK}/{name}/book")
    assert isinstance(lease, Lease), lease
    return lease


def open_gate(worker: Worker) -> Gate:
    return Gate.open(worker.client, max_permit_ttl_ms=PERMIT_MS)


def permits_over(stack: ExitStack, worker: Worker, lease: Lease) -> list[Permit]:
    """One over each of many connections."""
    permits = []
    for _ in range(CONNECTIONS):
        gate = stack.enter_context(open_gate(worker))
        answer = gate.ask(lease, is_handed=True)
        assert isinstance(answer, Permit), answer
        permits.append(answer)
        lease.slot.drop()
    return permits


def test_one_edge_serves_while_the_other_is_gone(bank: Cluster, crew: Crew) -> None:
    lease, both = granted(crew, "kept"), edges(bank)
    assert len(both) == 2
    killed = both.pop()
    os.kill(killed, signal.SIGKILL)
    # Until it is gone its socket takes connections, and whoever asks over them is denied.
    wait_until("the edge is gone", lambda: is_over(killed), SOON_S)
    with ExitStack() as stack:
        permits_over(stack, crew.workers[BANK], lease)
    wait_until("two edges again", lambda: len(edges(bank)) == 2, SOON_S)
    assert both <= edges(bank), "the other is the same"


def test_drained_waits_for_permits_of_all_edges(bank: Cluster, crew: Crew) -> None:
    lease = granted(crew, "waited-for")
    with ExitStack() as stack:
        permits = permits_over(stack, crew.workers[BANK], lease)
        revoked = bank.operator(BANK).revoke("grant.revoke", {"grant": "waited-for"}, DRAINED)
        now_ns = boottime_ns()
    assert revoked.reached == DRAINED
    assert max(permit.expires_at_ns for permit in permits) <= now_ns


def test_who_gives_its_permit_up_is_not_waited_for(bank: Cluster, crew: Crew) -> None:
    told: queue.Queue[WatchNotice] = queue.Queue()
    crew.grant(BANK, "given-up", crew.workers[BANK], "given-up/*")
    # Edges that have just started wait for what those before them may have given.
    settled = bank.operator(BANK).revoke("grant.suspend", {"grant": "given-up"}, DRAINED)
    assert settled.reached == DRAINED
    bank.operator(BANK).order("grant.reinstate", {"grant": "given-up"})
    with open_gate(crew.workers[BANK]) as gate:
        lease = gate.acquire("records.receive", f"//{BANK}/given-up/book")
        assert isinstance(lease, Lease), lease
        watch = gate.on_change([lease], told.put)
        assert told.get(timeout=SOON_S).event is WatchEvent.ACTIVE
        with lease.act() as permit:
            pass
        revoked = bank.operator(BANK).revoke("grant.revoke", {"grant": "given-up"}, DRAINED)
        now_ns = boottime_ns()
        assert told.get(timeout=SOON_S).event is WatchEvent.INTERRUPTED
        assert isinstance(lease.check(), Denied)
        watch.close()
    assert revoked.reached == DRAINED
    assert now_ns < permit.expires_at_ns, "its permit would have been good until then"


def test_no_edge_permits_for_long_when_the_core_stands_still(bank: Cluster, crew: Crew) -> None:
    lease = granted(crew, "frozen")
    core = part_pid(bank.processes(BANK), CORE)
    assert core is not None
    with ExitStack() as stack:
        gates = [stack.enter_context(open_gate(crew.workers[BANK])) for _ in range(CONNECTIONS)]

        def ask_all() -> list[Permit | Denied]:
            answers = []
            for gate in gates:
                lease.slot.drop()
                answers.append(gate.ask(lease, is_handed=True))
            return answers

        assert all(isinstance(answer, Permit) for answer in ask_all())
        frozen_ns = boottime_ns()
        os.kill(core, signal.SIGSTOP)
        stack.callback(os.kill, core, signal.SIGCONT)
        over_ns, permits = frozen_ns + AUTHORITY_MS * 1_000_000, 0
        while boottime_ns() < over_ns:
            for answer in ask_all():
                if isinstance(answer, Permit):
                    permits += 1
                    assert answer.expires_at_ns <= over_ns
        assert permits > CONNECTIONS, "they went on until then"
        reasons = {answer.reason for answer in ask_all() if isinstance(answer, Denied)}
        assert reasons == {Reason.INQUORATE}
        assert not any(isinstance(answer, Permit) for answer in ask_all())
    bank.wait_ready()
