"""What the processes of a node have in common: what they are told, and when they stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quorate.core import protocol
from quorate.core.errors import UnsupportedProtocolError


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """config: the node's configuration file. authority_fd: the authority word. lifeline_fd: the
    reading end of a pipe whose other end the supervisor holds. edges: how many edges there are, as
    long as the supervisor lives: whatever the configuration says by the time a core starts again.
    slot: which of them this is, of an edge. protocol: the latest version of the rules that the
    supervisor's program knows."""

    config: Path
    authority_fd: int
    lifeline_fd: int
    edges: int
    slot: int
    protocol: int

    def check_program(self) -> None:
        """Raises UnsupportedProtocolError when the program was replaced since the supervisor
        started: processes of two programs would not read the state alike."""
        if self.protocol != protocol.LATEST:
            raise UnsupportedProtocolError(
                f"the node was started by a program that knows the protocol up to version "
                f"{self.protocol}, and this one knows it up to {protocol.LATEST}",
                hint="stop the node and start it again, as a whole",
            )


def parse_options(name: str, arguments: Sequence[str] | None) -> ProcessOptions:
    """The command line of the process `name`. Exits with a usage error for another one."""
    parser = argparse.ArgumentParser(prog=f"quorate.node.{name}")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--authority-fd", type=int, required=True)
    parser.add_argument("--lifeline-fd", type=int, required=True)
    parser.add_argument("--edges", type=int, default=1)
    parser.add_argument("--slot", type=int, default=0)
    parser.add_argument("--protocol", type=int, default=protocol.FIRST)
    given = parser.parse_args(arguments)
    return ProcessOptions(
        given.config,
        given.authority_fd,
        given.lifeline_fd,
        given.edges,
        given.slot,
        given.protocol,
    )


def stop_event(lifeline_fd: int) -> asyncio.Event:
    """Set at SIGTERM, and when the lifeline's other end is closed. SIGINT is the supervisor's."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    os.set_blocking(lifeline_fd, False)

    def hung_up() -> None:
        loop.remove_reader(lifeline_fd)  # it stays readable: once is enough
        stopped.set()

    loop.add_reader(lifeline_fd, hung_up)
    return stopped
