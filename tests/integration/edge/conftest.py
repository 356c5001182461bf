"""A node's services over real TLS, on a real store, with a core that a test commands."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
import structlog

from quorate.api.access import Access
from quorate.api.core_link import CoreLink, core_socket
from quorate.api.denials import DenialJournal
from quorate.api.explain import EdgeExplainer, ExplainService
from quorate.api.lease import LeaseService
from quorate.api.pace import explanations
from quorate.api.ports import (
    Denied,
    Level,
    MemberStatus,
    NodeStatus,
    Progress,
    Proposed,
    Reach,
    Reported,
)
from quorate.api.servers import (
    CoreServers,
    PublicServer,
    build_public_server,
    explain_registration,
    lease_registration,
    start_core_servers,
)
from quorate.api.watch import WatchHub
from quorate.core import codec
from quorate.core.lineage import EventType
from quorate.core.outcome import Deny, Reason
from quorate.core.state import StateView
from quorate.core.transitions import apply, install_genesis
from quorate.lease.bounds import Bound
from quorate.lease.check import LeaseChecker
from quorate.lease.clock import SystemClock, boot_id
from quorate.lease.word import AuthorityRecord, AuthorityWord
from quorate.node.certificates import (
    KeyPair,
    issue_executor,
    issue_node,
    issue_operator,
    make_ca,
)
from quorate.storage import Environment, Snapshot
from quorate.telemetry import DenialLog, Metrics
from quorate.testing.builders import CREATED_MS, Federation, acquire_body, grant_body

DOMAIN = "bank.example"
NODE = f"spiffe://{DOMAIN}/node/1"
EXECUTOR = f"spiffe://{DOMAIN}/agent/payments"
OTHER = f"spiffe://{DOMAIN}/agent/other"
OPERATOR = f"spiffe://{DOMAIN}/operator/admin"
ACTION = "payments.transfer"
RESOURCE = f"//{DOMAIN}/accounts/payroll"
SERVER_NAME = "1.node.bank.example"
MS = 1_000_000


@dataclass(frozen=True)
class Pki:
    """A CA, and what it issued."""

    ca: KeyPair
    node: KeyPair
    executor: KeyPair
    other: KeyPair
    operator: KeyPair

    @classmethod
    def of(cls, domain: str) -> Pki:
        ca = make_ca(domain)
        return cls(
            ca=ca,
            node=issue_node(ca, f"spiffe://{domain}/node/1"),
            executor=issue_executor(ca, f"spiffe://{domain}/agent/payments"),
            other=issue_executor(ca, f"spiffe://{domain}/agent/other"),
            operator=issue_operator(ca, f"spiffe://{domain}/operator/admin"),
        )


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki.of(DOMAIN)


@pytest.fixture(scope="session")
def foreign() -> Pki:
    return Pki.of("clinic.example")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short, because a unix socket's path is; private, because a node's directory is."""
    path = Path(tempfile.mkdtemp(prefix="qe-"))
    yield path
    shutil.rmtree(path)


