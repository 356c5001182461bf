"""What the ledger makes of a node's reports, and of leases that came from others."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, World

from quorate.core import codec, invariants, reporting
from quorate.core.effects import effect_of
from quorate.core.limits import MAX_PARENTS, MAX_RECORDS_PER_COMMAND
from quorate.core.lineage import NO_HEAD, Stage, chained, encoded, parse_record
from quorate.core.outcome import Outcome, Reason
from quorate.core.records import Lease
from quorate.core.vetting import Vetting
from quorate.testing.builders import CREATED_MS, acquire_body

HOUR_MS = 3_600_000


class Reporting:
    """Reports of the clinic's node, and its chain as it knows it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.clinic.node
        self.lease = str(world.acquire().result["id"])
        self.head = NO_HEAD

    def event(self, kind: str = "started", **changes: object) -> dict[str, object]:
        event: dict[str, object] = {
            "kind": "event",
            "lease": self.lease,
            "executor": self.world.agent,
            "type": kind,
            "attributes": {},
            "at": self.world.now,
        }
        return event | changes

    def denials(self, **changes: object) -> dict[str, object]:
        denials: dict[str, object] = {
            "kind": "denials",
            "executor": self.world.agent,
            "method": "Check",
            "lease": self.lease,
            "reason": "INQUORATE",
            "ledger_size": 5,
            "first_at": self.world.now,
            "last_at": self.world.now,
            "count": 2,
        }
        return denials | changes

    def say(self, *records: dict[str, object], after: str | None = None) -> Outcome:
        body = {"after": self.head if after is None else after, "records": list(records)}
        outcome = self.world.do(self.node, "lineage.append", body)
        if outcome.accepted:
            self.head = str(outcome.result["head"])
        return outcome

    def refused(self, *records: dict[str, object]) -> dict[str, object]:
        outcome = self.say(*records)
        assert outcome.accepted, outcome
        refused = outcome.result["refused"]
        assert isinstance(refused, dict)
        return refused

    @property
    def now(self) -> Lease:
        lease = self.world.view.lease(self.lease)
        assert lease is not None
        return lease


@pytest.fixture
def reports(trusted: World) -> Reporting:
    return Reporting(trusted)


def state_of(world: World) -> dict[bytes, bytes]:
    """Everything but ledger time and what is remembered of commands."""
    return {key: value for key, value in world.store.items() if key[:1] not in b"Tcx"}


def heads(records: list[dict[str, object]], before: str = NO_HEAD) -> str:
    return chained(before, [encoded(parse_record(record)) for record in records])


# -- the node's chain ----------------------------------------------------------------------------


def test_what_is_reported_becomes_the_state_of_the_lease(reports: Reporting) -> None:
    said = [reports.event(), reports.event("verified", attributes={"check": "ok"})]
    outcome = reports.say(*said)
    assert outcome.accepted
    assert outcome.thing == reports.node
    assert outcome.result == {"id": reports.node, "head": heads(said), "refused": {}}
    lease = reports.now
    assert (lease.stage, lease.events) == (Stage.STARTED, 2)
    spoken = [parse_record(record).said for record in said]  # type: ignore[union-attr]
    assert lease.lineage == chained(NO_HEAD, spoken)
    assert reports.world.view.lineage_head(reports.node) == heads(said)
    assert invariants.check(reports.world.view) == []


def test_a_report_changes_nothing_else_of_the_lease(reports: Reporting) -> None:
    before = reports.now.to_json()
    reports.say(reports.event())
    after = reports.now.to_json()
    assert {key for key in after if after[key] != before[key]} == {"stage", "events", "lineage"}


def test_each_report_follows_the_one_before(reports: Reporting) -> None:
    first, second = reports.event(), reports.denials()
    reports.say(first)
    reports.say(second)
    assert reports.head == heads([first, second])
    assert reports.head == reports.world.view.lineage_head(reports.node)


