"""The edge as a process: from before there is a store until its supervisor is gone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from quorate.chaos.processes import wait_until
from quorate.core import codec, dsse, protocol
from quorate.core.genesis import build_genesis_payload
from quorate.core.outcome import Reason
from quorate.core.state import StateView
from quorate.core.transitions import apply, install_genesis
from quorate.lease.clock import SystemClock, boot_id
from quorate.lease.word import AuthorityRecord, AuthorityWord
from quorate.node import exit_codes, organisation
from quorate.node.identity import load_signing_key
from quorate.proofs.signing import sign_envelope
from quorate.storage import Environment
from quorate.testing.builders import (
    CREATED_MS,
    ORIGIN,
    PARAMETERS,
    Federation,
    Organisation,
    acquire_body,
    grant_body,
)
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

DOMAIN = "bank.example"
NODE = f"spiffe://{DOMAIN}/node/1"
EXECUTOR = f"spiffe://{DOMAIN}/agent/payments"
ACTION = "payments.transfer"
RESOURCE = f"//{DOMAIN}/accounts/payroll"
MS = 1_000_000
CANCELLED_CALL = re.compile(
    r"Traceback \(most recent call last\):\n(?:  .*\n)*asyncio\.exceptions\.CancelledError\n"
)
"""What gRPC prints now and then of a call that a stopping server cancels."""
PERMIT, DENY = decision_pb2.VERDICT_PERMIT, decision_pb2.VERDICT_DENY


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Node:
    """A node's directory, with its core process and its supervisor played by the test."""

    directory: Path
    federation: Federation
    word: AuthorityWord
    lifeline: int
    held: int
    closing: ExitStack
    environment: Environment | None = None
    edges: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def config(self) -> organisation.NodeConfig:
        return organisation.Organisation.load(self.directory).config

    def start_edge(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        fd = self.word.reader_fd()
        log = (self.directory / "edge.log").open("ab")
        command = [sys.executable, "-m", "quorate.node.edge_process"]
        command += ["--config", str(self.directory / "node.toml")]
        command += ["--authority-fd", str(fd), "--lifeline-fd", str(self.lifeline)]
        command += ["--protocol", str(protocol.LATEST), *options]
        try:
            edge = subprocess.Popen(
                command,
                pass_fds=(fd, self.lifeline),
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | environment,
            )
        finally:
            os.close(fd)
            log.close()
        self.edges.append(edge)
        return edge

    def log(self) -> str:
        return (self.directory / "edge.log").read_text()

    def make_store(self) -> None:
        """What the core process does first."""
        self.begin_store()
        self.install_genesis()

    def begin_store(self) -> None:
        genesis = self.federation.parsed_genesis()
        environment = Environment.open(
            self.config.node.data_dir / "ledger",
            map_size_bytes=self.config.storage.map_size_bytes,
        )
        self.closing.callback(environment.close)
        self.environment = environment
        environment.initialise(genesis.hash, NODE)

    def install_genesis(self) -> None:
        assert self.environment is not None
        turn = self.environment.turn
        turn.append_ledger(install_genesis(turn.state, self.federation.parsed_genesis()))
        self.environment.commit()

    def run(self, issuer: str, kind: str, body: dict[str, object]) -> dict[str, object]:
        assert self.environment is not None
        turn = self.environment.turn
        payload = codec.stamp(CREATED_MS, self.federation.command(issuer, kind, body))
        applied = apply(turn.state, payload, turn.ledger_size)
        assert applied.outcome.accepted, applied.outcome
        assert applied.entry is not None
        turn.append_ledger(applied.entry)
        turn.set_applied(turn.applied_index + 1)
        self.environment.commit()
        return dict(applied.outcome.result)

    def make_lease(self) -> str:
        self.run(DOMAIN, "executor.register", {"executor": EXECUTOR})
        self.run(DOMAIN, "grant.issue", grant_body("g", EXECUTOR, [f"//{DOMAIN}/accounts/*"]))
        return str(
            self.run(NODE, "lease.acquire", acquire_body(EXECUTOR, ACTION, RESOURCE))["lease"]
        )

    def grant(self, period_ms: int = 60_000, **changes: object) -> None:
        assert self.environment is not None
        clock = SystemClock()
        now = clock.boottime_ns()
        with self.environment.read() as snapshot:
            record = AuthorityRecord(
                boot_id=boot_id(),
                deadline_ns=now + period_ms * MS,
                granted_at_boottime_ns=now,
                granted_at_realtime_ns=clock.realtime_ns(),
                term=1,
                index=snapshot.applied_index,
                ledger_time_ms=StateView(snapshot.state).ledger_time(),
                max_permit_ttl_ms=1_000,
                rho_ppm=10_000,
            )
        self.word.write(replace(record, **changes))  # type: ignore[arg-type]

    def channel(self, address: str = "") -> grpc.aio.Channel:
        read = self.directory / "executor"
        credentials = grpc.ssl_channel_credentials(
            (read / "ca.crt").read_bytes(),
            (read / "executor.key").read_bytes(),
            (read / "executor.crt").read_bytes(),
        )
        return grpc.aio.secure_channel(
            address or self.config.listen.lease,
            credentials,
            options=[("grpc.ssl_target_name_override", "1.node.bank.example")],
        )


@pytest.fixture
def node(directory: Path) -> Iterator[Node]:
    home = directory / "bank"
    made = organisation.create(
        home,
        domain=DOMAIN,
        peer_address=f"127.0.0.1:{free_port()}",
        governance_address=f"127.0.0.1:{free_port()}",
        lease_address=f"127.0.0.1:{free_port()}",
    )
    organisation.issue_executor(made, "agent/payments", home / "executor")
    member = Organisation(
        domain=DOMAIN,
        governance=load_signing_key(home / "governance.key"),
        cosigner=load_signing_key(home / "cosigner.key"),
        signing=load_signing_key(home / "node/signing.key"),
        log=load_signing_key(home / "node/log.key"),
        peer_address=made.config.listen.peer,
    )
    payload = build_genesis_payload(
        ORIGIN, CREATED_MS, PARAMETERS, [(home / "descriptor.json").read_bytes()]
    )
    genesis = sign_envelope(dsse.GENESIS_TYPE, payload, member.governance)
    made.config.node.genesis.write_bytes(genesis)
    with ExitStack() as closing:
        word = AuthorityWord.create()
        closing.callback(word.close)
        lifeline, held = os.pipe()
        closing.callback(os.close, lifeline)
        node = Node(
            home, Federation({DOMAIN: member}, genesis, ORIGIN), word, lifeline, held, closing
        )
        yield node
        for edge in node.edges:
            edge.kill()
            edge.wait()
        if node.held >= 0:
            os.close(node.held)


async def serving(channel: grpc.aio.Channel) -> bool:
    answer = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service="quorate.v1.LeaseService"),
        wait_for_ready=True,
        timeout=30,
    )
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def until_serving(channel: grpc.aio.Channel) -> None:
    async with asyncio.timeout(30):
        watching = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="quorate.v1.LeaseService"), wait_for_ready=True
        )
        async for answer in watching:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


