"""The engine: which texts it is shown, what it says, and that nothing of it ends a node."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cedarpy
import pytest

from quorate.core import cedar
from quorate.core.cedar import BROKEN, Ruling, Subject, check_set, check_text, rule
from quorate.core.errors import MalformedError
from quorate.core.limits import (
    MAX_POLICIES_PER_SET,
    MAX_POLICY_BYTES,
    MAX_POLICY_NESTING,
    MAX_POLICY_OPERATORS,
)

SUBJECT = Subject(
    executor="spiffe://acme.example/agent/payments",
    action="payments.transfer",
    resource="//bank.example/accounts/payroll",
    grant="bank.example/payroll",
    home="acme.example",
    owner="bank.example",
    delegations=1,
    hops=2,
    context=("reason=", "ticket=OPS-1=2"),
)
PERMIT = "permit (principal, action, resource)"


def when(condition: str) -> str:
    return f"{PERMIT} when {{ {condition} }};"


# -- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "condition",
    [
        'principal == Executor::"spiffe://acme.example/agent/payments"',
        'principal.id == "spiffe://acme.example/agent/payments"',
        'principal.path == "/agent/payments"',
        'principal.domain == Domain::"acme.example"',
        'principal in Domain::"acme.example"',
        'resource == Resource::"//bank.example/accounts/payroll"',
        'resource.id like "//bank.example/*"',
        'resource.path == "/accounts/payroll"',
        'resource.owner == Domain::"bank.example"',
        'resource in Domain::"bank.example"',
        'action == Action::"lease"',
        'context.action like "payments.*"',
        '["payments.transfer", "payments.read"].contains(context.action)',
        "context.cross_domain",
        "context.delegations == 1",
        "context.hops == 2",
        'context.grant == "bank.example/payroll"',
        'context.given.hasTag("ticket") && context.given.getTag("ticket") == "OPS-1=2"',
        'context.given.hasTag("reason") && context.given.getTag("reason") == ""',
        '!context.given.hasTag("other")',
    ],
)
def test_a_policy_can_ask_about_everything_in_the_schema(condition: str) -> None:
    check_set(when(condition))
    assert rule(when(condition), SUBJECT) == Ruling(permits=True, by=("policy0",))
    assert rule(when(f"!({condition})"), SUBJECT) == Ruling(permits=False)


def test_requests_and_entities_are_of_the_schema() -> None:
    """The engine holds them to it where it is told to; in `apply` it is not, for the time."""
    entities = cedarpy.Entities.from_json_str(cedar._entities(SUBJECT), cedar.SCHEMA)
    assert len(entities) > 0
    answer = cedarpy.is_authorized(
        cedar._request(SUBJECT), f"{PERMIT};", json.loads(cedar._entities(SUBJECT)), cedar.SCHEMA
    )
    assert answer.allowed


def test_a_forbid_beats_a_permit_and_says_so_by_name() -> None:
    text = f'@id("all") {PERMIT}; @id("no") forbid (principal, action, resource);'
    assert rule(text, SUBJECT) == Ruling(permits=False, by=("no",))


def test_what_decided_is_told_in_order_whatever_the_order_of_the_policies() -> None:
    parts = [f'@id("{name}") {PERMIT};' for name in ("c", "a", "b")]
    parts.append('@id("z") forbid (principal, action, resource) when { context.hops == 3 };')
    for order in itertools.permutations(parts):
        assert rule("\n".join(order), SUBJECT) == Ruling(permits=True, by=("a", "b", "c"))


def test_a_policy_that_cannot_be_evaluated_breaks_its_set_wherever_it_stands() -> None:
    """The engine itself passes over it: a `forbid` that fails would forbid nothing."""
    broken = "forbid (principal, action, resource) when { 9223372036854775807 + context.hops > 0 };"
    check_set(f"{PERMIT}; {broken}")
    for text in (f"{PERMIT}; {broken}", f"{broken} {PERMIT};"):
        assert rule(text, SUBJECT) == BROKEN


# -- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "nothing": ("", "holds no policy"),
    "a comment": ("// nothing\n", "holds no policy"),
    "an end that is missing": (PERMIT, "ends within a policy"),
    "a bracket too many": (f"{PERMIT} when {{ true }} }};", "closes nothing"),
    "no policy": ("what is this;", "unexpected token"),
    "an entity of no type": ('permit (principal == User::"a", action, resource);', "User"),
    "an action that there is not": (
        'permit (principal, action == Action::"payments.transfer", resource);',
        "unrecognized action",
    ),
    "an attribute that there is not": (when("context.time > 3"), "time"),
    "a type that is another": (when("context.hops"), "Bool"),
    "a tag that may be missing": (when('context.given.getTag("a") == "b"'), "safety"),
    "a template": ("permit (principal == ?principal, action, resource);", r"'\?'"),
    "ip": (when('ip("127.0.0.1").isLoopback()'), "ip"),
    "decimal": (when('decimal("1.0") == decimal("1.0")'), "decimal"),
    "datetime": (when('datetime("2024-10-15") < datetime("2025-10-15")'), "datetime"),
    "a method of no type here": (when('context.action.isIpv4("x")'), "isIpv4"),
    "text over two lines": (when('context.action == "a\nb"'), "line 1"),
    "a carriage return": (f"{PERMIT};\r", "with lines that end"),
    "another alphabet": (f"// \u00fc\n{PERMIT};", "ASCII"),
    "a name that is none": (f'@id("a b") {PERMIT};', "name"),
    "a name twice": (f'@id("a") {PERMIT}; @id("a") {PERMIT};', "two policies"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_set_of_policies_is_refused_and_permits_nothing(case: str) -> None:
    text, problem = REFUSED[case]
    with pytest.raises(MalformedError, match=problem):
        check_set(text)
    assert not rule(text, SUBJECT).permits


def limits() -> Iterator[tuple[str, str, str]]:
    """What is just let through, and what is just too much, as conditions of one policy."""
    inner = MAX_POLICY_NESTING - 1  # the condition itself has brackets
    for left, right, core in (("(", ")", "true"), ("!(", ")", "true"), ("[", "]", "1")):
        head = "1 == " if left == "[" else ""
        yield (
            f"nested {left}",
            head + left * inner + core + right * inner,
            head + left * (inner + 1) + core + right * (inner + 1),
        )
    left = MAX_POLICY_OPERATORS - 3  # the scope's bracket, `when` and its brace
    for name, condition in {
        "and": lambda n: "&&".join(["true"] * (n + 1)),
        "or": lambda n: "||".join(["false"] * (n + 1)),
        "plus": lambda n: "+".join(["1"] * n) + " == 1",
        "times": lambda n: "*".join(["1"] * n) + " == 1",
        "if": lambda n: "if true then true else " * n + "true",
        "dots": lambda n: "context" + ".a" * n,
        "has": lambda n: "context has a" + ".a" * (n - 1),
        "more conditions": lambda n: "true" + " } when { true" * (n // 2),
        "brackets and plus": lambda n: (
            "(" * inner + "+".join(["1"] * (n - inner)) + ")" * inner + " == 1"
        ),
    }.items():
        yield name, condition(left), condition(left + 1)


LIMITS = {name: (most, more) for name, most, more in limits()}


@pytest.mark.parametrize("case", LIMITS)
def test_a_text_that_could_exhaust_the_stack_is_not_shown_to_the_engine(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, more = map(when, LIMITS[case])
    check_text(most)
    monkeypatch.setattr(cedar, "_guarded", lambda _ask: pytest.fail("it was shown"))
    with pytest.raises(MalformedError):
        check_text(more)
    with pytest.raises(MalformedError):
        check_set(more)
    assert rule(more, SUBJECT) == BROKEN


def test_brackets_and_operators_within_text_and_comments_are_none() -> None:
    deep = "(" * 500 + "&&" * 500
    check_set(f'// {deep}\n@note("{deep}") {when(f"""context.action == "{deep}" """)} // {deep}')
    hidden = '"\\"" == "' + "(" * 500 + '"'
    check_set(when(hidden))


@pytest.mark.parametrize("end", ["\r", "\v", "\f", "\0", "\x1c", "\x7f", "\x85", "\u2028"])
def test_nothing_can_hide_behind_what_ends_a_line_for_the_engine_alone(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A carriage return ends the engine's comments: what follows it would be measured by nobody,
    and a thousand brackets there end the process."""
    text = f"{PERMIT}; // a comment{end}{PERMIT};\n"
    monkeypatch.setattr(cedar, "_guarded", lambda _ask: pytest.fail("it was shown"))
    with pytest.raises(MalformedError):
        check_text(text)
    with pytest.raises(MalformedError):
        check_text(f'{PERMIT} when {{ context.action == "{end}" }};')
    assert rule(text, SUBJECT) == BROKEN


