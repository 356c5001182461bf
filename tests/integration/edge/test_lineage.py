"""LineageService over TLS, with a keeper that follows a real ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tests.integration.edge.conftest import ACTION, DOMAIN, EXECUTOR, NODE, RESOURCE, FakeCore, Pki

from quorate.api.pace import MAX_LINEAGE_PAGES_AT_ONCE
from quorate.api.servers import CoreServers, start_core_servers
from quorate.core.graph import Mark, mark_of
from quorate.core.outcome import Outcome
from quorate.node import lineage_keeper
from quorate.node.lineage_keeper import LineageKeeper
from quorate.storage import graph as graph_store
from quorate.storage.graph import GraphError, GraphStore
from quorate.testing.builders import acquire_body
from quorate.v1 import decision_pb2, lineage_pb2, lineage_pb2_grpc

SIZE_BYTES = 64 * 2**20


def run(core: FakeCore, issuer: str, kind: str, body: dict[str, object]) -> Outcome:
    outcome = core.run(issuer, kind, body).outcome
    assert outcome is not None
    return outcome


def acquired(core: FakeCore, *parents: str) -> str:
    body = acquire_body(EXECUTOR, ACTION, RESOURCE, 0, parents)
    return run(core, NODE, "lease.acquire", body).thing


def keeper_of(core: FakeCore, directory: Path, owner: bytes = b"own") -> LineageKeeper:
    return LineageKeeper(
        lambda: GraphStore.open(directory, owner, map_size_bytes=SIZE_BYTES),
        core.environment.read_aside,
    )


def size_of(core: FakeCore) -> int:
    with core.read() as snapshot:
        return snapshot.ledger_size


def kept(keeper: LineageKeeper) -> Mark:
    with keeper.read() as reader:
        return mark_of(reader)


def follow(keeper: LineageKeeper) -> None:
    while keeper.step():
        pass


@pytest.fixture
async def keeper(core: FakeCore, directory: Path) -> AsyncIterator[LineageKeeper]:
    kept = keeper_of(core, directory)
    running = asyncio.create_task(kept.run())
    yield kept
    running.cancel()
    await asyncio.wait([running])


@pytest.fixture
async def servers(
    core: FakeCore, keeper: LineageKeeper, pki: Pki, directory: Path
) -> AsyncIterator[CoreServers]:
    config = SimpleNamespace(
        node=SimpleNamespace(id=NODE, data_dir=directory),
        listen=SimpleNamespace(governance="127.0.0.1:0"),
    )
    servers = await start_core_servers(core, config, pki.node, pki.ca.certificate, graph=keeper)
    yield servers
    await servers.public.stop(0)
    await servers.local.stop(0)


@pytest.fixture
def stub(servers: CoreServers, pki: Pki, dial: Any) -> Any:
    return lineage_pb2_grpc.LineageServiceStub(dial(servers.public.port, pki.operator))


async def test_a_lineage_is_told_both_ways_and_page_by_page(core: FakeCore, stub: Any) -> None:
    root = acquired(core)
    children = [acquired(core, root) for _ in range(3)]
    low = acquired(core, children[0])
    last = size_of(core) - 1
    up = await stub.Ancestors(
        lineage_pb2.AncestorsRequest(lease_id=low, minimum_index=last), timeout=10
    )
    assert [(each.lease_id, each.depth) for each in up.leases] == [(children[0], 1), (root, 2)]
    assert (up.found, up.truncated, up.position.size) == (True, False, last + 1)
    assert up.position.ledger_size == last + 1
    told, token, pages = [], "", 0
    while True:
        page = await stub.Descendants(
            lineage_pb2.DescendantsRequest(lease_id=root, page_size=2, page_token=token), timeout=10
        )
        told += [(each.lease_id, each.depth, each.executor) for each in page.leases]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert told == [*((each, 1, EXECUTOR) for each in children), (low, 2, EXECUTOR)]
    assert pages == 2
    missing = await stub.Ancestors(lineage_pb2.AncestorsRequest(lease_id="0" * 32), timeout=10)
    assert not missing.found


async def test_what_an_entry_stopped_is_told_before_it_and_after(core: FakeCore, stub: Any) -> None:
    held, other = acquired(core), acquired(core)
    core.run(NODE, "lease.release", {"lease": other, "executor": EXECUTOR})
    revoked = run(core, DOMAIN, "grant.revoke", {"grant": "g"}).index
    core.run(DOMAIN, "executor.suspend", {"executor": EXECUTOR})
    thing = f"grant:{DOMAIN}/g"
    request = lineage_pb2.DependentsRequest(
        thing=thing, at_index=revoked, minimum_index=size_of(core) - 1
    )
    answer = await stub.Dependents(request, timeout=10)
    assert answer.position.at_index == revoked
    first, second = answer.leases
    assert (first.lease_id, first.before.in_force, first.after.in_force) == (held, True, False)
    assert first.after.reason == decision_pb2.REASON_GRANT_REVOKED
    assert first.after.thing == f"{DOMAIN}/g"
    assert (second.lease_id, second.before.in_force) == (other, False)
    assert second.before.reason == decision_pb2.REASON_LEASE_RELEASED
    request.only_stopped = True
    answer = await stub.Dependents(request, timeout=10)
    assert [each.lease_id for each in answer.leases] == [held]
    for thing in (f"executor:{EXECUTOR}", f"domain:{DOMAIN}", f"contained:{EXECUTOR}"):
        answer = await stub.Dependents(lineage_pb2.DependentsRequest(thing=thing), timeout=10)
        assert [each.lease_id for each in answer.leases] == [held, other]
    assert not answer.leases[0].before.in_force, "without an index: now"
    grants = lineage_pb2.DependentsRequest(thing=thing, kind=lineage_pb2.DEPENDENT_KIND_GRANTS)
    assert not (await stub.Dependents(grants, timeout=10)).grants


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("Ancestors", lineage_pb2.AncestorsRequest(lease_id="x"), "INVALID_ARGUMENT"),
        ("Descendants", lineage_pb2.DescendantsRequest(lease_id="x"), "INVALID_ARGUMENT"),
        ("Dependents", lineage_pb2.DependentsRequest(thing="x"), "INVALID_ARGUMENT"),
        ("Dependents", lineage_pb2.DependentsRequest(thing="node:x"), "INVALID_ARGUMENT"),
        ("Dependents", lineage_pb2.DependentsRequest(thing="grant:"), "INVALID_ARGUMENT"),
        (
            "Dependents",
            lineage_pb2.DependentsRequest(thing="domain:" + "x" * 500),
            "INVALID_ARGUMENT",
        ),
        (
            "Dependents",
            lineage_pb2.DependentsRequest(thing="domain:a", page_size=501),
            "INVALID_ARGUMENT",
        ),
        (
            "Dependents",
            lineage_pb2.DependentsRequest(thing="domain:a", page_token="eHg="),
            "INVALID_ARGUMENT",
        ),
        ("Dependents", lineage_pb2.DependentsRequest(thing="domain:a", kind=9), "INVALID_ARGUMENT"),
        (
            "Dependents",
            lineage_pb2.DependentsRequest(thing="domain:a", at_index=99),
            "OUT_OF_RANGE",
        ),
        (
            "Ancestors",
            lineage_pb2.AncestorsRequest(lease_id="0" * 32, minimum_index=99),
            "OUT_OF_RANGE",
        ),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    stub: Any, keeper: LineageKeeper, method: str, request_: Any, code: str
) -> None:
    await keeper.advance(1, 10)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await getattr(stub, method)(request_, timeout=3)
    assert failed.value.code().name == code


async def test_a_token_is_for_its_own_list(core: FakeCore, stub: Any) -> None:
    root = acquired(core)
    for _ in range(2):
        acquired(core, root)
    request = lineage_pb2.DescendantsRequest(
        lease_id=root, page_size=1, minimum_index=size_of(core) - 1
    )
    token = (await stub.Descendants(request, timeout=10)).next_page_token
    assert token
    for odd in (token + "=", token[:-4] + "AAAA" + token[-4:], "A" * 300):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Dependents(
                lineage_pb2.DependentsRequest(thing=f"lease:{root}", page_token=odd), timeout=10
            )
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.Dependents(
            lineage_pb2.DependentsRequest(thing=f"lease:{root}", page_token=token), timeout=10
        )
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_each_caller_is_answered_a_page_after_the_other_and_keeps_nobody_out(
    core: FakeCore, stub: Any, servers: CoreServers, pki: Pki, dial: Any
) -> None:
    """Of all methods together; what is malformed counts, too."""
    lease = acquired(core)
    await stub.Ancestors(
        lineage_pb2.AncestorsRequest(lease_id=lease, minimum_index=size_of(core) - 1), timeout=10
    )
    methods = (
        lambda: stub.Ancestors(lineage_pb2.AncestorsRequest(lease_id=lease), timeout=10),
        lambda: stub.Descendants(lineage_pb2.DescendantsRequest(lease_id=lease), timeout=10),
        lambda: stub.Dependents(lineage_pb2.DependentsRequest(thing=f"lease:{lease}"), timeout=10),
    )
    asked = await asyncio.gather(
        *(method() for _ in range(MAX_LINEAGE_PAGES_AT_ONCE) for method in methods),
        return_exceptions=True,
    )
    refused = [each for each in asked if isinstance(each, grpc.aio.AioRpcError)]
    assert refused
    assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert 0 < len(asked) - len(refused) <= MAX_LINEAGE_PAGES_AT_ONCE + 1
    other = lineage_pb2_grpc.LineageServiceStub(dial(servers.public.port, pki.other))
    answer = await other.Ancestors(lineage_pb2.AncestorsRequest(lease_id=lease), timeout=10)
    assert answer.found


# -- keeping it ----------------------------------------------------------------------------------


def test_it_goes_on_where_it_was_in_small_steps(
    core: FakeCore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage_keeper, "ENTRIES_A_STEP", 2)
    first = keeper_of(core, directory)
    assert first.step(), "there are three"
    assert kept(first).size == 2
    assert not first.step()
    assert first._graph is not None
    first._graph.close()
    again = keeper_of(core, directory)
    assert not again.step()
    assert kept(again).size == size_of(core) == 3


def test_one_of_another_ledger_is_made_anew(core: FakeCore, directory: Path) -> None:
    first = keeper_of(core, directory)
    follow(first)
    assert first._graph is not None
    first._graph.write(lambda graph: graph.put(b"m", (2).to_bytes(8, "big") + bytes(32)))
    assert first.step(), "what it has is not the ledger's"
    follow(first)
    mark = kept(first)
    first._graph.close()
    for owner in (b"other", b"own"):
        other = keeper_of(core, directory, owner)
        follow(other)
        assert kept(other) == mark
        assert other._graph is not None
        other._graph.close()


def test_a_file_that_is_none_is_replaced(core: FakeCore, directory: Path) -> None:
    place = directory / graph_store.DIRECTORY
    place.mkdir()
    (place / "data.mdb").write_bytes(b"no database" * 1_000)
    keeper = keeper_of(core, directory)
    follow(keeper)
    assert kept(keeper).size == size_of(core)


async def test_no_fault_of_it_ends_anything_and_it_is_tried_again(
    core: FakeCore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage_keeper, "RETRY_S", 0.01)
    monkeypatch.setattr(graph_store, "LEAST_FREE_BYTES", 2**62)
    keeper = keeper_of(core, directory)
    with pytest.raises(GraphError), keeper.read():
        pass
    running = asyncio.create_task(keeper.run())
    await keeper.advance(1, 0.2)
    assert "nearly full" in keeper.problem
    assert not running.done()
    monkeypatch.setattr(graph_store, "LEAST_FREE_BYTES", 0)
    await keeper.advance(size_of(core), 10)
    assert keeper.size() == size_of(core)
    running.cancel()
    await asyncio.wait([running])
