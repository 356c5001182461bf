"""The demonstration: three organisations, real executors, quorum lost, denied, healed.

Owns the entry alone. The executors run as `python -m quorate.chaos.demo.executor`, so nothing is
imported here that they do not need.
"""

from __future__ import annotations

import importlib
from pathlib import Path

__all__ = ["run_demo"]


def run_demo(*, output: str, keep: bool, directory: Path | None) -> int:
    """Runs the demonstration; returns 0 only if every claim held.

    output: "text", or "json" for one document on standard output (the narration goes to standard
    error then). keep: leave the federation running at the end, until Ctrl-C. directory: new or
    empty, and kept; else a temporary one.
    """
    entry = importlib.import_module("quorate.chaos.demo.entry")
    return int(entry.run(output=output, keep=keep, directory=directory))
