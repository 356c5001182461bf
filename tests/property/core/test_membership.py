"""Commands about nodes, in any order, against a model that is as plain as can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quorate.core import invariants, membership
from quorate.core.outcome import Reason
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.testing.builders import Federation, Ledger, key_for, node_body

DOMAINS = ("bank.example", "clinic.example", "depot.example")
MOST_ACTIVE, MOST_EVER = 3, 5
NAMES = "1222233334456"
"""Of nodes; the frequent ones are mostly there when something is done about them."""
KEYS = (*(f"{domain} {use}" for domain in DOMAINS for use in ("governance", "log")), "x", "y")


@dataclass
class Member:
    """What the model knows of a node."""

    voter: bool
    address: str
    keys: tuple[str, ...]
    active: bool = True


@dataclass
class Model:
    """The rules again, said in another way, over everything that there is."""

    nodes: dict[str, Member] = field(default_factory=dict)
    suspended: set[str] = field(default_factory=set)
    domain_keys: set[str] = field(default_factory=set)

    def of(self, domain: str) -> list[Member]:
        return [member for node, member in self.nodes.items() if node.split("/")[2] == domain]

    def voters(self) -> list[str]:
        return [node for node, member in self.nodes.items() if member.active and member.voter]

    def judge(self, issuer: str, act: str, body: dict[str, Any]) -> Reason | None:
        if act in ("suspend", "reinstate"):
            is_so = (issuer in self.suspended) == (act == "suspend")
            return Reason.ILLEGAL_TRANSITION if is_so else None
        node = body["node"]
        member = self.nodes.get(node)
        if node.split("/")[2] != issuer:
            return Reason.NOT_AUTHORIZED
        if act != "add" and member is None:
            return Reason.NOT_FOUND
        if act in ("add", "promote") and issuer in self.suspended:
            return Reason.DOMAIN_SUSPENDED
        if member is not None and not member.active:
            return Reason.FINAL
        if act == "add":
            return self._judge_adding(issuer, body)
        assert member is not None
        if act != "retire" and member.voter == (act == "promote"):
            return Reason.ILLEGAL_TRANSITION
        if act == "promote":
            return Reason.LIMIT_EXCEEDED if self._has_voter(issuer) else None
        return Reason.LAST_VOTER if self.voters() == [node] else None

    def _judge_adding(self, issuer: str, body: dict[str, Any]) -> Reason | None:
        if body["node"] in self.nodes:
            return Reason.ALREADY_EXISTS
        own = self.of(issuer)
        if sum(member.active for member in own) >= MOST_ACTIVE or len(own) >= MOST_EVER:
            return Reason.LIMIT_EXCEEDED
        used = self.domain_keys | {key for member in self.nodes.values() for key in member.keys}
        addresses = {member.address for member in self.nodes.values() if member.active}
        if used & {body["signing_key"], body["log_key"]} or body["peer_address"] in addresses:
            return Reason.ALREADY_EXISTS
        if body["role"] == "voter" and self._has_voter(issuer):
            return Reason.LIMIT_EXCEEDED
        return None

    def _has_voter(self, domain: str) -> bool:
        return any(member.active and member.voter for member in self.of(domain))

    def follow(self, issuer: str, act: str, body: dict[str, Any]) -> None:
        """An accepted command."""
        if act == "suspend":
            self.suspended.add(issuer)
        elif act == "reinstate":
            self.suspended.discard(issuer)
        elif act == "add":
            keys = (body["signing_key"], body["log_key"])
            member = Member(body["role"] == "voter", body["peer_address"], keys)
            self.nodes[body["node"]] = member
        elif act == "retire":
            self.nodes[body["node"]].active = False
        else:
            self.nodes[body["node"]].voter = act == "promote"


Script = list[tuple[str, str, dict[str, Any]]]


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    issuer = draw(st.sampled_from(DOMAINS))
    acts = ["add"] * 6 + ["promote", "demote"] * 3 + ["retire"] * 3 + ["suspend", "reinstate"]
    act = draw(st.sampled_from(acts))
    if act in ("suspend", "reinstate"):
        return issuer, act, {"domain": issuer}
    home = draw(st.sampled_from([issuer] * 9 + [*DOMAINS]))
    node = f"spiffe://{home}/node/{draw(st.sampled_from(NAMES))}"
    if act != "add":
        node = draw(st.sampled_from([f"spiffe://{home}/node/1", node, node]))
        return issuer, act, {"node": node}
    address = f"127.0.0.1:{draw(st.integers(7395, 7440))}"
    body = node_body(node, address, draw(st.sampled_from(("voter", "observer"))))
    if draw(st.integers(0, 4)) == 0:
        purpose = draw(st.sampled_from(("signing_key", "log_key")))
        body[purpose] = key_for(draw(st.sampled_from(KEYS))).public.hex()
    return issuer, act, body


@contextmanager
def small_limits() -> Iterator[None]:
    with (
        mock.patch.object(membership, "MAX_NODES_PER_DOMAIN", MOST_ACTIVE),
        mock.patch.object(membership, "MAX_NODES_EVER_PER_DOMAIN", MOST_EVER),
    ):
        yield


def founded(domains: tuple[str, ...]) -> tuple[Ledger, Model]:
    ledger, model = Ledger(Federation.build(domains)), Model()
    for item in ledger.federation.parsed_genesis().descriptors:
        keys = item.node.signing_key.hex(), item.node.log_key.hex()
        model.nodes[item.node.id] = Member(True, item.node.peer_address, keys)
        model.domain_keys |= {item.governance_key.hex(), item.cosigner_key.hex()}
    return ledger, model


def copy(store: MemoryStore) -> StateView:
    other = MemoryStore()
    for key, value in store.items():
        other.put(key, value)
    return StateView(other)


def play(ledger: Ledger, model: Model, script: Script) -> set[tuple[str, Reason | None]]:
    """Runs a script on both; returns what came of it, by act."""
    seen = set()
    for issuer, act, body in script:
        if issuer not in ledger.federation.organisations:
            continue
        kind = f"domain.{act}" if "domain" in body else f"node.{act}"
        before = copy(ledger.store)
        expected = model.judge(issuer, act, body)
        outcome = ledger.run(issuer, kind, body).outcome
        assert outcome.reason is expected, (issuer, act, body)
        if outcome.accepted:
            model.follow(issuer, act, body)
        assert invariants.check(ledger.view) == []
        assert invariants.check_step(before, ledger.view) == []
        actual = {(node.id, node.votes, not node.retired) for node in ledger.view.nodes()}
        assert actual == {
            (node, member.voter and member.active, member.active)
            for node, member in model.nodes.items()
        }
        seen.add((act, outcome.reason))
    return seen


SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(script=st.lists(commands(), min_size=10, max_size=50), members=st.integers(1, 3))
def test_the_ledger_judges_as_the_model_does(script: Script, members: int) -> None:
    with small_limits():
        play(*founded(DOMAINS[:members]), script)


REACHED = [
    *(
        ("add", reason)
        for reason in (
            None,
            Reason.NOT_AUTHORIZED,
            Reason.DOMAIN_SUSPENDED,
            Reason.FINAL,
            Reason.ALREADY_EXISTS,
            Reason.LIMIT_EXCEEDED,
        )
    ),
    *(
        ("promote", reason)
        for reason in (
            None,
            Reason.NOT_AUTHORIZED,
            Reason.NOT_FOUND,
            Reason.DOMAIN_SUSPENDED,
            Reason.FINAL,
            Reason.ILLEGAL_TRANSITION,
            Reason.LIMIT_EXCEEDED,
        )
    ),
    *(
        ("demote", reason)
        for reason in (
            None,
            Reason.NOT_AUTHORIZED,
            Reason.NOT_FOUND,
            Reason.FINAL,
            Reason.ILLEGAL_TRANSITION,
            Reason.LAST_VOTER,
        )
    ),
    *(
        ("retire", reason)
        for reason in (
            None,
            Reason.NOT_AUTHORIZED,
            Reason.NOT_FOUND,
            Reason.FINAL,
            Reason.LAST_VOTER,
        )
    ),
]


@pytest.fixture(scope="module")
def reached() -> set[tuple[str, Reason | None]]:
    """Everything that 150 scripts led to."""
    total: set[tuple[str, Reason | None]] = set()

    @settings(SETTINGS, max_examples=150, derandomize=True, database=None)
    @given(script=st.lists(commands(), min_size=20, max_size=50), members=st.integers(1, 3))
    def explore(script: Script, members: int) -> None:
        with small_limits():
            total.update(play(*founded(DOMAINS[:members]), script))

    explore()
    return total


@pytest.mark.parametrize("case", REACHED, ids=lambda case: f"{case[0]}-{case[1]}")
def test_every_outcome_is_reached(
    reached: set[tuple[str, Reason | None]], case: tuple[str, Reason | None]
) -> None:
    assert case in reached
