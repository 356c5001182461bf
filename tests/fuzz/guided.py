"""One target, guided by coverage: `python -m tests.fuzz.guided TARGET [libFuzzer's arguments]`.

Needs atheris, which is not among what the tests need; `make fuzz` brings it.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["quorate"]):
    from tests.fuzz import targets

from tests.fuzz.harness import TARGETS, inputs
from tests.fuzz.mutate import mutated

assert targets

ROOM_BYTES: Final = 512 * 1024 * 1024
"""That an input may take in addition to the program itself: more is a MemoryError, and a find."""


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def mutator(known: list[bytes]) -> Callable[[bytes, int, int], bytes]:
    """Half of the changes are libFuzzer's own."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)  # noqa: S311 - no secret
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return mutated(bytes(data), random, known)[:max_size]

    return mutate


def main() -> None:
    name, *arguments = sys.argv[1:]
    target = TARGETS[name]
    known = list(inputs(name).values())
    for data in known:
        target.run(data)
    limit_memory()
    fuzzer: Any = atheris
    fuzzer.Setup([sys.argv[0], *arguments], target.run, custom_mutator=mutator(known))
    fuzzer.Fuzz()


if __name__ == "__main__":
    main()
