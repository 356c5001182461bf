"""When a replica may ask for votes: pre-vote, leader stickiness, and handing leadership over; and
how far messages may move its term.

Owns what one replica knows for that, and the rules (Raft thesis 9.6, 4.2.3 and 3.10): nobody starts
an election, and so nobody's term grows, before a majority has said that it would vote; who hears a
leader says no; only the leader itself can ask for an election while it is heard. Nor does the word
of others make it grow without bound. Does not own terms and votes (`engine`, with the engine's own
election code) nor sending.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from quorate.consensus.limits import MAX_TERM_STEP, MAX_TERMS_PER_S
from quorate.consensus.messages import PreVoteReply, PreVoteRequest
from quorate.consensus.rules import LogView, has_majority, is_up_to_date
from quorate.consensus.settings import RaftSettings

_NEVER: Final = float("-inf")
_FIRST_RETRY: Final = 2
_LAST_RETRY: Final = 4
"""A pre-vote without a majority is tried again after a random time between so many heartbeats."""


@dataclass(slots=True)
class _HandOver:
    heir: str
    until: float
    tell_at: float = _NEVER


class Elections:
    """One replica's elections. Times are seconds of the replica's clock."""

    def __init__(
        self, clock: Callable[[], float], settings: RaftSettings, chance: random.Random
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._chance = chance
        self._heard_at = _NEVER
        self._asked_term: int | None = None
        self._would_vote: set[str] = set()
        self._hand_over: _HandOver | None = None
        self._room = float(MAX_TERM_STEP)
        self._room_at = clock()
        self.is_called = False
        """Whether this replica may campaign now: a majority, or its leader, has said so."""
        self.is_heir = False
        """Whether it was the leader who said so."""

    # -- later terms -------------------------------------------------------------------------

    def reach(self, term: int, said: int) -> int:
        """To which term a replica of `term` goes that is told of the term `said`: a later one is
        followed as far as there is room, which grows with time and not with messages."""
        now = self._clock()
        self._room += (now - self._room_at) * MAX_TERMS_PER_S
        self._room, self._room_at = min(self._room, MAX_TERM_STEP), now
        step = max(0, min(said - term, int(self._room)))
        self._room -= step
        return term + step

    # -- hearing a leader --------------------------------------------------------------------

    def heard_leader(self) -> None:
        """The leader of this replica's term has spoken: what was asked before is void."""
        self._heard_at = self._clock()
        self.over()

    @property
    def hears_a_leader(self) -> bool:
        """Whether a leader spoke within the shortest time after which anybody may doubt it."""
        return self._clock() - self._heard_at < self._settings.election_min_s

    # -- asking ------------------------------------------------------------------------------

    def ask(self, term: int, log: LogView) -> PreVoteRequest:
        """Begins a round of pre-votes for the term after `term`."""
        self._asked_term = term
        self._would_vote.clear()
        last_index = log.last_index()
        return PreVoteRequest(term, last_index, log.term_at(last_index) or 0)

    def ask_again_s(self) -> float:
        """After how long a round that found no majority is tried again, in seconds."""
        return self._settings.heartbeat_s * self._chance.uniform(_FIRST_RETRY, _LAST_RETRY)

    def on_reply(
        self, peer: str, reply: PreVoteReply, term: int, other_voters: Collection[str]
    ) -> bool:
        """Takes in an answer. Returns whether it makes the majority."""
        if not reply.granted or reply.asked_term != self._asked_term or term != self._asked_term:
            return False
        if peer not in other_voters or self.hears_a_leader:
            return False
        self._would_vote.add(peer)
        if has_majority(1 + len(self._would_vote), 1 + len(other_voters)):
            self._asked_term = None
            self.is_called = True
        return self.is_called

    def call_by_leader(self) -> None:
        """The leader hands over to this replica."""
        self.is_called = self.is_heir = True

    def over(self) -> None:
        """The replica has campaigned, or has no reason to any more."""
        self._asked_term = None
        self.is_called = self.is_heir = False

    def would_vote(self, request: PreVoteRequest, term: int, log: LogView) -> bool:
        """Whether this replica, a follower in `term`, would vote for the asker."""
        return (
            request.term >= term
            and not self.hears_a_leader
            and is_up_to_date(request.last_log_term, request.last_log_index, log)
        )

    # -- handing over ------------------------------------------------------------------------

    def hand_over(self, heir: str) -> None:
        """This leader takes nothing new, and lets `heir` campaign as soon as it has everything;
        gives up after an election timeout."""
        self._hand_over = _HandOver(heir, self._clock() + self._settings.election_min_s)

    @property
    def is_handing_over(self) -> bool:
        return self._hand_over is not None

    def heir_to_tell(self, last_index: int, match_index: Callable[[str], int]) -> str | None:
        """Who is to campaign now, if anybody; asked in each of a leader's turns."""
        handing = self._hand_over
        if handing is None:
            return None
        now = self._clock()
        if now >= handing.until:
            self._hand_over = None
            return None
        if now < handing.tell_at or match_index(handing.heir) < last_index:
            return None
        handing.tell_at = now + self._settings.heartbeat_s
        return handing.heir

    def leads_no_more(self) -> None:
        self._hand_over = None
