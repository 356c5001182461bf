"""`quorate chaos sim`: what it runs, says and leaves, and with which exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner

from quorate.chaos.simulate import seeds_of
from quorate.cli.chaos import app
from quorate.core.errors import ConfigurationError
from quorate.testing.simulation import fleet, run

IMPATIENT = "tests.simulation.test_command:nobody_waits"


@contextmanager
def nobody_waits() -> Iterator[None]:
    """A promise that no federation keeps: whole again at once."""
    with mock.patch.object(run, "RESUME_S", 0.1):
        yield


def sim(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    done = CliRunner().invoke(app, ["sim", "--profile", "short", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("text", "seeds"), [("3-5", [3, 4, 5]), ("7-7", [7]), ("0-1", [0, 1])], ids=str
)
def test_a_range_names_its_seeds(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


def test_a_number_asks_for_so_many_seeds_that_nobody_has_tried() -> None:
    first, again = seeds_of("30"), seeds_of("30")
    assert first == list(range(first[0], first[0] + 30))
    assert first != again


@pytest.mark.parametrize("text", ["", "0", "-", "5-3", "x", "1-y", "-4"], ids=str)
def test_what_names_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="names no seeds"):
        seeds_of(text)


def test_held_promises_end_with_0_and_say_what_was_seen() -> None:
    code, out, err = sim("--seeds", "7-8", "--jobs", "2", "--output", "json")
    summary = json.loads(out)
    assert code == 0
    assert (summary["profile"], summary["seeds"], summary["runs"]) == ("short", "7-8", 2)
    assert summary["failed"] == []
    assert summary["simulated_hours"] > 0
    assert summary["sometimes"]["permit"] > 0
    assert "7-8" in err


def test_a_broken_promise_ends_with_1_and_names_the_command_that_shows_it() -> None:
    code, out, err = sim("--seeds", "7-7", "--patches", IMPATIENT)
    assert code == 1
    assert "broken" in out
    again = f"quorate chaos sim --profile short --replay 7 --patches {IMPATIENT}"
    assert again in out
    assert again in err
    assert "whole again in time" in err


def test_a_range_that_has_shown_too_little_ends_with_6_when_all_is_required() -> None:
    """Nothing happens in a calm federation that its promises could break at."""
    calm = ("--profile", "calm", "--seeds", "1-1", "--output", "json")
    code, out, _ = sim(*calm, "--require-all")
    assert code == 6
    summary = json.loads(out)
    assert summary["failed"] == []
    assert {"core killed in a turn", "disk lost", "snapshot installed"} <= set(summary["never"])
    assert not {"accepted", "permit", "leader elected"} & set(summary["never"])
    assert sim(*calm)[0] == 0


def test_a_range_that_has_shown_everything_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "EXPECTED", ("accepted", "permit"))
    assert sim("--seeds", "7-7", "--require-all")[0] == 0


def test_a_broken_promise_is_told_before_what_was_never_seen() -> None:
    assert sim("--seeds", "7-7", "--patches", IMPATIENT, "--require-all")[0] == 1


@pytest.mark.parametrize("one", ["--replay", "--shrink"])
def test_one_run_is_no_range(one: str) -> None:
    done = CliRunner().invoke(app, ["sim", one, "7", "--require-all"])
    assert done.exit_code == 2
    assert "range of seeds" in done.output


def test_a_replay_shows_every_event() -> None:
    code, out, _ = sim("--replay", "7")
    assert code == 0
    assert "repaired" in out
    assert "every promise held" in out


def test_a_smaller_run_is_kept_and_breaks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, *_ = sim("--shrink", "7", "--seconds", "3", "--patches", IMPATIENT, "--output", "json")
    assert code == 1
    code, out, _ = sim(
        *("--plan", "quorate-short-7.json", "--patches", IMPATIENT, "--output", "json")
    )
    assert code == 1
    assert "whole again in time" in out.splitlines()[-1]


def test_a_run_that_keeps_its_promises_cannot_be_made_smaller() -> None:
    code, _, err = sim("--shrink", "7")
    assert code == 0
    assert "nothing to make smaller" in err


def test_a_plan_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    for text in ("", "[]", "{}", '{"seed": 1}'):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match="holds no plan"):
            sim("--plan", str(file))


def test_a_profile_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(app, ["sim", "--profile", "strange"])
    assert done.exit_code == 2
    assert "strange is none of" in done.output
