"""Patterns over actions, resources and what executors say: exact, or a prefix and a wildcard.

Owns their syntax, matching, and which is within which. A pattern that is not valid matches nothing
but itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Protocol

from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ATTRIBUTE_CHARS

ANY_ACTION: Final = "*"
_ACTION_WILDCARD: Final = ".*"
_RESOURCE_WILDCARD: Final = "/*"
_EXECUTOR_WILDCARD: Final = "/*"
_TEXT_WILDCARD: Final = "*"
_FIRST_PRINTED: Final = " "
"""Before it there are only control characters."""


class Scope(Protocol):
    """What a pair of lists lets somebody do: each of these actions on each of these resources."""

    @property
    def actions(self) -> tuple[str, ...]: ...

    @property
    def resources(self) -> tuple[str, ...]: ...


def check_action_pattern(text: str) -> None:
    """`payments.transfer`, `payments.*` or `*`."""
    if text == ANY_ACTION:
        return
    ids.check_action(text.removesuffix(_ACTION_WILDCARD))


def check_resource_pattern(text: str) -> None:
    """`//bank.example/accounts/payroll`, `//bank.example/accounts/*` or `//bank.example/*`."""
    pattern_owner(text)


def pattern_owner(pattern: str) -> str:
    """The one domain whose resources the pattern names. Raises MalformedError."""
    if not pattern.endswith(_RESOURCE_WILDCARD):
        return ids.resource_owner(pattern)
    # With a segment in the wildcard's place it must be a resource, and its owner is the pattern's.
    try:
        return ids.resource_owner(pattern[:-1] + "x")
    except MalformedError as error:
        raise MalformedError("must be a resource, or a prefix of one that ends in /*") from error


def action_matches(pattern: str, action: str) -> bool:
    return pattern == ANY_ACTION or _matches(pattern, action, _ACTION_WILDCARD)


def action_listed(patterns: Iterable[str], action: str) -> bool:
    """Whether one of `patterns` matches the action."""
    return any(action_matches(pattern, action) for pattern in patterns)


def resource_matches(pattern: str, resource: str) -> bool:
    return _matches(pattern, resource, _RESOURCE_WILDCARD)


def covers(actions: Iterable[str], resources: Iterable[str], action: str, resource: str) -> bool:
    """Whether one of `actions` matches the action and one of `resources` the resource."""
    return action_listed(actions, action) and any(
        resource_matches(pattern, resource) for pattern in resources
    )


def is_within(pattern: str, wider: str) -> bool:
    """Whether `wider` matches every name that `pattern` matches. Both are valid, and both of
    actions or both of resources.

    Exact, but for an action pattern so long that no name of MAX_ID_CHARS fits it. What starts with
    a prefix begins like it however it goes on, so a wildcard is judged by its text alone.
    """
    if not wider.endswith("*"):
        return pattern == wider
    return pattern.startswith(wider[:-1])


def first_outside(patterns: Iterable[str], wider: Collection[str]) -> str | None:
    """The first of `patterns` that matches a name which none of `wider` does; None: all are within.

    One at a time is enough: as many as MAX_PATTERNS do not match everything below a prefix between
    them unless one does alone.
    """
    return next((each for each in patterns if not any(is_within(each, one) for one in wider)), None)


def scope_outside(scope: Scope, wider: Scope) -> str | None:
    """The first pattern of `scope` by which it covers what `wider` does not; None: there is none.
    No list is empty."""
    return first_outside(scope.actions, wider.actions) or first_outside(
        scope.resources, wider.resources
    )


def _matches(pattern: str, value: str, wildcard: str) -> bool:
    if not pattern.endswith(wildcard):
        return pattern == value
    prefix = pattern[:-1]  # keeps the separator: payments.* is no prefix of paymentsx
    return len(value) > len(prefix) and value.startswith(prefix)


def check_executor_pattern(text: str) -> None:
    """`spiffe://bank.example/agent/payments`, `spiffe://bank.example/agent/*` or
    `spiffe://bank.example/*`."""
    executors_owner(text)


def executors_owner(pattern: str) -> str:
    """The one domain whose executors the pattern names. Raises MalformedError."""
    is_prefix = pattern.endswith(_EXECUTOR_WILDCARD)
    # With a segment in the wildcard's place it must be an executor.
    text = pattern[:-1] + "x" if is_prefix else pattern
    try:
        ids.check_executor(text)
    except MalformedError as error:
        raise MalformedError("must be an executor, or a prefix of one that ends in /*") from error
    return ids.SpiffeId.parse(text).trust_domain


def check_text_pattern(text: str) -> None:
    """Of what an executor says: `OPS-7`, `OPS-*` or `*`, which matches all but nothing."""
    if not text or len(text) > MAX_ATTRIBUTE_CHARS:
        raise MalformedError(f"must be 1 to {MAX_ATTRIBUTE_CHARS} characters")
    if _TEXT_WILDCARD in text[:-1]:
        raise MalformedError("has a * that is not at its end")
    if any(each < _FIRST_PRINTED or "\x7f" <= each <= "\x9f" for each in text):
        raise MalformedError("has a control character")


def text_matches(pattern: str, text: str) -> bool:
    return _matches(pattern, text, _TEXT_WILDCARD)


def executor_matches(pattern: str, executor: str) -> bool:
    return _matches(pattern, executor, _EXECUTOR_WILDCARD)
