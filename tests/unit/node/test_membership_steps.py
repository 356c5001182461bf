"""The order of the steps by which a leader makes the configuration what the ledger says."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from quorate.consensus.configuration import Configuration
from quorate.core.records import Node, Role
from quorate.core.status import Status
from quorate.node.membership import CAUGHT_UP_ENTRIES, HandOver, Step, next_step


@dataclass
class View:
    """A leader `a` and what it knows: by default everybody else is there and up to date."""

    configuration: Configuration
    node_id: str = "a"
    commit_index: int = 1000
    silent: set[str] = field(default_factory=set)
    behind: set[str] = field(default_factory=set)
    tokens: dict[str, str] = field(default_factory=dict)
    holding: set[str] = field(default_factory=set)
    may_hand_over: bool = True

    def match_index(self, peer: str) -> int:
        return self.commit_index - (CAUGHT_UP_ENTRIES if peer in self.behind else 0)

    def is_responsive(self, peer: str) -> bool:
        return peer not in self.silent and peer not in self.tokens

    def probation_of(self, peer: str) -> str:
        return self.tokens.get(peer, "")

    def has_lapsed(self, peer: str) -> bool:
        return peer not in self.holding


def ledger(voters: str = "", observers: str = "", retired: str = "") -> dict[str, Node]:
    """The nodes of a state, each named by a letter."""
    nodes = {}
    for names, role, status in (
        (voters, Role.VOTER, Status.ACTIVE),
        (observers, Role.OBSERVER, Status.ACTIVE),
        (retired, Role.VOTER, Status.REVOKED),
    ):
        for name in names:
            nodes[name] = Node(name, "", "", "", "", role, status, 0)
    return nodes


def config(voters: str, learners: str = "") -> Configuration:
    return Configuration(tuple(voters), tuple(learners))


@pytest.mark.parametrize(
    ("view", "nodes", "expected"),
    [
        (View(config("abc")), ledger("abc"), None),
        (View(config("abc")), ledger("abc", "d"), config("abc", "d")),
        (View(config("abc")), ledger("abcd"), config("abc", "d")),
        (View(config("abc", "d")), ledger("abcd"), config("abcd")),
        (View(config("abc", "d"), behind={"d"}), ledger("abcd"), None),
        (View(config("abc", "d"), silent={"d"}), ledger("abcd"), None),
        (View(config("abc")), ledger("ab", "c"), config("ab", "c")),
        (View(config("abc")), ledger("ab", retired="c"), config("ab")),
        (View(config("abc"), holding={"c"}), ledger("ab", retired="c"), None),
        (View(config("abc"), silent={"b"}), ledger("ab", retired="c"), None),
        (View(config("abc"), silent={"b"}), ledger("ab", "c"), None),
        (View(config("abc")), ledger("bc", retired="a"), HandOver("b")),
        (View(config("abc"), behind={"b"}), ledger("bc", "a"), HandOver("c")),
    ],
)
def test_a_step(view: View, nodes: dict[str, Node], expected: Step | None) -> None:
    assert next_step(view, nodes) == expected


def test_the_only_voter_makes_another_before_it_goes() -> None:
    """Both ways of its going: it may not wait for an heir that only its next step can make."""
    for nodes in (ledger("b", "a"), ledger("b", retired="a")):
        assert next_step(View(config("a")), nodes) == config("a", "b")
        assert next_step(View(config("a", "b")), nodes) == config("ab")
        assert next_step(View(config("ab")), nodes) == HandOver("b")


def test_a_leader_that_is_to_go_hands_over_to_nobody_who_is_away() -> None:
    view = View(config("ab"), silent={"b"})
    assert next_step(view, ledger("b", "a")) is None
    assert next_step(view, ledger("bc", "a")) == config("ab", "c")


def test_a_leader_hands_over_to_nobody_who_is_to_go_as_well() -> None:
    """Two that are to go, and hand over to each other, get nothing else done."""
    view = View(config("ab", "cd"), holding={"b"})
    assert next_step(view, ledger("cd", retired="ab")) == config("abc", "d")
    assert next_step(view, ledger("cd", "ab")) == config("a", "bcd")


def test_a_leader_that_has_tried_to_hand_over_does_what_else_there_is() -> None:
    view = View(config("abc", "d"), may_hand_over=False)
    assert next_step(view, ledger("bcd", "a")) == config("abcd")
    assert next_step(View(config("abc"), may_hand_over=False), ledger("bc", "a")) is None


def test_who_may_have_forgotten_loses_its_vote_before_anything_else() -> None:
    view = View(config("abc"), tokens={"c": "token"})
    assert next_step(view, ledger("abcd")) == config("abc").with_learner("c", "token")


def test_who_was_readmitted_and_is_on_probation_again_is_readmitted_again() -> None:
    """By its new token: the old one says nothing of what was forgotten since."""
    first = config("abc").with_learner("c", "first")
    second = config("abc").with_learner("c", "second")
    assert next_step(View(first, tokens={"c": "first"}), ledger("abc")) is None
    assert next_step(View(first, tokens={"c": "second"}), ledger("abc")) == second


def test_a_vote_is_not_taken_where_those_left_could_not_decide() -> None:
    view = View(config("abc"), silent={"b"}, tokens={"c": "token"})
    assert next_step(view, ledger("abc")) is None
