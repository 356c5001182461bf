"""LeaseService over TLS: answers for executors, from the node's state and through its core."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from quorate.api.core import lease_nonce
from quorate.api.watch import WatchHub
from quorate.core.limits import MAX_CHECKS_PER_BATCH, MAX_MESSAGE_BYTES
from quorate.core.outcome import Reason
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

DOMAIN = "bank.example"
EXECUTOR = f"spiffe://{DOMAIN}/agent/payments"
ACTION = "payments.transfer"
RESOURCE = f"//{DOMAIN}/accounts/payroll"
PERMIT = decision_pb2.VERDICT_PERMIT
DENY = decision_pb2.VERDICT_DENY
Dial = Callable[..., grpc.aio.Channel]


@pytest.fixture
def lease(edge, dial: Dial, pki) -> lease_pb2_grpc.LeaseServiceAsyncStub:
    return lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.executor))


def acquire(**changes) -> lease_pb2.AcquireRequest:
    wish = {"action": ACTION, "resource": RESOURCE, "request_id": "r-1"}
    return lease_pb2.AcquireRequest(**(wish | changes))


async def violations(call) -> list[str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return [item.field for item in bad.field_violations]


# -- Acquire, Renew, Release ----------------------------------------------------------------------


async def test_a_lease_s_whole_life(edge, lease) -> None:
    edge.grant()
    granted = await lease.Acquire(acquire(ttl_ms=5_000))
    assert granted.verdict == PERMIT
    assert granted.reason == decision_pb2.REASON_UNSPECIFIED
    assert granted.lease.executor == EXECUTOR
    assert granted.lease.fence == granted.outcome.ledger_index
    assert granted.lease.grant == f"{DOMAIN}/g"
    assert granted.lease.expires_at_ms - granted.lease.acquired_at_ms == 5_000
    edge.grant()
    checked = await lease.Check(
        lease_pb2.CheckRequest(lease_id=granted.lease.id, action=ACTION, resource=RESOURCE)
    )
    assert checked.verdict == PERMIT
    assert 0 < checked.ttl_ms <= 1_000
    assert checked.fence == granted.lease.fence
    assert checked.position.size == granted.outcome.ledger_index + 1
    edge.core.ledger_time_ms += 1_000
    renewed = await lease.Renew(lease_pb2.RenewRequest(lease_id=granted.lease.id, ttl_ms=9_000))
    assert renewed.verdict == PERMIT
    assert renewed.lease.expires_at_ms == granted.lease.expires_at_ms + 1_000 + 4_000
    released = await lease.Release(lease_pb2.ReleaseRequest(lease_id=granted.lease.id))
    assert (released.verdict, released.reason) == (PERMIT, decision_pb2.REASON_UNSPECIFIED)
    edge.grant()
    checked = await lease.Check(lease_pb2.CheckRequest(lease_id=granted.lease.id))
    assert (checked.verdict, checked.reason) == (DENY, decision_pb2.REASON_LEASE_RELEASED)


async def test_a_repeated_request_obtains_one_lease(edge, lease) -> None:
    edge.grant()
    first, again = [await lease.Acquire(acquire()) for _ in range(2)]
    assert first.lease == again.lease
    assert again.outcome.duplicate
    other = await lease.Acquire(acquire(request_id="r-2"))
    assert other.lease.id != first.lease.id
    unnamed = [await lease.Acquire(acquire(request_id="")) for _ in range(2)]
    assert len({granted.lease.id for granted in (first, other, *unnamed)}) == 4


async def test_the_ledger_s_denial_is_told_with_its_entry(edge, lease) -> None:
    edge.grant()
    answer = await lease.Acquire(acquire(resource=f"//{DOMAIN}/vault/gold"))
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_NO_GRANT)
    assert not answer.outcome.accepted
    assert not answer.HasField("lease")


async def test_without_authority_nothing_is_proposed_and_the_status_is_ok(edge, lease) -> None:
    for answer in (
        await lease.Acquire(acquire()),
        await lease.Renew(lease_pb2.RenewRequest(lease_id="a" * 32)),
    ):
        assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)
        assert not answer.unknown
        assert not answer.HasField("outcome")
    assert edge.core.proposed == []
    assert ("denied", "Acquire", "INQUORATE") in edge.metrics.counted


async def test_a_right_can_be_given_back_without_authority(edge, lease) -> None:
    answer = await lease.Release(lease_pb2.ReleaseRequest(lease_id=edge.lease()))
    assert answer.verdict == PERMIT


@pytest.mark.parametrize(
    ("reason", "wire"),
    [
        (Reason.STORAGE_FULL, decision_pb2.REASON_STORAGE_FULL),
        (Reason.QUARANTINED, decision_pb2.REASON_QUARANTINED),
    ],
)
async def test_the_word_s_reason_is_the_denial_s(edge, lease, reason, wire) -> None:
    edge.word.clear(reason)
    assert (await lease.Acquire(acquire())).reason == wire
    assert (await lease.Check(lease_pb2.CheckRequest(lease_id="a" * 32))).reason == wire


async def test_an_unknown_outcome_is_a_denial_that_says_so(edge, lease) -> None:
    edge.grant()
    edge.core.fate = "unknown"
    for answer in (
        await lease.Acquire(acquire()),
        await lease.Renew(lease_pb2.RenewRequest(lease_id="a" * 32)),
        await lease.Release(lease_pb2.ReleaseRequest(lease_id="a" * 32)),
    ):
        assert answer.unknown
        assert answer.verdict == DENY
        assert answer.reason == decision_pb2.REASON_INQUORATE


async def test_a_refusal_is_a_denial_that_is_known(edge, lease) -> None:
    edge.grant()
    edge.core.fate = "refuse"
    answer = await lease.Acquire(acquire())
    assert not answer.unknown
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_STORAGE_FULL)


async def test_a_core_that_is_gone_denies_with_status_ok(edge, lease, servers) -> None:
    edge.grant()
    await servers.local.stop(0)
    answer = await lease.Acquire(acquire())
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)
    assert not answer.unknown  # nothing was sent


async def test_a_core_that_dies_with_the_proposal_leaves_it_unknown(edge, lease, servers) -> None:
    edge.grant()
    edge.core.fate = "hang"
    call = asyncio.ensure_future(lease.Acquire(acquire()))
    await edge.core.hanging.wait()
    await servers.local.stop(0)
    answer = await call
    assert answer.unknown
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)


async def test_a_core_that_fails_leaves_it_unknown(edge, lease) -> None:
    edge.grant()
    edge.core.fate = "fail"
    answer = await lease.Acquire(acquire())
    assert answer.unknown
    assert answer.verdict == DENY


async def test_an_answer_comes_within_the_caller_s_own_time(edge, lease) -> None:
    """The core is hung: the caller is told that the outcome is unknown, before it gives up."""
    edge.grant()
    edge.core.fate = "hang"
    started = time.monotonic()
    answer = await lease.Acquire(acquire(), timeout=1.0)
    assert answer.unknown
    assert answer.verdict == DENY
    assert 0.5 < time.monotonic() - started < 1.0


async def test_a_cancelled_call_is_cancelled_in_the_core(edge, lease) -> None:
    edge.grant()
    edge.core.fate = "hang"
    call = lease.Acquire(acquire())
    await edge.core.hanging.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(5):
        await edge.core.cancelled.wait()
    assert not [counted for counted in edge.metrics.counted if counted[0] == "fault"]


def test_nonces_never_meet_across_executors_and_acts() -> None:
    nonces = {
        lease_nonce(kind, executor, request)
        for kind in ("lease.acquire", "lease.renew")
        for executor in (EXECUTOR, EXECUTOR + "2")
        for request in ("1", "2", "21")
    }
    assert len(nonces) == 12
    assert lease_nonce("lease.acquire", EXECUTOR, "1") in nonces
    assert lease_nonce("lease.acquire", EXECUTOR, "") != lease_nonce("lease.acquire", EXECUTOR, "")


# -- Check --------------------------------------------------------------------------------------


async def test_a_batch_is_answered_in_order(edge, lease) -> None:
    good = edge.lease()
    edge.grant()
    checks = [
        lease_pb2.CheckRequest(lease_id=good),
        lease_pb2.CheckRequest(lease_id="0" * 32),
        lease_pb2.CheckRequest(lease_id=good, action="payments.refund"),
    ]
    answer = await lease.CheckBatch(lease_pb2.CheckBatchRequest(checks=checks))
    assert [result.reason for result in answer.results] == [
        decision_pb2.REASON_UNSPECIFIED,
        decision_pb2.REASON_UNKNOWN_LEASE,
        decision_pb2.REASON_LEASE_SCOPE,
    ]
    assert ("check", "permit", "") in edge.metrics.counted
    assert ("check", "deny", "UNKNOWN_LEASE") in edge.metrics.counted
    assert ("denied", "CheckBatch", "UNKNOWN_LEASE") in edge.metrics.counted


async def test_another_executor_s_lease_is_not_one_s_own(edge, dial, pki) -> None:
    stub = lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.other))
    lease_id = edge.lease()
    edge.grant()
    answer = await stub.Check(lease_pb2.CheckRequest(lease_id=lease_id))
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_NOT_LEASE_HOLDER)


async def test_a_check_sees_a_revocation_at_once(edge, lease) -> None:
    lease_id = edge.lease()
    edge.grant()
    assert (await lease.Check(lease_pb2.CheckRequest(lease_id=lease_id))).verdict == PERMIT
    edge.core.run(DOMAIN, "grant.suspend", {"grant": "g"})
    answer = await lease.Check(lease_pb2.CheckRequest(lease_id=lease_id))
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_GRANT_SUSPENDED)
    assert answer.thing == f"{DOMAIN}/g"
    assert answer.ttl_ms == 0


async def test_checks_go_on_while_the_core_hangs_until_the_deadline(edge, lease) -> None:
    lease_id = edge.lease()
    edge.grant(period_ms=400)
    edge.core.fate = "hang"
    verdicts = []
    async with asyncio.timeout(10):
        while not verdicts or verdicts[-1] == PERMIT:
            answer = await lease.Check(lease_pb2.CheckRequest(lease_id=lease_id))
            verdicts.append(answer.verdict)
    assert verdicts[0] == PERMIT
    assert answer.reason == decision_pb2.REASON_INQUORATE


# -- limits -------------------------------------------------------------------------------------


async def test_every_field_has_a_limit(lease) -> None:
    long = "x" * 300
    found = set(
        await violations(
            lease.Acquire(
                lease_pb2.AcquireRequest(action="", resource=long, ttl_ms=-1, request_id=long)
            )
        )
    )
    assert found == {"action", "resource", "ttl_ms", "request_id"}
    found = set(
        await violations(
            lease.Renew(lease_pb2.RenewRequest(lease_id="A" * 32, ttl_ms=2**60, request_id="\n"))
        )
    )
    assert found == {"lease_id", "ttl_ms", "request_id"}
    assert await violations(lease.Release(lease_pb2.ReleaseRequest())) == ["lease_id"]
    assert await violations(
        lease.Check(lease_pb2.CheckRequest(lease_id="x", action="A", resource="y"))
    ) == ["lease_id", "action", "resource"]


async def test_a_batch_has_limits(lease) -> None:
    assert await violations(lease.CheckBatch(lease_pb2.CheckBatchRequest())) == ["checks"]
    good = lease_pb2.CheckRequest(lease_id="0" * 32)
    most = [good] * MAX_CHECKS_PER_BATCH
    assert len((await lease.CheckBatch(lease_pb2.CheckBatchRequest(checks=most))).results) == 256
    assert await violations(
        lease.CheckBatch(lease_pb2.CheckBatchRequest(checks=[*most, good]))
    ) == ["checks"]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("lease_id", "?"), ("action", "No"), ("resource", "/"), ("session", "short")],
)
async def test_a_check_that_is_none_spoils_no_other_of_its_batch(edge, lease, field, wrong) -> None:
    edge.grant()
    good = lease_pb2.CheckRequest(lease_id=edge.lease())
    bad = lease_pb2.CheckRequest()
    bad.CopyFrom(good)
    setattr(bad, field, wrong)
    answer = await lease.CheckBatch(lease_pb2.CheckBatchRequest(checks=[bad, good, bad]))
    first, second, third = answer.results
    assert (first.verdict, first.reason) == (DENY, decision_pb2.REASON_MALFORMED_REQUEST)
    assert (first.thing, third) == (field, first)
    assert second.verdict == PERMIT
    assert edge.metrics.counted.count(("denied", "CheckBatch", "MALFORMED_REQUEST")) == 2
    answer = await lease.CheckBatch(lease_pb2.CheckBatchRequest(checks=[bad]))
    assert [each.verdict for each in answer.results] == [DENY]
    assert await violations(lease.Check(bad)) == [field]


async def test_a_message_above_the_limit_is_refused(edge, dial, pki) -> None:
    stub = lease_pb2_grpc.LeaseServiceStub(
        dial(edge.port, pki.executor, grpc__max_send_message_length=-1)
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(lease_pb2.CheckRequest(lease_id="x" * (MAX_MESSAGE_BYTES + 1)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# -- as new as was asked for ---------------------------------------------------------------------


async def test_a_check_waits_for_the_state_that_was_asked_for(edge, lease) -> None:
    edge.grant()
    lease_id = edge.lease()
    with edge.core.read() as snapshot:
        newest = snapshot.ledger_size - 1
    answer = await lease.Check(lease_pb2.CheckRequest(lease_id=lease_id, minimum_index=newest))
    assert answer.verdict == PERMIT
    assert answer.position.size > newest

    async def later() -> None:
        await asyncio.sleep(0.2)
        edge.lease()

    task = asyncio.create_task(later())
    request = lease_pb2.CheckRequest(lease_id=lease_id, minimum_index=newest + 1)
    answer = await lease.Check(request)
    await task
    assert (answer.verdict, answer.position.size) == (PERMIT, newest + 2)


async def test_no_check_of_a_batch_waits_longer_than_alone(edge, lease, monkeypatch) -> None:
    edge.grant()
    lease_id = edge.lease()
    waited = []
    original = WatchHub.followed

    async def followed(hub: WatchHub, index: int, patience_s: float) -> None:
        waited.append(index)
        await original(hub, index, patience_s)

    monkeypatch.setattr(WatchHub, "followed", followed)

    async def ask(*indexes: int) -> list[int]:
        checks = [lease_pb2.CheckRequest(lease_id=lease_id, minimum_index=at) for at in indexes]
        answer = await lease.CheckBatch(lease_pb2.CheckBatchRequest(checks=checks))
        return [each.verdict for each in answer.results]

    assert await ask(9_999, 0, 1) == [DENY, PERMIT, PERMIT]
    assert waited == []
    assert await ask(9_999, 1) == [DENY, PERMIT]
    assert waited == [1]


async def test_a_state_that_does_not_come_is_a_denial_with_its_reason(edge, lease) -> None:
    edge.grant()
    lease_id = edge.lease()
    checks = [
        lease_pb2.CheckRequest(lease_id=lease_id, minimum_index=9_999),
        lease_pb2.CheckRequest(lease_id=lease_id),
    ]
    behind, good = (await lease.CheckBatch(lease_pb2.CheckBatchRequest(checks=checks))).results
    assert (behind.verdict, behind.reason) == (DENY, decision_pb2.REASON_BEHIND)
    assert behind.thing == str(behind.position.size)
    assert good.verdict == PERMIT
