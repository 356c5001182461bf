"""What is said of an organisation's keys where its record is shown: how many sign, and that their
time is nearly over; and the same of a node's certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from quorate.cli.output import moment

NEAR_MS: Final = 30 * 86_400_000
"""So long before their end people hear of it: fetching recovery keys takes a while."""


def key_words(record: Mapping[str, Any]) -> str:
    """How many of the governance keys have to sign."""
    key_set = record.get("key_set")
    if not isinstance(key_set, dict):
        return "1 of 1"
    return f"{key_set.get('threshold')} of {1 + len(key_set.get('governance_keys', ()))}"


def end_of_keys(record: Mapping[str, Any]) -> int:
    """In ledger time; 0: they do not expire."""
    key_set = record.get("key_set")
    end = key_set.get("not_after") if isinstance(key_set, dict) else 0
    return end if isinstance(end, int) else 0


def warning_of(record: Mapping[str, Any], ledger_time_ms: int) -> str:
    """What is to be said of the end of a domain's governance keys; mostly nothing."""
    end, name = end_of_keys(record), record.get("id")
    if not end or end - ledger_time_ms > NEAR_MS:
        return ""
    if end <= ledger_time_ms:
        return (
            f"the governance keys of {name} expired on {moment(end)}: they do nothing but narrow "
            "until its recovery keys have renewed them (`quorate domain set-keys --expires`)"
        )
    return (
        f"the governance keys of {name} expire on {moment(end)}: renew them in time "
        "(`quorate domain set-keys --expires`)"
    )


def warning_of_certificate(not_after_ms: int, now_ms: int) -> str:
    """What is to be said of the end of a node's certificate; mostly nothing. not_after_ms: 0: not
    known."""
    if not not_after_ms or not_after_ms - now_ms > NEAR_MS:
        return ""
    days = max(0, not_after_ms - now_ms) // 86_400_000
    return (
        f"the node's certificate ends on {moment(not_after_ms)}, in {days} days: renew it in time "
        "(`quorate node renew`)"
    )
