"""PySyncObj 0.3.17 with what it depends on replaced; the only module that imports it.

Owns the engine's module-level dependencies: its pickle (nothing is ever unpickled), its poller (it
has no sockets), its clock and its chance (those of the engine that runs), its members and its view
of the network. `engine` is the replica's state machine on top of it.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from typing import NoReturn

import pysyncobj.syncobj as _module
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from quorate.consensus.elections import Elections
from quorate.consensus.errors import SafetyViolationError
from quorate.consensus.messages import Message, Outbox, VoteRequest

__all__ = ["Member", "Node", "OutboxTransport", "SyncObj", "SyncObjConf", "engine_module", "now"]


class _NoPickle:
    """Stands where the engine's `pickle` stood: nothing is ever unpickled."""

    @staticmethod
    def _refuse(*_: object, **__: object) -> NoReturn:
        raise SafetyViolationError("the engine tried to pickle or unpickle")

    loads = dumps = load = dump = _refuse


class _NoPoller:
    """Stands where the engine's poller stood: the engine has no sockets."""

    def subscribe(self, *_: object) -> None:
        """No descriptor is ever watched."""

    def unsubscribe(self, *_: object) -> None:
        """No descriptor is ever watched."""

    def poll(self, _timeout: float) -> None:
        """Nothing to wait for: the caller decides when the next turn is."""


class _Now:
    """The engine asks its module for time and chance; this passes on those of the engine that is
    running, so that many can live in one process under clocks of their own."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = lambda: 0.0
        self.chance = random.Random(0)  # noqa: S311 - spreads election timeouts, no secret

    def time(self) -> float:
        return self.clock()

    def random(self) -> float:
        return self.chance.random()


now = _Now()
_module.pickle = _NoPickle()
_module.monotonicTime = now.time
_module.random = now
_module.createPoller = lambda _kind: _NoPoller()


class Member(Node):  # type: ignore[misc]
    """A node of the engine. Its hash does not depend on PYTHONHASHSEED, so that sets of members
    are walked in the same order in every process (a simulation's seed decides everything)."""

    def __hash__(self) -> int:
        return int.from_bytes(str(self.id).encode()[-7:], "big")


class OutboxTransport(Transport):  # type: ignore[misc]
    """The engine's view of the network: a place to put messages."""

    def __init__(self, outbox: Outbox, elections: Elections) -> None:
        super().__init__(None, None, None)
        self._outbox = outbox
        self._elections = elections

    def send(self, node: Node, message: Message | dict[str, object]) -> bool:
        if isinstance(message, dict):  # the engine's kept election code sends this one form
            assert message["type"] == "request_vote", message["type"]
            message = VoteRequest(
                term=_int(message["term"]),
                last_log_index=_int(message["last_log_index"]),
                last_log_term=_int(message["last_log_term"]),
                transfer=self._elections.is_heir,
            )
        self._outbox(node.id, message)
        return True


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def engine_module() -> types.ModuleType:
    """The engine's module, for the tests that pin it."""
    module = _module
    assert isinstance(module, types.ModuleType)
    return module
