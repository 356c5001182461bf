"""What is asked of executors to be proved, and how they answer: well, mostly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.property.core.naive.cast import HOUR_MS, Body, Cast, Deed
from tests.property.core.naive.deciding import references_for, references_of
from tests.property.core.naive.world import Thing, find, home

IMAGES = ("a" * 64, "b" * 64, "c" * 64)
AGENT, STRANGER = "agent", "stranger"
AS_ASKED = "as asked"
"""In the place of a challenge: what it is is known when the command is judged, so that a history of
which something is left out is still one."""


class Showing(Cast):
    """Makes up what version 2 of the protocol has brought about proofs."""

    _key_of: Callable[[str], str]

    def _attestation(self, act: str, at: int) -> tuple[str, Body]:
        makers = {
            "set_reference": self._set_reference,
            "retire_reference": self._retire_reference,
            "challenge": self._challenge,
            "report": self._report,
            "drift": self._challenge,
        }
        return makers[act]()

    def proving(self) -> list[Deed]:
        """Somebody is asked, and answers; a lease is taken on it; then something is not as it was,
        or is said not to be, and is mended."""
        deeds: list[Deed] = []
        if not self._world.references:
            deeds.append(("", "attestation.set_reference", {}))
        answers = [("", "attestation.challenge", {}), ("", "attestation.report", {})]
        deeds += [*answers, ("", "lease.acquire", {})] if self.often(0.9) else answers[1:]
        if self._world.references and self.often(0.5):
            reference = self.one(self._world.references)
            changed = {k: v for k, v in reference.items() if k not in ("domain", "name", "changed")}
            changed |= {"reference": reference["name"], "images": [self.one(IMAGES)]}
            deeds.append((reference["domain"], "attestation.set_reference", changed))
            deeds += [("", "lease.renew", {}), *answers[: self.one((0, 2))]]
        if self.often(0.4):
            who = self._who()
            deeds += [(self.node(home(who)), "attestation.drift", {"executor": who})]
            asked = [(self.node(home(who)), "attestation.challenge", {"executor": who}), answers[1]]
            deeds += asked[: self.one((0, 2, 2))]
            if self.often(0.2):
                deeds.append((home(who), "executor.suspend", {"executor": who}))
            if self.often(0.3):
                deeds.append((home(who), "executor.reinstate", {"executor": who}))
            else:  # by ballot, and the votes come last
                deeds.append(("", "reinstate", {}))
                if self.often(0.4):
                    again = (self.node(home(who)), "attestation.drift", {"executor": who})
                    deeds += [again, *asked]
        return deeds

    def _set_reference(self) -> tuple[str, Body]:
        domain = self.domain()
        everybody = f"spiffe://{self.mostly(domain)}/agent/*"
        one = f"spiffe://{domain}/agent/{self.one('ab')}"
        images = self.one(([IMAGES[0]], list(IMAGES[:2]), [IMAGES[1]]))
        return domain, {
            "reference": f"r{self.one('12')}",
            "evidence": "measurement",
            "executors": self.one(([everybody], [one], [one], [one])),
            "max_age_ms": self.one((1_000, 5_000, 60_000, HOUR_MS, HOUR_MS)),
            "signers": [self._key_of(AGENT)],
            "images": images,
            **({"environments": ["prod"]} if self.often(0.3) else {}),
        }

    def _retire_reference(self) -> tuple[str, Body]:
        if self._world.references and self.often(0.9):
            found = self.one(self._world.references)
            return self.mostly(found["domain"]), {"reference": found["name"]}
        return self.domain(), {"reference": f"r{self.one('12')}"}

    def _challenge(self) -> tuple[str, Body]:
        executor = self._who()
        return self.node(self.mostly(home(executor))), {"executor": executor}

    def _report(self) -> tuple[str, Body]:
        waiting = [each for each in self._world.executors if each["challenge"]]
        executor = str(self.one(waiting)["executor"]) if waiting else self._who()
        who = find(self._world.executors, executor=executor)
        evidence: dict[str, Any] = {
            "by": self._key_of(AGENT if self.often(0.9) else STRANGER),
            "executor": executor if self.often(0.95) else f"{executor}x",
            "challenge": AS_ASKED if self.often(0.95) else "1" * 64,
        }
        wanted = self._wanted(who)
        fits = bool(wanted) and self.often(0.8)
        evidence["image"] = self.one(wanted["images"]) if fits else self.one(IMAGES)
        evidence["environment"] = "prod" if self.often(0.8) else self.one(("", "test"))
        name = wanted["name"] if wanted else f"r{self.one('12')}"
        body = {"executor": executor, "reference": name, "challenge": AS_ASKED}
        if self.often(0.05):
            body["challenge"] = "2" * 64
        return self.node(self.mostly(home(executor))), body | {"evidence": evidence}

    def _wanted(self, who: Thing | None) -> Thing:
        """A reference that it has to meet, one that it has not met mostly."""
        if who is None:
            return {}
        every = references_for(self._world, who)
        met = [each["reference"] for each in who["attestations"]]
        some = [each for each in every if each["name"] not in met]
        chosen = some if some and self.often(0.8) else every
        other = references_of(self._world, who["domain"])
        return self.one(chosen) if chosen else (self.one(other) if other else {})

    def _who(self) -> str:
        """Who has something to prove, mostly."""
        asked = [each for each in self._world.executors if references_for(self._world, each)]
        return str(self.one(asked)["executor"]) if asked and self.often(0.9) else self.anybody()
