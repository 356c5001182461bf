"""A command line to run, organisations to run it for, and a node to run it against.

The node is a real gRPC server with real certificates over the real core; only consensus and disk
are left out. What it does wrong, a test tells it to.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.servers import stop
from tests.unit.cli.proving import ProvingCalls
from typer.testing import CliRunner

from quorate.api import convert
from quorate.api.core import delegation_body
from quorate.api.explain import question_of
from quorate.api.explained import explanation_to_wire
from quorate.api.validate import in_order
from quorate.cli.app import app
from quorate.core import codec
from quorate.core.explaining import under
from quorate.core.genesis import Genesis
from quorate.core.outcome import Deny
from quorate.core.state import Kind, StateView, list_records, record_json
from quorate.core.store import MemoryStore
from quorate.core.transitions import apply, install_genesis
from quorate.node import organisation
from quorate.node.identity import load_certificate, load_signing_key
from quorate.node.organisation import Organisation
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint
from quorate.proofs.commands import build_command
from quorate.v1 import (
    decision_pb2,
    explain_pb2_grpc,
    governance_pb2,
    governance_pb2_grpc,
    lease_pb2,
    lease_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
)

DOMAINS = ("bank.example", "clinic.example", "logistics.example")
JOINER = "port.example"
"""Is no member."""
ORIGIN = "quorate.example/test"
SHOWN_S = 0.3
"""Between two messages: for a line on a terminal to be drawn anew."""


@dataclass(frozen=True)
class Ran:
    """What one run of the command line left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> Any:
        return json.loads(self.stderr)["error"]


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("QUORATE_") or name in ("FORCE_COLOR", "NO_COLOR"):
            monkeypatch.delenv(name)


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object, answer: str = "") -> Ran:
        result = CliRunner().invoke(app, [str(item) for item in arguments], input=answer)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return invoke


