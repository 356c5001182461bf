"""What is to happen in a run: drawn from the seed beforehand, so that it can be told and cut down.

Owns profiles (what kind of runs there are) and plans: the federation's size and timing, and every
wish and fault with its time. A plan is plain data; the same plan gives the same run.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from quorate.core import protocol
from quorate.testing.simulation.members import ABOUT_MEMBERS
from quorate.testing.simulation.workload import WISHES
from quorate.testing.simulation.world import NS_PER_MS, NS_PER_S

FAULTS: Final = {
    "crash": 6,
    "crash in turn": 6,
    "hold in turn": 5,
    "planned stop": 4,
    "stop core": 4,
    "stop machine": 2,
    "power off": 4,
    "stop edge": 8,
    "kill edge": 4,
    "cut": 4,
    "close": 4,
    "isolate": 5,
    "partition": 4,
    "reset": 4,
    "flap": 2,
    "slow link": 3,
    "slow disk": 3,
    "full disk": 3,
    "lose disk": 2,
    "restore disk": 4,
    "step clock": 3,
    "set clock wrong": 1,
    "clock rate": 3,
    "everybody off": 1,
    "heal": 8,
}
"""Every kind of fault, and how often it is drawn when a run has it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of run. Times in seconds. Where a pair stands, each run draws between the two.

    sizes: how many organisations, each as likely as it is often in the list.
    fault_every_s: mean time between faults; 0: none.
    narrow_every_s: the same of narrowings of trust; each run has one of these.
    roughness: the share of frames with which the network does what no transport does.
    lag_ms: after how long a node gets to what has arrived, and takes in all of it at once.
    log_tail: how many applied entries a log keeps.
    membership: how often members change, as a factor. trust: how often domains trust others.
    some_faults: each run has a choice of the faults only, so that rare ones come together.
    """

    sizes: tuple[int, ...] = (3, 3, 3, 3, 5, 5, 2, 1)
    seconds: tuple[float, float] = (40.0, 80.0)
    fault_every_s: tuple[float, float] = (0.4, 4.0)
    narrow_every_s: tuple[float, ...] = (0.0, 3.0, 8.0)
    wish_every_s: tuple[float, float] = (0.15, 0.6)
    check_every_s: float = 0.25
    delay_ms: tuple[tuple[float, float], ...] = ((0.2, 2.0), (1.0, 20.0), (5.0, 90.0))
    roughness: tuple[float, ...] = (0.0, 0.0, 0.0, 0.1)
    lag_ms: tuple[float, ...] = (0.0, 1.0, 3.0, 8.0)
    log_tail: tuple[int, ...] = (2, 10, 50, 10_000)
    membership: tuple[float, ...] = (0.0, 1.0, 4.0)
    trust: float = 1.0
    some_faults: bool = True
    faults: tuple[str, ...] = tuple(FAULTS)


PROFILES: Final = {
    "mixed": Profile(),
    "calm": Profile(fault_every_s=(0, 0), roughness=(0.0,), membership=(0.0,)),
    "members": Profile(sizes=(3, 3, 4, 5, 2), membership=(8.0,), log_tail=(2, 10, 50)),
    "rough": Profile(roughness=(0.05, 0.2, 0.5)),
    "crashing": Profile(
        fault_every_s=(0.1, 0.5),
        faults=(
            *("crash", "crash in turn", "planned stop", "kill edge", "power off"),
            *("everybody off", "slow disk"),
        ),
    ),
    "partitions": Profile(
        fault_every_s=(0.3, 2.0),
        faults=("cut", "close", "isolate", "partition", "reset", "flap", "slow link", "heal"),
    ),
    "clocks": Profile(
        faults=("step clock", "set clock wrong", "clock rate", "stop core", "stop edge", "isolate"),
    ),
    "disks": Profile(
        sizes=(3, 3, 5),
        seconds=(20.0, 30.0),
        fault_every_s=(0.1, 0.4),
        roughness=(0.0,),
        membership=(0.0,),
        some_faults=False,
        faults=("lose disk", "restore disk", "crash", "isolate", "partition"),
    ),
    "trust": Profile(
        sizes=(2, 3, 3),
        narrow_every_s=(0.5, 2.0),
        wish_every_s=(0.1, 0.3),
        check_every_s=0.1,
        membership=(0.0,),
        trust=6.0,
    ),
    "short": Profile(seconds=(10.0, 15.0), fault_every_s=(0.2, 1.0)),
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One thing that is to happen. at: nanoseconds of true time. kind: `wish ...`, `narrow trust`,
    `upgrade`, `freeze` or a fault. who: numbers of machines, -1 for whoever leads then. span: how
    long it lasts, nanoseconds. draw: the seed of whatever else has to be drawn when it happens."""

    at: int
    kind: str
    who: tuple[int, ...] = ()
    span: int = 0
    draw: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run. length: when everything is healed, nanoseconds. version: of the protocol, to
    begin with; 0, in plans of before: the latest, and nobody passes trust on."""

    seed: int
    size: int
    length: int
    delay_ms: tuple[float, float]
    roughness: float
    lag_ns: int
    log_tail: int
    check_every_ns: int
    rho_ppm: int
    events: tuple[Planned, ...]
    version: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Plan:
        """Raises KeyError or TypeError for what is no plan."""
        events = tuple(
            Planned(**{**event, "who": tuple(event["who"])}) for event in value["events"]
        )
        low, high = value["delay_ms"]
        return cls(**{**value, "events": events, "delay_ms": (low, high)})

    def without(self, events: Sequence[Planned]) -> Plan:
        left_out = set(events)
        return replace(self, events=tuple(each for each in self.events if each not in left_out))


def make_plan(seed: int, profile: Profile) -> Plan:
    """The plan of a seed."""
    chance = _stream(seed, "plan")
    size = chance.choice(profile.sizes)
    length = int(chance.uniform(*profile.seconds) * NS_PER_S)
    events = [
        *_wishes(chance, length, profile),
        *_faults(chance, length, profile, size),
        *_narrowings(seed, length, profile),
        *_freezes(seed, length),
    ]
    version = _stream(seed, "version").choice((protocol.FIRST, protocol.SECOND))
    if version == protocol.FIRST:
        events += _upgrades(seed, length)
    return Plan(
        seed=seed,
        size=size,
        length=length,
        delay_ms=chance.choice(profile.delay_ms),
        roughness=chance.choice(profile.roughness),
        lag_ns=int(chance.choice(profile.lag_ms) * NS_PER_MS),
        log_tail=chance.choice(profile.log_tail),
        check_every_ns=int(profile.check_every_s * NS_PER_S),
        rho_ppm=10_000,
        events=tuple(sorted(events, key=lambda event: event.at)),
        version=version,
    )


def _stream(seed: int, name: str) -> random.Random:
    return random.Random(  # noqa: S311 - a simulation's chance, no secret
        hashlib.sha256(f"{seed}/{name}".encode()).digest()
    )


def _narrowings(seed: int, length: int, profile: Profile) -> list[Planned]:
    """Drawn by themselves: all else that a seed means is what it was without them."""
    chance = _stream(seed, "narrowings")
    every_s = chance.choice(profile.narrow_every_s)
    planned: list[Planned] = []
    at = 4 * NS_PER_S  # by then somebody should trust somebody
    while every_s and at < length:
        planned.append(Planned(at, "narrow trust", draw=chance.getrandbits(63)))
        at += int(chance.expovariate(1 / every_s) * NS_PER_S)
    return planned


def _freezes(seed: int, length: int) -> list[Planned]:
    """That somebody freezes or thaws, where the rules know that; drawn by themselves, too."""
    chance = _stream(seed, "freezes")
    every_s = chance.choice((0.0, 3.0, 10.0))
    planned: list[Planned] = []
    at = 4 * NS_PER_S
    while every_s and at < length:
        planned.append(Planned(at, "freeze", draw=chance.getrandbits(63)))
        at += int(chance.expovariate(1 / every_s) * NS_PER_S)
    return planned


def _upgrades(seed: int, length: int) -> list[Planned]:
    """That somebody wants later rules, drawn by themselves, too."""
    chance = _stream(seed, "upgrades")
    every_s = chance.uniform(0.5, 6.0)
    planned: list[Planned] = []
    at = 2 * NS_PER_S
    while (at := at + int(chance.expovariate(1 / every_s) * NS_PER_S)) < length:
        planned.append(Planned(at, "upgrade", draw=chance.getrandbits(63)))
    return planned


def _wishes(chance: random.Random, length: int, profile: Profile) -> list[Planned]:
    planned = []
    every_s = chance.uniform(*profile.wish_every_s)
    membership = chance.choice(profile.membership)
    weights = [
        weight * (membership if kind in ABOUT_MEMBERS else 1) for kind, weight in WISHES.items()
    ]
    weights[list(WISHES).index("trust")] *= profile.trust
    at = NS_PER_S  # by then somebody should lead
    while at < length:
        kind = chance.choices(list(WISHES), weights=weights)[0]
        planned.append(Planned(at, f"wish {kind}", draw=chance.getrandbits(63)))
        # Faster at first: there has to be something to permit before it can be revoked.
        mean_s = every_s / 4 if at < 5 * NS_PER_S else every_s
        at += int(chance.expovariate(1 / mean_s) * NS_PER_S)
    return planned


def _faults(chance: random.Random, length: int, profile: Profile, size: int) -> list[Planned]:
    mean_s = chance.uniform(*profile.fault_every_s)
    kinds = list(profile.faults)
    if profile.some_faults and len(kinds) > 4:
        kinds = chance.sample(kinds, chance.randint(3, len(kinds)))
    planned: list[Planned] = []
    if not mean_s:
        return planned
    weights = [FAULTS[kind] for kind in kinds]
    at = 2 * NS_PER_S
    while (at := at + int(chance.expovariate(1 / mean_s) * NS_PER_S)) < length:
        kind = chance.choices(kinds, weights=weights)[0]
        others = chance.sample(range(size), size)
        if chance.random() < 0.3:
            others.insert(0, -1)
        planned.append(
            Planned(at, kind, tuple(others), _span(chance, kind), chance.getrandbits(63))
        )
    return planned


def _span(chance: random.Random, kind: str) -> int:
    """How long a fault lasts: mostly short, sometimes longer than any timeout or period."""
    longest_ms = 400 if kind in ("crash", "reset") else 6_000
    return int(longest_ms * chance.random() ** 3 * NS_PER_MS) + NS_PER_MS
