"""All nodes' ledgers side by side, followed as they grow.

Owns the comparison: the entries of every node are the same bytes, and every signed checkpoint is
that of those very entries. Keeps what it has compared, so that following a long run costs what is
new. Takes no node's word for anything but the bytes; proofs are `quorate.chaos.checks`'s business.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Any, Final

from quorate.chaos.checks import open_node_checkpoint
from quorate.chaos.operator import NodeSilentError, Operator
from quorate.chaos.processes import wait_until
from quorate.core import codec, ids
from quorate.core.errors import QuorateError
from quorate.core.genesis import Genesis
from quorate.core.limits import MAX_ENTRIES_PER_PAGE, MAX_ENTRY_BYTES
from quorate.core.verbs import Verb
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint
from quorate.v1 import ledger_pb2

LEVEL_TIMEOUT_S: Final = 30.0
_MALFORMED: Final = "malformed"


class DisagreementError(QuorateError):
    """Two nodes hold different ledgers, or a node's checkpoint is not that of its entries."""


class LedgerMirror:
    """The one ledger of a federation, as all of its nodes show it."""

    def __init__(self, operators: Sequence[Operator], genesis: Genesis) -> None:
        self.entries: list[bytes] = []
        self._operators = tuple(operators)
        self._genesis = genesis
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._found: dict[str, list[int]] = {}
        self._reports = 0

    # -- the tree that `quorate.proofs.merkle` works on -----------------------------------------

    def node(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self._nodes[level, index] = digest

    # -- following -----------------------------------------------------------------------------

    def catch_up(self, timeout_s: float = LEVEL_TIMEOUT_S) -> int:
        """Waits until the nodes are level, compares what is new, and returns the size.

        Nobody may be writing, or they are never level. Raises DisagreementError, DeadlineError.
        """
        checkpoints: list[Checkpoint] = []

        def level() -> bool:
            try:
                checkpoints[:] = [open_node_checkpoint(o, self._genesis) for o in self._operators]
            except NodeSilentError:
                return False
            return len({checkpoint.size for checkpoint in checkpoints}) == 1

        wait_until("ledgers of one size at all nodes", level, timeout_s)
        size = checkpoints[0].size
        if size < len(self.entries):
            raise DisagreementError(f"the ledgers had {len(self.entries)} entries, now {size}")
        first, *others = (self._read(operator, size) for operator in self._operators)
        for operator, entries in zip(self._operators[1:], others, strict=True):
            for offset, (mine, theirs) in enumerate(zip(first, entries, strict=True)):
                if mine != theirs:
                    raise DisagreementError(
                        f"entry {len(self.entries) + offset} of {operator.domain} differs from "
                        f"that of {self._operators[0].domain}"
                    )
        for entry in first:
            self._add(entry)
        root = merkle.root(self, size)
        for operator, checkpoint in zip(self._operators, checkpoints, strict=True):
            if checkpoint.root != root:
                raise DisagreementError(
                    f"{operator.domain}: the checkpoint is not that of the entries"
                )
        return size

    def count_decided(self, timeout_s: float = LEVEL_TIMEOUT_S) -> int:
        """Catches up, and returns how many entries there are beside those by which nodes tell, a
        second later or so, what they have denied and their executors have done."""
        self.catch_up(timeout_s)
        return len(self.entries) - self._reports

    def indexes_of(self, command_id: str) -> list[int]:
        """Where a command stands; more than once only when it was denied before it was known who
        gave it (a bad signature, a used nonce)."""
        return list(self._found.get(command_id, ()))

    def entry(self, index: int) -> dict[str, Any]:
        value = codec.decode(self.entries[index], MAX_ENTRY_BYTES)
        assert isinstance(value, dict)
        return value

    def _read(self, operator: Operator, size: int) -> list[bytes]:
        entries: list[bytes] = []
        while (start := len(self.entries) + len(entries)) < size:
            limit = min(MAX_ENTRIES_PER_PAGE, size - start)
            request = ledger_pb2.ListEntriesRequest(start=start, limit=limit)
            page = operator.ask(operator.ledger.ListEntries, request).entries
            if not page:
                raise DisagreementError(f"{operator.domain} shows {start} of {size} entries")
            entries += page[:limit]
        return entries

    def _add(self, data: bytes) -> None:
        index = len(self.entries)
        merkle.append(self, index, merkle.leaf_hash(data))
        self.entries.append(data)
        entry = self.entry(index)
        self._reports += entry["type"] == Verb.LINEAGE_APPEND
        if index > 0 and entry["type"] != _MALFORMED:
            named = json.loads(b64decode(entry["command"]["payload"]))
            command_id = ids.command_id(named["issuer"], named["nonce"])
            self._found.setdefault(command_id, []).append(index)
