"""The page on `quorate exec` says what the code does."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from quorate.cli import exec as command
from quorate.cli.output import ExitCode
from quorate.client import ClientReason
from quorate.core.outcome import Reason
from quorate.runner import leased
from quorate.runner.reasons import PASSING


@pytest.fixture
def exec_page(pages: dict[str, Any]) -> Any:
    return pages["docs/exec.md"]


def test_reasons_that_pass_are_the_codes(exec_page: Any) -> None:
    cells = [row[0] for row in exec_page.rows() if len(row) == 2]
    named = [
        re.findall(r"`([A-Z_]+)`", cell)
        for cell in cells
        if "QUORATE_" not in cell and "GRPC_" not in cell
    ]
    nodes = [names[0] for names in named if len(names) == 1]
    [clients] = [names for names in named if len(names) > 1]
    assert nodes == [reason.value for reason in Reason if reason in PASSING]
    assert clients == [reason.value for reason in ClientReason if reason in PASSING]


def test_exit_codes_are_the_codes(exec_page: Any) -> None:
    shown = [row[0] for row in exec_page.rows() if len(row) == 2]
    numbers = {int(number) for cell in shown for number in re.findall(r"\b\d+\b", cell)}
    assert numbers == {
        *(ExitCode.ERROR, ExitCode.USAGE, ExitCode.DENIED, ExitCode.INTERRUPTED),
        *(leased.CODE_NOT_EXECUTABLE, leased.CODE_NOT_FOUND, leased.CODE_OF_SIGNALS),
    }


def test_defaults_are_the_codes(exec_page: Any) -> None:
    defaults = {row[0]: row[1] for row in exec_page.rows() if len(row) == 3}
    assert defaults["`--ttl`"] == f"`{command.DEFAULT_TTL_MS // 60_000}m`"
    assert defaults["`--grace`"] == f"`{command.DEFAULT_GRACE_MS // 1_000}s`"


def test_the_error_that_is_shown_has_the_real_fields(exec_page: Any) -> None:
    [block] = exec_page.blocks("json")
    assert list(json.loads(block)["error"]) == [
        *("kind", "message", "hint", "reason", "thing", "lease_id", "started"),
    ]
