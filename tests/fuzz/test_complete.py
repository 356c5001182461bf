"""Every module that reads bytes from outside has a target, or a reason why it needs none."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from tests.fuzz import targets
from tests.fuzz.harness import TARGETS, inputs

assert targets

ROOT: Final = Path(__file__).parents[2]
TARGETS_AT: Final = ROOT / "tests/fuzz/targets"
ROOMS: Final = ("node", "consensus")
READING: Final = frozenset(
    {
        "decode_flat",
        "unbase64",
        "b64decode",
        "urlsafe_b64decode",
        "from_bytes",
        "fromhex",
        "unpack",
        "unpack_from",
        "iter_unpack",
        "loads",
        "FromString",
        "ParseFromString",
        "WhichOneof",
        "load_pem_x509_certificate",
        "load_pem_private_key",
        "from_public_bytes",
    }
)
"""What makes values of bytes, whosever they are."""
OF_THE_CODEC: Final = frozenset({"decode", "load"})
"""Everybody has functions of these names."""

NEED_NONE: Final = {
    "quorate.core.graph": "rows that this node has made, and makes anew when they are odd",
    "quorate.cli.evidence": "what this program has signed, and a person's file, by the codec",
    "quorate.cli.proof": "hex of a state that was verified, and read as hex before",
    "quorate.node.fresh_keys": "a key that the node's state has, for its name in a message",
    "quorate.node.recover": "hex that was read as hex before",
    "quorate.runner.messages": "a socket pair, whose other end is this program too",
    "quorate.storage.layout": "names a key of the store in a message",
    "quorate.storage.reads": "bodies whose checksums were verified by `quorate.storage.seal`",
    "quorate.storage.receiving": "as above",
    "quorate.storage.verification": "as above",
    "quorate.storage.writes": "keys of this node's own log, in order",
    "quorate.consensus.pysync": "a number made of this node's own name",
}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(part for part in parts if part != "__init__")


@cache
def modules() -> dict[str, ast.Module]:
    """What a node and its tools are made of: not what tests them."""
    files = [file for room in ROOMS for file in (ROOT / room / "quorate").rglob("*.py")]
    named = {name_of(file): ast.parse(file.read_text()) for file in files if file.stem}
    return {name: tree for name, tree in named.items() if not name.startswith("quorate.testing")}


def reads(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in READING:
                yield name
            case ast.Call(func=ast.Attribute(attr=name)) if name in READING:
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id="codec"), attr=name)):
                if name in OF_THE_CODEC:
                    yield name


def test_every_module_that_reads_has_a_target() -> None:
    tried = {module for target in TARGETS.values() for module in target.reads}
    reading = {name for name, tree in modules().items() if any(reads(tree))}
    assert reading - tried - NEED_NONE.keys() == set()
    assert NEED_NONE.keys() <= reading - tried, "and no exception is left over"
    assert len(reading) > 30


def test_targets_name_modules_that_there_are() -> None:
    for target in TARGETS.values():
        assert target.reads
        for module in target.reads:
            importlib.import_module(module)


def test_every_check_of_a_request_is_tried() -> None:
    own = modules()["quorate.api.validate"].body
    checks = [each.name for each in own if isinstance(each, ast.FunctionDef)]
    tree = ast.parse((ROOT / "tests/fuzz/targets/wire.py").read_text())
    tried = {each.attr for each in ast.walk(tree) if isinstance(each, ast.Attribute)}
    assert {name for name in checks if name.startswith("check_")} <= tried


@pytest.mark.long
def test_what_is_kept_comes_to_every_property() -> None:
    """A target whose inputs are all refused tries nothing."""
    reached: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return note

    def follow(frame: FrameType, _event: str, _: object) -> Any:
        return note if Path(frame.f_code.co_filename).parent == TARGETS_AT else None

    for target in TARGETS.values():
        for data in inputs(target.name).values():
            before = sys.gettrace()
            sys.settrace(follow)
            try:
                target.run(data)
            finally:
                sys.settrace(before)
    missed = [
        f"{file.name}:{node.lineno}: {ast.unparse(node)}"
        for file in TARGETS_AT.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert) and (str(file), node.lineno) not in reached
    ]
    assert missed == []


def test_the_page_says_how_long_was_tried() -> None:
    tried = json.loads((ROOT / "tests/fuzz/tried.json").read_text())
    assert tried.keys() <= TARGETS.keys()
    seconds, executed = (sum(each[part] for each in tried.values()) for part in (0, 1))
    page = " ".join((ROOT / "docs/simulation.md").read_text().split())
    assert f"{seconds:,} seconds in all, with {executed:,} inputs" in page


def test_a_module_that_reads_would_be_seen() -> None:
    assert list(reads(ast.parse("x = struct.unpack_from(f, data)"))) == ["unpack_from"]
    assert list(reads(ast.parse("codec.load(data)"))) == ["load"]
    assert list(reads(ast.parse("Organisation.load(data)"))) == []