@dataclass
class FakeCore:
    """`quorate.api.ports.Core` on a real store; proposals are executed at once, alone.

    fate: what becomes of the next proposals: "apply", "unknown", "refuse", "fail" or "hang"; the
    last two, of reports as well.
    reported, denied: what it was told. answer: to a report. keeps: whether denials are durable.
    level, bound: what wait_for finds reached, and promises. steps: that progress tells before; it
        never ends when the fate is "wait". waits: what it was asked.
    hanging, cancelled: set when a proposal hangs, and when it no longer does.
    """

    environment: Environment
    federation: Federation
    fate: str = "apply"
    level: Level = Level.DRAINED
    bound: Bound = field(default_factory=lambda: Bound(0, 0))
    steps: list[Progress] = field(default_factory=list)
    ledger_time_ms: int = CREATED_MS
    authority_ms: int = 0
    checkpoint_error: Exception | None = None
    proposed: list[tuple[str, str]] = field(default_factory=list)
    waits: list[tuple[int, Level, int]] = field(default_factory=list)
    reported: list[tuple[object, ...]] = field(default_factory=list)
    denied: list[Denied] = field(default_factory=list)
    answer: Reported | Deny = field(default_factory=lambda: Reported("ab" * 32, "started"))
    keeps: bool = True
    edges: int = 2
    drained: asyncio.Queue[tuple[int, int]] = field(default_factory=asyncio.Queue)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)

    def read(self) -> AbstractContextManager[Snapshot]:
        return self.environment.read()

    async def propose(self, envelope: bytes, timeout_ms: int) -> Proposed:
        match self.fate:
            case "unknown":
                return Proposed(problem="no outcome in time")
            case "refuse":
                return Proposed(refused=Reason.STORAGE_FULL)
            case "fail":
                raise RuntimeError("the secret of the vault is 42")
            case "hang":
                self.hanging.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled.set()
        return self.execute(envelope)

    def execute(self, envelope: bytes) -> Proposed:
        turn = self.environment.turn
        applied = apply(turn.state, codec.stamp(self.ledger_time_ms, envelope), turn.ledger_size)
        if applied.entry is not None:
            turn.append_ledger(applied.entry)
        turn.set_applied(turn.applied_index + 1)
        self.environment.commit()
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()
        return Proposed(outcome=applied.outcome)

    def run(self, issuer: str, kind: str, body: dict[str, object]) -> Proposed:
        proposed = self.execute(self.federation.command(issuer, kind, body))
        assert proposed.outcome is not None
        assert proposed.outcome.accepted, proposed.outcome
        return proposed

    async def propose_lease(
        self, kind: str, body: dict[str, object], nonce: str, timeout_ms: int
    ) -> Proposed:
        self.proposed.append((kind, nonce))
        return await self.propose(self.federation.command(NODE, kind, body, nonce), timeout_ms)

    async def report(
        self,
        executor: str,
        lease_id: str,
        events: Sequence[tuple[EventType, Mapping[str, str]]],
        after: str | None,
    ) -> Reported | Deny:
        self.reported.append((executor, lease_id, list(events), after))
        if self.fate == "fail":
            raise RuntimeError("the secret of the vault is 42")
        if self.fate == "hang":
            self.hanging.set()
            await asyncio.Event().wait()
        return self.answer

    async def report_denials(self, denials: Sequence[Denied]) -> bool:
        if self.keeps:
            self.denied += denials
        return self.keeps

    async def wait_for(self, ledger_index: int, level: Level, timeout_ms: int) -> Reach:
        self.waits.append((ledger_index, level, timeout_ms))
        return Reach(min(self.level, level), self.bound)

    async def progress(
        self, ledger_index: int, level: Level, timeout_ms: int
    ) -> AsyncGenerator[Progress, None]:
        try:
            for step in self.steps:
                yield step
            if self.fate == "wait":
                self.hanging.set()
                await asyncio.Event().wait()
            yield Progress(await self.wait_for(ledger_index, level, timeout_ms), is_last=True)
        finally:
            self.cancelled.set()

    def status(self) -> NodeStatus:
        return NodeStatus(
            node_id=NODE,
            origin=self.federation.origin,
            role="leader",
            leader=NODE,
            term=4,
            commit_index=9,
            applied_index=8,
            authority_remaining_ms=self.authority_ms,
            authority_reason=None if self.authority_ms else Reason.STORAGE_FULL,
            storage_problem="the disk is full",
            clock_offset_ms=-3,
            durable_turns=17,
            probation=True,
            outbox_records=5,
            ledger_time_ms=self.ledger_time_ms,
            members=(
                MemberStatus(
                    NODE, DOMAIN, "127.0.0.1:7401", True, 9, 8, "voter", "active", "learner"
                ),
            ),
        )

    def checkpoint(self) -> str:
        if self.checkpoint_error is not None:
            raise self.checkpoint_error
        return "a signed note\n"

    def edge_drained(self, slot: int, index: int) -> None:
        self.drained.put_nowait((slot, index))

    async def follow(self) -> AsyncGenerator[int, None]:
        while True:
            bell = self._bell
            with self.read() as snapshot:
                size = snapshot.ledger_size
            yield size
            await bell.wait()


@pytest.fixture
def core(directory: Path) -> Iterator[FakeCore]:
    """A node whose federation knows the executor, with a grant for it."""
    federation = Federation.build()
    genesis = federation.parsed_genesis()
    environment = Environment.open(directory / "ledger", map_size_bytes=64 * 2**20)
    environment.initialise(genesis.hash, NODE)
    turn = environment.turn
    turn.append_ledger(install_genesis(turn.state, genesis))
    environment.commit()
    core = FakeCore(environment, federation)
    core.run(DOMAIN, "executor.register", {"executor": EXECUTOR})
    core.run(DOMAIN, "grant.issue", grant_body("g", EXECUTOR, [f"//{DOMAIN}/accounts/*"]))
    yield core
    environment.close()


@pytest.fixture
async def servers(core: FakeCore, pki: Pki, directory: Path) -> AsyncIterator[CoreServers]:
    """The core process's servers."""
    config = SimpleNamespace(
        node=SimpleNamespace(id=NODE, data_dir=directory),
        listen=SimpleNamespace(governance="127.0.0.1:0"),
    )
    servers = await start_core_servers(core, config, pki.node, pki.ca.certificate)
    yield servers
    await servers.public.stop(0)
    await servers.local.stop(0)


