"""Guards for what an executor writes to: a fence below the highest one seen is refused.

Owns the comparing and the keeping of fences, on the resource's side. Knows no leases, nodes or
clocks, asks nobody, and believes the fence that it is told: docs/resources.md says what follows.
"""

from __future__ import annotations

import sqlite3
import threading
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from quorate.core.errors import QuorateError
from quorate.core.limits import MAX_ID_CHARS

MAX_FENCE: Final = 2**63 - 1
DEFAULT_MAX_RESOURCES: Final = 10_000
"""How many resources a guard in memory keeps fences of, unless told otherwise."""


class StaleFenceError(QuorateError):
    """The resource has seen a higher fence than the one that was presented. Nothing was changed."""

    hint = "another lease on the resource is newer: stop the work, and ask for a lease again"

    def __init__(self, resource: str, fence: int, highest: int) -> None:
        super().__init__(f"{resource}: fence {fence} is older than {highest}")
        self.resource = resource
        self.fence = fence
        self.highest = highest


class FenceGuardError(QuorateError):
    """The guard could not compare or keep the fence, or cannot vouch for the write under it."""


class FenceGuard(Protocol):
    """The highest fence that was presented, of each resource."""

    @abstractmethod
    def admit(self, resource: str, fence: int) -> None:
        """Keeps the fence, or raises StaleFenceError when a higher one was seen; an equal one is
        admitted. What is not admitted changes nothing.

        Whatever is written under the fence is written after this has returned, and before another
        fence is admitted: `writing` of the guards below sees to both.
        """


class MemoryFenceGuard(FenceGuard):
    """The fences of a resource that lives in this process. Safe to use from several threads.

    It forgets with the process: after a restart the first fence is admitted, however old. So it is
    for what is gone with the process too, or what nobody can write to after a restart before a
    newer fence has been presented. Two processes have two guards, which do not know each other.

    max_resources: where there are as many, one that is not known yet is refused. None is ever
        forgotten to make room, for with it an old fence would be admitted again.
    """

    def __init__(self, *, max_resources: int = DEFAULT_MAX_RESOURCES) -> None:
        if max_resources < 1:
            raise ValueError("a guard has room for one resource at least")
        self._max_resources = max_resources
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}

    def admit(self, resource: str, fence: int) -> None:
        """As `FenceGuard.admit`; waits for the end of a write to the resource that goes on."""
        with self.writing(resource, fence):
            pass

    @contextmanager
    def writing(self, resource: str, fence: int) -> Iterator[None]:
        """Admits the fence, and no other fence of the resource until the block has ended.

        Raises StaleFenceError, and FenceGuardError when there is no room or when this thread is
        within such a block already. The fence stays when the block fails: it was seen.
        """
        _check(resource, fence)
        seen = self._seen_of(resource)
        this_thread = threading.get_ident()
        if seen.writer == this_thread:
            raise FenceGuardError(
                f"{resource}: this thread writes to it already",
                hint="let one block end before the next begins, and await nothing in it",
            )
        with seen.lock:
            if fence < seen.highest:
                raise StaleFenceError(resource, fence, seen.highest)
            seen.highest = fence
            seen.writer = this_thread
            try:
                yield
            finally:
                seen.writer = 0

    def highest(self, resource: str) -> int:
        """The highest fence that was admitted; 0 when there was none."""
        with self._lock:
            seen = self._seen.get(resource)
        return seen.highest if seen is not None else 0

    def _seen_of(self, resource: str) -> _Seen:
        with self._lock:
            seen = self._seen.get(resource)
            if seen is None:
                if len(self._seen) >= self._max_resources:
                    raise FenceGuardError(
                        f"{resource}: no room for its fence beside {len(self._seen)} resources'",
                        hint="give MemoryFenceGuard a higher max_resources",
                    )
                seen = self._seen[resource] = _Seen()
            return seen


class _Seen:
    """What is known of one resource. writer: the thread that writes to it now; 0 for none."""

    __slots__ = ("highest", "lock", "writer")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.highest = 0
        self.writer = 0


