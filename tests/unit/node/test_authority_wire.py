"""The authority protocol on the wire: what goes in comes out, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.lease.authority import Ask, FederationTime, Grant
from quorate.lease.confirm import Confirm, ConfirmReply
from quorate.node.authority_wire import (
    AuthorityMessage,
    EnforcedReport,
    EnforcedWatermark,
    OpenAsk,
    OpenMember,
    OpenReply,
    decode,
    encode,
)
from quorate.v1 import peer_pb2 as pb

number = st.integers(0, 2**64 - 1)
time = st.integers(-(2**63), 2**63 - 1)
messages = st.one_of(
    st.builds(Ask, seq=number, applied_index=number, enforced_index=number),
    st.builds(
        Grant,
        seq=number,
        term=number,
        read_index=number,
        time=st.builds(FederationTime, time, time),
        period_ms=number,
    ),
    st.builds(Confirm, term=number, round=number),
    st.builds(ConfirmReply, term=number, round=number),
    st.builds(EnforcedReport, enforced_index=number),
    st.builds(EnforcedWatermark, enforced_index=number),
    st.builds(OpenAsk),
    st.builds(
        OpenReply,
        term=number,
        members=st.lists(st.builds(OpenMember, st.text(), number, number)).map(tuple),
    ),
)


@given(messages)
def test_a_message_survives_the_wire(message: AuthorityMessage):
    sent = encode(message).SerializeToString()
    assert decode(pb.PeerMessage.FromString(sent)) == message


@pytest.mark.parametrize(
    "message",
    [
        pb.PeerMessage(),
        pb.PeerMessage(vote_request=pb.VoteRequest(term=1)),
        pb.PeerMessage(append_reply=pb.AppendReply(term=1)),
        pb.PeerMessage(propose=pb.Propose(id=b"x")),
    ],
    ids=lambda message: message.WhichOneof("body") or "empty",
)
def test_other_kinds_are_left_to_others(message: pb.PeerMessage):
    assert decode(message) is None


def test_every_kind_on_the_wire_is_somebodys():
    """A kind that is added must be mapped here or by the consensus."""
    ours = {
        encode(message).WhichOneof("body")
        for message in (
            Ask(1, 1, 1),
            Grant(1, 1, 1, FederationTime(1, 1), 1),
            Confirm(1, 1),
            ConfirmReply(1, 1),
            EnforcedReport(1),
            EnforcedWatermark(1),
            OpenAsk(),
            OpenReply(1, ()),
        )
    }
    rafts = {"vote_request", "vote_reply", "append_request", "append_reply"}
    rafts |= {"propose", "propose_reply", "pre_vote_request", "pre_vote_reply", "timeout_now"}
    rafts |= {"snapshot_offer", "snapshot_pull", "snapshot_chunk"}
    assert {field.name for field in pb.PeerMessage.DESCRIPTOR.fields} == ours | rafts
