"""The one life that every governed thing has, as a table.

Owns which status may follow which. Does not know who may bring it about.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from quorate.core.outcome import Reason


class Status(StrEnum):
    """Of a domain, a node, an executor, a trust edge or a grant."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


class Act(StrEnum):
    """What can be done to a governed thing. Closing a trust edge and retiring a node revoke it;
    nodes are never suspended."""

    SUSPEND = "suspend"
    REINSTATE = "reinstate"
    REVOKE = "revoke"


TRANSITIONS: Final[Mapping[tuple[Status, Act], Status]] = MappingProxyType(
    {
        (Status.ACTIVE, Act.SUSPEND): Status.SUSPENDED,
        (Status.SUSPENDED, Act.REINSTATE): Status.ACTIVE,
        (Status.ACTIVE, Act.REVOKE): Status.REVOKED,
        (Status.SUSPENDED, Act.REVOKE): Status.REVOKED,
    }
)
"""What is not here cannot happen. Nothing leaves `revoked`."""

FINAL: Final = frozenset(Status) - {before for before, _ in TRANSITIONS}


def follow(status: Status, act: Act) -> Status | Reason:
    """The status after the act, or why there is none."""
    after = TRANSITIONS.get((status, act))
    if after is not None:
        return after
    return Reason.FINAL if status in FINAL else Reason.ILLEGAL_TRANSITION