# As SQLite keeps it, letter by letter: with it a table of another shape is told from this one.
_TABLE: Final = """quorate_fence (
    resource TEXT NOT NULL PRIMARY KEY,
    highest INTEGER NOT NULL CHECK (typeof(highest) = 'integer')
) WITHOUT ROWID"""
_CREATE: Final = f"CREATE TABLE IF NOT EXISTS main.{_TABLE}"
_IS_OURS: Final = "SELECT count(*) FROM main.sqlite_master WHERE type = 'table' AND sql = ?"
# One statement compares and keeps. It writes even when it keeps nothing, and so begins by obtaining
# the write lock: in a transaction of whatever kind, it compares with what was committed last.
_ADMIT: Final = """
INSERT INTO main.quorate_fence AS kept (resource, highest) VALUES (?, ?)
ON CONFLICT (resource) DO UPDATE SET highest = excluded.highest
WHERE excluded.highest >= kept.highest
"""
_HIGHEST: Final = "SELECT max(highest) FROM main.quorate_fence WHERE resource = ?"
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class SQLiteFenceGuard(FenceGuard):
    """The fences of a resource in SQLite, in a table beside the resource's own (`quorate_fence`).

    A fence is compared and kept in the transaction of the write that it guards: both are there or
    neither, whatever is killed in between, and no other process or thread comes between them.

    connection: the resource's own, of any isolation level; what is written under a fence goes into
        its main database. One connection and one guard for each thread; where threads share a
        connection they share its guard, and write only within `writing`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Makes the table unless it is there; within a transaction, as a part of it. Raises
        FenceGuardError when the table has another shape or the database is busy."""
        self._connection = connection
        self._lock = threading.RLock()
        with _reported():
            connection.execute(_CREATE)
            is_ours = self._value(_IS_OURS, f"CREATE TABLE {_TABLE}")
        if not is_ours:
            raise FenceGuardError(
                "quorate_fence is not the table that SQLiteFenceGuard keeps fences in",
                hint="rename or remove what has that name; a guard makes its table by itself",
            )

    def admit(self, resource: str, fence: int) -> None:
        """As `FenceGuard.admit`, in a transaction of its own: for a fence that is presented before
        the first write. What is written later is guarded by `writing`, not by this."""
        with self.writing(resource, fence):
            pass

    @contextmanager
    def writing(self, resource: str, fence: int) -> Iterator[None]:
        """Begins a transaction, admits the fence, runs the block, commits.

        Whatever fails, nothing is left of the block, nor of the fence. Raises StaleFenceError, what
        the block raises, and FenceGuardError: the database is busy (nothing was admitted), the
        connection is within a transaction, or the block has ended the transaction by itself.
        """
        _check(resource, fence)
        with self._lock:
            self._begin()
            try:
                self._admit(resource, fence)
                with _reported():
                    self._connection.execute("SAVEPOINT quorate_write")
                yield
                self._commit()
            except BaseException:
                self._roll_back()
                raise

    def admit_within(self, resource: str, fence: int) -> None:
        """As `FenceGuard.admit`, in a transaction that the caller has begun and ends: before the
        first write in it, and the caller rolls back when this raises.

        For a connection with `autocommit=False`, which is always within a transaction. Best begun
        with BEGIN IMMEDIATE: one that has read before may find the database busy for good.
        """
        _check(resource, fence)
        with self._lock:
            if not self._is_within():
                raise FenceGuardError(
                    "the connection is not within a transaction: nothing would tie the write to "
                    "its fence",
                    hint="BEGIN IMMEDIATE before, or use writing()",
                )
            self._admit(resource, fence)

    def highest(self, resource: str) -> int:
        """The highest fence that was admitted; 0 when there was none."""
        with _reported():
            return self._value(_HIGHEST, resource)

    # -- inside ------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._is_within():
            by_itself = getattr(self._connection, "autocommit", None) is False
            raise FenceGuardError(
                "the connection is within a transaction"
                + (", always: its autocommit is False" if by_itself else ""),
                hint="use admit_within() and end the transaction yourself, or end it before",
            )
        # By statements and not by the connection's methods, which do nothing with autocommit=True.
        with _reported():
            self._connection.execute("BEGIN IMMEDIATE")

    def _admit(self, resource: str, fence: int) -> None:
        with _reported():
            is_kept = self._connection.cursor().execute(_ADMIT, (resource, fence)).rowcount == 1
            highest = fence if is_kept else self._value(_HIGHEST, resource)
        if not is_kept:
            raise StaleFenceError(resource, fence, highest)

    def _commit(self) -> None:
        # Only the transaction that was begun here has the savepoint, not one begun in its place.
        try:
            self._connection.execute("RELEASE quorate_write")
        except sqlite3.Error as error:
            raise FenceGuardError(
                f"the block has ended the transaction, or left a statement unfinished ({error}): "
                "what it wrote after a commit of its own had no guard",
                hint="no commit, rollback, executescript or `with connection` in the block",
            ) from error
        with _reported():
            self._connection.execute("COMMIT")

    def _roll_back(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # closed, which rolls back too
            # After some errors SQLite has rolled back by itself.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _is_within(self) -> bool:
        with _reported():
            return self._connection.in_transaction

    def _value(self, query: str, parameter: str) -> int:
        """One number, whatever rows the connection is set to make; 0 for none."""
        cursor = self._connection.cursor()
        cursor.row_factory = None
        [value] = cursor.execute(query, (parameter,)).fetchone()
        return int(value or 0)


@contextmanager
def _reported() -> Iterator[None]:
    """What SQLite fails with is the guard's error: whoever sees it has not been admitted."""
    try:
        yield
    except sqlite3.Error as error:
        # An extended code has the plain one in its lowest byte; the module's own errors have none.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
            raise FenceGuardError(
                f"the database is busy ({error}): the fence was not admitted",
                hint="try again, or give sqlite3.connect a longer timeout",
            ) from error
        raise FenceGuardError(f"the fence was not admitted: {error}") from error


def _check(resource: str, fence: int) -> None:
    """Raises ValueError for what no lease has."""
    if not isinstance(resource, str) or not 1 <= len(resource) <= MAX_ID_CHARS:
        raise ValueError(f"a resource is a text of 1 to {MAX_ID_CHARS} characters")
    resource.encode()  # half a surrogate pair, which no file can hold, is a ValueError too
    if isinstance(fence, bool) or not isinstance(fence, int) or not 1 <= fence <= MAX_FENCE:
        raise ValueError(f"a fence is a whole number from 1 to {MAX_FENCE}")
