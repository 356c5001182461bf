"""What a leader sends to its followers, and what it knows of each.

Owns the progress of every follower during one leadership, and the building of append requests
within each one's window (after etcd's `tracker`). Does not own the rules of progress (`rules`), nor
when something is sent (`engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from quorate.consensus.journal import EngineEntry, Journal
from quorate.consensus.limits import MAX_APPEND_BYTES, MAX_APPEND_ENTRIES
from quorate.consensus.messages import AppendReply, AppendRequest, Entry, Outbox, SnapshotOffer
from quorate.consensus.rules import Progress


@dataclass(frozen=True, slots=True)
class Leading:
    """The leadership that a request speaks for: its term, and what it has committed."""

    term: int
    commit_index: int


class Followers:
    """The followers of one replica while it leads; none while it does not."""

    def __init__(
        self,
        journal: Journal,
        outbox: Outbox,
        offer: Callable[[str, int], SnapshotOffer | None],
    ) -> None:
        """offer: (follower, term) -> the snapshot that it is to install, or None for now."""
        self._journal = journal
        self._outbox = outbox
        self._offer = offer
        self._progress: dict[str, Progress] = {}
        self._tokens: dict[str, str] = {}
        self._spent: dict[str, str] = {}
        self._has_room: dict[str, None] = {}
        self._is_leading = False

    def begin(self, peers: Sequence[str]) -> None:
        """A leadership begins: nothing is known of anybody."""
        next_index = self._journal.last_index() + 1
        self._progress = {peer: Progress(next_index) for peer in peers}
        self._tokens, self._spent, self._has_room = {}, {}, {}
        self._is_leading = True

    def reconfigure(self, peers: Collection[str]) -> None:
        """Others take part than before: nothing is known of who is new."""
        if not self._is_leading:
            return
        next_index = self._journal.last_index() + 1
        known, self._progress = self._progress, {}
        for peer in peers:
            self._progress[peer] = known.get(peer) or Progress(next_index)
        self._tokens = {peer: token for peer, token in self._tokens.items() if peer in peers}

    def end(self) -> bool:
        """The leadership is over. Returns whether there was one."""
        was_leading, self._is_leading, self._progress = self._is_leading, False, {}
        return was_leading

    def match_index(self, peer: str) -> int:
        """What `peer` is known to hold, durably; 0 when nothing is known."""
        return self._progress[peer].match_index if peer in self._progress else 0

    def link_changed(self, peer: str) -> None:
        """The link to `peer` is new or gone: what was in flight may be lost, and who is there now
        may be another process."""
        self._spent.pop(peer, None)
        if peer in self._progress:
            self._progress[peer].restart()

    def acknowledged(self, peer: str, reply: AppendReply) -> None:
        """Takes in a reply of this leadership. Raises PeerError when no correct peer can have sent
        it."""
        if self._is_from_before(peer, reply):
            return
        on_probation_by = "" if reply.readmitted else reply.probation
        if on_probation_by and on_probation_by != self.token(peer):
            # Its store is another one than before: what it was known to hold, it may have lost.
            self._progress[peer] = Progress(self._journal.last_index() + 1)
        if reply.readmitted:
            self._spent[peer] = reply.probation
        progress = self._progress[peer]
        self._tokens[peer] = on_probation_by
        if progress.acknowledged(reply):
            self._has_room[peer] = None

    def _is_from_before(self, peer: str, reply: AppendReply) -> bool:
        """Whether `peer` has sent this before it forgot, or before it was readmitted, and it comes
        late: a probation ends when a node says that it was readmitted by its token, and only
        then."""
        known, said = self.token(peer), reply.probation
        if said and not reply.readmitted:
            return said == self._spent.get(peer)
        return bool(known) and said != known

    def token(self, peer: str) -> str:
        """With which token `peer` says that it is on probation; empty when it is not."""
        return self._tokens.get(peer, "")

    def has_answered(self, peer: str) -> bool:
        """Whether `peer` has answered anything in this leadership."""
        return peer in self._tokens

    def knows(self, peer: str) -> bool:
        return peer in self._progress

    def heartbeat(self, leading: Leading, connected: Collection[str]) -> None:
        """To every connected follower one request at least, and a probe may be tried again."""
        for peer, progress in self._progress.items():
            progress.probe_again()
            if peer in connected:
                self._send(peer, leading, at_least_one=True)

    def spread(self, leading: Leading, connected: Collection[str]) -> None:
        """New entries, or a new commit index, to the followers whose window has room."""
        for peer, progress in self._progress.items():
            if peer in connected:
                keeps_up = not progress.probing and progress.may_send_entries()
                self._send(peer, leading, at_least_one=keeps_up)

    def send_more(self, leading: Leading) -> None:
        """To the followers whose answers made room what they lack: once a turn, however many
        answers there were. So a turn builds no more for one than its window holds, which is
        MAX_INFLIGHT_APPENDS times MAX_APPEND_BYTES."""
        has_room, self._has_room = self._has_room, {}
        for peer in has_room:
            if peer in self._progress:
                self._send(peer, leading, at_least_one=False)

    def _send(self, peer: str, leading: Leading, *, at_least_one: bool) -> None:
        progress = self._progress[peer]
        if progress.next_index <= self._journal.first_index():
            if at_least_one:
                self._offer_snapshot(peer, leading)
            return
        while at_least_one or self._lacks(progress):
            entries: list[EngineEntry] = []
            if self._lacks(progress) and progress.may_send_entries():
                entries = self._journal.slice(
                    progress.next_index, MAX_APPEND_ENTRIES, MAX_APPEND_BYTES
                )
            elif not at_least_one:
                return
            self._outbox(peer, self._request(leading, progress.next_index - 1, entries))
            progress.sent(entries[-1][1] if entries else progress.next_index - 1)
            at_least_one = False
            if not entries or progress.probing:
                return

    def _offer_snapshot(self, peer: str, leading: Leading) -> None:
        """What it needs next is compacted; it is offered the state instead, at each heartbeat."""
        offer = self._offer(peer, leading.term)
        if offer is not None:
            self._outbox(peer, offer)

    def _request(
        self, leading: Leading, previous: int, entries: Sequence[EngineEntry]
    ) -> AppendRequest:
        previous_term = self._journal.term_at(previous)
        assert previous_term is not None, "the log holds what followers have verified"
        return AppendRequest(
            term=leading.term,
            prev_log_index=previous,
            prev_log_term=previous_term,
            commit_index=leading.commit_index,
            entries=tuple(Entry(index, term, command) for command, index, term in entries),
        )

    def _lacks(self, progress: Progress) -> bool:
        return progress.next_index <= self._journal.last_index()
