"""LineageService: what came from what, and what relied on a thing, before an entry and after it.

Owns the bounds of what may be asked for, and the form of the answers. What the graph says is
`quorate.core.graph`'s, and who keeps it is not known here. An answer is made beside the core's own
work, in a thread: a page can take some hundred lookups for each lease. So each caller is paced.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from quorate.api.access import Access
from quorate.api.convert import reason_to_wire
from quorate.api.errors import NotReadyError, OutOfRangeError, Violation
from quorate.api.freshness import patience_s, until_held
from quorate.api.pace import Pace, lineage_turns
from quorate.api.ports import Core
from quorate.api.validate import Violations
from quorate.core import codec, graph, ids
from quorate.core.containment import listed
from quorate.core.errors import MalformedError
from quorate.core.graph import Found, Page, Standings
from quorate.core.limits import MAX_RECORDS_PER_PAGE
from quorate.core.outcome import Deny
from quorate.core.routing import split_id
from quorate.core.rows import Row
from quorate.core.state import StateView
from quorate.core.store import Reader
from quorate.storage import Snapshot
from quorate.storage.graph import GraphError
from quorate.v1 import lineage_pb2, lineage_pb2_grpc

DEFAULT_PAGE_LEASES: Final = 100
MAX_THING_CHARS: Final = 400
MAX_PAGE_TOKEN_CHARS: Final = 256
THINGS: Final = ("domain", "executor", "trust", "grant", "lease", "contained", "frozen")
"""What something can rely on."""


class Graph(Protocol):
    """The node's graph of lineage, as this service sees it."""

    async def advance(self, size: int, within_s: float) -> None:
        """Returns when the graph has the first `size` entries, or when the time is up. Raises
        GraphError, and MalformedError."""
        ...

    def read(self) -> AbstractContextManager[Reader]:
        """Raises GraphError."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """at: the index of an entry; None: the newest of the graph."""

    at: int | None
    after: bytes
    most: int


class _Look:
    """One look at graph and state together, about one entry."""

    def __init__(self, reader: Reader, snapshot: Snapshot, at: int | None) -> None:
        self.graph = reader
        self.view = StateView(snapshot.state)
        size = graph.mark_of(reader).size
        if size == 0 or (at is not None and at >= size):
            raise OutOfRangeError(Violation("at_index", f"the graph has {size} entries so far"))
        index = size - 1 if at is None else at
        entry = snapshot.ledger_entry(index)
        if entry is None:  # the store is older than the graph, which is made anew
            raise NotReadyError("the graph of lineage is not of this ledger; ask again")
        time = Row(codec.load(entry)).number("time")
        self.position = lineage_pb2.GraphPosition(
            size=size, ledger_size=snapshot.ledger_size, at_index=index, at_time_ms=time
        )
        origin = self.view.federation_record().origin
        self._before = Standings(reader, origin, index, time)
        self._after = Standings(reader, origin, index + 1, time)

    def lease(self, found: Found) -> lineage_pb2.LineageLease:
        record = self.view.lease(found.lease)
        if record is None:
            raise NotReadyError("the graph of lineage is not of this state; ask again")
        record = listed(self.view, record)
        return lineage_pb2.LineageLease(
            lease_id=record.id,
            executor=record.executor,
            action=record.action,
            resource=record.resource,
            acquired_index=found.index,
            depth=found.depth,
            before=_standing(self._before.of(record, found.index)),
            after=_standing(self._after.of(record, found.index)),
        )

    def grant(self, found: Found) -> lineage_pb2.DelegatedGrant:
        record = self.view.grant(*split_id(found.lease))
        if record is None:
            raise NotReadyError("the graph of lineage is not of this state; ask again")
        return lineage_pb2.DelegatedGrant(
            grant_id=record.id,
            executor=record.executor,
            parent=record.parent,
            made_index=found.index,
        )


class LineageService(lineage_pb2_grpc.LineageServiceServicer):
    """Served by the core process to the node's own domain."""

    def __init__(self, core: Core, access: Access, kept: Graph, pace: Pace) -> None:
        self._core = core
        self._access = access
        self._kept = kept
        self._pace = pace
        self._turns = lineage_turns()

    async def Ancestors(  # noqa: N802 - the contract's names, here and below
        self, request: lineage_pb2.AncestorsRequest, context: Any
    ) -> lineage_pb2.AncestorsResponse:
        caller = self._access.member(context)
        self._pace.take(caller)
        found = Violations()
        found.text("lease_id", request.lease_id, ids.check_lease_id)
        found.raise_any()
        await self._until(request.minimum_index, context)
        return await self._turns.take(caller, lambda: self._ancestors(request))

    def _ancestors(self, request: lineage_pb2.AncestorsRequest) -> lineage_pb2.AncestorsResponse:
        with self._look(_at(request)) as look:
            answer = lineage_pb2.AncestorsResponse(position=look.position)
            origin = graph.origin_of(look.graph, request.lease_id)
            if origin is None:
                return answer
            answer.found, answer.truncated = True, origin.is_cut
            nearest = sorted(origin.ancestors.items(), key=lambda item: (item[1], item[0]))
            for ident, depth in nearest:
                above = graph.origin_of(look.graph, ident)
                if above is not None:
                    answer.leases.append(look.lease(Found(ident, above.index, depth)))
        return answer

    async def Descendants(  # noqa: N802
        self, request: lineage_pb2.DescendantsRequest, context: Any
    ) -> lineage_pb2.DescendantsResponse:
        caller = self._access.member(context)
        self._pace.take(caller)
        found = Violations()
        found.text("lease_id", request.lease_id, ids.check_lease_id)
        asked = _asked(found, request, "descendants " + request.lease_id)
        await self._until(request.minimum_index, context)
        return await self._turns.take(caller, lambda: self._descendants(request, asked))

    def _descendants(
        self, request: lineage_pb2.DescendantsRequest, asked: _Asked
    ) -> lineage_pb2.DescendantsResponse:
        with self._look(asked.at) as look:
            answer = lineage_pb2.DescendantsResponse(position=look.position)
            if graph.origin_of(look.graph, request.lease_id) is None:
                return answer
            page = graph.descendants(look.graph, request.lease_id, asked.after, asked.most)
            answer.found = True
            answer.leases.extend(look.lease(each) for each in page.found)
            answer.next_page_token = _token("descendants " + request.lease_id, page)
        return answer

    async def Dependents(  # noqa: N802
        self, request: lineage_pb2.DependentsRequest, context: Any
    ) -> lineage_pb2.DependentsResponse:
        caller = self._access.member(context)
        self._pace.take(caller)
        found = Violations()
        found.text("thing", request.thing, check_thing)
        found.enum("kind", request.kind, tuple(lineage_pb2.DependentKind.values()))
        asked = _asked(found, request, f"dependents {request.kind} {request.thing}")
        await self._until(request.minimum_index, context)
        return await self._turns.take(caller, lambda: self._dependents(request, asked))

    def _dependents(
        self, request: lineage_pb2.DependentsRequest, asked: _Asked
    ) -> lineage_pb2.DependentsResponse:
        kind, _, ident = request.thing.partition(":")
        with self._look(asked.at) as look:
            answer = lineage_pb2.DependentsResponse(position=look.position)
            if request.kind == lineage_pb2.DEPENDENT_KIND_GRANTS:
                page = graph.passed_on(look.graph, request.thing, asked.after, asked.most)
                answer.grants.extend(look.grant(each) for each in page.found)
            else:
                if kind == "lease":
                    page = graph.descendants(look.graph, ident, asked.after, asked.most)
                else:
                    page = graph.relying(look.graph, request.thing, asked.after, asked.most)
                leases = (look.lease(each) for each in page.found)
                answer.leases.extend(_wanted(leases, only_stopped=request.only_stopped))
            place = f"dependents {request.kind} {request.thing}"
            answer.next_page_token = _token(place, page)
        return answer

    async def _until(self, minimum_index: int, context: Any) -> None:
        """Raises OutOfRangeError when the entry is not here, or not in the graph, in time."""
        await until_held(self._core, minimum_index, context)
        if not minimum_index:
            return
        try:
            await self._kept.advance(minimum_index + 1, patience_s(context))
            with self._kept.read() as reader:
                size = graph.mark_of(reader).size
        except (GraphError, MalformedError) as error:
            raise NotReadyError(str(error)) from error
        if size <= minimum_index:
            raise OutOfRangeError(
                Violation("minimum_index", f"the graph has {size} entries so far")
            )

    def _look(self, at: int | None) -> _Looking:
        return _Looking(self._kept, self._core, at)


