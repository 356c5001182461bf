"""Breaks of the check and of the ledger: what an edge permits on, and what commands do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.simulation.mutants.mutant import Patch, mutant

from quorate.core import codec, decision, governing, leasing, state, transitions
from quorate.core.bodies import NarrowTrust
from quorate.core.dsse import Envelope
from quorate.core.outcome import Deny, Permit, Reason
from quorate.core.patterns import Scope
from quorate.core.records import Lease
from quorate.core.status import Status
from quorate.core.turn import Turn
from quorate.lease import check
from quorate.lease.check import Checked, LeaseChecker

_NS_PER_MS = 1_000_000

# -- checks ----------------------------------------------------------------------------------------


def _checked(checker: Any, queries: Any, *, read_again: bool, look_again: bool) -> list[Checked]:
    """`LeaseChecker._check_all`, with mistakes: the word is read again after the snapshot; the
    clock is not."""
    record, source = checker._word.read(), checker._source()
    if record is None or source is None:
        return check._same(Deny(Reason.INQUORATE), queries)
    early = checker._now()
    lapsed = checker._lapsed(record, early)
    if lapsed is not None:
        return check._same(lapsed, queries)
    with source.read() as snapshot:
        view = state.StateView(snapshot.state)
        at = check.Position(snapshot.ledger_size, view.ledger_time())
        latest_ms = check._latest_ms(record, early, at)
        decided = [checker._decide(view, query, latest_ms) for query in queries]
        now = checker._now()
        if not look_again:
            now = early
        if read_again:
            record = checker._word.read() or record
    lapsed = checker._lapsed(record, now)
    if lapsed is not None:
        return check._same(lapsed, queries, at)
    return [check._answer(what, lease, record, now, at) for what, lease in decided]


@mutant("mixed", 40, "I1", "I2")
def a_word_that_is_read_again(patch: Patch) -> None:
    """An edge reads the authority word again after its snapshot, and goes by the newer one."""

    def check_all(self: LeaseChecker, queries: Any) -> list[Checked]:
        return _checked(self, queries, read_again=True, look_again=True)

    patch.setattr(LeaseChecker, "_check_all", check_all)


@mutant("short", 20, "I1", "I2")
def a_clock_that_is_read_once(patch: Patch) -> None:
    """An edge permits by the time at which its check began."""

    def check_all(self: LeaseChecker, queries: Any) -> list[Checked]:
        return _checked(self, queries, read_again=False, look_again=False)

    patch.setattr(LeaseChecker, "_check_all", check_all)


@mutant("short", 40, "I1", "I2")
def permits_beyond_the_deadline(patch: Patch) -> None:
    """A permit lives as long as a permit may, whatever is left of the node's authority."""
    original = check._answer

    def answer(what: Any, lease: Any, record: Any, now: Any, at: Any) -> Checked:
        most_ns = record.max_permit_ttl_ms * _NS_PER_MS
        later = replace(record, deadline_ns=now.boottime_ns + most_ns)
        return original(what, lease, later, now, at)

    patch.setattr(check, "_answer", answer)


@mutant("clocks", 60, "I1", "I2")
def deadlines_by_the_wall_clock(patch: Patch) -> None:
    """What has passed since the ask is read from the wall clock, which can be set."""
    lapsed, answer = LeaseChecker._lapsed, check._answer

    def at(record: Any, now: Any) -> Any:
        passed_ns = now.realtime_ns - record.granted_at_realtime_ns
        return replace(now, boottime_ns=record.granted_at_boottime_ns + passed_ns)

    def by_wall(self: LeaseChecker, record: Any, now: Any) -> Deny | None:
        return lapsed(self, record, at(record, now))

    def answer_by_wall(what: Any, lease: Any, record: Any, now: Any, where: Any) -> Checked:
        return answer(what, lease, record, at(record, now), where)

    patch.setattr(LeaseChecker, "_lapsed", by_wall)
    patch.setattr(check, "_answer", answer_by_wall)


@mutant("short", 20, "outlives its lease")
def leases_that_never_end(patch: Patch) -> None:
    """An edge permits on a lease that has expired."""
    review = decision.review
    patch.setattr(decision, "review", lambda view, lease, _now_ms: review(view, lease, 0))
    patch.setattr(check, "_latest_ms", lambda _record, _now, _at: 0)


@mutant("trust", 16, "I2")
def edges_of_trust_that_stay_open(patch: Patch) -> None:
    """A lease holds when the edge of trust under which it was given is closed."""
    patch.setattr(decision, "why_broken", lambda *_: None)


@mutant("trust", 60, "I2")
def delegations_that_outlive_what_is_behind_them(patch: Patch) -> None:
    """A lease under a grant that was passed on holds when what it was made of is revoked."""
    patch.setattr(decision, "why_unbacked", lambda *_: None)


