"""Who may have a stream: nodes of known domains, those among them that are not known here yet."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.integration.transport.stage import (
    TIMEOUT_S,
    Member,
    Stack,
    Stranger,
    end_of,
    forge,
    frame,
    free_port,
    hello,
    make_member,
    numbered,
    order_of,
    sibling,
    start,
)

from quorate.consensus import links, server, servicer
from quorate.consensus.limits import MAX_LEARNED_OF_DOMAIN
from quorate.consensus.transport import Transport
from quorate.node.certificates import issue_node

DENIED = grpc.StatusCode.PERMISSION_DENIED


@contextlib.asynccontextmanager
async def admitted(by: Member, to: Member, **said: Any) -> Any:
    """A stream of `by` that has been let in."""
    async with Stranger(by.tls, to).stream() as call:
        await call.write(hello(by, to, **said))
        assert await call.read() != aio.EOF
        yield call


async def refusal(by: Member, to: Member, **said: Any) -> tuple[grpc.StatusCode, str]:
    return await Stranger(by.tls, to).refusal(hello(by, to, **said))


def dialled(transport: Transport) -> set[str]:
    return set(transport._links._links)


async def settled(transport: Transport, *expected: Member) -> None:
    """Waits until exactly these are dialled."""
    async with asyncio.timeout(TIMEOUT_S):
        while dialled(transport) != {member.node_id for member in expected}:  # noqa: ASYNC110
            await asyncio.sleep(0)  # nobody tells of it


# -- nodes that are not known here yet -----------------------------------------------------------


@pytest.mark.parametrize("own_domain", [False, True])
async def test_a_node_that_is_not_known_yet_is_let_in_and_dialled_back(
    tasks: Stack, a: Member, c: Member, own_domain: bool
) -> None:
    if own_domain:
        c = sibling(a, "2")
    a.book.know(c)
    from_a = await start(tasks, a)
    from_c = await start(tasks, c, a)
    await c.handler.until(lambda: c.handler.is_linked(a))
    await a.handler.until(lambda: a.handler.is_linked(c))
    from_c.send(a.node_id, numbered(1))
    from_a.send(c.node_id, numbered(2))
    await a.handler.until(lambda: a.handler.rounds(c.node_id) == [1])
    await c.handler.until(lambda: c.handler.rounds(a.node_id) == [2])


@pytest.mark.parametrize("order", [b"", b"add", order_of("spiffe://c.example/node/2")], ids=str)
async def test_a_node_that_nobody_has_added_is_refused(
    tasks: Stack, a: Member, c: Member, order: bytes
) -> None:
    """Its domain's CA has issued its certificate, and that is all: it must not be obeyed."""
    a.book.know(c)
    from_a = await start(tasks, a)
    code, why = await refusal(c, a, order=order)
    assert code is DENIED
    assert "shows no order of its domain to add it" in why
    assert dialled(from_a) == set()
    assert a.handler.received == []
    async with admitted(c, a):
        pass


async def test_who_is_known_needs_no_order(tasks: Stack, a: Member, b: Member) -> None:
    await start(tasks, b, a)
    async with admitted(a, b, order=b""):
        pass


async def test_it_is_forgotten_with_its_stream(tasks: Stack, a: Member, c: Member) -> None:
    a.book.know(c)
    from_a = await start(tasks, a)
    from_c = await start(tasks, c, a)
    await a.handler.until(lambda: a.handler.is_linked(c))
    from_c.update([])
    await a.handler.until(lambda: not a.handler.is_linked(c))
    assert dialled(from_a) == set()


async def test_once_it_is_named_its_link_goes_on(tasks: Stack, a: Member, c: Member) -> None:
    a.book.know(c)
    from_a = await start(tasks, a)
    from_c = await start(tasks, c, a)
    await a.handler.until(lambda: a.handler.is_linked(c))
    from_a.update([c.peer])
    from_c.update([])  # its stream ends; who is named is dialled all the same
    await c.handler.until(lambda: not c.handler.is_linked(a))
    from_a.send(c.node_id, numbered(1))
    await a.handler.until(lambda: a.handler.links[-1] == (c.node_id, True))
    assert dialled(from_a) == {c.node_id}


async def test_where_the_configuration_says_is_where_it_is_dialled(
    tasks: Stack, a: Member, c: Member
) -> None:
    """Not where it says itself."""
    a.book.know(c)
    from_a = await start(tasks, a)
    a.book.configured[c.node_id] = c.address
    async with admitted(c, a, address=f"127.0.0.1:{free_port()}"):
        assert from_a._links._links[c.node_id].peer == c.peer


