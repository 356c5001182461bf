"""How a simulated federation comes to later rules, and what its domains then do with them.

Owns the ballot on the upgrade, and how trust is passed on: domains let others have what they trust
them with, and open edges for what is others' own; and how they freeze their resources. Who gives a
command to whom is `workload`'s.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from quorate.api.ports import Level
from quorate.core import protocol
from quorate.core.outcome import Outcome
from quorate.testing.builders import ballot_body, proposal_body
from quorate.testing.simulation.ballots import Order
from quorate.testing.simulation.scopes import freezing, frozen_part

_LIFETIME_MS: Final = 20_000


class Rules:
    """The rules of one federation, as its domains know them.

    passes_on: whether they pass trust on, and freeze: from the beginning, or since the upgrade.
    """

    def __init__(
        self,
        domains: Sequence[str],
        order: Order,
        sometimes: Counter[str],
        widened: Callable[[str], None],
        *,
        passes_on: bool,
    ) -> None:
        """widened: is told of what somebody wants to be good again."""
        self._domains = tuple(domains)
        self._order = order
        self._sometimes = sometimes
        self._open: list[str] = []
        self._frozen: list[str] = []
        self._widened = widened
        self.passes_on = passes_on

    def upgrade(self, now_ms: int, chance: random.Random) -> None:
        """Somebody votes on the upgrade, or proposes it: nodes may not be ready."""
        domain = chance.choice(self._domains)
        if self._open and chance.random() < 0.8:
            kind, body = "ballot.cast", ballot_body(self._open[-1])
        else:
            asked = {"protocol": protocol.SECOND}
            kind = "proposal.open"
            body = proposal_body("federation.upgrade", asked, now_ms + _LIFETIME_MS)
        call = self._order(domain, kind, body, chance, Level.COMMITTED)
        call.on_accepted = self._counted

    def _counted(self, outcome: Outcome) -> None:
        ident, status = str(outcome.result["id"]), outcome.result["status"]
        if status == "open" and ident not in self._open:
            self._open.append(ident)
        if outcome.result.get("executed"):
            self._sometimes["upgrade"] += 1
            self.passes_on = True

    def trusted_with(self, domain: str, chance: random.Random) -> tuple[str, dict[str, object]]:
        """Whose resources a new edge of the domain is for, and what else is said of it."""
        if not self.passes_on:
            return domain, {}
        owner = domain if chance.random() < 0.5 else chance.choice(self._domains)
        depth = chance.choice((0, 1, 1, 2))
        return owner, {"max_depth": depth} if depth else {}

    def depth(self, chance: random.Random) -> dict[str, object]:
        """How far a new grant may be passed on."""
        depth = chance.choice((0, 1, 2, 2)) if self.passes_on else 0
        return {"max_depth": depth} if depth else {}

    @staticmethod
    def delegation(
        executor: str, grant: str, to: str, now_ms: int, chance: random.Random
    ) -> dict[str, object]:
        """Of all that may be in a grant of these runs, or of more."""
        depth = chance.choice((0, 0, 1))
        return {
            "executor": executor,
            "grant": grant,
            "to": to,
            "actions": ["*"],
            "resources": [f"//{grant.partition('/')[0]}/*"],
            "not_after": now_ms + chance.choice((2_000, 60_000)),
            "max_lease_ttl_ms": chance.choice((1_000, 5_000)),
            "max_uses": chance.choice((0, 0, 3)),
            "max_concurrent": chance.choice((0, 0, 2)),
            **({"max_depth": depth} if depth else {}),
        }

    def freeze(self, chance: random.Random) -> None:
        """A domain freezes its resources, and may wait until that holds everywhere; or thaws them,
        if it knows that they are frozen."""
        if not self.passes_on:
            return
        if self._frozen and chance.random() < 0.4:
            domain = self._frozen.pop(chance.randrange(len(self._frozen)))
            self._widened(frozen_part(domain))
            self._order(domain, "resources.thaw", {}, chance, Level.COMMITTED)
            return
        domain = chance.choice(self._domains)
        body, part = freezing(domain, chance)
        level = chance.choice((Level.COMMITTED, Level.ENFORCED, Level.DRAINED, Level.DRAINED))
        call = self._order(domain, "resources.freeze", body, chance, level)
        call.revokes = part

        def accepted(_: Outcome) -> None:
            self._frozen.append(domain)
            self._sometimes["resources frozen"] += 1

        call.on_accepted = accepted
