"""The pure heart of Quorate: what the ledger's bytes mean, and what follows from them.

Owns the commands, the replicated state, the one function that changes it (`transitions.apply`) and
the ones that decide on it (`decision.decide`, `decision.check_lease`). Everything here is
deterministic: no clock, no randomness, no I/O, no engine; the same log gives the same state and
the same ledger entries in every process. Does not own storage, time, consensus or the wire.
"""