def test_a_set_of_which_the_engine_reads_more_than_was_measured_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = f"{PERMIT}; {PERMIT};"
    check_set(text)
    cedar._parsed.cache_clear()
    monkeypatch.setattr(cedar, "_measured", lambda _text: 1)
    with pytest.raises(MalformedError, match="otherwise"):
        check_set(text)
    assert rule(text, SUBJECT) == BROKEN
    cedar._parsed.cache_clear()


@pytest.mark.parametrize("text", [f"{PERMIT};" * (MAX_POLICIES_PER_SET + 1), "/" * 9_000])
def test_a_set_has_limits(text: str) -> None:
    with pytest.raises(MalformedError):
        check_text(text)
    check_set(f"{PERMIT};" * MAX_POLICIES_PER_SET)
    check_set(f"{PERMIT}; //".ljust(MAX_POLICY_BYTES, "x"))
    with pytest.raises(MalformedError):
        check_text(f"{PERMIT}; //".ljust(MAX_POLICY_BYTES + 1, "x"))


ASK_ALL = """
import json, sys, threading
from quorate.core.cedar import Subject, check_set, rule
from quorate.core.errors import MalformedError

def ask():
    for text in json.load(sys.stdin):
        try:
            check_set(text)
            problem = ""
        except MalformedError as error:
            problem = str(error)
        subject = Subject(*json.loads(sys.argv[1])[:-1], tuple(json.loads(sys.argv[1])[-1]))
        ruling = rule(text, subject)
        print(json.dumps([problem, ruling.permits, ruling.is_broken, ruling.by]))

threading.stack_size(int(sys.argv[2]))
thread = threading.Thread(target=ask)
thread.start()
thread.join()
"""


