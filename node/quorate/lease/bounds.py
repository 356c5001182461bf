"""How long something that was revoked can still be acted on, whatever fails.

Owns the arithmetic of what is promised with a revocation, for whoever has waited for it. Pure: it
is told what is known of a change and since when, and counts on. Nothing here decides whether a
level is reached (`enforcement`).

Why no node, no link and no leader is needed for it: a node that asks for its authority after the
change was committed is granted it for a state that has the change. So whatever is still permitted
on an older state rests on an authority that was *asked for before the commit*. That lasts for `L`
on its node's clock, and what is permitted under it ends with it, on the executor's. Whoever knows
at a moment of its own clock that the change is committed counts from there: the commit was earlier.
It may learn of it late, and then only counts for longer than need be.

From when a change is enforced no node permits otherwise, so what is still in use was decided before
then, and sent for even earlier: it lasts for `P` at most, on the executor's clock.

The clocks are the node's, the executor's, the one that is counted on here, and the caller's, who is
left to count the rest. Their rates differ by `rho` at most, each from each, and `1 + rho` would be
enough, since no part of the time is stretched by more. The factors are those of the code that waits
for the same, so that the promise is no shorter than the waiting: `1 + 3 * rho` for the authority as
executors count it, `1 + 2 * rho` for a permit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_PPM: Final = 1_000_000
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Bound:
    """What is promised, in milliseconds from the moment at which it was computed, rounded up.

    everybody_ms: nobody acts on what was revoked any more, executors with their permits included.
    nodes_ms: no node permits it any more.
    """

    everybody_ms: int
    nodes_ms: int


@dataclass(frozen=True, slots=True)
class Known:
    """Since when a node knows how widely a change holds, on its own boot clock; None: it does not.

    committed_ns: that it is committed. A later moment than the first one is on the safe side, an
    earlier one is not.
    """

    committed_ns: int
    enforced_ns: int | None = None
    drained: bool = False


class Bounds:
    """The promises of one federation: its `L`, `P` and `rho`."""

    def __init__(self, period_ms: int, max_permit_ttl_ms: int, rho_ppm: int) -> None:
        period_ns = period_ms * _NS_PER_MS
        self._nodes_ns = stretched_ns(period_ns, rho_ppm)
        self._authority_ns = stretched_ns(period_ns, 3 * rho_ppm)
        self._permit_ns = stretched_ns(max_permit_ttl_ms * _NS_PER_MS, 2 * rho_ppm)

    def left(self, known: Known, now_ns: int) -> Bound:
        """What is left at `now_ns`, on the clock of `known`."""
        if known.drained:
            return Bound(0, 0)
        everybody_ns = known.committed_ns + self._authority_ns
        nodes_ns = known.committed_ns + self._nodes_ns
        if known.enforced_ns is not None:
            everybody_ns = min(everybody_ns, known.enforced_ns + self._permit_ns)
            nodes_ns = now_ns
        return Bound(_left_ms(everybody_ns, now_ns), _left_ms(nodes_ns, now_ns))


def stretched_ns(span_ns: int, by_ppm: int) -> int:
    """A span of one clock, as long as another one may find it, rounded up."""
    return span_ns + -(-span_ns * by_ppm // _PPM)


def _left_ms(until_ns: int, now_ns: int) -> int:
    return max(0, -((now_ns - until_ns) // _NS_PER_MS))
