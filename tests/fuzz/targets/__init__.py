"""The targets, by what they read. Importing this makes them known to the harness."""

from tests.fuzz.targets import (
    documents,
    evidence,
    files,
    ledger,
    policies,
    proofs,
    state,
    store,
    wire,
)

__all__ = [
    "documents",
    "evidence",
    "files",
    "ledger",
    "policies",
    "proofs",
    "state",
    "store",
    "wire",
]
