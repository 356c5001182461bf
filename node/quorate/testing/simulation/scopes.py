"""What edges of trust are for in a simulated federation, and how that is narrowed; and what domains
freeze of their own.

Owns which resources there are and whose lease is on which, so that a narrowing leaves some leases
of an edge out and spares others; and the name of the part of an edge that is left out, or of what
is frozen, for which the promises of a revocation hold as for a whole thing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Final

from quorate.core.ids import resource_owner
from quorate.core.patterns import action_listed
from quorate.testing.builders import narrow_body

ACTION: Final = "act.now"
_NAMES: Final = ("thing", "other")


def resource_of(owner: str, executor: str) -> str:
    """The one resource of `owner` that an executor's leases are on: by its number."""
    return f"//{owner}/{_NAMES[int(executor.rpartition('-')[2]) % len(_NAMES)]}"


def part_of(thing: str, what: str) -> str:
    """What relies on an edge, less what is on other resources, as a thing that can be revoked; or
    on what a domain freezes, less what is for other actions."""
    return f"{thing} for {what}"


def parts_of(things: Iterable[str], resource: str) -> Iterator[str]:
    """The parts that somebody relies on who relies on these things, for this resource."""
    yield from (part_of(thing, resource) for thing in things if thing.startswith("trust:"))
    yield frozen_part(resource_owner(resource))


def frozen_part(domain: str) -> str:
    """What everybody relies on who has a lease on the domain's resources: all are for one action,
    whatever else the domain lets through."""
    return part_of(f"frozen:{domain}", ACTION)


def freezing(domain: str, chance: random.Random) -> tuple[dict[str, object], str]:
    """The body of a `resources.freeze`, and the part that it stops, if any."""
    listed = chance.choice(([], [], ["other.*"], ["act.other", "acts.*"], ["act.*"], ["*"]))
    return {"actions": listed}, "" if action_listed(listed, ACTION) else frozen_part(domain)


def narrowing(domain: str, edge: str, chance: random.Random) -> tuple[dict[str, object], str]:
    """The body of a `trust.narrow`, and the part of the edge that it leaves out, if any. What was
    left out before it may want back: that must be denied."""
    kept = chance.choice((None, *_NAMES, *_NAMES))
    if kept is None:  # fewer actions, of which nobody's is missing
        return narrow_body(edge, [f"//{domain}/*"], ["act.*"]), ""
    actions = chance.choice((["*"], ["act.*"], [ACTION]))
    [left_out] = (name for name in _NAMES if name != kept)
    part = part_of(f"trust:{domain}/{edge}", f"//{domain}/{left_out}")
    return narrow_body(edge, [f"//{domain}/{kept}"], actions), part
