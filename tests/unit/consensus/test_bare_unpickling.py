"""Hazard 1: each way by which bytes from outside run as code in the bare engine.

The code here only writes a note; it could do anything. The same bytes, given to ours each way that
exists there, stay bytes.
"""

from __future__ import annotations

import gzip
import pickle
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.message import DecodeError
from tests.unit.consensus import bare
from tests.unit.consensus.bare import MEMBERSHIP, NO_OP, REGULAR, VERSION, Bare
from tests.unit.consensus.ours import Ours

from quorate.consensus import PeerError
from quorate.v1 import peer_pb2

NOTES: Final[list[str]] = []


def write_note(value: Any) -> Any:
    NOTES.append("ran")
    return value


class Code:
    """Pickled, it is a call; unpickling it makes the call, and gives `value`."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return write_note, (self.value,)


def code(value: Any) -> bytes:
    return pickle.dumps(Code(value), protocol=2)


@pytest.fixture(autouse=True)
def no_notes() -> Iterator[None]:
    NOTES.clear()
    yield
    NOTES.clear()


def a_message_of_a_stranger(_folder: Path) -> None:
    """Before the connection has said who it is: its first message is unpickled to find out."""
    poller = bare.module("poller").createPoller("auto")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        bare.module("tcp_connection").TcpConnection(poller, socket=ours)
        data = zlib.compress(code("readonly"))
        theirs.sendall(struct.pack("i", len(data)) + data)
        poller.poll(0.0)


def a_command(_folder: Path) -> None:
    follower = Bare()
    follower.append("b", 1, 1, 0, (REGULAR + code((0, ("x",))), 2, 1), commit_index=2)
    follower.tick()


def a_membership_entry(_folder: Path) -> None:
    follower = Bare()
    follower.append("b", 1, 1, 0, (MEMBERSHIP + code(("", "")), 2, 1), commit_index=2)
    follower.tick()


def a_membership_entry_that_nobody_committed(_folder: Path) -> None:
    follower = Bare(dynamicMembershipChange=True)
    follower.append("b", 1, 1, 0, (MEMBERSHIP + code(("", "")), 2, 1))


def a_version_entry(_folder: Path) -> None:
    follower = Bare()
    follower.append("b", 1, 1, 0, (VERSION + code(0), 2, 1), commit_index=2)
    follower.tick()


def a_large_entry(_folder: Path) -> None:
    follower = Bare()
    parts = {"type": "append_entries", "term": 1, "commit_index": 1}
    parts |= {"prevLogIdx": 1, "prevLogTerm": 0}
    data = code((NO_OP, 2, 1))
    follower.receive("b", **parts, transmission="start", data=data[:10])
    follower.receive("b", **parts, transmission="finish", data=data[10:])


def a_snapshot(_folder: Path) -> None:
    follower = Bare()
    for part in ((gzip.compress(code(())), True, False), (b"", False, True)):
        follower.receive("b", type="append_entries", term=1, commit_index=1, serialized=part)


def a_dump(folder: Path) -> None:
    (folder / "dump").write_bytes(gzip.compress(code(())))
    Bare(fullDumpFile=str(folder / "dump")).tick()


def a_file_of_term_and_vote(folder: Path) -> None:
    (folder / "journal.meta").write_bytes(code({}))
    Bare(journalFile=str(folder / "journal")).die()


WAYS: Final = [
    a_message_of_a_stranger,
    a_command,
    a_membership_entry,
    a_membership_entry_that_nobody_committed,
    a_version_entry,
    a_large_entry,
    a_snapshot,
    a_dump,
    a_file_of_term_and_vote,
]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_hazard_1_what_comes_in_runs(way: Callable[[Path], None], tmp_path: Path) -> None:
    """Ours: the tests at the end of this file, test_hazards.test_hazard_1_nothing_is_unpickled, and
    tests/e2e/test_no_pickle.py for whole processes."""
    way(tmp_path)
    assert NOTES == ["ran"]


def test_hazard_1_a_stranger_adds_a_member() -> None:
    """Utility messages ask for no name and no proof.

    Ours: there are none; tests/integration/transport/test_transport.py refuses strangers.
    """
    transport = bare.module("transport").TCPTransport
    conf = bare.configuration(dynamicMembershipChange=True, bindAddress="127.0.0.1:0")
    node = bare.Machine("127.0.0.1:1", [], conf, transportClass=transport)
    listener = node._SyncObj__transport._server._TcpServer__socket
    bare.hands.clock = lambda: 2000.0
    node.doTick(0.0)
    bare.hands.clock = lambda: 2001.0
    node.doTick(0.0)
    assert node._isLeader()
    with socket.create_connection(listener.getsockname()) as stranger:
        data = zlib.compress(pickle.dumps(["add", "127.0.0.1:9"]))
        stranger.sendall(struct.pack("i", len(data)) + data)
        for _ in range(100):
            node.doTick(0.1)  # returns as soon as something arrives
            if node.otherNodes:
                break
    assert [str(member.id) for member in node.otherNodes] == ["127.0.0.1:9"]
    node.destroy()


@pytest.mark.parametrize("kind", [REGULAR, NO_OP, MEMBERSHIP, VERSION, b"\x04"])
def test_hazard_1_an_entry_of_ours_is_bytes(kind: bytes) -> None:
    follower = Ours()
    entry = kind + code((0, ("x",)))
    if kind == MEMBERSHIP:
        with pytest.raises(PeerError):
            follower.append("b", 1, 1, 0, (entry, 2, 1), commit_index=2)
    else:
        follower.append("b", 1, 1, 0, (entry, 2, 1), commit_index=2)
        follower.tick()
        assert follower.values == ([entry[1:]] if kind == REGULAR else [])
    assert NOTES == []


@pytest.mark.parametrize("data", [code("x"), zlib.compress(code("x"))], ids=["plain", "compressed"])
def test_hazard_1_a_message_of_ours_is_protobuf(data: bytes) -> None:
    """tests/property/consensus/test_wire.py has garbage of every kind."""
    with pytest.raises(DecodeError):
        peer_pb2.PeerMessage.FromString(data)
    assert NOTES == []
