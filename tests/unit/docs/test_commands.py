"""Every command and every piece of code that a page shows is one that there is."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from quorate.cli.app import app
from quorate.cli.output import ExitCode
from quorate.core.errors import MalformedError

_PROGRAM = re.compile(r"(?:\.venv/bin/)?quorate$")


def shown_commands(page: Any) -> Iterator[list[str]]:
    """The arguments of every `quorate ...` in its shell blocks."""
    for block in page.blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and _PROGRAM.match(words[0]):
                end = next((i for i, word in enumerate(words) if word in ("&&", "|", ">")), None)
                yield words[1:end]


def find(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and what is left of them."""
    command: Any = typer.main.get_command(app)
    left = list(words)
    while left and left[0] in ("--save", "--governance-key"):  # which stand before every command
        left = left[2:]
    while hasattr(command, "get_command"):
        context = command.make_context("quorate", [], resilient_parsing=True)
        found = command.get_command(context, left[0]) if left else None
        if found is None:
            raise AssertionError(f"{words} is no command")
        command, left = found, left[1:]
    return command, left


def parse(arguments: list[str]) -> None:
    """Parses as the program does, and runs nothing. Raises what the program would."""
    command, left = find(arguments)
    command.make_context(command.name, left)


def test_commands_that_are_shown_exist(page: Any) -> None:
    for arguments in shown_commands(page):
        try:
            parse(arguments)
        except (typer.TyperException, MalformedError) as error:
            pytest.fail(f"quorate {' '.join(arguments)}: {error}")


def test_commands_in_running_text_exist(page: Any) -> None:
    """`quorate genesis verify` in a sentence names a command, whatever its arguments."""
    for quoted in re.findall(r"`quorate ([a-z][^`]*)`", page.prose):
        find(quoted.split())


def test_a_wrong_command_would_be_noticed() -> None:
    for wrong in (["grant", "erase", "x"], ["status", "--orgg", "bank"], ["genesis"]):
        with pytest.raises((typer.TyperException, AssertionError)):
            parse(wrong)


def test_the_operations_page_shows_every_command_of_a_federation(pages: dict[str, Any]) -> None:
    shown = {tuple(arguments[:2]) for arguments in shown_commands(pages["docs/operations.md"])}
    for name in ("node", "domain", "executor", "trust", "grant", "genesis"):
        group: Any = typer.main.get_command(app)
        context = group.make_context("quorate", [], resilient_parsing=True)
        verbs = group.get_command(context, name).list_commands(context)
        missing = {verb for verb in verbs if (name, verb) not in shown}
        # What undoes a suspension of a grant is shown for the executor.
        assert missing <= {"reinstate"}, name


def test_exit_codes_are_the_programs(pages: dict[str, Any]) -> None:
    rows = [row for row in pages["docs/operations.md"].rows() if row[0].isdecimal()]
    assert [int(row[0]) for row in rows] == [code.value for code in ExitCode]


def test_code_that_is_shown_is_python_and_imports_what_there_is(page: Any) -> None:
    for block in page.blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("quorate"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


def test_methods_of_the_client_and_the_cluster_that_are_shown_exist(pages: dict[str, Any]) -> None:
    from quorate.chaos.cluster import Cluster  # noqa: PLC0415
    from quorate.chaos.links import Links  # noqa: PLC0415
    from quorate.client import AsyncGate, AsyncLease, Gate, Lease  # noqa: PLC0415

    text = pages["docs/executors.md"].text + pages["README.md"].text
    assert set(re.findall(r"\bgate\.(\w+)\(", text)) <= {*dir(Gate), *dir(AsyncGate)}
    assert set(re.findall(r"\blease\.(\w+)\(", text)) <= {*dir(Lease), *dir(AsyncLease)}
    chaos = pages["docs/chaos.md"]
    own = set(dir(Cluster)) | {"links"}
    assert set(re.findall(r"\bcluster\.(\w+)[.(]", chaos.blocks("python")[0])) <= own
    table = {tuple(re.findall(r"`(\w+)", row[0])): row for row in chaos.rows()}
    named = {name for names in table for name in names}
    assert named <= own | set(dir(Links))
    assert {"cut", "heal", "kill", "wait_ready"} <= named
