"""An environment of its own for every test, and other processes that open it."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

from quorate.storage import Environment

MAP_SIZE_BYTES = 16 * 1024 * 1024


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def environment(path):
    environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    yield environment
    environment.close()


class Child:
    """Another process, which is told what to do a line at a time and answers with a line."""

    def __init__(self, process):
        self.process = process

    def ask(self, line=""):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")


@pytest.fixture
def child():
    """Starts children from their source; kills those that are left at the end."""
    started = []

    @contextmanager
    def start(source, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", source, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        with process:
            try:
                yield Child(process)
            finally:
                process.kill()

    return start
