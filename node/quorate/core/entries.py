"""The entries of the ledger: the leaves that everything decided is provable by.

Owns their bytes. An entry holds the whole signed command, so that whoever has the genesis can
decide everything again.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from quorate.core import codec, dsse
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ENTRY_BYTES, MAX_ENVELOPE_BYTES, PROTOCOL_VERSION
from quorate.core.outcome import Outcome, Reason
from quorate.core.rows import Row

MALFORMED: Final = "malformed"
GENESIS: Final = "genesis"
RECOVERY: Final = "recovery"
POLICY_VERSION: Final = 0
"""Of the policies that a decision was taken under; there are none yet."""


def entry(*, origin: str, kind: str, outcome: Outcome, ledger_time: int, command: object) -> bytes:
    """The leaf that records one outcome. kind: the command's type, or `malformed`. What the command
    has brought to a decision (`quorate.core.balloting`) stands in it as `executed`."""
    value = {
        "v": PROTOCOL_VERSION,
        "origin": origin,
        "seq": outcome.index,
        "type": kind,
        "decision": "accepted" if outcome.accepted else "denied",
        "reason": outcome.reason or "",
        "thing": outcome.thing,
        "policy_version": POLICY_VERSION,
        "time": ledger_time,
        "command": command,
    }
    if "executed" in outcome.result:
        value["executed"] = outcome.result["executed"]
    return codec.encode(value)


def of_envelope(envelope: dsse.Envelope) -> object:
    """A well-formed command, as it was signed."""
    return envelope.to_json()


def of_bytes(data: bytes) -> object:
    """Bytes that are no command: all of them, or what identifies them when they are too many."""
    if len(data) <= MAX_ENVELOPE_BYTES:
        return {"raw": b64encode(data).decode("ascii")}
    return {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it was read. kind: its type. reason: None when it was accepted. command: as it
    stands there."""

    origin: str
    seq: int
    kind: str
    reason: Reason | None
    thing: str
    time: int
    command: object

    @property
    def accepted(self) -> bool:
        return self.reason is None


def parse(data: bytes) -> Entry:
    """The entry in a leaf. Raises MalformedError; what is not looked at here is left to whoever
    makes the same bytes again (`quorate.core.replaying`)."""
    row = Row(codec.decode(data, MAX_ENTRY_BYTES))
    decision, told = row.text("decision"), row.text("reason")
    if (decision, told == "") not in {("accepted", True), ("denied", False)}:
        raise MalformedError("is accepted, or denied for a reason", field="decision")
    return Entry(
        origin=row.text("origin"),
        seq=row.number("seq"),
        kind=row.text("type"),
        reason=row.choice("reason", Reason) if told else None,
        thing=row.text("thing"),
        time=row.number("time"),
        command=row.nested("command"),
    )
