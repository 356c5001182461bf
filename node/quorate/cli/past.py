"""The past of a ledger: fetched from a node, and decided again entry by entry.

Owns how far it is read, and what it is held against: the signed checkpoint of the node, of which
the entries that were read must be the beginning. What they decide is `quorate.core.replaying`'s, so
that no node is believed: not even what the state once was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quorate.cli.connection import Connection
from quorate.cli.errors import VerificationError
from quorate.cli.ledger_check import (
    Progress,
    Tree,
    claimed_size,
    fetch_entries,
    newest_note,
    open_note,
)
from quorate.cli.ledger_members import log_key
from quorate.core import entries
from quorate.core.entries import Entry
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.genesis import Genesis
from quorate.core.recovery import Recovery
from quorate.core.replaying import Replay
from quorate.core.state import StateView
from quorate.node.engine import check_engine
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint
from quorate.v1 import ledger_pb2


class Past:
    """A node's ledger from its beginning on, as far as it was read.

    Raises ConfigurationError for a ledger that holds no beginning, UnsupportedProtocolError where
    the policy engine is not the protocol's; VerificationError, here and
    below, for whatever does not hold.
    """

    def __init__(
        self, connection: Connection, genesis: Genesis, timeout_ms: int, progress: Progress
    ) -> None:
        if isinstance(genesis, Recovery):
            raise ConfigurationError(
                "this ledger began with a recovery: what was in force then was carried over from "
                "another ledger, and is not in this one, so that its past cannot be decided again",
                hint="explain without --at what is decided now; what was decided before the "
                "recovery is in the former ledger, against the genesis of that one",
            )
        check_engine()  # with another one, what is recorded could look wrongly decided
        self._connection = connection
        self._timeout_ms = timeout_ms
        self._progress = progress
        self._replay = Replay(genesis)
        self._tree = Tree()
        self._note = newest_note(connection, timeout_ms)
        self.size = claimed_size(self._note)

    @property
    def view(self) -> StateView:
        """The state after the entries that were read."""
        return self._replay.view

    def require(self, index: int) -> None:
        """Raises MalformedError when the ledger has no such entry."""
        if index >= self.size:
            raise MalformedError(
                f"the ledger has {self.size} entries, and none at index {index}",
                hint=f"the newest is {self.size - 1}; of what will be nothing can be told",
            )

    def read_to(self, size: int) -> None:
        """Decides every entry below `size` again."""
        fetched = fetch_entries(self._connection, self._tree.size, size, self._timeout_ms)
        for data in fetched:
            with _entry(self._tree.size):
                self._replay.take(data)
            self._tree.add(data)
            self._progress(self._tree.size, size)

    def walk_to(self, size: int) -> Iterator[Entry]:
        """Each entry below `size`, before it is decided again: `view` is the state that it was
        decided on."""
        fetched = fetch_entries(self._connection, self._tree.size, size, self._timeout_ms)
        for data in fetched:
            with _entry(self._tree.size):
                entry = entries.parse(data)
            yield entry
            with _entry(self._tree.size):
                self._replay.take(data)
            self._tree.add(data)
            self._progress(self._tree.size, size)

    def supposed(self, owner: str, text: str) -> StateView | None:
        """`view`, had these policies been in force in it (`Replay.supposed`)."""
        return self._replay.supposed(owner, text)

    def peek(self) -> Entry:
        """The next entry, before it is decided again."""
        index = self._tree.size
        data = next(fetch_entries(self._connection, index, index + 1, self._timeout_ms))
        with _entry(index):
            return entries.parse(data)

    def verify(self) -> Checkpoint:
        """Proves that what was read is how the ledger begins that the node has signed.

        Reads on to the end when the node has become a member only then.
        """
        if log_key(self.view, self._connection.target.server_name) is None:
            self.read_to(self.size)
        checkpoint = open_note(self._note, self.view, self._connection)
        size, root = self._tree.size, merkle.root(self._tree, self._tree.size)
        proof = self._connection.ask(
            self._connection.ledger.GetConsistencyProof,
            ledger_pb2.GetConsistencyProofRequest(old_size=size, new_size=checkpoint.size),
            self._timeout_ms,
        )
        if not merkle.verify_consistency(
            size, checkpoint.size, list(proof.hashes), root, checkpoint.root
        ):
            raise VerificationError(
                f"the first {size} entries have root {root.hex()}, and are not how the ledger "
                f"begins that the node signed (size {checkpoint.size})"
            )
        return checkpoint


@contextmanager
def _entry(index: int) -> Iterator[None]:
    """What is wrong with an entry of a node's is the node's fault."""
    try:
        yield
    except MalformedError as error:
        raise VerificationError(f"entry {index}: {error}") from error
