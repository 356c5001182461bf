"""What domains propose to each other, and how they vote."""

from __future__ import annotations

from abc import abstractmethod

from tests.property.core.naive.ballots import OTHERS, is_possible
from tests.property.core.naive.cast import DAY_MS, JOINERS, Body, Cast
from tests.property.core.naive.policing import BAD, MEANINGS
from tests.property.core.naive.world import (
    BALLOT_TYPES,
    BALLOT_TYPES_OF_SECOND,
    POLICING,
    REINSTATING,
    Command,
    No,
    Thing,
    decided_by_ballot,
    proposal_id,
)


class Voting(Cast):
    """Makes up proposals, ballots, and who is about to cast some."""

    def thresholds(self) -> Body:
        types = decided_by_ballot(self._world.protocol)
        if self.often(0.3):
            return dict.fromkeys(types, "majority")
        wished = {name: self._world.thresholds[name] for name in types}
        for name in types:
            if self.often(0.3):
                wished[name] = self.one(("majority", "two-thirds", "unanimity"))
        return wished

    def parameters(self) -> Body:
        """Present ones, some of them changed; a permit never lasts longer than an authority."""
        wished = dict(self._world.parameters[-1])
        for name, values in (
            ("authority_period_ms", (1_000, 2_000, 5_000)),
            ("max_permit_ttl_ms", (500, 1_000)),
            ("rho_ppm", (0, 10_000, 20_000)),
            ("max_skew_ms", (5_000, 60_000)),
        ):
            if self.often(0.4):
                wished[name] = self.one(values)
        return wished

    def rates(self) -> Body:
        """Such that a minute has a whole number of them."""
        domain, executor = self.one((0, 0, 2, 12)), self.one((0, 0, 2, 6))
        return {"domain_per_min": domain, "executor_per_min": executor}

    def _proposal(self, act: str, at: int) -> tuple[str, Body]:
        if act == "withdraw":
            found = self.proposed()
            return self.mostly(found["proposer"]), {"proposal": found["proposal"]}
        return self._propose(at, *self.proposable())

    def _propose(self, at: int, verb: str, inner: Body, supported: float = 0.6) -> tuple[str, Body]:
        issuer = self.domain()
        life = self.one((600_000, 600_000, 5_000, 1_000))
        if self.often(0.03):
            life = self.one((0, 31 * DAY_MS))
        body = {"act": verb, "body": inner, "expires_at": at + life}
        if self.often(supported) and self.is_possible(verb, inner):
            nonce = f"{len(self._written) + 1:016x}"
            opening = Command(issuer, "proposal.open", body, nonce, 0, at, self._world.origin)
            self.campaign(issuer, proposal_id(opening))
        return issuer, body

    def proposable(self) -> tuple[str, Body]:
        """What domains may want to do together."""
        is_open = self.open_proposals()
        if is_open and self.often(0.3):  # two are for the same
            other = self.one(is_open)
            return other["act"], other["_body"]
        if self.often(0.1 if self._world.protocol > 1 else 0.01):
            return self.proposed_freeze()
        if self._world.protocol > 1 and self.often(0.15):
            wished = self.one(POLICING)
            return wished, self.policies() if wished == POLICING[0] else {}
        if self._world.protocol > 1 and self.often(0.15 if self.suspended() else 0.01):
            return REINSTATING, {"executor": self.failed()}
        later = BALLOT_TYPES_OF_SECOND if self._world.protocol > 1 else ()
        verb, domains = self.one((*BALLOT_TYPES, *later)), self._world.domains
        if verb == "federation.upgrade":
            return verb, {"protocol": self.one((2, 2, 3))}
        if verb == "federation.set_rates":
            return verb, self.rates()
        if verb == "federation.set_parameters":
            return verb, {"parameters": self.parameters()}
        if verb == "federation.set_thresholds":
            return verb, {"thresholds": self.thresholds()}
        if verb == "domain.admit":
            joining = "a.example" if self.often(0.2) else self.one(JOINERS)
            return verb, {"descriptor": self._descriptors[joining]}
        out = [each["domain"] for each in domains if each["suspended_by"] == OTHERS]
        if out and self.often(0.5):
            return "domain.reinstate", {"domain": self.one(out)}
        active = [each["domain"] for each in domains if each["status"] == "active"]
        return verb, {"domain": self.one(active) if active and self.often(0.6) else self.domain()}

    def suspended(self) -> list[Thing]:
        """The executors that their proofs have suspended."""
        return [each for each in self._world.executors if each["suspended_for"]]

    def failed(self) -> str:
        """One of these, mostly, and one that could be reinstated if there is one."""
        every = self.suspended()
        ready = [e for e in every if self.is_possible(REINSTATING, {"executor": e["executor"]})]
        some = ready if ready and self.often(0.8) else every
        return str(self.one(some)["executor"]) if some and self.often(0.9) else self.anybody()

    @abstractmethod
    def proposed_freeze(self) -> tuple[str, Body]: ...

    def policies(self) -> Body:
        """Those that permit everything, mostly: much else is to be seen."""
        if self.often(0.05):
            return {"text": BAD}
        return {"text": self.one(tuple(MEANINGS)[:2] if self.often(0.5) else tuple(MEANINGS))}

    def is_possible(self, act: str, body: Body) -> bool:
        try:
            is_possible(self._world, act, body)
        except No:
            return False
        return True

    def campaign(self, issuer: str, ident: str) -> None:
        """The others are about to vote, for it mostly."""
        for each in self._world.domains:
            if each["domain"] != issuer and self.often(0.9):
                choice = "yes" if self.often(0.85) else "no"
                ballot = {"proposal": ident, "choice": choice}
                self._planned.append((each["domain"], "ballot.cast", ballot))

    def _ballot(self, act: str, at: int) -> tuple[str, Body]:
        by, choice = self.domain(), self.one(("yes", "yes", "no"))
        ident = self.proposed()["proposal"]
        if self.often(0.3):
            self.campaign(by, ident)
        return by, {"proposal": ident, "choice": choice}

    def proposed(self) -> Thing:
        """A proposal, open mostly."""
        nothing = [{"proposer": self.domain(), "proposal": "0" * 64}]
        if self.often(0.03):
            return nothing[0]
        some = self.open_proposals() if self.often(0.9) else self._world.proposals
        return self.one(some or self._world.proposals or nothing)

    def open_proposals(self) -> list[Thing]:
        now = self._world.time
        proposals = self._world.proposals
        return [e for e in proposals if e["status"] == "open" and now < e["expires_at"]]
