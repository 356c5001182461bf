"""The keys of a domain beside its first two, how many of them have to sign, and which are kept
offline.

Owns the record of them, as it stands in that of a domain, in the body of a `domain.rekey` and in a
recovery document; and how signatures are counted: each key of the set once, whatever else is in the
envelope. Who may change a key set is decided in `quorate.core.rekeying`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from quorate.core import dsse
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.limits import MAX_KEYS_PER_SET
from quorate.core.outcome import Deny, Reason
from quorate.core.rows import Row
from quorate.core.verbs import Verb


@dataclass(frozen=True, slots=True)
class KeySet:
    """Ed25519 public keys are in hex, in ascending order, and different.

    governance_keys: those beside the domain's first. threshold: how many of all have to sign.
    recovery_keys: they sign nothing but new keys. recovery_threshold: how many of them; 0 where
    there are none. not_after: ledger time from which on the governance keys do nothing but narrow;
    0: never. Expiring without recovery keys would be for ever, so that there is no such thing.
    """

    governance_keys: tuple[str, ...]
    threshold: int
    recovery_keys: tuple[str, ...]
    recovery_threshold: int
    not_after: int

    def to_json(self) -> dict[str, Any]:
        return {
            "governance_keys": list(self.governance_keys),
            "threshold": self.threshold,
            "recovery_keys": list(self.recovery_keys),
            "recovery_threshold": self.recovery_threshold,
            "not_after": self.not_after,
        }

    @classmethod
    def from_json(cls, value: object) -> KeySet:
        row = Row(value)
        return cls(
            governance_keys=row.texts("governance_keys"),
            threshold=row.number("threshold"),
            recovery_keys=row.texts("recovery_keys"),
            recovery_threshold=row.number("recovery_threshold"),
            not_after=row.number("not_after"),
        )


_NONE: Final = KeySet((), 1, (), 0, 0)
"""What a domain has that has said nothing of it; in a record there is nothing, then."""


class Setting(Protocol):
    """Whatever may say something of a key set."""

    @property
    def key_set(self) -> KeySet | None: ...


class Keyed(Setting, Protocol):
    """Whoever has the keys of a domain, in hex: its record, or what it is to become."""

    @property
    def governance_key(self) -> str: ...

    @property
    def cosigner_key(self) -> str: ...


def read_key_set(fields: Fields) -> KeySet | None:
    """The optional field of a document. Raises MalformedError."""
    if not fields.has("key_set"):
        return None
    inner, path = fields.nested("key_set"), fields.at("key_set")
    found = KeySet(
        governance_keys=inner.texts(
            "governance_keys", dsse.parse_public_key, MAX_KEYS_PER_SET - 1, least=0
        ),
        threshold=inner.integer("threshold", 1, MAX_KEYS_PER_SET),
        recovery_keys=inner.texts(
            "recovery_keys", dsse.parse_public_key, MAX_KEYS_PER_SET, least=0
        ),
        recovery_threshold=inner.integer("recovery_threshold", 0, MAX_KEYS_PER_SET),
        not_after=inner.integer("not_after"),
    )
    inner.done()
    try:
        _check(found)
    except MalformedError as error:
        raise MalformedError(error.problem, field=path) from error
    return found


def check_keyed(keyed: Keyed, *, may_be: bool) -> None:
    """Raises MalformedError unless no key serves two purposes, and the key set is one that a
    command can have made. may_be: whether there can be any."""
    every = all_keys(keyed)
    if len({*every}) < len(every):
        raise MalformedError("a key serves two purposes")
    found = keyed.key_set
    if found is None:
        return
    if not may_be or max(len(found.governance_keys) + 1, len(found.recovery_keys)) > (
        MAX_KEYS_PER_SET
    ):
        raise MalformedError("has a key set that cannot be")
    for key in (*found.governance_keys, *found.recovery_keys):
        dsse.parse_public_key(key)
    _check(found)


def _check(found: KeySet) -> None:
    for some in (found.governance_keys, found.recovery_keys):
        if list(some) != sorted({*some}):
            raise MalformedError("names keys out of ascending order")
    if not 1 <= found.threshold <= 1 + len(found.governance_keys):
        raise MalformedError("needs more signatures than there are governance keys, or none")
    least = 1 if found.recovery_keys else 0
    if not least <= found.recovery_threshold <= len(found.recovery_keys):
        raise MalformedError("needs more signatures than there are recovery keys, or none")
    if found.not_after and not found.recovery_keys:
        raise MalformedError("would expire, with nobody left to renew it: name recovery keys")
    if found == _NONE:
        raise MalformedError("says nothing, and is to be left out")


# -- whose keys are which ------------------------------------------------------------------------


def key_set_of(setting: Setting) -> KeySet:
    """Also of a domain that has said nothing of it."""
    return setting.key_set or _NONE


def governance_keys(keyed: Keyed) -> tuple[str, ...]:
    return (keyed.governance_key, *key_set_of(keyed).governance_keys)


def all_keys(keyed: Keyed) -> tuple[str, ...]:
    return (*governance_keys(keyed), keyed.cosigner_key, *key_set_of(keyed).recovery_keys)


def fresh_keys(before: Keyed, after: Keyed) -> list[str]:
    """Those that come to serve a purpose that they did not serve before, in the order in which the
    documents name them."""
    fresh = [key for key in governance_keys(after) if key not in governance_keys(before)]
    if after.cosigner_key != before.cosigner_key:
        fresh.append(after.cosigner_key)
    known = key_set_of(before).recovery_keys
    return fresh + [key for key in key_set_of(after).recovery_keys if key not in known]


# -- counting ------------------------------------------------------------------------------------


def count_signatures(envelope: dsse.Envelope, keys: Iterable[str], enough: int) -> int:
    """How many of these keys have signed, each counted once; no further than is enough."""
    count = 0
    for key in dict.fromkeys(keys):
        if count >= enough:
            break
        count += envelope.verify(bytes.fromhex(key))
    return count


def has_enough(envelope: dsse.Envelope, keys: Sequence[str], threshold: int) -> bool:
    """Whether that many of the keys have signed; never, where none is needed."""
    return 0 < threshold <= count_signatures(envelope, keys, threshold)


def is_governed(envelope: dsse.Envelope, keyed: Keyed) -> bool:
    """Whether enough governance keys have signed. Nothing is said about their expiry."""
    return has_enough(envelope, governance_keys(keyed), key_set_of(keyed).threshold)


def is_recovered(envelope: dsse.Envelope, keyed: Keyed) -> bool:
    """Whether enough of those keys have signed that are kept offline."""
    key_set = key_set_of(keyed)
    return has_enough(envelope, key_set.recovery_keys, key_set.recovery_threshold)


def refuse_unsigned(envelope: dsse.Envelope, keyed: Keyed, verb: Verb, issuer: str) -> Deny | None:
    """What is to be said of a command in the name of a domain that not enough of its keys have
    signed."""
    if is_governed(envelope, keyed):
        return None
    keys = governance_keys(keyed)
    if verb is Verb.DOMAIN_REKEY:
        if is_recovered(envelope, keyed):
            return None
        keys += key_set_of(keyed).recovery_keys
    some = count_signatures(envelope, keys, 1)
    return Deny(Reason.TOO_FEW_SIGNATURES if some else Reason.BAD_SIGNATURE, issuer)


# -- expiry --------------------------------------------------------------------------------------

_ALWAYS: Final = frozenset(
    {
        Verb.EXECUTOR_SUSPEND,
        Verb.EXECUTOR_REVOKE,
        Verb.EXECUTOR_CONTAIN,
        Verb.TRUST_NARROW,
        Verb.TRUST_CLOSE,
        Verb.GRANT_SUSPEND,
        Verb.GRANT_REVOKE,
        Verb.RESOURCES_FREEZE,
        Verb.DOMAIN_SUSPEND,
    }
)
"""What a domain does with expired keys, too: it stops what it has let loose itself. That must not
wait until somebody has fetched the recovery keys. What others rely on to go on (its nodes, its
ballots) is not among it."""


def is_expired(keyed: Keyed, ledger_time: int) -> bool:
    not_after = key_set_of(keyed).not_after
    return 0 < not_after <= ledger_time


def refuse_expired(
    envelope: dsse.Envelope, keyed: Keyed, verb: Verb, ledger_time: int
) -> Reason | None:
    """Whether the governance keys' time is over for this, and no others have signed it that may."""
    if verb in _ALWAYS or not is_expired(keyed, ledger_time):
        return None
    if verb is Verb.DOMAIN_REKEY and is_recovered(envelope, keyed):
        return None
    return Reason.KEY_EXPIRED
