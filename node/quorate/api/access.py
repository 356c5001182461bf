"""Who is calling, and whether this service is for them.

Owns the reading of the peer's certificate identity and the rules for each kind of service. That the
certificate was issued by the node's own domain is TLS's part: a public server trusts that CA only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from quorate.api.errors import NotPermittedError, UnauthenticatedError
from quorate.core.errors import MalformedError
from quorate.core.ids import SpiffeId

NODE_PATH: Final = "/node/"
OPERATOR_PATH: Final = "/operator/"
_TRANSPORT: Final = "transport_security_type"
_SPIFFE: Final = "peer_spiffe_id"


class PeerContext(Protocol):
    """The part of a gRPC servicer context that says who the peer is."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of a node whose domain is `trust_domain`."""

    trust_domain: str

    def executor(self, context: PeerContext) -> str:
        """The executor that calls, as a SPIFFE ID: of this domain, and neither node nor operator.

        Raises UnauthenticatedError or NotPermittedError.
        """
        caller = self.member(context)
        path = SpiffeId.parse(caller).path
        if path.startswith((NODE_PATH, OPERATOR_PATH)) or path in ("/node", "/operator"):
            raise NotPermittedError("this service is for executors, not for nodes and operators")
        return caller

    def own(self, context: PeerContext, named: str) -> str:
        """The executor that calls, which may name itself and nobody else; empty: it names nobody.

        Raises UnauthenticatedError or NotPermittedError.
        """
        caller = self.executor(context)
        if named not in ("", caller):
            raise NotPermittedError("an executor asks about itself only")
        return caller

    def any_for_operators(self, context: PeerContext, named: str) -> str:
        """The executor that an operator names, whichever that is; empty: it has named none. For
        executors as `own`.

        Raises UnauthenticatedError or NotPermittedError.
        """
        caller = self.member(context)
        if SpiffeId.parse(caller).path.startswith(OPERATOR_PATH):
            return named
        return self.own(context, named)

    def member(self, context: PeerContext) -> str:
        """Whoever of this domain calls, as a SPIFFE ID.

        Raises UnauthenticatedError or NotPermittedError.
        """
        identity = context.auth_context()
        # An insecure port has no transport type, whatever properties it would claim.
        if _single(identity, _TRANSPORT) != "ssl":
            raise UnauthenticatedError("the connection is not mutual TLS")
        claimed = _single(identity, _SPIFFE)
        if claimed is None:
            raise UnauthenticatedError("the client certificate does not name one SPIFFE ID")
        try:
            spiffe_id = SpiffeId.parse(claimed)
        except MalformedError as error:
            raise UnauthenticatedError("the client certificate's SPIFFE ID is malformed") from error
        if spiffe_id.trust_domain != self.trust_domain:
            raise NotPermittedError("the client certificate is of another trust domain")
        return claimed


def _single(identity: Mapping[str, Iterable[bytes]], name: str) -> str | None:
    """The property's only value; None when it is absent, repeated, or not ASCII."""
    values = list(identity.get(name, ()))
    if len(values) != 1:
        return None
    try:
        return values[0].decode("ascii")
    except UnicodeDecodeError:
        return None
