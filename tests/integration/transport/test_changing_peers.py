"""Peers come, go and move while their links are in use."""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode, b64encode
from dataclasses import replace

import grpc
import pytest
from structlog.testing import capture_logs
from tests.integration.transport.stage import (
    TIMEOUT_S,
    Member,
    Stack,
    Stranger,
    end_of,
    frame,
    free_port,
    hello,
    made,
    numbered,
    start,
)

from quorate.consensus import link as linking
from quorate.consensus.transport import Transport
from quorate.core.genesis import check_certificate
from quorate.node.certificates import issue_node, make_ca, parse_certificate


async def pair(stack: Stack, a: Member, b: Member) -> tuple[Transport, Transport]:
    """Two nodes that are linked both ways."""
    from_a, from_b = await start(stack, a, b), await start(stack, b, a)
    await a.handler.until(lambda: a.handler.is_linked(b))
    await b.handler.until(lambda: b.handler.is_linked(a))
    return from_a, from_b


async def turns(count: int) -> None:
    """Lets everything else in the loop run so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def assert_alternates(links: list[tuple[str, bool]], peer: str) -> None:
    told = [is_up for node_id, is_up in links if node_id == peer]
    assert told == [number % 2 == 0 for number in range(len(told))], "up, down, up, down"


# -- coming --------------------------------------------------------------------------------------


async def test_a_node_without_peers_listens_and_gets_them_later(
    tasks: Stack, a: Member, b: Member
) -> None:
    from_a = await start(tasks, a)
    from_b = await start(tasks, b)
    for member, transport, peer in ((a, from_a, b), (b, from_b, a)):
        member.book.know(peer)
        transport.update([peer.peer])
    await a.handler.until(lambda: a.handler.is_linked(b))
    await b.handler.until(lambda: b.handler.is_linked(a))
    from_a.send(b.node_id, numbered(1))
    from_b.send(a.node_id, numbered(2))
    await b.handler.until(lambda: b.handler.rounds(a.node_id) == [1])
    await a.handler.until(lambda: a.handler.rounds(b.node_id) == [2])


async def test_an_update_that_changes_nothing_disturbs_nothing(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    from_a, _ = await pair(tasks, a, b)
    for number in range(50):
        from_a.send(b.node_id, numbered(number))
        from_a.update([b.peer] if number % 2 else [b.peer, c.peer])
    await b.handler.until(lambda: len(b.handler.received) == 50)
    assert b.handler.rounds(a.node_id) == list(range(50))
    assert a.handler.links == [(b.node_id, True)]


async def test_to_whom_there_is_no_link_nothing_is_sent(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    from_a, _ = await pair(tasks, a, b)
    from_a.send(c.node_id, numbered(1))
    from_a.send("", numbered(1))
    from_a.send(b.node_id, numbered(2))
    await b.handler.until(lambda: b.handler.rounds(a.node_id) == [2])


# -- going ---------------------------------------------------------------------------------------


async def test_with_a_peer_that_is_gone_both_streams_end(
    tasks: Stack, a: Member, b: Member
) -> None:
    """Nobody dials it, nobody hears it, and it is no fault of anything."""
    from_a, from_b = await pair(tasks, a, b)
    failing = asyncio.create_task(from_a.failure())
    a.book.retired.add(b.node_id)
    from_a.update([])
    from_a.send(b.node_id, numbered(1))
    from_b.send(a.node_id, numbered(2))
    await a.handler.until(lambda: not a.handler.is_linked(b))
    await b.handler.until(lambda: not b.handler.is_linked(a))
    await turns(100)
    assert (a.handler.received, b.handler.received) == ([], [])
    assert a.handler.links == [(b.node_id, True), (b.node_id, False)]
    assert not failing.done()
    failing.cancel()


async def test_nothing_is_handed_on_after_an_update(tasks: Stack, a: Member, b: Member) -> None:
    """Not even what had arrived, and waited for the node to take it in."""
    receiver = await start(tasks, b, a)
    async with Stranger(a.tls, b).stream() as call:
        await call.write(hello(a, b))
        await call.read()
        b.handler.open.clear()
        await call.write(frame(1, 1))
        await b.handler.until(lambda: b.handler.waiting == 1)
        b.handler.open.set()  # it may go on, and has not yet
        receiver.update([])
        await call.write(frame(2, 2))
        code, why = await end_of(call)
        assert (code.name, why) == ("PERMISSION_DENIED", "no longer a peer of this node")
    assert b.handler.received == []


async def test_a_peer_goes_while_a_message_to_it_is_being_sent(
    tasks: Stack, a: Member, b: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "_LINK_TIMEOUT_S", 60)  # no other end of the link than ours
    from_a, _ = await pair(tasks, a, b)
    b.handler.open.clear()
    megabyte = bytes(1024 * 1024)
    link = from_a._links._links[b.node_id]
    for number in range(15):
        messages = numbered(number)
        messages[0].propose.payload = megabyte
        from_a.send(b.node_id, messages)
    await b.handler.until(lambda: b.handler.waiting == 1)
    await turns(100)
    assert link._queue, "the writer is in the middle of it"
    from_a.update([])
    await a.handler.until(lambda: not a.handler.is_linked(b))
    assert not link._queue
    b.handler.open.set()


async def test_a_peer_that_was_unnamed_comes_back(tasks: Stack, a: Member, b: Member) -> None:
    from_a, from_b = await pair(tasks, a, b)
    from_a.update([])
    from_a.update([b.peer])
    await a.handler.until(lambda: a.handler.links[1:] == [(b.node_id, False), (b.node_id, True)])
    await b.handler.until(lambda: b.handler.links[1:] == [(a.node_id, False), (a.node_id, True)])
    from_a.send(b.node_id, numbered(1))
    from_b.send(a.node_id, numbered(2))
    await b.handler.until(lambda: b.handler.rounds(a.node_id) == [1])
    await a.handler.until(lambda: a.handler.rounds(b.node_id) == [2])


# -- moving --------------------------------------------------------------------------------------


async def test_a_peer_that_has_moved_is_dialled_where_it_is(
    tasks: Stack, a: Member, b: Member
) -> None:
    from_a, _ = await pair(tasks, a, b)
    moved = replace(b, port=free_port(), handler=type(b.handler)(), book=type(b.book)())
    await start(tasks, moved, a)
    from_a.update([moved.peer])
    from_a.send(b.node_id, numbered(1))  # the old link is over, the new one not there yet
    await a.handler.until(lambda: a.handler.links[1:] == [(b.node_id, False), (b.node_id, True)])
    from_a.send(b.node_id, numbered(2))
    await moved.handler.until(lambda: moved.handler.rounds(a.node_id) == [2])
    assert b.handler.received == []


# -- in between ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_updates_race_with_a_link_that_flaps(
    tasks: Stack, a: Member, b: Member, seed: int
) -> None:
    """Whatever is under way when the peers change: the node is told of ends before beginnings,
    messages stay in order, and in the end the link is there."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    from_a, from_b = await pair(tasks, a, b)
    elsewhere = replace(b, port=free_port())  # nobody listens there
    for number in range(100):
        match chance.randrange(6):
            case 0:
                from_a.update([])
            case 1:
                from_a.update([elsewhere.peer])
            case 2:
                from_b.update(chance.choice([[], [a.peer]]))  # ends a's stream, or not
            case _:
                from_a.update([b.peer])
        from_a.send(b.node_id, numbered(number))
        if chance.randrange(4):
            await turns(chance.randrange(40))
        else:
            from_b.update([a.peer])
            from_a.update([b.peer])
            await a.handler.until(lambda: a.handler.is_linked(b))
    from_b.update([a.peer])
    from_a.update([b.peer])
    async with asyncio.timeout(TIMEOUT_S):
        while 1000 not in b.handler.rounds(a.node_id):  # a stream may have just ended unnoticed
            from_a.send(b.node_id, numbered(1000))
            await turns(100)
    assert_alternates(a.handler.links, b.node_id)
    assert_alternates(b.handler.links, a.node_id)
    assert b.handler.rounds(a.node_id) == sorted(b.handler.rounds(a.node_id))
    assert len(from_a._links._tasks) == 1


