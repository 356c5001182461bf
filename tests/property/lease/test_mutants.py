"""The simulation is only worth what it can catch: each broken rule of the protocol is one mutant.

A mutant replaces one rule by a plausible mistake. It must be caught, by the invariant that the rule
is there for, within a bounded number of seeds; the same seeds pass with the rule in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quorate.lease.authority import Authority, AuthorityHolder, FederationTime, Grant
from quorate.lease.confirm import Confirm, ConfirmReply, ConfirmRounds, Leadership
from quorate.lease.enforcement import Enforcement, OwnReaders
from quorate.node import authority_keeper
from quorate.testing.authority import AuthorityWorld
from quorate.testing.authority_safety import AuthorityViolationError

_SEEDS = 400
_RUN_MS = 15_000

Patch = Callable[[pytest.MonkeyPatch], None]


def counted_from_the_grant(patch: pytest.MonkeyPatch) -> None:
    """The deadline counts from the grant's arrival, not from the ask."""
    original = AuthorityHolder.on_grant

    def on_grant(self: AuthorityHolder, sender: str, grant: Grant, term: int) -> bool:
        taken = original(self, sender, grant, term)
        if taken:
            late = replace(self._granted[-1], asked_boottime_ns=self._clock.boottime_ns())
            self._granted[-1] = late
        return taken

    patch.setattr(AuthorityHolder, "on_grant", on_grant)


def round_before_the_ask(patch: pytest.MonkeyPatch) -> None:
    """An ask joins the round that is open, or closed, already."""
    original = ConfirmRounds.start_round

    def start_round(
        self: ConfirmRounds, raft: Leadership, now_ns: int
    ) -> list[tuple[str, Confirm]]:
        sent = original(self, raft, now_ns)
        for position, waiting in enumerate(self._waiting):
            if waiting.round == self._round > 1 and raft.term == self._term:
                self._waiting[position] = replace(waiting, round=self._round - 1)
        return sent

    patch.setattr(ConfirmRounds, "start_round", start_round)


def confirmed_in_any_term(patch: pytest.MonkeyPatch) -> None:
    """A voter confirms whoever asks, whatever term it is in."""

    def confirms(sender: str, confirm: Confirm, raft: Leadership) -> ConfirmReply:
        return ConfirmReply(confirm.term, confirm.round)

    patch.setattr(authority_keeper, "confirms", confirms)


def an_older_read_index(patch: pytest.MonkeyPatch) -> None:
    """The read index is the one that was noted for the round before."""
    original = ConfirmRounds.start_round
    noted: dict[int, int] = {}

    def start_round(
        self: ConfirmRounds, raft: Leadership, now_ns: int
    ) -> list[tuple[str, Confirm]]:
        before = self._round
        sent = original(self, raft, now_ns)
        if self._round > before:
            old = noted.get(id(self), 0)
            noted[id(self)] = raft.commit_index
            for position, waiting in enumerate(self._waiting):
                if waiting.round == self._round:
                    self._waiting[position] = replace(waiting, read_index=old)
        return sent

    patch.setattr(ConfirmRounds, "start_round", start_round)


def no_commit_of_its_own(patch: pytest.MonkeyPatch) -> None:
    """A leader grants before it has committed an entry of its own term."""
    original = ConfirmRounds.start_round

    class Always:
        commits_own_term = True

        def __init__(self, raft: Leadership) -> None:
            self._raft = raft

        def __getattr__(self, name: str) -> object:
            return getattr(self._raft, name)

    def start_round(
        self: ConfirmRounds, raft: Leadership, now_ns: int
    ) -> list[tuple[str, Confirm]]:
        return original(self, Always(raft), now_ns)  # type: ignore[arg-type]

    patch.setattr(ConfirmRounds, "start_round", start_round)


def half_is_a_majority(patch: pytest.MonkeyPatch) -> None:
    """One voter fewer than a majority closes a round."""
    original = ConfirmRounds.grants

    def grants(
        self: ConfirmRounds, raft: Leadership, time: FederationTime, period_ms: int
    ) -> list[tuple[str, Grant]]:
        peers, self._peers = self._peers, self._peers[2:]
        try:
            return original(self, raft, time, period_ms)
        finally:
            self._peers = peers

    patch.setattr(ConfirmRounds, "grants", grants)


