"""Runs many histories on all cores, each made from its own number, and says what came up.

    python -m tests.property.core.naive [--histories N] [--first SEED] [--processes N]

Ends with 1 when the ledger and the model disagreed, after the shortest history that shows it, or
when something never came up that should have (`due`).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from tests.property.core.naive.due import missing, missing_pairs
from tests.property.core.naive.noting import Came
from tests.property.core.naive.sides import DifferenceError, play, replay, shortest
from tests.property.core.naive.world import Command

BATCH = 100


@dataclass
class Found:
    """What one batch has seen. trouble: the first difference, told at length."""

    histories: int = 0
    commands: int = 0
    came: Came = field(default_factory=Counter)
    trouble: str = ""


def run(seeds: Sequence[int], real_every: int) -> Found:
    """Plays one history for each seed; every `real_every`th with real signatures."""
    found = Found()
    for seed in seeds:
        is_cheap = not real_every or seed % real_every != 0
        try:
            _, commands = play(Random(seed), found.came, is_cheap=is_cheap)  # noqa: S311
        except DifferenceError as error:
            found.trouble = told(seed, error)
            return found
        except Exception as error:
            error.add_note(f"in the history of seed {seed}")
            raise
        found.histories += 1
        found.commands += len(commands)
    return found


def told(seed: int, error: DifferenceError) -> str:
    """A difference with the shortest history that shows one."""
    setting, commands = error.history
    commands = shortest(setting, commands)
    lines = [f"seed {seed}: {error}", f"{setting}; shortest:", *map(short, commands)]
    try:
        replay(setting, commands)
    except DifferenceError as again:
        return "\n".join([*lines, str(again)])
    return "\n".join([*lines, "the commands alone show no difference"])


def short(command: Command) -> str:
    body = {k: v if len(str(v)) < 200 else "..." for k, v in command.body.items()}
    life = command.not_after - command.at
    return f"  {command.at} {command.issuer} {command.verb} {body} ({command.nonce}, {life} ms)"


def batches(first: int, histories: int) -> Iterator[range]:
    for start in range(first, first + histories, BATCH):
        yield range(start, min(start + BATCH, first + histories))


def run_all(first: int, histories: int, processes: int, real_every: int) -> Found:
    """Says how far it has come; ends early at a difference."""
    total, began, said_at = Found(), time.monotonic(), 0.0
    with ProcessPoolExecutor(processes) as pool:
        todo = batches(first, histories)
        begun: set[Future[Found]] = set()
        for seeds in islice(todo, 2 * processes):
            begun.add(pool.submit(run, seeds, real_every))
        while begun:
            done, begun = wait(begun, return_when=FIRST_COMPLETED)
            for part in (future.result() for future in done):
                total.histories += part.histories
                total.commands += part.commands
                total.came.update(part.came)
                total.trouble = total.trouble or part.trouble
                seeds_next = next(todo, None)
                if seeds_next is not None and not total.trouble:
                    begun.add(pool.submit(run, seeds_next, real_every))
            passed = time.monotonic() - began
            if passed - said_at > 10 or not begun:
                said_at, rate = passed, total.histories / passed
                say(f"{total.histories} of {histories} histories, {rate:.0f} a second")
    return total


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="histories", description=__doc__)
    parser.add_argument("--histories", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--real-every", type=int, default=50, help="with real signatures; 0: none")
    parser.add_argument("--verbose", action="store_true", help="what each verb came to")
    given = parser.parse_args()
    found = run_all(given.first, given.histories, given.processes, given.real_every)
    if found.trouble:
        say(found.trouble)
        return 1
    if given.verbose:
        for (verb, reason), count in sorted(found.came.items()):
            say(f"{verb:28} {reason or 'yes':22} {count}")
    pairs = len(found.came)
    say(f"{found.commands} commands, {pairs} pairs of verb and reason, no difference")
    never = missing(found.came) + missing_pairs(found.came)
    if never:
        say(f"never came up: {'; '.join(never)}")
    return 1 if never else 0


if __name__ == "__main__":
    sys.exit(main())
