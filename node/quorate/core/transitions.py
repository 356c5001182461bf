"""The one place where the replicated state changes.

Owns `install_genesis`, `apply`, and the order in which a command is judged:

    form -> origin -> issuer -> signature -> seen before? -> issuer a member? -> lifetime
         -> signatures of other keys -> rate -> authority -> its handler

`apply` is total: whatever the bytes and the state, it returns an outcome and the ledger entry that
records it. Only StorageError and MemoryError pass through; the caller abandons its turn then. It is
atomic: a command that is denied changes nothing but ledger time, what is remembered of commands,
and what is forgotten of them. What a command means is in `governing`, `balloting`, `membership`,
`leasing` and `reporting`; when it is durable is the business of storage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from quorate.core import (
    attesting,
    balloting,
    codec,
    containing,
    delegating,
    dsse,
    entries,
    governing,
    leasing,
    membership,
    protocol,
    publishing,
    rates,
    rekeying,
    reporting,
    state,
)
from quorate.core.bodies import NodeBody
from quorate.core.commands import Command, is_node, open_envelope, parse_command
from quorate.core.errors import MalformedError, StorageDamagedError, StorageError
from quorate.core.genesis import Genesis
from quorate.core.keysets import refuse_expired, refuse_unsigned
from quorate.core.limits import (
    MAX_COMMAND_LIFETIME_MS,
    MAX_ENVELOPE_BYTES,
    NONCES_FORGOTTEN_PER_COMMAND,
)
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.core.records import Domain, Federation, Node, Role
from quorate.core.rekeying import refuse_half_signed
from quorate.core.remembered import Remembered
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import Overlay, Writer
from quorate.core.turn import Done, Turn, Verdict
from quorate.core.verbs import Verb

_HANDLERS: Final = MappingProxyType[Verb, Callable[[Turn, Any], Verdict]](
    {
        Verb.EXECUTOR_REGISTER: governing.register_executor,
        Verb.EXECUTOR_SUSPEND: governing.govern_executor,
        Verb.EXECUTOR_REINSTATE: governing.govern_executor,
        Verb.EXECUTOR_REVOKE: governing.govern_executor,
        Verb.EXECUTOR_CONTAIN: containing.contain,
        Verb.EXECUTOR_LIFT_CONTAINMENT: containing.lift_containment,
        Verb.TRUST_OPEN: governing.open_trust,
        Verb.TRUST_NARROW: governing.narrow_trust,
        Verb.TRUST_CLOSE: governing.close_trust,
        Verb.GRANT_ISSUE: governing.issue_grant,
        Verb.GRANT_SUSPEND: governing.govern_grant,
        Verb.GRANT_REINSTATE: governing.govern_grant,
        Verb.GRANT_REVOKE: governing.govern_grant,
        Verb.GRANT_DELEGATE: delegating.delegate_grant,
        Verb.GRANT_RECALL: delegating.recall_grant,
        Verb.RESOURCES_FREEZE: governing.freeze_resources,
        Verb.RESOURCES_THAW: governing.thaw_resources,
        Verb.POLICY_PUBLISH: publishing.publish_policy,
        Verb.POLICY_RETIRE: publishing.retire_policy,
        Verb.DOMAIN_SUSPEND: governing.govern_domain,
        Verb.DOMAIN_REINSTATE: governing.govern_domain,
        Verb.DOMAIN_REKEY: rekeying.rekey_domain,
        Verb.DOMAIN_ADMIT: balloting.needs_ballot,
        Verb.DOMAIN_EXPEL: balloting.needs_ballot,
        Verb.FEDERATION_SET_THRESHOLDS: balloting.needs_ballot,
        Verb.FEDERATION_SET_PARAMETERS: balloting.needs_ballot,
        Verb.FEDERATION_SET_RATES: balloting.needs_ballot,
        Verb.FEDERATION_UPGRADE: balloting.needs_ballot,
        Verb.FEDERATION_FREEZE: balloting.needs_ballot,
        Verb.FEDERATION_THAW: balloting.needs_ballot,
        Verb.FEDERATION_SET_POLICY: balloting.needs_ballot,
        Verb.FEDERATION_RETIRE_POLICY: balloting.needs_ballot,
        Verb.FEDERATION_REINSTATE_EXECUTOR: balloting.needs_ballot,
        Verb.PROPOSAL_OPEN: balloting.open_proposal,
        Verb.PROPOSAL_WITHDRAW: balloting.withdraw_proposal,
        Verb.BALLOT_CAST: balloting.cast_ballot,
        Verb.NODE_ADD: membership.add_node,
        Verb.NODE_PROMOTE: membership.assign_role,
        Verb.NODE_DEMOTE: membership.assign_role,
        Verb.NODE_RETIRE: membership.retire_node,
        Verb.NODE_DECLARE: membership.declare_node,
        Verb.LEASE_ACQUIRE: leasing.acquire_lease,
        Verb.LEASE_RENEW: leasing.renew_lease,
        Verb.LEASE_RELEASE: leasing.release_lease,
        Verb.LINEAGE_APPEND: reporting.append_lineage,
        Verb.ATTESTATION_SET_REFERENCE: attesting.set_reference,
        Verb.ATTESTATION_RETIRE_REFERENCE: attesting.retire_reference,
        Verb.ATTESTATION_CHALLENGE: attesting.challenge_executor,
        Verb.ATTESTATION_REPORT: attesting.report_attestation,
        Verb.ATTESTATION_DRIFT: attesting.report_drift,
    }
)
"""`quorate.core.commands` gives each verb the body that its handler here takes."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one payload.

    entry: the leaf to append to the ledger; None for a repeat, which makes none.
    kind: the command's type, or `malformed`.
    fault: what went wrong inside when the reason is INTERNAL, for whoever keeps the log.
    """

    outcome: Outcome
    entry: bytes | None
    kind: str
    fault: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A well-formed command in its envelope."""

    command: Command
    envelope: dsse.Envelope


