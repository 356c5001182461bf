"""Proofs that need no trust in whoever shows them: the Merkle tree, signed notes, checkpoints.

Pure: no clock, no I/O, no storage. Private keys appear in `quorate.proofs.signing` alone.
"""
