"""What a federation is for, over real TLS: leases across domains, watched, renewed and taken away;
and the proofs of all of it."""

from __future__ import annotations

import itertools
import json
import queue
import secrets
import threading
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from quorate.chaos.checks import audit, is_extended, open_node_checkpoint, read_ledger
from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import ACTION, CALL_TIMEOUT_S, Crew, Worker
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.processes import wait_until
from quorate.core.limits import DEFAULT_MAX_PERMIT_TTL_MS
from quorate.proofs import merkle
from quorate.v1 import decision_pb2, governance_pb2, ledger_pb2, node_pb2
from quorate.v1 import lease_pb2 as pb

pytestmark = pytest.mark.cluster

PERMIT, DENY = decision_pb2.VERDICT_PERMIT, decision_pb2.VERDICT_DENY
BANK, CLINIC, FREIGHT = "bank.example", "clinic.example", "freight.example"
NOTICE_S = 10.0


class Notices:
    """A Watch call's notices, awaited one by one."""

    def __init__(self, call) -> None:
        self._call = call
        self._queue: queue.Queue[pb.WatchResponse] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with suppress(grpc.RpcError):  # cancelled by `close`; an earlier end is missed by `until`
            for notice in self._call:
                self._queue.put(notice)

    def until(self, event: int) -> pb.WatchResponse:
        """The next notice of this event; others may come before it (authority flickers)."""
        while True:
            notice = self._queue.get(timeout=NOTICE_S)
            if notice.event == event:
                return notice

    def close(self) -> None:
        self._call.cancel()
        self._thread.join()


@pytest.mark.parametrize(
    ("home", "abroad"), [(BANK, CLINIC), (CLINIC, FREIGHT), (FREIGHT, BANK), (BANK, BANK)]
)
def test_a_lease_lives_through_all_that_may_happen_to_it(
    cluster: Cluster, crew: Crew, home: str, abroad: str
):
    worker = crew.workers[home]
    grant = f"happy-{secrets.token_hex(4)}"
    crew.grant(abroad, grant, worker, f"{grant}/*")
    resource = f"//{abroad}/{grant}/book"

    request_id = secrets.token_hex(16)
    granted = worker.acquire(resource, request_id=request_id, ttl_ms=60_000)
    assert granted.verdict == PERMIT
    lease = granted.lease
    assert (lease.executor, lease.action, lease.resource) == (worker.id, ACTION, resource)
    assert lease.grant == f"{abroad}/{grant}"
    assert lease.trust_edge == ("" if home == abroad else f"{abroad}/to-{home}")
    assert lease.fence == granted.outcome.ledger_index
    assert not granted.outcome.duplicate

    again = worker.acquire(resource, request_id=request_id, ttl_ms=60_000)
    assert again.outcome.duplicate
    assert again.lease == lease, "a repeated request gets the first lease"

    permit = worker.check(lease.id)
    assert permit.verdict == PERMIT
    assert 0 < permit.ttl_ms <= DEFAULT_MAX_PERMIT_TTL_MS
    assert permit.fence == lease.fence
    assert permit.position.size > lease.fence

    batch = worker.leases.CheckBatch(
        pb.CheckBatchRequest(
            checks=[
                pb.CheckRequest(lease_id=lease.id, action=ACTION, resource=resource),
                pb.CheckRequest(lease_id=lease.id, action="records.erase"),
                pb.CheckRequest(lease_id="0" * 32),
            ]
        ),
        timeout=CALL_TIMEOUT_S,
    )
    assert [(r.verdict, r.reason) for r in batch.results] == [
        (PERMIT, decision_pb2.REASON_UNSPECIFIED),
        (DENY, decision_pb2.REASON_LEASE_SCOPE),
        (DENY, decision_pb2.REASON_UNKNOWN_LEASE),
    ]

    renewed = worker.leases.Renew(
        pb.RenewRequest(lease_id=lease.id, ttl_ms=120_000, request_id=secrets.token_hex(16)),
        timeout=CALL_TIMEOUT_S,
    )
    assert renewed.verdict == PERMIT
    assert renewed.lease.expires_at_ms > lease.expires_at_ms
    assert renewed.lease.fence == lease.fence

    notices = Notices(worker.leases.Watch(iter([pb.WatchRequest(lease_ids=[lease.id])])))
    try:
        notices.until(pb.WATCH_EVENT_ACTIVE)
        owner = cluster.operator(abroad)
        stopped = owner.revoke("grant.suspend", {"grant": grant}, governance_pb2.WAIT_LEVEL_DRAINED)
        assert stopped.reached == governance_pb2.WAIT_LEVEL_DRAINED
        denied = worker.check(lease.id)
        assert (denied.verdict, denied.reason) == (DENY, decision_pb2.REASON_GRANT_SUSPENDED)
        assert (denied.ttl_ms, denied.thing) == (0, f"{abroad}/{grant}")
        notice = notices.until(pb.WATCH_EVENT_INTERRUPTED)
        assert notice.reason == decision_pb2.REASON_GRANT_SUSPENDED

        owner.order("grant.reinstate", {"grant": grant})
        notices.until(pb.WATCH_EVENT_RESTORED)
        assert worker.check(lease.id).verdict == PERMIT

        release = pb.ReleaseRequest(lease_id=lease.id, request_id=secrets.token_hex(16))
        assert worker.leases.Release(release, timeout=CALL_TIMEOUT_S).verdict == PERMIT
        notice = notices.until(pb.WATCH_EVENT_INTERRUPTED)
        assert notice.reason == decision_pb2.REASON_LEASE_RELEASED
        assert worker.check(lease.id).reason == decision_pb2.REASON_LEASE_RELEASED
    finally:
        notices.close()


