"""The engine as it comes: a second copy of PySyncObj, which nothing of ours has touched.

`quorate.consensus` replaces what the engine's module imports (pickle, clock, chance). This copy is
loaded under a name of its own, from the same files, with its own pickling, journal, dumps and
transport. What is replaced here is time and chance alone, so that a test waits for nothing and ends
alike each time; and a member's hash, so that sets of members are walked in one order.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

NAME: Final = "bare_pysyncobj"
FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
REGULAR, NO_OP, MEMBERSHIP, VERSION = b"\x00", b"\x01", b"\x02", b"\x03"
TICK_S: Final = 0.05
"""How often the engine's own thread ticks when nothing arrives (`SyncObjConf.autoTickPeriod`)."""


def _load() -> ModuleType:
    found = importlib.util.find_spec("pysyncobj")
    assert found is not None
    assert found.origin is not None
    folder = str(Path(found.origin).parent)
    spec = importlib.util.spec_from_file_location(
        NAME, found.origin, submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)
    logging.getLogger(NAME).setLevel(logging.CRITICAL + 1)
    return package


def module(name: str) -> Any:
    """A module of the copy: `module("journal")` is the engine's journal.py."""
    return importlib.import_module(f"{NAME}.{name}")


engine: Any = _load()
syncobj: Any = module("syncobj")


class Hands:
    """The clock and the chance of the engine that is running."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = lambda: 0.0
        self.chance = random.Random(0)  # noqa: S311 - spreads election timeouts, no secret

    def time(self) -> float:
        return self.clock()

    def random(self) -> float:
        return self.chance.random()


hands: Final = Hands()
syncobj.monotonicTime = hands.time
syncobj.random = hands


class Member(engine.node.Node):  # type: ignore[misc]
    """A node with a hash that does not depend on PYTHONHASHSEED."""

    def __hash__(self) -> int:
        return int.from_bytes(str(self.id).encode()[-7:], "big")


class Wire(module("transport").Transport):  # type: ignore[misc]
    """The engine's view of the network: what it sends is kept for the test to see or to carry."""

    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        self.sent.append((str(node.id), message))
        return True

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        taken, self.sent = self.sent, []
        return taken


def chained(before: bytes, value: object) -> bytes:
    """The digest of everything up to `value`, from that of everything before it."""
    return hashlib.sha256(before + repr(value).encode()).digest()


class Machine(engine.SyncObj):  # type: ignore[misc]
    """What is replicated: a list of what was put into it, and a digest of all of it in order."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.values: list[Any] = []
        self.digest = b""

    @engine.replicated  # type: ignore[untyped-decorator]
    def put(self, value: Any) -> int:
        if value == "poison":
            raise ValueError("cannot be applied")
        self.values.append(value)
        self.digest = chained(self.digest, value)
        return len(self.values)


def configuration(**settings: Any) -> Any:
    """The engine's defaults, but for the thread that ticks: a test ticks itself."""
    return engine.SyncObjConf(**({"autoTick": False} | settings))


