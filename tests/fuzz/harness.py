"""What a target is, and the bounds that every one is held to.

Owns the list of targets. A target takes bytes and returns; whatever it raises is a fault, so that
it catches itself what the parser may raise, and no more.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

SEPARATOR: Final = b"\x00\xff\x00"
"""Between the parts of an input that is a list. No JSON holds it, nor any text."""

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"
FOUND: Final = HERE / "found"

MAX_INPUT_BYTES: Final = 64 * 1024

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What any input at all may take, and what each byte of it may in addition.

    steps: calls of functions. allocated: bytes.
    """

    steps: tuple[int, int] = (3_000, 60)
    allocated: tuple[int, int] = (512 * 1024, 400)


@dataclass(frozen=True, slots=True)
class Target:
    """reads: the modules whose reading of outside bytes it tries. bounds: None: what it does with
    an input is more than reading it. inputs: the target whose inputs it takes."""

    name: str
    run: Callable[[bytes], None]
    reads: tuple[str, ...]
    bounds: Bounds | None
    inputs: str


TARGETS: Final[dict[str, Target]] = {}
_USUAL: Final = Bounds()


def target(
    *reads: str, bounds: Bounds | None = _USUAL, inputs: str = ""
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Makes a function a target, under its own name."""

    def register(run: Callable[[bytes], None]) -> Callable[[bytes], None]:
        name = run.__name__
        assert name not in TARGETS
        TARGETS[name] = Target(name, run, reads, bounds, inputs or name)
        return run

    return register


def attempt(
    errors: type[Exception] | tuple[type[Exception], ...], read: Callable[..., _T], *given: object
) -> _T | None:
    """What a parser makes of it; None when it refuses in a way that it may."""
    try:
        return read(*given)
    except errors:
        return None


def passes(
    errors: type[Exception] | tuple[type[Exception], ...],
    check: Callable[..., object],
    *given: object,
) -> bool:
    """Whether a check has nothing against it."""
    try:
        check(*given)
    except errors:
        return False
    return True


def within_bounds(target: Target, data: bytes) -> None:
    """Runs a target, and holds it to its bounds: how long an input takes, and how much room, may
    follow from its length, and from no number in it."""
    _warm_up(target.name)
    if target.bounds is None:
        target.run(data)
        return
    size = len(data)
    least, each = target.bounds.steps
    steps = _Steps()
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        steps.count(target, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not was_tracing:
            tracemalloc.stop()
    assert steps.taken <= least + each * size, f"{steps.taken} calls for {size} bytes"
    least, each = target.bounds.allocated
    assert peak - before <= least + each * size, f"{peak - before} bytes for {size}"


@cache
def _warm_up(name: str) -> None:
    """What is made once is made now."""
    for data in inputs(name).values():
        TARGETS[name].run(data)
        return


class _Steps:
    """Counts calls."""

    def __init__(self) -> None:
        self.taken = 0

    def count(self, target: Target, data: bytes) -> None:
        before = sys.getprofile()
        sys.setprofile(self._event)
        try:
            target.run(data)
        finally:
            sys.setprofile(before)

    def _event(self, _frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            self.taken += 1


def inputs(name: str) -> dict[str, bytes]:
    """What is kept for a target: how it begins, and what once broke it."""
    own = TARGETS[name].inputs
    files = [file for place in (CORPUS, FOUND) for file in (place / own).glob("*")]
    return {file.relative_to(HERE).as_posix(): file.read_bytes() for file in sorted(files)}
