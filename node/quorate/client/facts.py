"""A lease as the ledger granted it, and when it ends on this machine's clock.

Owns the values. What comes of a renewal is worked out from the ledger's own times and from when the
request was sent, on the boot clock: the wall clock has no part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from quorate.v1 import lease_pb2

NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """A lease as the ledger granted it. It is no permit itself.

    fence: to be presented at every write; the resource refuses one lower than the highest it saw.
    expires_at_ms: in ledger time, for information: the node judges expiry.
    ttl_ms: the life that was wished for; 0: the longest that the grant allows.
    grant, trust_edge: what the lease relies on; no trust edge within one domain.
    passed_on: the edges that follow it, when the trust was passed on.
    parents: the leases that the work comes from.
    life_ms: for so long it was given when it was acquired; 0: the node does not say.
    until_ns: the boot clock at its end, or somewhat before, for whoever renews it: counted from
        when it was asked for, so that the wall clock has no part in it; 0: not known.
    """

    id: str
    executor: str
    action: str
    resource: str
    fence: int
    expires_at_ms: int
    grant: str
    trust_edge: str
    ttl_ms: int
    parents: tuple[str, ...]
    passed_on: tuple[str, ...] = field(default=(), kw_only=True)
    life_ms: int = field(default=0, kw_only=True)
    until_ns: int = field(default=0, kw_only=True, compare=False)

    def facts(self) -> dict[str, Any]:
        """By name, without what a subclass adds."""
        return {name: getattr(self, name) for name in LeaseFacts.__slots__}


def given_ms(granted: lease_pb2.Lease, wished_ms: int) -> int:
    """No more than was wished for: one that is there already may have been renewed since."""
    if granted.acquired_at_ms <= 0:
        return 0
    life_ms = max(0, granted.expires_at_ms - granted.acquired_at_ms)
    return min(life_ms, wished_ms or life_ms)


def is_same(renewed: LeaseFacts, lease: LeaseFacts) -> bool:
    """But for its end."""
    end = {name: getattr(lease, name) for name in ("expires_at_ms", "life_ms", "until_ns")}
    return renewed.facts() | end == lease.facts()


def with_end(lease: LeaseFacts, sent_ns: int, life_ms: int) -> LeaseFacts:
    """With its end: the ledger has given it so long, later than it was asked to. A grant that ends
    sooner is no matter: what it ends with cannot be renewed."""
    return replace(lease, until_ns=sent_ns + life_ms * NS_PER_MS if life_ms else 0)


def with_later_end(lease: LeaseFacts, renewed: LeaseFacts, sent_ns: int, ttl_ms: int) -> LeaseFacts:
    """With its end where something else was wished for this time: as much later as the ledger says,
    and no later than was wished for."""
    later_ms = renewed.expires_at_ms - lease.expires_at_ms
    ends = [lease.until_ns + later_ms * NS_PER_MS] if lease.until_ns else []
    ends += [sent_ns + ttl_ms * NS_PER_MS] if ttl_ms > 0 else []
    return replace(renewed, until_ns=min(ends, default=0))
