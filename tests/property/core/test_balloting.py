"""Ballots held to a model that knows nothing of records, stores or indexes: it keeps who has said
what last, and counts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from quorate.core import protocol
from quorate.core.acts import ACTS
from quorate.core.invariants import check, check_step
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.core.vetting import Vetting
from quorate.testing.builders import (
    Federation,
    Ledger,
    Organisation,
    ballot_body,
    proposal_body,
)

EVERY_ACT = [verb.value for verb in ACTS[protocol.LATEST]]
FOUNDERS = tuple(f"d{number}.example" for number in range(3))
JOINERS = {
    name: Organisation.named(name, f"127.0.0.1:{9000 + number}")
    for number, name in enumerate(("x.example", "y.example"))
}
NAMES = (*FOUNDERS, *JOINERS)
LIFETIME_MS = 1_000
SHARES = {"majority": Fraction(1, 2), "two-thirds": Fraction(2, 3), "unanimity": Fraction(1)}


@dataclass
class Item:
    """One proposal of the model."""

    by: str
    act: str
    about: Any
    until: int
    seen: Any
    said: dict[str, bool]
    state: str = "open"


@dataclass
class Model:
    """standing: of each domain that ever was a member: active, own (suspended by itself), other
    (suspended by the others) or gone."""

    standing: dict[str, str] = field(default_factory=lambda: dict.fromkeys(FOUNDERS, "active"))
    rules: dict[str, str] = field(default_factory=lambda: dict.fromkeys(EVERY_ACT, "majority"))
    versions: dict[str, int] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)

    def seen_by(self, act: str, about: Any) -> Any:
        """What a widening act relies on as it is."""
        if act == "domain.reinstate":
            return self.versions.get(about, 0)
        return dict(self.rules) if act == "federation.set_thresholds" else None

    def possible(self, act: str, about: Any) -> bool:
        match act:
            case "domain.admit":
                return about not in self.standing
            case "domain.suspend":
                return self.standing.get(about) in {"active", "own"}
            case "domain.reinstate":
                return self.standing.get(about) == "other"
            case "domain.expel":
                members = [name for name, how in self.standing.items() if how != "gone"]
                return about in members and len(members) > 1
        return bool(about != self.rules)

    def do(self, act: str, about: Any) -> None:
        changes = {
            "domain.admit": "active",
            "domain.suspend": "other",
            "domain.reinstate": "active",
            "domain.expel": "gone",
        }
        if act in changes:
            self.standing[about] = changes[act]
            self.versions[about] = self.versions.get(about, 0) + 1
        else:
            self.rules = about

    def count(self, item: Item) -> str:
        """What becomes of a proposal with what was said so far."""
        is_about = item.act in {"domain.suspend", "domain.expel", "domain.reinstate"}
        can = {name for name, how in self.standing.items() if how == "active"}
        members = {name for name, how in self.standing.items() if how != "gone"}
        if is_about:
            can.discard(item.about)
            members.discard(item.about)
        share = SHARES[self.rules[item.act]]

        def enough(count: int) -> bool:
            return (
                count > Fraction(len(can), 2)
                and count > Fraction(len(members), 2)
                and count >= share * len(can)
                and count >= (2 if is_about else 1)
            )

        agreed = sum(item.said.get(name) is True for name in can)
        refused = sum(item.said.get(name) is False for name in can)
        if enough(agreed):
            fits = item.seen == self.seen_by(item.act, item.about)
            if fits and self.possible(item.act, item.about):
                self.do(item.act, item.about)
                return "executed"
            return "failed"
        return "open" if enough(len(can) - refused) else "rejected"


class Run:
    """The ledger and the model, side by side."""

    def __init__(self) -> None:
        self.ledger = Ledger(Federation.build(FOUNDERS))
        self.ledger.federation.organisations |= JOINERS
        self.model = Model()

    def propose(self, by: str, act: str, about: Any) -> None:
        model, now = self.model, self.ledger.now
        if act == "domain.admit":
            # The descriptors of founders are good, and they were members once.
            member = self.ledger.federation[about]
            body: dict[str, Any] = {"descriptor": json.loads(member.descriptor())}
        elif act == "federation.set_thresholds":
            body = {"thresholds": about}
        else:
            body = {"domain": about}
        filed = sum(
            each.state == "open" and now < each.until and each.by == by
            for each in model.items.values()
        )
        allowed = model.standing.get(by) == "active" and model.possible(act, about) and filed < 8
        opened = self.ledger.run(by, "proposal.open", proposal_body(act, body, now + LIFETIME_MS))
        assert opened.outcome.accepted == allowed, opened.outcome
        if allowed:
            seen = model.seen_by(act, about)
            item = Item(by, act, about, now + LIFETIME_MS, seen, {by: True})
            model.items[str(opened.outcome.result["id"])] = item
            item.state = model.count(item)
            assert opened.outcome.result["status"] == item.state

    def vote(self, by: str, which: int, *, is_yes: bool) -> None:
        model = self.model
        if not model.items:
            return
        ident = list(model.items)[which % len(model.items)]
        item = model.items[ident]
        is_target = item.act in {"domain.suspend", "domain.expel"} and item.about == by
        allowed = (
            model.standing.get(by) == "active"
            and not is_target
            and item.state == "open"
            and self.ledger.now < item.until
        )
        cast = self.ledger.run(by, "ballot.cast", ballot_body(ident, "yes" if is_yes else "no"))
        assert cast.outcome.accepted == allowed, cast.outcome
        if allowed:
            item.said[by] = is_yes
            item.state = model.count(item)
            assert cast.outcome.result["status"] == item.state
            assert ("executed" in cast.outcome.result) == (item.state == "executed")

    def campaign(self, which: int) -> None:
        """Whoever can agrees."""
        for name in NAMES:
            self.vote(name, which, is_yes=True)

    def withdraw(self, by: str, which: int) -> None:
        model = self.model
        if not model.items:
            return
        ident = list(model.items)[which % len(model.items)]
        item = model.items[ident]
        allowed = (
            item.by == by
            and model.standing.get(by) in {"active", "own", "other"}
            and item.state == "open"
            and self.ledger.now < item.until
        )
        withdrawn = self.ledger.run(by, "proposal.withdraw", {"proposal": ident})
        assert withdrawn.outcome.accepted == allowed, withdrawn.outcome
        if allowed:
            item.state = "withdrawn"

    def alone(self, by: str, act: str) -> None:
        """A domain suspends itself, or reinstates itself."""
        model = self.model
        before, after = ("active", "own") if act == "suspend" else ("own", "active")
        allowed = model.standing.get(by) == before
        done = self.ledger.run(by, f"domain.{act}", {"domain": by})
        assert done.outcome.accepted == allowed, done.outcome
        if allowed:
            model.standing[by] = after
            model.versions[by] = model.versions.get(by, 0) + 1

    def check(self) -> None:
        view, model = self.ledger.view, self.model
        standing = {
            domain.id: {"active": "active", "revoked": "gone"}.get(
                domain.status, "own" if domain.suspended_by == domain.id else "other"
            )
            for domain in view.domains()
        }
        assert standing == model.standing
        assert dict.fromkeys(model.rules, "majority") | {**view.thresholds()} == model.rules
        states = {proposal.id: proposal.status.value for proposal in view.proposals()}
        assert states == {ident: item.state for ident, item in model.items.items()}
        assert check(view) == []
        assert Vetting(self.ledger.store, len(self.ledger.entries)).step(1_000_000)


names = st.sampled_from(NAMES)
some = st.sampled_from(("d0.example", "d1.example", "x.example"))
"""What is decided is mostly about these, so that there is more than one decision about each."""
thresholds = st.fixed_dictionaries({verb: st.sampled_from(list(SHARES)) for verb in EVERY_ACT})
acts = st.one_of(
    *[st.tuples(st.just("domain.admit"), some)] * 2,
    *(
        st.tuples(st.just(f"domain.{what}"), some)
        for what in ("suspend", "suspend", "reinstate", "reinstate", "expel")
    ),
    st.tuples(st.just("federation.set_thresholds"), thresholds),
)
votes = st.tuples(st.just("vote"), names, st.integers(0, 30), st.booleans())
steps = st.one_of(
    st.tuples(st.just("propose"), names, acts),
    *[votes] * 5,
    st.tuples(st.just("campaign"), st.integers(0, 30)),
    *[st.tuples(st.just("pass"), names, acts)] * 3,
    st.tuples(st.just("withdraw"), names, st.integers(0, 30)),
    st.tuples(st.just("alone"), some, st.sampled_from(("suspend", "reinstate"))),
    st.tuples(st.just("later"), st.integers(1, LIFETIME_MS)),
)


def copied(ledger: Ledger) -> StateView:
    store = MemoryStore()
    for key, value in ledger.store.items():
        store.put(key, value)
    return StateView(store)


@settings(max_examples=300)
@given(st.lists(steps, min_size=5, max_size=60))
@example([("propose", FOUNDERS[0], ("domain.expel", FOUNDERS[1])), ("campaign", 0)])
def test_ballots_go_as_a_plain_count_of_them_says(script: list[tuple[Any, ...]]) -> None:
    run = Run()
    for step in script:
        before = copied(run.ledger)
        match step:
            case ("propose", by, (act, about)):
                run.propose(by, act, about)
            case ("vote", by, which, is_yes):
                run.vote(by, which, is_yes=is_yes)
            case ("campaign", which):
                run.campaign(which)
            case ("pass", by, (act, about)):
                run.propose(by, act, about)
                run.campaign(-1)
            case ("withdraw", by, which):
                run.withdraw(by, which)
            case ("alone", by, act):
                run.alone(by, act)
            case ("later", ms):
                run.ledger.now += ms
        assert check_step(before, run.ledger.view) == []
        run.check()
