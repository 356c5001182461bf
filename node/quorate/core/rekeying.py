"""New keys for a domain, or new CAs, and the proof that it was the domain itself that took them.

Owns the command, and how a state that has other keys is held to one that has the old. A domain
takes new keys by a command that enough of its governance keys sign, as any, or enough of its
recovery keys; each new key signs the same envelope, so that nobody claims a key that is another's,
or that nobody has. Recovery keys are changed by recovery keys alone. Whoever passes a command on
can take signatures away from it: one that lacks any is refused without a memory of it, or that
would use up what the domain has signed. The state keeps each such
envelope: whoever is sent a state, and knows the domain by its old keys, follows them one by one. No
sender of a state can give a domain keys that it has not taken. The CAs whose leaves are a domain's
are taken in the same way and followed by the same proofs; a certificate signs no command, so that
nothing is asked of it here. Why it is so: docs/adr/0031, docs/adr/0034.
"""

from __future__ import annotations

from dataclasses import replace

from quorate.core import dsse, keys, state
from quorate.core.bodies import RekeyDomain
from quorate.core.commands import Command, open_envelope, parse_command
from quorate.core.errors import MalformedError
from quorate.core.genesis import certificate_digest
from quorate.core.keysets import (
    Keyed,
    all_keys,
    fresh_keys,
    is_expired,
    is_governed,
    is_recovered,
    key_set_of,
    refuse_expired,
)
from quorate.core.limits import (
    MAX_GENESIS_BYTES,
    MAX_REKEYINGS_PER_DOMAIN,
    REKEYINGS_FOR_RECOVERY,
)
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Domain
from quorate.core.recovery_room import longest_document
from quorate.core.store import Reader
from quorate.core.turn import Done, Turn, Verdict
from quorate.core.verbs import Verb


def rekey_domain(turn: Turn, body: RekeyDomain) -> Verdict:
    """Also of a suspended domain: that somebody else has its key may be why it is suspended."""
    domain = turn.domain
    if body.domain != domain.id:
        return Deny(Reason.NOT_AUTHORIZED, body.domain)
    if _is_same(domain, body):
        return Deny(Reason.ILLEGAL_TRANSITION, domain.id)
    lacking = refuse_half_signed(turn.envelope, domain, turn.command, turn.ledger_time)
    if lacking is not None:
        return lacking
    if is_expired(body, turn.ledger_time):
        return Deny(Reason.KEY_EXPIRED, domain.id)
    changed = replace(_taking(domain, body), rekeyings=domain.rekeyings + 1, changed=turn.seq)
    if _is_beyond_limits(turn, changed):
        return Deny(Reason.LIMIT_EXCEEDED, domain.id)
    fresh = fresh_keys(domain, body)
    for key in fresh:
        if turn.view.key_owner(key) is not None:
            return Deny(Reason.ALREADY_EXISTS, key)
    for mark in _fresh_authorities(domain, body):
        if turn.view.key_owner(mark) is not None:
            return Deny(Reason.ALREADY_EXISTS, mark)
    state.save_domain(turn.store, changed)
    for key in (*fresh, *_authorities_on_file(domain, body)):
        state.claim_key(turn.store, key, domain.id)
    proof = keys.rekeying(domain.id, domain.rekeyings)
    turn.store.put(proof, turn.envelope.to_bytes())
    return Done.named(domain.id)


def refuse_half_signed(
    envelope: dsse.Envelope, domain: Domain, command: Command, ledger_time: int
) -> Deny | None:
    """What is to be said of a command that its domain has signed, and that lacks a signature which
    could change what becomes of it: of its recovery keys, or of a key that is new."""
    body = command.body
    if not isinstance(body, RekeyDomain) or command.issued_by_node:
        return None
    if body.domain != domain.id or _is_same(domain, body):
        return None
    if not is_recovered(envelope, domain):
        if not _may_take(envelope, domain, body):
            return Deny(Reason.NOT_AUTHORIZED, domain.id)
        late = refuse_expired(envelope, domain, command.verb, ledger_time)
        if late is not None:
            return Deny(late, domain.id)
        if _left_to(envelope, domain) <= domain.rekeyings < MAX_REKEYINGS_PER_DOMAIN:
            return Deny(Reason.LIMIT_EXCEEDED, domain.id)
    for key in fresh_keys(domain, body):
        if not envelope.verify(bytes.fromhex(key)):
            return Deny(Reason.BAD_SIGNATURE, key)
    return None


def _fresh_authorities(domain: Domain, body: RekeyDomain) -> list[str]:
    """Digests of CAs that are to vouch for the domain, and do not now."""
    has = {certificate_digest(each) for each in domain.authorities}
    return [mark for mark in map(certificate_digest, body.authorities) if mark not in has]