async def test_without_an_address_nobody_is_dialled(tasks: Stack, a: Member, c: Member) -> None:
    a.book.know(c)
    from_a = await start(tasks, a)
    async with admitted(c, a, address="") as call:
        assert dialled(from_a) == set()
        from_a.send(c.node_id, numbered(1))
        await call.write(frame(1, 2))
        await a.handler.until(lambda: a.handler.rounds(c.node_id) == [2])


async def test_what_a_known_peer_says_of_its_address_is_not_believed(
    tasks: Stack, a: Member, b: Member
) -> None:
    from_b = await start(tasks, b, a)
    async with admitted(a, b, address=f"127.0.0.1:{free_port()}"):
        assert from_b._links._links[a.node_id].peer == a.peer


async def test_a_domain_has_only_so_many_unknown_nodes_dialled(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    """A domain can issue any number of certificates: it cannot make others dial without bound, nor
    take the places of other domains' nodes."""
    a.book.know(b, c)
    from_a = await start(tasks, a)
    many = [sibling(c, str(number)) for number in range(2, 2 + MAX_LEARNED_OF_DOMAIN)]
    async with contextlib.AsyncExitStack() as streams:
        calls = [await streams.enter_async_context(admitted(node, a)) for node in many]
        code, why = await refusal(c, a)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "not known here yet" in why
        await streams.enter_async_context(admitted(b, a))
        await streams.enter_async_context(admitted(many[0], a))  # in the place that it has
        assert (await end_of(calls[0]))[0] is grpc.StatusCode.ABORTED
        assert dialled(from_a) == {node.node_id for node in (*many, b)}
        calls[-1].cancel()
        await settled(from_a, *many[:-1], b)
        await streams.enter_async_context(admitted(c, a))
        from_a.update([node.peer for node in many])  # now they are known
        await streams.enter_async_context(admitted(sibling(c, "99"), a))


async def test_one_domain_cannot_keep_others_out_by_saying_nothing(
    tasks: Stack, a: Member, b: Member, c: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "_MAX_GREETING_OF_DOMAIN", 2)
    from_a = await start(tasks, a, b, c)
    async with contextlib.AsyncExitStack() as streams:
        silent = [await streams.enter_async_context(Stranger(c.tls, a).stream()) for _ in range(2)]
        for call in silent:
            await call.wait_for_connection()
        while from_a._servicer._greeting_of[c.domain] < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)  # nobody tells of it
        code, why = await refusal(c, a)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "without a hello" in why
        async with admitted(b, a):
            pass
        await silent[0].write(hello(c, a))  # whoever goes on makes room
        assert await silent[0].read() != aio.EOF
        async with admitted(c, a):
            pass


async def test_all_domains_have_only_so_many(
    tasks: Stack, a: Member, b: Member, c: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "MAX_LEARNED_PEERS", 1)
    a.book.know(b, c)
    from_a = await start(tasks, a)
    async with admitted(b, a):
        assert (await refusal(c, a))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dialled(from_a) == {b.node_id}


async def test_a_stream_that_is_refused_takes_no_place(tasks: Stack, a: Member, c: Member) -> None:
    a.book.know(c)
    from_a = await start(tasks, a)
    for changes in ({"genesis_hash": b""}, {"address": "nowhere"}, {"sender": a.node_id}):
        assert (await refusal(c, a, **changes))[0] is not grpc.StatusCode.OK
    async with Stranger(c.tls, a).stream() as call:
        await call.write(hello(c, a))
        await call.write(frame(7))  # out of order
        assert (await end_of(call))[0] is grpc.StatusCode.INVALID_ARGUMENT
    await settled(from_a)
    assert not from_a._links._learned


# -- nodes that are known no longer --------------------------------------------------------------


async def test_a_retired_node_is_refused(tasks: Stack, a: Member, b: Member) -> None:
    await start(tasks, b, a)
    b.book.retired.add(a.node_id)
    code, why = await refusal(a, b)
    assert code is DENIED
    assert f"{a.node_id} can be no peer" in why


async def test_the_stream_of_an_unknown_node_ends_when_it_proves_retired(
    tasks: Stack, a: Member, c: Member
) -> None:
    a.book.know(c)
    from_a = await start(tasks, a)
    async with admitted(c, a) as call:
        a.book.retired.add(c.node_id)
        from_a.update([])
        assert dialled(from_a) == set()
        assert await end_of(call) == (DENIED, "no longer a peer of this node")


