"""What policies cost a decision: the same checks with none in force and with some.

One LMDB environment of a node, with leases that cross between its domains. CPU time of one process,
in turns of with and without, so that what else the machine does falls on both; a figure is the
median of the rounds. What is evaluated anew is a set that nobody has asked before, as each round
publishes one.
"""

from __future__ import annotations

import random
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.growth import _acquisition, _Act, _Growing, _microseconds
from bench.pace import Pace
from quorate.core import codec
from quorate.core.decision import check_lease
from quorate.core.outcome import Permit
from quorate.core.state import StateView
from quorate.core.transitions import apply
from quorate.testing.builders import CREATED_MS, ballot_body, proposal_body

_RECORDS: Final = 2_000
_LEASES: Final = 256
_POLICY: Final = """
permit (principal, action, resource) when {{ context.action like "books.*" }};
forbid (principal, action, resource) when {{ context.delegations > 3 }};
forbid (principal, action, resource) unless {{ resource.path like "/books/*" }}; // {mark}
"""


def policing(directory: Path, pace: Pace) -> dict[str, float]:
    """Microseconds of CPU of a check, and how they compare."""
    growing = _Growing(directory)
    growing.grow(_RECORDS)
    acts = growing.acts(_LEASES, random.Random(7))  # noqa: S311
    payloads = [_acquisition(growing.federation, act) for act in acts]
    turn = growing.environment.turn
    leases = [apply(turn.state, each, turn.ledger_size).outcome.thing for each in payloads]
    held = list(zip(leases, acts, strict=True))
    domains = sorted({act.owner for act in acts} | {act.home for act in acts})
    growing.environment.commit()
    found: dict[str, list[float]] = {}
    for number in range(pace.rounds):
        for name, publishers in (("none", []), ("a set", [""]), ("three sets", ["", *domains])):
            pace.tell(f"checks with {name} in force")
            for each in publishers:
                _publish(growing, each, domains, f"{number} {name} {each}")
            view = StateView(growing.environment.turn.state)

            def check(one: tuple[str, _Act], view: StateView = view) -> bool:
                lease, act = one
                decision, _ = check_lease(view, lease, act.executor, "", "", CREATED_MS)
                return isinstance(decision, Permit)

            first = _microseconds(check, held, 0)
            found.setdefault(f"check, asked first, {name}", []).append(first)
            again = _microseconds(check, held, pace.seconds)
            found.setdefault(f"check, {name}", []).append(again)
            growing.environment.abort()
    growing.environment.close()
    costs = {f"{what}, us of CPU": median(each) for what, each in found.items()}
    bare = costs["check, none, us of CPU"]
    return costs | {
        f"check, {name} / none": costs[f"check, {name}, us of CPU"] / bare
        for name in ("a set", "three sets")
    }


def _publish(growing: _Growing, owner: str, domains: list[str], mark: str) -> None:
    """For a domain, or together; within the turn, which is given up afterwards."""
    text = _POLICY.format(mark=mark)
    if owner:
        _run(growing, owner, "policy.publish", {"text": text})
        return
    body = proposal_body("federation.set_policy", {"text": text})
    proposal = _run(growing, domains[0], "proposal.open", body)
    for voter in domains[1:5]:
        _run(growing, voter, "ballot.cast", ballot_body(str(proposal["id"])))


def _run(growing: _Growing, issuer: str, kind: str, body: dict[str, Any]) -> Any:
    turn = growing.environment.turn
    envelope = growing.federation.command(issuer, kind, body)
    applied = apply(turn.state, codec.stamp(CREATED_MS, envelope), turn.ledger_size)
    assert applied.outcome.accepted, applied.outcome
    return applied.outcome.result
