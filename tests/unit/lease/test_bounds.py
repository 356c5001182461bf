"""What is promised with a revocation, held to clocks that run apart as far as they may."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core.genesis import PARAMETER_RANGES
from quorate.lease.bounds import Bound, Bounds, Known, stretched_ns

MS = 1_000_000
PPM = 1_000_000
TWO_SECONDS = Bounds(period_ms=2_000, max_permit_ttl_ms=1_000, rho_ppm=10_000)


@pytest.mark.parametrize(
    ("known", "after_ms", "expected"),
    [
        (Known(0), 0, Bound(2_060, 2_020)),
        (Known(0), 60, Bound(2_000, 1_960)),
        (Known(0), 2_020, Bound(40, 0)),
        (Known(0), 2_060, Bound(0, 0)),
        (Known(0), 9_000, Bound(0, 0)),
        (Known(0, 10 * MS), 10, Bound(1_020, 0)),
        (Known(0, 10 * MS), 60, Bound(970, 0)),
        (Known(0, 1_500 * MS), 1_500, Bound(560, 0)),  # the authority ends before the permit could
        (Known(0, 10 * MS, drained=True), 11, Bound(0, 0)),
    ],
)
def test_what_is_left(known: Known, after_ms: int, expected: Bound):
    assert TWO_SECONDS.left(known, after_ms * MS) == expected


def test_what_is_left_is_rounded_up():
    assert TWO_SECONDS.left(Known(1), 2) == Bound(2_060, 2_020)
    assert TWO_SECONDS.left(Known(0), 2_060 * MS - 1) == Bound(1, 0)
    assert stretched_ns(1, 1) == 2
    assert stretched_ns(1_000_000, 3) == 1_000_003


# -- against clocks ------------------------------------------------------------------------------

rho_ppm = st.integers(*PARAMETER_RANGES["rho_ppm"])
inner = st.fractions(0, 1, max_denominator=1_000)
share = st.one_of(st.sampled_from([Fraction(0), Fraction(1)]), inner)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, int, int, list[Fraction]]:
    """L, P, rho, and how fast four clocks run: the fastest by `rho` faster than the slowest."""
    period_ms = draw(st.integers(*PARAMETER_RANGES["authority_period_ms"]))
    permit_ms = draw(st.integers(PARAMETER_RANGES["max_permit_ttl_ms"][0], period_ms))
    rho = draw(rho_ppm)
    rates = [1 + draw(share) * Fraction(rho, PPM) for _ in range(4)]
    return period_ms, permit_ms, rho, rates


@given(worlds(), share, share, share, st.one_of(st.just(0), st.integers(0, 10**9)))
def test_nobody_acts_later_than_was_promised_at_committed(
    world: tuple[int, int, int, list[Fraction]],
    decided: Fraction,
    learned: Fraction,
    answered: Fraction,
    late_ns: int,
):
    """True time 0 is the commit: no node is granted authority without it that asks later.

    decided: when the node permitted, as a part of its authority. learned, late_ns: how long after
    the commit the answering node knew. answered: how much later it answered, as a part of the
    bound. The caller counts what was left from then, on its own clock.
    """
    period_ms, permit_ms, rho, (node, executor, here, caller) = world
    into_ns = decided * period_ms * MS  # on the node's clock, since it asked
    ttl_ns = min(period_ms * MS - into_ns, permit_ms * MS)  # on the executor's, since it sent
    permitted = into_ns / node
    acts_until = permitted + ttl_ns / executor
    knew = learned * late_ns
    bounds = Bounds(period_ms, permit_ms, rho)
    start_ns = int(knew * here) + 1  # read after it was known
    now_ns = start_ns + int(answered * period_ms * MS * 2)
    left = bounds.left(Known(start_ns), now_ns)
    said = Fraction(now_ns) / here
    assert said + Fraction(left.everybody_ms * MS) / caller >= acts_until
    assert said + Fraction(left.nodes_ms * MS) / caller >= permitted


@given(worlds(), share, share)
def test_nobody_acts_later_than_was_promised_at_enforced(
    world: tuple[int, int, int, list[Fraction]], asked: Fraction, answered: Fraction
):
    """True time 0 is when no node permitted any more; asked: how much earlier the node had asked,
    as a part of its authority's life. The commit was known just after that ask."""
    period_ms, permit_ms, rho, (node, executor, here, caller) = world
    since_ask_ns = asked * period_ms * MS
    ttl_ns = min(period_ms * MS - since_ask_ns, permit_ms * MS)
    acts_until = ttl_ns / executor
    bounds = Bounds(period_ms, permit_ms, rho)
    committed = -since_ask_ns / node
    enforced_ns = 10**15
    committed_ns = enforced_ns + int(committed * here) + 1
    now_ns = enforced_ns + int(answered * permit_ms * MS * 2)
    left = bounds.left(Known(committed_ns, enforced_ns), now_ns)
    said = Fraction(now_ns - enforced_ns) / here
    assert said + Fraction(left.everybody_ms * MS) / caller >= acts_until
    assert left.nodes_ms == 0


@given(
    st.integers(100, 60_000),
    st.integers(1, 60_000),
    rho_ppm,
    st.integers(0, 10**11),
    st.integers(0, 10**11),
)
def test_what_is_left_never_grows_with_time_nor_with_what_is_known(
    period_ms: int, permit_ms: int, rho: int, first_ns: int, more_ns: int
):
    bounds = Bounds(period_ms, permit_ms, rho)
    at = first_ns + more_ns
    committed, enforced = Known(0), Known(0, first_ns)
    early, late = bounds.left(committed, first_ns), bounds.left(committed, at)
    assert late.everybody_ms <= early.everybody_ms
    assert late.nodes_ms <= late.everybody_ms
    assert bounds.left(enforced, at).everybody_ms <= late.everybody_ms
    assert bounds.left(Known(0, first_ns, drained=True), at) == Bound(0, 0)
