"""New keys for a domain, and the proof that it was the domain itself that took them.

Owns the command, and how a state that has other keys is held to one that has the old. A domain
takes new keys by a command that its governance key signs, as any; each new key signs the same
envelope, so that nobody claims a key that is another's, or that nobody has. The state keeps
each such envelope: whoever is sent a state, and knows the domain by its old keys, follows them one
by one. No sender of a state can give a domain keys that it has not taken.
"""

from __future__ import annotations

from dataclasses import replace

from quorate.core import dsse, keys, state
from quorate.core.bodies import RekeyDomain
from quorate.core.commands import Command, parse_command
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ENVELOPE_BYTES, MAX_REKEYINGS_PER_DOMAIN
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Domain
from quorate.core.store import Reader
from quorate.core.turn import Done, Turn, Verdict
from quorate.core.verbs import Verb


def rekey_domain(turn: Turn, body: RekeyDomain) -> Verdict:
    """Also of a suspended domain: that somebody else has its key may be why it is suspended."""
    domain = turn.domain
    if body.domain != domain.id:
        return Deny(Reason.NOT_AUTHORIZED, body.domain)
    before, after = _keys(domain), (body.governance_key, body.cosigner_key)
    if before == after:
        return Deny(Reason.ILLEGAL_TRANSITION, domain.id)
    if domain.rekeyings >= MAX_REKEYINGS_PER_DOMAIN:
        return Deny(Reason.LIMIT_EXCEEDED, domain.id)
    fresh = [new for new, old in zip(after, before, strict=True) if new != old]
    for key in fresh:
        if turn.view.key_owner(key) is not None:
            return Deny(Reason.ALREADY_EXISTS, key)
    for key in fresh:
        if not turn.envelope.verify(bytes.fromhex(key)):
            return Deny(Reason.BAD_SIGNATURE, key)
    changed = replace(
        domain,
        governance_key=body.governance_key,
        cosigner_key=body.cosigner_key,
        rekeyings=domain.rekeyings + 1,
        changed=turn.seq,
    )
    state.save_domain(turn.store, changed)
    for key in fresh:
        state.claim_key(turn.store, key, domain.id)
    proof = keys.rekeying(domain.id, domain.rekeyings)
    turn.store.put(proof, turn.envelope.to_bytes())
    return Done.named(domain.id)


def check_rekeyed(later: Reader, origin: str, old: Domain, new: Domain) -> None:
    """Raises MalformedError unless the domain itself has gone from its old keys to the new ones, as
    the envelopes in the later state say."""
    if new.rekeyings < old.rekeyings:
        raise MalformedError(f"{old.id} has lost keys that it took")
    current = old
    for number in range(old.rekeyings, new.rekeyings):
        data = later.get(keys.rekeying(old.id, number))
        envelope, body = read_rekeying(data, old.id)
        is_its_own = envelope.verify(bytes.fromhex(current.governance_key))
        taken = {body.governance_key, body.cosigner_key} - {*_keys(current)}
        is_held = all(envelope.verify(bytes.fromhex(key)) for key in taken)
        if _origin(envelope) != origin or not (is_its_own and is_held):
            raise MalformedError(f"{old.id} has keys that it did not take")
        for key in _keys(current):  # for ever: they are not to be taken again
            if later.get(keys.public_key(key)) != old.id.encode("ascii"):
                raise MalformedError(f"a former key of {old.id} is not on file as its own")
        current = replace(
            current, governance_key=body.governance_key, cosigner_key=body.cosigner_key
        )
    for name in ("governance_key", "cosigner_key"):
        if getattr(current, name) != getattr(new, name):
            raise MalformedError(f"{old.id} has another {name}")


def read_rekeying(data: bytes | None, domain: str) -> tuple[dsse.Envelope, RekeyDomain]:
    """One of the envelopes that a state keeps; nothing is verified but its form. Raises
    MalformedError."""
    if data is None:
        raise MalformedError(f"there is no proof of the keys of {domain}")
    envelope = dsse.parse(data, MAX_ENVELOPE_BYTES)
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


def _keys(domain: Domain) -> tuple[str, str]:
    return domain.governance_key, domain.cosigner_key
