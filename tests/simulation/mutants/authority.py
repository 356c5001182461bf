"""Breaks of authority: how it is asked for, confirmed, granted and published, and of what is told
to be enforced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.simulation.mutants.mutant import Patch, mutant

from quorate.core import decision
from quorate.core.effects import Effect
from quorate.lease import check, following
from quorate.lease.authority import Authority, AuthorityHolder, Grant
from quorate.lease.bounds import Bound, Bounds, Known
from quorate.lease.confirm import Confirm, ConfirmReply, ConfirmRounds, Leadership
from quorate.lease.enforcement import Enforcement, OwnPermits, OwnReaders
from quorate.lease.following import EdgeLedger
from quorate.lease.outstanding import OutstandingPermits
from quorate.node import authority_keeper
from quorate.storage import enforced

Sent = list[tuple[str, Confirm]]

# -- asking, confirming, granting ------------------------------------------------------------------


@mutant("short", 12, "I1", "I2")
def authority_from_when_it_was_granted(patch: Patch) -> None:
    """The period is counted from the grant's arrival, not from the ask."""
    take_in = AuthorityHolder.on_grant

    def later(self: AuthorityHolder, sender: str, grant: Grant, term: int) -> bool:
        is_ours = take_in(self, sender, grant, term)
        if is_ours:
            self._granted[-1] = replace(
                self._granted[-1], asked_boottime_ns=self._clock.boottime_ns()
            )
        return is_ours

    patch.setattr(AuthorityHolder, "on_grant", later)


@mutant("short", 12, "I1", "I2", "confirmed")
def grants_without_a_round(patch: Patch) -> None:
    """A leader grants authority without asking whether a quorum still follows it."""
    original = ConfirmRounds.grants

    def grants(self: Any, raft: Leadership, now: Any) -> list[tuple[str, Grant]]:
        self._confirmed = dict.fromkeys(self._peers, self._round)
        return original(self, raft, now)

    patch.setattr(ConfirmRounds, "grants", grants)


@mutant("short", 40, "I1", "I2", "confirmed")
def grants_of_a_deposed_leader(patch: Patch) -> None:
    """A voter confirms whoever asks, whatever its term and whomever it follows."""

    def confirms(_sender: str, confirm: Confirm, _raft: Leadership) -> ConfirmReply:
        return ConfirmReply(confirm.term, confirm.round)

    patch.setattr(authority_keeper, "confirms", confirms)


@mutant("short", 12, "I1", "I2", "confirmed")
def rounds_that_a_minority_closes(patch: Patch) -> None:
    """One voter fewer than a majority closes a round."""
    original = ConfirmRounds.grants

    def grants(self: Any, raft: Leadership, now: Any) -> list[tuple[str, Grant]]:
        peers, self._peers = self._peers, self._peers[2:]
        try:
            return original(self, raft, now)
        finally:
            self._peers = peers

    patch.setattr(ConfirmRounds, "grants", grants)


@mutant("short", 12, "I1", "I2", "confirmed")
def asks_in_an_older_round(patch: Patch) -> None:
    """An ask is answered when the round before it has closed."""
    original = ConfirmRounds.start_round

    def start_round(self: Any, raft: Leadership, now_ns: int) -> Sent:
        sent = original(self, raft, now_ns)
        for position, waiting in enumerate(self._waiting):
            if waiting.round == self._round > 1 and raft.term == self._term:
                self._waiting[position] = replace(waiting, round=self._round - 1)
        return sent

    patch.setattr(ConfirmRounds, "start_round", start_round)


@mutant("short", 12, "I1", "I2")
def an_older_read_index(patch: Patch) -> None:
    """A grant is for the commit index that was noted one round before its own."""
    original = ConfirmRounds.start_round

    def start_round(self: Any, raft: Leadership, now_ns: int) -> Sent:
        before = self._round
        sent = original(self, raft, now_ns)
        if self._round > before:
            old, self._noted = getattr(self, "_noted", 0), raft.commit_index
            for position, waiting in enumerate(self._waiting):
                if waiting.round == self._round:
                    self._waiting[position] = replace(waiting, read_index=old)
        return sent

    patch.setattr(ConfirmRounds, "start_round", start_round)


class _Sure:
    """A leader that believes to know what is committed."""

    commits_own_term = True

    def __init__(self, raft: Any) -> None:
        self._raft = raft

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raft, name)


@mutant("short", 40, "I1", "I2")
def grants_before_a_commit_of_its_own(patch: Patch) -> None:
    """A new leader grants authority before it has committed an entry of its term."""
    original = ConfirmRounds.start_round

    def start_round(self: ConfirmRounds, raft: Leadership, now_ns: int) -> Sent:
        return original(self, _Sure(raft), now_ns)

    patch.setattr(ConfirmRounds, "start_round", start_round)


@mutant("short", 40, "I1", "I2")
def grants_for_the_newest_ask(patch: Patch) -> None:
    """A grant answers the newest ask, whichever it was made for."""
    original = AuthorityHolder.on_grant

    def on_grant(self: AuthorityHolder, sender: str, grant: Grant, term: int) -> bool:
        if not self._asked:
            return False
        return original(self, sender, replace(grant, seq=self._asked[-1].seq), term)

    patch.setattr(AuthorityHolder, "on_grant", on_grant)


