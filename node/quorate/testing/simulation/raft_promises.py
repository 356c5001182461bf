"""Raft's promises, looked at after every durable turn and with every message that leaves.

Owns the checks of the Raft paper's Figure 3 and what this project adds: terms and votes, one leader
a term, one log, commits that a quorum holds on its disks, one ledger, and nothing said that is not
durable. Looks at what is on the disks (`disk.Shadow`) and at what the replicas say of themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.testing.simulation.confirm_promises import ConfirmPromises
from quorate.testing.simulation.disk import Disk, Shadow
from quorate.testing.simulation.world import require
from quorate.v1 import peer_pb2 as pb

if TYPE_CHECKING:
    from quorate.testing.simulation.machine import Machine


@dataclass
class _Seen:
    """What a machine has shown so far. `held`: up to here its disk holds the committed log.
    `configured`: where the newest configuration of its log lies, 0 when it is compacted. `token`:
    of the probation that its disk began with. `term_before`: the last turn. `led`: in which term it
    led at the end of the last turn, and up to where its log went; None: it did not lead. `former`:
    what was on the disk that it has lost, and up to where it had acknowledged the log of each
    term's leader then."""

    term: int = 0
    term_before: int = 0
    applied: int = 0
    commit: int = 0
    ledger: int = 0
    held: int = 0
    configured: int = 0
    token: str = ""
    led: tuple[int, int] | None = None
    voters: tuple[str, ...] = ()
    replica: object = None
    disk: Disk | None = None
    former: tuple[Shadow, dict[int, int]] | None = None