class Bare:
    """One engine, node `a`, among peers that the test plays, with its clock in the test's hands."""

    def __init__(self, peers: str = "bcde", **settings: Any) -> None:
        self.now = 1000.0
        self.peers = peers
        self.settings = settings
        self.start()

    def start(self) -> None:
        """Builds the engine anew: with a journal or a dump, what a restart finds there."""
        hands.clock, hands.chance = self._clock, random.Random(1)  # noqa: S311
        self.wire = Wire()
        members = [Member(peer) for peer in self.peers]
        conf = configuration(**self.settings)
        self.engine: Any = Machine(
            Member("a"), members, conf, nodeClass=Member, transport=self.wire
        )
        for member in members:
            self.wire._onNodeConnected(member)

    def _clock(self) -> float:
        return self.now

    def tick(self, after_s: float = 0.0) -> list[tuple[str, dict[str, Any]]]:
        """One turn of the engine's loop; returns what it sent since the last."""
        hands.clock = self._clock
        self.now += after_s
        self.engine.doTick(0.0)
        return self.wire.take()

    def die(self) -> None:
        """kill -9: nothing is flushed or closed in order; files are as the kernel has them."""
        close_files(self.engine)
        del self.engine

    def receive(self, peer: str, **message: Any) -> None:
        hands.clock = self._clock
        self.wire._onMessageReceived(Member(peer), message)

    def append(
        self, peer: str, term: int, prev: int, prev_term: int, *entries: Any, commit_index: int = 1
    ) -> None:
        self.receive(
            peer,
            type="append_entries",
            term=term,
            commit_index=commit_index,
            prevLogIdx=prev,
            prevLogTerm=prev_term,
            entries=list(entries),
        )

    def acknowledge(self, peer: str, index: int, *, of_term: int | None = None) -> None:
        """of_term: of the request that this answers; the engine's replies do not say it."""
        self._reply(peer, index + 1, reset=False, success=True)
        del of_term

    def refuse(self, peer: str, _prev: int, hint: int) -> None:
        """Nor do they say what they refuse."""
        self._reply(peer, hint, reset=True, success=False)

    def _reply(self, peer: str, next_index: int, *, reset: bool, success: bool) -> None:
        reply = {"next_node_idx": next_index, "reset": reset, "success": success}
        self.receive(peer, type="next_node_idx", **reply)

    def grant(self, peer: str) -> None:
        self.receive(peer, type="response_vote", term=self.engine.raftCurrentTerm)

    def ask_vote(self, peer: str, term: int) -> None:
        last = {"last_log_index": self.last_index, "last_log_term": self.log[-1][2]}
        self.receive(peer, type="request_vote", term=term, **last)

    def campaign(self) -> None:
        """The election time passes."""
        self.tick(after_s=2 * self.engine.conf.raftMaxTimeout)
        assert self.engine._SyncObj__raftState == CANDIDATE

    def lead(self) -> int:
        """Wins the next term; returns it."""
        self.campaign()
        for peer in self.peers:
            if not self.is_leader:
                self.grant(peer)
        assert self.is_leader
        return int(self.engine.raftCurrentTerm)

    def snapshot_to_come(self, peer: str, term: int, commit_index: int) -> None:
        """The leader `peer` has compacted what `a` lacks, and its dump is not written yet."""
        message = {"term": term, "commit_index": commit_index, "serialized": None}
        self.receive(peer, type="append_entries", **message)

    def remove(self, peer: str) -> bool:
        """Removes a member, as a leader; returns whether that was taken."""
        self.engine.removeNodeFromCluster(Member(peer))
        self.tick()
        return Member(peer) not in self.engine.otherNodes

    def put(self, value: Any) -> list[tuple[Any, int]]:
        """Proposes; returns where the callback will put (result, reason)."""
        outcome: list[tuple[Any, int]] = []
        self.engine.put(value, callback=lambda result, reason: outcome.append((result, reason)))
        return outcome

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        """(command, index, term), oldest first."""
        return list(self.engine._SyncObj__raftLog[:])

    @property
    def last_index(self) -> int:
        return int(self.log[-1][1])

    @property
    def commit_index(self) -> int:
        return int(self.engine.raftCommitIndex)

    @property
    def values(self) -> list[Any]:
        return list(self.engine.values)

    @property
    def is_leader(self) -> bool:
        return bool(self.engine._isLeader())

    def known_of(self, peer: str) -> int:
        """Up to where this leader believes `peer` to hold its log."""
        return int(self.engine._SyncObj__raftMatchIndex[Member(peer)])

    def sends_next_behind(self, peer: str) -> int:
        """The index behind which the next request to `peer` begins."""
        self.wire.take()
        sent = self.tick(after_s=2 * self.engine.conf.appendEntriesPeriod)
        return next(int(message["prevLogIdx"]) for name, message in sent if name == peer)


def close_files(running: Any) -> None:
    """Closes an engine's files as the death of its process would: without flushing them."""
    journal, serializer = running._SyncObj__raftLog, running._SyncObj__serializer
    if hasattr(journal, "_FileJournal__journalFile"):
        file = journal._FileJournal__journalFile
        file._ResizableFile__mm.close()
        file._ResizableFile__f.close()
    sending = serializer._Serializer__transmissions.values()
    receiving = serializer._Serializer__incomingTransmissionFile
    for dump in [*(each["file"] for each in sending if "file" in each), receiving]:
        if hasattr(dump, "close"):
            dump.close()


def command(value: Any) -> bytes:
    """The log's command that puts `value`, as the engine would write it."""
    return bytes(REGULAR + syncobj.pickle.dumps((0, (value,))))
