"""NodeService: what a node says of itself.

Owns the wire's form of it. Nothing here is authority: a permit never follows from a status.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from quorate.api import convert
from quorate.api.access import Access
from quorate.api.freshness import until_held
from quorate.api.ports import Core
from quorate.core import protocol
from quorate.core.state import StateView
from quorate.v1 import node_pb2, node_pb2_grpc

_VERSION: Final = version("quorate")
_ROLE_TO_WIRE: Final = {
    "follower": node_pb2.ROLE_FOLLOWER,
    "candidate": node_pb2.ROLE_CANDIDATE,
    "leader": node_pb2.ROLE_LEADER,
}


class NodeService(node_pb2_grpc.NodeServiceServicer):
    """Served by the core process to the node's own domain."""

    def __init__(
        self, core: Core, access: Access, certificate_end_ms: Callable[[], int] = lambda: 0
    ) -> None:
        """certificate_end_ms: until when the node's certificate of now is valid; 0: not known."""
        self._core = core
        self._access = access
        self._certificate_end_ms = certificate_end_ms

    async def GetStatus(  # noqa: N802 - the contract's names, here and below
        self, request: node_pb2.GetStatusRequest, context: Any
    ) -> node_pb2.GetStatusResponse:
        self._access.member(context)
        await until_held(self._core, request.minimum_index, context)
        with self._core.read() as snapshot:
            position = convert.position(snapshot)
            root = snapshot.root()
            federation = StateView(snapshot.state).federation()
        status, frozen = self._core.status(), federation.frozen
        return node_pb2.GetStatusResponse(
            node_id=status.node_id,
            origin=status.origin,
            version=_VERSION,
            role=_ROLE_TO_WIRE[status.role],
            leader=status.leader,
            term=status.term,
            commit_index=status.commit_index,
            applied_index=status.applied_index,
            position=position,
            root=root,
            has_authority=status.authority_remaining_ms > 0,
            authority_remaining_ms=max(0, status.authority_remaining_ms),
            authority_reason=convert.reason_to_wire(status.authority_reason),
            writable=not status.storage_problem,
            storage_problem=status.storage_problem,
            clock_offset_ms=status.clock_offset_ms,
            durable_turns=status.durable_turns,
            probation=status.probation,
            outbox_records=status.outbox_records,
            protocol=federation.protocol,
            latest_protocol=protocol.LATEST,
            frozen=None if frozen is None else node_pb2.Frozen(actions=frozen.actions),
            certificate_not_after_ms=self._certificate_end_ms(),
        )

    async def ListMembers(  # noqa: N802
        self, request: node_pb2.ListMembersRequest, context: Any
    ) -> node_pb2.ListMembersResponse:
        self._access.member(context)
        await until_held(self._core, request.minimum_index, context)
        with self._core.read() as snapshot:
            position = convert.position(snapshot)
        return node_pb2.ListMembersResponse(
            position=position,
            members=[convert.member_to_wire(member) for member in self._core.status().members],
        )
