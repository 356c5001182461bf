"""Looks for inputs that break a target, and says how long and how often it has tried.

`python -m tests.fuzz --seconds 60 [TARGET...]`: one target after the other, each in a process of
its own. Inputs that reach something new gather in `.fuzz`, with what libFuzzer says; what breaks a
target is put under `found`, from where the ordinary tests take it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz import targets
from tests.fuzz.harness import CORPUS, FOUND, HERE, TARGETS, within_bounds
from tests.fuzz.seeds import PREFIX, save

assert targets

PLACE: Final = Path(".fuzz")
TRIED: Final = HERE / "tried.json"
"""How many seconds of fuzzing each target has had, and how many inputs."""
TIMEOUT_S: Final = 25
MAX_LENGTH: Final = 16 * 1024
KEPT_INPUTS: Final = 8
"""That a target is given in addition to its seeds, in the repository."""
KEPT_BYTES: Final = 1024
"""That one of them may have."""
_EXECUTED: Final = re.compile(rb"stat::number_of_executed_units:\s+(\d+)")
_SPENT: Final = re.compile(rb"Done \d+ runs in (\d+) second")
_COVERED: Final = re.compile(rb"cov: (\d+) ft:")


@dataclass(frozen=True, slots=True)
class Run:
    """seconds: of fuzzing alone; 0 when it was broken. found: files of inputs that broke it."""

    name: str
    seconds: int
    executed: int
    covered: int
    found: tuple[Path, ...]


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(name: str, seconds: int) -> Run:
    own = TARGETS[name].inputs
    work, found = PLACE / own, FOUND / own
    for place in (work, found):
        place.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    command = [sys.executable, "-m", "tests.fuzz.guided", name, work, CORPUS / own, found]
    options = {
        "max_total_time": seconds,
        "timeout": TIMEOUT_S,
        "max_len": MAX_LENGTH,
        "artifact_prefix": f"{found}/",
        "print_final_stats": 1,
        "reload": 0,
    }
    done = subprocess.run(
        [*map(str, command), *(f"-{key}={value}" for key, value in options.items())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    (PLACE / f"{name}.log").write_bytes(done.stdout)
    broke = sorted({*found.iterdir()} - before) + _beyond_bounds(name, work, found)
    if done.returncode and not broke:
        raise SystemExit(f"{name} did not run: see {PLACE / name}.log")
    return Run(
        name,
        _last(_SPENT, done.stdout),
        _last(_EXECUTED, done.stdout),
        _last(_COVERED, done.stdout),
        tuple(broke),
    )


def _last(pattern: re.Pattern[bytes], said: bytes) -> int:
    return int((pattern.findall(said) or [0])[-1])


def _beyond_bounds(name: str, work: Path, found: Path) -> list[Path]:
    """Holds what was gathered to the bounds, which cost too much to look at in every run."""
    broke = []
    for file in sorted(work.iterdir()):
        try:
            within_bounds(TARGETS[name], file.read_bytes())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            say(f"{name}: {error}")
            broke.append(save(found, file.read_bytes(), "bound-"))
    return broke


def keep(name: str) -> None:
    """Adds the newest of what was gathered to the corpus: it was the hardest to come by. What was
    added before stays."""
    own = TARGETS[name].inputs
    place = CORPUS / own
    room = KEPT_INPUTS - sum(not file.name.startswith(PREFIX) for file in place.iterdir())
    gathered = [file for file in (PLACE / own).iterdir() if file.stat().st_size <= KEPT_BYTES]
    gathered.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in gathered[: max(0, room)]:
        save(place, file.read_bytes())


def add_up(done: Run) -> None:
    """Adds what was tried to what was before."""
    tried = json.loads(TRIED.read_text()) if TRIED.exists() else {}
    seconds, executed = tried.get(done.name, (0, 0))
    tried[done.name] = (seconds + done.seconds, executed + done.executed)
    TRIED.write_text(as_text(tried))


def as_text(tried: dict[str, tuple[int, int]]) -> str:
    """A line for each target."""
    lines = (f'  "{name}": [{seconds}, {count}]' for name, (seconds, count) in tried.items())
    return "{\n" + ",\n".join(sorted(lines)) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all, unless some are named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="of the new inputs some, and how many",
    )
    asked = parser.parse_args()
    unknown = set(asked.targets) - TARGETS.keys()
    if unknown:
        parser.error(f"no targets: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    runs = []
    say(f"{'target':24} {'seconds':>8} {'executed':>10} {'covered':>8} found")
    for name in asked.targets or TARGETS:
        done = run(name, asked.seconds)
        runs.append(done)
        shown = ", ".join(each.name for each in done.found) or "nothing"
        say(f"{name:24} {done.seconds:8} {done.executed:10} {done.covered:8} {shown}")
        if asked.keep:
            keep(name)
            add_up(done)
    total = sum(each.seconds for each in runs), sum(each.executed for each in runs)
    say(f"{'all':24} {total[0]:8} {total[1]:10}")
    if any(each.found for each in runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