class _Looking:
    """A look, for as long as its `with` lasts. What is wrong with the graph is for now."""

    def __init__(self, kept: Graph, core: Core, at: int | None) -> None:
        self._reading = kept.read()
        self._snapshot = core.read()
        self._at = at

    def __enter__(self) -> _Look:
        try:
            reader = self._reading.__enter__()
        except GraphError as error:
            raise NotReadyError(str(error)) from error
        try:
            snapshot = self._snapshot.__enter__()
        except BaseException:
            self._reading.__exit__(None, None, None)
            raise
        try:
            return _Look(reader, snapshot, self._at)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._snapshot.__exit__(None, None, None)
        self._reading.__exit__(None, None, None)


def check_thing(text: str) -> None:
    """Raises MalformedError."""
    kind, separator, ident = text.partition(":")
    if kind not in THINGS or not separator or not ident:
        raise MalformedError(f"must be KIND:ID, of {', '.join(THINGS)}")
    if len(text) > MAX_THING_CHARS or not text.isascii():
        raise MalformedError(f"longer than {MAX_THING_CHARS} characters, or not ASCII")
    if kind == "lease":
        ids.check_lease_id(ident)


def _wanted(
    leases: Iterable[lineage_pb2.LineageLease], *, only_stopped: bool
) -> Iterator[lineage_pb2.LineageLease]:
    for lease in leases:
        if not only_stopped or (lease.before.in_force and not lease.after.in_force):
            yield lease