@dataclass(frozen=True, slots=True)
class _Issuer:
    """Who has signed a command: a domain, or a node of it. gone: why it gives no more."""

    domain: Domain
    gone: Deny | None


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is to be done about a payload. remembered: what to keep of it, and what it replaces.
    meters: what it counts for."""

    outcome: Outcome
    remembered: Remembered | None = None
    replaces: Remembered | None = None
    meters: tuple[rates.Meter, ...] = ()


@dataclass(frozen=True, slots=True)
class _Case:
    """One payload and where it stands: on the ledger `origin`, at ledger time `now`, to be entry
    `seq`. data: the payload less its stamp."""

    origin: str
    data: bytes
    admitted: _Admitted | Deny
    now: int
    seq: int

    @property
    def command_id(self) -> str:
        if isinstance(self.admitted, _Admitted):
            return self.admitted.command.command_id
        return hashlib.sha256(self.data).hexdigest()

    @property
    def kind(self) -> str:
        if isinstance(self.admitted, _Admitted):
            return self.admitted.command.verb
        return entries.MALFORMED

    def refused(self, deny: Deny) -> _Judged:
        """Without a memory of it: nobody is known to have asked for it, or it cannot be repeated
        with another result."""
        return _Judged(Outcome(False, deny.reason, deny.thing, self.seq, self.command_id))


def install_genesis(store: Writer, genesis: Genesis) -> bytes:
    """Puts a verified genesis into an empty store; returns the bytes of leaf 0.

    Raises StorageError, also when the store has a genesis already.
    """
    if StateView(store).installed():
        raise StorageDamagedError("the store has a genesis already")
    overlay = Overlay(store)
    federation = Federation(
        origin=genesis.origin,
        genesis_hash=genesis.hash.hex(),
        created=genesis.created,
        parameters=genesis.parameters,
        ledger_time=genesis.created,
        protocol=genesis.protocol,
    )
    state.save_federation(overlay, federation)
    for item in genesis.descriptors:
        domain = Domain(
            domain=item.domain,
            status=Status.ACTIVE,
            suspended_by="",
            governance_key=item.governance_key.hex(),
            cosigner_key=item.cosigner_key.hex(),
            ca_certificate=item.ca_certificate,
            changed=0,
        )
        node = Node(
            node=item.node.id,
            domain=item.domain,
            peer_address=item.node.peer_address,
            signing_key=item.node.signing_key.hex(),
            log_key=item.node.log_key.hex(),
            role=Role.VOTER,
            status=Status.ACTIVE,
            changed=0,
            protocol=genesis.protocol,
        )
        state.save_member(overlay, domain, node)
    overlay.commit()
    outcome = Outcome(True, None, "", 0, genesis.hash.hex())
    return entries.entry(
        origin=genesis.origin,
        kind=entries.GENESIS,
        outcome=outcome,
        ledger_time=genesis.created,
        command=entries.of_envelope(genesis.envelope),
    )


def apply(store: Writer, payload: bytes, seq: int) -> Applied:
    """Executes one committed payload of the replicated log (see `quorate.core.codec.stamp`).

    seq: the index of the next ledger leaf. Total and atomic; raises StorageError, MemoryError, and
    UnsupportedProtocolError where the federation lives by rules that are not known here, only.
    """
    federation = StateView(store).federation()
    protocol.check(federation.protocol)
    case = _open(federation, payload, seq)
    overlay = Overlay(store)
    fault: Exception | None = None
    try:
        judged = _judge(overlay, case)
    except (StorageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # every node must decide the same, and go on
        fault = error
        judged = case.refused(Deny(Reason.INTERNAL))
    outcome = judged.outcome
    if not outcome.accepted:
        overlay.discard()
    state.save_ledger_time(overlay, case.now)
    rates.charge(overlay, judged.meters, case.now)
    if judged.remembered is not None:
        state.remember(overlay, judged.remembered, judged.replaces)
    state.forget(overlay, case.now, NONCES_FORGOTTEN_PER_COMMAND)
    entry = None if outcome.duplicate else _record(case, outcome)
    overlay.commit()
    return Applied(outcome, entry, case.kind, fault)


def _open(federation: Federation, payload: bytes, seq: int) -> _Case:
    try:
        stamped, data = codec.unstamp(payload)
    except MalformedError:
        now, refusal = federation.ledger_time, Deny(Reason.MALFORMED_COMMAND, "stamp")
        return _Case(federation.origin, payload, refusal, now, seq)
    now = max(federation.ledger_time, stamped)
    return _Case(federation.origin, data, _admit(data, federation.protocol), now, seq)


def _admit(data: bytes, version: int) -> _Admitted | Deny:
    """The command that the bytes are, by the rules of this version; or that they are none."""
    if len(data) > MAX_ENVELOPE_BYTES:
        return Deny(Reason.TOO_LARGE)
    try:
        envelope = open_envelope(data, version)
        if envelope.payload_type != dsse.COMMAND_TYPE:
            return Deny(Reason.MALFORMED_COMMAND, "payloadType")
        return _Admitted(parse_command(envelope.payload, version), envelope)
    except MalformedError as error:
        return Deny(Reason.MALFORMED_COMMAND, error.field)


def examine(view: StateView, data: bytes, latest_ms: int) -> Deny | None:
    """What can be said against a command before it is proposed: what `apply` would deny at this
    state without remembering it, so that anybody could have it denied again and again, and each
    time recorded. `apply` asks all of it anew.

    latest_ms: as late as ledger time can be by now, by the asker's own clocks.
    """
    version = view.federation().protocol
    admitted = _admit(data, version)
    if isinstance(admitted, Deny):
        if version < protocol.LATEST and isinstance(_admit(data, protocol.LATEST), _Admitted):
            return Deny(Reason.UNSUPPORTED_PROTOCOL, f"protocol {version}")
        return admitted
    issuer = _authenticate(view, admitted)
    if isinstance(issuer, Deny):
        return issuer
    command = admitted.command
    before = _recalled(view.remembered(command.command_id), view.ledger_time())
    if before is not None and before.fingerprint == command.fingerprint:
        return None
    if before is not None and before.reserved >= view.ledger_time():
        return Deny(Reason.NONCE_REUSED, command.nonce)
    if issuer.gone is not None:
        return issuer.gone
    if command.not_after < view.ledger_time():
        return Deny(Reason.EXPIRED_COMMAND, command.command_id)
    if command.not_after > max(latest_ms, view.ledger_time()) + MAX_COMMAND_LIFETIME_MS:
        return Deny(Reason.LIFETIME_TOO_LONG, command.command_id)
    lacking = refuse_half_signed(admitted.envelope, issuer.domain, command, view.ledger_time())
    if lacking is not None:
        return lacking
    meters = rates.meters(view, command, issuer.domain)
    return rates.exceeded(view, meters, max(latest_ms, view.ledger_time()))


def outcome_of(view: StateView, data: bytes) -> Outcome | None:
    """What became of exactly this command, while the state remembers it; None: nothing is known."""
    admitted = _admit(data, view.federation().protocol)
    if isinstance(admitted, Deny):
        return None
    command = admitted.command
    before = view.remembered(command.command_id)
    known = before is not None and before.fingerprint == command.fingerprint
    return before.outcome if before is not None and known else None


def _judge(overlay: Overlay, case: _Case) -> _Judged:
    admitted = case.admitted
    if isinstance(admitted, Deny):
        return case.refused(admitted)
    command = admitted.command
    view = StateView(overlay)
    issuer = _authenticate(view, admitted)
    if isinstance(issuer, Deny):
        return case.refused(issuer)
    # From here on the issuer itself is known to have spoken: only now may its nonces be used up.
    stored = view.remembered(command.command_id)
    before = _recalled(stored, case.now)
    if before is not None and before.fingerprint == command.fingerprint:
        return _repeated(before, command)
    if before is not None and before.reserved >= case.now:
        return case.refused(Deny(Reason.NONCE_REUSED, command.nonce))
    if issuer.gone is not None:
        return case.refused(issuer.gone)
    if command.not_after < case.now:
        return case.refused(Deny(Reason.EXPIRED_COMMAND, command.command_id))
    if command.not_after > case.now + MAX_COMMAND_LIFETIME_MS:
        return case.refused(Deny(Reason.LIFETIME_TOO_LONG, command.command_id))
    lacking = refuse_half_signed(admitted.envelope, issuer.domain, command, case.now)
    if lacking is not None:
        return case.refused(lacking)
    meters = rates.meters(view, command, issuer.domain)
    limited = rates.exceeded(view, meters, case.now)
    if limited is not None:
        return case.refused(limited)
    outcome = execute(
        Turn(overlay, view, command, admitted.envelope, issuer.domain, case.now, case.seq)
    )
    until = command.not_after
    remembered = Remembered(outcome, command.fingerprint, until, until)
    return _Judged(outcome, remembered, stored, meters)


def _authenticate(view: StateView, admitted: _Admitted) -> _Issuer | Deny:
    """Who the command comes from, if its issuer signed it for this ledger."""
    origin = view.federation().origin
    if admitted.command.origin != origin:
        return Deny(Reason.WRONG_ORIGIN, admitted.command.origin)
    issuer = admitted.command.issuer
    node = view.node(issuer) if is_node(issuer) else None
    domain = view.domain(node.domain if node is not None else issuer)
    if domain is None:
        return Deny(Reason.UNKNOWN_ISSUER, issuer)
    if node is None:
        refusal = refuse_unsigned(admitted.envelope, domain, admitted.command.verb, issuer)
        if refusal is not None:
            return refusal
    elif not admitted.envelope.verify(bytes.fromhex(node.signing_key)):
        return Deny(Reason.BAD_SIGNATURE, issuer)
    if node is not None and node.retired:
        return _Issuer(domain, Deny(Reason.NODE_RETIRED, issuer))
    is_expelled = domain.status is Status.REVOKED
    return _Issuer(domain, Deny(Reason.DOMAIN_REVOKED, domain.id) if is_expelled else None)


def _recalled(stored: Remembered | None, now: int) -> Remembered | None:
    """What still counts of what is remembered. When it is cleared away depends on repeats, too, of
    which the ledger has no entries: whoever executes its entries again must not need to know."""
    return stored if stored is not None and stored.not_after >= now else None


def _repeated(before: Remembered, command: Command) -> _Judged:
    """The first outcome again. It is remembered for as long as any repeat could be executed."""
    outcome = replace(before.outcome, duplicate=True)
    if command.not_after <= before.not_after:
        return _Judged(outcome)
    return _Judged(outcome, replace(before, not_after=command.not_after), before)


def execute(turn: Turn) -> Outcome:
    """What an admitted command does, in the turn's store, and its outcome. What is denied may have
    written something all the same: the caller undoes it. Raises StorageError."""
    command = turn.command
    is_by_node = is_node(command.issuer)
    expired = None
    if not is_by_node:
        expired = refuse_expired(turn.envelope, turn.domain, command.verb, turn.ledger_time)
    verdict: Verdict
    if is_by_node != isinstance(command.body, NodeBody):
        verdict = Deny(Reason.NOT_AUTHORIZED, command.issuer)
    elif expired is not None:
        verdict = Deny(expired, turn.domain.id)
    else:
        verdict = _HANDLERS[command.verb](turn, command.body)
    if isinstance(verdict, Done):
        return Outcome(
            True, None, verdict.thing, turn.seq, command.command_id, result=verdict.result
        )
    return Outcome(False, verdict.reason, verdict.thing, turn.seq, command.command_id)


def _record(case: _Case, outcome: Outcome) -> bytes:
    if isinstance(case.admitted, Deny):
        command = entries.of_bytes(case.data)
    else:
        command = entries.of_envelope(case.admitted.envelope)
    return entries.entry(
        origin=case.origin, kind=case.kind, outcome=outcome, ledger_time=case.now, command=command
    )
