"""Who holds changes up: asking the leader, answering as one, and what was answered last.

Owns how often either is done, and what of an answer is taken. For people to look at alone: no level
ever follows from it (see `authority_keeper`). Asks only when somebody waits here. Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from quorate.consensus import PeerError
from quorate.consensus.limits import MAX_MEMBERS
from quorate.lease.clock import Clock
from quorate.lease.confirm import Leadership
from quorate.node.authority_wire import OpenMember, OpenReply

ASK_EVERY_MS: Final = 100
"""Of one node, however many wait there."""
ANSWER_EVERY_MS: Final = 50
"""To one node: who asks more often gets no more answers. Less than between two asks, for links do
not keep distances."""
KNOWN_FOR_MS: Final = 1_000
"""An answer that is older says nothing of now."""
_NS_PER_MS: Final = 1_000_000


class OpenMembers:
    """One node's part in it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: tuple[str, int] | None = None
        self._answered_ns: dict[str, int] = {}
        self._told: tuple[int, int, tuple[OpenMember, ...]] | None = None

    def may_ask(self, leader: str) -> bool:
        """Whether to ask the leader now. It counts as asked then."""
        now = self._clock.boottime_ns()
        if self._asked is not None:
            asked, at = self._asked
            if asked == leader and now - at < ASK_EVERY_MS * _NS_PER_MS:
                return False
        self._asked = leader, now
        return True

    def may_answer(self, peer: str, members: Collection[str]) -> bool:
        """Whether to answer `peer` now. It counts as answered then. members: who may ask."""
        now = self._clock.boottime_ns()
        if peer not in members:
            return False
        at = self._answered_ns.get(peer)
        if at is not None and now - at < ANSWER_EVERY_MS * _NS_PER_MS:
            return False
        self._answered_ns = {m: ns for m, ns in self._answered_ns.items() if m in members}
        self._answered_ns[peer] = now
        return True

    def on_reply(self, peer: str, reply: OpenReply, raft: Leadership) -> None:
        """Takes in an answer: of the leader of now, in its term, to a question. Raises PeerError
        for one that no correct leader gives."""
        names = {each.node_id for each in reply.members}
        if len(names) < len(reply.members) or len(names) > MAX_MEMBERS:
            raise PeerError(f"{peer} names {len(reply.members)} members that are open")
        for each in reply.members:
            if each.drained_index > each.enforced_index:
                raise PeerError(f"{peer} says that more is drained than enforced: {each}")
        if self._asked is None or peer != raft.leader or reply.term != raft.term:
            return
        # Those that this node does not know (yet) are left out, so that it shows no more names
        # than there are members, and none that a leader has made up.
        known = tuple(each for each in reply.members if each.node_id in raft.members)
        self._told = reply.term, self._clock.boottime_ns(), known

    def told(self, raft: Leadership) -> tuple[OpenMember, ...] | None:
        """As the leader of now has said a moment ago; None: it has not."""
        if self._told is None or raft.leader is None:
            return None
        term, at, members = self._told
        is_recent = self._clock.boottime_ns() - at < KNOWN_FOR_MS * _NS_PER_MS
        return members if is_recent and term == raft.term else None
