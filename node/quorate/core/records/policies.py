"""The record of whose policies are in force, and of which version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from quorate.core.errors import MalformedError
from quorate.core.records.base import BaseRecord, Kind
from quorate.core.rows import Row


@dataclass(frozen=True, slots=True)
class PolicyMark:
    """What the record of a domain, or of the federation, says of its policies, so that whoever
    decides need not look at them.

    version: how often it has published a set. sha256: of the one in force, in hex; empty: it has
    retired that, and has no say.
    """

    version: int
    sha256: str

    def to_json(self) -> dict[str, object]:
        return {"version": self.version, "sha256": self.sha256}

    @classmethod
    def from_json(cls, value: object) -> PolicyMark:
        row = Row(value)
        return cls(row.number("version"), row.text("sha256"))


@dataclass(frozen=True, slots=True)
class Policies(BaseRecord):
    """The policies that a domain or the federation has published last.

    owner: a domain, or BY_BALLOT. text: the whole set, in Cedar; empty: retired.
    changed: the ledger index of the entry that published or retired it. Earlier versions are in the
    ledger alone.
    """

    kind: ClassVar[Kind] = Kind.POLICIES

    owner: str
    version: int
    text: str
    changed: int

    @property
    def id(self) -> str:
        return self.owner

    @property
    def mark(self) -> PolicyMark:
        return PolicyMark(self.version, digest_of(self.text) if self.text else "")

    @classmethod
    def from_json(cls, value: object) -> Policies:
        row = Row(value)
        return cls(
            owner=row.text("owner"),
            version=row.number("version"),
            text=row.text("text"),
            changed=row.number("changed"),
        )


def digest_of(text: str) -> str:
    """SHA-256 of a set's text, in hex: what names it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_mark(
    mark: PolicyMark | None, found: Policies | None, *, may_be: bool, is_over: bool = False
) -> None:
    """Raises MalformedError unless a mark is what the policies on file call for. may_be: whether
    there can be any. is_over: whose they are was expelled, and has none any more."""
    if is_over:
        if mark is not None or (found is not None and found.text):
            raise MalformedError("was expelled, and has policies")
        return
    if mark != (None if found is None else found.mark):
        raise MalformedError("has other policies than those on file")
    if mark is not None and (not may_be or mark.version == 0):
        raise MalformedError("has policies, which cannot be")
