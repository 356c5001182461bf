"""Makes Raft's configuration what the ledger says: the leader's part, one step at a time.

Owns the order of the steps, and taking one. Who belongs to the federation, and in which role, is
decided by governance commands, and stands in the replicated state (`quorate.core.membership`); this
module compares that with the configuration in force. `next_step` is pure; `LedgerFollower` takes
the step that it names. docs/adr/0011 has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from quorate.consensus import Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.limits import MAX_MEMBERS
from quorate.core.records import Node, Role
from quorate.core.status import Status
from quorate.node.authority_keeper import AuthorityKeeper

log = structlog.get_logger(__name__)

CAUGHT_UP_ENTRIES: Final = 256
"""A learner that lacks fewer entries than this of what is committed may vote."""
HAND_OVER_EVERY_S: Final = 5.0
"""A leader that is to go, and is still there, tries no more often to let another lead."""


def first_configuration(nodes: Iterable[Node]) -> Configuration:
    """What a log that is still empty begins with: the voters of the state that it begins on."""
    voters = (node.id for node in nodes if node.role is Role.VOTER and not node.retired)
    return Configuration(tuple(sorted(voters)))


class LeaderView(Protocol):
    """What a leader knows of the members."""

    @property
    def node_id(self) -> str: ...

    @property
    def configuration(self) -> Configuration: ...

    @property
    def commit_index(self) -> int: ...

    def match_index(self, peer: str) -> int: ...

    def is_responsive(self, peer: str) -> bool: ...

    def probation_of(self, peer: str) -> str: ...

    def has_lapsed(self, peer: str) -> bool:
        """Whether no authority of `peer` can still hold."""
        ...

    @property
    def may_hand_over(self) -> bool:
        """Whether it is time to try: the leader takes no commands meanwhile, and an heir may not
        be able to lead."""
        ...


@dataclass(frozen=True, slots=True)
class HandOver:
    """The leader itself is to go, or not to vote any more: another must lead first, and one that
    is to stay, or the two would hand over to each other for ever."""

    heir: str


Step = Configuration | HandOver


def next_step(view: LeaderView, nodes: Mapping[str, Node]) -> Step | None:
    """The next step towards what the ledger says, or None: there is none, or it must wait.

    nodes: all of the state's, retired ones among them.
    """
    for step in (_readmission, _removal, _demotion, _addition, _promotion, _discharge):
        found = step(view, nodes)
        if found is not None:
            return found
    return None


def _readmission(view: LeaderView, _nodes: Mapping[str, Node]) -> Step | None:
    """Who may have forgotten what it promised does not vote, and is told that it is so."""
    now = view.configuration
    for member in now.members:
        token = view.probation_of(member) if member != view.node_id else ""
        if token and now.token_of(member) != token:
            wanted = now.with_learner(member, token)
            if _can_decide(view, wanted):
                return wanted
    return None


def _removal(view: LeaderView, nodes: Mapping[str, Node]) -> Step | None:
    """A retired node goes when it can hold no authority any more: what is enforced everywhere is
    counted over the configuration's members."""
    now = view.configuration
    for member in now.members:
        if not _is_retired(nodes.get(member)):
            continue
        if member == view.node_id:
            if (heir := _heir(view, nodes)) is not None:
                return HandOver(heir)
        elif view.has_lapsed(member) and _can_decide(view, wanted := now.without(member)):
            return wanted
    return None


def _demotion(view: LeaderView, nodes: Mapping[str, Node]) -> Step | None:
    now = view.configuration
    for member in now.voters:
        node = nodes.get(member)
        if node is None or _is_retired(node) or node.role is Role.VOTER:
            continue
        if member == view.node_id:
            if (heir := _heir(view, nodes)) is not None:
                return HandOver(heir)
        elif _can_decide(view, wanted := now.with_learner(member)):
            return wanted
    return None


def _addition(view: LeaderView, nodes: Mapping[str, Node]) -> Step | None:
    now = view.configuration
    if len(now.members) >= MAX_MEMBERS:
        return None  # who was retired has to go first, and that takes its time
    for node in nodes.values():
        if not _is_retired(node) and node.id not in now.members:
            return now.with_learner(node.id)
    return None


def _promotion(view: LeaderView, nodes: Mapping[str, Node]) -> Step | None:
    """A learner votes when it has caught up, and answers: it must not cost the quorum."""
    now = view.configuration
    for member in now.learners:
        node = nodes.get(member)
        if node is None or _is_retired(node) or node.role is not Role.VOTER:
            continue
        is_near = view.match_index(member) + CAUGHT_UP_ENTRIES > view.commit_index
        if is_near and view.is_responsive(member):
            return now.with_voter(member)
    return None


def _discharge(view: LeaderView, _nodes: Mapping[str, Node]) -> Step | None:
    """A learner that is on probation no longer needs no token any more."""
    now = view.configuration
    for member in now.learners:
        if now.token_of(member) and view.is_responsive(member):
            return now.with_learner(member)
    return None


def _heir(view: LeaderView, nodes: Mapping[str, Node]) -> str | None:
    """Who can lead instead: a voter that is there, and is to go on voting. As long as there is
    none, the other steps go on: they may be what makes one."""
    able = [
        voter
        for voter in view.configuration.voters
        if voter != view.node_id and view.is_responsive(voter)
    ]
    staying = [voter for voter in able if (node := nodes.get(voter)) is not None and node.votes]
    return max(staying, key=view.match_index, default=None) if view.may_hand_over else None


def _is_retired(node: Node | None) -> bool:
    return node is not None and node.status is Status.REVOKED


def _can_decide(view: LeaderView, wanted: Configuration) -> bool:
    """Whether a majority of the wanted configuration is there to commit it, and what follows."""
    there = sum(voter == view.node_id or view.is_responsive(voter) for voter in wanted.voters)
    return 2 * there > len(wanted.voters)


class _LeaderView:
    """A leader's replica and keeper, as `next_step` asks them."""

    def __init__(self, replica: Replica, keeper: AuthorityKeeper, *, may_hand_over: bool) -> None:
        self.node_id = replica.node_id
        self.configuration = replica.configuration
        self.commit_index = replica.commit_index
        self.may_hand_over = may_hand_over
        self.match_index = replica.match_index
        self.is_responsive = replica.is_responsive
        self.probation_of = replica.probation_of
        self.has_lapsed = keeper.has_lapsed


class LedgerFollower:
    """Takes the steps, while this node leads. clock: seconds of the node's boot clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hand_over_from = float("-inf")

    def follow(self, replica: Replica, keeper: AuthorityKeeper, nodes: Mapping[str, Node]) -> None:
        """Takes the next step, if there is one and its time has come."""
        if not (replica.is_leader and replica.commits_own_term and replica.is_settled):
            return
        now = self._clock()
        view = _LeaderView(replica, keeper, may_hand_over=now >= self._hand_over_from)
        step = next_step(view, nodes)
        if isinstance(step, HandOver):
            self._hand_over_from = now + HAND_OVER_EVERY_S
            replica.hand_over(step.heir)
        elif step is not None and replica.change_configuration(step):
            log.info("membership.changes", voters=step.voters, learners=step.learners)