def answers(texts: list[str], stack_bytes: int, seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK_ALL, json.dumps(SUBJECT), str(stack_bytes)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_answer_is_the_same_in_every_process_and_on_an_eighth_of_the_stack() -> None:
    """On a stack that is too small the engine gives up, or ends the process. The main thread has
    8 MiB, unless somebody has made it less (`quorate.node.engine`)."""
    texts = [when(most) for most, _ in LIMITS.values()] + [text for text, _ in REFUSED.values()]
    texts += [f'@id("p{n}") {PERMIT};' * 2 for n in range(3)]
    told = {answers(texts, size, seed) for size in (1 << 20, 8 << 20) for seed in ("0", "7", "99")}
    assert len(told) == 1
    assert sum('"permits"' in line or "true" in line for line in told.pop().splitlines()) > 5


# -- an engine that fails ------------------------------------------------------------------------


class PanicException(BaseException):  # as the engine's own is called
    """As the engine's: no `except Exception` sees it."""


@pytest.mark.parametrize("error", [PanicException("boom"), ValueError("odd"), RecursionError()])
@pytest.mark.parametrize("place", ["is_authorized", "validate_policies"])
def test_an_engine_that_fails_denies_and_ends_nothing(
    place: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cedarpy, place, fail)
    if place == "is_authorized":
        assert rule(f"{PERMIT};", SUBJECT) == BROKEN
    else:
        with pytest.raises(MalformedError):
            check_set(f"{PERMIT};")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_what_is_not_the_engines_goes_its_way(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cedarpy, "is_authorized", fail)
    with pytest.raises(type(error)):
        rule(f"{PERMIT};", SUBJECT)


def test_an_answer_that_is_none_permits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = cedarpy.AuthzResult({"decision": "NoDecision", "diagnostics": {}})
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_: odd)
    assert rule(f"{PERMIT};", SUBJECT) == BROKEN