def test_only_what_is_registered_trusted_and_granted_is_leased(cluster: Cluster, crew: Crew):
    worker = crew.workers[BANK]
    cases = {
        (f"//{CLINIC}/other/book", ACTION): decision_pb2.REASON_NO_GRANT,
        (f"//{CLINIC}/records/book", "drugs.order"): decision_pb2.REASON_NO_TRUST,
        ("//nobody.example/records/book", ACTION): decision_pb2.REASON_UNKNOWN_DOMAIN,
    }
    for (resource, action), reason in cases.items():
        answer = worker.acquire(resource, action)
        assert (answer.verdict, answer.reason) == (DENY, reason)
        assert not answer.HasField("lease")
        entry_at = answer.outcome.ledger_index
        assert entry_at > 0, "the ledger decided, and recorded it"
    lease = worker.lease(f"//{CLINIC}/records/book")
    thief = crew.workers[FREIGHT]

    def is_known() -> bool:
        """Another node may be a moment behind: to it the lease is unknown, which denies as well."""
        answer = thief.check(lease.id)
        assert answer.verdict == DENY
        return answer.reason != decision_pb2.REASON_UNKNOWN_LEASE

    wait_until("the lease at another node", is_known, CALL_TIMEOUT_S)
    assert thief.check(lease.id).reason == decision_pb2.REASON_NOT_LEASE_HOLDER


def test_a_revoked_executor_is_denied_everywhere_from_the_answer_on(cluster: Cluster, crew: Crew):
    name = f"agent/brief-{secrets.token_hex(4)}"
    worker = Worker(BANK, cluster.issue_executor(BANK, name))
    bank = cluster.operator(BANK)
    try:
        unknown = worker.acquire(f"//{CLINIC}/records/book")
        assert unknown.reason == decision_pb2.REASON_UNKNOWN_EXECUTOR
        bank.order("executor.register", {"executor": worker.id})
        crew.grant(CLINIC, f"brief-{secrets.token_hex(4)}", worker)
        lease = worker.lease(f"//{CLINIC}/records/book")
        assert worker.check(lease.id).verdict == PERMIT
        revoked = bank.revoke(
            "executor.revoke", {"executor": worker.id}, governance_pb2.WAIT_LEVEL_ENFORCED
        )
        assert revoked.reached == governance_pb2.WAIT_LEVEL_ENFORCED
        denied = worker.check(lease.id)
        assert (denied.verdict, denied.reason) == (DENY, decision_pb2.REASON_EXECUTOR_REVOKED)
        final = bank.submit("executor.register", {"executor": worker.id})
        assert final.reason == decision_pb2.REASON_FINAL
    finally:
        worker.close()


def test_all_ledgers_are_equal_and_every_proof_verifies(cluster: Cluster, mirror: LedgerMirror):
    genesis, operators = cluster.genesis(), cluster.operators()
    older = [open_node_checkpoint(operator, genesis) for operator in operators]
    told = [
        operator.order(
            "executor.register",
            {"executor": f"spiffe://{operator.domain}/agent/{secrets.token_hex(8)}"},
        )
        for operator in operators
    ]
    assert len({outcome.ledger_index for outcome in told}) == len(told)
    mirror.catch_up()
    ledgers = [read_ledger(operator, genesis) for operator in operators]
    acknowledged = [ack for operator in operators for ack in operator.acknowledged]
    found = audit(ledgers, genesis, acknowledged)
    assert found.problems == ()
    assert found.proofs_verified == len(operators) * len(mirror.entries)
    for old, new, operator in zip(older, ledgers, operators, strict=True):
        assert is_extended(old, new.checkpoint, operator)

    # The same proofs against what they do not prove.
    ledger = ledgers[0]
    index, size, root = told[0].ledger_index, ledger.checkpoint.size, ledger.checkpoint.root
    proof = ledger.proofs[index]
    leaf = merkle.leaf_hash(ledger.entries[index])
    assert merkle.verify_inclusion(leaf, index, size, proof, root)
    altered = ledger.entries[index].replace(b'"accepted"', b'"denied"')
    assert not merkle.verify_inclusion(merkle.leaf_hash(altered), index, size, proof, root)
    assert not merkle.verify_inclusion(leaf, index + 1, size, proof, root)