def channel(
    port: int, ca: bytes, who: KeyPair | None, options: tuple[tuple[str, object], ...] = ()
) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        root_certificates=ca,
        private_key=who.private_key if who else None,
        certificate_chain=who.certificate if who else None,
    )
    name = ("grpc.ssl_target_name_override", SERVER_NAME)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=[name, *options])


@pytest.fixture
async def dial(pki: Pki) -> AsyncIterator[object]:
    """dial(port, who=None): a channel with that certificate, closed at the end of the test."""
    async with AsyncExitStack() as stack:

        def connect(port: int, who: KeyPair | None, **options: object) -> grpc.aio.Channel:
            pairs = tuple((name.replace("__", "."), value) for name, value in options.items())
            made = channel(port, pki.ca.certificate, who, pairs)
            stack.push_async_callback(made.close)
            return made

        yield connect


@dataclass
class Edge:
    """An edge's parts, in this process, on the core's own store."""

    server: PublicServer
    hub: WatchHub
    word: AuthorityWord
    core: FakeCore
    metrics: CountingMetrics
    journal: DenialJournal
    link: CoreLink

    @property
    def port(self) -> int:
        return self.server.port

    def grant(self, period_ms: int = 60_000, **changes: object) -> AuthorityRecord:
        """Authority from now on, for the state that is there now."""
        clock = SystemClock()
        now = clock.boottime_ns()
        with self.core.read() as snapshot:
            index = snapshot.applied_index
            ledger_time_ms = StateView(snapshot.state).ledger_time()
        record = AuthorityRecord(
            boot_id=boot_id(),
            deadline_ns=now + period_ms * MS,
            granted_at_boottime_ns=now,
            granted_at_realtime_ns=clock.realtime_ns(),
            term=1,
            index=index,
            ledger_time_ms=ledger_time_ms,
            max_permit_ttl_ms=1_000,
            rho_ppm=10_000,
        )
        record = replace(record, **changes)  # type: ignore[arg-type]
        self.word.write(record)
        return record

    def lease(self, executor: str = EXECUTOR, ttl_ms: int = 60_000) -> str:
        """A lease, made straight in the ledger."""
        proposed = self.core.run(
            NODE, "lease.acquire", acquire_body(executor, ACTION, RESOURCE, ttl_ms)
        )
        assert proposed.outcome is not None
        return str(proposed.outcome.result["lease"])


class CountingMetrics(Metrics):
    """Remembers what was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[tuple[str, ...]] = []

    def checked(self, verdict: str, reason: str) -> None:
        self.counted.append(("check", verdict, reason))

    def denied(self, method: str, reason: str) -> None:
        self.counted.append(("denied", method, reason))

    def fault(self, method: str) -> None:
        self.counted.append(("fault", method))


@pytest.fixture
async def edge(
    core: FakeCore, servers: CoreServers, pki: Pki, directory: Path
) -> AsyncIterator[Edge]:
    """An edge beside the core process's servers, without authority until the test grants it."""
    async with AsyncExitStack() as stack:
        with ExitStack() as closing:
            word = AuthorityWord.create()
            closing.callback(word.close)
            clock = SystemClock()
            metrics = CountingMetrics()
            checker = LeaseChecker(word, lambda: core.environment, clock, boot_id())
            link = CoreLink(core_socket(directory), 0)
            stack.push_async_callback(link.close)
            journal = DenialJournal(link)
            hub = WatchHub(checker, lambda: core.environment, clock, metrics)
            service = LeaseService(
                checker=checker,
                proposer=link,
                hub=hub,
                clock=clock,
                access=Access(DOMAIN),
                metrics=metrics,
                denials=DenialLog(clock.boottime_ns, structlog.get_logger()),
                journal=journal,
            )
            server = build_public_server(
                [
                    lease_registration(service),
                    explain_registration(
                        ExplainService(
                            EdgeExplainer(checker, hub),
                            Access(DOMAIN),
                            Access(DOMAIN).own,
                            explanations(clock),
                        )
                    ),
                ],
                address="127.0.0.1:0",
                identity=pki.node,
                client_ca=pki.ca.certificate,
                metrics=metrics,
            )
            await server.start()
            await server.set_serving(True)
            stack.push_async_callback(server.stop, 0)
            tasks = [
                asyncio.create_task(hub.run()),
                asyncio.create_task(link.follow(hub.moved, hub)),
            ]
            try:
                yield Edge(server, hub, word, core, metrics, journal, link)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                hub.close()
                await stack.aclose()
