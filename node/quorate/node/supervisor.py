"""`quorate node run`: the parent of a node's processes.

Owns the authority word's memory and the lives of core and edge: starts each by exec, starts again
what dies, stops all when told to. Holds no state and no authority; uses neither gRPC nor LMDB.

Both children hold the reading end of a pipe, the lifeline: when the supervisor is gone, however it
went, they see its end and stop. An edge outlives a dead core, and denies meanwhile.

A core that is stopped or stuck cannot see that end yet, and would go on writing what it had begun
(a vote, a turn of the log) when it wakes. So it holds, by inheritance, a lock of its own: no other
core is started on the same directory before the last one is gone. An edge writes nothing.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from quorate.core import protocol
from quorate.core.errors import ConfigurationError
from quorate.lease.word import AuthorityWord
from quorate.node import exit_codes
from quorate.node.config import load_config
from quorate.node.locks import CORE_LOCK, NODE_LOCK, hold
from quorate.telemetry.logs import configure_logging

log = structlog.get_logger(__name__)

CORE_MODULE: Final = "quorate.node.core_process"
EDGE_MODULE: Final = "quorate.node.edge_process"

_RESTART_FIRST_S: Final = 0.2
_RESTART_MOST_S: Final = 5.0
_STEADY_S: Final = 10.0
"""A child that ran this long is started again after the first, shortest pause."""
_STOP_S: Final = 8.0
"""A child that does not stop in this time is killed."""
_HANDOVER_S: Final = 10.0
"""How long the core of a supervisor that was killed may take to notice and to stop."""
_HANDOVER_POLL_S: Final = 0.05


@dataclass
class _Child:
    """One process of the node. `fds` are the descriptors that it inherits."""

    name: str
    arguments: list[str]
    fds: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    starts: int = 0
    started_s: float = 0.0
    restart_at_s: float = 0.0
    backoff_s: float = field(default=_RESTART_FIRST_S)

    def start(self) -> None:
        """Raises OSError when no process can be made now."""
        # -P: no module of the working directory takes the place of one that is installed.
        command = [sys.executable, "-P", "-m", *self.arguments]
        self.started_s = time.monotonic()
        process = subprocess.Popen(command, pass_fds=self.fds, stdin=subprocess.DEVNULL)
        try:
            self.pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        self.process = process
        self.starts += 1
        log.info("process.started", process=self.name, pid=process.pid)

    def reap(self) -> int:
        """Takes in the end of the process, and says when it may start again."""
        assert self.process is not None
        code = self.process.wait()
        if code == -signal.SIGBUS:  # a page of a mapped file is not there: the store was cut off
            code = exit_codes.DAMAGED
        self.forget()
        if time.monotonic() - self.started_s >= _STEADY_S:
            self.backoff_s = _RESTART_FIRST_S
        self.put_off()
        log.warning("process.ended", process=self.name, code=code)
        return code

    def put_off(self) -> None:
        """The next start is some time from now, and the one after that later still."""
        self.restart_at_s = time.monotonic() + self.backoff_s
        self.backoff_s = min(_RESTART_MOST_S, 2 * self.backoff_s)

    def forget(self) -> None:
        """The process has ended, and was waited for."""
        os.close(self.pidfd)
        self.process, self.pidfd = None, -1


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
                if self._is_final(key.data, code):
                    return code
            for child in self._children:
                if child.process is None and time.monotonic() >= child.restart_at_s:
                    self._start(child)

    @staticmethod
    def _is_final(child: _Child, code: int) -> bool:
        """Whether starting again is of no use. A configuration that was good enough to start with
        is not what has changed since: a taken port, a wrong clock may pass."""
        return code in {exit_codes.DAMAGED, exit_codes.OUTDATED} or (
            code == exit_codes.CONFIGURATION and child.starts == 1
        )

    def _start(self, child: _Child) -> None:
        try:
            child.start()
        except OSError as error:  # out of memory, processes or descriptors: that may pass
            log.error("process.not_started", process=child.name, problem=str(error))
            child.put_off()
            return
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
            child.forget()
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


def _await_free(address: str, wait_s: float) -> None:
    """Raises ConfigurationError when somebody listens there for longer than `wait_s`, which the
    processes of a supervisor that was killed do not. The edges of a node share their port, so that
    the system would not notice: two nodes would take each other's executors."""
    until_s = time.monotonic() + wait_s
    while (problem := _why_not_free(address)) is not None:
        if time.monotonic() >= until_s:
            raise ConfigurationError(
                f"cannot listen at {address}: {problem}",
                hint="is another node running there? Give each its own addresses in [listen]",
            )
        time.sleep(_HANDOVER_POLL_S)


def _why_not_free(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        for family, kind, number, _, target in found:
            with socket.socket(family, kind, number) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(target)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _children(
    config_path: Path,
    word: AuthorityWord,
    lifeline: int,
    *,
    edge_fd: int,
    core_lock: int,
    edges: int,
) -> list[_Child]:
    """edge_fd: the authority word, for reading only. edges: how many."""

    def child(name: str, module: str, word_fd: int, *more_fds: int) -> _Child:
        arguments = [module, "--config", str(config_path)]
        arguments += ["--authority-fd", str(word_fd), "--lifeline-fd", str(lifeline)]
        arguments += ["--edges", str(edges), "--protocol", str(protocol.LATEST)]
        return _Child(name, arguments, (word_fd, lifeline, *more_fds))

    def edge(slot: int) -> _Child:
        of_several = child(f"edge-{slot}" if slot else "edge", EDGE_MODULE, edge_fd)
        of_several.arguments += ["--slot", str(slot)]
        return of_several

    return [child("core", CORE_MODULE, word.fd, core_lock), *map(edge, range(edges))]


def run(config_path: Path) -> int:
    """Runs the node of this configuration until SIGTERM or SIGINT; returns its exit code.

    Raises ConfigurationError for a configuration that cannot be used.
    """
    config = load_config(config_path)
    configure_logging(config.log.level, config.log.format)
    with ExitStack() as stack:
        data_dir = config.node.data_dir
        stack.enter_context(hold(data_dir, NODE_LOCK))
        core_lock = stack.enter_context(hold(data_dir, CORE_LOCK, _HANDOVER_S))
        for address in (config.listen.peer, config.listen.governance, config.listen.lease):
            _await_free(address, _HANDOVER_S)
        word = AuthorityWord.create()
        stack.callback(word.close)
        edge_fd = word.reader_fd()
        stack.callback(os.close, edge_fd)
        lifeline, held = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, held)
        stack.callback(os.close, lifeline)
        signals = stack.enter_context(_signals())
        children = _children(
            config_path,
            word,
            lifeline,
            edge_fd=edge_fd,
            core_lock=core_lock,
            edges=config.edge.processes,
        )
        supervisor = _Supervisor(children, signals)
        stack.callback(supervisor.stop)
        return supervisor.run()
