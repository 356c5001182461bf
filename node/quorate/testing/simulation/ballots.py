"""What the organisations of a simulated federation decide together: who of them is expelled.

Owns the choice of proposals and ballots, and what follows when one decides: whoever relied on the
domain is never permitted again, and somebody may switch its machines off. Who gives a command to
whom is `workload`'s.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from quorate.api.ports import Level
from quorate.core.outcome import Outcome
from quorate.testing.builders import ballot_body, proposal_body
from quorate.testing.simulation.calls import Call

_LEFT: Final = 2
"""So many domains stay: they can still agree on something."""
_LIFETIMES_MS: Final = (2_000, 20_000, 120_000)


class Order(Protocol):
    """Has a domain give a command to some node."""

    def __call__(
        self, domain: str, kind: str, body: dict[str, object], chance: random.Random, level: Level
    ) -> Call: ...


class Ballots:
    """The proposals of one federation."""

    def __init__(
        self,
        domains: Sequence[str],
        order: Order,
        expelled: Callable[[str, random.Random], None],
        sometimes: Counter[str],
    ) -> None:
        """expelled: is told of a domain that is none any more."""
        self._members = list(domains)
        self._order = order
        self._expelled = expelled
        self._sometimes = sometimes
        self._open: list[str] = []
        self._targets: dict[str, str] = {}
        """By proposal, whom it is about."""

    def next(
        self, domain: str, now_ms: int, chance: random.Random, fits: Callable[[str], bool]
    ) -> tuple[Call, str] | None:
        """The domain votes on something, or proposes to expel another: also one that was expelled,
        or is to be. fits: whether somebody would have that domain expelled now. Returns the call
        with the domain that it is about."""
        level = chance.choice((Level.COMMITTED, Level.ENFORCED, Level.DRAINED))
        if self._open and chance.random() < 0.75:
            choice = "yes" if chance.random() < 0.9 else "no"
            ident = chance.choice(self._open)
            target = self._targets[ident]
            if not fits(target):
                return None
            body: dict[str, object] = ballot_body(ident, choice)
            call = self._order(domain, "ballot.cast", body, chance, level)
        elif len(self._members) > _LEFT:
            target = chance.choice(self._members)
            if not fits(target):
                return None
            expires = now_ms + chance.choice(_LIFETIMES_MS)
            body = proposal_body("domain.expel", {"domain": target}, expires)
            call = self._order(domain, "proposal.open", body, chance, level)
        else:
            return None
        call.on_accepted = lambda outcome: self._counted(call, target, outcome, chance)
        return call, target

    def _counted(self, call: Call, target: str, outcome: Outcome, chance: random.Random) -> None:
        """Somebody was told what has become of a proposal with a ballot."""
        ident, status = str(outcome.result["id"]), outcome.result["status"]
        self._targets[ident] = target
        if status == "open":
            if ident not in self._open:
                self._open.append(ident)
            return
        if ident in self._open:
            self._open.remove(ident)
        self._sometimes[f"proposal {status}"] += 1
        executed = outcome.result.get("executed")
        if not isinstance(executed, dict):
            return
        domain = str(executed["thing"])
        call.revokes, call.is_final = f"domain:{domain}", True
        self._members.remove(domain)
        self._expelled(domain, chance)