async def test_an_edge_from_first_start_to_last(node: Node) -> None:
    edge = node.start_edge()
    async with node.channel() as channel:
        stub = lease_pb2_grpc.LeaseServiceStub(channel)
        # No store, no core: it answers, and denies.
        assert not await serving(channel)
        answer = await stub.Check(lease_pb2.CheckRequest(lease_id="0" * 32))
        assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)
        answer = await stub.Acquire(lease_pb2.AcquireRequest(action=ACTION, resource=RESOURCE))
        assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)

        node.make_store()
        lease_id = node.make_lease()
        await until_serving(channel)
        answer = await stub.Check(lease_pb2.CheckRequest(lease_id=lease_id))
        assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)

        node.grant(period_ms=2_000)
        deadline_s = time.monotonic() + 2.0
        watch = stub.Watch(iter([lease_pb2.WatchRequest(lease_ids=[lease_id])]))
        assert (await watch.read()).event == lease_pb2.WATCH_EVENT_ACTIVE
        answer = await stub.Check(lease_pb2.CheckRequest(lease_id=lease_id))
        assert (answer.verdict, answer.position.size) == (PERMIT, 4)
        # With a word, and without a core process, a wish is denied and known not to be proposed.
        wish = lease_pb2.AcquireRequest(action=ACTION, resource=RESOURCE)
        acquired = await stub.Acquire(wish)
        assert (acquired.reason, acquired.unknown) == (decision_pb2.REASON_INQUORATE, False)
        told = await watch.read()
        assert told.event == lease_pb2.WATCH_EVENT_AUTHORITY_LOST
        assert -0.01 < time.monotonic() - deadline_s < 0.5
        answer = await stub.Check(lease_pb2.CheckRequest(lease_id=lease_id))
        assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)
        node.grant()
        assert (await watch.read()).event == lease_pb2.WATCH_EVENT_RESTORED

        edge.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.to_thread(edge.wait, 10) == exit_codes.OK
    assert "Traceback" not in CANCELLED_CALL.sub("", node.log())
    assert "denied without a quorum" in node.log()


