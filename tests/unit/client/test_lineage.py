"""Work knows where it comes from, and tells others; what is no lineage is refused."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.unit.client.conftest import ACTION, RESOURCE, World, granted
from tests.unit.client.services import one_lease

from quorate.client import ClientReason, Denied, LeasePool, coming_from, current_lineage, governed
from quorate.client.lineage import HEADER, VARIABLE, arriving, outgoing, parse_lineage

ONE, OTHER = "1" * 32, "2" * 32
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_nothing_comes_from_anywhere_at_first() -> None:
    assert current_lineage() == ()
    assert HEADER not in outgoing()


def test_a_lease_has_those_as_parents_that_its_work_comes_from(world: World) -> None:
    world.node.then("Acquire", granted(parents=[ONE, OTHER]))
    with coming_from(OTHER, ONE, OTHER):
        lease = world.gate.acquire(ACTION, RESOURCE)
    assert not isinstance(lease, Denied)
    assert list(world.node.requests["Acquire"][0].parents) == [ONE, OTHER]
    assert lease.parents == (ONE, OTHER)


def test_a_lease_with_other_parents_is_not_the_one_that_was_asked_for(world: World) -> None:
    world.node.then("Acquire", granted(parents=[ONE]))
    answer = world.gate.acquire(ACTION, RESOURCE, parents=[OTHER])
    assert isinstance(answer, Denied)
    assert answer.reason is ClientReason.MALFORMED_ANSWER


def test_parents_that_are_named_win_over_those_that_are_known(world: World) -> None:
    world.node.then("Acquire", granted())
    with coming_from(ONE):
        assert world.gate.acquire(ACTION, RESOURCE, parents=())
    assert not world.node.requests["Acquire"][0].parents


def test_the_block_of_a_lease_comes_from_it(world: World) -> None:
    one_lease(world)
    with world.gate.lease(ACTION, RESOURCE) as lease:
        assert current_lineage() == (lease.id,)
        assert outgoing()[HEADER] == lease.id
    assert current_lineage() == ()


def test_a_governed_act_comes_from_its_lease_and_that_from_its_caller(world: World) -> None:
    one_lease(world)
    world.node.script["Acquire"][0] = granted(parents=[ONE])
    seen: list[tuple[str, ...]] = []
    with LeasePool(world.gate) as pool:

        @governed(pool, ACTION, RESOURCE)
        def act() -> None:
            seen.append(current_lineage())

        with coming_from(ONE):
            act()
            assert current_lineage() == (ONE,)
    assert seen == [("lease-7",)]
    assert list(world.node.requests["Acquire"][0].parents) == [ONE]


def test_a_pool_keeps_what_comes_from_different_work_apart(world: World) -> None:
    for parents in ([ONE], [OTHER]):
        one_lease(world)
        world.node.script["Acquire"][-1] = granted(parents=parents)
    world.node.then("Acquire", granted(parents=[OTHER]))
    with LeasePool(world.gate) as pool:
        for parent in (ONE, OTHER, ONE):
            with coming_from(parent), pool.lease(ACTION, RESOURCE):
                pass
        assert [list(each.parents) for each in world.node.requests["Acquire"]] == [[ONE], [OTHER]]


def test_threads_and_tasks_do_not_share_it() -> None:
    seen: list[tuple[str, ...]] = []
    with coming_from(ONE):
        thread = threading.Thread(target=lambda: seen.append(current_lineage()))
        thread.start()
        thread.join()
    assert seen == [()]

    async def task(lease: str, before: asyncio.Barrier) -> tuple[str, ...]:
        with coming_from(lease):
            await before.wait()
            return current_lineage()

    async def both() -> list[tuple[str, ...]]:
        barrier = asyncio.Barrier(2)
        return await asyncio.gather(task(ONE, barrier), task(OTHER, barrier))

    assert asyncio.run(both()) == [(ONE,), (OTHER,)]


def test_a_process_has_it_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{OTHER}, {ONE}")
    assert current_lineage() == (ONE, OTHER)
    with coming_from():
        assert current_lineage() == ()
    monkeypatch.setenv(VARIABLE, "no lease")
    assert current_lineage() == ()


@pytest.mark.parametrize(
    "text",
    ["x", ONE + ",", ONE.upper() + "A", f"{ONE} {OTHER}", ",".join(f"{n:032x}" for n in range(9))],
)
def test_what_is_no_lineage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no lineage"):
        parse_lineage(text)
    with pytest.raises(ValueError, match="no lineage"):
        arriving({HEADER: text})
    assert current_lineage() == ()


def test_what_arrives_goes_on() -> None:
    with arriving({HEADER: f"{ONE},{OTHER}", "traceparent": TRACE}).entered():
        assert current_lineage() == (ONE, OTHER)
        sent = outgoing()
        assert sent[HEADER] == f"{ONE},{OTHER}"
        assert sent["traceparent"] == TRACE
    assert "traceparent" not in outgoing()


def test_without_a_lineage_a_caller_hides_what_the_process_comes_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, ONE)
    with arriving({}).entered():
        assert current_lineage() == ()


def test_a_lease_has_what_is_said_of_its_work(world: World) -> None:
    world.node.then("Acquire", granted(context=["note=", "ticket=OPS=1"]), granted())
    said = {"ticket": "OPS=1", "note": ""}
    assert world.gate.acquire(ACTION, RESOURCE, context=said)
    assert list(world.node.requests["Acquire"][0].context) == ["note=", "ticket=OPS=1"]
    answer = world.gate.acquire(ACTION, RESOURCE, context=said)
    assert isinstance(answer, Denied), "policies were asked about something else"
    assert answer.reason is ClientReason.MALFORMED_ANSWER