@dataclass
class Federation:
    """Three organisations, and the genesis that all of them have signed."""

    root: Path
    genesis_file: Path

    def org(self, domain: str = DOMAINS[0]) -> Path:
        return self.root / domain

    @property
    def genesis(self) -> Genesis:
        return organisation.read_genesis(self.genesis_file)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation to copy: making one takes longer than most tests."""
    root = tmp_path_factory.mktemp("federation")
    genesis = root / "genesis.json"
    for number, domain in enumerate(DOMAINS):
        address = f"127.0.0.1:{7411 + number}"
        organisation.create(root / domain, domain=domain, peer_address=address)
    descriptors = [root / domain / "descriptor.json" for domain in DOMAINS]
    for arguments in (
        ("draft", "--origin", ORIGIN, "--out", genesis, *descriptors),
        *(("sign", root / domain, genesis, "--yes") for domain in DOMAINS),
    ):
        made = CliRunner().invoke(app, ["genesis", *map(str, arguments)])
        assert made.exit_code == 0, made.stderr
    for domain in DOMAINS:
        shutil.copy(genesis, root / domain / "genesis.json")
    return root


@pytest.fixture
def federation(tmp_path: Path, template: Path) -> Federation:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return Federation(tmp_path, tmp_path / "genesis.json")


@dataclass
class FakeNode:
    """The services of one node over a core in memory.

    faults: taken one for each Submit or Revoke: `lose` (not executed, outcome unknown), `forget`
        (executed, outcome unknown), `break` (executed, then the connection breaks), `refuse`
        (certainly not executed), `SIGINT` and `SIGTERM` (sent to the command line, executed).
    open: whom RevokeWithProgress names before its end. followed: how often it was called.
    """

    organisation: Organisation
    genesis: Genesis
    store: MemoryStore = field(default_factory=MemoryStore)
    entries: list[bytes] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    knows_outcomes: bool = True
    knows_indexes: bool = True
    reached: list[int] = field(default_factory=list)
    bound_ms: int | None = None
    open: list[list[governance_pb2.OpenNode]] = field(default_factory=list)
    followed: int = 0
    matches: list[int] = field(default_factory=lambda: [0, 0, 0])
    raft_roles: dict[str, str] = field(default_factory=dict)
    refused: Deny | None = None
    permit_ttl_ms: int = 900
    check_delay_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)
    address: str = ""
    socket: str = ""

    def __post_init__(self) -> None:
        self.log_key = load_signing_key(self.organisation.config.keys.log)
        self.signing_key = load_signing_key(self.organisation.config.keys.signing)
        self.time_ms = self.genesis.created
        self.entries.append(install_genesis(self.store, self.genesis))

    @property
    def view(self) -> StateView:
        return StateView(self.store)

    @property
    def certificate_not_after_ms(self) -> int:
        leaf = load_certificate(self.organisation.config.tls.certificate)
        return int(leaf.not_valid_after_utc.timestamp() * 1000)

    @property
    def position(self) -> decision_pb2.LedgerPosition:
        return decision_pb2.LedgerPosition(
            size=len(self.entries), ledger_time_ms=self.view.ledger_time()
        )

    def node(self, level: int, index: int) -> bytes:
        """The Merkle tree, computed anew: slow and plain."""
        if level == 0:
            return merkle.leaf_hash(self.entries[index])
        return merkle.node_hash(
            self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1)
        )

    def execute(self, envelope: bytes) -> decision_pb2.Outcome:
        with self.lock:
            applied = apply(self.store, codec.stamp(self.time_ms, envelope), len(self.entries))
            if applied.entry is not None:
                self.entries.append(applied.entry)
        return convert.outcome_to_wire(applied.outcome)

    def checkpoint(self) -> str:
        root = merkle.root(self, len(self.entries))
        return sign_checkpoint(
            Checkpoint(self.genesis.origin, len(self.entries), root), self.log_key
        )


def _interrupt(name: str, context: Any) -> None:
    """Sends the command line a signal, and answers only when it has given the call up."""
    given_up = threading.Event()
    context.add_callback(given_up.set)
    os.kill(os.getpid(), signal.Signals[name])
    given_up.wait(10)


def _proposed(node: FakeNode, request: Any, context: grpc.ServicerContext, answer: type) -> Any:
    """What Submit and Revoke have in common, faults included."""
    node.requests.append(request)
    fault = node.faults.pop(0) if node.faults else ""
    if fault == "lose":
        return answer(unknown=True)
    if fault == "refuse":
        return answer(reason=decision_pb2.REASON_INQUORATE)
    if fault.startswith("SIG"):
        _interrupt(fault, context)
    outcome = node.execute(request.envelope)
    if fault == "break":
        context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
    return answer(unknown=True) if fault == "forget" else answer(outcome=outcome)


class _Governance(governance_pb2_grpc.GovernanceServiceServicer):
    def __init__(self, node: FakeNode) -> None:
        self.node = node

    def Submit(self, request: Any, context: Any) -> Any:  # noqa: N802
        return _proposed(self.node, request, context, governance_pb2.SubmitResponse)

    def Revoke(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = _proposed(self.node, request, context, governance_pb2.RevokeResponse)
        if answer.outcome.accepted:
            answer.reached = self.node.reached.pop(0) if self.node.reached else request.wait
            if self.node.bound_ms is not None:
                answer.bound_ms = self.node.bound_ms
        return answer

    def RevokeWithProgress(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.node.followed += 1
        if any(fault.startswith("SIG") for fault in self.node.faults):
            # Not while the call is being made: gRPC does not survive an interrupt within that.
            threading.Event().wait(SHOWN_S)
        answer = self.Revoke(request, context)
        if answer.outcome.accepted:
            for nodes in self.node.open:
                yield governance_pb2.RevokeProgress(
                    so_far=governance_pb2.RevokeResponse(
                        outcome=answer.outcome,
                        command_id=answer.command_id,
                        reached=governance_pb2.WAIT_LEVEL_COMMITTED,
                        bound_ms=2_060,
                    ),
                    open=nodes,
                )
                threading.Event().wait(SHOWN_S)
        yield governance_pb2.RevokeProgress(so_far=answer, is_last=True)

    def GetState(self, request: Any, context: Any) -> Any:  # noqa: N802
        kind = governance_pb2.Kind.Name(request.kind).removeprefix("KIND_").lower()
        found = record_json(self.node.view, kind, request.id)
        return governance_pb2.GetStateResponse(
            position=self.node.position,
            found=found is not None,
            record=(found or b"").decode(),
        )

    def GetOutcome(self, request: Any, context: Any) -> Any:  # noqa: N802
        known = self.node.view.outcome(request.command_id) if self.node.knows_outcomes else None
        return governance_pb2.GetOutcomeResponse(
            position=self.node.position,
            found=known is not None,
            outcome=convert.outcome_to_wire(known) if known is not None else None,
        )

    def ListState(self, request: Any, context: Any) -> Any:  # noqa: N802
        kind = Kind(governance_pb2.Kind.Name(request.kind).removeprefix("KIND_").lower())
        rows = list_records(self.node.view, kind, request.page_token, 2)
        return governance_pb2.ListStateResponse(
            position=self.node.position,
            records=[record.decode() for _, record in rows[:1]],  # a page of one: pages are many
            next_page_token=rows[0][0] if len(rows) > 1 else "",
        )


class _Ledger(ledger_pb2_grpc.LedgerServiceServicer):
    def __init__(self, node: FakeNode) -> None:
        self.node = node

    def GetCheckpoint(self, request: Any, context: Any) -> Any:  # noqa: N802
        return ledger_pb2.GetCheckpointResponse(note=self.node.checkpoint())

    def ListEntries(self, request: Any, context: Any) -> Any:  # noqa: N802
        end = request.start + min(request.limit, 2)
        page = self.node.entries[request.start : end]
        return ledger_pb2.ListEntriesResponse(size=len(self.node.entries), entries=page)

    def GetInclusionProof(self, request: Any, context: Any) -> Any:  # noqa: N802
        return ledger_pb2.GetInclusionProofResponse(
            size=request.size,
            entry=self.node.entries[request.index],
            hashes=merkle.inclusion_proof(self.node, request.index, request.size),
        )

    def GetConsistencyProof(self, request: Any, context: Any) -> Any:  # noqa: N802
        hashes = merkle.consistency_proof(self.node, request.old_size, request.new_size)
        return ledger_pb2.GetConsistencyProofResponse(hashes=hashes)


class _Status(node_pb2_grpc.NodeServiceServicer):
    def __init__(self, node: FakeNode) -> None:
        self.node = node

    def GetStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        frozen = self.node.view.federation().frozen
        return node_pb2.GetStatusResponse(
            node_id=self.node.organisation.config.node.id,
            origin=self.node.genesis.origin,
            role=node_pb2.ROLE_FOLLOWER,
            position=self.node.position,
            authority_reason=decision_pb2.REASON_INQUORATE,
            certificate_not_after_ms=self.node.certificate_not_after_ms,
            frozen=None if frozen is None else node_pb2.Frozen(actions=frozen.actions),
        )

    def ListMembers(self, request: Any, context: Any) -> Any:  # noqa: N802
        members = [
            node_pb2.Member(
                node_id=item.node.id,
                domain=item.domain,
                connected=True,
                match_index=match,
                role="voter",
                status="active",
                raft_role=self.node.raft_roles.get(item.node.id, ""),
            )
            for item, match in zip(self.node.genesis.descriptors, self.node.matches, strict=True)
        ]
        return node_pb2.ListMembersResponse(position=self.node.position, members=members)


class _Leases(ProvingCalls, lease_pb2_grpc.LeaseServiceServicer):
    def __init__(self, node: FakeNode) -> None:
        self.node = node

    def Acquire(self, request: Any, context: Any) -> Any:  # noqa: N802
        body = {
            "executor": next(iter(context.auth_context()["peer_spiffe_id"])).decode(),
            "action": request.action,
            "resource": request.resource,
            "ttl_ms": request.ttl_ms,
            **({"context": in_order(request.context)} if request.context else {}),
        }
        return self._propose("lease.acquire", body, request, lease_pb2.AcquireResponse, context)

    def Renew(self, request: Any, context: Any) -> Any:  # noqa: N802
        body = {
            "executor": next(iter(context.auth_context()["peer_spiffe_id"])).decode(),
            "lease": request.lease_id,
            "ttl_ms": request.ttl_ms,
        }
        return self._propose("lease.renew", body, request, lease_pb2.RenewResponse, context)

    def Release(self, request: Any, context: Any) -> Any:  # noqa: N802
        body = {
            "executor": next(iter(context.auth_context()["peer_spiffe_id"])).decode(),
            "lease": request.lease_id,
        }
        return self._propose("lease.release", body, request, lease_pb2.ReleaseResponse, context)

    def Delegate(self, request: Any, context: Any) -> Any:  # noqa: N802
        executor = next(iter(context.auth_context()["peer_spiffe_id"])).decode()
        body = delegation_body(executor, request)
        made = self._propose("grant.delegate", body, request, lease_pb2.DelegateResponse, context)
        made.grant = made.outcome.thing if made.outcome.accepted else ""
        return made

    def Recall(self, request: Any, context: Any) -> Any:  # noqa: N802
        executor = next(iter(context.auth_context()["peer_spiffe_id"])).decode()
        body: dict[str, object] = {"executor": executor, "grant": request.grant}
        return self._propose("grant.recall", body, request, lease_pb2.RecallResponse, context)

    def _propose(
        self, kind: str, body: dict[str, object], request: Any, answer: type, context: Any
    ) -> Any:
        self.node.requests.append(request)
        fault = self.node.faults.pop(0) if self.node.faults else ""
        if fault == "refuse":
            return answer(verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_INQUORATE)
        if fault.startswith("SIG"):
            _interrupt(fault, context)
        envelope = build_command(
            origin=self.node.genesis.origin,
            issuer=self.node.organisation.config.node.id,
            command_type=kind,
            body=body,
            nonce=request.request_id.encode().hex()[:64].rjust(16, "0"),
            not_after=self.node.time_ms + 60_000,
            key=self.node.signing_key,
        )
        outcome = self.node.execute(envelope)
        if fault == "forget":
            return answer(verdict=decision_pb2.VERDICT_DENY, unknown=True)
        if not outcome.accepted:
            verdict = decision_pb2.VERDICT_DENY
            return answer(verdict=verdict, reason=outcome.reason, outcome=outcome)
        made = answer(verdict=decision_pb2.VERDICT_PERMIT, outcome=outcome)
        if hasattr(made, "lease"):
            made.lease.CopyFrom(convert.lease_of_result(json.loads(outcome.result)))
        return made

    def Report(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.node.requests.append(request)
        fault = self.node.faults.pop(0) if self.node.faults else ""
        if fault.startswith("SIG"):
            _interrupt(fault, context)
        elif fault:
            context.abort(grpc.StatusCode[fault], "scripted")
        return lease_pb2.ReportResponse(verdict=decision_pb2.VERDICT_PERMIT, stage="started")

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        threading.Event().wait(self.node.check_delay_s)
        lease = self.node.view.lease(request.lease_id)
        if lease is None:
            return lease_pb2.CheckResponse(
                verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_UNKNOWN_LEASE
            )
        if self.node.knows_indexes and len(self.node.entries) <= request.minimum_index:
            return lease_pb2.CheckResponse(
                verdict=decision_pb2.VERDICT_DENY,
                reason=decision_pb2.REASON_BEHIND,
                thing=str(len(self.node.entries)),
                position=self.node.position,
            )
        return lease_pb2.CheckResponse(
            verdict=decision_pb2.VERDICT_PERMIT,
            ttl_ms=self.node.permit_ttl_ms,
            fence=lease.fence,
            position=self.node.position,
        )

    def Watch(self, requests: Any, context: Any) -> Any:  # noqa: N802
        request = next(requests)
        self.node.requests.append(request)
        for event, reason in (
            (lease_pb2.WATCH_EVENT_ACTIVE, decision_pb2.REASON_UNSPECIFIED),
            (lease_pb2.WATCH_EVENT_INTERRUPTED, decision_pb2.REASON_GRANT_REVOKED),
        ):
            yield lease_pb2.WatchResponse(lease_id=request.lease_ids[0], event=event, reason=reason)


class _Explanations(explain_pb2_grpc.ExplainServiceServicer):
    def __init__(self, node: FakeNode) -> None:
        self.node = node

    def Explain(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.node.requests.append(request)
        at = self.node.position
        found = question_of(request, request.executor)(self.node.view, self.node.time_ms)
        return explanation_to_wire(under(found, self.node.refused), at.size, at.ledger_time_ms)


class Serving:
    """Starts nodes, and stops them all at the end."""

    def __init__(self, federation: Federation, sockets: str) -> None:
        self._federation = federation
        self._sockets = sockets
        self._servers: list[grpc.Server] = []

    def start(self, domain: str = DOMAINS[0], beside: FakeNode | None = None) -> FakeNode:
        """beside: a node whose ledger this one keeps, too."""
        org = Organisation.load(self._federation.org(domain))
        node = FakeNode(org, self._federation.genesis)
        if beside is not None:
            node.store, node.entries, node.lock = beside.store, beside.entries, beside.lock
        server = grpc.server(ThreadPoolExecutor(4))
        governance_pb2_grpc.add_GovernanceServiceServicer_to_server(_Governance(node), server)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(_Ledger(node), server)
        node_pb2_grpc.add_NodeServiceServicer_to_server(_Status(node), server)
        lease_pb2_grpc.add_LeaseServiceServicer_to_server(_Leases(node), server)
        explain_pb2_grpc.add_ExplainServiceServicer_to_server(_Explanations(node), server)
        credentials = grpc.ssl_server_credentials(
            [(org.config.tls.private_key.read_bytes(), org.config.tls.certificate.read_bytes())],
            org.ca_certificate(),
            require_client_auth=True,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        node.socket = f"{self._sockets}/{len(self._servers)}.sock"
        server.add_secure_port(f"unix:{node.socket}", credentials)
        server.start()
        self._servers.append(server)
        node.address = f"127.0.0.1:{port}"
        self._configure(domain, node.address)
        return node

    def _configure(self, domain: str, address: str) -> None:
        file = self._federation.org(domain) / "node.toml"
        text = file.read_text().replace("127.0.0.1:7402", address)
        file.write_text(text)

    def stop(self) -> None:
        for server in self._servers:
            stop(server)


@pytest.fixture
def serving(federation: Federation) -> Iterator[Serving]:
    with tempfile.TemporaryDirectory() as sockets:  # short, because a unix socket's path is
        made = Serving(federation, sockets)
        yield made
        made.stop()


@pytest.fixture
def node(serving: Serving) -> FakeNode:
    return serving.start()


@pytest.fixture
def nodes(serving: Serving, node: FakeNode) -> dict[str, FakeNode]:
    """The node of each organisation; all of them keep one ledger."""
    others = {domain: serving.start(domain, beside=node) for domain in DOMAINS[1:]}
    return {DOMAINS[0]: node, **others}


@pytest.fixture
def ask(run: Run, federation: Federation) -> Callable[..., Ran]:
    """`quorate proposal`, as one of the organisations."""

    def invoke(*arguments: object, by: str = DOMAINS[0], output: str = "json") -> Ran:
        return run("proposal", *arguments, "--org", federation.org(by), "-o", output)

    return invoke


@pytest.fixture
def must(ask: Callable[..., Ran]) -> Callable[..., Any]:
    """The same, where it has to be accepted; returns what that says."""

    def invoke(*arguments: object, by: str = DOMAINS[0]) -> Any:
        ran = ask(*arguments, by=by)
        assert ran.exit_code == 0, (arguments, ran.stdout, ran.stderr)
        return ran.json

    return invoke


@pytest.fixture
def opened(nodes: dict[str, FakeNode], must: Callable[..., Any]) -> Callable[..., str]:
    """Opens a proposal; returns its id."""
    return lambda *what, by=DOMAINS[0]: str(must("open", *what, by=by)["result"]["id"])


@pytest.fixture
def descriptor(tmp_path: Path) -> Path:
    """The joiner's."""
    organisation.create(tmp_path / "port", domain=JOINER, peer_address="127.0.0.1:7499")
    return tmp_path / "port" / "descriptor.json"
