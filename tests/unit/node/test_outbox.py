"""What a node is told is durable before it says so, and an entry once, whatever happens between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.nodes import Node
from tests.unit.node.reporters import (
    DOMAINS,
    Reporters,
    commands,
    denied,
    follower,
    heal,
    lose_quorum,
    numbers,
    records,
    rows,
)

from quorate.core.errors import StorageDamagedError
from quorate.core.limits import MAX_RECORDS_PER_COMMAND
from quorate.core.lineage import NO_HEAD, Denials, EventType, Record, Stage, chained, encoded
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.core.state import StateView
from quorate.core.verbs import Verb
from quorate.node import outbox
from quorate.node.lease_commands import LeaseCommands
from quorate.node.outbox import PATIENCE_S, RETRY_EXPIRED_S, RETRY_S, Row, Taken

BANK = DOMAINS[0]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Reporters]:
    nodes = Reporters(tmp_path, DOMAINS)
    yield nodes
    nodes.close()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Reporters]:
    """A federation of one: its node's own turns are all that happens."""
    nodes = Reporters(tmp_path, (BANK,))
    yield nodes
    nodes.close()


# -- durable, then acknowledged, then in the ledger ----------------------------------------------


def test_what_is_taken_in_is_durable_before_it_is_acknowledged(alone: Reporters) -> None:
    node = alone.node(BANK)
    lose = node.core.keeper.surrender
    lose(Reason.INQUORATE)
    taken = alone.say(BANK, 0)
    assert node.core.has_more, "a turn is due"
    assert (node.kept_through < taken.ticket, rows(node)) == (True, 0)
    assert node.core.decide()
    assert (node.kept_through < taken.ticket, rows(node)) == (True, 0)
    node.core.settle()
    assert (node.kept_through, rows(node)) == (taken.ticket, 1)


def test_what_comes_in_during_a_turn_is_durable_with_the_next(alone: Reporters) -> None:
    node = alone.node(BANK)
    first = alone.say(BANK, 0)
    assert node.core.decide()
    second = alone.say(BANK, 1)
    node.core.settle()
    assert first.ticket <= node.kept_through < second.ticket
    alone.crash(node)
    assert node.core.outbox.waiting == 1
    alone.until(alone.emptied)
    assert numbers(node, node.node_id) == [0]