class RaftPromises:
    """Watches all machines. `committed` is the log that nobody may ever contradict."""

    def __init__(self, sometimes: Counter[str], voters: Sequence[str]) -> None:
        """voters: of the beginning."""
        self.committed: list[tuple[int, bytes]] = []
        """(term, command) by index, from 1 on."""
        self.ledger: list[bytes] = []
        """The entries of the one ledger."""
        self.configured: tuple[int, Sequence[str]] = (0, voters)
        """Where the newest configuration lies that is committed, and its voters."""
        self.leaders: dict[int, str] = {}
        self._committed_in: list[int] = []
        self._confirms = ConfirmPromises()
        self._acknowledged: dict[tuple[str, int], int] = {}
        """Up to where each follower has acknowledged the log of each term's leader."""
        self._sometimes = sometimes
        self._machines: dict[str, Machine] = {}
        self._seen: dict[str, _Seen] = {}
        self._votes: dict[tuple[str, str, int], str] = {}
        """By voter, what it has forgotten since (a token), and term."""
        self._entries: dict[tuple[int, int], tuple[bytes, int]] = {}

    def started(self, machine: Machine) -> None:
        """A core was built on what the disk holds."""
        self._machines[machine.node_id] = machine
        seen = self._seen.setdefault(machine.node_id, _Seen())
        if seen.disk is not machine.disk:  # a new machine, or one that has lost everything
            with machine.disk.reader().read() as snapshot:
                token = snapshot.probation()
            former = self._former(machine, seen)
            seen = _Seen(disk=machine.disk, token=token, former=former)
            self._seen[machine.node_id] = seen
        machine.disk.compare(machine.name)
        shadow = machine.disk.shadow
        require(shadow.applied >= seen.applied, "what is applied survives", machine.name)
        require(shadow.term >= seen.term, "terms survive", machine.name)
        self._rebuilt(machine, seen)

    def _rebuilt(self, machine: Machine, seen: _Seen) -> None:
        """A replica begins with what the disk says: it knows of no commit beyond that."""
        seen.replica = machine.running.replica
        seen.commit = machine.running.replica.commit_index
        seen.voters = machine.running.replica.voters
        seen.led = None
        self._check_configuration(machine, seen, 0)

    def settled(self, machine: Machine, wrote: bool) -> bool:
        """A turn is durable. Returns whether more is known to be committed than before."""
        seen, shadow = self._seen[machine.node_id], machine.disk.shadow
        replica = machine.running.replica
        if replica is not seen.replica:
            self._rebuilt(machine, seen)
        seen.term_before = seen.term
        if wrote:
            self._check_term_and_vote(machine, seen, shadow)
        lowest = machine.disk.lowest_change
        if lowest is not None:
            self._check_log(machine, seen, shadow, lowest)
            self._check_configuration(machine, seen, lowest)
        require(shadow.term == replica.term, "the term is durable", machine.name, replica.term)
        self._check_leader(machine, seen)
        self._check_append_only(machine, seen, shadow, lowest)
        if replica.is_leader:
            self._check_matches(machine, shadow)
        if machine.is_forgetful and not machine.running.is_on_probation:
            self._check_readmitted(machine, seen)
        grown = False
        # News, too, of a process that ended with its commit, before anybody could look.
        is_news = replica.commit_index > len(self.committed)
        if replica.commit_index != seen.commit or wrote or is_news:
            grown = self._check_commit(machine, seen, shadow)
            self._check_ledger(machine, seen, shadow)
        machine.disk.take_change()
        if seen.voters != replica.voters:
            seen.voters = replica.voters
            self._sometimes["voters changed"] += 1
        return grown

    # -- the parts ---------------------------------------------------------------------------

    def _check_term_and_vote(self, machine: Machine, seen: _Seen, shadow: Shadow) -> None:
        require(shadow.term >= seen.term, "terms never fall", machine.name, shadow.term)
        seen.term = shadow.term
        if shadow.voted_for is not None:
            self._count_vote(machine, shadow.term, shadow.voted_for)

    def _count_vote(self, machine: Machine, term: int, candidate: str) -> None:
        token = self._seen[machine.node_id].token
        first = self._votes.setdefault((machine.node_id, token, term), candidate)
        require(first == candidate, "one vote a term", machine.name, term, first, candidate)

    def _check_log(self, machine: Machine, seen: _Seen, shadow: Shadow, lowest: int) -> None:
        """Log matching, by induction: an (index, term) has one command and one predecessor."""
        first = max(lowest, shadow.base + 1)
        for index in range(first, shadow.last_index + 1):
            term, command = shadow.entries[index - shadow.base]
            before = shadow.entries[index - 1 - shadow.base][0]
            known = self._entries.setdefault((index, term), (command, before))
            require(known == (command, before), "log matching", machine.name, index, term)
        if lowest <= seen.held:
            seen.held = min(seen.held, max(lowest - 1, shadow.base))
            self._follow_committed(seen, shadow)
            require(
                seen.held >= min(seen.commit, len(self.committed)),
                "what is committed stays on the disks that held it",
                machine.name,
                seen.held,
            )

    def _check_configuration(self, machine: Machine, seen: _Seen, first: int) -> None:
        """Raft thesis 4.1: the newest configuration of a log is in force, and voters change one at
        a time: a leader appends a configuration when the one before is committed, and an entry of
        its own term. first: where the log may have changed."""
        shadow, replica = machine.disk.shadow, machine.running.replica
        if first <= seen.configured:
            first, seen.configured = 0, 0
        newest = None
        for index in range(max(first, shadow.base), shadow.last_index + 1):
            term, command = shadow.entries[index - shadow.base]
            if command[:1] != CONFIGURATION:
                continue
            commit = shadow.entry(replica.commit_index)
            require(
                not replica.is_leader
                or term != replica.term
                or (
                    seen.configured <= replica.commit_index
                    and commit is not None
                    and commit[0] == term
                ),
                "voters change one at a time",
                machine.name,
                f"at {seen.configured}, then at {index}",
            )
            newest, seen.configured = command, index
        require(
            newest is None or Configuration.decode(newest[1:]) == replica.configuration,
            "the newest configuration is in force",
            machine.name,
            f"that at {seen.configured}",
        )

    def _check_append_only(
        self, machine: Machine, seen: _Seen, shadow: Shadow, lowest: int | None
    ) -> None:
        """Figure 3: for as long as it leads, a leader neither removes nor replaces what it has in
        its log, be it by the same again. What is compacted at the front is not meant. lowest: from
        where on the log has changed in this turn."""
        replica = machine.running.replica
        if replica.is_leader and seen.led is not None and seen.led[0] == replica.term:
            last = seen.led[1]
            require(
                shadow.last_index >= last and (lowest is None or lowest > last),
                "leader append-only",
                machine.name,
                f"term {replica.term}: {last} entries, now {shadow.last_index}, from {lowest} on",
            )
        seen.led = (replica.term, shadow.last_index) if replica.is_leader else None

    def _check_readmitted(self, machine: Machine, seen: _Seen) -> None:
        """A probation ends by a committed configuration that names its own token."""
        committed = self.committed[: machine.running.replica.commit_index]
        require(
            any(
                command[:1] == CONFIGURATION
                and Configuration.decode(command[1:]).token_of(machine.node_id) == seen.token
                for _, command in committed
            ),
            "a probation ends when the others have said so",
            machine.name,
        )

    def _check_leader(self, machine: Machine, seen: _Seen) -> None:
        replica = machine.running.replica
        if not replica.is_leader:
            if seen.led is not None:
                self._sometimes["leader stepped down"] += 1
            return
        term = replica.term
        if term not in self.leaders:
            self._sometimes["leader elected"] += 1
            self._check_votes(machine, seen)
            shadow = machine.disk.shadow
            for index in range(shadow.base + 1, len(self.committed) + 1):
                if self._committed_in[index - 1] > term:
                    continue  # by a later leader: this one's election was only seen late
                require(
                    shadow.entry(index) == self.committed[index - 1],
                    "leader completeness",
                    machine.name,
                    f"term {term}, index {index}",
                )
        first = self.leaders.setdefault(term, machine.node_id)
        require(first == machine.node_id, "election safety", term, first, machine.node_id)

    def _check_matches(self, machine: Machine, shadow: Shadow) -> None:
        """What a leader takes for held is held, as long as nobody has heard of a later one."""
        replica = machine.running.replica
        for node, other in self._machines.items():
            match, held = replica.match_index(node), other.disk.shadow
            require(
                match <= self._acknowledged.get((node, replica.term), 0),
                "what a leader counts was acknowledged in its term",
                machine.name,
                f"{other.name} at {match}",
            )
            if not match or other.is_forgetful or held.term != shadow.term:
                continue
            entry, there = shadow.entry(match), held.entry(match)
            if entry is not None and there is not None and shadow.base >= match:
                entry, there = (entry[0], b""), (there[0], b"")  # a snapshot has left its term only
            require(
                entry is None or held.base >= match or there == entry,
                "what a leader takes for held is held",
                machine.name,
                f"{other.name} at {match}",
            )

    def _check_votes(self, machine: Machine, seen: _Seen) -> None:
        """Who leads has the votes of a majority on their disks."""
        now, before, at = machine.running.replica.voters, seen.voters, machine.running.replica.term
        found = {
            voter
            for (voter, _, term), candidate in self._votes.items()
            if term == at and candidate == machine.node_id
        }
        require(
            any(2 * len(found.intersection(voters)) > len(voters) for voters in (before, now)),
            "a leader has the votes of a majority",
            machine.name,
            f"term {at}: {sorted(found)} of {now}",
        )

    def _check_commit(self, machine: Machine, seen: _Seen, shadow: Shadow) -> bool:
        commit = machine.running.replica.commit_index
        require(commit >= seen.commit, "commits never fall", machine.name, commit, seen.commit)
        require(commit <= shadow.last_index, "commits are in the log", machine.name, commit)
        seen.commit = commit
        grown, entry = len(self.committed) < commit, (0, b"")
        while len(self.committed) < commit:
            index = len(self.committed) + 1
            held = shadow.entry(index)
            assert held is not None, "whoever commits first has it, or has just dropped it"
            entry = held
            if index > 1:  # the first entry is everybody's from the start
                self._check_quorum(machine, index, entry)
            self.committed.append(entry)
            if entry[1][:1] == CONFIGURATION:
                self.configured = index, Configuration.decode(entry[1][1:]).voters
            self._committed_in.append(machine.running.replica.term)
        require(
            not grown
            or not machine.running.replica.is_leader
            or entry[0] == self._committed_in[-1],
            "a leader counts for entries of its own term only",  # Raft 5.4.2
            machine.name,
            f"index {commit}",
        )
        self._follow_committed(seen, shadow)
        require(seen.held >= commit, "one committed log", machine.name, seen.held + 1, commit)
        return grown

    def _check_quorum(self, machine: Machine, index: int, entry: tuple[int, bytes]) -> None:
        """By the configuration that was in force when the turn began, or by the one that it may
        have put in force since. Who may have forgotten promises does not count, but for what it had
        acknowledged before: its leader may not have heard. That does no harm, for whoever needs
        votes to contradict it gets none from there."""
        term = machine.running.replica.term
        holders = {
            node
            for node, other in self._machines.items()
            if (
                self._had(other, index, entry, term)
                if other.is_forgetful
                else _holds(other.disk.shadow, index, entry)
            )
        }
        now, before = machine.running.replica.voters, self._seen[machine.node_id].voters
        require(
            any(2 * len(holders.intersection(voters)) > len(voters) for voters in (before, now)),
            "a commit is on the disks of a quorum",
            machine.name,
            f"index {index} on {sorted(holders)}, voters {before}, then {now}",
        )

    def _former(self, machine: Machine, seen: _Seen) -> tuple[Shadow, dict[int, int]] | None:
        """What the machine had before it lost its disk, and what it had acknowledged."""
        if seen.disk is None or seen.disk is machine.disk:
            return seen.former
        acknowledged = {
            term: index
            for (node, term), index in self._acknowledged.items()
            if node == machine.node_id
        }
        return seen.disk.shadow, acknowledged

    def _had(self, machine: Machine, index: int, entry: tuple[int, bytes], term: int) -> bool:
        former = self._former(machine, self._seen[machine.node_id])
        if former is None:
            return False
        shadow, acknowledged = former
        has_held = acknowledged.get(term, 0) >= index and _holds(shadow, index, entry)
        self._sometimes["commit counted a disk that was lost"] += has_held
        return has_held

    def _follow_committed(self, seen: _Seen, shadow: Shadow) -> None:
        """Moves `held` on as far as the disk holds the committed log."""
        seen.held = max(seen.held, min(shadow.base, len(self.committed)))
        end = min(shadow.last_index, len(self.committed))
        while seen.held < end:
            if shadow.entry(seen.held + 1) != self.committed[seen.held]:
                return
            seen.held += 1

    def _check_ledger(self, machine: Machine, seen: _Seen, shadow: Shadow) -> None:
        """State machine safety: everybody has the same entries, in the same order, for good."""
        require(len(shadow.ledger) >= seen.ledger, "what is in the ledger stays", machine.name)
        known = min(len(shadow.ledger), len(self.ledger))
        require(
            shadow.ledger[seen.ledger : known] == self.ledger[seen.ledger : known],
            "state machine safety: one ledger",
            machine.name,
            f"{seen.ledger}..{known}",
        )
        self.ledger.extend(shadow.ledger[known:])
        seen.ledger = len(shadow.ledger)
        require(shadow.applied >= seen.applied, "what is applied never falls", machine.name)
        seen.applied = shadow.applied
        require(shadow.applied <= seen.commit, "applied after committed", machine.name)

    # -- messages ----------------------------------------------------------------------------

    def sent(self, machine: Machine, peer: str, message: pb.PeerMessage) -> None:
        """Persist, then send: what a message says is on the disk that it speaks for."""
        shadow = machine.disk.shadow
        self._confirms.sent(machine, peer, message, self._seen[machine.node_id].term_before)
        match message.WhichOneof("body"):
            case "append_reply":
                reply = message.append_reply
                if reply.success:
                    term = reply.request_term
                    known = self._acknowledged.get((machine.node_id, term), 0)
                    self._acknowledged[machine.node_id, term] = max(known, reply.match_index)
                    durable = shadow.term > term or (
                        shadow.term == term and shadow.last_index >= reply.match_index
                    )
                    require(durable, "an acknowledged entry is durable", machine.name, message)
                    self._check_acknowledged(machine, peer, term, reply.match_index)
            case "append_request":
                request = message.append_request
                if request.entries and shadow.term == request.term:
                    last = request.entries[-1].index
                    require(shadow.last_index >= last, "a sent entry is durable", machine.name)
            case "vote_reply":
                if message.vote_reply.granted:
                    self._check_remembers(machine)
                    self._check_vote(machine, message.vote_reply.voted_term, peer)
            case "confirm_reply" | "authority_ask":
                self._check_remembers(machine)
            case "vote_request":
                self._check_remembers(machine)
                self._check_vote(machine, message.vote_request.term, machine.node_id)

    def _check_acknowledged(self, machine: Machine, peer: str, term: int, index: int) -> None:
        """As long as who asked may lead, its log says what is acknowledged. Who has heard of a
        later leader since, in the same turn, may have gone on to what that one says."""
        leader, own = self._machines[peer], machine.disk.shadow
        asked = leader.disk.shadow
        if asked.term != term or own.term != term or leader.is_forgetful:
            return
        if max(asked.base, own.base) >= index:
            return
        entry = asked.entry(index)
        require(
            entry is not None and entry == own.entry(index),
            "what is acknowledged is the leader's",
            machine.name,
            f"index {index} of term {term}",
        )

    @staticmethod
    def _check_remembers(machine: Machine) -> None:
        require(
            not machine.is_forgetful,
            "nobody on probation votes, confirms or asks for authority",
            machine.name,
        )

    def _check_vote(self, machine: Machine, term: int, candidate: str) -> None:
        """Votes are rare, and read back from the disk itself."""
        self._count_vote(machine, term, candidate)
        with machine.disk.reader().read() as snapshot:
            held_term, voted_for = snapshot.term(), snapshot.voted_for()
        durable = held_term > term or (held_term == term and voted_for == candidate)
        require(durable, "a vote is durable before it is sent", machine.name, term, candidate)


def _holds(shadow: Shadow, index: int, entry: tuple[int, bytes]) -> bool:
    return shadow.entry(index) == entry or shadow.base >= index
