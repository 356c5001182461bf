"""The commands: what each may say, parsed once into typed values.

Owns their form, and which kind of issuer may give which. Does not know the state: whether a command
may be executed is decided by `quorate.core.transitions`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from quorate.core import attestation_forms, codec, dsse, forms, ids, protocol
from quorate.core.acts import ACTS
from quorate.core.bodies import (
    Body,
    RetirePolicy,
    ThawResources,
)
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.limits import (
    MAX_COMMAND_SIGNATURES,
    MAX_ENVELOPE_BYTES,
    MAX_SIGNATURES,
    PROTOCOL_VERSION,
)
from quorate.core.records import Role
from quorate.core.status import Act
from quorate.core.verbs import Verb


@dataclass(frozen=True, slots=True)
class Command:
    """A well-formed command. Nothing about it is verified.

    issuer: a domain, or a node's SPIFFE ID for what nodes ask. not_after: ledger time.
    fingerprint: what it asks for, less nonce and lifetime; a repeat has the same.
    """

    origin: str
    verb: Verb
    issuer: str
    nonce: str
    not_after: int
    body: Body
    command_id: str
    fingerprint: str

    @property
    def issued_by_node(self) -> bool:
        return is_node(self.issuer)


def is_node(issuer: str) -> bool:
    """Whether an issuer is a node; otherwise it is a domain."""
    return issuer.startswith("spiffe://")


def open_envelope(data: bytes, version: int = protocol.LATEST) -> dsse.Envelope:
    """The envelope of a command, whatever is in it. Raises MalformedError."""
    return dsse.parse(data, MAX_ENVELOPE_BYTES, most=_most_signatures(version))


def envelope_in(entry: object, path: str = "command") -> dsse.Envelope:
    """The envelope of a command that the ledger has taken, as its entry has it. Raises
    MalformedError."""
    return dsse.from_json(entry, path, most=_most_signatures(protocol.LATEST))


def _most_signatures(version: int) -> int:
    return MAX_SIGNATURES if version < protocol.SECOND else MAX_COMMAND_SIGNATURES


def parse_command(payload: bytes, version: int = protocol.LATEST) -> Command:
    """Parses an envelope's payload, by the rules of one version of the protocol. Raises
    MalformedError, whose field names the place: what a later version has brought is malformed, as
    it is to a program that does not know it; and UnsupportedProtocolError for a version that is not
    known here."""
    protocol.check(version)
    value = codec.decode(payload, MAX_ENVELOPE_BYTES)
    fields = Fields(value)
    fields.integer("v", PROTOCOL_VERSION, PROTOCOL_VERSION)
    origin = fields.text("origin", ids.check_origin)
    bodies = _BODIES[version]
    kind = fields.text("type")
    if kind not in bodies:
        raise MalformedError("is no type of command", field="type")
    verb = Verb(kind)
    issuer = fields.text("issuer", _check_issuer)
    nonce = fields.text("nonce", ids.check_nonce)
    not_after = fields.integer("not_after")
    inner = fields.nested("body")
    fields.done()
    body = bodies[verb](inner)
    inner.done()
    assert isinstance(value, dict), "Fields reads objects only"
    return Command(
        origin=origin,
        verb=verb,
        issuer=issuer,
        nonce=nonce,
        not_after=not_after,
        body=body,
        command_id=ids.command_id(issuer, nonce),
        fingerprint=hashlib.sha256(codec.encode([verb, value["body"]])).hexdigest(),
    )


def parse_any(payload: bytes) -> Command:
    """A command of whatever version of the protocol, the latest first: for who does not know which
    the ledger lives by. Raises MalformedError."""
    for version in range(protocol.LATEST, protocol.FIRST, -1):
        with contextlib.suppress(MalformedError):
            return parse_command(payload, version)
    return parse_command(payload, protocol.FIRST)


def is_known(kind: str, version: int) -> bool:
    """Whether there is such a type of command in this version of the protocol."""
    return kind in _BODIES[version]


def _check_issuer(text: str) -> None:
    if is_node(text):
        ids.check_node(text)
    else:
        ids.check_domain(text)


_Bodies = Mapping[Verb, Callable[[Fields], Body]]


def _by_ballot(version: int) -> _Bodies:
    """The acts that are no commands of a domain to itself, too."""
    own = Verb.DOMAIN_SUSPEND, Verb.DOMAIN_REINSTATE
    return {act: read for act, read in ACTS[version].items() if act not in own}


_OF_FIRST: Final[_Bodies] = MappingProxyType(
    {
        **_by_ballot(protocol.FIRST),
        Verb.EXECUTOR_REGISTER: forms.register_executor,
        Verb.EXECUTOR_SUSPEND: forms.govern_executor(Act.SUSPEND),
        Verb.EXECUTOR_REINSTATE: forms.govern_executor(Act.REINSTATE),
        Verb.EXECUTOR_REVOKE: forms.govern_executor(Act.REVOKE),
        Verb.TRUST_OPEN: forms.open_trust,
        Verb.TRUST_NARROW: forms.narrow_trust,
        Verb.TRUST_CLOSE: forms.close_trust,
        Verb.GRANT_ISSUE: forms.issue_grant,
        Verb.GRANT_SUSPEND: forms.govern_grant(Act.SUSPEND),
        Verb.GRANT_REINSTATE: forms.govern_grant(Act.REINSTATE),
        Verb.GRANT_REVOKE: forms.govern_grant(Act.REVOKE),
        Verb.DOMAIN_SUSPEND: forms.govern_domain(Act.SUSPEND),
        Verb.DOMAIN_REINSTATE: forms.govern_domain(Act.REINSTATE),
        Verb.PROPOSAL_OPEN: forms.open_proposal(protocol.FIRST),
        Verb.PROPOSAL_WITHDRAW: forms.withdraw_proposal,
        Verb.BALLOT_CAST: forms.cast_ballot,
        Verb.NODE_ADD: forms.add_node,
        Verb.NODE_PROMOTE: forms.assign_role(Role.VOTER),
        Verb.NODE_DEMOTE: forms.assign_role(Role.OBSERVER),
        Verb.NODE_RETIRE: forms.retire_node,
        Verb.NODE_DECLARE: forms.declare_node,
        Verb.LEASE_ACQUIRE: forms.acquire_lease,
        Verb.LEASE_RENEW: forms.renew_lease,
        Verb.LEASE_RELEASE: forms.release_lease,
        Verb.LINEAGE_APPEND: forms.append_lineage,
    }
)

_OF_SECOND: Final[_Bodies] = MappingProxyType(
    {
        **_OF_FIRST,
        **_by_ballot(protocol.SECOND),
        Verb.TRUST_OPEN: forms.open_passed_trust,
        Verb.GRANT_ISSUE: forms.issue_deep_grant,
        Verb.GRANT_DELEGATE: forms.delegate_grant,
        Verb.GRANT_RECALL: forms.recall_grant,
        Verb.DOMAIN_REKEY: forms.rekey_domain,
        Verb.EXECUTOR_CONTAIN: forms.contain_executor,
        Verb.EXECUTOR_LIFT_CONTAINMENT: forms.lift_containment,
        Verb.RESOURCES_FREEZE: forms.freeze_resources,
        Verb.RESOURCES_THAW: lambda _body: ThawResources(),
        Verb.POLICY_PUBLISH: forms.publish_policy,
        Verb.POLICY_RETIRE: lambda _body: RetirePolicy(),
        Verb.LEASE_ACQUIRE: forms.acquire_told_lease,
        Verb.PROPOSAL_OPEN: forms.open_proposal(protocol.SECOND),
        Verb.ATTESTATION_SET_REFERENCE: attestation_forms.set_reference,
        Verb.ATTESTATION_RETIRE_REFERENCE: attestation_forms.retire_reference,
        Verb.ATTESTATION_CHALLENGE: attestation_forms.challenge_executor,
        Verb.ATTESTATION_REPORT: attestation_forms.report_attestation,
        Verb.ATTESTATION_DRIFT: attestation_forms.report_drift,
    }
)

_BODIES: Final[Mapping[int, _Bodies]] = MappingProxyType(
    {protocol.FIRST: _OF_FIRST, protocol.SECOND: _OF_SECOND}
)
"""How the commands of each version are read."""
