"""What all records have in common, and the kinds there are."""

from __future__ import annotations

from dataclasses import fields
from enum import StrEnum
from typing import ClassVar, Protocol, runtime_checkable


class Kind(StrEnum):
    """The kinds of record that can be asked for."""

    FEDERATION = "federation"
    DOMAIN = "domain"
    NODE = "node"
    EXECUTOR = "executor"
    TRUST = "trust"
    GRANT = "grant"
    LEASE = "lease"
    PROPOSAL = "proposal"
    CONTAINMENT = "containment"
    REFERENCE = "reference"
    POLICIES = "policies"


@runtime_checkable
class Part(Protocol):
    """A value within a record that has fields of its own."""

    def to_json(self) -> dict[str, object]: ...


def _plain(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.to_json() if isinstance(value, Part) else value  # last: a protocol takes longest


class BaseRecord:
    """What all records have: their fields as JSON, in the order of declaration.

    LATER: those that a later version of the protocol has brought, each with a default. They are
    left out while they have it, so that a record is the same bytes under every version."""

    __slots__ = ()

    LATER: ClassVar[frozenset[str]] = frozenset()

    @property
    def id(self) -> str:
        raise NotImplementedError

    def to_json(self) -> dict[str, object]:
        value: dict[str, object] = {"id": self.id}
        for item in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            said = getattr(self, item.name)
            if item.name not in self.LATER or said != item.default:
                value[item.name] = _plain(said)
        return value
