"""`quorate node run`: the parent of a node's processes.

Owns the authority word's memory and the lives of core and edge: starts each by exec, starts again
what dies, stops all when told to. Holds no state and no authority; uses neither gRPC nor LMDB.

Both children hold the reading end of a pipe, the lifeline: when the supervisor is gone, however it
went, they see its end and stop. An edge outlives a dead core, and denies meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from quorate.core.errors import ConfigurationError
from quorate.lease.word import AuthorityWord
from quorate.node import exit_codes
from quorate.node.config import load_config
from quorate.telemetry.logs import configure_logging

log = structlog.get_logger(__name__)

_RESTART_FIRST_S: Final = 0.2
_RESTART_MOST_S: Final = 5.0
_STEADY_S: Final = 10.0
"""A child that ran this long is started again at once."""
_STOP_S: Final = 8.0
"""A child that does not stop in this time is killed."""


@dataclass
class _Child:
    """One process of the node. `fds` are the descriptors that it inherits."""

    name: str
    arguments: list[str]
    fds: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    started_s: float = 0.0
    restart_at_s: float = 0.0
    backoff_s: float = field(default=_RESTART_FIRST_S)

    def start(self) -> None:
        command = [sys.executable, "-m", *self.arguments]
        self.process = subprocess.Popen(command, pass_fds=self.fds, stdin=subprocess.DEVNULL)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.started_s = time.monotonic()
        log.info("process.started", process=self.name, pid=self.process.pid)

    def reap(self) -> int:
        """Takes in the end of the process, and says when it may start again."""
        assert self.process is not None
        code = self.process.wait()
        os.close(self.pidfd)
        self.process, self.pidfd = None, -1
        now = time.monotonic()
        if now - self.started_s >= _STEADY_S:
            self.backoff_s = _RESTART_FIRST_S
        self.restart_at_s = now + self.backoff_s
        self.backoff_s = min(_RESTART_MOST_S, 2 * self.backoff_s)
        log.warning("process.ended", process=self.name, code=code)
        return code


class _Supervisor:
    """The loop over signals and the ends of children."""

    def __init__(self, children: list[_Child], signals: int) -> None:
        self._children = children
        self._signals = signals
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ, None)

    def run(self) -> int:
        """Until a signal, or an end that starting again cannot mend; returns the exit code."""
        for child in self._children:
            self._start(child)
        while True:
            for key, _ in self._selector.select(self._until_next_start()):
                if key.data is None:
                    os.read(self._signals, 512)
                    log.info("node.stopping")
                    return exit_codes.OK
                code = self._ended(key.data)
                if code in exit_codes.FINAL:
                    return code
            for child in self._children:
                if child.process is None and time.monotonic() >= child.restart_at_s:
                    self._start(child)

    def _start(self, child: _Child) -> None:
        child.start()
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)

    def _ended(self, child: _Child) -> int:
        self._selector.unregister(child.pidfd)
        return child.reap()

    def _until_next_start(self) -> float | None:
        starts = [child.restart_at_s for child in self._children if child.process is None]
        return max(0.0, min(starts) - time.monotonic()) if starts else None

    def stop(self) -> None:
        """Stops the edges first, so that nobody is answered by half a node."""
        for child in reversed(self._children):
            if child.process is None:
                continue
            child.process.terminate()
            try:
                child.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                log.error("process.killed", process=child.name)
                child.process.kill()
                child.process.wait()
        self._selector.close()


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that becomes readable at SIGTERM or SIGINT."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous_fd = signal.set_wakeup_fd(writer)
    stops = (signal.SIGTERM, signal.SIGINT)
    previous = {stop: signal.signal(stop, lambda *_: None) for stop in stops}
    try:
        yield reader
    finally:
        for stop, handler in previous.items():
            signal.signal(stop, handler)
        signal.set_wakeup_fd(previous_fd)
        os.close(reader)
        os.close(writer)


@contextmanager
def _lock(data_dir: Path) -> Iterator[None]:
    """One supervisor a data directory. Raises ConfigurationError when there is another."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(data_dir / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigurationError(
            f"another node runs in {data_dir}", hint="stop it first, or give this one its own"
        ) from error
    finally:
        os.close(lock)


def _children(config_path: Path, word: AuthorityWord, edge_fd: int, lifeline: int) -> list[_Child]:
    def child(name: str, module: str, word_fd: int) -> _Child:
        arguments = [module, "--config", str(config_path)]
        arguments += ["--authority-fd", str(word_fd), "--lifeline-fd", str(lifeline)]
        return _Child(name, arguments, (word_fd, lifeline))

    return [
        child("core", "quorate.node.core_process", word.fd),
        child("edge", "quorate.node.edge_process", edge_fd),
    ]


def run(config_path: Path) -> int:
    """Runs the node of this configuration until SIGTERM or SIGINT; returns its exit code.

    Raises ConfigurationError for a configuration that cannot be used.
    """
    config = load_config(config_path)
    configure_logging(config.log.level, config.log.format)
    with ExitStack() as stack:
        stack.enter_context(_lock(config.node.data_dir))
        word = AuthorityWord.create()
        stack.callback(word.close)
        edge_fd = word.reader_fd()
        stack.callback(os.close, edge_fd)
        lifeline, held = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, held)
        stack.callback(os.close, lifeline)
        signals = stack.enter_context(_signals())
        supervisor = _Supervisor(_children(config_path, word, edge_fd, lifeline), signals)
        stack.callback(supervisor.stop)
        return supervisor.run()
