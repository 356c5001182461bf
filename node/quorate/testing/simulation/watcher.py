"""Who looks on at simulated machines: what is told, and when.

Owns the protocol, and the authority word that tells when it is written. What is required of what is
seen is `raft_promises`', `authority_promises`' and `calls`'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from quorate.consensus import PeerError
from quorate.core.outcome import Outcome
from quorate.lease.word import AuthorityRecord, AuthorityWord
from quorate.v1 import peer_pb2 as pb

if TYPE_CHECKING:
    from quorate.testing.simulation.machine import Machine


class Watcher(Protocol):
    """Looks on at every machine."""

    def started(self, machine: Machine) -> None:
        """A core was built on the machine's disk."""

    def settled(self, machine: Machine, wrote: bool) -> None:
        """A turn is durable; its messages have not left."""

    def sent(self, machine: Machine, peer: str, message: pb.PeerMessage) -> None:
        """A message leaves."""

    def executed(self, machine: Machine, key: bytes, outcome: Outcome) -> None:
        """An envelope has its outcome, durably."""

    def kept(self, machine: Machine, ticket: int) -> None:
        """What the node's outbox took in up to this ticket is durable."""

    def published(self, machine: Machine, record: AuthorityRecord) -> None:
        """The authority word was written."""

    def powered_off(self, machine: Machine) -> None:
        """Word and edges are gone."""

    def enforced(self, machine: Machine, watermark: int) -> None:
        """The node says that this Raft index holds everywhere."""

    def released(self, machine: Machine) -> None:
        """The node's callers hear nothing more."""

    def accused(self, machine: Machine, peer: str, error: PeerError) -> None:
        """The node says that a peer is not correct."""


class WatchedWord(AuthorityWord):
    """An authority word that tells when it is written."""

    __slots__ = ("on_write",)

    on_write: Callable[[AuthorityRecord], None]

    @classmethod
    def watched(cls, on_write: Callable[[AuthorityRecord], None]) -> WatchedWord:
        word = cls.create()
        assert isinstance(word, cls)
        word.on_write = on_write
        return word

    def write(self, record: AuthorityRecord) -> None:
        super().write(record)
        self.on_write(record)
