"""An explanation never differs from the decision that it explains, whatever the state; and a ledger
that is decided again is the same."""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.core.test_apply import (
    ACTIONS,
    EXECUTORS,
    NOBODYS_LEASE,
    RESOURCES,
    Step,
    governing,
    leasing,
    opening,
    pauses,
    sign,
    steps,
    substance,
)

from quorate.core import keys
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.entries import Entry
from quorate.core.entries import parse as parse_entry
from quorate.core.explaining import explain, explain_lease
from quorate.core.explanation import Answer, Explanation, Role
from quorate.core.leasing import broken_parent
from quorate.core.outcome import Decision, Deny, Permit
from quorate.core.records import Kind
from quorate.core.recounting import recount
from quorate.core.replaying import Replay
from quorate.core.state import StateView
from quorate.testing.builders import Federation, Ledger

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
DOMAINS = ("bank.example", "clinic.example", "depot.example")
ODD = ("", "*", "\x00", "bank.example", "//bank.example", "x" * 300)


@st.composite
def scripts(draw: st.DrawFn) -> Ledger:
    """A ledger with some life in it, leases among it."""
    ledger = Ledger(Federation.build(DOMAINS))
    if draw(st.integers(0, 3)):
        opening(ledger)
    for step in draw(st.lists(steps, min_size=1, max_size=12)):
        ledger.now += draw(pauses)
        run(ledger, step)
        lease = draw(st.sampled_from([*(each.id for each in ledger.view.leases()), NOBODYS_LEASE]))
        run(ledger, draw(leasing(draw(st.sampled_from(("renew", "release"))), lease)))
        if draw(st.booleans()):
            run(ledger, draw(governing()))
    ledger.now += draw(pauses)
    return ledger


def run(ledger: Ledger, step: Step) -> None:
    ledger.apply(sign(ledger, step))


def is_whole(explanation: Explanation, decision: Decision) -> None:
    """Says what was decided, and by which step."""
    assert explanation.decision == decision
    answers = [step.answer for step in explanation.steps]
    failed = answers.index(Answer.FAILED) if Answer.FAILED in answers else len(answers)
    assert answers[:failed] == [Answer.PASSED] * failed
    assert answers[failed + 1 :] == [Answer.NOT_ASKED] * len(answers[failed + 1 :])
    if isinstance(decision, Permit):
        assert explanation.decided is None
        told = [
            f"{thing.kind}:{thing.id}"
            for step in explanation.steps
            for thing in step.things
            if thing.role is Role.RELIED_ON and thing.kind != Kind.LEASE
        ]
        assert set(told) == set(decision.depends_on)
    else:
        step = explanation.decided
        assert step is not None
        assert step.denied == decision
        assert step.remedy is not None
        assert step.remedy.sentence
    for step in explanation.steps:
        for thing in step.things:
            assert (thing.role is Role.RELIED_ON) == (thing.failure is None)


def every_explanation(view: StateView, now: int, executor: str, action: str, resource: str) -> None:
    request = DecisionRequest(executor, action, resource)
    is_whole(explain(view, request, now), decide(view, request, now))


@SETTINGS
@given(ledger=scripts())
def test_explaining_an_act_is_deciding_it(ledger: Ledger) -> None:
    for executor, action, resource in product(EXECUTORS, ACTIONS, RESOURCES):
        every_explanation(ledger.view, ledger.now, executor, action, resource)


@SETTINGS
@given(ledger=scripts(), data=st.data())
def test_explaining_an_odd_request_is_deciding_it(ledger: Ledger, data: st.DataObject) -> None:
    odd = st.sampled_from(ODD) | st.text()
    executor = data.draw(odd | st.sampled_from(EXECUTORS))
    action, resource = data.draw(odd), data.draw(odd | st.sampled_from(RESOURCES))
    every_explanation(ledger.view, ledger.now, executor, action, resource)
    every_explanation(ledger.view, ledger.now, executor, "pay", resource)


@SETTINGS
@given(ledger=scripts(), data=st.data())
def test_explaining_a_lease_is_checking_it(ledger: Ledger, data: st.DataObject) -> None:
    leases = [*ledger.view.leases(), None]
    for lease in leases:
        lease_id = NOBODYS_LEASE if lease is None else lease.id
        holder = EXECUTORS[0] if lease is None else lease.executor
        executor = data.draw(st.sampled_from([holder] * 4 + [EXECUTORS[-1]]))
        action = data.draw(st.sampled_from(["", "", *ACTIONS]))
        resource = data.draw(st.sampled_from(["", "", *RESOURCES]))
        now = ledger.now + data.draw(pauses)
        asked = (lease_id, executor, action, resource, now)
        is_whole(explain_lease(ledger.view, *asked), check_lease(ledger.view, *asked)[0])


@SETTINGS
@given(ledger=scripts(), data=st.data())
def test_parents_are_asked_about_as_acquiring_does(ledger: Ledger, data: st.DataObject) -> None:
    known = [each.id for each in ledger.view.leases()]
    parents = data.draw(st.lists(st.sampled_from([*known, NOBODYS_LEASE]), max_size=3))
    request = DecisionRequest(EXECUTORS[0], "pay", RESOURCES[0])
    expected = decide(ledger.view, request, ledger.now)
    if isinstance(expected, Permit):
        expected = broken_parent(ledger.view, parents, ledger.now) or expected
    assert explain(ledger.view, request, ledger.now, parents).decision == expected


@SETTINGS
@given(ledger=scripts(), data=st.data())
def test_a_damaged_state_is_explained_as_it_is_decided(ledger: Ledger, data: st.DataObject) -> None:
    prefixes = tuple(keys.RECORDS.values())
    records = [key for key, _ in ledger.store.items() if key[:1] in prefixes]
    for key in data.draw(st.lists(st.sampled_from(records), min_size=1, max_size=3)):
        ledger.store.put(key, data.draw(st.sampled_from((b"", b"{}", b"\xff"))))
    for executor, resource in product(EXECUTORS, RESOURCES):
        request = DecisionRequest(executor, "pay", resource)
        decision = decide(ledger.view, request, ledger.now)
        assert explain(ledger.view, request, ledger.now).decision == decision
    for data_of in ledger.entries:
        entry = parse_entry(data_of)
        if entry.kind == "lease.acquire" and entry.accepted:
            asked = (entry.thing, EXECUTORS[0], "", "", ledger.now)
            decision, _ = check_lease(ledger.view, *asked)
            assert explain_lease(ledger.view, *asked).decision == decision


def recorded(entry: Entry, explanation: Explanation) -> None:
    if entry.reason is None:
        assert isinstance(explanation.decision, Permit)
    else:
        assert explanation.decision == Deny(entry.reason, entry.thing)
    is_known = [step.answer for step in explanation.steps].count(Answer.FAILED)
    assert is_known == (entry.reason is not None)


@SETTINGS
@given(ledger=scripts())
def test_a_ledger_that_is_decided_again_is_the_same(ledger: Ledger) -> None:
    replay = Replay(ledger.federation.parsed_genesis())
    for data in ledger.entries:
        if replay.size:
            entry = parse_entry(data)
            recorded(entry, recount(replay.view, entry))
        assert replay.take(data) == parse_entry(data)
    assert replay.size == len(ledger.entries)
    kept: Any = replay.view._reader
    assert substance(kept) == substance(ledger.store)
