"""The replicated log: one Raft group, on PySyncObj's engine, over a durable store.

Owns agreement on the order of opaque commands. Knows bytes, not governance. The parts: `replica`
(a node's consensus, sans-I/O), `engine` (the only module that knows PySyncObj), `rules` (Raft's
message rules, pure), `journal` (the log in the store), `wire` and `transport` (between nodes).
"""

from quorate.consensus.errors import PeerError, SafetyViolationError
from quorate.consensus.replica import Replica
from quorate.consensus.settings import RaftSettings

__all__ = ["PeerError", "RaftSettings", "Replica", "SafetyViolationError"]