def test_one_node_proves_what_another_has_signed(cluster: Cluster, mirror: LedgerMirror):
    """Checkpoints of different nodes are of one log: each node extends each other's."""
    genesis, operators = cluster.genesis(), cluster.operators()
    before = [open_node_checkpoint(operator, genesis) for operator in operators]
    operators[0].order(
        "executor.register", {"executor": f"spiffe://{BANK}/agent/{secrets.token_hex(8)}"}
    )
    mirror.catch_up()
    for old, operator in itertools.product(before, operators):
        assert is_extended(old, open_node_checkpoint(operator, genesis), operator)
    inside = operators[1].ask(
        operators[1].ledger.GetInclusionProof,
        ledger_pb2.GetInclusionProofRequest(index=0, size=before[0].size),
    )
    leaf = merkle.leaf_hash(inside.entry)
    assert inside.root == before[0].root
    assert merkle.verify_inclusion(leaf, 0, before[0].size, list(inside.hashes), before[0].root)


def test_state_is_told_with_the_position_that_it_is_true_at(cluster: Cluster):
    operator = cluster.operator(CLINIC)
    executor = f"spiffe://{CLINIC}/agent/{secrets.token_hex(8)}"
    outcome = operator.order("executor.register", {"executor": executor})
    request = governance_pb2.GetStateRequest(kind=governance_pb2.KIND_EXECUTOR, id=executor)
    state = operator.ask(operator.governance.GetState, request)
    assert state.found, "a node that told an outcome shows what it did"
    assert state.position.size > outcome.ledger_index
    assert state.position.ledger_time_ms > 0
    assert json.loads(state.record)["executor"] == executor
    absent = governance_pb2.GetStateRequest(kind=governance_pb2.KIND_EXECUTOR, id=executor + "x")
    missing = operator.ask(operator.governance.GetState, absent)
    assert (missing.found, missing.record) == (False, "")
    assert missing.position.size >= state.position.size

    seen, token = [], ""
    while True:
        page = operator.ask(
            operator.governance.ListState,
            governance_pb2.ListStateRequest(
                kind=governance_pb2.KIND_EXECUTOR, page_size=3, page_token=token
            ),
        )
        assert len(page.records) <= 3
        seen += [json.loads(record)["executor"] for record in page.records]
        token = page.next_page_token
        if not token:
            break
    assert executor in seen
    assert seen == sorted(set(seen))


def test_nodes_know_one_another(cluster: Cluster):
    leader = cluster.operator(cluster.leader())
    answer = leader.ask(leader.node.ListMembers, node_pb2.ListMembersRequest())
    assert {m.domain for m in answer.members} == set(cluster.members)
    assert all(member.connected for member in answer.members)
    for domain, member in cluster.members.items():
        status = cluster.status(domain)
        assert (status.node_id, status.origin) == (member.node_id, cluster.origin)
        assert status.leader == leader.status().node_id
        assert status.writable
        assert status.storage_problem == ""
        assert 0 < status.authority_remaining_ms <= 2_000


def test_health_and_reflection_answer_on_both_ports(cluster: Cluster, crew: Crew):
    explain = "quorate.v1.ExplainService"
    core = {"quorate.v1.GovernanceService", "quorate.v1.LedgerService", "quorate.v1.NodeService"}
    core |= {explain, "quorate.v1.LineageService"}
    edge = {"quorate.v1.LeaseService", explain}
    for domain in cluster.members:
        operator, worker = cluster.operator(domain), crew.workers[domain]
        for channel, services in ((operator._channel, core), (worker.channel, edge)):
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", *services):
                request = health_pb2.HealthCheckRequest(service=service)
                status = health.Check(request, timeout=CALL_TIMEOUT_S).status
                assert status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as absent:
                health.Check(
                    health_pb2.HealthCheckRequest(service="quorate.v1.No"), timeout=CALL_TIMEOUT_S
                )
            assert absent.value.code() is grpc.StatusCode.NOT_FOUND
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            calls = reflection.ServerReflectionInfo(iter([question]), timeout=CALL_TIMEOUT_S)
            [answer] = list(calls)
            listed = {service.name for service in answer.list_services_response.service}
            assert services <= listed
            assert {s for s in listed if s.startswith("quorate.")} == services
