"""What every verifier is, and what several of them need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.records import Reference

_MEASUREMENT_RE: Final = re.compile(r"[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}")
_TEXT_RE: Final = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What evidence has to be about: nothing that was shown elsewhere, by another, or before."""

    origin: str
    executor: str
    challenge: str


class Verifier(Protocol):
    """One way to prove something. Pure, and total but for MalformedError."""

    def read_reference(self, body: Fields) -> dict[str, tuple[str, ...]]:
        """The fields of a reference that are this verifier's own. Raises MalformedError."""
        ...

    def check_reference(self, reference: Reference) -> None:
        """Raises MalformedError for a record that `read_reference` cannot have made."""
        ...

    def verify(self, evidence: object, reference: Reference, asked: Asked) -> dict[str, str]:
        """What is proved by evidence, a decoded JSON value: claims by name, whether the reference
        accepts them or not. Raises MalformedError, whose field names the place, for what proves
        nothing: it is no evidence, about something else, or nobody's word that counts here."""
        ...

    def check_claims(self, claims: Mapping[str, str]) -> None:
        """Raises MalformedError for claims that `verify` cannot have made."""
        ...

    def failing(self, reference: Reference, claims: Mapping[str, str]) -> str:
        """The name of a claim that the reference does not accept; empty: it accepts all."""
        ...


def check_digest(text: str) -> None:
    """SHA-256, in hex. Raises MalformedError."""
    ids.check_command_id(text)  # the same syntax


def check_measurement(text: str) -> None:
    """SHA-256, -384 or -512, in hex. Raises MalformedError."""
    if _MEASUREMENT_RE.fullmatch(text) is None:
        raise MalformedError("must be 64, 96 or 128 lower-case hex digits")


def check_builder(text: str) -> None:
    """Raises MalformedError."""
    if _TEXT_RE.fullmatch(text) is None:
        raise MalformedError("must be 1 to 255 printable ASCII characters without space")


def only(claims: Mapping[str, str], known: Iterable[str]) -> None:
    """Raises MalformedError for a claim that is not known."""
    for name in sorted(set(claims) - set(known)):
        raise MalformedError("is no claim", field=name)


def equal(value: str, expected: str, field: str) -> None:
    if value != expected:
        raise MalformedError(f"is not {expected}", field=field)
