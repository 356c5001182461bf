"""A core, a node or a machine that somebody stops in good order.

Owns what the process does when it is told to stop (`quorate.node.core_process`): it lets another
lead, if it leads, while its callers are still served, waits until it hears that one or it takes too
long, gives its authority up, and ends. Does not own when it starts again (`faults`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

from quorate.consensus import RaftSettings
from quorate.core.outcome import Reason
from quorate.node.core_loop import HAND_OVER_S
from quorate.testing.simulation.world import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from quorate.testing.simulation.machine import Machine

_LOOK_NS: Final = NS_PER_MS
_PATIENCE_NS: Final = int(min(RaftSettings().election_min_s, HAND_OVER_S) * NS_PER_S)


class Extent(Enum):
    """What is stopped. A node: core and edges, and the authority word, while the machine's clocks
    go on; a machine: those, too."""

    CORE = "the core"
    NODE = "the node"
    MACHINE = "the machine"


class Stopping:
    """One planned stop, from the signal on. stopped: is called when it has come to its end, unless
    something else has ended the process before."""

    def __init__(
        self,
        machine: Machine,
        what: Extent,
        sometimes: Counter[str],
        stopped: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._what = what
        self._sometimes = sometimes
        self._stopped = stopped
        self._generation = machine.generation
        self._until: int | None = None
        machine.world.trace.note(machine.world.now, machine.name, "is to stop", what.value)
        self._look()

    def _look(self) -> None:
        machine = self._machine
        if machine.generation != self._generation or machine.core is None:
            return
        # The process takes its turns whole, and does nothing while it is held.
        if machine.is_turning or machine.is_core_stopped or not self._is_over(machine):
            machine.world.after(_LOOK_NS, self._look)
            return
        machine.running.surrender(Reason.INQUORATE)
        if self._what is Extent.CORE:
            machine.crash_core()
        else:
            machine.power_off(in_order=True)
        self._sometimes["stopped as planned"] += 1
        self._stopped()

    def _is_over(self, machine: Machine) -> bool:
        """Whether another leads, or none is waited for (any more)."""
        core = machine.running
        if self._until is None:
            self._until = machine.clock.boottime_ns() + _PATIENCE_NS
            if core.storage_problem or not core.hand_over():
                return True
            machine.wake()
            return False
        if core.replica.leader not in (None, machine.node_id):
            self._sometimes["leadership handed over before a stop"] += 1
            return True
        return machine.clock.boottime_ns() >= self._until