async def test_an_edge_waits_for_a_store_that_is_whole(node: Node) -> None:
    """The core makes it in two steps, and may end in between."""
    node.begin_store()
    edge = node.start_edge()
    async with node.channel() as channel:
        stub = lease_pb2_grpc.LeaseServiceStub(channel)
        assert not await serving(channel)
        waits = "the store holds no federation yet"
        await asyncio.to_thread(wait_until, "its log", lambda: waits in node.log(), 30)
        answer = await stub.Check(lease_pb2.CheckRequest(lease_id="0" * 32))
        assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)
        node.install_genesis()
        await until_serving(channel)
        node.grant()
        watch = stub.Watch(iter([lease_pb2.WatchRequest(lease_ids=[node.make_lease()])]))
        assert (await watch.read()).event == lease_pb2.WATCH_EVENT_ACTIVE
    assert edge.poll() is None


async def test_a_stopped_edge_wakes_up_to_the_truth(node: Node) -> None:
    """Paused by a signal over a revocation and the deadline: it denies, whatever it held before."""
    node.make_store()
    lease_id = node.make_lease()
    edge = node.start_edge()
    async with node.channel() as channel:
        stub = lease_pb2_grpc.LeaseServiceStub(channel)
        await until_serving(channel)
        node.grant(period_ms=1_500)
        check = lease_pb2.CheckRequest(lease_id=lease_id)
        assert (await stub.Check(check)).verdict == PERMIT
        edge.send_signal(signal.SIGSTOP)
        asked = [asyncio.ensure_future(stub.Check(check)) for _ in range(8)]
        await asyncio.sleep(1.6)  # the authority lapses meanwhile
        edge.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*asked)
        assert {answer.reason for answer in answers} == {decision_pb2.REASON_INQUORATE}
        edge.send_signal(signal.SIGSTOP)
        asked = [asyncio.ensure_future(stub.Check(check)) for _ in range(8)]
        node.run(DOMAIN, "executor.revoke", {"executor": EXECUTOR})
        node.grant()
        edge.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*asked)
        assert {answer.reason for answer in answers} == {decision_pb2.REASON_EXECUTOR_REVOKED}


