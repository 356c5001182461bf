"""The authority protocol as protobuf, and back. Owns nothing but the mapping; see `quorate.lease`
for what the messages mean, `quorate.consensus.wire` for the other kinds of PeerMessage."""

from __future__ import annotations

from dataclasses import dataclass

from quorate.lease.authority import Ask, FederationTime, Grant
from quorate.lease.confirm import Confirm, ConfirmReply
from quorate.v1 import peer_pb2 as pb


@dataclass(frozen=True, slots=True)
class EnforcedReport:
    """No reader of the sending node uses a state older than the one Raft index, and no executor a
    permit that it decided before the other."""

    enforced_index: int
    drained_index: int = 0


@dataclass(frozen=True, slots=True)
class EnforcedWatermark:
    """The same, of every node of the federation."""

    enforced_index: int
    drained_index: int = 0


@dataclass(frozen=True, slots=True)
class OpenAsk:
    """Somebody waits at the sender: which members hold changes up?"""


@dataclass(frozen=True, slots=True)
class OpenMember:
    """Up to where a member is, as the leader counts it: who has lapsed holds nothing up."""

    node_id: str
    enforced_index: int
    drained_index: int


@dataclass(frozen=True, slots=True)
class OpenReply:
    """Those that hold something up, says the leader of `term`."""

    term: int
    members: tuple[OpenMember, ...]


AuthorityMessage = (
    Ask | Grant | Confirm | ConfirmReply | EnforcedReport | EnforcedWatermark | OpenAsk | OpenReply
)


def encode(message: AuthorityMessage) -> pb.PeerMessage:
    """The protobuf form of one message."""
    match message:
        case Ask():
            return pb.PeerMessage(
                authority_ask=pb.AuthorityAsk(
                    seq=message.seq,
                    applied_index=message.applied_index,
                    enforced_index=message.enforced_index,
                    drained_index=message.drained_index,
                )
            )
        case Grant():
            return pb.PeerMessage(
                authority_grant=pb.AuthorityGrant(
                    seq=message.seq,
                    term=message.term,
                    read_index=message.read_index,
                    ledger_time_ms=message.time.ledger_ms,
                    clocks_ms=message.time.clocks_ms,
                    period_ms=message.period_ms,
                )
            )
        case Confirm():
            return pb.PeerMessage(confirm=pb.Confirm(term=message.term, round=message.round))
        case ConfirmReply():
            return pb.PeerMessage(
                confirm_reply=pb.ConfirmReply(term=message.term, round=message.round)
            )
        case EnforcedReport():
            return pb.PeerMessage(
                enforced_report=pb.EnforcedReport(
                    enforced_index=message.enforced_index, drained_index=message.drained_index
                )
            )
        case EnforcedWatermark():
            return pb.PeerMessage(
                enforced_watermark=pb.EnforcedWatermark(
                    enforced_index=message.enforced_index, drained_index=message.drained_index
                )
            )
        case OpenAsk():
            return pb.PeerMessage(open_ask=pb.OpenAsk())
        case OpenReply():
            members = [
                pb.OpenMember(
                    node_id=each.node_id,
                    enforced_index=each.enforced_index,
                    drained_index=each.drained_index,
                )
                for each in message.members
            ]
            return pb.PeerMessage(open_reply=pb.OpenReply(term=message.term, members=members))


def decode(message: pb.PeerMessage) -> AuthorityMessage | None:
    """The message, or None for a kind that is not the authority protocol's."""
    match message.WhichOneof("body"):
        case "authority_ask":
            ask = message.authority_ask
            return Ask(ask.seq, ask.applied_index, ask.enforced_index, ask.drained_index)
        case "authority_grant":
            grant = message.authority_grant
            time = FederationTime(grant.ledger_time_ms, grant.clocks_ms)
            return Grant(grant.seq, grant.term, grant.read_index, time, grant.period_ms)
        case "confirm":
            return Confirm(message.confirm.term, message.confirm.round)
        case "confirm_reply":
            return ConfirmReply(message.confirm_reply.term, message.confirm_reply.round)
        case "enforced_report":
            report = message.enforced_report
            return EnforcedReport(report.enforced_index, report.drained_index)
        case "enforced_watermark":
            watermark = message.enforced_watermark
            return EnforcedWatermark(watermark.enforced_index, watermark.drained_index)
        case "open_ask":
            return OpenAsk()
        case "open_reply":
            members = (
                OpenMember(each.node_id, each.enforced_index, each.drained_index)
                for each in message.open_reply.members
            )
            return OpenReply(message.open_reply.term, tuple(members))
        case _:
            return None
