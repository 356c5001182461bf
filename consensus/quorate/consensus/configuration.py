"""Who takes part in the federation's Raft: voters and learners, as one value.

Owns the value, its bytes in the log, and what one change may be. The configuration in force is the
newest in a replica's log, committed or not (Raft thesis, 4.1); changes follow each other one voter
at a time, so that any two majorities that can act at once have a member in common. Does not own
when a change is made (`engine`) nor who asks for it (the node, on behalf of the ledger).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from quorate.consensus.errors import PeerError
from quorate.consensus.limits import MAX_MEMBER_ID_BYTES, MAX_MEMBERS, MAX_TOKEN_CHARACTERS
from quorate.core import codec
from quorate.core.errors import MalformedError

COMMAND: Final = b"\x00"
"""The first byte of a log entry that carries a command; the rest is what is applied."""
CONFIGURATION: Final = b"\x02"
"""The first byte of a log entry that carries a configuration."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """voters, learners: ids of nodes, ascending; nobody is both. Learners get the log, and count
    for nothing.

    readmitted: (learner, token) of those that said with this token that they are on probation
    (`quorate.consensus.replica`): whoever finds its own token in a committed configuration knows
    that nothing which it may have promised and forgotten counts any more.
    """

    voters: tuple[str, ...]
    learners: tuple[str, ...] = ()
    readmitted: tuple[tuple[str, str], ...] = ()

    members: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Voters and learners, ascending; every turn asks for them."""

    def __post_init__(self) -> None:
        names = tuple(sorted((*self.voters, *self.learners)))
        assert self.voters, "somebody has to vote"
        assert len(set(names)) == len(names), "nobody is a member twice"
        object.__setattr__(self, "members", names)

    def role_of(self, node: str) -> str:
        """`voter`, `learner`, or empty for who is no member."""
        if node in self.voters:
            return "voter"
        return "learner" if node in self.learners else ""

    def token_of(self, node: str) -> str:
        """The token with which `node` was readmitted; empty when it was not."""
        return dict(self.readmitted).get(node, "")

    # -- single steps ------------------------------------------------------------------------

    def with_learner(self, node: str, token: str = "") -> Configuration:
        """`node` takes part, or goes on taking part, as a learner."""
        kept = self.without(node) if node in self.members else self
        readmitted = (*kept.readmitted, (node, token)) if token else kept.readmitted
        return replace(
            kept,
            learners=tuple(sorted((*kept.learners, node))),
            readmitted=tuple(sorted(readmitted)),
        )

    def with_voter(self, node: str) -> Configuration:
        """`node` votes from here on."""
        kept = self.without(node) if node in self.members else self
        return replace(kept, voters=tuple(sorted((*kept.voters, node))))

    def without(self, node: str) -> Configuration:
        """`node` takes no part any more. The last voter cannot go."""
        return Configuration(
            voters=tuple(each for each in self.voters if each != node),
            learners=tuple(each for each in self.learners if each != node),
            readmitted=tuple(pair for pair in self.readmitted if pair[0] != node),
        )

    def is_one_step_to(self, other: Configuration) -> bool:
        """Whether at most one voter comes or goes: any two majorities then have one in common."""
        return len(set(self.voters) ^ set(other.voters)) <= 1

    @property
    def is_within_limits(self) -> bool:
        """Whether others can read it; a leader must not put anything else in force."""
        return len(self.members) <= MAX_MEMBERS

    # -- bytes -------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """Canonical JSON; an entry of the log is CONFIGURATION and this."""
        return codec.encode(
            {
                "voters": list(self.voters),
                "learners": list(self.learners),
                "readmitted": [list(pair) for pair in self.readmitted],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Configuration:
        """Raises PeerError for anything that `encode` does not make."""
        try:
            value = codec.decode(data, len(data))
        except MalformedError as error:
            raise PeerError("a configuration that cannot be read") from error
        if not isinstance(value, dict) or set(value) != {"voters", "learners", "readmitted"}:
            raise PeerError("a configuration of another form")
        voters, learners = _names(value["voters"]), _names(value["learners"])
        everybody = {*voters, *learners}
        if not voters or len(everybody) != len(voters) + len(learners):
            raise PeerError("a configuration without voters, or with a member twice")
        if len(everybody) > MAX_MEMBERS:
            raise PeerError("a configuration of too many members")
        return cls(voters, learners, _tokens(value["readmitted"], learners))


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise PeerError("a configuration of another form")
    names: list[str] = []
    for name in value:
        if not isinstance(name, str) or not 0 < len(name.encode()) <= MAX_MEMBER_ID_BYTES:
            raise PeerError("a configuration with a member that can be none")
        names.append(name)
    if names != sorted(set(names)):
        raise PeerError("a configuration whose members are not in order")
    return tuple(names)


def _tokens(value: object, learners: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise PeerError("a configuration of another form")
    pairs: list[tuple[str, str]] = []
    for pair in value:
        match pair:
            case [str(node), str(token)] if 0 < len(token) <= MAX_TOKEN_CHARACTERS:
                pairs.append((node, token))
            case _:
                raise PeerError("a configuration with a token of another form")
    names = [node for node, _ in pairs]
    if names != sorted(set(names)) or not set(names) <= set(learners):
        raise PeerError("a configuration that readmits somebody who is no learner of it")
    return tuple(pairs)
