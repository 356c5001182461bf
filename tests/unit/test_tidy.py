"""House style, as far as a machine can see it (CONTRIBUTING.md has the whole).

Formatting, imports, types and the order of the rooms are the linters'; this is what they do not
look at.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("node", "consensus", "chaos", "proto")
FOLDERS: Final = (*ROOMS, "bench", "tests")

MAX_LINES: Final = 450
MAX_TEST_LINES: Final = 600
LONGER_WITH_A_REASON: Final = {
    # One class: its methods override the engine's by name, and are read side by side with it.
    "consensus/quorate/consensus/engine.py": 650,
    # One class: a turn, in the order in which it happens.
    "node/quorate/node/node_core.py": 502,
    # One table of what callers may wish.
    "node/quorate/testing/simulation/workload.py": 555,
    # One class: a machine, and all that may befall it.
    "node/quorate/testing/simulation/machine.py": 460,
}
MAX_FUNCTION_LINES: Final = 75
# Written in parts, so that this file does not hold what it looks for.
UNFINISHED: Final = re.compile("TO" + r"DO\b|FIX" + r"ME\b|XX" + r"X\b")
MACHINE: Final = re.compile(
    "/wo" + "rk/|/ho" + r"me/\w|/ro" + "ot/|bash_" + "jobs|"
    "py" + r"pi\.org|python" + "hosted|index-" + "url"
)


def is_generated(file: Path) -> bool:
    return "_pb2" in file.name


@cache
def sources() -> tuple[Path, ...]:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    return tuple(sorted(file for file in files if not is_generated(file)))


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def texts() -> Iterator[Path]:
    """Everything that people wrote, or that is handed to them."""
    yield from sources()
    for pattern in ("*.md", "docs/**/*.md", "changelog.d/*", "proto/**/*.proto", ".ci/*"):
        yield from (file for file in ROOT.glob(pattern) if file.is_file())
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "tests/fuzz/requirements.lock"):
        yield ROOT / name


def is_test(file: Path) -> bool:
    return name_of(file).startswith("tests/")


def test_there_is_something_to_look_at() -> None:
    assert len(sources()) > 100


def test_files_are_short() -> None:
    long = []
    for file in sources():
        lines = len(file.read_text().splitlines())
        usual = MAX_TEST_LINES if is_test(file) else MAX_LINES
        if lines > LONGER_WITH_A_REASON.get(name_of(file), usual):
            long.append(f"{name_of(file)}: {lines} lines")
    assert long == []


def test_exceptions_are_still_needed() -> None:
    for name in LONGER_WITH_A_REASON:
        assert len((ROOT / name).read_text().splitlines()) > MAX_LINES, name


def test_functions_are_short() -> None:
    long = []
    for file in sources():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{name_of(file)}: {node.name}: {lines} lines")
    assert long == []


def test_modules_say_what_they_are() -> None:
    """Tests may leave it to their names."""
    silent = [
        name_of(file)
        for file in sources()
        if not file.name.startswith("test_")
        and tree_of(file).body
        and ast.get_docstring(tree_of(file)) is None
    ]
    assert silent == []


def test_only_programs_print() -> None:
    programs = ("node/quorate/cli/", "chaos/", "bench/", "tests/")
    printing = [
        f"{name_of(file)}:{node.lineno}"
        for file in sources()
        if not name_of(file).startswith(programs)
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "pprint", "breakpoint")
    ]
    assert printing == []


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def test_nothing_unpickles() -> None:
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"}
    importing = [
        name_of(file)
        for file in sources()
        if not is_test(file) and unsafe & {name.partition(".")[0] for name in imported(file)}
    ]
    assert importing == []


def test_one_module_knows_the_engine() -> None:
    knowing = [
        name_of(file)
        for file in sources()
        if not is_test(file) and any(name.startswith("pysyncobj") for name in imported(file))
    ]
    assert knowing == ["consensus/quorate/consensus/pysync.py"]


def test_nothing_is_left_to_be_done() -> None:
    found = [name_of(file) for file in texts() if UNFINISHED.search(file.read_text())]
    assert found == []


def test_nothing_names_a_machine_or_an_index() -> None:
    found = []
    for file in texts():
        for number, line in enumerate(file.read_text().splitlines(), 1):
            # Where the lock is made, the option that leaves the index out has to be named.
            if MACHINE.search(line.replace("--no-emit-index-" + "url", "")):
                found.append(f"{name_of(file)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_a_broad_except_says_why() -> None:
    unexplained = [
        f"{name_of(file)}:{number}"
        for file in sources()
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(r"# noqa: BLE001\s*(?:#|-)?\s*$", line)
    ]
    assert unexplained == []


def test_the_namespace_belongs_to_no_room() -> None:
    """ADR 0001: no `__init__.py` directly in a `quorate/` folder; one, and types, below it."""
    for room in ROOMS:
        assert not (ROOT / room / "quorate" / "__init__.py").exists()
        for package in (ROOT / room / "quorate").iterdir():
            if package.is_dir() and package.name != "__pycache__":
                assert (package / "__init__.py").is_file(), package
                assert (package / "py.typed").is_file(), package


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (UNFINISHED, "# TO" + "DO: later"),
        (UNFINISHED, "FIX" + "ME"),
        (MACHINE, "see /wo" + "rk/main/x"),
        (MACHINE, "https://py" + "pi.org/simple"),
        (MACHINE, "pip install --index-" + "url=x"),
    ],
)
def test_what_is_looked_for_would_be_found(pattern: re.Pattern[str], text: str) -> None:
    assert pattern.search(text)
