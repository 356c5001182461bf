"""How a node shows those who do not know it that it belongs to the federation.

Owns the *order*: the signed command by which a domain has added a node. Whoever lags behind has not
read it yet, and knows the domain's governance key all the same. A certificate of the domain's CA
does not stand in for it: a CA issues many, and whom nobody has added must not be able to lead, not
even those who lag. Does not own who is let in (`quorate.consensus.servicer`).
"""

from __future__ import annotations

from typing import Final, Protocol

from quorate.core import codec, dsse
from quorate.core.bodies import AddNode
from quorate.core.commands import open_envelope, parse_command
from quorate.core.errors import MalformedError
from quorate.core.keysets import is_governed, refuse_expired
from quorate.core.limits import MAX_ENVELOPE_BYTES
from quorate.core.records import Domain, Node
from quorate.core.verbs import Verb

_PAGE: Final = 256
_MARK: Final = b'"type":"node.add"'
_ADMISSION: Final = b'"type":"domain.admit"'


class Ledger(Protocol):
    """What is read of a ledger."""

    @property
    def ledger_size(self) -> int: ...

    def ledger_entries(self, first: int, limit: int) -> list[bytes]:
        """At most `limit` entries from `first` on."""
        ...


def find_order(ledger: Ledger, node: Node) -> bytes:
    """The envelope by which a node was added, from the ledger; empty when it was not, as the first
    of a domain that was admitted: no one domain's word stands for that. Looks back from the node's
    latest change: its addition is that, or mostly shortly before."""
    end = min(node.changed + 1, ledger.ledger_size)
    while end > 0:
        first = max(0, end - _PAGE)
        for entry in reversed(ledger.ledger_entries(first, end - first)):
            if _ADMISSION in entry and _admits(entry, node.domain):
                return b""
            if _MARK in entry and node.id.encode() in entry:
                order = _accepted_order(entry, node.id)
                if order:
                    return order
        end = first
    return b""


def _admits(entry: bytes, domain: str) -> bool:
    fields = codec.load(entry)
    assert isinstance(fields, dict), "the ledger's own entries are objects"
    return fields.get("executed") == {"type": Verb.DOMAIN_ADMIT.value, "thing": domain}


def _accepted_order(entry: bytes, node_id: str) -> bytes:
    fields = codec.load(entry)
    assert isinstance(fields, dict), "the ledger's own entries are objects"
    if (fields["type"], fields["decision"], fields["thing"]) != (
        Verb.NODE_ADD,
        "accepted",
        node_id,
    ):
        return b""
    return codec.encode(fields["command"])


def is_order(order: bytes, node_id: str, origin: str, domain: Domain, ledger_time: int) -> bool:
    """Whether these bytes are the order by which `domain`, of which the node is, has added it to
    the ledger `origin`. Whether the ledger has accepted it, and whether it has retired the node
    since, whoever lags cannot know: both are its domain's doing.

    ledger_time: in ms, as late as this node has read, like `domain`. Keys whose time is over by
    then have ordered nobody who is still unknown here: what they ordered in their time was read.
    """
    if not 0 < len(order) <= MAX_ENVELOPE_BYTES:
        return False
    try:
        envelope = open_envelope(order)
        command = parse_command(envelope.payload)
    except MalformedError:
        return False
    return (
        envelope.payload_type == dsse.COMMAND_TYPE
        and isinstance(command.body, AddNode)
        and command.body.node == node_id
        and (command.origin, command.issuer) == (origin, domain.id)
        and is_governed(envelope, domain)
        and refuse_expired(envelope, domain, command.verb, ledger_time) is None
    )