def test_what_is_told_becomes_an_entry(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    taken = nodes.say(domain, 0, 1)
    assert taken.stage is Stage.STARTED
    nodes.until(nodes.emptied)
    for each in nodes.nodes.values():
        assert numbers(each, node.node_id) == [0, 1]
    assert rows(node) == 0
    with node.environment.read() as snapshot:
        view = StateView(snapshot.state)
        lease = view.lease(nodes.leases[domain])
        assert lease is not None
        assert (lease.lineage, lease.stage, lease.events) == (taken.head, taken.stage, 2)
        said = [encoded(record) for record in records(node, node.node_id)]
        assert view.lineage_head(node.node_id) == chained(NO_HEAD, said)


def test_without_a_quorum_it_is_kept_and_told_afterwards(nodes: Reporters) -> None:
    lose_quorum(nodes)
    for domain in DOMAINS:
        nodes.say(domain, 0, 1)
        nodes.node(domain).core.outbox.deny([nodes.denials(domain, 3)])
    nodes.run_ms(5_000)
    for domain in DOMAINS:
        node = nodes.node(domain)
        assert (node.core.outbox.waiting, rows(node)) == (3, 3)
        assert commands(node) == []
    heal(nodes)
    ledger = nodes.node(BANK)
    for domain in DOMAINS:
        node_id = nodes.node(domain).node_id
        assert (numbers(ledger, node_id), denied(ledger, node_id)) == ([0, 1], 3)


def test_all_nodes_report_at_once(nodes: Reporters) -> None:
    for number in range(20):
        for domain in DOMAINS:
            nodes.say(domain, number)
        nodes.run_ms(10)
    nodes.until(nodes.emptied)
    for domain in DOMAINS:
        assert numbers(nodes.node(BANK), nodes.node(domain).node_id) == list(range(20))


# -- rows ---------------------------------------------------------------------------------------


def test_no_row_is_done_by_a_chain_that_is_empty() -> None:
    unsealed, sealed = row(0), row(1, "ab" * 32)
    assert outbox._done([unsealed], NO_HEAD) == 0
    assert outbox._done([sealed], NO_HEAD) == 0
    assert outbox._done([sealed, unsealed], "cd" * 32) == 0
    assert outbox._done([row(0, "cd" * 32), sealed, unsealed], "ab" * 32) == 2


def row(seq: int, head: str = NO_HEAD) -> Row:
    record = Denials("", "Check", "", Reason.INQUORATE, 1, 2, 3, 4)
    return Row(seq, record, encoded(record), bytes(64), head)


@pytest.mark.parametrize("head", [NO_HEAD, "ab" * 32])
def test_a_row_is_the_same_after_it_was_written(head: str) -> None:
    written = row(5, head)
    assert Row.parse(5, written.to_bytes()) == written


@pytest.mark.parametrize("cut", [0, 31, 95, 96, -1])
def test_a_row_that_is_none_is_damage(cut: int) -> None:
    with pytest.raises(StorageDamagedError, match="row 5"):
        Row.parse(5, row(5).to_bytes()[:cut])


# -- what else may move the chain ----------------------------------------------------------------


def stranger(
    nodes: Reporters, domain: str, *, propose_at: Node, record: Record | None = None
) -> bytes:
    """A command with the node's key that this store knows nothing of."""
    node = nodes.node(domain)
    with node.environment.read() as snapshot:
        after = StateView(snapshot.state).lineage_head(node.node_id)
    record = record or nodes.denials(domain, 100, executor="", lease="")
    body: dict[str, object] = {"after": after, "records": [record.to_json()]}
    envelope = nodes.federation.command(node.node_id, "lineage.append", body)
    return propose_at.propose(envelope)


def test_rows_follow_a_head_that_somebody_else_has_moved(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    leader = nodes.leader
    assert leader is not None
    nodes.say(domain, 0, 1)
    node.core.turn()
    node.core.take_outbox()  # its own command is lost on the way
    nodes.isolate(node.node_id)
    key = stranger(nodes, domain, propose_at=leader)
    nodes.until(lambda: key in leader.outcomes)
    assert leader.outcomes[key].accepted
    heal(nodes)
    assert numbers(leader, node.node_id) == [0, 1]
    assert denied(leader, node.node_id) == 100
    assert rows(node) == 0


def test_rows_that_were_sealed_follow_after_a_restart_too(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    leader = nodes.leader
    assert leader is not None
    nodes.say(domain, 0)
    node.core.outbox.deny([nodes.denials(domain, 2)])
    node.core.turn()
    nodes.isolate(node.node_id)
    key = stranger(nodes, domain, propose_at=leader)
    nodes.until(lambda: key in leader.outcomes)
    nodes.crash(node)
    heal(nodes)
    assert numbers(leader, node.node_id) == [0]
    assert denied(leader, node.node_id) == 102


def test_a_row_that_will_be_refused_waits_as_the_others_do(
    nodes: Reporters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has said that the work has started; what is told next follows all that was."""
    monkeypatch.setattr(outbox, "_BATCH_BYTES", 1)
    domain, node = follower(nodes)
    leader = nodes.leader
    assert leader is not None
    nodes.isolate(node.node_id)
    nodes.until(lambda: not node.word_holds())
    nodes.say(domain, 0, 1)
    node.core.turn()
    event = nodes.event(domain, 99, EventType.STARTED)
    key = stranger(nodes, domain, propose_at=leader, record=event)
    nodes.until(lambda: key in leader.outcomes)
    nodes.isolate()
    nodes.until(lambda: node.core.ledger_size == leader.core.ledger_size)
    assert node.core.outbox.waiting == 2
    nodes.crash(node)
    nodes.until(lambda: node.core.outbox.waiting == 1)
    taken = nodes.say(domain, 2)
    nodes.until(nodes.emptied)
    assert numbers(leader, node.node_id) == [99, 0, 1, 2]
    with leader.environment.read() as snapshot:
        lease = StateView(snapshot.state).lease(nodes.leases[domain])
    assert lease is not None
    assert (lease.events, lease.lineage) == (3, taken.head)


def test_a_store_that_may_have_forgotten_says_nothing(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    lose_quorum(nodes)
    nodes.say(domain, 0, 1)
    node.core.turn()
    node.environment.mark_probation("a token")
    nodes.crash(node)
    assert (node.core.outbox.waiting, rows(node)) == (0, 0)
    nodes.say(domain, 0)
    nodes.isolate()
    nodes.until(lambda: not node.core.is_on_probation)
    nodes.until(nodes.emptied)
    assert numbers(node, node.node_id) == [0], "what it is told since, it says when readmitted"


# -- denials -------------------------------------------------------------------------------------


def test_denials_of_a_kind_are_added_up_while_nobody_was_told(nodes: Reporters) -> None:
    lose_quorum(nodes)
    domain, node = follower(nodes)
    first = nodes.denials(domain, 2)
    node.core.outbox.deny([first])
    node.core.turn()
    nodes.run_ms(1_000)
    nodes.crash(node)
    last = nodes.denials(domain, 3)
    node.core.outbox.deny([last, nodes.denials(domain, 1, method="Renew")])
    node.core.turn()
    assert rows(node) == 2
    heal(nodes)
    merged, other = records(node, node.node_id)
    assert isinstance(merged, Denials)
    assert isinstance(other, Denials)
    assert (merged.count, other.count) == (5, 1)
    assert (merged.first_at, merged.last_at) == (first.first_at, last.last_at)
    assert merged.first_at < merged.last_at
    assert merged.ledger_size == first.ledger_size, "since then there was no quorum"


def test_what_a_command_has_is_not_added_to(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    node.core.outbox.deny([nodes.denials(domain, 2)])
    node.core.turn()
    assert node.core.outbox._flight is not None
    node.core.outbox.deny([nodes.denials(domain, 3)])
    node.core.turn()
    assert rows(node) == 2
    nodes.crash(node)
    node.core.outbox.deny([nodes.denials(domain, 5)])
    node.core.turn()
    assert rows(node) == 2, "added to the second: the first may be in a log"
    heal(nodes)
    assert [each.count for each in records(node, node.node_id) if isinstance(each, Denials)] == [
        2,
        8,
    ]


def test_too_many_kinds_of_denials_are_counted_together(
    nodes: Reporters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_KINDS_OF_DENIALS", 3)
    lose_quorum(nodes)
    domain, node = follower(nodes)
    for number in range(20):
        node.core.outbox.deny([nodes.denials(domain, 1, lease=f"{number:032x}")])
    node.core.outbox.deny([nodes.denials(domain, 1, lease="0" * 32)])
    assert node.core.outbox.waiting == 4
    heal(nodes)
    said = [each for each in records(node, node.node_id) if isinstance(each, Denials)]
    assert [(each.lease[-1:], each.executor != "", each.count) for each in said] == [
        ("0", True, 2),
        ("1", True, 1),
        ("2", True, 1),
        ("", False, 17),
    ]


# -- reports that do not fit ---------------------------------------------------------------------


def test_a_repeat_is_harmless_and_what_follows_something_else_is_not_taken(
    nodes: Reporters,
) -> None:
    lose_quorum(nodes)
    domain, node = follower(nodes)
    first = nodes.say(domain, 0, after=NO_HEAD)
    assert nodes.say(domain, 0, after=NO_HEAD) == first
    second = nodes.say(domain, 1, 2, after=first.head)
    assert nodes.say(domain, 1, 2, after=first.head) == second
    for after, said in ((NO_HEAD, [1]), (first.head, [1]), (first.head, [2, 1]), ("0" * 64, [3])):
        events = [nodes.event(domain, number) for number in said]
        refusal = nodes.refused(domain, *events, after=after)
        assert (refusal.reason, refusal.thing) == (Reason.OUT_OF_ORDER, second.head)
    assert node.core.outbox.waiting == 3
    heal(nodes)
    again = nodes.say(domain, 1, 2, after=first.head)
    assert (again.head, again.stage) == (second.head, second.stage)
    assert again.ticket <= node.kept_through, "what the ledger has needs no turn"
    assert nodes.say(domain, 3, after=second.head).ticket > again.ticket
    nodes.until(nodes.emptied)
    assert numbers(node, node.node_id) == [0, 1, 2, 3]


def test_a_report_is_taken_whole_or_not_at_all(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    good = nodes.event(domain, 0)
    refusal = nodes.refused(domain, good, nodes.event(domain, 1, EventType.CONTAINED))
    assert (refusal.reason, refusal.thing) == (Reason.ILLEGAL_TRANSITION, "contained")
    assert node.core.outbox.waiting == 0
    assert not node.core.outbox.has_more
    nodes.say(domain, 0, 1)


def test_the_order_counts_what_the_ledger_does_not_have_yet(nodes: Reporters) -> None:
    lose_quorum(nodes)
    domain, _ = follower(nodes)
    nodes.say(domain, 0)
    ended = [nodes.event(domain, 1, EventType.COMPLETED)]
    taken = nodes.node(domain).core.outbox.report(ended, None)
    assert isinstance(taken, Taken)
    assert taken.stage is Stage.COMPLETED
    assert nodes.refused(domain, nodes.event(domain, 2)).reason is Reason.ILLEGAL_TRANSITION


def test_a_lease_is_spoken_of_by_its_holder(nodes: Reporters) -> None:
    domain, _ = follower(nodes)
    other = next(each for each in DOMAINS if each != domain)
    event = nodes.event(domain, 0)
    nodes.leases[domain] = nodes.leases[other]
    foreign = nodes.event(domain, 0)
    nodes.leases[domain] = "0" * 32
    unknown = nodes.event(domain, 0)
    assert nodes.refused(domain, foreign).reason is Reason.NOT_LEASE_HOLDER
    assert nodes.refused(domain, unknown).reason is Reason.UNKNOWN_LEASE
    assert isinstance(nodes.node(domain).core.outbox.report([event], None), Taken)


@pytest.mark.parametrize(("name", "value"), [("MAX_RECORDS", 8), ("MAX_BYTES", 1_800)])
def test_one_executor_leaves_room_for_others(
    nodes: Reporters, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(outbox, name, value)
    domain, node = follower(nodes)
    event = nodes.event(domain, 0)
    other = replace(event, lease=nodes.lease(domain, "two"), executor=nodes.executor(domain, "two"))
    lose_quorum(nodes)
    nodes.say(domain, 0, 1)
    refused = nodes.refused(domain, nodes.event(domain, 2))
    assert (refused.reason, refused.thing) == (Reason.LIMIT_EXCEEDED, nodes.executor(domain))
    nodes.run_ms(100)
    nodes.crash(node)
    assert nodes.refused(domain, nodes.event(domain, 2)).reason is Reason.LIMIT_EXCEEDED
    assert isinstance(node.core.outbox.report([other], None), Taken)
    heal(nodes)
    nodes.say(domain, 2, 3)  # there is room again


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_RECORDS", 3), ("MAX_BYTES", 600), ("MAX_EVENTS_PER_LEASE", 3)]
)
def test_the_outbox_has_limits(
    nodes: Reporters, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(outbox, name, value)
    monkeypatch.setattr(outbox, "EXECUTORS_SHARE", 1)
    lose_quorum(nodes)
    domain, node = follower(nodes)
    nodes.say(domain, 0, 1)
    two = nodes.event(domain, 2), nodes.event(domain, 3)
    assert nodes.refused(domain, *two).reason is Reason.LIMIT_EXCEEDED
    assert node.core.outbox.waiting == 2
    nodes.say(domain, 2)
    assert nodes.refused(domain, nodes.event(domain, 3)).reason is Reason.LIMIT_EXCEEDED
    heal(nodes)
    assert numbers(node, node.node_id) == [0, 1, 2]
    if name != "MAX_EVENTS_PER_LEASE":
        nodes.say(domain, 3)  # there is room again


# -- commands ------------------------------------------------------------------------------------


def test_commands_are_of_a_bounded_size_and_one_at_a_time(nodes: Reporters) -> None:
    lose_quorum(nodes)
    domain, node = follower(nodes)
    for number in range(2 * MAX_RECORDS_PER_COMMAND + 1):
        nodes.say(domain, number)
    long = "\x01" * 250
    for number in range(65, 75):
        taken = node.core.outbox.report([nodes.event(domain, number, note=long)], None)
        assert isinstance(taken, Taken)
    heal(nodes)
    assert numbers(node, node.node_id) == list(range(75))
    sizes = [(len(said), sum(len(encoded(each)) for each in said)) for _, said in commands(node)]
    assert max(count for count, _ in sizes) == MAX_RECORDS_PER_COMMAND
    assert all(size <= outbox._BATCH_BYTES for _, size in sizes)
    assert 3 < len(sizes) < 10


def test_a_record_of_any_size_is_a_command_by_itself(
    nodes: Reporters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_BATCH_BYTES", 1)
    domain, node = follower(nodes)
    nodes.say(domain, 0, 1, 2)
    nodes.until(nodes.emptied)
    assert [len(said) for _, said in commands(node)] == [1, 1, 1]


def test_the_longest_record_fits_a_command(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    event = nodes.event(domain, 0)
    long = {f"{number:02}": "\x01" * 204 for number in range(4)} | {"number": "0"}
    longest = type(event)(event.lease, event.executor, event.type, long, event.at)
    assert len(encoded(longest)) > 5_000
    assert isinstance(node.core.outbox.report([longest], None), Taken)
    nodes.until(nodes.emptied)
    assert numbers(node, node.node_id) == [0]


def proposals(node: Node) -> list[bytes]:
    """The keys of what the node's outbox proposes from now on."""
    found: list[bytes] = []
    propose = node.core.replica.propose

    def noting(key: bytes, payload: bytes) -> bool:
        found.append(key)
        return propose(key, payload)

    node.core.replica.propose = noting  # type: ignore[method-assign]
    return found


def test_a_command_that_is_not_answered_is_proposed_anew(alone: Reporters) -> None:
    node = alone.node(BANK)
    found = proposals(node)
    node.core.outbox.executed = lambda key, outcome: None  # type: ignore[method-assign]
    node.core.replica.propose = lambda key, payload: found.append(key) or True  # type: ignore
    alone.say(BANK, 0)
    alone.run_ms(int(PATIENCE_S * 1_000) - 500)
    assert len(found) == 1
    alone.run_ms(1_000)
    assert len(found) == 2
    assert len(set(found)) == 2, "it is good for a time only, and so is made anew"


def test_a_command_that_was_denied_is_tried_again_later(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    nodes.run_ms(100)
    key_of = node.core.commands.key
    wrong = nodes.federation[next(each for each in DOMAINS if each != domain)].signing
    object.__setattr__(node.core.commands, "key", wrong)
    found = proposals(node)
    nodes.say(domain, 0)
    nodes.until(lambda: found and found[0] in node.outcomes)
    assert node.outcomes[found[0]].reason is Reason.BAD_SIGNATURE
    object.__setattr__(node.core.commands, "key", key_of)
    nodes.run_ms(int(RETRY_S * 1_000) - 1_000)
    assert len(found) == 1, "not at once"
    assert node.core.outbox.next_due_s() > node.core.now_s(), "nor does it keep the node busy"
    nodes.run_ms(2_000)
    nodes.until(nodes.emptied)
    assert numbers(node, node.node_id) == [0]


def test_a_command_that_was_late_when_time_went_on_is_tried_again_soon(
    nodes: Reporters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong clock can push ledger time far ahead of what a node knew when it proposed."""
    domain, node = follower(nodes)
    build = LeaseCommands.build
    late = [1_000_000_000]

    def build_late(self: LeaseCommands, verb: Verb, body: Any, nonce: str, time_ms: int) -> bytes:
        return build(self, verb, body, nonce, time_ms - (late.pop() if late else 0))

    monkeypatch.setattr(LeaseCommands, "build", build_late)
    found = proposals(node)
    nodes.say(domain, 0)
    nodes.until(lambda: found and found[0] in node.outcomes)
    assert node.outcomes[found[0]].reason is Reason.EXPIRED_COMMAND
    nodes.run_ms(int(RETRY_EXPIRED_S * 1_000) - 100)
    assert len(found) == 1, "not at once"
    nodes.run_ms(500)
    nodes.until(nodes.emptied)
    assert (len(found), numbers(node, node.node_id)) == (2, [0])


def test_a_command_of_somebody_else_is_no_answer(alone: Reporters) -> None:
    node = alone.node(BANK)
    alone.say(BANK, 0)
    outcome = Outcome(accepted=False, reason=Reason.NODE_RETIRED, thing="", index=1, command_id="")
    node.core.outbox.executed(b"another", outcome)
    alone.until(alone.emptied)
    assert numbers(node, node.node_id) == [0]


def test_a_replica_with_too_much_to_do_is_asked_again(
    nodes: Reporters, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, node = follower(nodes)
    with monkeypatch.context() as patch:
        patch.setattr(node.core.replica, "propose", lambda key, payload: False)
        nodes.say(domain, 0)
        nodes.run_ms(100)
        assert node.core.outbox.next_due_s() > node.core.now_s()
    nodes.run_ms(int(PATIENCE_S * 1_000))
    nodes.until(nodes.emptied)
    assert numbers(node, node.node_id) == [0]


def test_a_node_that_waits_for_nothing_rests(nodes: Reporters) -> None:
    """What a command is for is done by one of before, and of the command itself nothing is heard
    any more: it must not keep the node turning."""
    domain, node = follower(nodes)
    nodes.say(domain, 0)
    node.core.turn()
    box = node.core.outbox
    assert box._flight is not None
    original = box.executed
    box.executed = lambda key, outcome: None  # type: ignore[method-assign]
    nodes.until(lambda: box.waiting == 0)
    box.executed = original  # type: ignore[method-assign]
    nodes.run_ms(int(PATIENCE_S * 1_000) + 1_000)
    assert box.next_due_s() > node.core.now_s()


def test_a_node_that_was_retired_takes_in_nothing_that_could_never_go_out(nodes: Reporters) -> None:
    domain, node = follower(nodes)
    assert nodes.leader is not None
    assert nodes.order(domain, "node.retire", {"node": node.node_id}, nodes.leader).accepted
    nodes.until(lambda: node.core.nodes[node.node_id].retired)
    assert nodes.refused(domain, nodes.event(domain, 0)) == Deny(Reason.NODE_RETIRED, node.node_id)
    assert node.core.outbox.waiting == 0
