"""Faults of links, seen from both ends of real connections."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from quorate.chaos.links import LinkError, Links, Way

QUIET_S = 0.15
"""How long nothing must arrive for a test to say that nothing passes."""
PATIENCE_S = 10.0


class Listener:
    """A node's listening socket: connections are taken by hand."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE_S)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def take(self) -> socket.socket:
        connection, _ = self._socket.accept()
        connection.settimeout(PATIENCE_S)
        return connection

    def nobody_comes(self) -> bool:
        self._socket.settimeout(QUIET_S)
        try:
            self._socket.accept()[0].close()
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(PATIENCE_S)
        return False

    def close(self) -> None:
        self._socket.close()


class Pair:
    """A link with one connection through it, held at both ends."""

    def __init__(self) -> None:
        self.links = Links()
        self.listener = Listener()
        self.address = self.links.add("a", "b", self.listener.address)
        self.links.add("b", "a", self.listener.address)
        self.ends: list[socket.socket] = []

    def dial(self) -> socket.socket:
        host, _, port = self.address.rpartition(":")
        near = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.ends.append(near)
        return near

    def connect(self) -> tuple[socket.socket, socket.socket]:
        near = self.dial()
        far = self.listener.take()
        self.ends.append(far)
        return near, far

    def close(self) -> None:
        for end in self.ends:
            end.close()
        self.listener.close()
        self.links.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def quiet(end: socket.socket) -> bool:
    """Nothing arrives: no byte, no end, no reset."""
    end.settimeout(QUIET_S)
    try:
        end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(PATIENCE_S)
    return False


