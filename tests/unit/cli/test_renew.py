"""`quorate node renew`, `quorate operator renew`: what they say, and what a node warns of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quorate.cli import status as statuses
from quorate.cli.expiring import warning_of_certificate
from quorate.node.organisation import Organisation

DAY_MS = 86_400_000


@pytest.mark.parametrize("verb", [("node", "renew"), ("operator", "renew")])
def test_a_renewal_says_who_where_and_until_when(run: Any, federation: Any, verb: Any) -> None:
    org = federation.org()
    told = run(*verb, "--org", org, "--output", "json")
    assert told.exit_code == 0, told.stderr
    kind = {"node": "node/1", "operator": "operator/admin"}[verb[0]]
    assert told.json["spiffe_id"] == f"spiffe://bank.example/{kind}"
    in_a_year = datetime.now(UTC) + timedelta(days=365)
    assert told.json["not_after_ms"] == pytest.approx(in_a_year.timestamp() * 1000, abs=600_000)
    shown = run(*verb, "--org", org)
    assert "renewed" in shown.stdout
    assert "not_after" in shown.stdout
    assert Organisation.load(org).operator().spiffe_id.endswith("/operator/admin")


def test_another_organisation_s_node_is_refused(run: Any, federation: Any) -> None:
    told = run("node", "renew", federation.org("clinic.example"), "--org", federation.org())
    assert told.exit_code == 1
    assert "is not of bank.example" in told.stderr


def test_a_renewed_operator_is_let_in(run: Any, federation: Any, node: Any) -> None:
    assert run("operator", "renew", "--org", federation.org()).exit_code == 0
    assert run("status", "--org", federation.org()).exit_code == 0


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (31 * DAY_MS, ""),
        (30 * DAY_MS, "in 30 days"),
        (DAY_MS - 1, "in 0 days"),
        (-DAY_MS, "in 0 days"),
    ],
)
def test_the_end_of_a_certificate_is_warned_of(left: int, words: str) -> None:
    now = 1_700_000_000_000
    warning = warning_of_certificate(now + left, now)
    assert words in warning
    assert bool(words) == bool(warning)


def test_a_node_that_does_not_say_is_not_warned_of() -> None:
    assert warning_of_certificate(0, 1_700_000_000_000) == ""


def test_status_tells_the_end(
    run: Any, federation: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run("status", "--org", federation.org(), "--output", "json")
    assert told.json["certificate_not_after_ms"] == node.certificate_not_after_ms
    assert told.stderr == ""
    end = node.certificate_not_after_ms
    monkeypatch.setattr(statuses, "_wall_ms", lambda: end - 5 * DAY_MS)
    told = run("status", "--org", federation.org())
    assert "in 5 days" in told.stderr
