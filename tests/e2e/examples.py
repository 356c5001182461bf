"""The examples of docs/examples.md, run by the commands that the page shows.

Owns the reading of the page, and the processes. What is expected of them is the tests'.
"""

from __future__ import annotations

import re
import secrets
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from quorate.chaos.cluster import Cluster, cli_command
from quorate.chaos.ports import Ports
from quorate.chaos.processes import clean_environment, wait_until

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/examples.md"
BLOCK: Final = re.compile(
    r"^<!-- example: (\w+ \w+) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
PORT: Final = re.compile(r"\b75\d\d\b")
GRANT: Final = re.compile(r"quorate grant (?P<verb>issue|revoke) (?P<name>[\w-]+)")
WAIT_S: Final = 60.0
ALL_IN_ONE: Final = """
import shlex, sys
from quorate.cli import main
for line in sys.stdin:
    sys.argv = shlex.split(line)
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
"""Runs commands of `quorate` as the program does, in one process: it takes longer to begin than to
do what it is told."""
ORGANISATION: Final = "bank"


def blocks() -> dict[str, str]:
    """What the page shows, by example and part: "agent run"."""
    return dict(BLOCK.findall(PAGE.read_text()))


class Run:
    """A command of the page that was started, and what it has written."""

    def __init__(self, command: list[str], directory: Path, output: Path) -> None:
        self._output = output
        with output.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=clean_environment({"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self._output.read_text()

    def lines(self, start: str) -> list[str]:
        """The whole lines that begin so."""
        whole = self.text().rpartition("\n")[0].splitlines()
        return [line for line in whole if line.startswith(start)]

    def await_lines(self, start: str, count: int = 1) -> None:
        """Waits until there are so many; fails when it has ended before."""

        def there() -> bool:
            ended = self._process.poll() is not None
            if len(self.lines(start)) >= count:
                return True
            assert not ended, f"it has ended: {self.text()}"
            return False

        wait_until(f"{count} lines {start!r}", there, WAIT_S)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def end(self) -> int:
        """Waits until it has ended by itself; returns its exit code."""
        return self._process.wait(WAIT_S)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def prepare(cluster: Cluster, clone: Path) -> Path:
    """Does what the page says to do before the first example; returns where it leads to.

    clone: a new directory that stands for a clone of the repository. The federation that the reader
    founds is `cluster`.
    """
    for name in ("docs", "proto"):
        (clone / name).symlink_to(ROOT / name, target_is_directory=True)
    copying = ["sh", "-ec", blocks()["before copy"] + "pwd"]
    done = subprocess.run(copying, cwd=clone, capture_output=True, text=True, check=True)
    directory = Path(done.stdout.strip())
    organisation = cluster.members[cluster.domains[0]].organisation
    (directory / ORGANISATION).symlink_to(organisation, target_is_directory=True)
    Place(cluster, directory).do("before executor")
    return directory


class Place:
    """A directory in which the page is followed.

    Grants have a suffix of their own in each place: revoked ids are final, and a cluster is shared.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.directory = directory
        self._owner = cluster.domains[0]
        self._operator = cluster.operator(self._owner)
        self._suffix = f"-{secrets.token_hex(3)}"
        self._blocks = blocks()
        self._ports = Ports()
        self._used_for: dict[str, str] = {}
        self._granted: set[str] = set()
        self._runs = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_ending: object) -> None:
        """Ends what runs, and takes back what is still granted."""
        self._runs.close()
        self._ports.close()
        for name in self._granted:
            self._operator.order("grant.revoke", {"grant": name})

    def grant_id(self, name: str) -> str:
        """As the ledger has the grant that the page calls so."""
        return f"{self._owner}/{name}{self._suffix}"

    def port(self, shown: str) -> str:
        """The one that is used here for one of the page's, which may be taken."""
        if shown not in self._used_for:
            self._used_for[shown] = self._ports.address().rpartition(":")[2]
        return self._used_for[shown]

    def do(self, *parts: str) -> None:
        """Runs blocks of the page, one after the other; every command must succeed."""
        lines = [line for part in parts for line in self._lines(part)]
        command = ["sh", "-e"]
        if all(line.startswith("quorate ") for line in lines):
            command = [sys.executable, "-P", "-c", ALL_IN_ONE]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=clean_environment({"NO_COLOR": "1"}),
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, (lines, done.stdout, done.stderr)

    def start(self, part: str, *options: str) -> Run:
        """Starts a block of one command. options: added to what the page says."""
        [line] = self._lines(part)
        output = self.directory / f"{part.replace(' ', '-')}-{secrets.token_hex(3)}.txt"
        run = Run([*_words(line), *options], self.directory, output)
        self._runs.callback(run.close)
        return run

    def _lines(self, part: str) -> list[str]:
        lines = self._blocks[part].splitlines()
        return [PORT.sub(lambda shown: self.port(shown[0]), self._suffixed(line)) for line in lines]

    def _suffixed(self, line: str) -> str:
        grant = GRANT.match(line)
        if grant is None:
            return line
        name = grant["name"] + self._suffix
        if grant["verb"] == "issue":
            self._granted.add(name)
        else:
            self._granted.discard(name)
        return f"{line[: grant.start('name')]}{name}{line[grant.end('name') :]}"


def _words(line: str) -> list[str]:
    """A command, of this very installation."""
    words = shlex.split(line)
    programs = {"quorate": cli_command(), "python": [sys.executable]}
    return [*programs.get(words[0], words[:1]), *words[1:]]