async def test_an_update_finds_a_link_that_is_ending(tasks: Stack, a: Member, b: Member) -> None:
    """It has closed by itself, and the node is about to be told."""
    from_a, from_b = await pair(tasks, a, b)
    link = from_a._links._links[b.node_id]
    from_b.update([])  # ends the stream of a's link
    async with asyncio.timeout(TIMEOUT_S):
        while link._is_up:  # noqa: ASYNC110
            await asyncio.sleep(0)  # nobody tells of it yet
    from_a.update([])
    await a.handler.until(lambda: not a.handler.is_linked(b))
    assert_alternates(a.handler.links, b.node_id)


async def test_an_update_during_and_after_the_stop_does_nothing(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    from_a, _ = await pair(tasks, a, b)
    stopping = asyncio.create_task(from_a.stop())
    await asyncio.sleep(0)
    from_a.update([b.peer, c.peer])
    from_a.update([])
    from_a.update([c.peer])
    await stopping
    from_a.update([b.peer])
    from_a.send(b.node_id, numbered(1))
    assert a.handler.links == [(b.node_id, True), (b.node_id, False)]
    assert not from_a._links._tasks


async def test_a_peer_moves_while_the_transport_stops(tasks: Stack, a: Member, b: Member) -> None:
    """The old link is ending, the new one waits for that: stopping waits for both."""
    from_a, _ = await pair(tasks, a, b)
    from_a.update([replace(b, port=free_port()).peer])
    from_a.update([b.peer])
    await from_a.stop()
    assert a.handler.links == [(b.node_id, True), (b.node_id, False)]
    assert not from_a._links._tasks


async def test_peers_may_change_before_the_start(tasks: Stack, a: Member, b: Member) -> None:
    await start(tasks, b, a)
    transport = made(a)
    a.book.know(b)
    transport.update([replace(b, port=free_port()).peer])
    transport.update([])
    transport.update([b.peer])
    await transport.start(a.address)
    tasks.push_async_callback(transport.stop)
    await a.handler.until(lambda: a.handler.is_linked(b))
    assert a.handler.links == [(b.node_id, True)]


def unreadable(ca: bytes) -> bytes:
    """The authority, with a name in it that is no text: parsed by some, refused by others."""
    text = b"".join(ca.strip().split(b"\n")[1:-1])
    data = b64decode(text).replace(b"Quorate CA", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff\xfe")
    lines = [b64encode(data)[at : at + 64] for at in range(0, len(b64encode(data)), 64)]
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    return b"\n".join([begin, *lines, end, b""])


@pytest.mark.parametrize("when", ["later", "from the beginning"])
async def test_an_authority_that_tls_cannot_read_costs_nobody_else_their_links(
    tasks: Stack, a: Member, b: Member, when: str
) -> None:
    """A domain is admitted with whatever certificate it has signed. One like that kept the server
    from being made, on every node and for ever, or those behind it from being trusted."""
    odd = unreadable(make_ca("c.example").certificate)
    while odd > min(a.ca.certificate, b.ca.certificate):
        odd = unreadable(make_ca("c.example").certificate)
    check_certificate(odd.decode("ascii"))
    if when == "from the beginning":
        a.book.domains["c.example"] = odd
    from_a, _ = await pair(tasks, a, b)
    if when == "later":
        a.book.domains["c.example"] = odd
        from_a.update([b.peer])
        for _ in range(20):
            await asyncio.sleep(0.05)
        await b.handler.until(lambda: b.handler.is_linked(a))
    assert from_a._server.left_out == (odd,)


# -- another certificate -------------------------------------------------------------------------


async def test_a_renewed_certificate_is_shown_and_dialled_with(
    tasks: Stack, a: Member, b: Member
) -> None:
    from_a, from_b = await pair(tasks, a, b)
    old, a.tls = a.tls, issue_node(a.ca, a.node_id)
    from_a.renew(a.identity)
    # The streams to it begin again, those from it go on.
    await b.handler.until(lambda: len(b.handler.links) >= 3 and b.handler.is_linked(a))
    assert a.handler.links == [(b.node_id, True)]
    from_a.send(b.node_id, numbered(1))
    from_b.send(a.node_id, numbered(2))
    await b.handler.until(lambda: b.handler.rounds(a.node_id) == [1])
    await a.handler.until(lambda: a.handler.rounds(b.node_id) == [2])
    seen: list[bytes] = []
    from_b._servicer._is_issued_by = lambda leaf, authority: bool(seen.append(leaf)) or True
    from_b.update([])
    from_b.update([a.peer])
    await a.handler.until(lambda: len(a.handler.links) >= 3 and a.handler.is_linked(b))
    assert seen
    assert {parse_certificate(leaf) for leaf in seen} == {parse_certificate(a.tls.certificate)}
    assert parse_certificate(old.certificate) != parse_certificate(a.tls.certificate)


async def test_renewed_and_admitted_at_once_is_one_new_server(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    from_a, _ = await pair(tasks, a, b)
    with capture_logs() as logs:
        a.tls = issue_node(a.ca, a.node_id)
        from_a.renew(a.identity)
        a.book.know(c)
        from_a.update([b.peer, c.peer])
        from_a.renew(a.identity)
        await b.handler.until(lambda: len(b.handler.links) >= 3 and b.handler.is_linked(a))
    renewed = [each for each in logs if each["event"] == "peer.server_renewed"]
    assert len(renewed) == 1


# -- another authority ---------------------------------------------------------------------------


async def test_a_domain_goes_from_one_authority_to_another(
    tasks: Stack, a: Member, b: Member
) -> None:
    """Both are called the same, and each is tried for the certificates of the other."""
    from_a, from_b = await pair(tasks, a, b)
    old, new = a.ca, make_ca(a.domain)

    def trust(*authorities: bytes) -> None:
        for member, transport, peers in ((a, from_a, [b.peer]), (b, from_b, [a.peer])):
            member.book.domains[a.domain], *further = authorities
            member.book.further = {a.domain: tuple(further)}
            known = tuple(authorities)
            named = [
                replace(each, authorities=known) if each.node_id == a.node_id else each
                for each in peers
            ]
            transport.update(named)

    async def both_ways(number: int) -> None:
        await b.handler.until(lambda: b.handler.is_linked(a))
        await a.handler.until(lambda: a.handler.is_linked(b))
        async with asyncio.timeout(TIMEOUT_S):
            while number not in b.handler.rounds(a.node_id):
                from_a.send(b.node_id, numbered(number))
                await asyncio.sleep(0.05)
            while number not in a.handler.rounds(b.node_id):
                from_b.send(a.node_id, numbered(number))
                await asyncio.sleep(0.05)

    trust(old.certificate, new.certificate)
    await both_ways(1)
    a.tls = issue_node(new, a.node_id)
    from_a.renew(a.identity)
    await both_ways(2)
    trust(new.certificate)
    await both_ways(3)
    thief = Stranger(issue_node(old, a.node_id), b)
    code, _ = await thief.refusal(hello(a, b))
    assert code is not grpc.StatusCode.OK


async def test_a_stream_of_an_authority_that_was_dropped_ends_at_once(
    tasks: Stack, a: Member, b: Member
) -> None:
    receiver = await start(tasks, b, a)
    async with Stranger(a.tls, b).stream() as call:
        await call.write(hello(a, b))
        await call.read()
        b.book.domains[a.domain] = make_ca(a.domain).certificate
        receiver.update([replace(a.peer, authorities=b.book.authorities_of(a.node_id))])
        assert a.node_id not in receiver._servicer._streams, "nothing of it is handed on"
        code, _ = await end_of(call)
        assert code is not grpc.StatusCode.OK
    assert b.handler.received == []


async def test_a_stream_goes_on_in_the_servicer_when_another_authority_joins(
    tasks: Stack, a: Member, b: Member
) -> None:
    receiver = await start(tasks, b, a)
    async with Stranger(a.tls, b).stream() as call:
        await call.write(hello(a, b))
        await call.read()
        b.book.further = {a.domain: (make_ca(a.domain).certificate,)}
        receiver._servicer.recheck(gone=())
        assert a.node_id in receiver._servicer._streams
