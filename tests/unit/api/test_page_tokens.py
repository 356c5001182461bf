"""Page tokens: those that this service gives, and no others."""

from __future__ import annotations

import pytest

from quorate.api.governance import _after, _token
from quorate.core.errors import MalformedError


def test_a_token_leads_on_from_where_it_was_given() -> None:
    assert _after(1, _token(1, "bank.example")) == "bank.example"
    assert _after(1, "") == ""


@pytest.mark.parametrize("token", ["MTpU=", "MTpU==", "MjpU", "MTpU\n", "x", "MTpUV_-"])
def test_anything_else_is_none(token: str) -> None:
    """Also with more padding than it needs, which the library forgives."""
    assert _after(1, "MTpU") == "T"
    with pytest.raises(MalformedError):
        _after(1, token)
