"""What the ledger remembers of a command that was executed, so that it is not executed again.

Owns its fields and form, as `quorate.core.records` does for what commands are about.
"""

from __future__ import annotations

from dataclasses import dataclass

from quorate.core.errors import MalformedError
from quorate.core.outcome import Outcome, Reason
from quorate.core.rows import Row


@dataclass(frozen=True, slots=True)
class Remembered:
    """The outcome of a command that was executed, kept so that it is not executed again.

    fingerprint: of what it asked for, less its nonce and lifetime.
    not_after: the latest of all its repeats; forgotten after that.
    reserved: that of the command that was executed: until then its nonce is for nothing else. A
    repeat makes no entry, and so cannot change what becomes of another command.
    """

    outcome: Outcome
    fingerprint: str
    not_after: int
    reserved: int

    def to_json(self) -> dict[str, object]:
        value: dict[str, object] = {
            "fingerprint": self.fingerprint,
            "not_after": self.not_after,
            "accepted": self.outcome.accepted,
            "reason": self.outcome.reason or "",
            "thing": self.outcome.thing,
            "index": self.outcome.index,
            "command_id": self.outcome.command_id,
            "result": dict(self.outcome.result),
        }
        if self.reserved != self.not_after:
            value["reserved"] = self.reserved
        return value

    @classmethod
    def from_json(cls, value: object) -> Remembered:
        row = Row(value)
        result = row.nested("result")
        if not isinstance(result, dict):
            raise MalformedError("must be an object", field="result")
        accepted = row.flag("accepted")
        outcome = Outcome(
            accepted=accepted,
            reason=None if accepted else row.choice("reason", Reason),
            thing=row.text("thing"),
            index=row.number("index"),
            command_id=row.text("command_id"),
            result=result,
        )
        not_after = row.number("not_after")
        reserved = row.number_or("reserved", not_after)
        return cls(outcome, row.text("fingerprint"), not_after, reserved)
