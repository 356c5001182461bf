"""Patterns over actions and resources: exact, or a prefix that ends in a wildcard.

Owns their syntax and matching. A pattern that is not valid matches nothing but itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from quorate.core import ids
from quorate.core.errors import MalformedError

ANY_ACTION: Final = "*"
_ACTION_WILDCARD: Final = ".*"
_RESOURCE_WILDCARD: Final = "/*"


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


def resource_matches(pattern: str, resource: str) -> bool:
    return _matches(pattern, resource, _RESOURCE_WILDCARD)


def covers(actions: Iterable[str], resources: Iterable[str], action: str, resource: str) -> bool:
    """Whether one of `actions` matches the action and one of `resources` the resource."""
    return any(action_matches(pattern, action) for pattern in actions) and any(
        resource_matches(pattern, resource) for pattern in resources
    )


def _matches(pattern: str, value: str, wildcard: str) -> bool:
    if not pattern.endswith(wildcard):
        return pattern == value
    prefix = pattern[:-1]  # keeps the separator: payments.* is no prefix of paymentsx
    return len(value) > len(prefix) and value.startswith(prefix)
