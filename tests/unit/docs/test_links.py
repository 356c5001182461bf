"""Whatever a page points to exists: pages, headings, files, tests, targets of make."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_TARGET = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)


def test_links_lead_somewhere(page: Any, pages: dict[str, Any], root: Path) -> None:
    broken = []
    for target in _LINK.findall(page.prose):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.path.parent / name).resolve() if name else page.path
        if not file.exists():
            broken.append(target)
        elif anchor:
            other = pages.get(file.relative_to(root).as_posix())
            if other is None or anchor not in other.anchors():
                broken.append(target)
    assert broken == []


def test_tests_that_are_named_exist(page: Any, root: Path) -> None:
    missing = []
    for file, name in _TEST.findall(page.text):
        path = root / file
        functions = (
            {
                node.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            if path.exists()
            else set()
        )
        if name not in functions:
            missing.append(f"{file}::{name}")
    assert missing == []


def test_targets_of_make_exist(page: Any, root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    known = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    assert known >= {"demo", "test", "lint"}
    assert set(_TARGET.findall(page.text)) - known == set()


def test_every_page_is_reached_from_the_readme(pages: dict[str, Any], root: Path) -> None:
    reached, todo = set(), ["README.md"]
    while todo:
        name = todo.pop()
        if name in reached or name not in pages:
            continue
        reached.add(name)
        page = pages[name]
        for target in _LINK.findall(page.prose):
            file = (page.path.parent / target.partition("#")[0]).resolve()
            if target.partition("#")[0] and file.is_relative_to(root):
                todo.append(file.relative_to(root).as_posix())
    assert set(pages) - reached == set()


def test_every_hazard_has_its_heading_in_order(pages: dict[str, Any]) -> None:
    headings = re.findall(r"^### (\d+)\. ", pages["docs/consensus.md"].text, re.MULTILINE)
    assert headings == [str(number) for number in range(1, 18)]
