"""What a soak found is judged by what it found, and by whether there was enough to find."""

from __future__ import annotations

import dataclasses
import json
import signal
import tempfile
from pathlib import Path

import pytest

from quorate.chaos.operator import Acknowledged
from quorate.chaos.polite import INTERRUPTED
from quorate.chaos.soak import entry
from quorate.chaos.soak.bounds import Bounds
from quorate.chaos.soak.load import LEAST_PACE_S, pace_s
from quorate.chaos.soak.plan import Fault
from quorate.chaos.soak.report import document, found_claims
from quorate.chaos.soak.run import Found, not_where_told, snapshots_installed
from quorate.core.limits import MAX_EXECUTORS_PER_DOMAIN

SECONDS = 120.0


def good() -> Found:
    found = Found(
        rounds=3, entries=5_000, acknowledged=5_000, unknown=40, snapshots=3, longest_mending_s=4.0
    )
    found.faults.update(dict.fromkeys(Fault, 2))
    return found


def failed(found: Found) -> list[str]:
    return [claim.id for claim in found_claims(found, SECONDS) if not claim.holds]


def test_a_soak_without_loss_holds() -> None:
    assert failed(good()) == []


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"lost": 1}, "loss.lost"),
        ({"misplaced": 1}, "loss.misplaced"),
        ({"problems": ["another root"]}, "loss.problems"),
        ({"acknowledged": 100}, "loss.acknowledged"),
        ({"unknown": 0}, "loss.unknown"),
        ({"snapshots": 0}, "snapshots"),
        ({"longest_mending_s": 61.0}, "mending.longest"),
    ],
)
def test_each_fault_of_a_soak_fails_a_claim(changes: dict[str, object], claim: str) -> None:
    assert failed(dataclasses.replace(good(), **changes)) == [claim]  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", [Fault.KILL_NODE, Fault.KILL_CORE, Fault.KILL_ALL])
def test_a_soak_that_killed_nobody_shows_nothing(fault: Fault) -> None:
    found = good()
    del found.faults[fault]
    assert failed(found) == [f"fault.{fault.name}"]


def test_lost_and_repeated_commands_are_told_apart() -> None:
    ledger = {"a": [1], "twice": [2, 3], "elsewhere": [5]}
    told = [
        Acknowledged("a", 1, True),
        Acknowledged("twice", 2, True),
        Acknowledged("elsewhere", 4, True),
        Acknowledged("gone", 6, True),
    ]
    assert not_where_told(told, lambda command: ledger.get(command, [])) == (1, 2)
    assert not_where_told(told[:1], lambda command: ledger.get(command, [])) == (0, 0)


def test_a_nodes_log_tells_of_its_snapshots(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_bytes(
        b'{"index": 5, "message": "snapshot.begun"}\n'
        b'{"index": 5, "message": "snapshot.installed"}\n\xff\n'
        b'{"index": 9, "message": "snapshot.installed"}\n'
    )
    assert snapshots_installed(log) == 2


@pytest.mark.parametrize("hours", [0.1, 0.5, 1, 24])
def test_a_writer_stays_below_the_limit_of_executors(hours: float) -> None:
    seconds = hours * 3_600
    assert pace_s(seconds) >= LEAST_PACE_S
    assert seconds / pace_s(seconds) < MAX_EXECUTORS_PER_DOMAIN * 0.9


def test_the_document_is_json_and_says_how_to_repeat_it() -> None:
    found = good()
    found.problems += [f"problem {number}" for number in range(100)]
    claims = found_claims(found, 90.0)
    bounds = Bounds(90.0, log_tail=100, max_log_entries=2_100)
    told = document(claims, found, holds=False, problem="", seed=5, bounds=bounds, duration_s=91.23)
    read = json.loads(json.dumps(told))
    assert read["again"] == (
        "quorate chaos soak --minutes 1.5 --seed 5 --log-tail 100 --max-log-entries 2100"
    )
    assert read["found"]["faults"]["KILL_ALL"] == 2
    assert (len(read["found"]["problems"]), read["found"]["problems_found"]) == (10, 100)
    assert [claim["id"] for claim in read["claims"] if not claim["holds"]] == ["loss.problems"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_no_private_key_outlives_a_polite_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def perform(place: Path, *_: object, **__: object) -> int:
        (place / "governance.key").write_text("secret")
        signal.raise_signal(number)
        return 0

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(entry, "_perform", perform)
    code = entry.run(
        seconds=60,
        seed=1,
        output="text",
        directory=None,
        report=None,
        log_tail=1,
        max_log_entries=None,
    )
    assert code == INTERRUPTED
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_known_before_anything_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "_perform", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(OSError, match="missing"):
        entry.run(
            seconds=60,
            seed=1,
            output="text",
            directory=None,
            report=tmp_path / "missing" / "report.json",
            log_tail=1,
            max_log_entries=None,
        )
