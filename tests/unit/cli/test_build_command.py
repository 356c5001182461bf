"""A built command is what the ledger parses; what it would never take is not built."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core import codec, dsse, ids
from quorate.core.commands import parse_command
from quorate.core.errors import MalformedError
from quorate.proofs.commands import build_command
from quorate.proofs.signing import SigningKey

KEY = SigningKey.generate()
GOOD: dict[str, Any] = {
    "origin": "quorate.example/test",
    "issuer": "bank.example",
    "command_type": "executor.register",
    "body": {"executor": "spiffe://bank.example/agent/x"},
    "nonce": "0123456789abcdef",
    "not_after": 1_000,
    "key": KEY,
}


@given(
    nonce=st.text("0123456789abcdef", min_size=16, max_size=64),
    not_after=st.integers(0, 2**53 - 1),
)
def test_a_built_command_is_parsed_back(nonce: str, not_after: int) -> None:
    envelope = dsse.parse(build_command(**{**GOOD, "nonce": nonce, "not_after": not_after}), 16_384)
    assert envelope.payload_type == dsse.COMMAND_TYPE
    assert envelope.verify(KEY.public)
    command = parse_command(envelope.payload)
    assert (command.issuer, command.nonce, command.not_after) == ("bank.example", nonce, not_after)
    assert command.command_id == ids.command_id("bank.example", nonce)


def test_building_is_deterministic() -> None:
    assert build_command(**GOOD) == build_command(**GOOD)
    payload = codec.decode(dsse.parse(build_command(**GOOD), 16_384).payload, 16_384)
    assert isinstance(payload, dict)
    assert payload["body"] == GOOD["body"]


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": "short"},
        {"nonce": "0123456789ABCDEF"},
        {"origin": "not an origin"},
        {"not_after": -1},
        {"not_after": 2**53},
        {"body": {"x": 1.5}},
        {"body": {"x": "y" * 20_000}},
    ],
)
def test_what_no_ledger_takes_is_not_built(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        build_command(**{**GOOD, **change})
