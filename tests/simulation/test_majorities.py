"""Which disks the simulator may take, and which voters go meanwhile: who is left can repair it."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from quorate.testing.simulation.majorities import Majorities, Voters

NOBODY: Voters = frozenset()


def federation(
    patch: pytest.MonkeyPatch,
    *possible: str,
    lost: str = "",
    pending: Iterable[tuple[str, str]] = (),
) -> tuple[Majorities, dict[str, Any]]:
    """possible: what may be in force, a letter for each voter. pending: who goes, and who comes."""
    machines = {
        name: SimpleNamespace(node_id=name, is_on=True, is_gone=False, is_forgetful=name in lost)
        for name in "ABCDEF"
    }
    wanted = [(frozenset(going), frozenset(coming)) for going, coming in pending]
    rule = Majorities(cast(Any, list(machines.values())), cast(Any, None), lambda: wanted)
    patch.setattr(rule, "_possible", lambda: [frozenset(voters) for voters in possible])
    return rule, machines


def who_may_be_lost(patch: pytest.MonkeyPatch, *possible: str, **known: Any) -> str:
    rule, machines = federation(patch, *possible, **known)
    return "".join(name for name, machine in machines.items() if rule.may_lose(machine))


@pytest.mark.parametrize(
    ("possible", "known", "may"),
    [
        (["ABC"], {}, "ABCDEF"),
        (["AB"], {}, "CDEF"),
        (["ABC"], {"lost": "A"}, "DEF"),
        (["ABCDE"], {"lost": "A"}, "BCDEF"),
        # C is replaced by D: whoever else is lost, a step may have no majority.
        (["ABC", "ABD"], {}, "CDEF"),
        (["ABC", "AB"], {}, "CDEF"),
        (["ABC"], {"pending": [("C", "")]}, "CDEF"),
        (["ABC"], {"pending": [("", "D")]}, "ABCDEF"),
        (["ABC"], {"lost": "A", "pending": [("", "D")]}, "EF"),
    ],
)
def test_a_majority_keeps_its_disks(
    monkeypatch: pytest.MonkeyPatch, possible: list[str], known: dict[str, Any], may: str
) -> None:
    assert who_may_be_lost(monkeypatch, *possible, **known) == may.replace(
        "".join(known.get("lost", "")), ""
    )


def test_nobody_goes_who_is_needed_to_make_others_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, _ = federation(monkeypatch, "ABC", lost="A")
    assert not rule.may_change(frozenset("B"), NOBODY)
    assert rule.may_change(frozenset("A"), NOBODY)
    assert rule.may_change(NOBODY, frozenset("D"))
    assert rule.has_lost
    whole, _ = federation(monkeypatch, "ABC")
    assert whole.may_change(frozenset("BC"), NOBODY)
    assert not whole.has_lost
