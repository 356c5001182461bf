"""Governance, ledger and node services over TLS: truthful answers within strict bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from quorate.api.ports import Level
from quorate.api.servers import CoreServers
from quorate.core.errors import ProbationError
from quorate.core.limits import MAX_ENVELOPE_BYTES, MAX_MESSAGE_BYTES
from quorate.lease.bounds import Bound
from quorate.proofs import merkle
from quorate.telemetry import Metrics
from quorate.testing.builders import grant_body, narrow_body, trust_body
from quorate.v1 import (
    decision_pb2,
    governance_pb2,
    governance_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
)

DOMAIN = "bank.example"
EXECUTOR = f"spiffe://{DOMAIN}/agent/payments"
Dial = Callable[..., grpc.aio.Channel]


@pytest.fixture
def governance(
    servers: CoreServers, dial: Dial, pki
) -> governance_pb2_grpc.GovernanceServiceAsyncStub:
    return governance_pb2_grpc.GovernanceServiceStub(dial(servers.public.port, pki.operator))


@pytest.fixture
def ledger(servers: CoreServers, dial: Dial, pki) -> ledger_pb2_grpc.LedgerServiceAsyncStub:
    return ledger_pb2_grpc.LedgerServiceStub(dial(servers.public.port, pki.executor))


@pytest.fixture
def node(servers: CoreServers, dial: Dial, pki) -> node_pb2_grpc.NodeServiceAsyncStub:
    return node_pb2_grpc.NodeServiceStub(dial(servers.public.port, pki.operator))


async def refused(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return caught.value


def violations(error: grpc.aio.AioRpcError) -> dict[str, str]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return {item.field: item.description for item in bad.field_violations}


def suspend(core, **changes) -> bytes:
    return core.federation.command(DOMAIN, "executor.suspend", {"executor": EXECUTOR}, **changes)


# -- Submit -------------------------------------------------------------------------------------


async def test_submit_answers_what_the_ledger_decided(core, governance) -> None:
    body = {"executor": f"spiffe://{DOMAIN}/agent/new"}
    envelope = core.federation.command(DOMAIN, "executor.register", body)
    first = await governance.Submit(governance_pb2.SubmitRequest(envelope=envelope))
    assert first.outcome.accepted
    assert not first.unknown
    assert first.command_id == first.outcome.command_id
    again = await governance.Submit(governance_pb2.SubmitRequest(envelope=envelope))
    assert again.outcome.duplicate
    assert again.outcome.ledger_index == first.outcome.ledger_index


async def test_a_denial_of_the_ledger_is_an_answer(core, governance) -> None:
    body = {"executor": EXECUTOR}
    envelope = core.federation.command(DOMAIN, "executor.register", body)
    answer = await governance.Submit(governance_pb2.SubmitRequest(envelope=envelope))
    assert not answer.outcome.accepted
    assert answer.outcome.reason == decision_pb2.REASON_ALREADY_EXISTS


async def test_what_was_not_proposed_and_what_is_not_known_differ(core, governance) -> None:
    core.fate = "unknown"
    answer = await governance.Submit(governance_pb2.SubmitRequest(envelope=suspend(core)))
    assert answer.unknown
    assert not answer.HasField("outcome")
    assert len(answer.command_id) == 64
    core.fate = "refuse"
    answer = await governance.Submit(governance_pb2.SubmitRequest(envelope=suspend(core)))
    assert not answer.unknown
    assert answer.reason == decision_pb2.REASON_STORAGE_FULL


async def test_every_violation_is_told(governance) -> None:
    request = governance_pb2.RevokeRequest(envelope=b"", timeout_ms=-1, wait=9)  # type: ignore[arg-type]
    error = await refused(governance.Revoke(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(violations(error)) == {"envelope", "timeout_ms", "wait"}


@pytest.mark.parametrize(
    "envelope",
    [b"{}", b"not json", b"x" * (MAX_ENVELOPE_BYTES + 1), b"\xff\xfe", b'{"payload":1}'],
)
async def test_what_is_no_envelope_never_reaches_the_ledger(core, governance, envelope) -> None:
    core.fate = "fail"
    for call in (
        governance.Submit(governance_pb2.SubmitRequest(envelope=envelope)),
        governance.Revoke(governance_pb2.RevokeRequest(envelope=envelope)),
    ):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert all(field.startswith("envelope") for field in violations(error))


async def test_what_is_no_command_names_its_place(core, governance) -> None:
    bad = core.federation.command(DOMAIN, "executor.suspend", {"executor": "nobody"})
    error = await refused(governance.Submit(governance_pb2.SubmitRequest(envelope=bad)))
    assert list(violations(error)) == ["envelope.payload.body.executor"]


async def test_a_message_above_the_limit_is_refused(servers, dial, pki) -> None:
    stub = governance_pb2_grpc.GovernanceServiceStub(
        dial(servers.public.port, pki.operator, grpc__max_send_message_length=-1)
    )
    request = governance_pb2.SubmitRequest(envelope=b"x" * (MAX_MESSAGE_BYTES + 1))
    error = await refused(stub.Submit(request))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_fault_shows_nothing_of_itself(core, governance, caplog) -> None:
    core.fate = "fail"
    error = await refused(governance.Submit(governance_pb2.SubmitRequest(envelope=suspend(core))))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "vault" not in (error.details() or "")
    assert "vault" not in str(error.trailing_metadata())


async def test_a_cancelled_call_is_cancelled_all_the_way(core, governance) -> None:
    core.fate = "hang"
    call = governance.Submit(governance_pb2.SubmitRequest(envelope=suspend(core)), timeout=0.2)
    assert (await refused(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await core.cancelled.wait()


# -- Revoke -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "asked"),
    [
        (governance_pb2.WAIT_LEVEL_UNSPECIFIED, Level.COMMITTED),
        (governance_pb2.WAIT_LEVEL_COMMITTED, Level.COMMITTED),
        (governance_pb2.WAIT_LEVEL_ENFORCED, Level.ENFORCED),
        (governance_pb2.WAIT_LEVEL_DRAINED, Level.DRAINED),
    ],
)
async def test_revoke_waits_for_the_level(core, governance, wait, asked) -> None:
    answer = await governance.Revoke(
        governance_pb2.RevokeRequest(envelope=suspend(core), wait=wait, timeout_ms=3_000)
    )
    assert answer.outcome.accepted
    assert answer.reached == int(asked)
    [(index, level, timeout_ms)] = core.waits
    assert (index, level) == (answer.outcome.ledger_index, asked)
    assert 0 < timeout_ms <= 3_000


@pytest.mark.parametrize("level", [Level.COMMITTED, Level.ENFORCED, Level.DRAINED])
async def test_revoke_tells_the_level_that_was_reached_in_time(
    core, governance, level, monkeypatch
) -> None:
    measured: list[str] = []
    monkeypatch.setattr(Metrics, "narrowed", lambda _self, name, _ms: measured.append(name))
    core.level = level
    answer = await governance.Revoke(
        governance_pb2.RevokeRequest(envelope=suspend(core), wait=governance_pb2.WAIT_LEVEL_DRAINED)
    )
    assert answer.reached == int(level)
    assert measured == (["drained"] if level is Level.DRAINED else []), "what was not reached"


async def test_a_narrowing_of_trust_is_waited_for_like_a_revocation(core, governance) -> None:
    clinic, all_of_it = "clinic.example", [f"//{DOMAIN}/*"]
    assert core.run(DOMAIN, "trust.open", trust_body("edge", clinic, all_of_it)).outcome.accepted
    core.bound = Bound(1_400, 900)

    def narrow(*resources: str) -> governance_pb2.RevokeRequest:
        body = narrow_body("edge", resources)
        return governance_pb2.RevokeRequest(
            envelope=core.federation.command(DOMAIN, "trust.narrow", body),
            wait=governance_pb2.WAIT_LEVEL_DRAINED,
        )

    answer = await governance.Revoke(narrow(f"//{DOMAIN}/accounts/*"))
    assert answer.outcome.accepted
    assert (answer.reached, answer.bound_ms) == (governance_pb2.WAIT_LEVEL_DRAINED, 1_400)
    widens = await governance.Revoke(narrow(*all_of_it))
    assert widens.outcome.reason == decision_pb2.REASON_WIDENS
    assert widens.outcome.thing == all_of_it[0]
    assert widens.reached == governance_pb2.WAIT_LEVEL_UNSPECIFIED
    assert not widens.HasField("bound_ms")


async def test_a_revocation_that_was_not_executed_has_reached_nothing(core, governance) -> None:
    gone = core.federation.command(
        DOMAIN, "executor.revoke", {"executor": f"spiffe://{DOMAIN}/agent/nobody"}
    )
    answer = await governance.Revoke(governance_pb2.RevokeRequest(envelope=gone))
    assert not answer.outcome.accepted
    assert answer.reached == governance_pb2.WAIT_LEVEL_UNSPECIFIED
    core.fate = "unknown"
    answer = await governance.Revoke(governance_pb2.RevokeRequest(envelope=suspend(core)))
    assert answer.unknown
    assert answer.reached == governance_pb2.WAIT_LEVEL_UNSPECIFIED
    assert core.waits == []
    # Nothing is promised, which is not the same as that nobody acts on it now.
    assert not answer.HasField("bound_ms")
    assert not answer.HasField("nodes_bound_ms")


async def test_revoke_tells_what_is_promised(core, governance) -> None:
    core.bound = Bound(1_400, 900)
    request = governance_pb2.RevokeRequest(
        envelope=suspend(core), wait=governance_pb2.WAIT_LEVEL_DRAINED
    )
    answer = await governance.Revoke(request)
    assert (answer.bound_ms, answer.nodes_bound_ms) == (1_400, 900)
    core.bound = Bound(0, 0)
    answer = await governance.Revoke(request)
    assert answer.HasField("bound_ms")
    assert (answer.bound_ms, answer.nodes_bound_ms) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("executor.register", {"executor": EXECUTOR + "2"}),
        ("executor.reinstate", {"executor": EXECUTOR}),
        ("grant.issue", grant_body("h", EXECUTOR, [f"//{DOMAIN}/a/*"])),
        ("domain.reinstate", {"domain": DOMAIN}),
        ("trust.open", trust_body("e", "clinic.example", [f"//{DOMAIN}/a/*"])),
        ("node.retire", {"node": f"spiffe://{DOMAIN}/node/1"}),
    ],
)
async def test_revoke_takes_what_stops_something_that_leases_rely_on(
    core, governance, kind, body
) -> None:
    core.fate = "fail"
    envelope = core.federation.command(DOMAIN, kind, body)
    error = await refused(governance.Revoke(governance_pb2.RevokeRequest(envelope=envelope)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert kind in violations(error)["envelope"]


# -- state --------------------------------------------------------------------------------------


async def test_state_is_read_at_a_position(core, governance) -> None:
    answer = await governance.GetState(
        governance_pb2.GetStateRequest(kind=governance_pb2.KIND_EXECUTOR, id=EXECUTOR)
    )
    assert answer.found
    assert '"status":"active"' in answer.record
    assert answer.position.size == 3
    core.run(DOMAIN, "executor.suspend", {"executor": EXECUTOR})
    answer = await governance.GetState(
        governance_pb2.GetStateRequest(kind=governance_pb2.KIND_EXECUTOR, id=EXECUTOR)
    )
    assert '"status":"suspended"' in answer.record
    assert answer.position.size == 4
    nobody = await governance.GetState(
        governance_pb2.GetStateRequest(kind=governance_pb2.KIND_EXECUTOR, id=EXECUTOR + "x")
    )
    assert (nobody.found, nobody.record) == (False, "")


def queries(
    governance, ledger, node, index: int, timeout: float
) -> dict[str, Callable[[], object]]:
    """Every query, demanding that index."""
    kind = governance_pb2.KIND_EXECUTOR
    proof = ledger_pb2.GetConsistencyProofRequest(old_size=1, minimum_index=index)
    return {
        "state": lambda: governance.GetState(
            governance_pb2.GetStateRequest(kind=kind, id=EXECUTOR, minimum_index=index),
            timeout=timeout,
        ),
        "list": lambda: governance.ListState(
            governance_pb2.ListStateRequest(kind=kind, minimum_index=index), timeout=timeout
        ),
        "outcome": lambda: governance.GetOutcome(
            governance_pb2.GetOutcomeRequest(command_id="0" * 64, minimum_index=index),
            timeout=timeout,
        ),
        "entries": lambda: ledger.ListEntries(
            ledger_pb2.ListEntriesRequest(minimum_index=index), timeout=timeout
        ),
        "checkpoint": lambda: ledger.GetCheckpoint(
            ledger_pb2.GetCheckpointRequest(minimum_index=index), timeout=timeout
        ),
        "inclusion": lambda: ledger.GetInclusionProof(
            ledger_pb2.GetInclusionProofRequest(index=1, minimum_index=index), timeout=timeout
        ),
        "consistency": lambda: ledger.GetConsistencyProof(proof, timeout=timeout),
        "status": lambda: node.GetStatus(
            node_pb2.GetStatusRequest(minimum_index=index), timeout=timeout
        ),
        "members": lambda: node.ListMembers(
            node_pb2.ListMembersRequest(minimum_index=index), timeout=timeout
        ),
    }


def test_every_query_can_demand_an_index() -> None:
    changes = {"Submit", "Revoke", "RevokeWithProgress"}
    services = [
        *(governance_pb2.DESCRIPTOR.services_by_name.values()),
        *(ledger_pb2.DESCRIPTOR.services_by_name.values()),
        *(node_pb2.DESCRIPTOR.services_by_name.values()),
    ]
    methods = [method for service in services for method in service.methods]
    asked = {
        method.name for method in methods if "minimum_index" in method.input_type.fields_by_name
    }
    assert asked == {method.name for method in methods} - changes
    assert len(asked) == len(queries(None, None, None, 0, 0))


async def test_no_query_is_answered_from_a_ledger_that_is_older_than_was_asked_for(
    core, governance, ledger, node
) -> None:
    for name, query in queries(governance, ledger, node, 3, 0.3).items():
        error = await refused(query())
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE, name
        assert violations(error) == {"minimum_index": "this node holds 3 entries so far"}
    for name, query in queries(governance, ledger, node, 2, 10).items():
        assert await query(), name  # type: ignore[misc]


async def test_a_query_waits_for_the_index_that_it_demands(core, governance, ledger, node) -> None:
    for index, name in enumerate(queries(governance, ledger, node, 3, 10), start=3):
        call = asyncio.ensure_future(queries(governance, ledger, node, index, 10)[name]())  # type: ignore[call-overload]
        await asyncio.sleep(0)
        core.run(DOMAIN, "executor.register", {"executor": f"{EXECUTOR}-{index}"})
        answer = await call
        if hasattr(answer, "position"):
            assert answer.position.size > index


async def test_the_federation_needs_no_id(core, governance) -> None:
    for ident in ("", core.federation.origin):
        answer = await governance.GetState(
            governance_pb2.GetStateRequest(kind=governance_pb2.KIND_FEDERATION, id=ident)
        )
        assert answer.found


async def test_get_state_refuses_what_no_id_can_be(governance) -> None:
    error = await refused(
        governance.GetState(governance_pb2.GetStateRequest(kind=77, id="x" * 600))  # type: ignore[arg-type]
    )
    assert set(violations(error)) == {"kind", "id"}


async def pages(governance, kind: int, page_size: int) -> Sequence[Sequence[str]]:
    found, token = [], ""
    while True:
        answer = await governance.ListState(
            governance_pb2.ListStateRequest(kind=kind, page_size=page_size, page_token=token)  # type: ignore[arg-type]
        )
        found.append(list(answer.records))
        token = answer.next_page_token
        if not token:
            return found


async def test_listing_gives_everything_once(core, governance) -> None:
    for number in range(7):
        core.run(DOMAIN, "executor.register", {"executor": f"spiffe://{DOMAIN}/agent/n{number}"})
    whole = await pages(governance, governance_pb2.KIND_EXECUTOR, 0)
    assert [len(page) for page in whole] == [8]
    for page_size in (1, 3, 4, 8, 500):
        parts = await pages(governance, governance_pb2.KIND_EXECUTOR, page_size)
        assert [record for page in parts for record in page] == whole[0]
        assert all(len(page) <= page_size for page in parts)


async def test_a_page_is_bounded_in_bytes(core, governance, monkeypatch) -> None:
    monkeypatch.setattr("quorate.api.governance.MAX_PAGE_BYTES", 10)
    parts = await pages(governance, governance_pb2.KIND_DOMAIN, 500)
    assert [len(page) for page in parts] == [1, 1]


@pytest.mark.parametrize("token", ["!!", "a", "eA==", "ZZZZ" * 300, "MjpiYW5r\n"])
async def test_a_token_that_is_not_ours_is_refused(governance, token) -> None:
    error = await refused(
        governance.ListState(
            governance_pb2.ListStateRequest(
                kind=governance_pb2.KIND_EXECUTOR, page_size=501, page_token=token
            )
        )
    )
    assert set(violations(error)) == {"page_size", "page_token"}


async def test_a_token_of_another_kind_is_refused(core, governance) -> None:
    first = await governance.ListState(
        governance_pb2.ListStateRequest(kind=governance_pb2.KIND_DOMAIN, page_size=1)
    )
    assert first.next_page_token
    error = await refused(
        governance.ListState(
            governance_pb2.ListStateRequest(
                kind=governance_pb2.KIND_NODE, page_token=first.next_page_token
            )
        )
    )
    assert list(violations(error)) == ["page_token"]


async def test_get_outcome(core, governance) -> None:
    envelope = suspend(core)
    sent = await governance.Submit(governance_pb2.SubmitRequest(envelope=envelope))
    answer = await governance.GetOutcome(
        governance_pb2.GetOutcomeRequest(command_id=sent.command_id)
    )
    assert answer.found
    assert answer.outcome == sent.outcome
    assert answer.position.size == sent.outcome.ledger_index + 1
    other = await governance.GetOutcome(governance_pb2.GetOutcomeRequest(command_id="0" * 64))
    assert not other.found
    error = await refused(
        governance.GetOutcome(governance_pb2.GetOutcomeRequest(command_id="0" * 63))
    )
    assert list(violations(error)) == ["command_id"]


# -- the ledger ---------------------------------------------------------------------------------


async def entries(ledger, start: int = 0, limit: int = 0) -> ledger_pb2.ListEntriesResponse:
    return await ledger.ListEntries(ledger_pb2.ListEntriesRequest(start=start, limit=limit))


async def test_entries_are_the_leaves_byte_for_byte(core, ledger) -> None:
    page = await entries(ledger)
    with core.read() as snapshot:
        assert list(page.entries) == snapshot.ledger_entries(0, 10)
    assert page.size == 3
    assert list((await entries(ledger, 1, 1)).entries) == [page.entries[1]]
    assert list((await entries(ledger, 3)).entries) == []
    error = await refused(entries(ledger, 4))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert list(violations(error)) == ["start"]
    error = await refused(entries(ledger, 2**64 - 1))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    for limit in (-1, 257):
        error = await refused(entries(ledger, 0, limit))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_page_of_entries_is_bounded_in_bytes(ledger, monkeypatch) -> None:
    monkeypatch.setattr("quorate.api.ledger.MAX_PAGE_BYTES", 10)
    assert len((await entries(ledger)).entries) == 1


async def test_every_inclusion_proof_verifies(core, ledger) -> None:
    for number in range(4):
        core.run(DOMAIN, "executor.register", {"executor": f"{EXECUTOR}{number}"})
    for size in range(1, 8):
        for index in range(size):
            proof = await ledger.GetInclusionProof(
                ledger_pb2.GetInclusionProofRequest(index=index, size=size if size < 7 else 0)
            )
            assert proof.size == size
            assert merkle.verify_inclusion(
                merkle.leaf_hash(proof.entry), index, size, list(proof.hashes), proof.root
            )


async def test_every_consistency_proof_verifies(core, ledger) -> None:
    for number in range(4):
        core.run(DOMAIN, "executor.register", {"executor": f"{EXECUTOR}{number}"})
    for new in range(1, 8):
        for old in range(1, new + 1):
            proof = await ledger.GetConsistencyProof(
                ledger_pb2.GetConsistencyProofRequest(old_size=old, new_size=new if new < 7 else 0)
            )
            assert merkle.verify_consistency(
                old, new, list(proof.hashes), proof.old_root, proof.new_root
            )


@pytest.mark.parametrize(
    ("index", "size", "code", "field"),
    [
        (3, 3, grpc.StatusCode.INVALID_ARGUMENT, "index"),
        (0, 4, grpc.StatusCode.OUT_OF_RANGE, "size"),
        (3, 0, grpc.StatusCode.OUT_OF_RANGE, "index"),
        (2**64 - 1, 0, grpc.StatusCode.OUT_OF_RANGE, "index"),
        (0, 2**64 - 1, grpc.StatusCode.OUT_OF_RANGE, "size"),
    ],
)
async def test_inclusion_has_bounds(ledger, index, size, code, field) -> None:
    error = await refused(
        ledger.GetInclusionProof(ledger_pb2.GetInclusionProofRequest(index=index, size=size))
    )
    assert error.code() is code
    assert list(violations(error)) == [field]


@pytest.mark.parametrize(
    ("old", "new", "code", "field"),
    [
        (0, 0, grpc.StatusCode.INVALID_ARGUMENT, "old_size"),
        (3, 2, grpc.StatusCode.INVALID_ARGUMENT, "new_size"),
        (1, 4, grpc.StatusCode.OUT_OF_RANGE, "new_size"),
        (4, 0, grpc.StatusCode.OUT_OF_RANGE, "old_size"),
        (2**64 - 1, 0, grpc.StatusCode.OUT_OF_RANGE, "old_size"),
    ],
)
async def test_consistency_has_bounds(ledger, old, new, code, field) -> None:
    error = await refused(
        ledger.GetConsistencyProof(
            ledger_pb2.GetConsistencyProofRequest(old_size=old, new_size=new)
        )
    )
    assert error.code() is code
    assert list(violations(error)) == [field]


async def test_the_checkpoint_is_the_core_s(ledger) -> None:
    answer = await ledger.GetCheckpoint(ledger_pb2.GetCheckpointRequest())
    assert answer.note == "a signed note\n"


async def test_a_node_on_probation_signs_no_checkpoint(core, servers, dial, pki) -> None:
    core.checkpoint_error = ProbationError("it may have forgotten")
    ledger = ledger_pb2_grpc.LedgerServiceStub(dial(servers.public.port, pki.operator))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ledger.GetCheckpoint(ledger_pb2.GetCheckpointRequest())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "it may have forgotten" in str(refused.value.details())
    assert "docs/recovery.md" in str(refused.value.details())


# -- the node -----------------------------------------------------------------------------------


async def test_status_and_members(core, node) -> None:
    status = await node.GetStatus(node_pb2.GetStatusRequest())
    assert (status.role, status.term, status.commit_index, status.applied_index) == (
        node_pb2.ROLE_LEADER,
        4,
        9,
        8,
    )
    assert not status.has_authority
    assert status.authority_reason == decision_pb2.REASON_STORAGE_FULL
    assert not status.writable
    assert status.storage_problem == "the disk is full"
    assert (status.clock_offset_ms, status.durable_turns, status.probation) == (-3, 17, True)
    assert status.outbox_records == 5
    with core.read() as snapshot:
        assert (status.position.size, status.root) == (3, snapshot.root())
    members = await node.ListMembers(node_pb2.ListMembersRequest())
    assert members.position == status.position
    [member] = members.members
    assert (member.domain, member.connected, member.match_index) == (DOMAIN, True, 9)
    assert (member.role, member.status, member.raft_role) == ("voter", "active", "learner")