def _standing(denied: Deny | None) -> lineage_pb2.Standing:
    if denied is None:
        return lineage_pb2.Standing(in_force=True)
    return lineage_pb2.Standing(reason=reason_to_wire(denied.reason), thing=denied.thing)


def _at(request: Any) -> int | None:
    return request.at_index if request.HasField("at_index") else None


def _asked(found: Violations, request: Any, place: str) -> _Asked:
    """Raises InvalidRequestError, for what was found before as well."""
    found.within("page_size", request.page_size, 0, MAX_RECORDS_PER_PAGE)
    after = b""
    try:
        after = _after(place, request.page_token)
    except MalformedError as error:
        found.add("page_token", error.problem)
    found.raise_any()
    return _Asked(_at(request), after, request.page_size or DEFAULT_PAGE_LEASES)


def _token(place: str, page: Page) -> str:
    """A page token: of which list it is, and where the next page begins; empty: nowhere."""
    if not page.after:
        return ""
    said = graph.place_hash(place) + page.after
    return base64.urlsafe_b64encode(said).decode("ascii")


def _after(place: str, token: str) -> bytes:
    """Where a token of ours for this list says that the page begins. Raises MalformedError."""
    if not token:
        return b""
    if len(token) > MAX_PAGE_TOKEN_CHARS:
        raise MalformedError(f"longer than {MAX_PAGE_TOKEN_CHARS} characters")
    try:
        said = base64.b64decode(token, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise MalformedError("is not a token of this service") from error
    own = graph.place_hash(place)
    after = said.removeprefix(own)
    if after == said or not after:
        raise MalformedError("is not a token of this list")
    if base64.urlsafe_b64encode(said).decode("ascii") != token:
        raise MalformedError("is not a token of this service")
    return after
