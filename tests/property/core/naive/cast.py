"""Who and what there is in a history, and how one of them is chosen: what exists, mostly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, TypeVar

from tests.property.core.naive.world import Command, Thing, World

T = TypeVar("T")
Body = dict[str, Any]
Deed = tuple[str, str, Body]
"""Who gives which command, and what it says."""

FOUNDERS: Final = ("a.example", "b.example", "c.example", "d.example")
JOINERS: Final = ("x.example", "y.example")
NAMES: Final = ("a", "b", "c")
ACTIONS: Final = ("pay", "pay.out", "read")
PATHS: Final = ("x", "x/y", "z")
ACTION_PATTERNS: Final = (["*"], ["*"], ["pay.*"], ["pay", "read"], ["pay.*", "read"], ["read"])
PATH_PATTERNS: Final = (["*"], ["*"], ["x/*"], ["x", "z"], ["x/*", "z"], ["x"])
CONTEXTS: Final = (["t=1"], ["t=1"], ["t=2"], ["a=", "t=1"], ["a=x", "t=12"])
"""What executors say of their work, when they say something."""
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000

SMALL_LIMITS: Final = {
    "MAX_CONCURRENT_LEASES": 3,
    "MAX_EDGES_PER_PAIR": 2,
    "MAX_GRANTS_PER_EXECUTOR_AND_ISSUER": 3,
    "MAX_DOMAINS": 4,
    "MAX_EXECUTORS_PER_DOMAIN": 2,
    "MAX_NODES_PER_DOMAIN": 2,
    "MAX_NODES_EVER_PER_DOMAIN": 3,
    "MAX_OPEN_PROPOSALS_PER_DOMAIN": 2,
    "MAX_EVENTS_PER_LEASE": 4,
    "MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER": 2,
    "MAX_GRANTS_FROM_ONE_DELEGATOR": 1,
    "MAX_DELEGATIONS_PER_GRANT": 2,
    "MAX_ANCESTORS": 3,
    "MAX_ANCESTOR_EXECUTORS": 2,
    "MAX_CONTAINMENTS_PER_DOMAIN": 1,
    "MAX_REKEYINGS_PER_DOMAIN": 3,
    "REKEYINGS_FOR_RECOVERY": 1,
    "MAX_REFERENCES_PER_DOMAIN": 1,
    "NONCES_FORGOTTEN_PER_COMMAND": 1,
}
"""Some histories have these, so that limits are met."""


class Cast:
    """Chooses, and makes up what several commands have in common.

    descriptors: the signed descriptors of founders, and of who may join. key_of: the public key
    (hex) of a name.
    """

    def __init__(
        self,
        chance: Random,
        world: World,
        descriptors: Mapping[str, Body],
        key_of: Callable[[str], str],
    ) -> None:
        self._chance = chance
        self._world = world
        self._descriptors = descriptors
        self._key_of = key_of
        self._written: list[Command] = []
        self._planned: list[Deed] = []
        """What is about to be done. Who does it, and how, may be left open until then."""

    def one(self, some: Sequence[T]) -> T:
        return self._chance.choice(some)

    def often(self, share: float) -> bool:
        return self._chance.random() < share

    def domain(self) -> str:
        """One that is a member, mostly."""
        if self.often(0.03):
            return self.one((*FOUNDERS, *JOINERS))
        return str(self.one(self._world.domains)["domain"])

    def mostly(self, domain: str) -> str:
        return self.domain() if self.often(0.05) else domain

    def executors(self, domains: Sequence[str]) -> list[str]:
        return [f"spiffe://{each}/agent/{name}" for each in domains for name in NAMES[:2]]

    def anybody(self) -> str:
        """An executor, registered mostly."""
        if self._world.executors and self.often(0.85):
            return str(self.one(self._world.executors)["executor"])
        return f"spiffe://{self.domain()}/agent/{self.one(NAMES)}"

    def node(self, domain: str) -> str:
        """One of a domain's, active mostly."""
        own = [each for each in self._world.active_nodes() if each["domain"] == domain]
        if own and self.often(0.95):
            return str(self.one(own)["node"])
        return f"spiffe://{domain}/node/{self.one('1111123')}"

    def existing(self, things: Sequence[Thing], name: str) -> tuple[str, str]:
        """The domain and the own name of an edge or grant, mostly one that there is."""
        own = "truster" if name == "edge" else "issuer"
        alive = [each for each in things if each["status"] != "revoked"]
        if alive and self.often(0.9):
            found = self.one(alive)
            return self.mostly(found[own]), found[name]
        if things and self.often(0.8):
            found = self.one(things)
            return found[own], found[name]
        return self.domain(), f"{name[0]}{self.one('123')}"

    def resources(self, domain: str) -> list[str]:
        others = self.domain() if self.often(0.03) else domain
        return [f"//{others}/{path}" for path in self.one(PATH_PATTERNS)]

    def edge(self, truster: str, name: str, trustee: str, of: str = "") -> Body:
        """of: whose resources it is for; the truster's own, mostly."""
        is_passed_on = self._world.protocol > 1 and self.often(0.3)
        of = of or (self.domain() if is_passed_on else truster)
        return {
            "edge": name,
            "trustee": trustee,
            "actions": list(self.one(ACTION_PATTERNS)),
            "resources": self.resources(of),
            **self.depth(),
        }

    def depth(self) -> Body:
        """How far something may be passed on."""
        if self.often(0.35 if self._world.protocol > 1 else 0.02):
            return {"max_depth": self.one((1, 1, 2, 3, 7))}
        return {}

    def terms(self, issuer: str, name: str, executor: str, at: int) -> Body:
        life = HOUR_MS if self.often(0.7) else self.one((1, 0, 5_000, 100_000))
        return {
            "grant": name,
            "executor": executor,
            "actions": list(self.one(ACTION_PATTERNS)),
            "resources": self.resources(issuer),
            "not_after": at + life,
            "max_lease_ttl_ms": self.one((1, 2_000, 50_000, 50_000, 100_000)),
            "max_uses": self.one((0, 0, 0, 1, 2, 3)),
            "max_concurrent": self.one((0, 0, 0, 1, 2)),
            **self.depth(),
            **self.conditions(0.12 if self._world.protocol > 1 else 0.02),
        }

    def conditions(self, share: float) -> Body:
        """What a lease has to say of the work."""
        if not self.often(share):
            return {}
        ticket = {"name": "t", "values": self.one((["1"], ["1"], ["1", "2"], ["1*"], ["*"]))}
        other = {"name": "a", "values": self.one((["*"], ["x"]))}
        return {"conditions": self.one(([ticket], [ticket], [other, ticket]))}
