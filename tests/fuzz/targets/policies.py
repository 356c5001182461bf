"""Policies, which the engine reads, and cases for them.

The engine is native code: what makes it run out of stack, or panic, ends this process, and is found
as that.
"""

from __future__ import annotations

from typing import Final

from tests.fuzz.harness import attempt, target

from quorate.cli.policy_cases import parse_cases
from quorate.core.cedar import BROKEN, Ruling, Subject, check_set, check_text, rule
from quorate.core.errors import MalformedError

SUBJECT: Final = Subject(
    executor="spiffe://clinic.example/agent/claims",
    action="payments.read",
    resource="//bank.example/accounts/7",
    grant="bank.example/grant",
    home="clinic.example",
    owner="bank.example",
    delegations=0,
    hops=1,
    context=("ticket=OPS-1",),
)


@target("quorate.core.cedar", bounds=None)
def policies(data: bytes) -> None:
    """An input is a set."""
    text = data.decode("utf-8", "replace")

    def is_taken(check: object) -> bool:
        assert callable(check)
        return attempt(MalformedError, lambda: check(text) is None) is not None

    is_shown, is_set = is_taken(check_text), is_taken(check_set)
    assert is_shown or not is_set
    found = rule(text, SUBJECT)
    assert found == rule(text, SUBJECT)
    if not is_shown:
        assert found == BROKEN
    if found.permits:
        assert not found.is_broken
        assert found.by
    if is_set and is_taken(lambda _: check_set(f"{text}\n//")):
        assert rule(f"{text}\n//", SUBJECT) == found, "a comment says nothing"
    forbidding = f"{text}\nforbid (principal, action, resource);"
    if is_set and is_taken(lambda _: check_set(forbidding)):
        assert not rule(forbidding, SUBJECT).permits, "nothing takes a policy out of a set"


@target("quorate.cli.policy_cases")
def policy_cases(data: bytes) -> None:
    in_json = attempt(MalformedError, lambda: parse_cases(data, is_json=True))
    in_toml = attempt(MalformedError, lambda: parse_cases(data, is_json=False))
    for cases in (in_json, in_toml):
        for case in cases or ():
            ruling = rule("permit (principal, action, resource);", case.subject)
            assert ruling == Ruling(permits=True, by=("policy0",))
