"""Running a soak from beginning to end.

Owns the directory, the sampler's life, the report and the exit code.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.polite import INTERRUPTED, PoliteEnd
from quorate.chaos.soak.bounds import LOG_SLACK_ENTRIES, Bounds, disk_claims, memory_claims
from quorate.chaos.soak.report import Teller, document, found_claims
from quorate.chaos.soak.run import Found, Soak
from quorate.chaos.soak.samples import MAP_BYTES, Sampler
from quorate.core.errors import QuorateError

MOST_SAMPLES: Final = 600
LEAST_PERIOD_S: Final = 1.0


def run(
    *,
    seconds: float,
    seed: int,
    output: str,
    directory: Path | None,
    report: Path | None,
    log_tail: int,
    max_log_entries: int | None,
) -> int:
    """See `quorate.chaos.soak.run_soak`."""
    assert output in ("text", "json")
    if report is not None:
        report.touch()  # before hours are spent on what cannot be written
    bounds = Bounds(seconds, log_tail, max_log_entries or log_tail + LOG_SLACK_ENTRIES)
    with PoliteEnd() as polite, Teller(output, seconds) as teller:
        place = directory or Path(tempfile.mkdtemp(prefix="quorate-soak-"))
        code = 1
        teller.tell(f"seed {seed}")
        try:
            code = _perform(place, teller, bounds, seed=seed, output=output, report=report)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except OSError:
            if not polite.asked:
                raise
            code = INTERRUPTED  # a terminal that went away cannot be written to either
        if directory is None and code in (0, INTERRUPTED):
            shutil.rmtree(place, ignore_errors=True)
        elif code != 0:
            with suppress(OSError):
                teller.tell(f"everything is left in {place} (each node's log: */node.log)")
    return code


def _perform(
    place: Path, teller: Teller, bounds: Bounds, *, seed: int, output: str, report: Path | None
) -> int:
    settings = {
        "storage": {"map_size_bytes": MAP_BYTES},
        "raft": {"log_tail_entries": bounds.log_tail},
    }
    with Cluster(place, settings=settings, progress=teller.tell) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready()
        sampler = Sampler(cluster, max(LEAST_PERIOD_S, bounds.seconds / MOST_SAMPLES))
        found, problem = _soak(cluster, sampler, teller, bounds.seconds, seed)
    claims = [
        *found_claims(found, bounds.seconds),
        *memory_claims(sampler.memory, bounds),
        *disk_claims(sampler.disk, bounds),
    ]
    problem = problem or sampler.problem
    holds = not problem and all(claim.holds for claim in claims)
    teller.summary(claims, found, problem, holds=holds)
    told = document(
        claims,
        found,
        holds=holds,
        problem=problem,
        seed=seed,
        bounds=bounds,
        duration_s=teller.elapsed_s,
    )
    if report is not None:
        report.write_text(json.dumps(told | {"samples": sampler.to_json()}) + "\n")
    if output == "json":
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        sys.stdout.flush()
    return 0 if holds else 1


def _soak(
    cluster: Cluster, sampler: Sampler, teller: Teller, seconds: float, seed: int
) -> tuple[Found, str]:
    """What was found, and why it could not go on; empty when it could."""
    crew = Crew(cluster)
    soak = Soak(cluster, crew, seed=seed, seconds=seconds, tell=teller.tell, on_whole=sampler.whole)
    sampler.start()
    sampler.whole()
    problem = ""
    try:
        soak.run()
    except QuorateError as error:
        problem = f"{error} ({error.hint})" if error.hint else str(error)
    finally:
        sampler.stop()
        crew.close()
    return soak.found, problem
