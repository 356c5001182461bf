"""Every limit of the consensus room, with units."""

from __future__ import annotations

from typing import Final

MAX_INDEX: Final = 2**63 - 1
MAX_TERM: Final = 2**53
MAX_TERM_STEP: Final = 2**32
"""How far messages move a replica's term at once; elections alone would need lifetimes for it. A
later term is approached: a refusal would part nodes for ever."""
MAX_TERMS_PER_S: Final = 2**31
"""How far they move it in the long run, however many there are: a distance is closed in no more
time than it took to make it, and to use the terms up takes seven weeks of saying so."""
MAX_WALL_CLOCK_MS: Final = 2**53
MAX_COMMAND_BYTES: Final = 20 * 1024
"""One log entry's command; below the batch size, so that an entry always fits into a message."""
MAX_APPEND_BYTES: Final = 256 * 1024
"""Commands in one AppendRequest."""
MAX_APPEND_ENTRIES: Final = 1024
MAX_INFLIGHT_APPENDS: Final = 16
"""AppendRequests to one follower that are not answered yet; more wait for the answers."""
MAX_APPLY_ENTRIES: Final = 2048
"""Entries applied in one turn: a node that catches up still answers in between."""
MAX_APPLY_BYTES: Final = 4 * 1024 * 1024
MAX_PENDING_PROPOSALS: Final = 8192
"""Proposals of this node that wait for their outcome."""
MAX_PENDING_BYTES: Final = 8 * 1024 * 1024
"""Their payloads; below MAX_QUEUED_BYTES, or forwarding them would overflow the link."""
MAX_QUEUED_APPENDS: Final = 2048
"""Proposals of one source, own or forwarded, that a leader has taken and not yet written to its
log. There are as many sources as domains."""
MAX_QUEUED_APPEND_BYTES: Final = 4 * 1024 * 1024
MAX_APPENDS_PER_TURN: Final = 1024
MAX_UNCOMMITTED_APPENDS: Final = 2 * MAX_APPENDS_PER_TURN
"""Entries of a leader's log that are not committed, beyond which it takes no proposal: somebody who
comes late has to wait for no more. Two turns' worth: one is written while one is acknowledged."""
MAX_KEY_BYTES: Final = 32
MAX_MEMBERS: Final = 72
"""Voters and learners of one configuration; with their names it fits into one entry."""
MAX_MEMBER_ID_BYTES: Final = 255
MAX_TOKEN_CHARACTERS: Final = 32
"""A token of probation: 16 bytes in hex."""
COMPACTION_STEP: Final = 256
"""Entries that gather beyond the log's tail before they are removed, unless the tail is shorter."""
MAX_COMPACTED_PER_TURN: Final = 1024
"""Entries that one turn removes from the front of the log: compaction holds nothing up."""
CACHED_LOG_BYTES: Final = 8 * 1024 * 1024
"""The newest part of the log that is kept in memory, for the followers that are up to date."""

MAX_CHUNK_BYTES: Final = 256 * 1024
"""State or ledger in one SnapshotChunk; a single larger entry goes alone."""
MAX_CHUNK_ITEMS: Final = 4096
MAX_CHECKPOINT_BYTES: Final = 16 * 1024
MAX_STATE_KEY_BYTES: Final = 511
MAX_STATE_VALUE_BYTES: Final = 256 * 1024
MAX_LEDGER_ENTRY_BYTES: Final = 64 * 1024

MAX_FRAME_BYTES: Final = 1024 * 1024
MAX_FRAME_MESSAGES: Final = 4096
MAX_QUEUED_BYTES: Final = 16 * 1024 * 1024
"""Messages to one peer that have not left; beyond it the link is dropped and dialled again."""
MAX_QUEUED_MESSAGES: Final = 16384
MAX_INBOX_MESSAGES: Final = 16384
"""Messages from peers that wait for the next turn; beyond it the streams are not read."""
MAX_INBOX_BYTES: Final = 32 * 1024 * 1024
MAX_PEER_MESSAGE_BYTES: Final = 2 * MAX_FRAME_BYTES
MAX_LEARNED_OF_DOMAIN: Final = 8
"""Nodes of one domain that are not known here yet, and have a stream to this node all the same: as
many as a domain may have. No domain takes the others' places."""
MAX_LEARNED_PEERS: Final = MAX_MEMBERS
"""Such nodes of all domains."""