def _authorities_on_file(domain: Domain, body: RekeyDomain) -> list[str]:
    """Digests of what is kept for ever where CAs change: none that was dropped is ever taken again,
    or whoever held a command back could bring a stolen one back with it."""
    if not body.authorities:
        return []
    return [certificate_digest(each) for each in (*domain.authorities, *body.authorities)]


def _is_same(domain: Domain, body: RekeyDomain) -> bool:
    return body.authorities in {(), domain.authorities} and _keys(domain) == _keys(body)


def _may_take(envelope: dsse.Envelope, before: Keyed, after: Keyed) -> bool:
    """Whether those have signed that decide about this change. Who has stolen the governance keys
    must not be able to take the recovery keys away, with which they are taken back from him."""
    if is_recovered(envelope, before):
        return True
    has, gets = key_set_of(before), key_set_of(after)
    is_kept = (has.recovery_keys, has.recovery_threshold) == (
        gets.recovery_keys,
        gets.recovery_threshold,
    )
    return is_governed(envelope, before) and (is_kept or not has.recovery_keys)


def _left_to(envelope: dsse.Envelope, domain: Domain) -> int:
    """How many changes there are for whoever has signed this. Some are left to the recovery keys:
    who has stolen the others could use them up."""
    if key_set_of(domain).recovery_keys and not is_recovered(envelope, domain):
        return MAX_REKEYINGS_PER_DOMAIN - REKEYINGS_FOR_RECOVERY
    return MAX_REKEYINGS_PER_DOMAIN


def _is_beyond_limits(turn: Turn, changed: Domain) -> bool:
    """A recovery document must have room for all keys of all domains."""
    if turn.domain.rekeyings >= _left_to(turn.envelope, turn.domain):
        return True
    version, members = turn.view.federation().protocol, turn.view.domains()
    after = [changed if item.id == changed.id else item for item in members]
    length = longest_document(after, version)
    return length > MAX_GENESIS_BYTES and length > longest_document(members, version)


def check_rekeyed(later: Reader, origin: str, old: Domain, new: Domain) -> None:
    """Raises MalformedError unless the domain itself has gone from its old keys to the new ones, as
    the envelopes in the later state say."""
    if new.rekeyings < old.rekeyings:
        raise MalformedError(f"{old.id} has lost keys that it took")
    current = old
    for number in range(old.rekeyings, new.rekeyings):
        data = later.get(keys.rekeying(old.id, number))
        envelope, body = read_rekeying(data, old.id)
        is_its_own = _may_take(envelope, current, body)
        taken = fresh_keys(current, body)
        is_held = all(envelope.verify(bytes.fromhex(key)) for key in taken)
        if _origin(envelope) != origin or not (is_its_own and is_held):
            raise MalformedError(f"{old.id} has keys that it did not take")
        on_file = (*all_keys(current), *_authorities_on_file(current, body))
        for key in on_file:  # for ever: they are not to be taken again
            if later.get(keys.public_key(key)) != old.id.encode("ascii"):
                raise MalformedError(f"a former key of {old.id} is not on file as its own")
        current = _taking(current, body)
    for name in ("governance_key", "cosigner_key", "key_set", "ca_certificate", "next_ca"):
        if getattr(current, name) != getattr(new, name):
            raise MalformedError(f"{old.id} has another {name}")


def read_rekeying(data: bytes | None, domain: str) -> tuple[dsse.Envelope, RekeyDomain]:
    """One of the envelopes that a state keeps; nothing is verified but its form. Raises
    MalformedError."""
    if data is None:
        raise MalformedError(f"there is no proof of the keys of {domain}")
    envelope = open_envelope(data)
    command = _command(envelope)
    body = command.body
    if command.verb is not Verb.DOMAIN_REKEY or not isinstance(body, RekeyDomain):
        raise MalformedError(f"a proof of the keys of {domain} is something else")
    if command.issuer != domain or body.domain != domain:
        raise MalformedError(f"a proof of the keys of {domain} is of another domain")
    return envelope, body


def _command(envelope: dsse.Envelope) -> Command:
    if envelope.payload_type != dsse.COMMAND_TYPE:
        raise MalformedError("is no command", field="payloadType")
    return parse_command(envelope.payload)


def _origin(envelope: dsse.Envelope) -> str:
    return _command(envelope).origin


def _keys(keyed: Keyed) -> tuple[object, ...]:
    return keyed.governance_key, keyed.cosigner_key, keyed.key_set


def _taking(domain: Domain, body: RekeyDomain) -> Domain:
    authorities = body.authorities or domain.authorities
    return replace(
        domain,
        governance_key=body.governance_key,
        cosigner_key=body.cosigner_key,
        key_set=body.key_set,
        ca_certificate=authorities[0],
        next_ca="".join(authorities[1:]),
    )