@pytest.mark.parametrize("after", ["0" * 64, "first"])
def test_a_report_that_follows_something_else_changes_nothing(
    reports: Reporting, after: str
) -> None:
    reports.say(reports.event())
    head = reports.head
    reports.say(reports.event("verified"))
    before = state_of(reports.world)
    after = head if after == "first" else after
    for wrong in (after, NO_HEAD):
        outcome = reports.say(reports.event("reported"), after=wrong)
        assert (outcome.accepted, outcome.reason) == (False, Reason.OUT_OF_ORDER)
        assert outcome.thing == reports.head
        assert state_of(reports.world) == before


def test_the_first_report_follows_nothing(reports: Reporting) -> None:
    before = state_of(reports.world)
    outcome = reports.say(reports.event(), after="0" * 64)
    assert (outcome.reason, outcome.thing) == (Reason.OUT_OF_ORDER, "")
    assert state_of(reports.world) == before


def test_nodes_have_chains_of_their_own(reports: Reporting) -> None:
    reports.say(reports.event())
    world = reports.world
    body: dict[str, object] = {
        "after": NO_HEAD,
        "records": [reports.denials(executor="", lease="")],
    }
    assert world.must(world.bank.node, "lineage.append", body).result["refused"] == {}
    assert world.view.lineage_head(reports.node) == reports.head
    assert world.view.lineage_head(world.bank.node) != reports.head


def test_a_repeated_report_is_executed_once(reports: Reporting) -> None:
    world = reports.world
    body = {"after": NO_HEAD, "records": [reports.event()]}
    first = world.run(reports.node, "lineage.append", body, "a" * 32)
    again = world.run(reports.node, "lineage.append", body, "a" * 32)
    assert again.outcome.duplicate
    assert again.outcome.result == first.outcome.result
    assert reports.now.events == 1


def test_a_retired_node_reports_no_more(reports: Reporting) -> None:
    world = reports.world
    world.must(CLINIC, "node.retire", {"node": reports.node})
    before = state_of(world)
    assert reports.say(reports.event()).reason is Reason.NODE_RETIRED
    assert state_of(world) == before


# -- records that do not fit -------------------------------------------------------------------


def test_a_record_that_does_not_fit_is_named_and_holds_up_nothing(reports: Reporting) -> None:
    said = [
        reports.event("verified"),
        reports.event(),
        reports.event(),
        reports.event(lease="0" * 32),
        reports.denials(),
        reports.event("completed"),
    ]
    assert reports.refused(*said) == {
        "0": "ILLEGAL_TRANSITION",
        "2": "ILLEGAL_TRANSITION",
        "3": "UNKNOWN_LEASE",
    }
    assert (reports.now.stage, reports.now.events) == (Stage.COMPLETED, 2)
    assert reports.head == heads(said), "those that were refused are in the chain"
    assert invariants.check(reports.world.view) == []


def test_a_lease_is_spoken_of_by_its_holder_alone(reports: Reporting) -> None:
    other = reports.world.clinic.executor("other")
    before = reports.now
    assert reports.refused(reports.event(executor=other)) == {"0": "NOT_LEASE_HOLDER"}
    assert reports.now == before


def test_a_node_speaks_for_executors_of_its_own_domain(reports: Reporting) -> None:
    world = reports.world
    before = reports.now
    body: dict[str, object] = {"after": NO_HEAD, "records": [reports.event(), reports.denials()]}
    outcome = world.must(world.bank.node, "lineage.append", body)
    assert outcome.result["refused"] == {"0": "NOT_AUTHORIZED", "1": "NOT_AUTHORIZED"}
    assert reports.now == before


def test_what_was_denied_changes_no_lease(reports: Reporting) -> None:
    before = reports.now
    unknown = reports.denials(lease="0" * 32)
    assert reports.refused(reports.denials(), unknown, reports.denials(executor="")) == {}
    assert reports.now == before


def test_a_lease_has_so_many_events(reports: Reporting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "MAX_EVENTS_PER_LEASE", 3)
    refused = reports.refused(reports.event(), *[reports.event("reported")] * 3)
    assert refused == {"3": "LIMIT_EXCEEDED"}
    assert reports.refused(reports.event("completed")) == {"0": "LIMIT_EXCEEDED"}
    assert reports.now.events == 3


