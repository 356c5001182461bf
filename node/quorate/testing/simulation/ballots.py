"""What the organisations of a simulated federation decide together: who of them is suspended,
reinstated, or expelled.

Owns the choice of proposals and ballots, and what follows when one decides: whoever relied on the
domain is not permitted any more, until it is reinstated; never again, if it is expelled, and
somebody may switch its machines off. Who gives a command to whom is `workload`'s.
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
_ACTS: Final = ("domain.expel", "domain.suspend", "domain.reinstate")
_WEIGHTS: Final = (3, 2, 3)
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
        widened: Callable[[str], None],
        sometimes: Counter[str],
    ) -> None:
        """expelled: is told of a domain that is none any more. widened: of what somebody wants to
        be good again."""
        self._members = list(domains)
        self._order = order
        self._expelled = expelled
        self._widened = widened
        self._sometimes = sometimes
        self._suspended: list[str] = []
        self._at_stake = ""
        """Against one domain alone something is proposed, until it is expelled: were two suspended,
        those who are left might not be enough to reinstate either."""
        self._open: list[str] = []
        self._about: dict[str, tuple[str, str]] = {}
        """By proposal: what is to be done, and to whom."""

    def next(
        self, domain: str, now_ms: int, chance: random.Random, fits: Callable[[str], bool]
    ) -> tuple[Call, str] | None:
        """The domain votes on something, or proposes something about another: also one that was
        expelled, or is to be. fits: whether somebody would have that domain expelled now. Returns
        the call, and the domain that it may expel, if any."""
        level = chance.choice((Level.COMMITTED, Level.ENFORCED, Level.DRAINED))
        ident = ""
        if self._open and chance.random() < 0.75:
            ident = chance.choice(self._open)
            act, target = self._about[ident]
        elif len(self._members) > _LEFT:
            acts = _ACTS if self._suspended else _ACTS[:-1]
            act = chance.choices(acts, weights=_WEIGHTS[: len(acts)])[0]
            is_reinstated = act == "domain.reinstate"
            target = chance.choice(self._suspended if is_reinstated else self._members)
            if not is_reinstated:
                target = self._at_stake = self._at_stake or target
        else:
            return None
        if act == "domain.expel" and not fits(target):
            return None
        if ident:
            call = self._cast(
                domain, ident, "yes" if chance.random() < 0.9 else "no", chance, level
            )
        else:
            expires = now_ms + chance.choice(_LIFETIMES_MS)
            call = self._propose(domain, (act, target), expires, chance, level)
        return call, target if act == "domain.expel" else ""

    def reinstate(self, target: str, now_ms: int, chance: random.Random) -> None:
        """One of the others does something for it: so often as it is asked, until it is done."""
        others = [each for each in self._members if each != target]
        about = ("domain.reinstate", target)
        known = [ident for ident in self._open if self._about[ident] == about]
        if known and chance.random() < 0.8:
            self._cast(chance.choice(others), known[-1], "yes", chance, Level.COMMITTED)
        else:
            expires = now_ms + max(_LIFETIMES_MS)
            self._propose(chance.choice(others), about, expires, chance, Level.COMMITTED)

    def _propose(
        self,
        domain: str,
        about: tuple[str, str],
        expires: int,
        chance: random.Random,
        level: Level,
    ) -> Call:
        act, target = about
        if act == "domain.reinstate":
            self._widened(f"domain:{target}")
        body = proposal_body(act, {"domain": target}, expires)
        call = self._order(domain, "proposal.open", body, chance, level)
        call.on_accepted = lambda outcome: self._counted(call, about, outcome, chance)
        return call

    def _cast(
        self, domain: str, ident: str, choice: str, chance: random.Random, level: Level
    ) -> Call:
        about = act, target = self._about[ident]
        if act == "domain.reinstate":
            self._widened(f"domain:{target}")
        call = self._order(domain, "ballot.cast", ballot_body(ident, choice), chance, level)
        call.on_accepted = lambda outcome: self._counted(call, about, outcome, chance)
        return call

    def _counted(
        self, call: Call, about: tuple[str, str], outcome: Outcome, chance: random.Random
    ) -> None:
        """Somebody was told what has become of a proposal with a ballot."""
        ident, status = str(outcome.result["id"]), outcome.result["status"]
        self._about[ident] = about
        if status == "open":
            if ident not in self._open:
                self._open.append(ident)
            return
        if ident in self._open:
            self._open.remove(ident)
        self._sometimes[f"proposal {status}"] += 1
        if not isinstance(outcome.result.get("executed"), dict):
            return
        act, domain = about
        self._suspended = [each for each in self._suspended if each != domain]
        if act == "domain.reinstate":
            self._sometimes["domain reinstated by ballot"] += 1
            return
        call.revokes = f"domain:{domain}"
        if act == "domain.suspend":
            self._sometimes["domain suspended by ballot"] += 1
            self._suspended.append(domain)
            return
        call.is_final = True
        if domain in self._members:
            self._members.remove(domain)
            self._at_stake = ""
            self._expelled(domain, chance)
