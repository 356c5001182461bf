"""Whether one state can have become of another.

Owns the comparison of two states, a thing at a time: the same federation, no earlier; every domain
with the keys and CAs that it had, or has taken itself, and every node with those that it had; what
was revoked, closed or retired stays so, as do the proofs of keys; no edge of trust is for more than
it was, and no proposal for something else; no proof gives way to an earlier one, nor do policies.
Does not own whether the later one is sound (`quorate.core.vetting`). Looks at nothing but what
domains govern, alone or together, and of that at what is final: what is suspended, frozen or
contained can have ended meanwhile. Pure, and in steps, as the vetting is.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from quorate.core import keys, lasting, protocol
from quorate.core.errors import MalformedError
from quorate.core.proofs_kept import compare_proofs, compare_references
from quorate.core.records import Domain, Executor, Kind, Node
from quorate.core.rekeying import check_rekeyed
from quorate.core.state import StateView, parse_lasting
from quorate.core.store import Reader

_OF_FEDERATION: Final = ("origin", "genesis_hash", "created", "fence_base")
_KEPT: Final = {
    Kind.NODE: ("domain", "signing_key", "log_key"),
}
"""What nothing changes of a thing that is there."""
_LASTING: Final = (
    Kind.DOMAIN,
    Kind.NODE,
    Kind.EXECUTOR,
    Kind.TRUST,
    Kind.GRANT,
    Kind.PROPOSAL,
    Kind.REFERENCE,
    Kind.POLICIES,
)
_PROOFS: Final = None
"""In the place of a kind: the envelopes that domains took their keys by."""


class Succession:
    """One comparison of two states, neither of which changes meanwhile: `after`, which is sound,
    with `before`."""

    def __init__(self, before: Reader, after: Reader) -> None:
        self._before = before
        self._after = after
        self._has_begun = False
        self._kinds: list[Kind | None] = [*_LASTING, _PROOFS]
        self._next = b""

    def step(self, most: int) -> bool:
        """Compares the next `most` things of the earlier state, at two reads each; True when it
        has compared all. Raises MalformedError for a later state that cannot have become of the
        earlier one, and what the readers raise."""
        if not self._has_begun:
            self._compare_federations()
            self._has_begun = True
        while self._kinds:
            kind = self._kinds[0]
            place = keys.REKEYINGS if kind is _PROOFS else keys.RECORDS[kind]
            for key, old in islice(self._before.scan(place, self._next), most):
                new = self._after.get(key)
                if new != old:
                    self._compare(kind, old, new)
                self._next = key + b"\x00"
                most -= 1
            if most == 0:
                return False
            del self._kinds[0]
            self._next = b""
        return True

    def _compare_federations(self) -> None:
        then, now = StateView(self._before).federation(), StateView(self._after).federation()
        for name in _OF_FEDERATION:
            if getattr(then, name) != getattr(now, name):
                raise MalformedError(f"the federation has another {name}")
        if then.protocol > now.protocol:
            raise MalformedError("it lives by an earlier version of the protocol")
        if then.parameters != now.parameters and now.protocol < protocol.SECOND:
            raise MalformedError("the federation has other parameters")
        if not now.bounding.covers(then.bounding):  # or this node would wait for too short
            raise MalformedError("it has forgotten parameters that were in force")
        if then.ledger_time > now.ledger_time:
            raise MalformedError("its time is before this node's")

    def _compare(self, kind: Kind | None, old_data: bytes, new_data: bytes | None) -> None:
        if kind is _PROOFS:  # others may know older keys than this node, and follow by it
            raise MalformedError("a proof that a domain took its keys is not what it was")
        if kind is Kind.REFERENCE:
            compare_references(old_data, new_data)
            return
        old = parse_lasting(kind, old_data)
        new = None if new_data is None else parse_lasting(kind, new_data)
        for name in _KEPT.get(kind, ()):
            if new is not None and getattr(old, name) != getattr(new, name):
                raise MalformedError(f"{old.id} has another {name}")
        if isinstance(old, Domain) and isinstance(new, Domain):
            origin = StateView(self._after).federation().origin
            check_rekeyed(self._after, origin, old, new)
        if isinstance(old, Node) and isinstance(new, Node) and old.retired and not new.retired:
            raise MalformedError(f"{old.id} was retired")
        if isinstance(old, Executor) and isinstance(new, Executor):
            compare_proofs(old, new)
        problem = lasting.what_did_not_stay(old, new)
        if problem:
            raise MalformedError(problem)