@mutant("trust", 16, "I2")
def scopes_that_nobody_looks_at_again(patch: Patch) -> None:
    """A lease holds whatever the edge of trust under which it was given was narrowed to."""

    def why_broken(view: Any, lease: Lease, *_: str) -> Deny | None:
        for ident in lease.edges:
            edge = view.trust_edge(*decision.split_id(ident))
            if edge is None or edge.status is not Status.ACTIVE:
                return Deny(Reason.NO_TRUST, ident)
        return None

    patch.setattr(decision, "why_broken", why_broken)


@mutant("trust", 12, "what is final stays", "I2")
def narrowings_that_widen(patch: Patch) -> None:
    """A narrowing is executed whatever the edge of trust is for now."""

    def scope_outside(scope: Scope, wider: Scope) -> str | None:
        return None if isinstance(scope, NarrowTrust) else "everything"

    patch.setattr(governing, "scope_outside", scope_outside)


@mutant("short", 20, "I2")
def grants_that_nobody_looks_at(patch: Patch) -> None:
    """A lease holds when the grant under which it was given is suspended or revoked."""
    patch.setattr(decision, "grant_ended", lambda _grant, _ledger_time: None)


@mutant("short", 12, "I2")
def executors_that_nobody_looks_at(patch: Patch) -> None:
    """A lease holds when its executor is suspended or revoked."""

    def check_lease(view: Any, lease_id: str, executor: str, *_: Any) -> Any:
        lease = decision.held_lease(view, lease_id, executor)
        if isinstance(lease, Deny):
            return lease, None
        found = decision.review(view, lease, _[2])
        over = (Reason.EXECUTOR_REVOKED, Reason.EXECUTOR_SUSPENDED)
        if found is not None and found.reason not in over:
            return found, lease
        return Permit(lease.depends_on), lease

    patch.setattr(check, "check_lease", check_lease)


# -- commands --------------------------------------------------------------------------------------


@mutant("short", 20, "what nobody signed is not accepted")
def signatures_that_nobody_reads(patch: Patch) -> None:
    """Whatever names an issuer is taken for signed by it."""
    patch.setattr(Envelope, "verify", lambda _self, _public_key: True)


@mutant("short", 12)
def commands_that_are_not_remembered(patch: Patch) -> None:
    """That a command was executed is not kept: a repeat is executed again."""
    patch.setattr(state, "remember", lambda *_: None)


@mutant("short", 8, quick=True)
def repeats_that_are_recorded(patch: Patch) -> None:
    """A repeat gets the first outcome, and an entry of its own in the ledger."""
    original = transitions._repeated

    def repeated(before: Any, command: Any) -> Any:
        judged = original(before, command)
        return replace(judged, outcome=replace(judged.outcome, duplicate=False))

    patch.setattr(transitions, "_repeated", repeated)


@mutant("short", 12)
def repeats_that_are_answered_anew(patch: Patch) -> None:
    """A repeat is executed again where it stands."""
    execute = transitions.execute

    def judge(overlay: Any, case: Any) -> Any:
        judged = original(overlay, case)
        if not judged.outcome.duplicate:
            return judged
        command = case.admitted.command
        view = state.StateView(overlay)
        issuer = transitions._authenticate(view, case.admitted)
        assert isinstance(issuer, transitions._Issuer)
        turn = Turn(overlay, view, command, issuer.domain, case.now, case.seq)
        return transitions._Judged(execute(turn))

    original = transitions._judge
    patch.setattr(transitions, "_judge", judge)


@mutant("short", 12, "ledger time")
def time_that_goes_back(patch: Patch) -> None:
    """An entry's time is what its leader stamped, also when the one before has a later one."""
    original = transitions._open

    def open_case(federation: Any, payload: bytes, seq: int) -> Any:
        case = original(federation, payload, seq)
        return replace(case, now=codec.unstamp(payload)[0])

    patch.setattr(transitions, "_open", open_case)


def _fences(patch: Patch, fence: Any) -> None:
    def lease(**fields: Any) -> Lease:
        return Lease(**{**fields, "fence": fence(fields["fence"])})

    patch.setattr(leasing, "Lease", lease)


@mutant("short", 12, "one lease a fence", "the fence")
def fences_that_are_given_twice(patch: Patch) -> None:
    """Of every eight places in the ledger, all have the same fence."""
    _fences(patch, lambda place: max(1, place // 8))


@mutant("short", 12, "I7")
def fences_that_fall(patch: Patch) -> None:
    """A lease at an odd place in the ledger has a fence below those before it."""
    _fences(patch, lambda place: place if place % 2 == 0 else 1 + place // 2)


MUTANTS = (
    a_word_that_is_read_again,
    a_clock_that_is_read_once,
    permits_beyond_the_deadline,
    deadlines_by_the_wall_clock,
    leases_that_never_end,
    edges_of_trust_that_stay_open,
    delegations_that_outlive_what_is_behind_them,
    scopes_that_nobody_looks_at_again,
    narrowings_that_widen,
    grants_that_nobody_looks_at,
    executors_that_nobody_looks_at,
    signatures_that_nobody_reads,
    commands_that_are_not_remembered,
    repeats_that_are_recorded,
    repeats_that_are_answered_anew,
    time_that_goes_back,
    fences_that_are_given_twice,
    fences_that_fall,
)
