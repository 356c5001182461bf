"""The executor of the demonstration writes under permits, and under nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorate.chaos.demo import executor as executor_module
from quorate.chaos.demo.book import Book, Record
from quorate.chaos.demo.executor import Executor, Place, Plan
from quorate.chaos.demo.journal import Did, Event, JournalReader, JournalWriter, parse_event
from quorate.client import (
    ClientReason,
    Denied,
    Lease,
    Permit,
    Reading,
    Reason,
    Released,
    SystemClock,
)
from quorate.client.slot import PermitSlot
from quorate.client.telling import Story

OUTBOX = "//bank.example/books/outbox"
INBOX = "//clinic.example/books/inbox"


class ScriptedGate:
    """Grants leases with growing fences; asks the test at every check."""

    def __init__(self, decide: Callable[[Lease, int], Reason | ClientReason | None]) -> None:
        self.decide = decide
        self.checks = 0
        self.fence = 0
        self.released: list[str] = []
        self.refused: dict[str, Denied] = {}
        self.asked_again: list[str] = []
        self.expires_at_ns = lambda: 10**18

    def acquire(self, action: str, resource: str, *, request_id: str = "") -> Lease | Denied:
        if request_id:
            self.asked_again.append(request_id)
            return Denied(Reason.NO_TRUST)
        if resource in self.refused:
            return self.refused[resource]
        self.fence += 1
        name = f"lease-{self.fence}"
        facts = (name, "e", action, resource, self.fence, 0, "g", "", 0, ())
        return Lease(*facts, self, PermitSlot(SystemClock()), Story(threading.Lock()))

    def on_change(self, _leases: object, _tell: object) -> ScriptedGate:
        return self

    def close(self) -> None: ...

    def hold(self, *_: object, **__: object) -> Any:
        raise NotImplementedError

    def ask(self, lease: Lease, *, is_handed: bool) -> Permit | Denied:
        assert is_handed
        self.checks += 1
        reason = self.decide(lease, self.checks)
        if reason is not None:
            return Denied(reason, lease.id)
        sent = Reading(self.checks, self.checks)
        return Permit(lease.id, lease.fence, sent, self.expires_at_ns(), 1, 1)

    def renew(self, lease: Lease, ttl_ms: int = 0) -> Lease | Denied:
        raise NotImplementedError

    def release(self, lease: Lease) -> Released:
        self.released.append(lease.id)
        return Released(lease.id, 1)


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("PACE_S", "ASK_AGAIN_S", "LEASE_AGAIN_S"):
        monkeypatch.setattr(executor_module, pause, 0.0)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    own, partner = tmp_path / "own.sqlite", tmp_path / "partner.sqlite"
    Book.create(own, "bank.example", 5, "bill").close()
    Book.create(partner, "clinic.example", 0, "").close()
    return Plan(
        client="",
        journal=str(tmp_path / "journal"),
        max_permit_ttl_ms=1_000,
        source=Place("records.send", OUTBOX, str(own)),
        target=Place("records.receive", INBOX, str(partner)),
    )


def perform(plan: Plan, gate: ScriptedGate, stop_after: int) -> list[Event]:
    """Runs the executor until so many checks were made; returns its journal."""
    gate_as_any: Any = gate
    with JournalWriter(Path(plan.journal)) as journal:
        executor = Executor(plan, gate_as_any, journal)
        decide = gate.decide

        def until(lease: Lease, number: int) -> Reason | ClientReason | None:
            if number >= stop_after:
                executor.stopping.set()
            return decide(lease, number)

        gate.decide = until
        guard = threading.Timer(20, executor.stopping.set)
        guard.start()
        executor.run()
        guard.cancel()
    return JournalReader(Path(plan.journal)).events()


def kinds(events: list[Event], did: Did) -> list[Event]:
    return [event for event in events if event.did is did]


def test_it_moves_records_and_gives_the_leases_back(plan: Plan) -> None:
    gate = ScriptedGate(lambda _lease, _number: None)
    events = perform(plan, gate, stop_after=6)
    with Book(Path(plan.source.book)) as own, Book(Path(plan.target.book)) as partner:
        assert own.sent() == partner.received()
        assert len(own.sent()) == 3
    assert [(e.resource, e.fence) for e in kinds(events, Did.LEASED)] == [(INBOX, 1), (OUTBOX, 2)]
    acted = kinds(events, Did.ACTED)
    assert [e.sent_ns for e in acted] == [1, 2, 3, 4, 5, 6]
    assert sorted(e.at_ns for e in acted) == [e.at_ns for e in acted]
    assert gate.released == ["lease-1", "lease-2"]
    assert events[-1].did is Did.ENDED


def test_nothing_is_written_while_it_is_denied_and_the_lease_is_kept(plan: Plan) -> None:
    gate = ScriptedGate(lambda _lease, _number: Reason.INQUORATE)
    events = perform(plan, gate, stop_after=10)
    with Book(Path(plan.target.book)) as partner:
        assert partner.received() == set()
    assert not kinds(events, Did.ACTED)
    assert {e.reason for e in kinds(events, Did.DENIED)} == {"INQUORATE"}
    assert len(kinds(events, Did.LEASED)) == 2


def test_a_lease_that_is_lost_is_given_up_and_another_is_asked_for(plan: Plan) -> None:
    gate = ScriptedGate(lambda _lease, number: Reason.GRANT_REVOKED if number == 3 else None)
    events = perform(plan, gate, stop_after=8)
    assert gate.released[:2] == ["lease-1", "lease-2"]
    assert [e.fence for e in kinds(events, Did.LEASED)] == [1, 2, 3, 4]
    assert {e.fence for e in kinds(events, Did.ACTED)} == {1, 2, 3, 4}


def test_a_move_that_was_denied_halfway_is_finished_later_and_not_doubled(plan: Plan) -> None:
    gate = ScriptedGate(lambda _lease, number: Reason.INQUORATE if number == 2 else None)
    perform(plan, gate, stop_after=6)
    with Book(Path(plan.source.book)) as own, Book(Path(plan.target.book)) as partner:
        assert own.sent() == partner.received()


def test_a_fence_that_the_book_refuses_ends_the_lease(plan: Plan) -> None:
    with Book(Path(plan.target.book)) as partner:
        partner.receive(Record("later", ""), fence=2)
    events = perform(plan, ScriptedGate(lambda _lease, _number: None), stop_after=3)
    [fenced] = kinds(events, Did.FENCED)
    assert (fenced.fence, fenced.lease) == (1, "lease-1")
    assert min(e.fence for e in kinds(events, Did.ACTED)) > 2


def test_no_lease_no_work(plan: Plan) -> None:
    gate = ScriptedGate(lambda _lease, _number: None)
    gate.refused[OUTBOX] = Denied(Reason.NO_GRANT)
    gate_as_any: Any = gate
    with JournalWriter(Path(plan.journal)) as journal:
        executor = Executor(plan, gate_as_any, journal)
        assert executor._obtain() == []
    assert gate.released == ["lease-1"]  # the other half is not kept
    assert JournalReader(Path(plan.journal)).events()[-1].reason == "NO_GRANT"


def test_who_is_refused_again_and_again_asks_ever_more_rarely(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "LEASE_AGAIN_S", 0.4)
    gate = ScriptedGate(lambda _lease, _number: None)
    gate_as_any: Any = gate
    with JournalWriter(Path(plan.journal)) as journal:
        executor = Executor(plan, gate_as_any, journal)

        def refused(reason: Reason) -> float:
            gate.refused[INBOX] = Denied(reason)
            assert executor._obtain() == []
            return executor._pause_s()

        pauses = [refused(Reason.GRANT_REVOKED) for _ in range(7)]
        assert pauses == [0.4, 0.8, 1.6, 3.2, 6.4, 6.4, 6.4]
        assert refused(Reason.INQUORATE) == 0.4  # passes by itself: at one pace
        refused(Reason.NO_GRANT)
        assert refused(Reason.NO_GRANT) == 0.8
        gate.refused.clear()
        assert len(executor._obtain()) == 2
        assert refused(Reason.NO_GRANT) == 0.4


def test_a_probe_is_asked_until_it_is_known(plan: Plan) -> None:
    gate = ScriptedGate(lambda _lease, _number: None)
    gate.refused["//x.example/y"] = Denied(ClientReason.LATE, unknown=True, request_id="id-1")
    probing = Plan(
        plan.client,
        plan.journal,
        plan.max_permit_ttl_ms,
        plan.source,
        plan.target,
        probes=(("records.receive", "//x.example/y"), ("records.erase", INBOX)),
    )
    events = perform(probing, gate, stop_after=1)
    assert [event.reason for event in kinds(events, Did.PROBED)] == ["NO_TRUST", ""]
    assert gate.asked_again == ["id-1"]


def test_a_plan_reads_back_as_it_was_written(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan")
    assert Plan.load(tmp_path / "plan") == plan


def test_a_half_written_line_is_left_for_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    reader = JournalReader(path)
    assert reader.events() == []
    with JournalWriter(path) as journal:
        journal.write(Event(Did.ACTED, 5, lease="a"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert reader.events() == [Event(Did.ACTED, 5, lease="a")]
    path.write_bytes(whole + whole)
    assert len(reader.events()) == 2
    with pytest.raises(ValueError, match="not an event"):
        parse_event(b'{"did":"acted"}')


def test_it_writes_nothing_under_a_permit_that_is_over_before_the_write(plan: Plan) -> None:
    gate = ScriptedGate(lambda _lease, _number: None)
    gate.expires_at_ns = lambda: 0 if gate.checks == 1 else 10**18
    events = perform(plan, gate, stop_after=3)
    assert next(e.sent_ns for e in kinds(events, Did.ACTED)) == 2
