"""The page on examples names every file of theirs, and they name no machine and no registry."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_tidy import MACHINE, UNFINISHED

PAGE = "docs/examples.md"
FOLDER = "docs/examples"


@pytest.fixture(scope="module")
def files(root: Path) -> list[Path]:
    found = [file for file in (root / FOLDER).rglob("*") if file.is_file()]
    return [file for file in found if not {"node_modules", "__pycache__"} & {*file.parts}]


def test_every_example_has_its_place_on_the_page(
    pages: dict[str, Any], root: Path, files: list[Path]
) -> None:
    tops = {file.relative_to(root / FOLDER).parts[0] for file in files}
    assert len(tops) == 6
    assert {top for top in tops if f"(examples/{top})" not in pages[PAGE].prose} == set()


def test_they_name_no_machine_and_leave_nothing_to_be_done(files: list[Path]) -> None:
    for file in files:
        assert not MACHINE.search(file.read_text()), file
        assert not UNFINISHED.search(file.read_text()), file


def test_what_is_locked_names_no_registry(root: Path) -> None:
    lock = json.loads((root / FOLDER / "node_client/package-lock.json").read_text())
    packages = {name: facts for name, facts in lock["packages"].items() if name}
    assert len(packages) > 10
    assert {name for name, facts in packages.items() if "resolved" in facts} == set()
    assert {name for name, facts in packages.items() if "integrity" not in facts} == set()


def test_the_shell_script_is_one(root: Path) -> None:
    subprocess.run(["sh", "-n", str(root / FOLDER / "copy_records.sh")], check=True)
