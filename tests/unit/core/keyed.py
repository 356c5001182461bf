"""A federation whose first domain changes its keys: what the tests of key sets have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quorate.core import protocol
from quorate.core.invariants import check
from quorate.core.outcome import Outcome
from quorate.core.records import Domain
from quorate.core.store import MemoryStore
from quorate.core.succession import Succession
from quorate.core.vetting import Vetting
from quorate.proofs.commands import build_command
from quorate.proofs.signing import SigningKey
from quorate.testing.builders import Federation, Ledger, key_for

A, B = "alpha.example", "beta.example"
G = [key_for(f"governance {place}") for place in range(9)]
R = [key_for(f"recovery {place}") for place in range(9)]
NEW = [key_for(f"new {place}") for place in range(9)]
HOUR_MS = 3_600_000


def hexes(keys: Sequence[SigningKey]) -> list[str]:
    return sorted(key.public.hex() for key in keys)


@dataclass
class Keys:
    """What a domain is to have. Its governance keys, the first one first."""

    governance: Sequence[SigningKey]
    threshold: int = 1
    recovery: Sequence[SigningKey] = ()
    recovery_threshold: int = 0
    not_after: int = 0
    cosigner: SigningKey = field(default_factory=lambda: key_for(f"{A} cosigner"))

    def body(self) -> dict[str, Any]:
        first, *others = self.governance
        body: dict[str, Any] = {
            "domain": A,
            "governance_key": first.public.hex(),
            "cosigner_key": self.cosigner.public.hex(),
        }
        if others or self.recovery or self.not_after or self.threshold != 1:
            body["key_set"] = {
                "governance_keys": hexes(others),
                "threshold": self.threshold,
                "recovery_keys": hexes(self.recovery),
                "recovery_threshold": self.recovery_threshold,
                "not_after": self.not_after,
            }
        return body


class World:
    def __init__(self, version: int = protocol.LATEST) -> None:
        self.ledger = Ledger(Federation.build((A, B), version=version))
        self.first = self.ledger.federation[A].governance
        self._nonces = 0

    def envelope(self, kind: str, body: dict[str, Any], *signers: SigningKey) -> bytes:
        self._nonces += 1
        first, *others = signers
        return build_command(
            origin=self.ledger.federation.origin,
            issuer=A,
            command_type=kind,
            body=body,
            nonce=f"a{self._nonces:031x}",
            not_after=self.ledger.now + HOUR_MS,
            key=first,
            also_signed_by=others,
        )

    def give(self, kind: str, body: dict[str, Any], *signers: SigningKey) -> Outcome:
        return self.ledger.apply(self.envelope(kind, body, *signers)).outcome

    def rekey(self, keys: Keys, *signers: SigningKey) -> Outcome:
        """Signed by these, and by whatever of the keys they are not."""
        return self.give("domain.rekey", keys.body(), *dict.fromkeys(signers))

    def register(self, *signers: SigningKey) -> Outcome:
        body = {"executor": f"spiffe://{A}/agent/{self._nonces}"}
        return self.give("executor.register", body, *signers)

    @property
    def domain(self) -> Domain:
        found = self.ledger.view.domain(A)
        assert found is not None
        return found

    def copy(self) -> MemoryStore:
        return copied(self.ledger.store)

    def is_well(self) -> bool:
        return check(self.ledger.view) == [] and Vetting(self.ledger.store).step(1_000_000)


def copied(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    for key, value in store.items():
        copy.put(key, value)
    return copy


def follows(before: MemoryStore, after: MemoryStore) -> bool:
    return Succession(before, after).step(1_000_000)


def two_of_three(world: World, *, recovery: int = 0, not_after: int = 0) -> Keys:
    """Has the domain take the first three keys, of which two sign; and, of as many recovery keys,
    one."""
    keys = Keys(G[:3], 2, R[:recovery], min(recovery, 1), not_after)
    done = world.rekey(keys, world.first, *G[:3], *R[:recovery])
    assert done.accepted, done
    return keys