@mutant("short", 12, "authority for an applied state", "I1", "I2")
def authority_before_it_is_applied(patch: Patch) -> None:
    """Authority is published as soon as it is granted, whatever the node has applied."""

    def take(self: AuthorityHolder, _applied_index: int) -> Authority | None:
        return self._granted.pop() if self._granted else None

    patch.setattr(AuthorityHolder, "take", take)


# -- enforced --------------------------------------------------------------------------------------


@mutant("short", 40, "I2")
def readers_that_nobody_waits_for(patch: Patch) -> None:
    """A node reports what it has applied, whatever snapshots its edges hold."""
    patch.setattr(enforced, "oldest_reader", lambda *_, **__: None)


@mutant("short", 64, "I2")
def readers_outlived_early(patch: Patch) -> None:
    """A snapshot is taken for useless after half of the time in which it can be permitted on."""
    original = OwnReaders.__init__
    patch.setattr(OwnReaders, "__init__", lambda self, period_ms: original(self, period_ms // 2))


@mutant("short", 12, "I2")
def members_that_nobody_waits_for(patch: Patch) -> None:
    """Whoever does not report is taken for lapsed."""
    patch.setattr(Enforcement, "has_lapsed", lambda _self, _member, _now_ns: True)


@mutant("short", 8, "I2", quick=True)
def a_grant_table_that_is_forgotten(patch: Patch) -> None:
    """A new leader takes those to whom it has granted nothing for lapsed at once."""
    original = Enforcement.begin

    def begin(self: Any, now_ns: int) -> None:
        original(self, now_ns - self._lapse_ns)

    patch.setattr(Enforcement, "begin", begin)


@mutant("short", 12, "I2")
def grants_that_are_not_noted(patch: Patch) -> None:
    """Whether a member has lapsed is counted from the leadership's beginning alone."""
    patch.setattr(Enforcement, "granted", lambda _self, _member, _now_ns: None)


@mutant("mixed", 16, "drained")
def draining_that_takes_no_time(patch: Patch) -> None:
    """A revocation is drained as soon as it is enforced."""
    patch.setattr(OwnPermits, "drained", lambda _self, _now_ns, enforced, _edges: enforced)


@mutant("mixed", 16, "drained")
def draining_by_half(patch: Patch) -> None:
    """An edge counts on half of a permit's life."""
    permitted = EdgeLedger.permitted

    def half(self: Any, *permit: Any) -> None:
        holder, things, size, ttl_ms, now_ns = permit
        permitted(self, holder, things, size, ttl_ms // 2, now_ns)

    patch.setattr(EdgeLedger, "permitted", half)


@mutant("mixed", 16, "drained")
def permits_that_nothing_stops(patch: Patch) -> None:
    """An edge does not see that an entry stops what it has permitted."""
    patch.setattr(OutstandingPermits, "stopped", lambda _self, _thing, _index: None)


@mutant("trust", 24, "drained")
def narrowings_that_drain_at_once(patch: Patch) -> None:
    """An edge takes an edge of trust that was narrowed for one that stops nothing."""
    original = following.effect_of

    def effect_of(index: int, entry: bytes) -> Effect | None:
        effect = original(index, entry)
        is_narrowed = effect is not None and effect.thing.startswith("trust:")
        return None if is_narrowed and effect.but_for is not None else effect

    patch.setattr(following, "effect_of", effect_of)


@mutant("trust", 24, "revoked", "revocation")
def freezes_that_nobody_asks_about(patch: Patch) -> None:
    """A check does not ask what the resource's owner has frozen."""
    patch.setattr(decision, "frozen", lambda _view, _owner, _action: None)


@mutant("trust", 24, "drained")
def freezes_that_stop_no_permit(patch: Patch) -> None:
    """An edge does not note that a permit relies on what the resource's owner freezes."""
    patch.setattr(check, "things_of", lambda lease, _origin: lease.depends_on)


@mutant("mixed", 16, "drained")
def permits_by_the_lease_alone(patch: Patch) -> None:
    """Of what a permit relies on, an edge notes the lease only."""
    given = OutstandingPermits.given

    def lease_alone(self: Any, holder: Any, _things: Any, *more: Any) -> None:
        given(self, holder, (), *more)

    patch.setattr(OutstandingPermits, "given", lease_alone)


# -- what is promised ------------------------------------------------------------------------------


@mutant("short", 40, "promised")
def permits_that_no_promise_counts(patch: Patch) -> None:
    """Who is told that a revocation is enforced is promised that no executor acts on it."""
    left = Bounds.left

    def without_permits(self: Bounds, known: Known, now_ns: int) -> Bound:
        return Bound(0, 0) if known.enforced_ns is not None else left(self, known, now_ns)

    patch.setattr(Bounds, "left", without_permits)


MUTANTS = (
    authority_from_when_it_was_granted,
    grants_without_a_round,
    grants_of_a_deposed_leader,
    rounds_that_a_minority_closes,
    asks_in_an_older_round,
    an_older_read_index,
    grants_before_a_commit_of_its_own,
    grants_for_the_newest_ask,
    authority_before_it_is_applied,
    readers_that_nobody_waits_for,
    readers_outlived_early,
    members_that_nobody_waits_for,
    a_grant_table_that_is_forgotten,
    grants_that_are_not_noted,
    draining_that_takes_no_time,
    draining_by_half,
    permits_that_nothing_stops,
    narrowings_that_drain_at_once,
    freezes_that_nobody_asks_about,
    freezes_that_stop_no_permit,
    permits_by_the_lease_alone,
    permits_that_no_promise_counts,
)
