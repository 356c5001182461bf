"""The soak: real nodes under load for a long time, killed and stopped at random.

Owns the entry alone; nothing else is imported before it runs.
"""

from __future__ import annotations

import importlib
from pathlib import Path

__all__ = ["run_soak"]


def run_soak(
    *,
    seconds: float,
    seed: int,
    output: str,
    directory: Path | None,
    report: Path | None,
    log_tail: int,
    max_log_entries: int | None,
) -> int:
    """Runs the soak; returns 0 only if every claim held.

    output: "text", or "json" for one document on standard output. directory: new or empty, and
    kept; else a temporary one. report: where to write the document with all samples.
    log_tail: how many applied entries of the Raft log each node is told to keep.
    max_log_entries: how many it may have at any moment; None: 2,000 more than told.
    """
    entry = importlib.import_module("quorate.chaos.soak.entry")
    return int(
        entry.run(
            seconds=seconds,
            seed=seed,
            output=output,
            directory=directory,
            report=report,
            log_tail=log_tail,
            max_log_entries=max_log_entries,
        )
    )
