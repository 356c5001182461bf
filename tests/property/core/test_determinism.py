"""One history, one ledger: whatever the process, the seed of its hashes, and the Python.

Another Python takes part when it is on the PATH, among those of pyenv, or named in
QUORATE_PYTHONS, and has the packages that the core and its builders need. The test says which did,
and what kept the others away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

import pytest
from tests.property.core.naive.again import line_of
from tests.property.core.naive.sides import play

ROOT: Final = Path(__file__).parents[3]
ROOMS: Final = ("node", "consensus", "proto", "chaos")
HISTORIES: Final = 15
HASH_SEEDS: Final = ("0", "1", "4242")
OLDEST, NEWEST = 11, 16
PROBE: Final = """
import platform, sys
print(platform.python_implementation(), platform.python_version(), flush=True)
if sys.version_info >= (3, 11):
    import quorate.testing.builders
else:
    print("ImportError: too old", file=sys.stderr)
    sys.exit(1)
"""


def candidates() -> list[str]:
    """This Python, and every other that can be found, each once."""
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = [shutil.which(f"python3.{minor}") for minor in range(OLDEST, NEWEST)]
    found += [str(path) for path in sorted(versions.glob("3.*/bin/python3"))]
    found += [path for path in os.environ.get("QUORATE_PYTHONS", "").split(os.pathsep) if path]
    return list(dict.fromkeys([sys.executable, *(path for path in found if path)]))


def environment(python: str, hash_seed: str = "0") -> dict[str, str]:
    """This one's packages are no other's."""
    own = [str(ROOT), *(str(ROOT / room) for room in ROOMS)]
    path = [*own, *sys.path] if python == sys.executable else own
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(path)}


def probe(python: str) -> tuple[str, str]:
    """What it is, and what keeps it away; empty: nothing."""
    done = subprocess.run(
        [python, "-c", PROBE],
        env=environment(python),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    problem = (done.stderr.strip().splitlines() or ["it does not start"])[-1]
    return done.stdout.strip() or "Python", problem if done.returncode else ""


def test_a_history_gives_the_same_ledger_in_every_process_and_python(
    capsys: pytest.CaptureFixture[str],
) -> None:
    histories, expected = [], []
    for seed in range(HISTORIES):
        sides, _ = play(Random(seed), Counter(), is_cheap=False)  # noqa: S311
        histories.append(line_of(sides))
        expected.append(sides.ledger.digest())
    report, used = [], set()
    for python in candidates():
        version, problem = probe(python)
        problem = problem or ("that version was used already" if version in used else "")
        if problem:
            report.append(f"{version} at {python} was not used: {problem}")
            continue
        for hash_seed in HASH_SEEDS:
            done = subprocess.run(
                [python, "-m", "tests.property.core.naive.again"],
                cwd=ROOT,
                env=environment(python, hash_seed),
                input="\n".join(histories),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.split() == expected, (version, hash_seed)
        used.add(version)
        report.append(f"{version} at {python}: the same, with hash seeds {', '.join(HASH_SEEDS)}")
    with capsys.disabled():
        sys.stdout.write("\n" + "".join(f"  {line}\n" for line in report))
    assert used