def read(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = end.recv(size - len(data))
        assert chunk, "the connection ended"
        data += chunk
    return data


def is_reset(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def dialling_is_reset(pair: Pair) -> bool:
    try:
        near = pair.dial()
    except ConnectionResetError:  # so quickly that dialling itself failed
        return True
    return is_reset(near)


def test_an_open_link_passes_everything_both_ways(pair: Pair) -> None:
    near, far = pair.connect()
    data = bytes(range(256)) * 8192  # more than all buffers on the way hold at once
    sender = threading.Thread(target=near.sendall, args=(data,))
    sender.start()
    assert read(far, len(data)) == data
    sender.join()
    far.sendall(b"back")
    assert read(near, 4) == b"back"
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    far.sendall(b"after the end of the other way")
    assert read(near, 5) == b"after"


def test_a_cut_holds_an_existing_connection_both_ways_and_leaves_it_open(pair: Pair) -> None:
    near, far = pair.connect()
    near.sendall(b"1")
    assert read(far, 1) == b"1"
    pair.links.cut("a", "b")
    near.sendall(b"2")
    far.sendall(b"3")
    assert quiet(far)
    assert quiet(near)
    assert not pair.links.state("a", "b").is_open
    assert pair.links.state("b", "a").is_open


def test_a_cut_takes_effect_in_the_middle_of_a_stream(pair: Pair) -> None:
    near, far = pair.connect()
    stop = threading.Event()
    near.settimeout(0.05)

    def pour() -> None:
        while not stop.is_set():
            try:
                near.send(b"x" * 65536)
            except TimeoutError:
                continue

    sender = threading.Thread(target=pour)
    sender.start()
    read(far, 1_000_000)
    pair.links.cut("a", "b")
    passed = pair.links.state("a", "b").bytes_passed
    while True:  # what the kernel already has may arrive; the link itself passes nothing more
        far.settimeout(QUIET_S)
        try:
            assert far.recv(1 << 20)
        except TimeoutError:
            break
    assert pair.links.state("a", "b").bytes_passed == passed
    stop.set()
    sender.join()


def test_a_cut_hides_the_end_and_the_death_of_a_connection(pair: Pair) -> None:
    closing, sees_no_end = pair.connect()
    dying, sees_no_death = pair.connect()
    pair.links.cut("a", "b")
    closing.close()
    dying.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    dying.close()
    assert quiet(sees_no_end)
    assert quiet(sees_no_death)
    pair.links.heal(resume=True)
    assert is_reset(sees_no_end)
    assert is_reset(sees_no_death)


def test_a_new_connection_over_a_cut_link_is_accepted_and_leads_nowhere(pair: Pair) -> None:
    pair.links.cut("a", "b")
    near = pair.dial()
    near.sendall(b"hello")
    assert pair.listener.nobody_comes()
    assert quiet(near)


def test_healing_drops_what_was_held_and_resets(pair: Pair) -> None:
    near, far = pair.connect()
    pair.links.cut("a", "b")
    near.sendall(b"held")
    waiting = pair.dial()
    assert quiet(far)
    pair.links.heal()
    assert is_reset(near)
    assert is_reset(far)
    assert is_reset(waiting)
    again, far = pair.connect()
    again.sendall(b"new")
    assert read(far, 3) == b"new"


def test_healing_leaves_connections_alone_that_no_cut_held(pair: Pair) -> None:
    near, far = pair.connect()
    pair.links.heal()
    near.sendall(b"1")
    assert read(far, 1) == b"1"


def test_resuming_lets_pass_what_was_held(pair: Pair) -> None:
    near, far = pair.connect()
    pair.links.cut("a", "b")
    near.sendall(b"held")
    assert quiet(far)
    waiting = pair.dial()
    waiting.sendall(b"too")
    pair.links.heal(resume=True)
    assert read(far, 4) == b"held"
    late = pair.listener.take()
    assert read(late, 3) == b"too"
    late.close()


def test_one_way_alone_can_be_cut(pair: Pair) -> None:
    near, far = pair.connect()
    near.sendall(b"1")
    assert read(far, 1) == b"1"
    pair.links.cut("a", "b", ways=[Way.FORWARD])
    far.sendall(b"back")
    assert read(near, 4) == b"back"
    near.sendall(b"x")
    assert quiet(far)
    pair.links.cut("a", "b", ways=[Way.BACKWARD])
    assert read(far, 1) == b"x"
    far.sendall(b"y")
    assert quiet(near)
    pair.dial()
    assert pair.listener.nobody_comes()  # half a link makes no connection


def test_a_reset_link_resets_now_and_whenever_dialled(pair: Pair) -> None:
    near, far = pair.connect()
    pair.links.reset("a", "b")
    assert is_reset(near)
    assert is_reset(far)
    assert dialling_is_reset(pair)
    assert pair.listener.nobody_comes()
    pair.links.heal()
    near, far = pair.connect()
    near.sendall(b"1")
    assert read(far, 1) == b"1"


def test_a_delay_holds_each_byte_that_long_and_keeps_the_order(pair: Pair) -> None:
    near, far = pair.connect()
    pair.links.delay("a", "b", 120)
    start = time.monotonic()
    for number in range(10):
        near.sendall(bytes([number]))
    assert read(far, 10) == bytes(range(10))
    took_s = time.monotonic() - start
    assert took_s >= 0.12
    assert took_s < 10 * 0.12  # the delays overlap, as on a long line
    pair.links.heal()
    assert pair.links.state("a", "b").delay_ms == 0


def test_a_target_that_is_down_resets_the_dialler(pair: Pair) -> None:
    pair.listener.close()
    assert dialling_is_reset(pair)


def three() -> tuple[Links, list[tuple[str, str]]]:
    links = Links()
    names = list(itertools.permutations(["a", "b", "c"], 2))
    for one, other in names:
        links.add(one, other, "127.0.0.1:9")
    return links, names


def cut_links(links: Links, names: list[tuple[str, str]]) -> set[tuple[str, str]]:
    return {name for name in names if not links.state(*name).is_open}


def test_a_partition_cuts_between_groups_and_not_within() -> None:
    links, names = three()
    with links:
        links.partition([["a"], ["b", "c"]])
        assert cut_links(links, names) == {("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")}
        links.heal()
        assert cut_links(links, names) == set()
        links.partition([["a", "b", "c"]])
        assert cut_links(links, names) == set()
        links.partition([["b"]])  # whoever is in no group is alone
        assert cut_links(links, names) == set(names)


def test_isolating_and_severing_cut_both_directions() -> None:
    links, names = three()
    with links:
        links.isolate("c")
        assert cut_links(links, names) == {name for name in names if "c" in name}
        links.open("a", "c")
        assert ("a", "c") not in cut_links(links, names)
        links.heal()
        links.sever("a", "b")
        assert cut_links(links, names) == {("a", "b"), ("b", "a")}


def test_what_does_not_exist_is_named() -> None:
    links, _ = three()
    with links:
        with pytest.raises(LinkError, match="from a to z"):
            links.cut("a", "z")
        with pytest.raises(LinkError, match="no such node: z"):
            links.partition([["a", "z"]])
        with pytest.raises(LinkError, match="no such node: z"):
            links.isolate("z")
    links.close()
    with pytest.raises(LinkError, match="closed"):
        links.heal()


def test_closing_ends_every_connection(pair: Pair) -> None:
    near, far = pair.connect()
    pair.links.cut("a", "b")
    pair.links.close()
    assert is_reset(near)
    assert is_reset(far)
    pair.links = Links()  # for the fixture to close
