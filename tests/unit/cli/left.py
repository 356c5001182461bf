"""What is left of a federation whose nodes do not run, and the commands that recover it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quorate.consensus.configuration import COMMAND, CONFIGURATION, Configuration
from quorate.core import codec
from quorate.core.state import StateView
from quorate.node.config import NodeConfig
from quorate.node.machine import LedgerMachine
from quorate.node.organisation import Organisation, read_genesis
from quorate.node.store import open_environment, store_path
from quorate.proofs.commands import build_command
from quorate.storage import Environment

BANK, CLINIC, LOST = "bank.example", "clinic.example", "logistics.example"
NEW = "quorate.example/recovered-1"
TERM = 7
AGENT = f"spiffe://{BANK}/agent/payments"
MAP_BYTES = 8 * 1024 * 1024


@dataclass
class Left:
    """What is left of the federation. commands: what its log holds, in order."""

    root: Path
    run: Callable[..., Any]
    commands: list[bytes]
    voters: Sequence[str] = (BANK, CLINIC, LOST, "gone.example", "lost.example")

    def org(self, domain: str) -> Organisation:
        return Organisation.load(self.root / domain)

    def config(self, domain: str) -> NodeConfig:
        return self.org(domain).config

    def recover(self, *arguments: object, domain: str = "") -> Any:
        config = ("--config", self.root / domain / "node.toml") if domain else ()
        return self.run("federation", "recover", *arguments, *config, "-o", "json")

    def grow(self, domain: str, entries: int, executed: int, term: int = TERM) -> None:
        """A store whose log has so many of the commands, the first `executed` of them executed."""
        config = self.config(domain)
        environment = open_environment(config, read_genesis(config.node.genesis))
        turn, machine = environment.turn, LedgerMachine(environment)
        voters = tuple(sorted(f"spiffe://{each}/node/1" for each in self.voters))
        configuration = Configuration(voters).encode()
        turn.log_append(1, 0, CONFIGURATION + configuration)
        turn.put_configuration(1, configuration)
        turn.set_applied(1)
        for index, command in enumerate(self.commands[:entries], start=2):
            turn.log_append(index, term, COMMAND + command)
            if index - 1 <= executed:
                machine.apply(index, command)
                turn.set_applied(index)
        turn.set_term_and_vote(term, config.node.id)
        environment.commit()
        environment.close()

    def never_ran(self, domain: str) -> None:
        """Neither store nor mark: there is nothing that the node could have forgotten."""
        shutil.rmtree(self.config(domain).node.data_dir, ignore_errors=True)
        for mark in (self.root / domain / "node").glob("*.mark"):
            mark.unlink()

    def propose(self, directory: Path) -> Any:
        """By the bank, with the clinic."""
        summary = self.root / f"summary-{time.monotonic_ns()}.json"
        assert self.recover("summary", summary, domain=CLINIC).exit_code == 0
        made = ("--origin", NEW, "--survivor", summary)
        return self.recover("propose", directory, *made, domain=BANK)

    def agreed(self) -> Path:
        """A recovery that both survivors have signed."""
        directory = self.root / "recovery"
        ran = self.propose(directory)
        assert ran.exit_code == 0, ran.stderr
        for domain in (BANK, CLINIC):
            ran = self.recover("sign", self.root / domain, directory, "--yes")
            assert ran.exit_code == 0, ran.stderr
        return directory

    @contextmanager
    def view(self, domain: str) -> Iterator[tuple[Any, StateView]]:
        """Snapshot and state of a node's store."""
        with ExitStack() as stack:
            path = store_path(self.config(domain))
            environment = Environment.open(path, map_size_bytes=MAP_BYTES)
            stack.callback(environment.close)
            snapshot = stack.enter_context(environment.read())
            yield snapshot, StateView(snapshot.state)


def make_left(federation: Any, run: Any) -> Left:
    """Five voters, of which the bank and the clinic are left; the bank's log goes further."""
    for domain in (BANK, CLINIC, LOST):
        file = federation.org(domain) / "node.toml"
        text = file.read_text().replace("# [storage]", f"[storage]\nmap_size_bytes = {MAP_BYTES}")
        file.write_text(text)
    made = Left(federation.root, run, [])
    created = federation.genesis.created
    key = made.org(BANK).governance_key()
    wanted = [("executor.register", AGENT), ("executor.suspend", AGENT)]
    wanted += [("executor.register", f"{AGENT}-2"), ("executor.revoke", AGENT)]
    for number, (kind, executor) in enumerate(wanted):
        envelope = build_command(
            origin=federation.genesis.origin,
            issuer=BANK,
            command_type=kind,
            body={"executor": executor},
            nonce=f"{number:032x}",
            not_after=created + 3_600_000,
            key=key,
        )
        made.commands.append(codec.stamp(created + number, envelope))
    made.grow(BANK, entries=4, executed=3)
    made.grow(CLINIC, entries=3, executed=2)
    return made
