"""The node of a domain that was admitted does not go on leading where somebody may not know it."""

from __future__ import annotations

from quorate.node.newcomer import PATIENCE_S, PAUSE_S, Newcomer

OWN, OTHER, THIRD = "own", "other", "third"


class Replica:
    members = frozenset({OWN, OTHER, THIRD})

    def __init__(self) -> None:
        self.is_leader = True
        self.has_heir = True
        self.asked = 0

    def hand_over(self, heir: str | None = None) -> bool:
        assert heir is None, "whoever is nearest to the log"
        self.asked += 1
        return self.has_heir


class Scene:
    def __init__(self) -> None:
        self.now_s = 100.0
        self.replica = Replica()
        self.is_unknown = True
        self.newcomer = Newcomer(OWN, lambda: self.now_s, lambda: self.is_unknown)

    def look(self, *links_up: str, after_s: float = 0.0) -> int:
        self.now_s += after_s
        self.newcomer.look(self.replica, links_up)
        return self.replica.asked


def test_a_leader_that_reaches_all_goes_on() -> None:
    scene = Scene()
    for _ in range(10):
        assert scene.look(OTHER, THIRD, after_s=PATIENCE_S) == 0


def test_who_cannot_be_reached_for_long_is_left_to_another() -> None:
    scene = Scene()
    assert scene.look(OTHER) == 0
    assert scene.look(OTHER, after_s=PATIENCE_S - 0.1) == 0
    assert scene.look(OTHER, after_s=0.1) == 1


def test_a_short_interruption_is_none() -> None:
    scene = Scene()
    scene.look(OTHER)
    scene.look(OTHER, THIRD, after_s=PATIENCE_S)
    assert scene.look(OTHER, after_s=0.1) == 0
    assert scene.look(OTHER, after_s=PATIENCE_S - 0.1) == 0


def test_it_is_tried_again_and_again_but_seldom() -> None:
    """Nobody may be there who could lead; and who is out of everybody's reach is so for long."""
    scene = Scene()
    scene.replica.has_heir = False
    scene.look(OTHER)
    assert scene.look(OTHER, after_s=PATIENCE_S) == 1
    assert scene.look(OTHER, after_s=PAUSE_S - 1) == 1
    assert scene.look(OTHER, after_s=1) == 2


def test_who_does_not_lead_gives_nothing_away() -> None:
    scene = Scene()
    scene.replica.is_leader = False
    scene.look(OTHER)
    assert scene.look(OTHER, after_s=2 * PATIENCE_S) == 0
    scene.replica.is_leader = True
    assert scene.look(OTHER) == 0, "it is counted from when it leads"


def test_whom_everybody_knows_goes_on_and_gives_way_once_that_has_changed() -> None:
    """Its domain has taken another CA, and somebody was away."""
    scene = Scene()
    scene.is_unknown = False
    assert scene.look(OTHER) == 0
    assert scene.look(OTHER, after_s=2 * PATIENCE_S) == 0
    scene.is_unknown = True
    assert scene.look(OTHER, after_s=PATIENCE_S) == 0
    assert scene.look(OTHER, after_s=PATIENCE_S) == 1
