"""The pages of documentation, read once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `prose` is its text less its code blocks."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def prose(self) -> str:
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        return [code for kind, code in _FENCE.findall(self.text) if kind == language]

    def anchors(self) -> set[str]:
        """The fragments that its headings have where Markdown is shown (as GitHub makes them)."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}

    def rows(self) -> Iterator[list[str]]:
        """The rows of all its tables, cell by cell, without headings and rules."""
        lines = self.prose.splitlines()
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            is_heading = after.startswith("|--")
            if line.startswith("|") and not line.startswith("|--") and not is_heading:
                yield [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _pages() -> dict[str, Page]:
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    pages = [Page(file, file.read_text()) for file in sorted(files)]
    return {page.name: page for page in pages}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def pages() -> dict[str, Page]:
    return _pages()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page" in metafunc.fixturenames:
        pages = _pages()
        metafunc.parametrize("page", pages.values(), ids=pages)
