"""One message of each kind: what nodes say to each other, and to those who ask them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.harness import SEPARATOR
from tests.fuzz.targets.ledger import lived
from tests.fuzz.targets.wire import PEER
from tests.unit.core.conftest import BANK, NODE

from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    PreVoteReply,
    PreVoteRequest,
    Propose,
    ProposeReply,
    Refusal,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from quorate.consensus.peers import PROTOCOL_VERSION
from quorate.consensus.wire import encode as encode_raft
from quorate.lease.authority import Ask, FederationTime, Grant
from quorate.lease.confirm import Confirm, ConfirmReply
from quorate.node import authority_wire as authority
from quorate.v1 import decision_pb2, explain_pb2, lease_pb2, peer_pb2


def messages() -> Iterator[bytes]:
    """One of each kind that nodes send each other."""
    configuration = Configuration((NODE, PEER)).encode()
    entries = (Entry(8, 3, b"\x00x"), Entry(9, 3, b"\x02" + configuration))
    pairs = tuple(lived().store.items()[:3])
    for message in (
        AppendRequest(3, 7, 2, 6, entries),
        AppendReply(3, 3, True, 9, 0, 7, 1_700_000_000_000, "a" * 32, True),
        PreVoteRequest(3, 9, 3),
        PreVoteReply(3, True, 3),
        TimeoutNow(3),
        VoteRequest(4, 9, 3, True),
        VoteReply(4, True, 4),
        Propose(b"k" * 32, b"payload"),
        ProposeReply(b"k" * 32, Refusal(1)),
        SnapshotOffer(3, 9, 3, configuration, 8, "note", 20, b"d" * 16),
        SnapshotPull(3, 9, False, b"D", 0),
        SnapshotChunk(3, 9, False, b"", 0, pairs, (), False),
        SnapshotChunk(3, 9, True, b"", 4, (), (b"entry",), True),
    ):
        yield encode_raft(message).SerializeToString()
    for said in (
        Ask(1, 9, 8, 7),
        Grant(1, 3, 9, FederationTime(1_700_000_000_000, 1_700_000_000_001), 2_000),
        Confirm(3, 5),
        ConfirmReply(3, 5),
        authority.EnforcedReport(9, 8),
        authority.EnforcedWatermark(9, 8),
        authority.OpenAsk(),
        authority.OpenReply(3, (authority.OpenMember(PEER, 9, 8),)),
    ):
        yield authority.encode(said).SerializeToString()


def stream() -> bytes:
    hello = peer_pb2.PeerHello(
        sender=PEER,
        receiver=NODE,
        genesis_hash=bytes(32),
        protocol_version=PROTOCOL_VERSION,
        address="127.0.0.1:7411",
    )
    frames = [peer_pb2.ExchangeRequest(hello=hello)]
    for number, message in enumerate(list(messages())[2:5], 1):
        frames.append(
            peer_pb2.ExchangeRequest(
                frame=number, messages=[peer_pb2.PeerMessage.FromString(message)]
            )
        )
    return SEPARATOR.join(frame.SerializeToString() for frame in frames)


def requests() -> Iterator[bytes]:
    """In the order in which `tests.fuzz.targets.wire` has them."""
    agent, lease = lived().agent, "0" * 32
    act = explain_pb2.ExplainedAct(action="read", resource=f"//{BANK}/accounts/7", parents=[lease])
    made = (
        lease_pb2.AcquireRequest(action="read", resource=f"//{BANK}/a", request_id="1", ttl_ms=5),
        lease_pb2.RenewRequest(lease_id=lease, request_id="1", ttl_ms=5),
        lease_pb2.ReleaseRequest(lease_id=lease, request_id="1"),
        lease_pb2.CheckRequest(lease_id=lease, action="read", session="s" * 16),
        lease_pb2.CheckBatchRequest(checks=[lease_pb2.CheckRequest(lease_id=lease)]),
        lease_pb2.DelegateRequest(
            grant=f"{BANK}/grant",
            to=agent,
            actions=["read"],
            resources=[f"//{BANK}/*"],
            max_lease_ttl_ms=5,
            conditions=[lease_pb2.Condition(name="ticket", values=["OPS-*", "SEC-1"])],
        ),
        lease_pb2.RecallRequest(grant=f"{BANK}/grant", request_id="1"),
        lease_pb2.ReportRequest(
            lease_id=lease, events=[lease_pb2.Event(type="started", attributes={"a": "b"})]
        ),
        lease_pb2.WatchRequest(lease_ids=[lease], session="s" * 16, after_size=3),
        lease_pb2.WatchRequest(
            forget_lease_ids=[lease],
            acknowledgements=[lease_pb2.Acknowledgement(lease_id=lease, size=3)],
        ),
        explain_pb2.ExplainRequest(executor=agent, act=act),
    )
    for number, request in enumerate(made):
        yield bytes([number]) + request.SerializeToString()
    held = explain_pb2.ExplainedLease(lease_id=next(iter(lived().view.leases())).id)
    yield b"\x0a" + explain_pb2.ExplainRequest(lease=held).SerializeToString()


def answers() -> Iterator[tuple[str, bytes]]:
    position = decision_pb2.LedgerPosition(size=9, ledger_time_ms=1_700_000_000_000)
    permit = lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_PERMIT, ttl_ms=500, fence=7, position=position
    )
    denial = lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_INQUORATE
    )
    for check in (permit, denial, lease_pb2.CheckBatchResponse(results=[permit])):
        yield "answered_check", check.SerializeToString()
    outcome = decision_pb2.Outcome(accepted=True, ledger_index=4, command_id="0" * 64, result="{}")
    yield "outcome", outcome.SerializeToString()
    lease = lease_pb2.Lease(id="0" * 32, executor=f"spiffe://{BANK}/agent/payments", fence=7)
    for number, kind in enumerate(
        (lease_pb2.AcquireResponse, lease_pb2.RenewResponse, lease_pb2.ReleaseResponse)
    ):
        answer = kind(verdict=decision_pb2.VERDICT_PERMIT, outcome=outcome)
        if not isinstance(answer, lease_pb2.ReleaseResponse):
            answer.lease.CopyFrom(lease)
        yield "answered_command", bytes([number]) + answer.SerializeToString()
    for event in lease_pb2.WatchEvent.values():
        notice = lease_pb2.WatchResponse(lease_id="0" * 32, event=event, position=position)
        yield "watched", notice.SerializeToString()