def test_a_command_has_so_many_records(reports: Reporting) -> None:
    most = [reports.denials()] * MAX_RECORDS_PER_COMMAND
    assert reports.say(*most).accepted
    outcome = reports.say(*most, reports.denials())
    assert (outcome.reason, outcome.thing) == (Reason.MALFORMED_COMMAND, "body.records")
    assert reports.say().reason is Reason.MALFORMED_COMMAND


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"after": "head"}, "body.after"),
        ({"after": None}, "body.after"),
        ({"records": "none"}, "body.records"),
        ({"records": [{"kind": "event"}]}, "body.records[0].lease"),
        ({"records": [{}]}, "body.records[0].kind"),
        ({"node": "x"}, "body.node"),
    ],
)
def test_a_report_has_one_form(reports: Reporting, changes: dict[str, Any], field: str) -> None:
    body = {"after": NO_HEAD, "records": [reports.denials()]} | changes
    outcome = reports.world.do(reports.node, "lineage.append", body)
    assert (outcome.reason, outcome.thing) == (Reason.MALFORMED_COMMAND, field)


# -- work that is over, or must not go on --------------------------------------------------------


def test_work_is_reported_when_its_lease_was_given_back(reports: Reporting) -> None:
    reports.say(reports.event())
    reports.world.lease_act("release", reports.lease)
    before = reports.now
    assert reports.refused(reports.event("completed")) == {}
    after = reports.now
    assert (after.stage, after.status) == (Stage.COMPLETED, before.status)
    assert invariants.check(reports.world.view) == []
    vetting = Vetting(reports.world.store)
    while not vetting.step(100):
        pass


def test_work_is_reported_when_its_lease_has_ended(reports: Reporting) -> None:
    world = reports.world
    world.now += HOUR_MS
    world.must(BANK, "grant.revoke", {"grant": "grant"})
    world.must(CLINIC, "executor.suspend", {"executor": world.agent})
    assert reports.refused(reports.event("interrupted"), reports.event("contained")) == {}
    assert reports.now.stage is Stage.CONTAINED


def test_what_is_reported_neither_ends_nor_mends_a_lease(reports: Reporting) -> None:
    world = reports.world
    reports.say(reports.event(), reports.event("completed"))
    assert world.lease_act("renew", reports.lease, ttl_ms=0).accepted
    assert reports.now.stage is Stage.COMPLETED, "a renewal does not begin the work anew"
    assert (reports.now.events, bool(reports.now.lineage)) == (2, True)


def test_nobody_is_interrupted_by_a_report(reports: Reporting) -> None:
    size = len(reports.world.entries)
    reports.say(reports.event(), reports.event("interrupted"))
    assert effect_of(size, reports.world.entries[size]) is None


# -- parents ---------------------------------------------------------------------------------------


def from_parents(reports: Reporting, *parents: str) -> Outcome:
    world = reports.world
    body = acquire_body(world.agent, "act", "//bank.example/accounts/7", 0, parents)
    return world.do(world.clinic.node, "lease.acquire", body)


def another(reports: Reporting, **wish: Any) -> str:
    return str(reports.world.acquire(**wish).result["id"])


def test_a_lease_says_what_it_came_from(reports: Reporting) -> None:
    parents = sorted((reports.lease, another(reports)))
    outcome = from_parents(reports, *parents)
    assert outcome.accepted
    assert outcome.result["parents"] == parents
    child = reports.world.view.lease(str(outcome.result["id"]))
    assert child is not None
    assert child.parents == tuple(parents)
    assert invariants.check(reports.world.view) == []


def test_a_parent_that_ends_later_does_not_end_its_children(reports: Reporting) -> None:
    child = str(from_parents(reports, reports.lease).result["id"])
    reports.world.lease_act("release", reports.lease)
    assert reports.world.lease_act("renew", child, ttl_ms=0).accepted


def end(reports: Reporting, how: str, lease: str) -> None:
    world = reports.world
    match how:
        case "released":
            world.lease_act("release", lease)
        case "expired":
            world.now += 60_000
        case "revoked":
            world.must(BANK, "grant.issue", _wide(world))
            world.must(BANK, "grant.revoke", {"grant": "grant"})


