"""What an edge says is drained, held to a model that keeps every permit by itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.lease.outstanding import Holder, OutstandingPermits

LEASES = [f"{number:032x}" for number in range(3)]
THINGS = ["grant:a/1", "grant:a/2", "executor:x"]
SESSIONS = ["", "s" * 16, "t" * 16]

holders = st.builds(Holder, st.sampled_from(LEASES), st.just("x"), st.sampled_from(SESSIONS))
steps = st.one_of(
    st.tuples(st.just("permit"), holders, st.integers(1, 50)),
    st.tuples(st.just("stop"), st.sampled_from([*THINGS, *(f"lease:{each}" for each in LEASES)])),
    st.tuples(st.just("entry")),
    st.tuples(st.just("acknowledge"), holders, st.integers(0, 3)),
    st.tuples(st.just("wait"), st.integers(1, 60)),
)


def things_of(holder: Holder) -> tuple[str, ...]:
    return THINGS[LEASES.index(holder.lease_id)], "executor:x"


@dataclass
class Naive:
    """permits: (holder, size of the ledger, end). stops: (thing, index)."""

    permits: list[tuple[Holder, int, int]] = field(default_factory=list)
    stops: list[tuple[str, int]] = field(default_factory=list)

    def drained_size(self, size: int, now: int) -> int:
        open_at = [
            index
            for thing, index in self.stops
            for holder, decided, end in self.permits
            if end > now and decided <= index and thing in (*things_of(holder), holder.lease)
        ]
        return min([size, *open_at])

    def acknowledged(self, holder: Holder, size: int) -> None:
        if holder.session:
            self.permits = [p for p in self.permits if p[0] != holder or p[1] >= size]


@settings(max_examples=400, deadline=None)
@given(st.lists(steps, max_size=60))
def test_nothing_is_drained_too_early_and_everything_in_the_end(script):
    permits, naive, size, now = OutstandingPermits(), Naive(), 1, 0
    for step in script:
        match step:
            case ("permit", holder, lasts):
                permits.given(holder, things_of(holder), size, now + lasts, now)
                naive.permits.append((holder, size, now + lasts))
            case ("stop", thing):
                permits.stopped(thing, size)
                naive.stops.append((thing, size))
                size += 1
            case ("entry",):
                size += 1
            case ("acknowledge", holder, back):
                permits.acknowledged(holder, size - back)
                naive.acknowledged(holder, size - back)
            case ("wait", spent):
                now += spent
        assert permits.drained_size(size, now) <= naive.drained_size(size, now)
        waits = permits.next_ns()
        assert (permits.drained_size(size, now) == size) or waits is not None
    now += 60
    assert permits.drained_size(size, now) == size == naive.drained_size(size, now)
    assert permits.next_ns() is None
