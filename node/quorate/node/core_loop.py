"""The shell around a node's core: the event loop, sockets, timers, and the callers who wait.

Owns when a turn is taken, and what the API services need from the core (`quorate.api.ports.Core`).
What happens in a turn is `node_core`'s; processes and sockets are `core_process`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import structlog

from quorate.api.ports import (
    Denied,
    Level,
    MemberStatus,
    NodeStatus,
    Progress,
    Proposed,
    Reach,
    Reported,
)
from quorate.consensus import PeerError, RaftSettings
from quorate.consensus.transport import Transport
from quorate.core.leasing import broken_parent
from quorate.core.lineage import Denials, Event, EventType
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.core.state import StateView
from quorate.core.transitions import examine
from quorate.lease.clock import Clock
from quorate.lease.word import AuthorityWord
from quorate.node.authority_keeper import FIRST_SEQ_BITS
from quorate.node.lease_commands import parents_of, unfit_wish
from quorate.node.machine import proposal_key
from quorate.node.node_core import STORAGE_PROBE_S, NodeCore
from quorate.node.reaching import Reaching
from quorate.node.waiting import Bell, OutcomeWaiters, WatermarkWaiters
from quorate.proofs.signing import SigningKey
from quorate.storage import Environment, Snapshot
from quorate.telemetry import Metrics
from quorate.v1 import peer_pb2 as pb

log = structlog.get_logger(__name__)

_NS_PER_MS: Final = 1_000_000
HAND_OVER_S: Final = 3.0
"""A stop waits no longer for another leader, however long elections take: the supervisor waits too.
"""
_MAX_IDLE_S: Final = 1.0
_PARENTS_S: Final = 1.0
"""How long a lease that is named as a parent, and not known here, is waited for."""
_PASSES: Final = 16
"""Of the event loop between two turns. A call takes many to come in and to be answered; with one
pass, it would wait for as many turns, each with its fsync."""


class CoreLoop:
    """One node's shell: the transport's `Handler`, the core's `Observer`, the services' `Core`."""

    def __init__(
        self,
        *,
        node_id: str,
        settings: RaftSettings,
        environment: Environment,
        word: AuthorityWord,
        clock: Clock,
        boot_id: bytes,
        signing_key: SigningKey,
        log_key: SigningKey,
        edges: int,
        metrics: Metrics,
        is_newcomer: Callable[[], bool] = lambda: False,
    ) -> None:
        self.node_id = node_id
        self._metrics = metrics
        self._environment = environment
        self._election_min_s = settings.election_min_s
        self._transport: Transport | None = None
        self._members_changed: Callable[[], None] = lambda: None
        self._turned = Bell()
        self._wake = asyncio.Event()
        self._outcomes = OutcomeWaiters()
        self._kept = WatermarkWaiters()
        self._kept_through = 0
        self._core = NodeCore(
            node_id=node_id,
            settings=settings,
            environment=environment,
            word=word,
            clock=clock,
            boot_id=boot_id,
            chance=random.Random(secrets.randbits(64)),  # noqa: S311 - election timeouts
            first_seq=secrets.randbits(FIRST_SEQ_BITS),
            signing_key=signing_key,
            log_key=log_key,
            observer=self,
            edges=edges,
            is_newcomer=is_newcomer,
        )
        self._reaching = Reaching(self._core, clock, self._wake.set)

    # -- the loop ----------------------------------------------------------------------------

    async def run(self, transport: Transport, members_changed: Callable[[], None]) -> None:
        """Runs until cancelled. Raises what must stop the node: a damaged store, a replica that
        contradicts itself, a fault of the program. In each case authority is given up first.

        members_changed: is called when the nodes or domains of the state, or the configuration in
        force, may be others than before.
        """
        self._transport, self._members_changed = transport, members_changed
        configuration = None
        try:
            while True:
                if self._core.storage_problem:
                    await asyncio.sleep(STORAGE_PROBE_S)
                    self._core.probe_storage()
                    self._turned.ring()
                    continue
                self._core.turn()
                if configuration is not self._core.replica.configuration:
                    configuration = self._core.replica.configuration
                    self.members_changed()
                self._turned.ring()
                self._send()
                await self._rest()
        finally:
            self._core.surrender(Reason.INQUORATE)

    async def _rest(self) -> None:
        """Until there is something to do; always long enough for what else runs in this loop."""
        for _ in range(_PASSES):
            await asyncio.sleep(0)
        self._wake.clear()
        if self._core.has_more:
            return
        pause_s = min(_MAX_IDLE_S, self._core.next_due_s() - self._core.now_s())
        if pause_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    def _send(self) -> None:
        assert self._transport is not None
        by_peer: dict[str, list[pb.PeerMessage]] = {}
        for peer, message in self._core.take_outbox():
            by_peer.setdefault(peer, []).append(message)
        for peer, messages in by_peer.items():
            self._transport.send(peer, messages)

    def members(self) -> tuple[str, ...]:
        """The voters and learners of the configuration in force."""
        return self._core.replica.members

    async def hand_over(self) -> None:
        """Before a planned stop: if this node leads, lets another lead. Returns when that is heard,
        and after the shortest election timeout at the latest, or HAND_OVER_S: then nobody could
        take over in time. Call it while the loop runs."""
        if self._core.storage_problem or not self._core.hand_over():
            return
        self._wake.set()
        try:
            async with asyncio.timeout(min(self._election_min_s, HAND_OVER_S)):
                await self._turned.wait_until(self._hears_another_leader)
        except TimeoutError:
            log.warning("leadership.not_handed_over")
        else:
            replica = self._core.replica
            log.info("leadership.handed_over", leader=replica.leader, term=replica.term)

    def _hears_another_leader(self) -> bool:
        return self._core.replica.leader not in (None, self.node_id)

    # -- the core's observer -----------------------------------------------------------------

    def executed(self, key: bytes, outcome: Outcome) -> None:
        self._outcomes.executed(key, outcome)

    def grown(self) -> None:
        self._reaching.grown()

    def enforced(self, watermark: int, drained: int) -> None:
        self._reaching.reached(watermark, drained)

    def round_confirmed(self, took_ns: int) -> None:
        self._metrics.round_confirmed(took_ns / _NS_PER_MS)

    def kept(self, ticket: int) -> None:
        self._kept_through = ticket
        self._kept.reached(ticket)

    def released(self) -> None:
        self._outcomes.release_all()
        self._kept.release_all()

    def members_changed(self) -> None:
        self._members_changed()

    @staticmethod
    def refused(peer: str, error: PeerError) -> None:
        log.warning("peer.message_refused", peer=peer, problem=str(error))

    # -- the transport's handler -------------------------------------------------------------

    async def messages(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        """Takes in a peer's messages; while the loop is behind, the peer's stream waits."""
        await self._turned.wait_until(lambda: self._core.has_room)
        for message in messages:
            self._core.deliver(peer, message)
        self._wake.set()

    def connected(self, peer: str) -> None:
        self._core.connected(peer)
        self._wake.set()

    def disconnected(self, peer: str) -> None:
        self._core.disconnected(peer)
        self._wake.set()

    # -- the services' core ------------------------------------------------------------------

    def read(self) -> AbstractContextManager[Snapshot]:
        return self._environment.read()

    async def propose(self, envelope: bytes, timeout_ms: int) -> Proposed:
        with self.read() as snapshot:
            view = StateView(snapshot.state)
            refusal = examine(view, envelope, self._core.ledger_clock.now_ms())
        if refusal is not None:
            return Proposed(refused=refusal.reason, problem=refusal.thing)
        return await self._propose(envelope, timeout_ms)

    async def _propose(self, envelope: bytes, timeout_ms: int) -> Proposed:
        if self._core.storage_problem:
            return Proposed(refused=Reason.STORAGE_FULL, problem=self._core.storage_problem)
        key = proposal_key(envelope)
        if not self._core.propose(key, envelope):
            return Proposed(refused=Reason.INQUORATE, problem="too many proposals wait already")
        future = self._outcomes.add(key)
        self._wake.set()
        outcome: Outcome | None = None
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_ms / 1000):
                    outcome = await future
        finally:
            alone = self._outcomes.remove(key, future)
            attempted = self._core.forget(key) if alone else True
        if outcome is not None:
            return Proposed(outcome=outcome)
        if attempted or self._core.storage_problem:
            return Proposed(problem="no outcome in time; it may still be executed, once")
        return Proposed(refused=Reason.INQUORATE, problem="no leader could be reached")

    async def propose_lease(
        self, kind: str, body: dict[str, object], nonce: str, timeout_ms: int
    ) -> Proposed:
        parents = parents_of(body)
        with self.read() as snapshot:
            refusal = unfit_wish(
                StateView(snapshot.state), kind, body, self._core.ledger_clock.now_ms()
            )
        if refusal is None and parents:
            timeout_ms -= await self._until_known(parents, timeout_ms)
            with self.read() as snapshot:
                view = StateView(snapshot.state)
                refusal = broken_parent(view, parents, view.ledger_time())
        if refusal is not None:
            return Proposed(refused=refusal.reason, thing=refusal.thing, problem=refusal.thing)
        now_ms = self._core.ledger_clock.now_ms()
        envelope = self._core.commands.build(kind, body, nonce, now_ms)
        return await self._propose(envelope, timeout_ms)

    async def _until_known(self, leases: Sequence[str], timeout_ms: int) -> int:
        """Waits, not long, until the state has these leases: they were acquired at another node,
        perhaps, a moment ago. Returns how many milliseconds that took."""

        def are_known() -> bool:
            with self.read() as snapshot:
                return all(map(StateView(snapshot.state).lease, leases))

        if are_known():
            return 0
        began_s = self._core.now_s()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_PARENTS_S, timeout_ms / 2_000)):
                await self._reaching.until(are_known)
        return int((self._core.now_s() - began_s) * 1000)

    async def report(
        self,
        executor: str,
        lease_id: str,
        events: Sequence[tuple[EventType, Mapping[str, str]]],
        after: str | None,
    ) -> Reported | Deny:
        if self._core.storage_problem:
            return Deny(Reason.STORAGE_FULL)
        at = self._core.ledger_clock.now_ms()
        told = [Event(lease_id, executor, kind, attributes, at) for kind, attributes in events]
        taken = self._core.outbox.report(told, after)
        if isinstance(taken, Deny):
            return taken
        if not await self._until_kept(taken.ticket):
            full = self._core.storage_problem
            return Deny(Reason.STORAGE_FULL if full else Reason.INTERNAL)
        return Reported(taken.head, taken.stage)

    async def report_denials(self, denials: Sequence[Denied]) -> bool:
        if self._core.storage_problem:
            return False
        at = self._core.ledger_clock.now_ms()
        told = [
            Denials(
                each.executor,
                each.method,
                each.lease_id,
                each.reason,
                self._core.ledger_size,
                at,
                at,
                each.count,
            )
            for each in denials
        ]
        return await self._until_kept(self._core.outbox.deny(told))

    async def _until_kept(self, ticket: int) -> bool:
        """Whether what the outbox took in is durable now."""
        if ticket <= self._kept_through:
            return True
        future = self._kept.add(ticket)
        self._wake.set()
        return await future

    async def wait_for(self, ledger_index: int, level: Level, timeout_ms: int) -> Reach:
        return await self._reaching.wait_for(ledger_index, level, timeout_ms)

    def progress(
        self, ledger_index: int, level: Level, timeout_ms: int
    ) -> AsyncGenerator[Progress, None]:
        return self._reaching.progress(ledger_index, level, timeout_ms)

    @property
    def outbox_records(self) -> int:
        """How many records wait for the ledger."""
        return self._core.outbox.waiting

    @property
    def clock_offset_ms(self) -> int:
        """How far this node's wall clock is ahead of the federation's time, as far as it knows."""
        return self._core.ledger_clock.own_offset_ms()

    def status(self) -> NodeStatus:
        core, replica = self._core, self._core.replica
        remaining_ms = 0 if core.storage_problem else core.keeper.remaining_ms()
        reason = Reason.STORAGE_FULL if core.storage_problem else Reason.INQUORATE
        return NodeStatus(
            node_id=self.node_id,
            origin=core.origin,
            role=replica.role,
            leader=replica.leader or "",
            term=replica.term,
            commit_index=replica.commit_index,
            applied_index=core.durable_applied,
            authority_remaining_ms=remaining_ms,
            authority_reason=None if remaining_ms else reason,
            storage_problem=core.storage_problem,
            clock_offset_ms=self.clock_offset_ms,
            durable_turns=self._environment.commits,
            probation=core.is_on_probation,
            outbox_records=self.outbox_records,
            ledger_time_ms=core.ledger_clock.now_ms(),
            members=tuple(self._member_statuses()),
        )

    def _member_statuses(self) -> Iterable[MemberStatus]:
        replica, keeper = self._core.replica, self._core.keeper
        leads = replica.is_leader
        for node in self._core.nodes.values():
            raft_role = replica.configuration.role_of(node.id)
            if node.retired and not raft_role:
                continue  # long gone: only its name is kept
            mine = node.id == self.node_id
            match = replica.commit_index if mine else replica.match_index(node.id)
            yield MemberStatus(
                node_id=node.id,
                domain=node.domain,
                peer_address=node.peer_address,
                connected=mine or node.id in self._core.links_up,
                match_index=match if leads else 0,
                enforced_index=keeper.enforced_by(node.id) if leads else 0,
                role=node.role,
                status=node.status,
                raft_role=raft_role,
                protocol=node.protocol,
            )

    def checkpoint(self) -> str:
        return self._core.checkpoint()

    async def follow(self) -> AsyncGenerator[int, None]:
        seen = -1
        while True:
            await self._reaching.until_beyond(seen)
            seen = self._core.ledger_size
            yield seen

    @property
    def edges(self) -> int:
        return self._core.edges.slots

    def edge_drained(self, slot: int, index: int) -> None:
        self._core.edge_drained(slot, index)
        if self._core.has_more:
            self._wake.set()
