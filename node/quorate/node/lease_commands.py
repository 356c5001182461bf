"""Lease commands, as a node builds and signs them for the executors of its own domain.

Owns the form of such a command and the refusal of wishes that need not be put to the ledger. Does
not own who may ask (`quorate.api`), nor what the ledger decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from quorate.core import rates
from quorate.core.commands import is_known
from quorate.core.decision import active_executor, held_lease
from quorate.core.ids import SpiffeId
from quorate.core.limits import MAX_COMMAND_LIFETIME_MS
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Executor
from quorate.core.routing import split_id
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.proofs.commands import build_command
from quorate.proofs.signing import SigningKey

_LIFETIME_MS: Final = 60_000
"""How long a lease command may be on its way; the ledger remembers its nonce as long."""
assert _LIFETIME_MS <= MAX_COMMAND_LIFETIME_MS
_PROVING: Final = ("attestation.challenge", "attestation.report")
_NARROWING: Final = frozenset({"lease.release", "grant.recall", "attestation.drift"})
"""What whoever is suspended may still do."""


def unfit_wish(
    view: StateView, kind: str, body: Mapping[str, object], latest_ms: int
) -> Deny | None:
    """Why a wish need not be put to the ledger at all, on this node's own state: whoever holds a
    certificate, even one of long ago, could fill everybody's ledger with denials. latest_ms: as
    late as ledger time can be by now."""
    executor, lease = str(body.get("executor")), body.get("lease")
    version = view.federation().protocol
    if not is_known(kind, version):
        return Deny(Reason.UNSUPPORTED_PROTOCOL, f"protocol {version}")
    asker: Executor | Deny | None = None
    if kind.startswith(_PROVING):
        asker = _may_prove(view, executor, body)
    elif kind not in _NARROWING:
        asker = active_executor(view, executor, view.ledger_time())
    held = held_lease(view, str(lease), executor) if lease is not None else None
    granted = _own_grant(view, kind, str(body["grant"]), executor) if "grant" in body else None
    refused = next((found for found in (asker, held, granted) if isinstance(found, Deny)), None)
    if refused is not None:
        return refused
    meters = rates.meters_of_wish(view, kind, SpiffeId.parse(executor).trust_domain, executor)
    return rates.exceeded(view, meters, max(latest_ms, view.ledger_time()))


def _may_prove(view: StateView, executor: str, body: Mapping[str, object]) -> Deny | None:
    """Suspended or not: it may have to prove something to be reinstated. But nothing that nobody
    wants proved, and nothing that it was not asked."""
    found = view.executor(executor)
    if found is None:
        return Deny(Reason.UNKNOWN_EXECUTOR, executor)
    if found.status is Status.REVOKED:
        return Deny(Reason.EXECUTOR_REVOKED, executor)
    if "challenge" in body:
        asked = found.challenge
        is_asked = asked is not None and asked.text == body["challenge"]
        return None if is_asked else Deny(Reason.NO_CHALLENGE, executor)
    if any(each.covers(executor) for each in view.references(found.domain)):
        return None
    return Deny(Reason.NOT_FOUND, executor)


def _own_grant(view: StateView, kind: str, ident: str, executor: str) -> Deny | None:
    """A grant that the executor has, and may pass on; or one that it has passed on."""
    grant = view.grant(*split_id(ident))
    if grant is not None and kind == "grant.recall":
        if grant.status is Status.REVOKED:
            return Deny(Reason.FINAL, ident)
        grant = view.grant(*split_id(grant.parent)) if grant.parent else None
    elif grant is not None and not grant.max_depth:
        return Deny(Reason.WIDENS, "max_depth")
    if grant is None:
        return Deny(Reason.NOT_FOUND, ident)
    return None if grant.executor == executor else Deny(Reason.NOT_AUTHORIZED, ident)


def parents_of(body: Mapping[str, object]) -> list[str]:
    """The leases that a wish says its work comes from."""
    parents = body.get("parents", ())
    return [str(each) for each in parents] if isinstance(parents, list | tuple) else []


@dataclass(frozen=True, slots=True)
class LeaseCommands:
    """Builds the lease commands of one node."""

    origin: str
    node_id: str
    key: SigningKey

    def build(
        self, kind: str, body: Mapping[str, object], nonce: str, ledger_time_ms: int
    ) -> bytes:
        """The signed envelope; it is good for a minute from `ledger_time_ms`. The same arguments
        give the same bytes."""
        return build_command(
            origin=self.origin,
            issuer=self.node_id,
            command_type=kind,
            body=body,
            nonce=nonce,
            not_after=ledger_time_ms + _LIFETIME_MS,
            key=self.key,
        )
