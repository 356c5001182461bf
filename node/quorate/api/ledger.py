"""LedgerService: the lineage log and its proofs.

Owns the bounds of what may be asked for. Every answer is made from one snapshot, so that entries,
sizes, roots and hashes in it agree. Signs nothing itself.
"""

from __future__ import annotations

from typing import Any, Final

from quorate.api.access import Access
from quorate.api.errors import NotVouchedError, OutOfRangeError, Violation
from quorate.api.freshness import until_held
from quorate.api.ports import Core
from quorate.api.validate import Violations
from quorate.core.errors import ProbationError, StorageDamagedError
from quorate.core.limits import MAX_ENTRIES_PER_PAGE, MAX_MESSAGE_BYTES
from quorate.proofs import merkle
from quorate.v1 import ledger_pb2, ledger_pb2_grpc

DEFAULT_PAGE_ENTRIES: Final = 64
MAX_PAGE_BYTES: Final = MAX_MESSAGE_BYTES * 3 // 4
"""Of entries in one answer; at least one entry is sent, whatever its size."""


class LedgerService(ledger_pb2_grpc.LedgerServiceServicer):
    """Served by the core process to the node's own domain."""

    def __init__(self, core: Core, access: Access) -> None:
        self._core = core
        self._access = access

    async def GetCheckpoint(  # noqa: N802 - the contract's names, here and below
        self, request: ledger_pb2.GetCheckpointRequest, context: Any
    ) -> ledger_pb2.GetCheckpointResponse:
        self._access.member(context)
        await until_held(self._core, request.minimum_index, context)
        try:
            note = self._core.checkpoint()
        except ProbationError as error:
            raise NotVouchedError(f"{error}; {error.hint}") from error
        return ledger_pb2.GetCheckpointResponse(note=note)

    async def ListEntries(  # noqa: N802
        self, request: ledger_pb2.ListEntriesRequest, context: Any
    ) -> ledger_pb2.ListEntriesResponse:
        """An empty page means that the ledger ends at `start`; beyond that is out of range."""
        self._access.member(context)
        found = Violations()
        found.within("limit", request.limit, 0, MAX_ENTRIES_PER_PAGE)
        found.raise_any()
        await until_held(self._core, request.minimum_index, context)
        limit = request.limit or DEFAULT_PAGE_ENTRIES
        with self._core.read() as snapshot:
            size = snapshot.ledger_size
            _in_range("start", request.start, 0, size)
            page: list[bytes] = []
            size_bytes = 0
            for seq in range(request.start, min(request.start + limit, size)):
                entry = snapshot.ledger_entry(seq)
                if entry is None:
                    raise StorageDamagedError(f"the ledger of {size} entries has no entry {seq}")
                size_bytes += len(entry)
                if page and size_bytes > MAX_PAGE_BYTES:
                    break
                page.append(entry)
        return ledger_pb2.ListEntriesResponse(size=size, entries=page)

    async def GetInclusionProof(  # noqa: N802
        self, request: ledger_pb2.GetInclusionProofRequest, context: Any
    ) -> ledger_pb2.GetInclusionProofResponse:
        self._access.member(context)
        found = Violations()
        if request.size and request.index >= request.size:
            found.add("index", f"is not in a tree of size {request.size}")
        found.raise_any()
        await until_held(self._core, request.minimum_index, context)
        with self._core.read() as snapshot:
            size = request.size or snapshot.ledger_size
            _in_range("size", size, 1, snapshot.ledger_size)
            _in_range("index", request.index, 0, size - 1)
            entry = snapshot.ledger_entry(request.index)
            if entry is None:
                raise StorageDamagedError(f"the ledger has no entry {request.index}")
            return ledger_pb2.GetInclusionProofResponse(
                size=size,
                root=merkle.root(snapshot, size),
                entry=entry,
                hashes=merkle.inclusion_proof(snapshot, request.index, size),
            )

    async def GetConsistencyProof(  # noqa: N802
        self, request: ledger_pb2.GetConsistencyProofRequest, context: Any
    ) -> ledger_pb2.GetConsistencyProofResponse:
        self._access.member(context)
        found = Violations()
        if request.old_size == 0:
            found.add("old_size", "must be at least 1: nothing is provable of an empty tree")
        if request.new_size and request.new_size < request.old_size:
            found.add("new_size", f"is less than old_size {request.old_size}")
        found.raise_any()
        await until_held(self._core, request.minimum_index, context)
        with self._core.read() as snapshot:
            new_size = request.new_size or snapshot.ledger_size
            _in_range("new_size", new_size, 1, snapshot.ledger_size)
            _in_range("old_size", request.old_size, 1, new_size)
            return ledger_pb2.GetConsistencyProofResponse(
                old_size=request.old_size,
                new_size=new_size,
                old_root=merkle.root(snapshot, request.old_size),
                new_root=merkle.root(snapshot, new_size),
                hashes=merkle.consistency_proof(snapshot, request.old_size, new_size),
            )


def _in_range(field: str, value: int, least: int, most: int) -> None:
    """Raises OutOfRangeError: a larger ledger may have what is asked for."""
    if not least <= value <= most:
        raise OutOfRangeError(Violation(field, f"{value} is not within {least} and {most}"))
