"""Many seeds on all cores: worker processes, one run at a time each.

Owns the processes and what the results add up to. Results come as they are ready; which process
runs which seed changes nothing about them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from quorate.core.errors import QuorateError
from quorate.testing.simulation.sometimes import EXPECTED

_LINE_BYTES: Final = 16 * 1024 * 1024


class WorkerError(QuorateError):
    """A worker process ended in the middle of a run."""


@dataclass
class Summary:
    """What many runs of one profile have shown. seeds: which were wanted, as `A-B`: enough to run
    them again."""

    profile: str
    seeds: str = ""
    runs: int = 0
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    slowest_s: float = 0.0
    failed: list[dict[str, Any]] = field(default_factory=list)
    sometimes: Counter[str] = field(default_factory=Counter)

    def add(self, result: dict[str, Any]) -> None:
        self.runs += 1
        self.simulated_s += result["simulated_s"]
        self.cpu_s += result["cpu_s"]
        self.slowest_s = max(self.slowest_s, result["resumed_s"])
        self.sometimes.update(result["sometimes"])
        if result["failure"] is not None:
            self.failed.append(result)

    @property
    def never(self) -> list[str]:
        """What should have happened in some run, and did not."""
        return [name for name in EXPECTED if not self.sometimes[name]]

    @property
    def rate(self) -> float:
        """Simulated seconds per second of one core."""
        return self.simulated_s / self.cpu_s if self.cpu_s else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile,
            "seeds": self.seeds,
            "runs": self.runs,
            "simulated_hours": round(self.simulated_s / 3600, 3),
            "cpu_s": round(self.cpu_s, 1),
            "simulated_s_per_core_s": round(self.rate, 1),
            "slowest_resume_s": self.slowest_s,
            "failed": self.failed,
            "never": self.never,
            "sometimes": dict(sorted(self.sometimes.items())),
        }


async def run_fleet(
    seeds: Iterable[int], profile: str, jobs: int, patches: str = ""
) -> AsyncIterator[dict[str, Any]]:
    """Yields each seed's result (`worker.to_json`) as it is ready. patches: see `worker`. Raises
    WorkerError."""
    tasks = iter(
        [json.dumps({"seed": seed, "profile": profile, "patches": patches}) for seed in seeds]
    )
    ready: asyncio.Queue[dict[str, Any] | BaseException | None] = asyncio.Queue()
    workers = [asyncio.create_task(_work(tasks, ready)) for _ in range(jobs)]
    try:
        left = len(workers)
        while left:
            result = await ready.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                left -= 1
            else:
                yield result
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _work(
    tasks: Iterator[str], ready: asyncio.Queue[dict[str, Any] | BaseException | None]
) -> None:
    """One worker process, fed until there is nothing more to do."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quorate.testing.simulation.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for task in tasks:
            process.stdin.write(f"{task}\n".encode())
            await process.stdin.drain()
            line = await process.stdout.readline()
            if not line:
                code = await process.wait()
                raise WorkerError(
                    f"a worker ended with code {code} while it ran {task}",
                    hint="run that seed with --replay",
                )
            await ready.put(json.loads(line))
        process.stdin.close()
        await process.wait()
        await ready.put(None)
    except (WorkerError, OSError) as error:
        await ready.put(error)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
