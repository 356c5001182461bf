"""`quorate chaos soak`: what is asked for arrives, and the exit code is what came of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from quorate.chaos import soak
from quorate.cli.app import app
from quorate.cli.output import ExitCode


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    calls: list[dict[str, object]] = []

    def run_soak(**options: object) -> int:
        calls.append(options)
        return ExitCode.ERROR if options["seed"] == 13 else ExitCode.OK

    monkeypatch.setattr(soak, "run_soak", run_soak)
    return calls


def run(*arguments: str) -> int:
    return CliRunner().invoke(app, ["chaos", "soak", *arguments]).exit_code


def test_every_option_arrives(asked: list[dict[str, object]], tmp_path: Path) -> None:
    report, directory = tmp_path / "report.json", tmp_path / "directory"
    code = run(
        *("--minutes", "30", "--seed", "7", "--log-tail", "5", "--max-log-entries", "50"),
        *("--report", str(report), "--directory", str(directory), "--output", "json"),
    )
    assert code == ExitCode.OK
    assert asked == [
        {
            "seconds": 1_800.0,
            "seed": 7,
            "output": "json",
            "directory": directory,
            "report": report,
            "log_tail": 5,
            "max_log_entries": 50,
        }
    ]


def test_a_claim_that_fails_fails_the_command(asked: list[dict[str, object]]) -> None:
    assert run("--seed", "13") == ExitCode.ERROR
    assert len(asked) == 1


def test_without_a_seed_chance_gives_one(asked: list[dict[str, object]]) -> None:
    assert [run(), run()] == [ExitCode.OK, ExitCode.OK]
    first, second = (call["seed"] for call in asked)
    assert first != second


@pytest.mark.parametrize("minutes", ["0", "2.9", "-1", "nan"])
def test_too_short_a_soak_shows_nothing(asked: list[dict[str, object]], minutes: str) -> None:
    assert run("--minutes", minutes) != ExitCode.OK
    assert asked == []
