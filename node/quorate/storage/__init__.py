"""One LMDB environment a node: the Raft log, the state, the ledger, its tree, and the node's own
outbox.

Owns durability: what was written in a turn is on disk, whole, once `Environment.commit` returns,
and not at all otherwise. Knows neither Raft nor governance: entries, commands and state are bytes.
"""

from quorate.storage.environment import Environment
from quorate.storage.progress import Progress
from quorate.storage.reads import LogView
from quorate.storage.receiving import Staged
from quorate.storage.seal import StateDigest
from quorate.storage.snapshot import Snapshot
from quorate.storage.turn import Turn

__all__ = ["Environment", "LogView", "Progress", "Snapshot", "Staged", "StateDigest", "Turn"]
