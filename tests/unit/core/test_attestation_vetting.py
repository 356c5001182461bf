"""What another node may send of proofs, and of what has to be proved."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.unit.core.conftest import CLINIC, World, copied
from tests.unit.core.test_attestation import (
    IMAGE_REF,
    OTHER,
    challenged,
    prove_image,
    retire,
    want_image,
)

from quorate.core import codec, keys, protocol, state
from quorate.core.errors import MalformedError
from quorate.core.records import DRIFT
from quorate.core.succession import Succession
from quorate.core.vetting import Vetting
from quorate.testing.builders import IMAGE, key_for


def spoil(world: World, key: bytes, **changes: object) -> World:
    data = world.store.get(key)
    assert data is not None
    value = json.loads(data)
    for name, change in changes.items():
        if change is None:
            del value[name]
        else:
            value[name] = change
    world.store.put(key, codec.encode(value))
    return world


def is_let_in(world: World) -> bool:
    try:
        return Vetting(world.store).step(1_000_000)
    except MalformedError:
        return False


def record(world: World, kind: str) -> bytes:
    names = {"executor": world.agent, "domain": CLINIC, "reference": IMAGE_REF}
    found = keys.record(state.Kind(kind), names[kind])
    assert found is not None
    return found


PROOF = {
    "reference": "image",
    "evidence": "measurement",
    "claims": {"image": IMAGE, "signer": key_for("agent").public.hex()},
    "challenged_at": 1,
    "reported": 1,
}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("domain", {"references": 2}),
        ("domain", {"references": None}),
        ("reference", {"max_age_ms": 1}),
        ("reference", {"executors": []}),
        ("reference", {"executors": ["spiffe://bank.example/*"]}),
        ("reference", {"executors": ["spiffe://clinic.example/*"] * 2}),
        ("reference", {"signers": ["0" * 64]}),
        ("reference", {"images": None}),
        ("reference", {"images": []}),
        ("reference", {"keys": [OTHER]}),
        ("reference", {"environments": []}),
        ("reference", {"evidence": "svid"}),
        ("executor", {"suspended_for": DRIFT}),
        ("executor", {"suspended_for": "bank.example/image", "status": "suspended"}),
        ("executor", {"suspended_for": "clinic.example/?", "status": "suspended"}),
        ("executor", {"attestations": []}),
        ("executor", {"attestations": [PROOF, PROOF]}),
        ("executor", {"attestations": [PROOF | {"challenged_at": 2**53 - 1}]}),
        ("executor", {"attestations": [PROOF | {"claims": {}}]}),
        ("executor", {"attestations": [PROOF | {"claims": {"x": "y"}}]}),
        ("executor", {"attestations": [PROOF | {"evidence": "svid"}]}),
        ("executor", {"attestations": [PROOF | {"more": 1}]}),
        ("executor", {"attestations": [PROOF | {"reference": "?"}]}),
        ("executor", {"challenge": {"text": "x", "at": 1}}),
        ("executor", {"challenge": {"text": OTHER, "at": 2**53 - 1}}),
    ],
)
def test_a_state_that_cannot_be_is_not_let_in(
    trusted: World, kind: str, changes: dict[str, object]
) -> None:
    want_image(trusted)
    prove_image(trusted)
    challenged(trusted)
    assert is_let_in(trusted)
    good = {"status": "suspended", "suspended_for": DRIFT, "attestations": [PROOF]}
    assert is_let_in(spoil(trusted, record(trusted, "executor"), **good))
    spoil(trusted, record(trusted, "executor"), status="active", suspended_for=None)
    assert not is_let_in(spoil(trusted, record(trusted, kind), **changes))


def test_a_state_of_the_first_version_has_no_such_thing(trusted: World) -> None:
    want_image(trusted)
    federation = trusted.view.federation_record()
    state.save_federation(trusted.store, replace(federation, protocol=protocol.FIRST))
    assert not is_let_in(trusted)


def test_no_proof_gives_way_to_an_earlier_one(trusted: World) -> None:
    want_image(trusted)
    prove_image(trusted)
    earlier = copied(trusted.store)
    trusted.now += 1
    want_image(trusted, max_age_ms=5_000)
    prove_image(trusted)
    assert Succession(earlier, trusted.store).step(1_000_000)
    for kind in ("executor", "reference"):
        later, key = copied(trusted.store), record(trusted, kind)
        old = earlier.get(key)
        assert old is not None
        later.put(key, old)
        with pytest.raises(MalformedError):
            Succession(trusted.store, later).step(1_000_000)
    asked = copied(trusted.store)
    challenged(trusted)
    assert Succession(asked, trusted.store).step(1_000_000)
    retire(trusted, "image")
    assert Succession(asked, trusted.store).step(1_000_000), "what is retired is gone"
