"""What can go wrong in consensus, beyond storage."""

from __future__ import annotations

from quorate.core.errors import QuorateError


class PeerError(QuorateError):
    """A peer sent what no correct peer sends. The message is dropped, the peer is named."""


class SafetyViolationError(QuorateError):
    """This replica contradicts itself: its term would go back, its state is ahead of its log. The
    node must stop; carrying on could lose what was promised."""

    hint = (
        "stop the node and keep its data directory and logs as evidence; a voter that starts from "
        "an empty or an older directory can break what it has promised"
    )