def scraped(address: str, name: str) -> float | None:
    """A gauge, as Prometheus would read it; None while there is none."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith(name + "{") or line.startswith(name + " ")]
    return float(found[0].rsplit(" ", 1)[1]) if found else None


async def test_an_edge_shows_its_authority_and_the_permits_that_may_be_in_use(node: Node) -> None:
    node.make_store()
    lease_id = node.make_lease()
    address = f"127.0.0.1:{free_port()}"
    node.start_edge(QUORATE_METRICS__EDGE=address)

    async def shown(name: str) -> float | None:
        return await asyncio.to_thread(scraped, address, f"quorate_{name}")

    async with node.channel() as channel:
        await until_serving(channel)
        assert await shown("authority_remaining_milliseconds") == 0
        assert await shown("permits_outstanding") == 0
        node.grant(period_ms=60_000)
        remaining = await shown("authority_remaining_milliseconds")
        assert remaining is not None
        assert 30_000 < remaining <= 60_000
        stub = lease_pb2_grpc.LeaseServiceStub(channel)
        assert (await stub.Check(lease_pb2.CheckRequest(lease_id=lease_id))).verdict == PERMIT
        assert await shown("permits_outstanding") == 1
        node.word.clear(Reason.INQUORATE)
        assert await shown("authority_remaining_milliseconds") == 0


async def test_an_edge_ends_with_its_supervisor(node: Node) -> None:
    node.make_store()
    edge = node.start_edge()
    async with node.channel() as channel:
        await until_serving(channel)
    os.close(node.held)
    node.held = -1
    assert await asyncio.to_thread(edge.wait, 10) == exit_codes.OK


async def test_two_edges_share_an_address(node: Node) -> None:
    node.make_store()
    edges = [node.start_edge(), node.start_edge()]
    async with node.channel() as channel:
        await until_serving(channel)
    async with asyncio.timeout(30):
        while node.log().count("edge.serving") < 2:  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.05)
    assert [edge.poll() for edge in edges] == [None, None]


async def test_executors_of_this_machine_can_use_a_unix_socket(node: Node) -> None:
    node.make_store()
    lease_id = node.make_lease()
    path = node.directory / "lease.sock"
    listen = {"QUORATE_LISTEN__LEASE_SOCKET": str(path)}
    first = node.start_edge(**listen)
    node.grant()
    async with node.channel() as by_port, node.channel(f"unix:{path}") as by_socket:
        await until_serving(by_port)
        check = lease_pb2.CheckRequest(lease_id=lease_id)
        answer = await lease_pb2_grpc.LeaseServiceStub(by_socket).Check(check)
        assert answer.verdict == PERMIT
    # What the socket is reached by is no identity: that is the certificate.
    ca = grpc.ssl_channel_credentials((node.directory / "executor" / "ca.crt").read_bytes())
    named = [("grpc.ssl_target_name_override", "1.node.bank.example")]
    async with grpc.aio.secure_channel(f"unix:{path}", ca, options=named) as nobody:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await lease_pb2_grpc.LeaseServiceStub(nobody).Check(check)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    # Another edge of the node leaves it alone, and another process does not get it.
    second = node.start_edge("--slot", "1", **listen)
    async with asyncio.timeout(30):
        while node.log().count("edge.serving") < 2:  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.05)
    intruder = node.start_edge(**listen)
    assert await asyncio.to_thread(intruder.wait, 30) == exit_codes.CONFIGURATION
    assert f"cannot listen at {path}: it is in use" in node.log()
    # Nobody listens at what is left of one that was killed: the next takes its place.
    first.kill()
    first.wait()
    assert path.is_socket()
    node.start_edge(**listen)
    async with node.channel(f"unix:{path}") as again:
        await until_serving(again)
        answer = await lease_pb2_grpc.LeaseServiceStub(again).Check(check)
        assert answer.verdict == PERMIT
    assert second.poll() is None


async def test_a_file_in_the_place_of_the_socket_is_left_alone(node: Node) -> None:
    path = node.directory / "lease.sock"
    path.write_text("of somebody else")
    edge = node.start_edge(QUORATE_LISTEN__LEASE_SOCKET=str(path))
    assert await asyncio.to_thread(edge.wait, 30) == exit_codes.CONFIGURATION
    assert path.read_text() == "of somebody else"
    assert f"cannot listen at {path}" in node.log()


async def test_a_store_of_another_node_is_never_served(node: Node) -> None:
    genesis = node.federation.parsed_genesis()
    environment = Environment.open(node.config.node.data_dir / "ledger", map_size_bytes=2**24)
    environment.initialise(genesis.hash, f"spiffe://{DOMAIN}/node/2")
    environment.close()
    node.start_edge()
    async with node.channel() as channel:
        assert not await serving(channel)
        answer = await lease_pb2_grpc.LeaseServiceStub(channel).Check(
            lease_pb2.CheckRequest(lease_id="0" * 32)
        )
        assert answer.verdict == DENY
    assert "belongs to" in node.log()


def test_a_configuration_that_cannot_work_ends_it(node: Node) -> None:
    node.config.node.genesis.unlink()
    assert node.start_edge().wait(30) == exit_codes.CONFIGURATION
    assert "edge.configuration" in node.log()


def test_a_descriptor_that_is_no_word_ends_it(node: Node) -> None:
    command = [sys.executable, "-m", "quorate.node.edge_process"]
    command += ["--config", str(node.directory / "node.toml")]
    command += ["--authority-fd", str(node.lifeline), "--lifeline-fd", str(node.lifeline)]
    command += ["--protocol", str(protocol.LATEST)]
    done = subprocess.run(
        command, pass_fds=(node.lifeline,), capture_output=True, timeout=30, check=False
    )
    assert done.returncode == exit_codes.CONFIGURATION
    assert b"no authority word" in done.stderr


async def test_a_cleared_word_reaches_the_edge(node: Node) -> None:
    node.make_store()
    lease_id = node.make_lease()
    node.start_edge()
    async with node.channel() as channel:
        await until_serving(channel)
        stub = lease_pb2_grpc.LeaseServiceStub(channel)
        node.grant()
        check = lease_pb2.CheckRequest(lease_id=lease_id)
        assert (await stub.Check(check)).verdict == PERMIT
        node.word.clear(Reason.STORAGE_FULL)
        answer = await stub.Check(check)
        assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_STORAGE_FULL)
        node.grant(boot_id=bytes(16))
        assert (await stub.Check(check)).reason == decision_pb2.REASON_INQUORATE
