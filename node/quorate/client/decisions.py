"""What a gate answers: values, never exceptions.

Owns the client's own reasons to deny and the values `Permit`, `Denied`, `Reported` and `Released`.
A `Denied` is false, so that `if gate.check(lease):` cannot go wrong; `DeniedError` is for
`require()`, where going on would be worse than stopping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from quorate.client.clock import Reading
from quorate.core.errors import QuorateError
from quorate.core.outcome import Reason

_NS_PER_MS: Final = 1_000_000


class ClientReason(StrEnum):
    """Why the client denied without, or in spite of, an answer from the node."""

    UNREACHABLE = "UNREACHABLE"  # no connection to the node, or it broke
    LATE = "LATE"  # no answer within the call's deadline
    EXPIRED_ON_ARRIVAL = "EXPIRED_ON_ARRIVAL"  # a permit whose life was over when it came
    CLOCK_STEP = "CLOCK_STEP"  # this machine's clocks jumped while the permit was held or fetched
    MALFORMED_ANSWER = "MALFORMED_ANSWER"  # an answer that contradicts the request or itself
    UNSPECIFIED_VERDICT = "UNSPECIFIED_VERDICT"  # neither permit nor deny: a fault, or a newer node
    UNKNOWN_REASON = "UNKNOWN_REASON"  # denied by the node, for a reason this client does not know
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"  # the node does not know what the ledger decided
    INTERRUPTED = "INTERRUPTED"  # the lease was interrupted while the answer was on its way
    MISSED = "MISSED"  # the watch broke, and the node cannot tell any more what happened meanwhile
    NOT_ACCEPTED = "NOT_ACCEPTED"  # the node does not accept this executor's certificate
    INVALID_REQUEST = "INVALID_REQUEST"  # the node found the request malformed
    NODE_FAILED = "NODE_FAILED"  # the node answered with an error of its own
    CLOSED = "CLOSED"  # the gate was closed
    POOL_FULL = "POOL_FULL"  # as many leases as a pool may have are in use
    NO_RULE = "NO_RULE"  # no rule of the service says under which lease this may be done
    CLIENT_FAILED = "CLIENT_FAILED"  # a fault of this library: it keeps the lease no more


AnyReason = Reason | ClientReason


@dataclass(frozen=True, slots=True)
class Denied:
    """The act may not go ahead.

    thing: what the reason is about, as an id; empty when there is nothing to name.
    detail: for people; never to be parsed.
    unknown: true when the request may have been executed nevertheless. Asking again with the same
        `request_id` settles it, and cannot execute it twice.
    ledger_size: of the ledger that it is true at, as far as the node said that; else 0.
    """

    reason: AnyReason
    thing: str = ""
    detail: str = ""
    unknown: bool = False
    request_id: str = ""
    ledger_size: int = 0

    def __bool__(self) -> Literal[False]:
        return False

    def __str__(self) -> str:
        parts = [str(self.reason)]
        if self.thing:
            parts.append(f"({self.thing})")
        if self.detail:
            parts.append(f"- {self.detail}")
        return " ".join(parts)


class DeniedError(QuorateError):
    """An act under a lease was denied; `denied` says why."""

    hint = "stop the work; ask for the lease again when the reason no longer holds"

    def __init__(self, denied: Denied) -> None:
        super().__init__(f"denied: {denied}")
        self.denied = denied

    @property
    def reason(self) -> AnyReason:
        return self.denied.reason


@dataclass(frozen=True, slots=True)
class Permit:
    """The act may go ahead, until `expires_at_ns` on this machine's boot clock.

    sent: the clocks when the request for it was *sent*: its life is counted from there, so that an
        answer that was delayed or paused on the way is no longer good when it arrives.
    ledger_size, ledger_time_ms: the state that the node decided on.
    """

    lease_id: str
    fence: int
    sent: Reading
    expires_at_ns: int
    ledger_size: int
    ledger_time_ms: int

    def remaining_ms(self, now: Reading) -> float:
        """How long it is still good for; never negative."""
        return max(0, self.expires_at_ns - now.boottime_ns) / _NS_PER_MS

    def holds(self, index: int) -> bool:
        """Whether the ledger that it was decided on holds an entry at this index."""
        return 0 <= index < self.ledger_size

    def judge(self, now: Reading) -> Permit | Denied:
        """This permit as of `now`: itself, or why it is not good any more."""
        if now.boottime_ns < self.sent.boottime_ns:
            return Denied(ClientReason.CLOCK_STEP, self.lease_id, "the boot clock went back")
        if now.boottime_ns >= self.expires_at_ns:
            return Denied(ClientReason.EXPIRED_ON_ARRIVAL, self.lease_id, "its life was over")
        if now.moved_apart_since(self.sent):
            return Denied(ClientReason.CLOCK_STEP, self.lease_id, "the clocks moved apart")
        return self


@dataclass(frozen=True, slots=True)
class Reported:
    """The node has the event, durably, and the ledger will. stage: how far the work under the lease
    has come with it and with those that were sent together with it."""

    lease_id: str
    stage: str


@dataclass(frozen=True, slots=True)
class Released:
    """The ledger holds the lease as released."""

    lease_id: str
    ledger_index: int


@dataclass(frozen=True, slots=True)
class Delegated:
    """The ledger has passed a part of a grant on. grant: the id of the new one."""

    grant: str
    ledger_index: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """The ledger has taken back what was passed on, for good."""

    grant: str
    ledger_index: int


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a proof has to quote. references: what is to be proved, the kind of evidence by name.
    origin, executor: what a proof has to be about, too. expires_at_ms: ledger time from which on
    it cannot be answered."""

    text: str
    references: Mapping[str, str]
    origin: str
    executor: str
    expires_at_ms: int
    ledger_index: int


@dataclass(frozen=True, slots=True)
class Attested:
    """The ledger has the proof, which equals the reference. fresh_until_ms: ledger time from which
    on it counts no more."""

    reference: str
    fresh_until_ms: int
    ledger_index: int


@dataclass(frozen=True, slots=True)
class Part:
    """What is passed on of a grant; all of it within what the grant is for.

    actions, resources: patterns. not_after_ms: ledger time from which on it permits nothing.
    max_lease_ttl_ms: the longest life of a lease. max_uses, max_concurrent: leases in all, and at
    once; 0: no limit of its own. max_depth: how often it may be passed on, and on. conditions: what
    a lease under it has to say in its context, besides what the grant asks for: by name, the texts,
    or prefixes of them that end in *, of which one has to be said.
    """

    actions: Sequence[str]
    resources: Sequence[str]
    not_after_ms: int
    max_lease_ttl_ms: int
    max_uses: int = 0
    max_concurrent: int = 0
    max_depth: int = 0
    conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)
