"""The edge process: answers executors, from the node's state and under its authority.

    python -m quorate.node.edge_process --config node.toml --authority-fd N --lifeline-fd M

Owns what an edge is made of and its life: opening the store for reading as soon as there is one,
serving, following the core process, and ending, with the supervisor at the latest. It holds no
authority: what may be permitted, and until when, it reads from the authority word for each check.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog
import uvloop

from quorate.api.access import Access
from quorate.api.core_link import CoreLink, core_socket
from quorate.api.denials import DenialJournal
from quorate.api.explain import EdgeExplainer, ExplainService
from quorate.api.lease import LeaseService
from quorate.api.pace import explanations
from quorate.api.servers import build_public_server, explain_registration, lease_registration
from quorate.api.watch import WatchHub
from quorate.core import protocol
from quorate.core.errors import (
    ConfigurationError,
    QuorateError,
    StorageDamagedError,
    UnsupportedProtocolError,
)
from quorate.core.genesis import Genesis
from quorate.core.ids import SpiffeId
from quorate.core.outcome import Deny
from quorate.core.state import StateView
from quorate.lease.check import LeaseChecker
from quorate.lease.clock import SystemClock, boot_id
from quorate.lease.word import AuthorityWord
from quorate.node import exit_codes
from quorate.node.certificate_keeper import CertificateKeeper
from quorate.node.config import NodeConfig, load_config
from quorate.node.engine import check_engine
from quorate.node.identity import load_tls_identity
from quorate.node.organisation import read_genesis
from quorate.node.process import parse_options, stop_event
from quorate.node.standing import authorities_of, own_domain
from quorate.node.store import store_path
from quorate.storage import Environment
from quorate.telemetry import DenialLog, Metrics, configure_logging, open_metrics

OPEN_RETRY_S: Final = 0.05
"""How often the edge looks for a store that its core process has yet to make."""

log = structlog.get_logger("quorate.node.edge_process")  # run as __main__


class EdgeStore:
    """The node's store as an edge has it: absent, until the core process has made it."""

    def __init__(self, config: NodeConfig, genesis: Genesis) -> None:
        self._path = store_path(config)
        self._map_size_bytes = config.storage.map_size_bytes
        self._node_id = config.node.id
        self._genesis_hash = genesis.hash
        self.environment: Environment | None = None

    async def open(self) -> None:
        """Returns when the store is open. A store that is not there, or not whole yet, is what
        every first start looks like; the node denies meanwhile, and its health says so."""
        problem = ""
        while self.environment is None:
            try:
                self.environment = self._try_open()
            except QuorateError as error:
                if str(error) != problem:
                    problem = str(error)
                    log.info("edge.waiting", problem=problem, hint=error.hint)
                await asyncio.sleep(OPEN_RETRY_S)

    def _try_open(self) -> Environment:
        environment = Environment.open(
            self._path, map_size_bytes=self._map_size_bytes, read_only=True
        )
        try:
            environment.verify_identity(self._genesis_hash, self._node_id)
            _require_genesis(environment)
        except BaseException:
            environment.close()
            raise
        return environment

    def close(self) -> None:
        if self.environment is not None:
            self.environment.close()
            self.environment = None


def _require_genesis(environment: Environment) -> None:
    """Raises ConfigurationError for a store that the core process is in the middle of making: what
    has an owner, and no state yet, is not damaged; UnsupportedProtocolError for later rules."""
    with environment.read() as snapshot:
        view = StateView(snapshot.state)
        if view.installed():
            protocol.check(view.federation().protocol)
        else:
            raise ConfigurationError(
                "the store holds no federation yet", hint="start the node's core process first"
            )