def pending_asks_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The watermark passes over what a lapsed node may yet be granted."""
    patch.setattr(ConfirmRounds, "pending_read_index", lambda _self, _node: None)


def lapse_without_rho(patch: pytest.MonkeyPatch) -> None:
    """A node's authority is taken to have lapsed after L by the leader's clock."""
    original = Enforcement.follow

    def follow(self: Enforcement, period_ms: int, _rho_ppm: int) -> None:
        original(self, period_ms, 0)

    patch.setattr(Enforcement, "follow", follow)


def grants_not_counted(patch: pytest.MonkeyPatch) -> None:
    """A lapse is counted from the leadership's beginning alone."""
    patch.setattr(Enforcement, "granted", lambda _self, _member, _now_ns: None)


def earlier_leaders_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A new leader takes those to whom it has granted nothing for lapsed."""
    original = Enforcement.begin

    def begin(self: Enforcement, now_ns: int) -> None:
        original(self, now_ns - self._lapse_ns)

    patch.setattr(Enforcement, "begin", begin)


def asks_counted_anew(patch: pytest.MonkeyPatch) -> None:
    """A node that starts again counts its asks from the same number."""
    original = AuthorityHolder.__init__

    def init(self: AuthorityHolder, clock: object, period_ms: int, first_seq: int) -> None:
        original(self, clock, period_ms, 0)  # type: ignore[arg-type]

    patch.setattr(AuthorityHolder, "__init__", init)


def any_grant_for_the_newest_ask(patch: pytest.MonkeyPatch) -> None:
    """A grant answers the newest ask, whichever it was made for."""
    original = AuthorityHolder.on_grant

    def on_grant(self: AuthorityHolder, sender: str, grant: Grant, term: int) -> bool:
        if not self._asked:
            return False
        newest = replace(grant, seq=self._asked[-1].seq)
        return original(self, sender, newest, term)

    patch.setattr(AuthorityHolder, "on_grant", on_grant)


def reported_when_applied(patch: pytest.MonkeyPatch) -> None:
    """A node reports what it has applied, whatever its readers still use."""
    original = authority_keeper.AuthorityKeeper.tick

    def tick(
        self: authority_keeper.AuthorityKeeper,
        raft: Leadership,
        applied_index: int,
        _enforced_index: int,
    ) -> None:
        original(self, raft, applied_index, applied_index)

    patch.setattr(authority_keeper.AuthorityKeeper, "tick", tick)


def published_before_applied(patch: pytest.MonkeyPatch) -> None:
    """Authority is published as soon as it is granted."""

    def take(self: AuthorityHolder, _applied_index: int) -> Authority | None:
        return self._granted.pop() if self._granted else None

    patch.setattr(AuthorityHolder, "take", take)


def stopped_readers_outlived_early(patch: pytest.MonkeyPatch) -> None:
    """A snapshot is taken for useless after half of the time in which it can be permitted on."""
    original = OwnReaders.follow

    def follow(self: OwnReaders, period_ms: int) -> None:
        original(self, period_ms // 2)

    patch.setattr(OwnReaders, "follow", follow)


def lapse_by_the_present_period(patch: pytest.MonkeyPatch) -> None:
    """Whoever waits counts by the L that is in force, and not by the longest that ever was."""
    original = authority_keeper.AuthorityKeeper.follow

    def follow(
        self: authority_keeper.AuthorityKeeper,
        terms: authority_keeper.AuthorityTerms,
        _widest: authority_keeper.AuthorityTerms,
    ) -> None:
        original(self, terms, terms)

    patch.setattr(authority_keeper.AuthorityKeeper, "follow", follow)


MUTANTS: list[Patch] = [
    counted_from_the_grant,
    round_before_the_ask,
    confirmed_in_any_term,
    an_older_read_index,
    no_commit_of_its_own,
    half_is_a_majority,
    pending_asks_forgotten,
    lapse_without_rho,
    grants_not_counted,
    earlier_leaders_forgotten,
    asks_counted_anew,
    any_grant_for_the_newest_ask,
    reported_when_applied,
    published_before_applied,
    stopped_readers_outlived_early,
    lapse_by_the_present_period,
]


def _violation() -> str:
    """The first violation that the seeds come upon, or nothing."""
    for seed in range(_SEEDS):
        world = AuthorityWorld(seed, (3, 5)[seed % 2], changes=seed % 4 > 0)
        try:
            world.run_ms(_RUN_MS)
        except AuthorityViolationError as violation:
            return f"seed {seed}: {violation}"
        finally:
            world.close()
    return ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_rule_is_caught(mutant: Patch, monkeypatch: pytest.MonkeyPatch):
    mutant(monkeypatch)
    assert _violation(), mutant.__doc__
