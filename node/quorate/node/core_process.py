"""The core process of a node: composes store, consensus, authority and services.

Owns what happens once: reading keys and genesis, checking that they belong together, opening the
store, starting servers in order, stopping them. What happens in every turn is `core_loop`'s.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog
import uvloop

from quorate.api.servers import CoreServers, start_core_servers
from quorate.consensus import RaftSettings, SafetyViolationError
from quorate.consensus.transport import LocalIdentity, Transport
from quorate.core.errors import (
    ConfigurationError,
    QuorateError,
    StorageDamagedError,
    UnsupportedProtocolError,
)
from quorate.core.genesis import Genesis
from quorate.lease.clock import SystemClock, boot_id
from quorate.lease.word import AuthorityWord
from quorate.node import exit_codes
from quorate.node.certificate_keeper import CertificateKeeper
from quorate.node.certificates import KeyPair, issued_by
from quorate.node.config import NodeConfig, load_config
from quorate.node.core_loop import CoreLoop
from quorate.node.engine import check_engine
from quorate.node.identity import load_signing_key, load_tls_identity
from quorate.node.lineage_keeper import LineageKeeper
from quorate.node.organisation import read_genesis
from quorate.node.peering import Peering
from quorate.node.process import parse_options, stop_event
from quorate.node.standing import (
    authorities_of,
    check_genesis,
    check_issued,
    check_ledger,
    founding_authorities,
)
from quorate.node.store import open_environment
from quorate.proofs.signing import SigningKey
from quorate.storage import Environment
from quorate.storage.graph import GraphStore
from quorate.telemetry import Metrics, configure_logging, open_metrics

log = structlog.get_logger(__name__)


async def serve(
    config: NodeConfig, word: AuthorityWord, lifeline_fd: int, metrics: Metrics, edges: int
) -> None:
    """Runs the core until SIGTERM, or until the supervisor is gone. edges: how many this node has:
    none of them may be left out where all have to say that a change is drained."""
    genesis = read_genesis(config.node.genesis)
    tls = load_tls_identity(
        config.tls.certificate, config.tls.private_key, expected_id=config.node.id
    )
    signing, log_key = load_signing_key(config.keys.signing), load_signing_key(config.keys.log)
    descriptor = check_genesis(config, genesis, tls, signing, log_key)
    environment = open_environment(config, genesis)
    check_ledger(environment, config.node.id, signing, log_key)
    check_issued(tls, descriptor, environment)
    certificate = CertificateKeeper(
        config,
        tls,
        lambda: authorities_of(descriptor, environment),
        founding=founding_authorities(config, genesis),
    )
    core = _loop(
        config,
        environment,
        word,
        (signing, log_key),
        edges=edges,
        metrics=metrics,
        is_newcomer=lambda: not certificate.is_of_founding,
    )
    founders = [each.node.id for each in genesis.descriptors]
    peering = Peering(environment, config, core.members, origin=genesis.origin, founders=founders)
    transport = Transport(_shown(config, tls.pair, genesis.hash), peering, core, issued_by)
    transport.update(peering.peers())

    def follow_members() -> None:
        if peering.refresh():
            check_ledger(environment, config.node.id, signing, log_key)
            certificate.moved()
            transport.update(peering.peers())

    keeper = _lineage(config, genesis, environment)
    metrics.observe_certificate(certificate.remaining_s)
    metrics.observe_core(lambda: core.outbox_records, lambda: core.clock_offset_ms)
    stopped = stop_event(lifeline_fd)
    running = core.run(transport, members_changed=follow_members)
    loop_task = asyncio.create_task(running, name="core loop")
    lineage_task = asyncio.create_task(keeper.run(), name="lineage")
    try:
        await transport.start(config.listen.peer)
        servers = await start_core_servers(
            core,
            config,
            tls.pair,
            b"\n".join(certificate.authorities),
            metrics,
            graph=keeper,
            certificate_end_ms=certificate.end_ms,
        )

        async def renew(pair: KeyPair, client_ca: bytes) -> None:
            transport.renew(_shown(config, pair, genesis.hash))
            await servers.public.renew(pair, client_ca)

        log.info("core.serving", node=config.node.id, origin=genesis.origin)
        following = certificate.run(renew, is_warning=True)
        await _until_stopped(stopped, loop_task, core, servers, [transport.failure(), following])
    finally:
        lineage_task.cancel()
        await asyncio.wait([lineage_task])
        await _end(loop_task, transport)
        environment.close()


async def _until_stopped(
    stopped: asyncio.Event,
    loop_task: asyncio.Task[None],
    core: CoreLoop,
    servers: CoreServers,
    parts: Sequence[Coroutine[Any, Any, Any]],
) -> None:
    """Runs until the node is to stop, or one of its parts has ended, which raises why; then stops
    the servers."""
    ends = [asyncio.create_task(end) for end in (stopped.wait(), *parts)]
    await asyncio.wait([loop_task, *ends], return_when=asyncio.FIRST_COMPLETED)
    if not loop_task.done():
        await core.hand_over()  # while callers are still served: they notice nothing
    for end in ends:
        end.cancel()  # no server is made anew any more
    await servers.stop()
    for end in ends:
        if end.done() and not end.cancelled():
            end.result()  # raises what ended a link, if that is what happened


def _loop(
    config: NodeConfig,
    environment: Environment,
    word: AuthorityWord,
    keys: tuple[SigningKey, SigningKey],
    *,
    edges: int,
    metrics: Metrics,
    is_newcomer: Callable[[], bool],
) -> CoreLoop:
    """keys: for lease commands, and for checkpoints."""
    return CoreLoop(
        node_id=config.node.id,
        settings=RaftSettings(**config.raft.model_dump()),
        environment=environment,
        word=word,
        clock=SystemClock(),
        boot_id=boot_id(),
        signing_key=keys[0],
        log_key=keys[1],
        edges=edges,
        metrics=metrics,
        is_newcomer=is_newcomer,
    )


def _shown(config: NodeConfig, pair: KeyPair, genesis_hash: bytes) -> LocalIdentity:
    """What the node shows its peers."""
    return LocalIdentity(config.node.id, pair.certificate, pair.private_key, genesis_hash)


def _lineage(config: NodeConfig, genesis: Genesis, environment: Environment) -> LineageKeeper:
    map_size_bytes = config.storage.map_size_bytes
    return LineageKeeper(
        lambda: GraphStore.open(config.node.data_dir, genesis.hash, map_size_bytes=map_size_bytes),
        environment.read_aside,
    )


async def _end(loop_task: asyncio.Task[None], transport: Transport) -> None:
    """Stops the loop, then the transport; raises what ended the loop, if something did."""
    loop_task.cancel()
    await asyncio.wait([loop_task])
    await transport.stop()
    if not loop_task.cancelled():
        loop_task.result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the process; returns its exit code."""
    options = parse_options("core_process", arguments)
    word: AuthorityWord | None = None
    try:
        options.check_program()
        check_engine()
        word = AuthorityWord.open(options.authority_fd, writable=True)
        config = load_config(options.config)
        configure_logging(config.log.level, config.log.format)
        metrics = open_metrics(config.metrics.core, config.node.id, "core")
        uvloop.run(serve(config, word, options.lifeline_fd, metrics, options.edges))
    except (StorageDamagedError, SafetyViolationError) as error:
        log.critical("core.damaged", problem=str(error), hint=error.hint)
        return exit_codes.DAMAGED
    except UnsupportedProtocolError as error:
        log.critical("core.outdated", problem=str(error), hint=error.hint)
        return exit_codes.OUTDATED
    except ConfigurationError as error:
        log.critical("core.configuration", problem=str(error), hint=error.hint)
        return exit_codes.CONFIGURATION
    except (QuorateError, OSError) as error:
        log.critical("core.failed", problem=str(error), hint=getattr(error, "hint", ""))
        return exit_codes.FAULT
    return exit_codes.OK


if __name__ == "__main__":
    sys.exit(main())
