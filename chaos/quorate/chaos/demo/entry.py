"""Running the demonstration from beginning to end.

Owns the directory, the order of the acts, the exit code, and `--keep`.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from quorate.chaos.cluster import Cluster
from quorate.chaos.demo import acts, cast, ending, faults
from quorate.chaos.demo.narrator import Narrator
from quorate.chaos.demo.stage import Stage
from quorate.chaos.polite import INTERRUPTED, PoliteEnd
from quorate.core.errors import ConfigurationError, QuorateError


def run(*, output: str, keep: bool, directory: Path | None) -> int:
    """See `quorate.chaos.demo.run_demo`."""
    assert output in ("text", "json")
    if directory is not None:
        _check_new_or_empty(directory)
    narrator = Narrator(output)
    with PoliteEnd() as polite:
        place = directory or Path(tempfile.mkdtemp(prefix="quorate-demo-"))
        code = 1
        try:
            code = _perform(place, narrator, keep=keep)
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
                narrator.tell(f"everything is left in {place} (each node's log: */node.log)")
    return code


def _check_new_or_empty(directory: Path) -> None:
    """Raises ConfigurationError before anything is made or told."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(
            f"{directory} is not an empty directory",
            hint="give --directory one that is new or empty, or leave it out",
        )


def _perform(place: Path, narrator: Narrator, *, keep: bool) -> int:
    with Cluster(place, cast.DOMAINS, origin=cast.ORIGIN, progress=narrator.tell) as cluster:
        return _play(Stage(cluster), narrator, keep=keep)


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
    for command in (
        (quorate, "status", "--org", bank),
        (quorate, "members", "--org", bank),
        (quorate, "grant", "list", "--org", bank),
        (quorate, "grant", "revoke", f"{cast.REVOKED.grant}-2", "--org", bank, "--wait", "drained"),
        (quorate, "ledger", "show", "--org", bank),
        (quorate, "ledger", "verify", "--org", bank),
        ("tail", "-f", clinic / "journal.jsonl"),
    ):
        narrator.command(shlex.join(map(str, command)))
    narrator.tell("Ctrl-C ends it.")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be what ended it
            narrator.tell("ending")
