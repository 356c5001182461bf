"""Running the demonstration from beginning to end.

Owns the directory, the order of the acts, the exit code, and `--keep`.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

from quorate.chaos.cluster import Cluster
from quorate.chaos.demo import acts, cast, ending, faults
from quorate.chaos.demo.narrator import Narrator
from quorate.chaos.demo.stage import Stage
from quorate.core.errors import QuorateError

INTERRUPTED: Final = 130


def run(*, output: str, keep: bool, directory: Path | None) -> int:
    """See `quorate.chaos.demo.run_demo`."""
    assert output in ("text", "json")
    narrator = Narrator(output)
    place = directory or Path(tempfile.mkdtemp(prefix="quorate-demo-"))
    code = 1
    # A polite end, by Ctrl-C or SIGTERM, ends every process and removes what was made.
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Cluster(place, cast.DOMAINS, origin=cast.ORIGIN, progress=narrator.tell) as cluster:
            code = _play(Stage(cluster), narrator, keep=keep)
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, former)
    if directory is None and code in (0, INTERRUPTED):
        shutil.rmtree(place, ignore_errors=True)
    elif code != 0:
        narrator.tell(f"everything is left in {place} (each node's log: */node.log)")
    return code


def _play(stage: Stage, narrator: Narrator, *, keep: bool) -> int:
    problem = ""
    try:
        acts.build(stage, narrator)
        acts.work(stage, narrator)
        acts.revoke(stage, narrator)
        earlier = faults.lose_quorum(stage, narrator)
        faults.kill_leader(stage, narrator)
        ending.compare(stage, narrator, earlier)
    except QuorateError as error:
        problem = str(error)
        narrator.failed(problem, error.hint)
    holds = narrator.summary(problem)
    if keep and not problem:
        _keep(stage, narrator)
    return 0 if holds else 1


def _keep(stage: Stage, narrator: Narrator) -> None:
    """Leaves the federation at work until Ctrl-C, and says what can be done with it."""
    stage.start_executors()
    narrator.act("The federation stays, and its executors work. In a second terminal:")
    quorate = Path(sys.executable).with_name("quorate")
    bank = stage.cluster.members[cast.BANK].directory
    clinic = stage.cluster.directory / "executors" / cast.REVOKED.domain
    for line in (
        f"{quorate} status --org {bank}",
        f"{quorate} members --org {bank}",
        f"{quorate} grant list --org {bank}",
        f"{quorate} grant revoke {cast.REVOKED.grant}-2 --org {bank} --wait drained",
        f"{quorate} ledger show --org {bank}",
        f"{quorate} ledger verify --org {bank}",
        f"tail -f {clinic / 'journal.jsonl'}",
    ):
        narrator.tell(line)
    narrator.tell("Ctrl-C ends it.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        narrator.tell("ending")
