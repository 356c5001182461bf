"""How moments are compared: CLOCK_BOOTTIME of one machine, and no allowance for noise.

Owns the windows and bounds that are the demonstration's own; the federation's are in its genesis.
None is needed for noise, because a permit counts by the very reading of the clock that it was
judged by, not by when somebody got round to writing it down.
"""

from __future__ import annotations

from typing import Final

from quorate.chaos.demo.journal import NS_PER_MS

RECOVERY_MS: Final = 15_000
"""Within this time after healing permits are had again everywhere, also on a loaded machine: an
election, reconnection with its pauses, and a round of authority."""
CATCH_UP_MS: Final = 20_000
"""Within this time a killed node is back, from the start of its processes."""
SETTLE_S: Final = 30.0
WINDOW_MS: Final = 2_000
"""How long beyond a bound it is watched that nothing comes after it."""


def elapsed_ms(later_ns: int, earlier_ns: int) -> float:
    """From the earlier moment to the later, milliseconds; negative when they are not so."""
    return (later_ns - earlier_ns) / NS_PER_MS
