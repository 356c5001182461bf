"""For every reason that deciding gives: the step, what was looked at, and what would change it.

That an explanation never differs from the decision is a property (tests/property/core).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import typer

from quorate.cli.app import app
from quorate.core import keys, state
from quorate.core.decision import DecisionRequest
from quorate.core.explaining import explain, explain_lease, holder_of, under, unseen
from quorate.core.explanation import Answer, Explanation, Question, Role, Step
from quorate.core.limits import MAX_EDGES_PER_PAIR, MAX_GRANTS_PER_EXECUTOR_AND_ISSUER
from quorate.core.outcome import Deny, Permit, Reason
from quorate.core.records import BY_BALLOT, Kind
from quorate.core.remedies import Case, remedy
from quorate.core.status import Status
from quorate.testing.builders import grant_body, narrow_body, trust_body

BANK, CLINIC = "bank.example", "clinic.example"
AGENT = "spiffe://clinic.example/agent/claims"
ACTION = "payments.read"
RESOURCE = "//bank.example/accounts/7"


def why(world: Any, *parents: str, **changes: str) -> Explanation:
    request = DecisionRequest(
        **({"executor": AGENT, "action": ACTION, "resource": RESOURCE} | changes)
    )
    return explain(world.view, request, world.now, parents)


def why_held(world: Any, lease: str, **changes: str) -> Explanation:
    asked = {"executor": AGENT, "action": "", "resource": ""} | changes
    return explain_lease(world.view, lease, **asked, ledger_time=world.now)


def decided(explanation: Explanation) -> Step:
    assert isinstance(explanation.decision, Deny)
    step = explanation.decided
    assert step is not None
    assert step.denied == explanation.decision
    return step


# -- acts ----------------------------------------------------------------------------------------


def test_a_permit_shows_the_chain_that_led_there(trusted: Any) -> None:
    told = why(trusted)
    assert isinstance(told.decision, Permit)
    assert [step.question for step in told.steps] == [
        Question.EXECUTOR,
        Question.HOME,
        Question.ATTESTATION,
        Question.CONTAINED,
        Question.OWNER,
        Question.FROZEN,
        Question.ACTION,
        Question.TRUST,
        Question.GRANT,
        Question.POLICY,
    ]
    assert {step.answer for step in told.steps} == {Answer.PASSED}
    things = [thing for step in told.steps for thing in step.things]
    assert [(thing.kind, thing.id, thing.status) for thing in things] == [
        ("executor", AGENT, "active"),
        ("domain", CLINIC, "active"),
        ("domain", BANK, "active"),
        ("trust", f"{BANK}/edge", "active"),
        ("grant", f"{BANK}/grant", "active"),
    ]
    assert [thing.changed for thing in things] == [1, 0, 0, 2, 3]
    assert {thing.role for thing in things} == {Role.RELIED_ON}
    assert things[-1].note == "leases given: 0"


def suspend_by_ballot(world: Any) -> None:
    bank = world.view.domain(BANK)
    world_state = replace(bank, status=Status.SUSPENDED, suspended_by=BY_BALLOT)
    state.save_domain(world.store, world_state)


def expel(world: Any) -> None:
    bank = world.view.domain(BANK)
    state.save_domain(world.store, replace(bank, status=Status.REVOKED))


def act(issuer: str, kind: str, **body: Any) -> Callable[[Any], None]:
    return lambda world: world.must(issuer, kind, body)


def exhaust(world: Any) -> None:
    narrow_grant(world, max_uses=1)
    assert world.acquire().accepted


def crowd(world: Any) -> None:
    narrow_grant(world, max_concurrent=1)
    assert world.acquire().accepted


def expire(world: Any) -> None:
    narrow_grant(world, not_after=world.now + 1)
    world.now += 1


def narrow_grant(world: Any, **changes: Any) -> None:
    world.must(BANK, "grant.revoke", {"grant": "grant"})
    world.must(BANK, "grant.issue", grant_body("other", AGENT, ["//bank.example/*"], **changes))


ISSUE = f"grant issue NAME {AGENT} --action {ACTION} --resource {RESOURCE}"
DENIALS: list[tuple[Callable[[Any], None] | dict[str, str], Reason, Question, str, str]] = [
    (
        {"executor": f"{AGENT}-2"},
        Reason.UNKNOWN_EXECUTOR,
        Question.EXECUTOR,
        f"executor register {AGENT}-2",
        CLINIC,
    ),
    (
        act(CLINIC, "executor.suspend", executor=AGENT),
        Reason.EXECUTOR_SUSPENDED,
        Question.EXECUTOR,
        f"executor reinstate {AGENT}",
        CLINIC,
    ),
    (
        act(CLINIC, "executor.revoke", executor=AGENT),
        Reason.EXECUTOR_REVOKED,
        Question.EXECUTOR,
        "executor register ANOTHER",
        CLINIC,
    ),
    (
        act(CLINIC, "domain.suspend", domain=CLINIC),
        Reason.DOMAIN_SUSPENDED,
        Question.HOME,
        "domain reinstate",
        CLINIC,
    ),
    (
        act(BANK, "domain.suspend", domain=BANK),
        Reason.DOMAIN_SUSPENDED,
        Question.OWNER,
        "domain reinstate",
        BANK,
    ),
    (
        suspend_by_ballot,
        Reason.DOMAIN_SUSPENDED,
        Question.OWNER,
        f"proposal open reinstate {BANK}",
        BY_BALLOT,
    ),
    (expel, Reason.DOMAIN_REVOKED, Question.OWNER, "", ""),
    (
        {"resource": "//port.example/x"},
        Reason.UNKNOWN_DOMAIN,
        Question.OWNER,
        "proposal open admit DESCRIPTOR",
        BY_BALLOT,
    ),
    ({"resource": "bank.example"}, Reason.UNKNOWN_DOMAIN, Question.OWNER, "", ""),
    (
        act(BANK, "resources.freeze", actions=["payments.pay"]),
        Reason.FROZEN,
        Question.FROZEN,
        "resources thaw",
        BANK,
    ),
    (
        lambda world: world.agree("federation.freeze", {"actions": []}),
        Reason.FROZEN,
        Question.FROZEN,
        "proposal open thaw",
        BY_BALLOT,
    ),
    ({"action": "*"}, Reason.NO_GRANT, Question.ACTION, "", ""),
    (
        act(BANK, "trust.close", edge="edge"),
        Reason.NO_TRUST,
        Question.TRUST,
        f"trust open NAME --trustee {CLINIC} --action {ACTION} --resource {RESOURCE}",
        BANK,
    ),
    (
        lambda world: world.must(
            BANK, "trust.narrow", narrow_body("edge", ["//bank.example/vault/*"])
        ),
        Reason.NO_TRUST,
        Question.TRUST,
        f"trust open NAME --trustee {CLINIC} --action {ACTION} --resource {RESOURCE}",
        BANK,
    ),
    (
        {"resource": "//bank.example/vault"},
        Reason.NO_GRANT,
        Question.GRANT,
        f"grant issue NAME {AGENT} --action {ACTION} --resource //bank.example/vault",
        BANK,
    ),
    (
        act(BANK, "grant.suspend", grant="grant"),
        Reason.GRANT_SUSPENDED,
        Question.GRANT,
        "grant reinstate grant",
        BANK,
    ),
    (act(BANK, "grant.revoke", grant="grant"), Reason.GRANT_REVOKED, Question.GRANT, ISSUE, BANK),
    (expire, Reason.GRANT_EXPIRED, Question.GRANT, ISSUE, BANK),
    (exhaust, Reason.USES_EXHAUSTED, Question.GRANT, ISSUE, BANK),
    (crowd, Reason.CONCURRENCY_LIMIT, Question.GRANT, "lease release LEASE", CLINIC),
    (
        act(CLINIC, "policy.publish", text="forbid (principal, action, resource);"),
        Reason.POLICY_FORBIDS,
        Question.POLICY,
        "policy publish FILE",
        CLINIC,
    ),
    (
        lambda world: world.agree(
            "federation.set_policy",
            {"text": "permit (principal, action, resource) when { context.hops == 9 };"},
        ),
        Reason.NO_POLICY_PERMITS,
        Question.POLICY,
        "proposal open policy FILE",
        BY_BALLOT,
    ),
    (
        act(
            BANK,
            "policy.publish",
            text="permit (principal, action, resource) when "
            "{ 9223372036854775807 + context.hops > 0 };",
        ),
        Reason.POLICY_BROKEN,
        Question.POLICY,
        "policy publish FILE",
        BANK,
    ),
]


@pytest.mark.parametrize(
    ("change", "reason", "question", "command", "signer"),
    DENIALS,
    ids=[f"{row[1]}-{row[2]}-{number}" for number, row in enumerate(DENIALS)],
)
def test_each_denial_of_an_act_says_what_would_change_it(  # noqa: PLR0917
    trusted: Any,
    change: Any,
    reason: Reason,
    question: Question,
    command: str,
    signer: str,
) -> None:
    changes = change if isinstance(change, dict) else {}
    if not changes:
        change(trusted)
    told = why(trusted, **changes)
    step = decided(told)
    assert (told.decision.reason, step.question) == (reason, question)
    assert step.remedy is not None
    assert step.remedy.command.removeprefix("quorate ") == command
    assert step.remedy.signer == signer
    assert step.remedy.sentence
    place = told.steps.index(step)
    assert {each.answer for each in told.steps[:place]} <= {Answer.PASSED}
    assert {each.answer for each in told.steps[place + 1 :]} <= {Answer.NOT_ASKED}
    parses(step.remedy.command)


def parses(command: str) -> None:
    """The program takes the command, with the organisation that it is given to."""
    if not command:
        return
    words = shlex.split(command)
    assert words.pop(0) == "quorate"
    found: Any = typer.main.get_command(app)
    while hasattr(found, "get_command"):
        context = found.make_context("quorate", [], resilient_parsing=True)
        found = found.get_command(context, words.pop(0))
    where = "--client" if command.startswith("quorate lease") else "--org"
    found.make_context(found.name, [*words, where, "."])


def test_what_is_done_as_advised_is_permitted(trusted: Any) -> None:
    """The advice is followed, step by step, from nothing to a permit."""
    trusted.must(BANK, "grant.suspend", {"grant": "grant"})
    trusted.must(BANK, "trust.close", {"edge": "edge"})
    trusted.must(CLINIC, "executor.suspend", {"executor": AGENT})
    trusted.must(BANK, "resources.freeze", {"actions": []})
    trusted.agree("federation.freeze", {"actions": ["other"]})
    followed = []
    for _ in range(6):
        step = why(trusted).decided
        if step is None:
            break
        assert step.remedy is not None
        words = shlex.split(step.remedy.command)[1:]
        followed.append(" ".join(words[:2]))
        do_as_advised(trusted, step.remedy.signer, words)
    mended = ["proposal open", "resources thaw", "trust open", "grant reinstate"]
    assert followed == ["executor reinstate", *mended]
    assert isinstance(why(trusted).decision, Permit)


def do_as_advised(world: Any, signer: str, words: list[str]) -> None:
    kind, verb, *rest = words
    if kind == "trust":
        options = dict(zip(rest[1::2], rest[2::2], strict=True))
        body = trust_body("new", options["--trustee"], [options["--resource"]])
        world.must(signer, "trust.open", body | {"actions": [options["--action"]]})
    elif kind == "proposal":
        world.agree(f"federation.{rest[0]}", {})
    elif kind == "resources":
        world.must(signer, f"{kind}.{verb}", {})
    else:
        world.must(signer, f"{kind}.{verb}", {kind: rest[0]})


def test_edges_that_do_not_do_say_why(trusted: Any) -> None:
    trusted.must(BANK, "trust.open", trust_body("a", CLINIC, ["//bank.example/*"], actions=["x"]))
    trusted.must(BANK, "trust.open", trust_body("b", CLINIC, ["//bank.example/vault"]))
    step = why(trusted).steps[7]
    assert [(thing.id, thing.role, thing.note) for thing in step.things] == [
        (f"{BANK}/a", Role.PASSED_OVER, "for other actions"),
        (f"{BANK}/b", Role.PASSED_OVER, "for other resources"),
        (f"{BANK}/edge", Role.RELIED_ON, ""),
    ]
    assert step.things[0].failure == Deny(Reason.NO_TRUST, f"{BANK}/a")
    trusted.must(BANK, "trust.close", {"edge": "edge"})
    assert len(decided(why(trusted)).things) == 2
    for name in "ab":
        trusted.must(BANK, "trust.close", {"edge": name})
    assert decided(why(trusted)).note == f"{BANK} has no open edge to {CLINIC}"


def test_grants_that_do_not_do_say_why(world: Any) -> None:
    world.must(CLINIC, "executor.register", {"executor": AGENT})
    world.must(BANK, "trust.open", trust_body("e", CLINIC, ["//bank.example/*"]))
    assert decided(why(world)).note == f"{BANK} has granted the executor nothing"
    for name, changes in (("a", {"actions": ["x"]}), ("b", {}), ("c", {"max_uses": 3})):
        world.must(BANK, "grant.issue", grant_body(name, AGENT, ["//bank.example/*"], **changes))
    world.must(BANK, "grant.suspend", {"grant": "b"})
    assert world.acquire().accepted
    step = why(world).steps[-2]
    assert [(thing.id, thing.failure, thing.note) for thing in step.things] == [
        (f"{BANK}/a", Deny(Reason.NO_GRANT, f"{BANK}/a"), "for other actions"),
        (f"{BANK}/b", Deny(Reason.GRANT_SUSPENDED, f"{BANK}/b"), "leases given: 0"),
        (f"{BANK}/c", None, "leases given: 1 of 3"),
    ]


def test_the_grant_nearest_to_a_permit_is_told_whichever_is_tried_first(world: Any) -> None:
    world.must(CLINIC, "executor.register", {"executor": AGENT})
    world.must(BANK, "trust.open", trust_body("e", CLINIC, ["//bank.example/*"]))
    for name, changes in (("a", {}), ("b", {"max_concurrent": 1}), ("c", {})):
        world.must(BANK, "grant.issue", grant_body(name, AGENT, ["//bank.example/*"], **changes))
        if not changes:
            world.must(BANK, "grant.suspend", {"grant": name})
    assert world.acquire().accepted
    assert decided(why(world)).denied == Deny(Reason.CONCURRENCY_LIMIT, f"{BANK}/b")


def test_no_more_is_looked_at_than_deciding_does(trusted: Any) -> None:
    for number in range(MAX_EDGES_PER_PAIR - 1):
        body = trust_body(f"e{number}", CLINIC, ["//bank.example/vault"])
        trusted.must(BANK, "trust.open", body)
    for number in range(MAX_GRANTS_PER_EXECUTOR_AND_ISSUER - 1):
        body = grant_body(f"g{number}", AGENT, ["//bank.example/vault"])
        trusted.must(BANK, "grant.issue", body)
    trusted.must(BANK, "grant.revoke", {"grant": "grant"})
    told = why(trusted)
    assert len(told.steps[7].things) == MAX_EDGES_PER_PAIR
    assert len(told.steps[8].things) == MAX_GRANTS_PER_EXECUTOR_AND_ISSUER


def test_parents_are_the_last_question(trusted: Any) -> None:
    parent = str(trusted.acquire().result["id"])
    told = why(trusted, parent)
    assert told.steps[-1].question is Question.PARENTS
    assert [thing.id for thing in told.steps[-1].things] == [parent]
    trusted.lease_act("release", parent)
    step = decided(why(trusted, parent))
    assert step.denied == Deny(Reason.BROKEN_LINEAGE, parent)
    assert step.things[0].failure == Deny(Reason.LEASE_RELEASED, parent)
    assert step.things[0].status == "released"
    missing = decided(why(trusted, "0" * 32)).things[0]
    assert missing.failure == Deny(Reason.UNKNOWN_LEASE, "0" * 32)


# -- leases --------------------------------------------------------------------------------------


def end(act_: str) -> Callable[[Any, str], None]:
    return lambda world, lease: world.lease_act(act_, lease)


def later(world: Any, _lease: str) -> None:
    world.now += 60_000


LEASES: list[tuple[Any, Reason, Question]] = [
    ({"executor": f"{AGENT}-2"}, Reason.NOT_LEASE_HOLDER, Question.LEASE),
    ({"action": "other"}, Reason.LEASE_SCOPE, Question.SCOPE),
    ({"resource": "//bank.example/other"}, Reason.LEASE_SCOPE, Question.SCOPE),
    (end("release"), Reason.LEASE_RELEASED, Question.IN_FORCE),
    (later, Reason.LEASE_EXPIRED, Question.IN_FORCE),
    (
        lambda world, _: world.must(CLINIC, "executor.suspend", {"executor": AGENT}),
        Reason.EXECUTOR_SUSPENDED,
        Question.EXECUTOR,
    ),
    (
        lambda world, _: world.must(BANK, "domain.suspend", {"domain": BANK}),
        Reason.DOMAIN_SUSPENDED,
        Question.OWNER,
    ),
    (
        lambda world, _: world.must(BANK, "trust.close", {"edge": "edge"}),
        Reason.NO_TRUST,
        Question.TRUST,
    ),
    (
        lambda world, _: world.must(BANK, "grant.revoke", {"grant": "grant"}),
        Reason.GRANT_REVOKED,
        Question.GRANT,
    ),
]


@pytest.mark.parametrize(
    ("change", "reason", "question"), LEASES, ids=[f"{row[1]}-{row[2]}" for row in LEASES]
)
def test_each_denial_of_a_lease_says_what_would_change_it(
    trusted: Any, change: Any, reason: Reason, question: Question
) -> None:
    lease = str(trusted.acquire().result["id"])
    changes = change if isinstance(change, dict) else {}
    if not changes:
        change(trusted, lease)
    told = why_held(trusted, lease, **changes)
    step = decided(told)
    assert (told.decision.reason, step.question) == (reason, question)
    assert step.remedy is not None
    assert step.remedy.command
    parses(step.remedy.command)
    place = told.steps.index(step)
    assert {each.answer for each in told.steps[place + 1 :]} <= {Answer.NOT_ASKED}


def test_a_state_that_cannot_be_read_is_denied_where_that_comes_out(trusted: Any) -> None:
    lease = str(trusted.acquire().result["id"])
    key = keys.record(Kind.TRUST, f"{BANK}/edge")
    assert key is not None
    trusted.store.put(key, b"{}")
    for told in (why(trusted), why_held(trusted, lease)):
        assert decided(told).denied == Deny(Reason.INTERNAL)
        assert decided(told).question is Question.TRUST
        assert told.steps[-1].answer is Answer.NOT_ASKED


def test_a_lease_says_how_long_it_still_has(trusted: Any) -> None:
    lease = str(trusted.acquire(ttl_ms=5_000).result["id"])
    trusted.now += 2_000
    told = why_held(trusted, lease)
    assert isinstance(told.decision, Permit)
    assert told.steps[2].note == "expires in 3000 ms, in ledger time"
    trusted.now += 4_000
    assert decided(why_held(trusted, lease)).note == "expired 1000 ms ago, in ledger time"


def test_the_edge_that_a_lease_relies_on_is_told_though_another_would_do(trusted: Any) -> None:
    lease = str(trusted.acquire().result["id"])
    trusted.must(BANK, "trust.open", trust_body("other", CLINIC, ["//bank.example/*"]))
    trusted.must(BANK, "trust.close", {"edge": "edge"})
    step = decided(why_held(trusted, lease))
    assert [(thing.id, thing.status, thing.note) for thing in step.things] == [
        (f"{BANK}/edge", "revoked", "closed")
    ]
    assert step.things[0].changed == len(trusted.entries) - 1


def test_a_lease_of_somebody_else_is_not_described(trusted: Any) -> None:
    lease = str(trusted.acquire().result["id"])
    told = why_held(trusted, lease, executor=f"{AGENT}-2")
    assert [thing.status for step in told.steps for thing in step.things] == [""]
    assert (holder_of(trusted.view, lease), holder_of(trusted.view, "0" * 32)) == (AGENT, "")


# -- nodes, and whatever else --------------------------------------------------------------------


def test_what_the_node_may_not_do_comes_first_and_the_rest_is_told(trusted: Any) -> None:
    told = under(why(trusted), Deny(Reason.INQUORATE))
    assert told.decision == Deny(Reason.INQUORATE)
    assert [step.answer for step in told.steps] == [Answer.FAILED, *[Answer.PASSED] * 10]
    assert under(why(trusted), None).decision == why(trusted).decision
    assert unseen(Deny(Reason.INTERNAL)).decision == Deny(Reason.INTERNAL)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_something_to_be_done_about_it(reason: Reason) -> None:
    for thing in ("", BANK, "//x", "\x00'$(x)\n", "z" * 1_000):
        for case in (Case(), Case(thing, thing, thing, thing, thing), Case(AGENT, ACTION)):
            advice = remedy(Deny(reason, thing), case)
            assert advice.sentence
            assert shlex.split(advice.command)[:1] in ([], ["quorate"])


def test_odd_text_stays_one_word_of_a_command() -> None:
    odd = "x; rm -rf ~ '$(y)"
    advice = remedy(Deny(Reason.NO_TRUST, BANK), Case(AGENT, odd, odd, BANK))
    assert shlex.split(advice.command)[-1] == odd
