"""Making a failing run smaller, so that a person can read it.

Owns the search: from a plan that breaks a promise it leaves out wishes and faults, first many and
then few, as long as the same promise is still broken (Zeller and Hildebrandt, `Simplifying and
isolating failure-inducing input`, 2002), and ends the run where it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

from quorate.testing.simulation.plan import Plan, Planned
from quorate.testing.simulation.run import Patches, Report, run_plan


def shrink(
    report: Report,
    *,
    seconds: float,
    patches: Patches = nullcontext,
    tell: Callable[[Report], None] = lambda _: None,
) -> Report:
    """The smallest run found in so many seconds that breaks the same promise as `report` does.
    tell: is given each smaller one as it is found."""
    assert report.failure is not None
    promise = report.failure.promise
    deadline = time.monotonic() + seconds

    def try_plan(plan: Plan) -> Report | None:
        found = run_plan(plan, patches=patches)
        failed = found.failure is not None and found.failure.promise == promise
        return found if failed else None

    best = report
    for plan in _shorter(best):
        found = try_plan(plan)
        if found is not None:
            best = found
            tell(best)
            break
    chunk = max(1, len(best.plan.events) // 2)
    while time.monotonic() < deadline:
        smaller = _leave_out(best, chunk, try_plan, deadline)
        if smaller is not None:
            best = smaller
            tell(best)
        elif chunk == 1:
            break
        else:
            chunk = max(1, chunk // 2)
    return best


def _shorter(report: Report) -> Iterator[Plan]:
    """The plan without what comes after the failure; healed at once then, or soon."""
    assert report.failure is not None
    at = report.failure.at
    plan = report.plan
    if at < plan.length:
        yield replace(plan, length=at + 1, events=_before(plan, at))


def _before(plan: Plan, at: int) -> tuple[Planned, ...]:
    return tuple(event for event in plan.events if event.at <= at)


def _leave_out(
    report: Report,
    chunk: int,
    try_plan: Callable[[Plan], Report | None],
    deadline: float,
) -> Report | None:
    """Leaves out `chunk` events wherever that can be done; None when it can be done nowhere."""
    best, changed = report, False
    position = len(best.plan.events)
    while position > 0 and time.monotonic() < deadline:
        events = best.plan.events
        first = max(0, position - chunk)
        plan = replace(best.plan, events=events[:first] + events[position:])
        found = try_plan(plan) if len(plan.events) < len(events) else None
        if found is not None:
            best, changed = found, True
        position = first
    return best if changed else None
