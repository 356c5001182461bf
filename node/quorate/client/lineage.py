"""Where the running work comes from, carried along: within a process, and to others.

    with coming_from("0123456789abcdef0123456789abcdef"):
        gate.acquire(...)       # the new lease has that one as its parent

Owns the leases that the running work comes from (`current_lineage`), and their form in the metadata
of a call, the headers of a request and the environment of a process. What goes along with them is
the trace context (`quorate.client.traces`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from quorate.client import traces
from quorate.core.errors import MalformedError
from quorate.core.ids import check_lease_id
from quorate.core.limits import MAX_PARENTS

HEADER: Final = "quorate-lease"
"""Of gRPC metadata and of HTTP requests: ids of leases, with commas between them."""
VARIABLE: Final = "QUORATE_LEASE"
"""Of a process's environment."""

_lineage: Final[ContextVar[tuple[str, ...] | None]] = ContextVar("quorate_lineage", default=None)


def current_lineage() -> tuple[str, ...]:
    """The leases that the running work comes from: the one of the act or block that it is in, else
    what the caller said, else what the process was started with. At most MAX_PARENTS."""
    known = _lineage.get()
    return _of_process() if known is None else known


@contextmanager
def coming_from(*lease_ids: str) -> Iterator[None]:
    """What the block does comes from work under these leases. Raises ValueError for what can be no
    lineage."""
    with _set(_checked(lease_ids)):
        yield


def under(lease_id: str) -> AbstractContextManager[None]:
    """The block is work under this lease, as the node has named it."""
    return _set((lease_id,))


@contextmanager
def _set(lineage: tuple[str, ...]) -> Iterator[None]:
    before = _lineage.get()
    _lineage.set(lineage)  # no token: a block may be entered in one task, and left in another
    try:
        yield
    finally:
        _lineage.set(before)


def parse_lineage(text: str) -> tuple[str, ...]:
    """The leases that a header or variable names; empty: none. Raises ValueError."""
    return _checked([part.strip() for part in text.split(",")]) if text.strip() else ()


def format_lineage(lease_ids: Sequence[str]) -> str:
    return ",".join(lease_ids)


def _checked(lease_ids: Sequence[str]) -> tuple[str, ...]:
    try:
        for lease_id in lease_ids:
            check_lease_id(lease_id)
    except MalformedError as error:
        raise ValueError(f"no lineage: {error}") from error
    known = tuple(sorted(set(lease_ids)))
    if len(known) > MAX_PARENTS:
        raise ValueError(f"no lineage: {len(known)} leases, where {MAX_PARENTS} may be")
    return known


def _of_process() -> tuple[str, ...]:
    with suppress(ValueError):
        return parse_lineage(os.environ.get(VARIABLE, ""))
    return ()


# -- to and from others ------------------------------------------------------------------------


def outgoing() -> dict[str, str]:
    """What goes along with a call to somebody else, by name: in lower case, as gRPC has them."""
    injected: dict[str, str] = {}
    traces.inject(injected)
    headers = {name.lower(): value for name, value in injected.items()}
    if lineage := current_lineage():
        headers[HEADER] = format_lineage(lineage)
    return headers


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where the work of one request comes from, by what its caller said."""

    lineage: tuple[str, ...]
    headers: Mapping[str, str]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What the block does comes from there."""
        with _set(self.lineage), traces.continuing(self.headers):
            yield


def arriving(headers: Mapping[str, str], *, is_believed: bool = True) -> Arrival:
    """Of a request with these headers; names are in lower case. Raises ValueError for a lineage
    that can be none.

    is_believed: false where anybody may call: then no lease is taken for a parent on their word.
    """
    lineage = parse_lineage(headers.get(HEADER, "")) if is_believed else ()
    return Arrival(lineage, headers)


def carried(metadata: Sequence[tuple[str, Any]], lease_id: str = "") -> list[tuple[str, Any]]:
    """The metadata of a call, with where its work comes from: `lease_id`, if the call has a lease
    of its own. What the caller has said itself stays."""
    said = {name.lower() for name, _ in metadata}
    with under(lease_id) if lease_id else nullcontext():
        more = outgoing()
    return [*metadata, *((name, value) for name, value in more.items() if name not in said)]


def headers_of(pairs: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    """Metadata or headers as `arriving` reads them: what is said twice is one list."""
    headers: dict[str, str] = {}
    for name, value in pairs:
        known, text = _ascii(name).lower(), _ascii(value)
        headers[known] = f"{headers[known]},{text}" if known in headers else text
    return headers


def _ascii(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode("ascii", "replace")
