"""What must be true of the messages by which authority comes to be granted.

Owns the check that a quorum has spoken: a leader grants authority after a majority of its voters
has confirmed it, in its term, later than the ask was made; and a voter confirms nobody in a term
that it has left. Sees every message when it is sent, so that order is all the time it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quorate.testing.simulation.world import require
from quorate.v1 import peer_pb2 as pb

if TYPE_CHECKING:
    from quorate.testing.simulation.machine import Machine


class ConfirmPromises:
    """Asks and confirmations, by the order in which they were sent."""

    def __init__(self) -> None:
        self._order = 0
        self._asked: dict[tuple[str, int], int] = {}
        """When each ask was sent, by its node and number."""
        self._confirmed: dict[tuple[str, int, str], int] = {}
        """When (leader, term, voter) was confirmed last."""

    def sent(self, machine: Machine, peer: str, message: pb.PeerMessage, term: int) -> None:
        """term: the sender's, before the turn in which it says this."""
        self._order += 1
        match message.WhichOneof("body"):
            case "authority_ask":
                self._asked[machine.node_id, message.authority_ask.seq] = self._order
            case "confirm_reply":
                reply = message.confirm_reply
                self._confirmed[peer, reply.term, machine.node_id] = self._order
                require(
                    reply.term >= term,
                    "nobody is confirmed in a term that is over",
                    machine.name,
                    f"term {reply.term}, not {term}",
                )
            case "authority_grant":
                self._check_grant(machine, peer, message.authority_grant)

    def _check_grant(self, machine: Machine, peer: str, grant: pb.AuthorityGrant) -> None:
        leader, voters = machine.node_id, machine.running.replica.voters
        asked = self._asked.get((peer, grant.seq))
        said = [
            voter
            for voter in voters
            if voter == leader
            or (asked is not None and self._confirmed.get((leader, grant.term, voter), 0) > asked)
        ]
        require(
            2 * len(said) > len(voters),
            "a majority has confirmed a leader that grants authority",
            machine.name,
            f"to {peer}: {said} of {voters}",
        )
