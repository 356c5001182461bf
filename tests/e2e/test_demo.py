"""The demonstration itself: what README promises of `make demo`, run as a program runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from quorate.chaos.cluster import cli_command

pytestmark = pytest.mark.cluster

EXPECTED_CLAIMS = 28


def test_every_claim_of_the_demonstration_holds(tmp_path: Path) -> None:
    command = [*cli_command(), "demo", "--output", "json", "--directory", str(tmp_path / "demo")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads(run.stdout)
    broken = [claim for claim in report["claims"] if not claim["holds"]]
    assert (report["holds"], broken, report["problem"]) == (True, [], "")
    assert len(report["claims"]) == EXPECTED_CLAIMS
