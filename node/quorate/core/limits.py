"""Every limit of the ledger, in one place, with units.

A limit that takes part in `apply` belongs to the protocol version: two nodes that differ in one
would disagree about an outcome.
"""

from __future__ import annotations

from typing import Final

# -- what takes part in apply (protocol version 1) -------------------------------------------
PROTOCOL_VERSION: Final = 1
MAX_ENVELOPE_BYTES: Final = 16 * 1024
MAX_ENTRY_BYTES: Final = 32 * 1024
MAX_JSON_DEPTH: Final = 16
MAX_INTEGER: Final = 2**53 - 1
MAX_ID_CHARS: Final = 255
MAX_NAME_CHARS: Final = 64
MAX_PATTERNS: Final = 32
MAX_COMMAND_LIFETIME_MS: Final = 24 * 60 * 60 * 1000
"""How far ahead a command's not_after may lie: as long as the ledger remembers nonces."""
MAX_LEASE_TTL_MS: Final = 24 * 60 * 60 * 1000
MAX_CONCURRENT_LEASES: Final = 1000
MAX_EDGES_PER_PAIR: Final = 16
MAX_RATE_PER_MIN: Final = 1_000_000
"""The largest rate that can be agreed on: more is no limit."""
MAX_GRANTS_PER_EXECUTOR_AND_ISSUER: Final = 256
MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER: Final = 32
"""Of those, how many others may have passed on."""
MAX_GRANTS_FROM_ONE_DELEGATOR: Final = 8
"""And of these, how many one executor."""
MAX_DELEGATIONS_PER_GRANT: Final = 1_000
"""How often one grant is passed on, ever."""
MAX_DOMAINS: Final = 9
MAX_DEPTH: Final = MAX_DOMAINS - 2
"""Edges that may follow one on a route, which passes by each domain once; and how often a grant may
be passed on, and on."""
MAX_SIGNATURES: Final = MAX_DOMAINS
"""Signatures of one envelope: a genesis carries one of each domain."""
MAX_KEYS_PER_SET: Final = 9
"""Governance keys of a domain, and recovery keys."""
MAX_COMMAND_SIGNATURES: Final = 32
"""Signatures of one command from version 2 on: new keys sign, too, beside those that there were."""
MAX_DOCUMENT_SIGNATURES: Final = MAX_DOMAINS * MAX_KEYS_PER_SET
"""Signatures of a recovery document: as many as each domain needs."""
MAX_DESCRIPTOR_BYTES: Final = 8 * 1024
MAX_GENESIS_BYTES: Final = MAX_ENTRY_BYTES - 1024
"""The genesis is leaf 0, and must fit an entry with what the entry adds to it."""
MAX_EXECUTORS_PER_DOMAIN: Final = 100_000
MAX_REKEYINGS_PER_DOMAIN: Final = 100
"""How often a domain takes new keys, ever: the state keeps the proof of each."""
REKEYINGS_FOR_RECOVERY: Final = 10
"""Of those, how many are left to the recovery keys of a domain that has some."""
MAX_AUTHORITIES_PER_DOMAIN: Final = 2
"""CA certificates that a domain's leaves may be of: one, and while it is replaced the next."""
MAX_NODES_PER_DOMAIN: Final = 8
"""Nodes that are not retired; at most one of them votes."""
MAX_NODES_EVER_PER_DOMAIN: Final = 1_000
"""Retired ones included: an id is never used again, so its record stays."""
MAX_OPEN_PROPOSALS_PER_DOMAIN: Final = 8
MAX_PROPOSAL_LIFETIME_MS: Final = 30 * 24 * 60 * 60 * 1000
MAX_PARENTS: Final = 8
"""Leases that the work under a lease came from."""
MAX_ANCESTORS: Final = 64
"""Leases that the work under a lease came from, all the way back."""
MAX_ANCESTOR_EXECUTORS: Final = 32
"""Executors that those rest on: with the leases, what one lease says of them is 11 KiB at most."""
MAX_CONTAINMENTS_PER_DOMAIN: Final = 256
"""What one domain contains at once."""
MAX_EVENTS_PER_LEASE: Final = 1_000
MAX_RECORDS_PER_COMMAND: Final = 32
MAX_RECORD_BYTES: Final = 8 * 1024
MAX_ATTRIBUTES: Final = 16
MAX_ATTRIBUTE_CHARS: Final = 256
MAX_REFERENCES_PER_DOMAIN: Final = 16
MAX_ACCEPTED: Final = 16
"""Keys, images or other values of one sort that a reference lets count."""
MIN_ATTESTATION_AGE_MS: Final = 1_000
MAX_ATTESTATION_AGE_MS: Final = 30 * 24 * 60 * 60 * 1000
"""How long a proof may count."""
MAX_CHALLENGE_AGE_MS: Final = 5 * 60 * 1000
"""How long a challenge may be answered."""
MAX_POLICY_BYTES: Final = 8 * 1024
"""Of one set of policies, as it is published."""
MAX_POLICIES_PER_SET: Final = 64
MAX_POLICY_NESTING: Final = 16
"""Brackets within brackets."""
MAX_POLICY_OPERATORS: Final = 128
"""Of one policy: what it costs the engine of its stack grows with them."""
MAX_CONTEXT_BYTES: Final = 1024
"""Of what an executor says of one lease, names and all."""
MAX_CONDITIONS: Final = 8
"""Of one grant: names of a context that it asks about."""
MAX_CONDITION_BYTES: Final = 1024
"""Of all of them, names and values."""
LEASES_DROPPED_PER_ACQUIRE: Final = 8
"""How many expired leases an acquisition takes out of its grant's count of concurrent ones."""
NONCES_FORGOTTEN_PER_COMMAND: Final = 8

# -- defaults of the federation's parameters -------------------------------------------------
DEFAULT_AUTHORITY_PERIOD_MS: Final = 2_000
"""L: no node permits later than this after the last moment at which a quorum confirmed it."""
DEFAULT_MAX_PERMIT_TTL_MS: Final = 1_000
DEFAULT_RHO_PPM: Final = 10_000
"""rho: how far the rates of two machines' boot clocks may differ, parts per million."""
DEFAULT_MAX_SKEW_MS: Final = 5_000

# -- the node's own (no agreement needed) ----------------------------------------------------
MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""The largest gRPC message that any server of a node accepts."""
MAX_SOCKET_PATH_BYTES: Final = 107
"""Linux: sun_path of unix(7) holds 108 bytes with the zero that ends it."""
MAX_CHECKS_PER_BATCH: Final = 256
MAX_LEASES_PER_WATCH: Final = 256
MAX_ATTRIBUTE_BYTES: Final = 1024
"""Of one event, names and values together: its record, escapes and all, is less than
MAX_RECORD_BYTES however they are written."""
MAX_EVIDENCE_BYTES: Final = 8 * 1024
"""Of one proof: its command is no larger than may be, with signatures and base64 on the way."""
MIN_SESSION_CHARS: Final = 16
MAX_SESSION_CHARS: Final = 64
MAX_ENTRIES_PER_PAGE: Final = 256
MAX_RECORDS_PER_PAGE: Final = 500
MAX_REQUEST_ID_CHARS: Final = 64
DEFAULT_PROPOSAL_TIMEOUT_MS: Final = 5_000
MAX_PROPOSAL_TIMEOUT_MS: Final = 60_000
