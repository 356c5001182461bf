"""`quorate proposal open parameters`, and `quorate federation show`."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.cli.conftest import DOMAINS

BANK, CLINIC = DOMAINS[:2]
FIRST = {
    "authority_period_ms": 2_000,
    "max_permit_ttl_ms": 1_000,
    "rho_ppm": 10_000,
    "max_skew_ms": 5_000,
}


@pytest.fixture
def told(run: Any, federation: Any) -> Any:
    def show(output: str = "json") -> Any:
        ran = run("federation", "show", "--org", federation.org(BANK), "-o", output)
        assert ran.exit_code == 0, ran.stderr
        return ran.json if output == "json" else ran.stdout

    return show


def test_what_is_not_named_stays_as_it_is(opened: Any, must: Any, nodes: Any, told: Any) -> None:
    ident = opened("parameters", "--authority-period", "5s", "--rho-ppm", "0")
    proposal = nodes[BANK].view.proposal(ident)
    assert proposal.act == "federation.set_parameters"
    shown = must("show", ident)
    wished = FIRST | {"authority_period_ms": 5_000, "rho_ppm": 0}
    assert shown["body"] == {"parameters": wished}
    assert shown["changes"] == [
        ["authority period ms", "2000", "5000"],
        ["rho ppm", "10000", "0"],
    ]
    must("vote", ident, "yes", by=CLINIC)
    said = told()
    assert said["parameters"] == wished
    assert said["widest"] == wished | {"rho_ppm": 10_000}
    again = must("show", ident)["changes"]
    assert ["authority period ms", "5000", "5000"] in again, "what was asked for, when it is over"


def test_people_see_what_is_in_force(opened: Any, must: Any, told: Any) -> None:
    assert "2000" in told("text")
    must("vote", opened("parameters", "--max-permit-ttl", "200ms"), "yes", by=CLINIC)
    text = told("text")
    assert "200 (once 1000)" in text
    assert "domain per min" in text


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 2),
        (("--authority-period", "1ms"), 2),
        (("--max-permit-ttl", "3s"), 2),
        (("--rho-ppm", "200000"), 2),
        (("--max-skew", "soon"), 2),
    ],
)
def test_what_none_can_be_is_not_signed(
    ask: Any, nodes: Any, options: tuple[str, ...], code: int
) -> None:
    ran = ask("open", "parameters", *options)
    assert (ran.exit_code, ran.error["kind"]) == (code, "usage")
    kinds = [type(each).__name__ for each in nodes[BANK].requests]
    assert "SubmitRequest" not in kinds


def test_what_they_are_already_is_denied(ask: Any, nodes: Any) -> None:
    ran = ask("open", "parameters", "--rho-ppm", "10000")
    assert (ran.exit_code, ran.json["reason"]) == (3, "ILLEGAL_TRANSITION")


def test_rates_are_said_whole(opened: Any, must: Any, nodes: Any, told: Any) -> None:
    ident = opened("rates", "--domain", "600")
    proposal = nodes[BANK].view.proposal(ident)
    assert proposal.act == "federation.set_rates"
    assert must("show", ident)["changes"] == [
        ["domain per min", "no limit", "600"],
        ["executor per min", "no limit", "no limit"],
    ]
    must("vote", ident, "yes", by=CLINIC)
    assert told()["rates"] == {"domain_per_min": 600, "executor_per_min": 0}
    assert "600" in told("text")
    must("vote", opened("rates", "--executor", "5", by=CLINIC), "yes")
    assert told()["rates"] == {"domain_per_min": 0, "executor_per_min": 5}


@pytest.mark.parametrize("said", ["-1", "many"])
def test_a_rate_is_a_number(ask: Any, nodes: Any, said: str) -> None:
    ran = ask("open", "rates", "--domain", said)
    assert ran.exit_code == 2
    assert nodes[BANK].requests == []


def test_a_rate_can_be_signed_offline(must: Any, nodes: Any, tmp_path: Any) -> None:
    file = tmp_path / "rates.json"
    must("open", "rates", "--domain", "5", "--save", file)
    assert file.stat().st_size > 0
    assert nodes[BANK].requests == []
