"""What the samples of a soak amount to: claims, each with its bound.

Owns the verdicts on memory and disk. Pure: samples in, claims out, so that tests can feed it
leaks. A claim that there was nothing to see would hold for nothing; so how much there was to see is
claimed too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from quorate.chaos.demo.claims import Claim, at_least, at_most
from quorate.chaos.parts import CORE, EDGE
from quorate.chaos.soak.samples import DiskSample, MemorySample

MIB: Final = 1024 * 1024
LIFE_GROWTH_BYTES: Final = {CORE: 24 * MIB, EDGE: 8 * MIB}
"""A core keeps the newest 8 MiB of commands of its log, which take more as Python's objects; the
rest is the allocator's."""
NEWBORN_GROWTH_BYTES: Final = {CORE: 6 * MIB, EDGE: 4 * MIB}
PEAK_BYTES: Final = {CORE: 192 * MIB, EDGE: 128 * MIB}
OLD_SHARE: Final = 1 / 6
"""The oldest process of each part must have lived for this share of the soak."""
LEAST_NEWBORNS: Final = 2
WARM_UP_SHARE: Final = 1 / 10
UNUSED_BYTES: Final = 64 * MIB
"""Pages of the file that hold nothing: freed, and not yet taken again. They may be as many as the
state takes (a snapshot that is installed replaces all of it) and so many more: while a reader is
stopped in the middle of a read, or a snapshot is being sent, none can be taken again."""
ENTRY_BYTES: Final = 4096
"""What the file grows by for one ledger entry: the entry and its tree, the state that it changed,
and the command in the log as long as that is kept."""
LOG_BOUND_SEEN: Final = 2
"""A bound on the log was only seen to hold when the ledger grew to so many times the bound."""


LOG_SLACK_ENTRIES: Final = 2_000
"""What a node may keep of the Raft log beyond what it was told to: compaction goes in steps, and
waits for whoever is installing a snapshot."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """seconds: of the soak. log_tail: how many applied entries of the Raft log each node was told
    to keep. max_log_entries: what it may have at any moment after the warm-up."""

    seconds: float
    log_tail: int
    max_log_entries: int

    @property
    def warm_up_s(self) -> float:
        return self.seconds * WARM_UP_SHARE


def memory_claims(samples: Sequence[MemorySample], bounds: Bounds) -> list[Claim]:
    """Per part: no process grows without end in its life, and none is born larger because the
    ledger has grown."""
    claims: list[Claim] = []
    for part in LIFE_GROWTH_BYTES:
        lives = _lives(sample for sample in samples if sample.part == part)
        claims += [
            at_most(
                f"memory.{part}.life",
                f"{part}: most that one process grew after it had settled",
                max((_growth(life) for life in lives), default=0) / MIB,
                LIFE_GROWTH_BYTES[part] / MIB,
                "MiB",
            ),
            at_least(
                f"memory.{part}.age",
                f"{part}: age of the oldest process",
                max((life[-1].age_s for life in lives), default=0.0),
                bounds.seconds * OLD_SHARE,
                "s",
            ),
            *_newborn_claims(part, lives, bounds),
            at_most(
                f"memory.{part}.peak",
                f"{part}: most that a process ever held",
                max((sample.anon_bytes for life in lives for sample in life), default=0) / MIB,
                PEAK_BYTES[part] / MIB,
                "MiB",
            ),
        ]
    return claims


def disk_claims(samples: Sequence[DiskSample], bounds: Bounds) -> list[Claim]:
    """The stores grow with the ledger and with nothing else."""
    warm = [sample for sample in samples if sample.at_s >= bounds.warm_up_s]
    nodes: dict[str, list[DiskSample]] = defaultdict(list)
    for sample in warm:
        nodes[sample.domain].append(sample)
    entries = [node[-1].ledger_entries - node[0].ledger_entries for node in nodes.values()]
    claims = [
        at_least(
            "disk.grown", "entries added to each ledger meanwhile", min(entries, default=0), 1
        ),
        at_most(
            "disk.entry",
            "most that a store grew for a ledger entry",
            max((_bytes_an_entry(node) for node in nodes.values()), default=0.0),
            ENTRY_BYTES,
            "bytes",
        ),
        at_most(
            "disk.unused",
            "most of a store that was not in use, beyond the size of its state",
            max(map(_unused_bytes, warm), default=0) / MIB,
            UNUSED_BYTES / MIB,
            "MiB",
        ),
    ]
    return claims + _log_claims(warm, bounds.max_log_entries)


def _log_claims(warm: Sequence[DiskSample], most: int) -> list[Claim]:
    return [
        at_most(
            "disk.log",
            "most entries of the Raft log that a node kept",
            max((sample.log_entries for sample in warm), default=0),
            most,
        ),
        at_least(
            "disk.log.seen",
            "entries of the ledger, against the log's bound",
            max((sample.ledger_entries for sample in warm), default=0),
            LOG_BOUND_SEEN * most,
        ),
    ]


def _lives(samples: Iterable[MemorySample]) -> list[list[MemorySample]]:
    """The samples of each process, in order."""
    lives: dict[str, list[MemorySample]] = defaultdict(list)
    for sample in samples:
        lives[sample.process].append(sample)
    return [sorted(life, key=lambda sample: sample.at_s) for life in lives.values()]


def _growth(life: Sequence[MemorySample]) -> float:
    """From when it had settled to the middle of the last third of its life, bytes. A single high
    sample is no growth; it counts for the peak."""
    settled = [sample.anon_bytes for sample in life if sample.settled]
    if not settled:
        return 0.0
    return median(settled[len(settled) * 2 // 3 :]) - settled[0]


def _newborn_claims(
    part: str, lives: Sequence[Sequence[MemorySample]], bounds: Bounds
) -> list[Claim]:
    """Processes of the last third of the soak when they had just settled, against those of the
    first third."""
    born = [next(sample for sample in life if sample.settled) for life in lives if life[-1].settled]
    early = _sizes(born, lambda at_s: at_s < bounds.seconds / 3)
    late = _sizes(born, lambda at_s: at_s >= bounds.seconds * 2 / 3)
    return [
        at_least(
            f"memory.{part}.newborns",
            f"{part}: processes seen settled, in the first third or the last, whichever had less",
            min(len(early), len(late)),
            LEAST_NEWBORNS,
        ),
        at_most(
            f"memory.{part}.newborn",
            f"{part}: a settled process late, against one early",
            (median(late) - median(early) if early and late else 0.0) / MIB,
            NEWBORN_GROWTH_BYTES[part] / MIB,
            "MiB",
        ),
    ]


def _sizes(born: Iterable[MemorySample], when: Callable[[float], bool]) -> list[int]:
    return [sample.anon_bytes for sample in born if when(sample.at_s)]


def _bytes_an_entry(node: Sequence[DiskSample]) -> float:
    entries = node[-1].ledger_entries - node[0].ledger_entries
    return (node[-1].file_bytes - node[0].file_bytes) / entries if entries else 0.0


def _unused_bytes(sample: DiskSample) -> int:
    return max(0, sample.file_bytes - sample.used_bytes - sample.state_bytes)
