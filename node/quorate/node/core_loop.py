"""The core of a node: one loop that takes in messages, decides, makes durable, and only then says.

Owns the turn (take in, tick, commit, publish, send) and what the API services need from it
(`quorate.api.ports.Core`). Does not own Raft, authority or the ledger, which it drives, nor the
processes and sockets around it (`core_process`).

Storage that is full is treated as a crash that the process survives: the turn is void, authority is
given up, and consensus is built anew from the store when there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import secrets
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager
from typing import Final

import structlog

from quorate.api.ports import Level, MemberStatus, NodeStatus, Proposed
from quorate.consensus import PeerError, RaftSettings, Replica
from quorate.consensus.limits import MAX_INBOX_BYTES, MAX_INBOX_MESSAGES
from quorate.consensus.transport import Transport
from quorate.consensus.wire import decode as decode_raft
from quorate.consensus.wire import encode as encode_raft
from quorate.core import codec
from quorate.core.decision import active_executor, held_lease
from quorate.core.errors import StorageFullError
from quorate.core.limits import MAX_COMMAND_LIFETIME_MS
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.core.state import StateView
from quorate.core.transitions import examine
from quorate.lease.clock import Clock
from quorate.lease.word import AuthorityWord
from quorate.node.authority_keeper import AuthorityKeeper, AuthorityTerms
from quorate.node.authority_wire import decode as decode_authority
from quorate.node.authority_wire import encode as encode_authority
from quorate.node.ledger_clock import LedgerClock
from quorate.node.machine import LedgerMachine, proposal_key
from quorate.node.waiting import Bell, OutcomeWaiters, WatermarkWaiters
from quorate.proofs.checkpoint import Checkpoint
from quorate.proofs.commands import build_command
from quorate.proofs.note import sign_note
from quorate.proofs.signing import SigningKey
from quorate.storage import Environment, Snapshot
from quorate.v1 import peer_pb2 as pb

log = structlog.get_logger(__name__)

_NS_PER_S: Final = 1_000_000_000
_NS_PER_MS: Final = 1_000_000
_LEASE_COMMAND_LIFETIME_MS: Final = 60_000
"""How long a lease command may be on its way; the ledger remembers its nonce as long."""
_STORAGE_PROBE_S: Final = 0.5
_PROBE_BYTES: Final = 256 * 1024
_PROBE_NAME: Final = "probe"
_MAX_IDLE_S: Final = 1.0
assert _LEASE_COMMAND_LIFETIME_MS <= MAX_COMMAND_LIFETIME_MS


class CoreLoop:
    """One node's core; the transport's `Handler`, and the services' `Core`."""

    def __init__(
        self,
        *,
        node_id: str,
        peers: Iterable[str],
        settings: RaftSettings,
        environment: Environment,
        word: AuthorityWord,
        clock: Clock,
        boot_id: bytes,
        signing_key: SigningKey,
        log_key: SigningKey,
    ) -> None:
        self.node_id = node_id
        self._peers = sorted(peers)
        self._settings = settings
        self._environment = environment
        self._clock = clock
        self._signing_key = signing_key
        self._log_key = log_key
        self._transport: Transport | None = None
        self._machine = LedgerMachine(environment)
        self._ledger_clock = LedgerClock(clock, 1 + len(self._peers))
        self._inbox: list[tuple[str, pb.PeerMessage]] = []
        self._inbox_bytes = 0
        self._inbox_drained = Bell()
        self._links_up: set[str] = set()
        self._wake = asyncio.Event()
        self._grown = Bell()
        self._outcomes = OutcomeWaiters()
        self._watermarks = WatermarkWaiters()
        self._storage_problem = ""
        self._is_clock_near = True
        self._cached_checkpoint: tuple[int, str] = (-1, "")
        with environment.read() as snapshot:
            federation = StateView(snapshot.state).federation()
            self._origin = federation.origin
            self._parameters = federation.parameters
            self._ledger_clock.not_before(federation.ledger_time)
            self._ledger_size = snapshot.ledger_size
            self._durable_applied = snapshot.applied_index
        self._keeper = AuthorityKeeper(
            node_id=node_id,
            peers=self._peers,
            terms=AuthorityTerms(
                self._parameters.authority_period_ms,
                self._parameters.max_permit_ttl_ms,
                self._parameters.rho_ppm,
            ),
            clock=clock,
            boot_id=boot_id,
            word=word,
            ledger_time_ms=self._ledger_clock.now_ms,
        )
        self._replica = self._new_replica()

    def _new_replica(self) -> Replica:
        replica = Replica(
            node_id=self.node_id,
            peers=self._peers,
            settings=self._settings,
            store=self._environment,
            apply=self._machine.apply,
            stamp=self._stamp,
            clock=self._now_s,
            wall_clock_ms=lambda: self._clock.realtime_ns() // _NS_PER_MS,
            chance=random.Random(secrets.randbits(64)),  # noqa: S311 - election timeouts
            on_wall_clock=self._ledger_clock.heard,
            may_lead=self._may_lead,
        )
        for peer in sorted(self._links_up):
            replica.connected(peer)
        return replica

    def _stamp(self, envelope: bytes) -> bytes:
        return codec.stamp(self._ledger_clock.stamp_ms(), envelope)

    def _may_lead(self) -> bool:
        """A node whose wall clock is far off the federation's time leaves leading to others."""
        offset_ms = self._ledger_clock.own_offset_ms()
        is_near = abs(offset_ms) <= self._parameters.max_skew_ms
        if is_near != self._is_clock_near:
            self._is_clock_near = is_near
            told = log.info if is_near else log.error
            told("clock.near" if is_near else "clock.skewed", offset_ms=offset_ms)
        return is_near

    def _now_s(self) -> float:
        return self._clock.boottime_ns() / _NS_PER_S

    # -- the loop ----------------------------------------------------------------------------

    async def run(self, transport: Transport) -> None:
        """Runs until cancelled. Raises what must stop the node: a damaged store, a replica that
        contradicts itself, a fault of the program. In each case authority is given up first."""
        self._transport = transport
        try:
            while True:
                if self._storage_problem:
                    await asyncio.sleep(_STORAGE_PROBE_S)
                    self._probe_storage()
                    continue
                self._turn()
                await self._rest()
        finally:
            self._keeper.surrender(Reason.INQUORATE)
            self._outcomes.release_all()

    async def _rest(self) -> None:
        """Until there is something to do; always long enough for what else runs in this loop."""
        await asyncio.sleep(0)
        if self._inbox or self._replica.has_more or self._wake.is_set():
            self._wake.clear()
            return
        until = self._replica.next_timer()
        asking_ns = self._keeper.next_timer_ns(self._replica)
        if asking_ns is not None:
            until = min(until, asking_ns / _NS_PER_S)
        pause_s = min(_MAX_IDLE_S, until - self._now_s())
        if pause_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
        self._wake.clear()

    def _turn(self) -> None:
        """One turn: nothing that it decides is seen by anybody before it is durable."""
        try:
            self._take_in()
            self._replica.tick()
            enforced = self._environment.enforced_through()
            self._keeper.tick(self._replica, self._durable_applied, enforced)
            wrote = self._environment.commit()
        except StorageFullError as error:
            self._storage_failed(error)
            return
        if wrote:
            self._after_commit()
        authority = self._keeper.publish(self._durable_applied)
        if authority is not None and not self._replica.is_leader:
            self._ledger_clock.told(authority.ledger_time_ms, authority.asked_realtime_ns)
        self._watermarks.reached(self._keeper.watermark)
        self._send()

    def _take_in(self) -> None:
        arrived, self._inbox, self._inbox_bytes = self._inbox, [], 0
        for peer, message in arrived:
            try:
                self._deliver(peer, message)
            except PeerError as error:
                log.warning("peer.message_refused", peer=peer, problem=str(error))
        self._inbox_drained.ring()

    def _deliver(self, peer: str, message: pb.PeerMessage) -> None:
        authority = decode_authority(message)
        if authority is not None:
            self._keeper.receive(peer, authority, self._replica)
            return
        raft = decode_raft(message)
        if raft is None:
            raise PeerError("a message of no known kind")
        self._replica.receive(peer, raft)

    def _after_commit(self) -> None:
        if self._replica.applied_index > self._durable_applied:
            self._durable_applied = self._replica.applied_index
            self._ledger_clock.not_before(self._machine.latest_stamp_ms)
            self._wake.set()  # another turn tells the leader what this node now enforces
        executed = self._machine.take_outcomes()
        if not executed:
            return
        self._ledger_size = self._environment.turn.ledger_size
        for command in executed:
            self._replica.forget(command.key)
            self._outcomes.executed(command.key, command.outcome)
        self._grown.ring()

    def _send(self) -> None:
        assert self._transport is not None
        by_peer: dict[str, list[pb.PeerMessage]] = {}
        for peer, message in self._replica.take_outbox():
            by_peer.setdefault(peer, []).append(encode_raft(message))
        for peer, note in self._keeper.take_outbox():
            by_peer.setdefault(peer, []).append(encode_authority(note))
        for peer, messages in by_peer.items():
            self._transport.send(peer, messages)

    # -- storage that is full ----------------------------------------------------------------

    def _storage_failed(self, error: StorageFullError) -> None:
        log.error("storage.full", problem=str(error), hint=error.hint)
        self._storage_problem = f"{error} ({error.hint})"
        self._keeper.surrender(Reason.STORAGE_FULL)
        self._environment.abort()
        self._machine.forget()
        self._outcomes.release_all()
        self._replica = self._new_replica()

    def _probe_storage(self) -> None:
        """Tries a write that needs room; when it lasts, the node serves again. What came from
        peers meanwhile is dropped, as by a node that is down: they will say it again."""
        self._inbox, self._inbox_bytes = [], 0
        self._inbox_drained.ring()
        try:
            self._environment.turn.put_meta(_PROBE_NAME, bytes(_PROBE_BYTES))
            self._environment.commit()
            self._environment.turn.put_meta(_PROBE_NAME, b"")
            self._environment.commit()
        except StorageFullError:
            self._environment.abort()
            return
        log.info("storage.recovered")
        self._storage_problem = ""
        self._replica = self._new_replica()

    # -- the transport's handler -------------------------------------------------------------

    async def messages(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        """Takes in a peer's messages; while the loop is behind, the peer's stream waits."""
        await self._inbox_drained.wait_until(self._has_room)
        for message in messages:
            self._inbox.append((peer, message))
            self._inbox_bytes += message.ByteSize()
        self._wake.set()

    def _has_room(self) -> bool:
        return len(self._inbox) < MAX_INBOX_MESSAGES and self._inbox_bytes < MAX_INBOX_BYTES

    def connected(self, peer: str) -> None:
        self._links_up.add(peer)
        self._replica.connected(peer)
        self._keeper.connected(peer)
        self._wake.set()

    def disconnected(self, peer: str) -> None:
        self._links_up.discard(peer)
        self._replica.disconnected(peer)
        self._wake.set()

    # -- the services' core ------------------------------------------------------------------

    def read(self) -> AbstractContextManager[Snapshot]:
        return self._environment.read()

    async def propose(self, envelope: bytes, timeout_ms: int) -> Proposed:
        with self.read() as snapshot:
            view = StateView(snapshot.state)
            refusal = examine(view, envelope, self._ledger_clock.now_ms())
        if refusal is not None:
            return Proposed(refused=refusal.reason, problem=refusal.thing)
        return await self._propose(envelope, timeout_ms)

    async def _propose(self, envelope: bytes, timeout_ms: int) -> Proposed:
        if self._storage_problem:
            return Proposed(refused=Reason.STORAGE_FULL, problem=self._storage_problem)
        key = proposal_key(envelope)
        if not self._replica.propose(key, envelope):
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
            attempted = self._replica.forget(key) if alone else True
        if outcome is not None:
            return Proposed(outcome=outcome)
        if attempted or self._storage_problem:
            return Proposed(problem="no outcome in time; it may still be executed, once")
        return Proposed(refused=Reason.INQUORATE, problem="no leader could be reached")

    async def propose_lease(
        self, kind: str, body: dict[str, object], nonce: str, timeout_ms: int
    ) -> Proposed:
        refusal = self._unfit_wish(kind, str(body.get("executor")), body.get("lease"))
        if refusal is not None:
            return Proposed(refused=refusal.reason, problem=refusal.thing)
        envelope = build_command(
            origin=self._origin,
            issuer=self.node_id,
            command_type=kind,
            body=body,
            nonce=nonce,
            not_after=self._ledger_clock.now_ms() + _LEASE_COMMAND_LIFETIME_MS,
            key=self._signing_key,
        )
        return await self._propose(envelope, timeout_ms)

    def _unfit_wish(self, kind: str, executor: str, lease: object) -> Deny | None:
        """Why a wish need not be put to the ledger at all, on this node's own state: whoever holds
        a certificate, even one of long ago, could fill everybody's ledger with denials."""
        with self.read() as snapshot:
            view = StateView(snapshot.state)
            asker = active_executor(view, executor) if kind != "lease.release" else None
            held = held_lease(view, str(lease), executor) if lease is not None else None
        return next((found for found in (asker, held) if isinstance(found, Deny)), None)

    async def wait_for(self, ledger_index: int, level: Level, timeout_ms: int) -> Level:
        reached = Level.NONE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._grown.wait_until(
                    functools.partial(self._has_grown_beyond, ledger_index)
                )
                reached = Level.COMMITTED
                if level <= reached:
                    return reached
                # The state that is applied by now holds the entry; waiting for all of it is the
                # safe side of knowing exactly which index made it.
                await self._wait_enforced(self._durable_applied)
                reached = Level.ENFORCED
                if level <= reached:
                    return reached
                await asyncio.sleep(self._drain_s())
                reached = Level.DRAINED
        return reached

    async def _wait_enforced(self, index: int) -> None:
        if self._keeper.watermark < index:
            await self._watermarks.add(index)

    def _drain_s(self) -> float:
        """How long a permit decided before may yet be held: its executor counts on another clock,
        from before the decision."""
        parameters = self._parameters
        return parameters.max_permit_ttl_ms / 1000 * (1 + 2 * parameters.rho_ppm / 1_000_000)

    def status(self) -> NodeStatus:
        remaining_ms = 0 if self._storage_problem else self._keeper.remaining_ms()
        reason = Reason.STORAGE_FULL if self._storage_problem else Reason.INQUORATE
        return NodeStatus(
            node_id=self.node_id,
            origin=self._origin,
            role=self._replica.role,
            leader=self._replica.leader or "",
            term=self._replica.term,
            commit_index=self._replica.commit_index,
            applied_index=self._durable_applied,
            authority_remaining_ms=remaining_ms,
            authority_reason=None if remaining_ms else reason,
            storage_problem=self._storage_problem,
            clock_offset_ms=self._ledger_clock.own_offset_ms(),
            durable_turns=self._environment.commits,
            members=tuple(self._member_statuses()),
        )

    def _member_statuses(self) -> Iterable[MemberStatus]:
        with self.read() as snapshot:
            nodes = StateView(snapshot.state).nodes()
        leads = self._replica.is_leader
        for node in nodes:
            mine = node.id == self.node_id
            match = self._replica.commit_index if mine else self._replica.match_index(node.id)
            yield MemberStatus(
                node_id=node.id,
                domain=node.domain,
                peer_address=node.peer_address,
                connected=mine or node.id in self._links_up,
                match_index=match if leads else 0,
                enforced_index=self._keeper.enforced_by(node.id) if leads else 0,
            )

    def checkpoint(self) -> str:
        with self.read() as snapshot:
            size = snapshot.ledger_size
            if size != self._cached_checkpoint[0]:
                body = Checkpoint(self._origin, size, snapshot.root()).body()
                self._cached_checkpoint = (size, sign_note(body, self._origin, self._log_key))
        return self._cached_checkpoint[1]

    async def follow(self) -> AsyncIterator[int]:
        seen = -1
        while True:
            await self._grown.wait_until(functools.partial(self._has_grown_beyond, seen))
            seen = self._ledger_size
            yield seen

    def _has_grown_beyond(self, size: int) -> bool:
        return self._ledger_size > size
