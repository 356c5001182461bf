"""`quorate exec` with a gate that a test turns. Run as a program by `conftest.Exec`:

    supervisor.py FD SCRIPT ARGUMENT...

FD is a line to the test. It hears of every step of the run, and says what the gate is to tell.
SCRIPT is JSON: `acquire`, `hold`, `act`: the reason with which it is denied; `deny_at_act`: told on
the eve of the start; `life_ms` of the lease; `wall_clock_wrong_by_ms`: ahead of ledger time;
`means`: cgroup or walk; `permit_ms`: permits end so long after each look, until they are told to
be lost; `until_ns`: when the only permit ends; `events`: what becomes of reports: tell, hang or
refuse; `slack_ms`: how long an init is waited for that does not do as it is told; `sleeps_into`: a
time namespace for the init (`sleeping_init`); `trace`: headers of a request, whose trace the run
belongs to; `environment`: more of it.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import quorate.cli.exec
from quorate.cli import main
from quorate.client import (
    ClientReason,
    Denied,
    DeniedError,
    Permit,
    Reading,
    Reason,
    Reported,
    SystemClock,
    traces,
)
from quorate.runner import contained, descendants, leased
from quorate.runner.contained import Contained
from quorate.runner.kernel import NS_PER_MS, boottime_ns
from quorate.runner.messages import Message

PATH = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
HOUR_NS = 3_600_000 * NS_PER_MS


def denied(reason: str) -> Denied:
    kind = Reason if reason in Reason.__members__ else ClientReason
    return Denied(kind(reason), "bank.example/thing")


class Gate:
    """The gate, its only lease, and that lease's slot."""

    id, fence = "lease-7", 7
    action, resource = "", ""

    def __init__(self, line: socket.socket, script: dict[str, Any]) -> None:
        self.line, self.script = line, script
        self.slot = self
        self.others = {each.key for each in descendants.of(os.getpid())}
        self.until_ns = script.get("until_ns", boottime_ns() + HOUR_NS)
        self.permit_ms = script.get("permit_ms", 0)
        self.life_ms = self.ttl_ms = script.get("life_ms", 600_000)
        wrong_by_ms = script.get("wall_clock_wrong_by_ms", 0)
        self.expires_at_ms = time.time_ns() // NS_PER_MS - wrong_by_ms + self.life_ms
        self.answer: Permit | Denied = denied("INQUORATE")
        self.on_change: Callable[[Permit | Denied], None] | None = None

    def say(self, step: str, **about: object) -> None:
        self.line.send(json.dumps({"step": step, **about}).encode())

    def permit(self) -> Permit:
        return Permit(self.id, self.fence, Reading.of(SystemClock()), self.until_ns, 1, 1)

    def listen(self) -> None:
        while packet := self.line.recv(65_536):
            told = json.loads(packet)
            self.until_ns = told.get("until_ns", self.until_ns)
            if "lose" in told:
                self.permit_ms = 0
            if "answer" in told:
                self.answer = denied(told["answer"])
            if "deny" in told and self.on_change:
                self.on_change(denied(told["deny"]))
            if "permit" in told and self.on_change:
                self.on_change(self.permit())

    # -- as the gate -------------------------------------------------------------------------

    def open(self, _config: object) -> Gate:
        return self

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.say("closed")

    def acquire(
        self, action: str, resource: str, ttl_ms: int, *, context: dict[str, str], request_id: str
    ) -> Any:
        assert context == {}
        self.say("acquire", ttl_ms=ttl_ms)
        if "acquire" in self.script:
            return denied(self.script["acquire"])
        self.action, self.resource = action, resource
        return self

    @contextmanager
    def hold(self, _lease: object, on_change: Any, *, renew: bool) -> Iterator[None]:
        assert renew
        if "hold" in self.script:
            raise DeniedError(denied(self.script["hold"]))
        self.say("hold")
        self.on_change = on_change
        yield
        self.on_change = None
        self.say("let go")

    def ask(self, _lease: object, *, is_handed: bool) -> Permit | Denied:
        assert not is_handed
        self.say("asked")
        return self.answer

    def release(self, _lease: object, *, timeout_ms: int) -> None:
        self.say("release", timeout_ms=timeout_ms)

    def event(self, kind: str, attributes: Mapping[str, str]) -> Reported | Denied:
        if self.script.get("events") == "hang":
            threading.Event().wait()
        if self.script.get("events") == "refuse":
            return denied("UNKNOWN_LEASE")
        if "events" in self.script:
            self.say("event", kind=str(kind), **attributes)
        return Reported(self.id, "started")

    # -- as the lease and its slot -----------------------------------------------------------

    def kept_until_ns(self) -> int:
        if self.permit_ms:
            self.until_ns = boottime_ns() + self.permit_ms * NS_PER_MS
        if not self.until_ns:
            self.say("look")
        return self.until_ns

    @contextmanager
    def act(self) -> Iterator[Permit]:
        if "act" in self.script:
            raise DeniedError(denied(self.script["act"]))
        if "deny_at_act" in self.script:
            assert self.on_change
            self.on_change(denied(self.script["deny_at_act"]))
        self.say("act")
        yield self.permit()
        found = descendants.of(os.getpid(), self.others)
        self.say("acted", left=[each.pid for each in found if each.is_alive])


class Watched(Contained):
    """Says when the init is ready, and when it was not relied on."""

    def __init__(self, gate: Gate, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.gate = gate

    def heard(self) -> Iterator[Message]:
        for message in super().heard():
            if "ready" in message:
                self.gate.say("ready")
            yield message

    def abandon(self) -> None:
        self.gate.say("abandon")
        super().abandon()


def run(fd: int, script: dict[str, Any], arguments: list[str]) -> None:
    gate = Gate(socket.socket(fileno=fd), script)
    os.set_inheritable(fd, False)
    threading.Thread(target=gate.listen, daemon=True).start()
    use_cgroup = script.get("means", "walk") == "cgroup"
    module: Any = quorate.cli.exec
    module.Contained = functools.partial(Watched, gate, use_cgroup=use_cgroup)
    leased._SLACK_MS = script.get("slack_ms", 30_000)
    module.Gate = gate
    if "sleeps_into" in script:
        contained.INIT_MODULE = "tests.unit.runner.sleeping_init"  # type: ignore[misc]
        os.environ |= {"SLEEP_INTO": script["sleeps_into"], "PYTHONPATH": PATH}
    module.load_config = lambda client: client
    sys.argv = ["quorate", *arguments]
    with traces.continuing(script.get("trace", {})):
        sys.exit(main())


if __name__ == "__main__":
    run(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:])
