"""Beside etcd: the same size, the same number of clients, in turn.

Three comparisons, each with three members on this machine and every write on a majority's disks.

`consensus`: replica, store and transport in three processes, over mutual TLS, without governance
and without an RPC in front: callers are tasks in the members' own loops. etcd's puts come over its
gRPC, from the Go client. What is compared is therefore agreement with agreement *and* an RPC;
processor time of the servers for a command is given too.

`commands`: acquisitions of leases through the nodes' public gRPC services, over mutual TLS, signed,
decided and recorded on three nodes; and puts, both called by the same Go client.

`reads`: checks at one edge, alone and by the batch, and gets that one member of etcd answers from
what it has ("serializable"), which may be as old as it likes: a check may not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Final

from bench import public
from bench.client import Load, Sample, UnaryClient
from bench.etcd import Etcd
from bench.federation import Federation
from bench.group import Group
from bench.pace import Pace
from bench.specs import COMMAND_BYTES, TO_LEDGER, TO_NOTHING

CONSENSUS_FLIGHTS: Final = (1, 64, 512)
COMMAND_FLIGHTS: Final = (1, 64)
READ_FLIGHTS: Final = (1, 64)
BATCH: Final = 64
MEASURED: Final = ("rate", "p50_us", "p99_us", "cpu_us", "client_cpu_us")
COMPARED: Final = ("rate", "p50_us", "p99_us", "cpu_us")

Run = Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Row:
    """One side at one number of commands in flight: the medians of its rounds. ratios: the medians
    of the rounds' ratios to etcd; empty for etcd itself, and where there is none."""

    what: str
    flight: int
    measured: dict[str, float]
    ratios: dict[str, float]

    def to_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "in_flight": self.flight,
            "measured": self.measured,
            "ratios_to_etcd": self.ratios,
        }


@dataclass(frozen=True, slots=True)
class Peer:
    """etcd, and the client that calls it."""

    etcd: Etcd
    client: UnaryClient

    def put(self, flight: int, seconds: float) -> Sample:
        puts = self.etcd.puts(COMMAND_BYTES)
        return self.client.run(puts, self.etcd.pids(), flight=flight, seconds=seconds)

    def get(self, flight: int, seconds: float) -> Sample:
        """Of one member."""
        gets, pids = self.etcd.gets(0), self.etcd.pids()[:1]
        return self.client.run(gets, pids, flight=flight, seconds=seconds)


def consensus(group: Group, peer: Peer | None, pace: Pace) -> list[Row]:
    """Without a peer, ours alone."""
    rows: list[Row] = []
    for flight in CONSENSUS_FLIGHTS:
        load = partial(group.load, flight=flight, seconds=pace.seconds)
        sides: dict[str, Run] = {
            "agreed": partial(load, TO_NOTHING),
            "agreed, recorded": partial(load, TO_LEDGER),
        }
        rows += _rows(sides, None if peer is None else ("etcd put", peer.put), flight, pace)
    return rows


def commands(federation: Federation, peer: Peer, pace: Pace) -> list[Row]:
    """Acquisitions, each of them permitted."""
    rows: list[Row] = []
    for flight in COMMAND_FLIGHTS:
        load, pids = _acquisitions(federation), federation.pids()
        ours = partial(peer.client.run, load, pids, flight=flight, seconds=pace.seconds)
        rows += _rows({"leases acquired": ours}, ("etcd put", peer.put), flight, pace)
    return rows


def reads(federation: Federation, peer: Peer, pace: Pace) -> list[Row]:
    """Checks at one edge, and gets at one member. Of a batch, its checks are counted; how long it
    takes is the call's."""
    peer.put(max(READ_FLIGHTS), pace.seconds)  # what is read
    worker, pids = federation.worker, federation.edge_pids()
    rows: list[Row] = []
    for flight in READ_FLIGHTS:
        run = partial(peer.client.run, pids=pids, flight=flight, seconds=pace.seconds)
        alone, batch = public.checks(worker), public.check_batches(worker, BATCH)
        sides: dict[str, Run] = {
            "check": partial(run, alone),
            f"check, of a batch of {BATCH}": partial(_each, partial(run, batch)),
        }
        rows += _rows(sides, ("etcd get", peer.get), flight, pace)
    return rows


def _each(run: Run) -> Sample:
    """What a run of batches was for each of their checks, but for the time that a call took."""
    sample = run()
    return replace(
        sample,
        calls=sample.calls * BATCH,
        rate=sample.rate * BATCH,
        cpu_us=sample.cpu_us / BATCH,
        client_cpu_us=sample.client_cpu_us / BATCH,
    )


def _acquisitions(federation: Federation) -> Load:
    """The leader's node is the first target."""
    leader = federation.cluster.leader()
    workers = dict(federation.crew.workers)
    return public.acquisitions([workers.pop(leader), *workers.values()], leader)


def _rows(
    sides: Mapping[str, Run],
    peer: tuple[str, Callable[[int, float], Sample]] | None,
    flight: int,
    pace: Pace,
) -> list[Row]:
    """Every side once a round, one after the other, the peer last."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    theirs: list[Sample] = []
    for number in range(pace.rounds):
        pace.tell(f"{', '.join(sides)}, {flight} in flight, {number + 1} of {pace.rounds}")
        for name, run in sides.items():
            samples[name].append(run())
        if peer is not None:
            theirs.append(peer[1](flight, pace.seconds))
    rows = [
        Row(name, flight, _medians(ours), _ratios(ours, theirs)) for name, ours in samples.items()
    ]
    return [*rows, Row(peer[0], flight, _medians(theirs), {})] if peer is not None else rows


def _medians(samples: Sequence[Sample]) -> dict[str, float]:
    return {name: median(getattr(sample, name) for sample in samples) for name in MEASURED}


def _ratios(ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, float]:
    if not theirs:
        return {}
    return {
        name: median(
            getattr(mine, name) / getattr(other, name)
            for mine, other in zip(ours, theirs, strict=True)
        )
        for name in COMPARED
    }
