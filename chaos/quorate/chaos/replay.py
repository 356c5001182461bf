"""The ledger executed again, by the pure core alone, and a node's state held against the result.

Owns the replay: from the genesis and the bytes of the entries, with no node's help. What it cannot
know are the repeats, which leave no entry: they touch what is remembered of commands and the ledger
time, and nothing that can be listed.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from typing import Final

from quorate.chaos.operator import Operator
from quorate.core import codec, invariants
from quorate.core.genesis import Genesis
from quorate.core.limits import MAX_ENTRY_BYTES, MAX_RECORDS_PER_PAGE
from quorate.core.state import Kind, StateView, list_records
from quorate.core.store import MemoryStore
from quorate.core.transitions import apply, install_genesis
from quorate.v1 import governance_pb2

MAX_PROBLEMS: Final = 10
_MALFORMED: Final = "malformed"
_TIME_FIELD: Final = "ledger_time"
_ALL: Final = 2**31


class Replay:
    """A state made from entries. `problems`: where the core decides otherwise than they say."""

    def __init__(self, genesis: Genesis, entries: Sequence[bytes]) -> None:
        self.store = MemoryStore()
        self.problems: list[str] = []
        if install_genesis(self.store, genesis) != entries[0]:
            self.problems.append("entry 0 is not the genesis")
        for seq, data in enumerate(entries[1:], start=1):
            payload, is_whole = _payload(data)
            applied = apply(self.store, payload, seq)
            if is_whole and applied.entry != data:
                self.problems.append(f"entry {seq}: executed again, it comes out different")
        self.problems += invariants.check(StateView(self.store))

    def differences(self, operator: Operator) -> list[str]:
        """What a node's state holds otherwise than this one; the first few. Nobody may write."""
        return list(islice(self._differences(operator), MAX_PROBLEMS))

    def _differences(self, operator: Operator) -> Iterator[str]:
        view = StateView(self.store)
        for kind in Kind:
            mine = (data.decode() for _, data in list_records(view, kind, "", _ALL))
            theirs = _listed(operator, kind)
            for here, there in zip_longest(mine, theirs):
                if _timeless(kind, here) != _timeless(kind, there):
                    yield f"{operator.domain}: {kind}: {there} instead of {here}"


def _payload(data: bytes) -> tuple[bytes, bool]:
    """What an entry was made from, and whether it is that, or (of bytes too many for an entry to
    hold) something of its size that is as little a command."""
    entry = codec.decode(data, MAX_ENTRY_BYTES)
    assert isinstance(entry, dict)
    time_ms, command = entry["time"], entry["command"]
    assert isinstance(time_ms, int)
    assert isinstance(command, dict)
    if entry["type"] != _MALFORMED:
        return codec.stamp(time_ms, codec.encode(command)), True
    raw, size = command.get("raw"), command.get("size")
    if isinstance(raw, str):
        return codec.stamp(time_ms, b64decode(raw)), True
    assert isinstance(size, int)
    return codec.stamp(time_ms, bytes(size)), False


def _listed(operator: Operator, kind: Kind) -> Iterator[str]:
    token = ""
    while True:
        page = operator.ask(
            operator.governance.ListState,
            governance_pb2.ListStateRequest(
                kind=governance_pb2.Kind.Value(f"KIND_{kind.name}"),
                page_size=MAX_RECORDS_PER_PAGE,
                page_token=token,
            ),
        )
        yield from page.records
        token = page.next_page_token
        if not token:
            return


def _timeless(kind: Kind, record: str | None) -> object:
    if record is None or kind is not Kind.FEDERATION:
        return record
    return {name: value for name, value in json.loads(record).items() if name != _TIME_FIELD}
