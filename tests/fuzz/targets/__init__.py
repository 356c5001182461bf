"""The targets, by what they read. Importing this makes them known to the harness."""

from tests.fuzz.targets import documents, files, ledger, policies, proofs, state, store, wire

__all__ = ["documents", "files", "ledger", "policies", "proofs", "state", "store", "wire"]