def _wide(world: World) -> dict[str, object]:
    return {
        "grant": "wide",
        "executor": world.agent,
        "actions": ["*"],
        "resources": ["//bank.example/accounts/*"],
        "not_after": CREATED_MS + 86_400_000,
        "max_lease_ttl_ms": 60_000,
        "max_uses": 0,
        "max_concurrent": 0,
    }


@pytest.mark.parametrize("how", ["released", "expired", "revoked"])
def test_no_work_comes_from_work_that_is_over(reports: Reporting, how: str) -> None:
    end(reports, how, reports.lease)
    holds = another(reports)
    assert from_parents(reports, holds).accepted
    before = state_of(reports.world)
    outcome = from_parents(reports, *sorted((reports.lease, holds)))
    assert (outcome.reason, outcome.thing) == (Reason.BROKEN_LINEAGE, reports.lease)
    assert state_of(reports.world) == before


def test_no_work_comes_from_what_nobody_knows(reports: Reporting) -> None:
    outcome = from_parents(reports, "0" * 32)
    assert (outcome.reason, outcome.thing) == (Reason.BROKEN_LINEAGE, "0" * 32)


def test_a_right_is_asked_for_before_where_the_work_comes_from(reports: Reporting) -> None:
    world = reports.world
    body = acquire_body(world.agent, "act", "//bank.example/vault", 0, ["0" * 32])
    assert world.do(world.clinic.node, "lease.acquire", body).reason is Reason.NO_GRANT


def test_work_comes_from_work_of_another_domain(reports: Reporting) -> None:
    world = reports.world
    clerk = world.bank.executor("clerk")
    world.must(BANK, "executor.register", {"executor": clerk})
    world.must(BANK, "grant.issue", _wide(world) | {"executor": clerk})
    body = acquire_body(clerk, "act", "//bank.example/accounts/7", 0, [reports.lease])
    assert world.do(world.bank.node, "lease.acquire", body).accepted


PARENTS = [f"{number:032x}" for number in range(MAX_PARENTS + 1)]


@pytest.mark.parametrize(
    ("parents", "field"),
    [
        ([], "parents"),
        (["x"], "parents[0]"),
        ([PARENTS[0], 1], "parents[1]"),
        (PARENTS[1::-1], "parents"),
        ([PARENTS[0], PARENTS[0]], "parents"),
        (PARENTS, "parents"),
        ("", "parents"),
        (None, "parents"),
    ],
)
def test_parents_are_named_in_one_way_only(reports: Reporting, parents: Any, field: str) -> None:
    world = reports.world
    body = acquire_body(world.agent, "act", "//bank.example/accounts/7")
    outcome = world.do(world.clinic.node, "lease.acquire", body | {"parents": parents})
    assert (outcome.reason, outcome.thing) == (Reason.MALFORMED_COMMAND, f"body.{field}")


def test_without_parents_a_lease_came_from_nothing(reports: Reporting) -> None:
    assert "parents" not in acquire_body(reports.world.agent, "act", "//bank.example/accounts/7")
    assert reports.now.parents == ()


def test_a_wish_for_a_lease_is_the_same_with_the_same_parents_only(reports: Reporting) -> None:
    world = reports.world
    body = acquire_body(world.agent, "act", "//bank.example/accounts/7", 0, [reports.lease])
    first = world.run(world.clinic.node, "lease.acquire", body, "a" * 32).outcome
    assert first.accepted
    again = world.run(world.clinic.node, "lease.acquire", body, "a" * 32).outcome
    assert again.duplicate
    other = acquire_body(world.agent, "act", "//bank.example/accounts/7")
    assert (
        world.run(world.clinic.node, "lease.acquire", other, "a" * 32).outcome.reason
        is Reason.NONCE_REUSED
    )


def test_an_entry_has_the_records_as_they_were_signed(reports: Reporting) -> None:
    size = len(reports.world.entries)
    said = [reports.event("verified"), reports.denials()]
    reports.say(*said)
    entry = codec.load(reports.world.entries[size])
    assert isinstance(entry, dict)
    assert (entry["type"], entry["decision"]) == ("lineage.append", "accepted")
    assert entry["thing"] == reports.node