async def serve(
    config: NodeConfig, word: AuthorityWord, lifeline_fd: int, metrics: Metrics, slot: int
) -> None:
    """Runs the edge until SIGTERM, until the supervisor is gone, or until a part of it fails.

    Raises what made it fail; a store that is found damaged is a StorageDamagedError.
    """
    stopped = stop_event(lifeline_fd)
    genesis = read_genesis(config.node.genesis)
    own = own_domain(config, genesis)
    identity = load_tls_identity(
        config.tls.certificate, config.tls.private_key, expected_id=config.node.id
    )
    damaged = asyncio.Event()
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        store = EdgeStore(config, genesis)
        stack.callback(store.close)
        checker = LeaseChecker(
            word, lambda: store.environment, clock, boot_id(), on_damaged=damaged.set
        )
        link = CoreLink(core_socket(config.node.data_dir), slot)
        stack.push_async_callback(link.close)
        journal = DenialJournal(link)
        stack.push_async_callback(journal.flush)  # when nobody is denied any more; core goes later
        hub = WatchHub(checker, lambda: store.environment, clock, metrics)
        metrics.observe_edge(
            functools.partial(_authority_ms, checker, clock), lambda: hub.ledger.permits.count
        )
        certificate = CertificateKeeper(
            config, identity, lambda: authorities_of(own, store.environment)
        )
        access = Access(SpiffeId.parse(config.node.id).trust_domain)
        service = LeaseService(
            checker=checker,
            proposer=link,
            hub=hub,
            clock=clock,
            access=access,
            metrics=metrics,
            denials=DenialLog(clock.boottime_ns, log),
            journal=journal,
        )
        explainer = EdgeExplainer(checker, hub)
        explaining = ExplainService(explainer, access, access.own, explanations(clock))
        server = build_public_server(
            [lease_registration(service), explain_registration(explaining)],
            address=config.listen.lease,
            identity=identity.pair,
            client_ca=b"\n".join(certificate.authorities),
            metrics=metrics,
            reuse_port=True,
            # A unix socket cannot be shared: of several edges the first has it.
            socket=config.listen.lease_socket if slot == 0 else None,
        )
        stack.push_async_callback(server.stop)
        stack.callback(hub.close)  # before the server stops, so that watchers end by themselves
        metrics.observe_certificate(certificate.remaining_s)

        def moved() -> None:
            hub.moved()
            certificate.moved()

        await server.start()
        log.info("edge.listening", address=config.listen.lease, node=config.node.id)

        async def open_and_serve() -> None:
            await store.open()
            await server.set_serving(True)
            log.info("edge.serving")
            moved()
            await link.follow(moved, hub)

        parts = open_and_serve(), hub.run(), journal.run(), certificate.run(server.renew)
        await _until(stopped, damaged, *parts)


def _authority_ms(checker: LeaseChecker, clock: SystemClock) -> float:
    """How long this edge may permit; 0 when it may not."""
    authority = checker.authority()
    if isinstance(authority, Deny):
        return 0.0
    return max(0, authority.deadline_ns - clock.boottime_ns()) / 1_000_000


async def _until(
    stopped: asyncio.Event, damaged: asyncio.Event, *parts: Coroutine[Any, Any, None]
) -> None:
    """Runs the parts until `stopped`. A part that ends takes the process with it: an edge that
    serves without following, or without watching, would keep silent where it must speak."""
    running = [asyncio.ensure_future(part) for part in parts]
    ends = [asyncio.ensure_future(event.wait()) for event in (stopped, damaged)]
    try:
        done, _ = await asyncio.wait([*running, *ends], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*running, *ends):
            task.cancel()
        await asyncio.wait([*running, *ends])
    for task in done.intersection(running):
        task.result()  # raises what ended it
    if damaged.is_set():
        raise StorageDamagedError("the edge cannot read the node's store")
    assert stopped.is_set(), "no part of an edge ends by itself"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process; returns its exit code."""
    options = parse_options("edge_process", arguments)
    try:
        options.check_program()
        check_engine()
        config = load_config(options.config)
        configure_logging(config.log.level, config.log.format)
        word = AuthorityWord.open(options.authority_fd, writable=False)
        metrics = open_metrics(config.metrics.edge_in(options.slot), config.node.id, "edge")
        uvloop.run(serve(config, word, options.lifeline_fd, metrics, options.slot))
    except UnsupportedProtocolError as error:
        log.critical("edge.outdated", problem=str(error), hint=error.hint)
        return exit_codes.OUTDATED
    except ConfigurationError as error:
        log.critical("edge.configuration", problem=str(error), hint=error.hint)
        return exit_codes.CONFIGURATION
    except (QuorateError, OSError) as error:
        # A damaged store, too: whether the node has to stop is for the core process to find.
        log.critical("edge.failed", problem=str(error), hint=getattr(error, "hint", ""))
        return exit_codes.FAULT
    log.info("edge.stopped")
    return exit_codes.OK


if __name__ == "__main__":
    sys.exit(main())
