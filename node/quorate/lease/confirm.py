"""The leader's side of authority: confirm rounds.

Owns the question whether a quorum still takes this node for its leader, asked anew for each
request (Raft thesis, 6.4, read-only queries). Does not own Raft: it is told the term, the commit
index and the voters. Connection counts and the engine's own idea of a quorum play no part.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from quorate.lease.authority import Ask, FederationTime, Grant

_MAX_ASKS_PER_NODE: Final = 4
_MAX_TIMED_ROUNDS: Final = 64
_RETRY_NS: Final = 100_000_000
"""A confirm that is not answered is sent again after this: the link may have been lost."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """Does the receiver take the sender for the leader of `term`?"""

    term: int
    round: int


@dataclass(frozen=True, slots=True)
class ConfirmReply:
    """It does: the replier's term is `term`, and it knows the leader to whom this goes."""

    term: int
    round: int


class Leadership(Protocol):
    """Raft, as the rounds need it."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def term(self) -> int: ...

    @property
    def commit_index(self) -> int: ...

    @property
    def last_index(self) -> int:
        """Of its log, committed or not."""
        ...

    @property
    def commits_own_term(self) -> bool: ...

    @property
    def leader(self) -> str | None: ...

    @property
    def voters(self) -> Sequence[str]:
        """Of the configuration in force, committed or not: whose majority elects and commits."""
        ...

    @property
    def members(self) -> Sequence[str]:
        """Voters and learners of the configuration in force."""
        ...

    @property
    def committed_members(self) -> Sequence[str]:
        """Voters and learners of the newest configuration that is known to be committed."""
        ...


def confirms(sender: str, confirm: Confirm, raft: Leadership) -> ConfirmReply | None:
    """A voter's answer: only for the leader that it knows, in the term that it is in."""
    if raft.term == confirm.term and raft.leader == sender:
        return ConfirmReply(confirm.term, confirm.round)
    return None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An ask whose read index is noted, and which needs a majority in `round` or a later one."""

    node: str
    seq: int
    read_index: int
    round: int


class ConfirmRounds:
    """Grants authority to nodes that ask, each after a round that began after it asked.

    peers: the voters but for this node, and, until `reconfigure`, who else may ask.

    A round is a number: a voter that has confirmed round r in this term has confirmed all before.
    """

    def __init__(self, node_id: str, peers: Sequence[str]) -> None:
        self._node_id = node_id
        self._peers = tuple(peers)
        self._askers = frozenset((node_id, *peers))
        self._term = 0
        self._round = 0
        self._sent_ns = 0
        self._arrived: list[tuple[str, int]] = []
        self._waiting: deque[_Waiting] = deque()
        self._confirmed: dict[str, int] = {}
        self._begun_ns: deque[tuple[int, int]] = deque(maxlen=_MAX_TIMED_ROUNDS)

    def reconfigure(self, other_voters: Sequence[str], askers: Collection[str]) -> None:
        """Others vote, or others may be granted authority, than before. Call it before `grants`:
        it is the configuration in force whose majority has to confirm."""
        self._peers = tuple(other_voters)
        self._askers = frozenset(askers)
        self._arrived = [each for each in self._arrived if each[0] in self._askers]
        self._waiting = deque(each for each in self._waiting if each.node in self._askers)
        self._confirmed = {
            peer: number for peer, number in self._confirmed.items() if peer in self._peers
        }

    def on_ask(self, node: str, ask: Ask) -> None:
        """Takes in an ask; it is served by the next round. Too many of one node: the oldest go.
        Who may not be granted authority is not heard."""
        if node not in self._askers:
            return
        mine = [seq for asker, seq in self._arrived if asker == node]
        if len(mine) >= _MAX_ASKS_PER_NODE:
            self._arrived.remove((node, mine[0]))
        self._arrived.append((node, ask.seq))

    def start_round(self, raft: Leadership, now_ns: int) -> list[tuple[str, Confirm]]:
        """Notes the commit index for the asks that wait, and asks the voters. Call it each turn,
        after messages were taken in."""
        if not raft.is_leader or raft.term != self._term:
            self._term = raft.term
            self._waiting.clear()
            self._confirmed.clear()
            self._begun_ns.clear()
        if not raft.is_leader:
            self._arrived.clear()
            return []
        if self._arrived and raft.commits_own_term:
            self._round += 1
            self._begun_ns.append((self._round, now_ns))
            for node, seq in self._arrived:
                self._make_room(node)
                self._waiting.append(_Waiting(node, seq, raft.commit_index, self._round))
            self._arrived.clear()
        elif not self._waiting or now_ns - self._sent_ns < _RETRY_NS:
            return []
        self._sent_ns = now_ns
        return [(peer, Confirm(raft.term, self._round)) for peer in self._peers]

    def _make_room(self, node: str) -> None:
        mine = [waiting for waiting in self._waiting if waiting.node == node]
        if len(mine) >= _MAX_ASKS_PER_NODE:
            self._waiting.remove(mine[0])

    def on_reply(self, peer: str, reply: ConfirmReply) -> None:
        """Takes in a voter's answer; one for another term or a round that never was is void."""
        if reply.term == self._term and reply.round <= self._round and peer in self._peers:
            self._confirmed[peer] = max(self._confirmed.get(peer, 0), reply.round)

    def grants(
        self, raft: Leadership, time: FederationTime, period_ms: int
    ) -> list[tuple[str, Grant]]:
        """The grants for which a majority has answered by now, each for so long at the most."""
        if not raft.is_leader or raft.term != self._term:
            return []
        closed = self._closed()
        granted = []
        while self._waiting and self._waiting[0].round <= closed:
            done = self._waiting.popleft()
            grant = Grant(done.seq, raft.term, done.read_index, time, period_ms)
            granted.append((done.node, grant))
        return granted

    def _closed(self) -> int:
        """The newest round that a majority has confirmed; 0: none."""
        majority = (len(self._peers) + 1) // 2 + 1
        by_round = sorted([self._round, *self._confirmed.values()], reverse=True)
        return by_round[majority - 1] if len(by_round) >= majority else 0

    def take_durations_ns(self, now_ns: int) -> list[int]:
        """How long those rounds took, from start to majority, that were closed since the last call.
        Call it where `grants` is called."""
        closed = self._closed()
        took = []
        while self._begun_ns and self._begun_ns[0][0] <= closed:
            took.append(now_ns - self._begun_ns.popleft()[1])
        return took

    def pending_read_index(self, node: str) -> int | None:
        """The lowest state for which `node` may yet be granted authority, if any is pending."""
        return min((w.read_index for w in self._waiting if w.node == node), default=None)
