"""Whose policies are asked, and what comes of it.

Owns that three sets have a say: the federation's, the resource owner's and that of the executor's
domain. Each that is in force must permit, and none may forbid; a domain that has never published
any, or has retired them, has none, and no say. What a lease was decided by never changes, so that
an answer is kept, for as long as there is room, under the hash of the set. How a set is asked is
`quorate.core.cedar`'s, who may publish one `quorate.core.publishing`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from quorate.core import cedar
from quorate.core.cedar import Ruling, Subject
from quorate.core.errors import StorageDamagedError
from quorate.core.ids import SpiffeId, resource_owner
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Domain, Federation, Lease, digest_of
from quorate.core.state import StateView

REASONS: Final = frozenset({Reason.POLICY_FORBIDS, Reason.NO_POLICY_PERMITS, Reason.POLICY_BROKEN})
"""What a set that is published can deny a lease with."""

_KEPT_RULINGS: Final = 16_384

_rulings: dict[tuple[str, Subject], Ruling] = {}
"""By the set's hash and what it was asked about; all go when there are too many."""


@dataclass(frozen=True, slots=True)
class Deciders:
    """Whose policies a decision asks. They come with the records that it has looked at anyway."""

    federation: Federation
    owner: Domain
    home: Domain

    def having_say(self) -> Iterator[Federation | Domain]:
        """Those of whom a set is in force, in order, each once."""
        items = (self.federation, self.owner, self.home)
        for item in items if self.owner.id != self.home.id else items[:2]:
            if item.policies is not None and item.policies.sha256:
                yield item


def why_forbidden(view: StateView, deciders: Deciders, ask: Callable[[], Subject]) -> Deny | None:
    """Whether every set in force permits: None, or the first that does not. ask: called if there is
    one. Raises StorageError."""
    subject: Subject | None = None
    for item in deciders.having_say():
        subject = subject or ask()
        ruling = rule(view, item, subject)
        if not ruling.permits:
            return failure_of(item.id, ruling)
    return None


def rule(view: StateView, item: Federation | Domain, subject: Subject) -> Ruling:
    """What the set in force says. Raises StorageError."""
    mark = item.policies
    assert mark is not None, "only those are asked who have some"
    key = mark.sha256, subject
    known = _rulings.get(key)
    return known if known is not None else ruled(policy_text(view, item), subject)


def ruled(text: str, subject: Subject) -> Ruling:
    """What a set says, which need not be in force."""
    key = digest_of(text), subject
    known = _rulings.get(key)
    if known is None:
        if len(_rulings) >= _KEPT_RULINGS:
            _rulings.clear()
        known = _rulings[key] = cedar.rule(text, subject)
    return known


def policy_text(view: StateView, item: Federation | Domain) -> str:
    """The set in force. Raises StorageDamagedError when it is not the one that should be."""
    found = view.policies(item.policies_id)
    if found is None or found.mark != item.policies:
        raise StorageDamagedError(f"the policies of {item.id} are not on file")
    return found.text


def why_not_by(text: str, lease: Lease) -> Reason | None:
    """Whether a set, which need not be in force, permits a lease: None, or why not."""
    ruling = ruled(text, subject_of(lease))
    return None if ruling.permits else reason_of(ruling)


def failure_of(owner: str, ruling: Ruling) -> Deny | None:
    if ruling.permits:
        return None
    return Deny(reason_of(ruling), owner)


def reason_of(ruling: Ruling) -> Reason:
    """Why a set does not permit."""
    if ruling.is_broken:
        return Reason.POLICY_BROKEN
    return Reason.POLICY_FORBIDS if ruling.by else Reason.NO_POLICY_PERMITS


def subject_of(lease: Lease) -> Subject:
    """What policies are asked about a lease that there is."""
    return _subject(
        lease.executor,
        lease.action,
        lease.resource,
        lease.grant,
        lease.edges,
        lease.depends_on,
        lease.context,
    )


@lru_cache(maxsize=8192)
def _subject(  # noqa: PLR0917  # the fields of a lease that never change
    executor: str,
    action: str,
    resource: str,
    grant: str,
    edges: tuple[str, ...],
    depends_on: tuple[str, ...],
    context: tuple[str, ...],
) -> Subject:
    grants = sum(1 for thing in depends_on if thing.startswith("grant:"))
    return Subject(
        executor=executor,
        action=action,
        resource=resource,
        grant=grant,
        home=SpiffeId.parse(executor).trust_domain,
        owner=resource_owner(resource),
        delegations=grants - 1,
        hops=len(edges),
        context=context,
    )
