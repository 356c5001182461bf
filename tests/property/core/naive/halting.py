"""What domains freeze in histories, each alone and all together, and what is tried meanwhile."""

from __future__ import annotations

from typing import Final

from tests.property.core.naive import freezing
from tests.property.core.naive.cast import ACTION_PATTERNS, Body, Deed
from tests.property.core.naive.voting import Voting
from tests.property.core.naive.world import Thing, find, home, owner

SPARED: Final = ([], [], ["read"], ["pay.*"], *ACTION_PATTERNS)
"""What freezes let through."""
TOGETHER: Final = ("decide", "propose", "vote")
"""How something is planned that is done by ballot: with the votes of most at once, or later."""
FREEZE, THAW = "federation.freeze", "federation.thaw"


class Halting(Voting):
    """Makes up freezes and thaws."""

    def halting(self) -> list[Deed]:
        """Acts on somebody's resources are stopped, by whose they are or by all, or by both; a
        lease is tried meanwhile, and again when one of them is ended."""
        lease = self.in_force()
        if lease is None:
            return []
        of = owner(lease["resource"])
        alone: Deed = of, "resources.freeze", {"actions": self.spared()}
        if self.often(0.2):
            return [*self.judged(alone), *self.tried(lease)]
        both = [alone, planned("decide", FREEZE)]
        first = self.one(([alone], [alone], both[1:], both))
        last = [(of, "resources.thaw", {}), planned("decide", THAW)]
        self._chance.shuffle(last)
        if self.often(0.3):  # of two thaws that are proposed for one freeze, one comes too late
            first = [planned("decide", FREEZE), planned("propose", THAW), *first]
            last = [planned("decide", THAW), planned("decide", FREEZE), planned("vote", THAW)]
        elif self.often(0.2):  # and so does one of two freezes
            first = [planned("propose", FREEZE), planned("decide", FREEZE), *first]
            first.append(planned("vote", FREEZE))
        elif self.often(0.2):
            first.append((of, "domain.suspend", {"domain": of}))
            last.append((of, "domain.reinstate", {"domain": of}))
        last += [(of, "resources.thaw", {})] if self.often(0.2) else []
        deeds = [*first, *self.tried(lease)]
        for deed in last:
            deeds += [deed, *self.tried(lease)]
        return deeds

    def judged(self, freeze: Deed) -> list[Deed]:
        """Who freezes what is its own is expelled; or suspended, and reinstated although it has
        frozen that only since that was proposed."""
        whom = freeze[0]
        if self.often(0.5):
            return [freeze, planned("decide", "domain.expel", whom)]
        return [
            planned("decide", "domain.suspend", whom),
            planned("propose", "domain.reinstate", whom),
            freeze,
            planned("vote", "domain.reinstate", whom),
        ]

    def in_force(self) -> Thing | None:
        """A lease that may be acted on, by its time."""
        now = self._world.time
        found = [
            each
            for each in self._world.leases
            if each["status"] == "active" and now < each["expires_at"]
        ]
        return self.one(found) if found else None

    def tried(self, lease: Thing) -> list[Deed]:
        """It is asked for once more, renewed, and seldom given back."""
        who = lease["executor"]
        node, held = self.node(home(who)), {"lease": lease["lease"], "executor": who}
        asked = {name: lease[name] for name in ("executor", "action", "resource")} | {"ttl_ms": 0}
        deeds = [(node, "lease.acquire", asked), (node, "lease.renew", held | {"ttl_ms": 0})]
        return [each for each in deeds if self.often(0.6)] + (
            [(node, "lease.release", held)] if self.often(0.05) else []
        )

    def together(self, plan: str, at: int) -> Deed:
        """What was planned to be done by ballot; who votes does so before anything else is done."""
        later, self._planned = self._planned, []
        how, act, whom = plan.split(" ")
        if how == "vote":
            proposals = [each for each in self.open_proposals() if each["act"] == act]
            by, ident = self.domain(), proposals[0]["proposal"] if proposals else "0" * 64
            self.campaign(by, ident)
            deed: Deed = by, "ballot.cast", {"proposal": ident, "choice": "yes"}
        else:
            body = {"domain": whom} if whom else self.of_all(act)
            issuer, proposal = self._propose(at, act, body, 0.95 if how == "decide" else 0)
            deed = issuer, "proposal.open", proposal
        self._planned += later
        return deed

    def of_all(self, act: str) -> Body:
        return {"actions": self.spared()} if act == FREEZE else {}

    def proposed_freeze(self) -> tuple[str, Body]:
        """To freeze everybody's resources, or to thaw them: what can be, mostly."""
        is_frozen = freezing.of(self._world, self._world.origin) is not None
        is_thaw = is_frozen if self.often(0.9) else not is_frozen
        act = THAW if is_thaw else FREEZE
        return act, self.of_all(act)

    def _resources(self, act: str, at: int) -> tuple[str, Body]:
        domain = self.domain()
        if act == "freeze":
            return domain, {"actions": self.spared()}
        frozen = [each["who"] for each in self._world.frozen if self.is_member(each["who"])]
        return self.mostly(self.one(frozen) if frozen and self.often(0.9) else domain), {}

    def is_member(self, who: str) -> bool:
        return find(self._world.domains, domain=who) is not None

    def spared(self) -> list[str]:
        return list(self.one(SPARED))


def planned(how: str, act: str, whom: str = "") -> Deed:
    return "", f"{how} {act} {whom}", {}
