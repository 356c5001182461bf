"""Whether what was to be proved, and was, can have become of what it was before.

Owns that part of the comparison of two states (`quorate.core.succession`): a reference, and a
proof, may go, and another may come in its place, which then is a later one.
"""

from __future__ import annotations

from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.records import Executor, Reference


def compare_references(old_data: bytes, new_data: bytes | None) -> None:
    """The two are different. Raises MalformedError, as the other."""
    old = Reference.from_json(codec.load(old_data))
    if new_data is not None and Reference.from_json(codec.load(new_data)).changed <= old.changed:
        raise MalformedError(f"{old.id} is not what it was, and nobody has changed it")


def compare_proofs(old: Executor, new: Executor) -> None:
    for before in old.attestations:
        after = new.attestation(before.reference)
        if after is not None and after != before and after.reported <= before.reported:
            raise MalformedError(f"{old.id} has an earlier proof than it had")
    asked, again = old.challenge, new.challenge
    if asked is not None and again is not None and again != asked and again.at < asked.at:
        raise MalformedError(f"{old.id} was asked earlier than it was")
