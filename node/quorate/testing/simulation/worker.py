"""A process that runs seeds one after the other: each line of its input names one, each line of its
output is a result, as JSON. `fleet` starts it; it needs no state of its own.

A run with a part that is broken on purpose names the function that breaks it, `module:function`;
called without arguments, it returns the context manager that is in force while a run lasts.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from contextlib import nullcontext
from typing import Any

from quorate.testing.simulation.plan import PROFILES
from quorate.testing.simulation.run import Patches, Report, run_seed


def load_patches(name: str) -> Patches:
    """The function `module:function`; no name: nothing is broken."""
    if not name:
        return nullcontext
    module, _, function = name.partition(":")
    patches: Patches = getattr(importlib.import_module(module), function)
    return patches


def to_json(report: Report, cpu_s: float) -> dict[str, Any]:
    """A result as one JSON value."""
    failure = report.failure
    return {
        "seed": report.plan.seed,
        "size": report.plan.size,
        "digest": report.digest,
        "simulated_s": round(report.simulated_s, 3),
        "cpu_s": round(cpu_s, 3),
        "resumed_s": report.resumed_s,
        "sometimes": dict(report.sometimes),
        "failure": None
        if failure is None
        else {
            "promise": failure.promise,
            "message": failure.message,
            "at_s": round(failure.at / 1e9, 6),
            "trace": list(failure.trace),
        },
    }


def main() -> int:
    """Runs what it is told until there is no more."""
    for line in sys.stdin:
        task = json.loads(line)
        started = time.process_time()
        report = run_seed(
            task["seed"],
            PROFILES[task["profile"]],
            patches=load_patches(task.get("patches", "")),
        )
        result = to_json(report, time.process_time() - started)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