async def test_a_node_retires_between_its_certificate_and_its_hello(
    tasks: Stack, a: Member, b: Member
) -> None:
    from_b = await start(tasks, b, a)
    b.book.asked.clear()
    async with Stranger(a.tls, b).stream() as call:
        async with asyncio.timeout(TIMEOUT_S):
            await call.wait_for_connection()
            await b.book.asked.wait()
        b.book.retired.add(a.node_id)
        from_b.update([])
        await call.write(hello(a, b))
        code, why = await end_of(call)
        assert code is DENIED
        assert f"{a.node_id} can be no peer" in why


# -- the authorities of the domains --------------------------------------------------------------


async def test_a_domain_becomes_known_while_the_server_runs(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    """The server is made anew on its port; the streams of the others come back by themselves."""
    from_a = await start(tasks, a, b)
    from_b = await start(tasks, b, a)
    from_c = await start(tasks, c, a)
    await b.handler.until(lambda: b.handler.is_linked(a))
    assert (await refusal(c, a))[0] is grpc.StatusCode.UNAVAILABLE, "TLS itself says no"
    a.book.know(c)
    from_a.update([b.peer, c.peer])
    await c.handler.until(lambda: c.handler.is_linked(a))
    await b.handler.until(lambda: len(b.handler.links) == 3 and b.handler.is_linked(a))
    from_b.send(a.node_id, numbered(1))
    from_c.send(a.node_id, numbered(2))
    await a.handler.until(lambda: sorted(a.handler.received) == [(b.node_id, 1), (c.node_id, 2)])


async def test_a_domain_is_known_no_longer(tasks: Stack, a: Member, b: Member, c: Member) -> None:
    from_a = await start(tasks, a, b, c)
    await start(tasks, b, a)
    await b.handler.until(lambda: b.handler.is_linked(a))
    async with admitted(c, a) as call:
        del a.book.domains[c.domain]
        from_a.update([b.peer])
        assert await end_of(call) == (DENIED, "no longer a peer of this node")
    await b.handler.until(lambda: len(b.handler.links) == 3 and b.handler.is_linked(a))
    assert (await refusal(c, a))[0] is grpc.StatusCode.UNAVAILABLE, "TLS itself says no"


async def test_domains_change_while_the_transport_stops(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    await b.handler.until(lambda: b.handler.is_linked(a))
    a.book.know(c)
    from_a.update([b.peer])
    await asyncio.sleep(0)  # the server is being made anew
    await from_a.stop()
    await b.handler.until(lambda: not b.handler.is_linked(a))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", a.port)


async def test_a_port_that_is_lost_meanwhile_is_a_failure(
    tasks: Stack, a: Member, b: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_REBIND_TRIES", 2)
    from_a = await start(tasks, a)
    failing = asyncio.create_task(from_a.failure())

    async def taken(address: str) -> int:
        raise OSError(f"cannot listen for peers on {address}")

    monkeypatch.setattr(from_a._server, "_begin", taken)
    a.book.know(b)
    from_a.update([b.peer])
    with pytest.raises(OSError, match="cannot listen for peers"):
        await asyncio.wait_for(failing, TIMEOUT_S)


async def test_a_domain_changes_its_authority(tasks: Stack, a: Member, b: Member) -> None:
    from_b = await start(tasks, b, a)
    renewed = make_member(a.domain)
    async with admitted(a, b) as call:
        b.book.know(renewed)
        from_b.update([renewed.peer])
        assert await end_of(call) == (DENIED, "no longer a peer of this node")
    assert (await refusal(a, b))[0] in (DENIED, grpc.StatusCode.UNAVAILABLE)
    await start(tasks, renewed, b)
    await renewed.handler.until(lambda: renewed.handler.is_linked(b))


async def test_no_domain_vouches_for_unknown_nodes_of_another(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    a.book.know(b, c)
    from_a = await start(tasks, a)
    forged = forge(c.ca, "spiffe://b.example/node/7")
    said = hello(b, a, sender="spiffe://b.example/node/7")
    code, why = await Stranger(forged, a).refusal(said)
    assert code is DENIED
    assert "was not issued by its own domain" in why
    assert dialled(from_a) == set()


async def test_a_node_of_another_name_in_the_domain_is_itself_only(
    tasks: Stack, a: Member, b: Member
) -> None:
    """The domain vouches for both; the certificate says which one dials."""
    await start(tasks, b, a)
    other = issue_node(a.ca, "spiffe://a.example/node/2")
    code, why = await Stranger(other, b).refusal(hello(a, b))
    assert (code, why) == (DENIED, "the hello names another node")
