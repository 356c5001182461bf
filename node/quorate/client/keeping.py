"""Keeping held leases, with threads: the checks, renewals and watches that `Upkeep` asks for.

Owns the threads of one gate. They begin with the first lease that is held; one asks and times, one
renews, one tells, and one reads each stream of notices (256 leases each).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Final

import grpc

from quorate.client import wire
from quorate.client.calls import Calls, Question
from quorate.client.decisions import ClientReason, Denied, Permit
from quorate.client.facts import LeaseFacts
from quorate.client.slot import PermitSlot
from quorate.client.upkeep import Held, Holder, Told, Upkeep
from quorate.client.watch import Watch
from quorate.client.watching import WatchTalk
from quorate.v1 import lease_pb2, lease_pb2_grpc

_MOST_RENEWALS: Final = 16
"""At once: each waits for a quorum."""


class Keeping:
    """The leases that one gate holds. Safe to use from several threads."""

    def __init__(
        self,
        calls: Calls,
        stub: lease_pb2_grpc.LeaseServiceStub,
        closed: threading.Event,
        renew: Callable[[LeaseFacts], LeaseFacts | Denied],
    ) -> None:
        self._calls = calls
        self._stub = stub
        self._closed = closed
        self._renew = renew
        self._upkeep = Upkeep(calls)
        self._stirred = threading.Event()
        self._news = threading.Event()
        self._renewals = threading.Event()
        self._lock = threading.RLock()
        self._renewing = threading.BoundedSemaphore(_MOST_RENEWALS)
        self._watches: list[tuple[WatchTalk, Watch]] = []
        self._has_begun = False

    def hold(
        self,
        lease: LeaseFacts,
        slot: PermitSlot,
        permit: Permit,
        epoch: int,
        tell: Told,
        *,
        renew: bool,
    ) -> Holder | None:
        """As `Upkeep.hold`, and watches the lease. Raises RuntimeError when no thread can be
        started; then nothing is held by this gate any more."""
        with self._lock:
            try:
                if not self._has_begun:
                    self._has_begun = True
                    for run in (self._ask, self._tell, self._renew_all):
                        self._start(run)
                found = self._upkeep.hold(lease, slot, permit, epoch, tell, renew=renew)
                if found is None:
                    return None
                holder, is_first = found
                if is_first:
                    self._watch(lease.id, slot)
            except RuntimeError as error:  # how threading says that there is no more
                self._upkeep.abandon(ClientReason.CLIENT_FAILED, str(error))
                self._news.set()
                raise
        self._stirred.set()
        return holder

    def let_go(self, holder: Holder) -> None:
        """As `Upkeep.let_go`; a lease that nobody holds is watched no more."""
        with self._lock:
            if self._upkeep.let_go(holder):
                for talk, _ in self._watches:
                    talk.forget(holder.lease_id)

    def _watch(self, lease_id: str, slot: PermitSlot) -> None:
        if any(talk.add(lease_id, slot) for talk, _ in self._watches):
            return
        talk = WatchTalk(self._calls.session, {lease_id: slot})
        watch = Watch(self._stub, talk, self._closed)
        self._start(lambda: self._hear(talk, watch))
        self._watches.append((talk, watch))

    def close(self) -> None:
        """Tells the holders, and ends the threads; `closed` is set already."""
        self._upkeep.abandon(ClientReason.CLOSED)
        with self._lock:
            for _, watch in self._watches:
                watch.close()
        for each in (self._stirred, self._news, self._renewals):
            each.set()

    def _start(self, run: Callable[[], None]) -> None:
        def kept() -> None:
            try:
                run()
            except BaseException as error:
                self._upkeep.abandon(ClientReason.CLIENT_FAILED, type(error).__name__)
                self._upkeep.tell()
                raise

        threading.Thread(target=kept, name="quorate-keeping", daemon=True).start()

    # -- the threads -------------------------------------------------------------------------

    def _ask(self) -> None:
        while not self._closed.is_set():
            self._stirred.clear()
            for questions in self._upkeep.due():
                self._send(questions)
            self._upkeep.lapse()
            if self._upkeep.has_news:
                self._news.set()
            if self._upkeep.has_due_renewals:
                self._renewals.set()
            self._stirred.wait(self._upkeep.wait_s())

    def _send(self, questions: list[Question]) -> None:
        request = lease_pb2.CheckBatchRequest(
            checks=[self._calls.check_request(question.lease) for question in questions]
        )
        timeout_s = self._calls.max_permit_ttl_ms / 1_000
        try:
            call: Any = self._stub.CheckBatch.future(request, timeout=timeout_s)
        except wire.FAILURES as error:
            self._upkeep.failed(questions, error)
            return

        def done(ended: Any) -> None:
            try:
                self._upkeep.answered(questions, ended.result())
            except (*wire.FAILURES, grpc.FutureCancelledError) as error:
                self._upkeep.failed(questions, error)
            self._news.set()
            self._stirred.set()

        call.add_done_callback(done)

    def _hear(self, talk: WatchTalk, watch: Watch) -> None:
        for notice in watch:
            self._upkeep.heard([notice])
            self._news.set()
            self._stirred.set()
        with self._lock:  # closed, or nothing left to watch
            self._watches.remove((talk, watch))

    def _tell(self) -> None:
        while not self._closed.is_set():
            self._news.wait()
            self._news.clear()
            self._upkeep.tell()
        self._upkeep.tell()

    def _renew_all(self) -> None:
        while not self._closed.is_set():
            self._renewals.wait()
            self._renewals.clear()
            for held in self._upkeep.due_renewals():
                self._renewing.acquire()
                self._start(functools.partial(self._renew_one, held))

    def _renew_one(self, held: Held) -> None:
        try:
            self._upkeep.renewed(held, self._renew(held.lease))
        finally:
            self._renewing.release()
