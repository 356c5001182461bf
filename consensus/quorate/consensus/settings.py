"""The timing of Raft, as one validated value."""

from __future__ import annotations

from dataclasses import dataclass

from quorate.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """heartbeat_ms: how often a leader speaks when it has nothing to say.
    election_min_ms, election_max_ms: a follower that hears no leader for a random time between
    them campaigns; a leader that hears no majority for election_min_ms steps down.
    log_tail_entries: how many applied entries the log keeps, for followers that lag a little; who
    lags more gets a snapshot.
    """

    heartbeat_ms: int = 100
    election_min_ms: int = 500
    election_max_ms: int = 1000
    log_tail_entries: int = 10_000

    def __post_init__(self) -> None:
        if not self.heartbeat_ms >= 10:
            raise ConfigurationError("raft.heartbeat_ms must be at least 10")
        if self.election_min_ms <= 3 * self.heartbeat_ms:
            raise ConfigurationError(
                "raft.election_min_ms must be more than three times raft.heartbeat_ms",
                hint="otherwise a single late heartbeat starts an election",
            )
        if not self.election_min_ms < self.election_max_ms <= 60_000:
            raise ConfigurationError(
                "raft.election_max_ms must be above raft.election_min_ms, and at most 60000"
            )

        if not 1 <= self.log_tail_entries <= 10_000_000:
            raise ConfigurationError("raft.log_tail_entries must be from 1 to 10000000")

    @property
    def heartbeat_s(self) -> float:
        return self.heartbeat_ms / 1000

    @property
    def election_min_s(self) -> float:
        return self.election_min_ms / 1000

    @property
    def election_max_s(self) -> float:
        return self.election_max_ms / 1000
