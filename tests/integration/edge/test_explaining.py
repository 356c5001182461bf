"""ExplainService over TLS: executors about themselves at the edge, operators about any at the core;
and never a permit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest

from quorate.api.pace import MAX_EXPLANATIONS_AT_ONCE
from quorate.core.limits import MAX_MESSAGE_BYTES
from quorate.core.outcome import Reason
from quorate.testing.builders import acquire_body, grant_body
from quorate.v1 import decision_pb2, explain_pb2, explain_pb2_grpc, lease_pb2, lease_pb2_grpc

DOMAIN = "bank.example"
NODE = f"spiffe://{DOMAIN}/node/1"
EXECUTOR = f"spiffe://{DOMAIN}/agent/payments"
OTHER = f"spiffe://{DOMAIN}/agent/other"
ACTION = "payments.transfer"
RESOURCE = f"//{DOMAIN}/accounts/payroll"
PERMIT, DENY = decision_pb2.VERDICT_PERMIT, decision_pb2.VERDICT_DENY
Dial = Callable[..., grpc.aio.Channel]
Stub: TypeAlias = "explain_pb2_grpc.ExplainServiceAsyncStub"


@pytest.fixture
def explain(edge: Any, dial: Dial, pki: Any) -> Stub:
    return explain_pb2_grpc.ExplainServiceStub(dial(edge.port, pki.executor))


@pytest.fixture
def operators(servers: Any, dial: Dial, pki: Any) -> Stub:
    return explain_pb2_grpc.ExplainServiceStub(dial(servers.public.port, pki.operator))


def act(executor: str = "", **changes: Any) -> explain_pb2.ExplainRequest:
    wish = {"action": ACTION, "resource": RESOURCE} | changes
    return explain_pb2.ExplainRequest(executor=executor, act=explain_pb2.ExplainedAct(**wish))


def held(lease_id: str, **more: Any) -> explain_pb2.ExplainRequest:
    return explain_pb2.ExplainRequest(lease=explain_pb2.ExplainedLease(lease_id=lease_id, **more))


def answers(answer: explain_pb2.ExplainResponse) -> dict[str, str]:
    return {
        explain_pb2.Question.Name(step.question).removeprefix("QUESTION_"): explain_pb2.Answer.Name(
            step.answer
        ).removeprefix("ANSWER_")
        for step in answer.steps
    }


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_an_executor_hears_why_it_would_be_permitted(edge: Any, explain: Stub) -> None:
    edge.grant()
    answer = await explain.Explain(act())
    assert (answer.verdict, answer.has_authority) == (PERMIT, True)
    assert set(answers(answer).values()) == {"PASSED"}
    assert next(iter(answers(answer))) == "NODE"
    grant = answer.steps[-2].things[-1]
    assert (grant.kind, grant.id, grant.status) == ("grant", f"{DOMAIN}/g", "active")
    assert grant.role == explain_pb2.THING_ROLE_RELIED_ON
    assert 0 < grant.changed < answer.position.size
    assert answer.decided_at_ms >= answer.position.ledger_time_ms


async def test_without_authority_the_node_says_so_and_goes_on(edge: Any, explain: Stub) -> None:
    answer = await explain.Explain(act())
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_INQUORATE)
    assert not answer.has_authority
    assert answers(answer)["NODE"] == "FAILED"
    assert answers(answer)["GRANT"] == "PASSED", "told all the same"
    assert answer.steps[0].remedy.sentence
    edge.grant(reason=Reason.STORAGE_FULL, deadline_ns=0)
    assert (await explain.Explain(act())).reason == decision_pb2.REASON_STORAGE_FULL


async def test_a_lease_is_explained_as_it_is_checked(
    edge: Any, explain: Stub, dial: Dial, pki: Any
) -> None:
    checks = lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.executor))
    lease_id = edge.lease()
    edge.grant()
    assert (await explain.Explain(held(lease_id))).verdict == PERMIT
    edge.core.run(DOMAIN, "grant.revoke", {"grant": "g"})
    for request in (held(lease_id), held("f" * 32), held(lease_id, action="other")):
        edge.grant()
        told = await explain.Explain(request)
        asked = request.lease
        checked = await checks.Check(
            lease_pb2.CheckRequest(lease_id=asked.lease_id, action=asked.action)
        )
        assert (told.verdict, told.reason, told.thing) == (DENY, checked.reason, checked.thing)
        failed = next(step for step in told.steps if step.answer == explain_pb2.ANSWER_FAILED)
        assert (failed.reason, failed.thing) == (told.reason, told.thing)
        assert failed.remedy.sentence


async def test_an_executor_asks_about_itself_only(
    edge: Any, explain: Stub, dial: Dial, pki: Any
) -> None:
    edge.grant()
    assert (await explain.Explain(act(EXECUTOR))).verdict == PERMIT
    assert await code_of(explain.Explain(act(OTHER))) is grpc.StatusCode.PERMISSION_DENIED
    for who in (pki.operator, pki.node):
        stub = explain_pb2_grpc.ExplainServiceStub(dial(edge.port, who))
        assert await code_of(stub.Explain(act())) is grpc.StatusCode.PERMISSION_DENIED
    stub = explain_pb2_grpc.ExplainServiceStub(dial(edge.port, pki.other))
    assert (await stub.Explain(held(edge.lease()))).reason == decision_pb2.REASON_NOT_LEASE_HOLDER


async def test_an_operator_asks_about_anybody(core: Any, operators: Stub) -> None:
    core.authority_ms = 500
    answer = await operators.Explain(act(EXECUTOR))
    assert (answer.verdict, answer.has_authority) == (PERMIT, True)
    stranger = "spiffe://nobody.example/agent/x"
    answer = await operators.Explain(act(stranger))
    assert (answer.reason, answer.thing) == (decision_pb2.REASON_UNKNOWN_EXECUTOR, stranger)
    assert await code_of(operators.Explain(act())) is grpc.StatusCode.INVALID_ARGUMENT
    core.authority_ms = 0
    answer = await operators.Explain(act(EXECUTOR))
    assert (answer.reason, answer.has_authority) == (decision_pb2.REASON_STORAGE_FULL, False)


async def test_an_executor_may_not_ask_the_core_about_another(
    servers: Any, dial: Dial, pki: Any, core: Any
) -> None:
    core.authority_ms = 500
    stub = explain_pb2_grpc.ExplainServiceStub(dial(servers.public.port, pki.executor))
    assert (await stub.Explain(act())).verdict == PERMIT
    assert await code_of(stub.Explain(act(OTHER))) is grpc.StatusCode.PERMISSION_DENIED
    node = explain_pb2_grpc.ExplainServiceStub(dial(servers.public.port, pki.node))
    assert await code_of(node.Explain(act(OTHER))) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_lease_is_over_at_the_time_that_the_clocks_say(core: Any, operators: Stub) -> None:
    """The ledger itself has not heard of that time yet."""
    core.authority_ms = 500
    body = acquire_body(EXECUTOR, ACTION, RESOURCE, 60_000)
    lease_id = str(core.run(NODE, "lease.acquire", body).outcome.result["id"])
    about = held(lease_id)
    about.executor = EXECUTOR
    assert (await operators.Explain(about)).verdict == PERMIT
    core.ledger_time_ms += 86_400_000
    answer = await operators.Explain(about)
    assert answer.reason == decision_pb2.REASON_LEASE_EXPIRED
    assert answer.decided_at_ms == core.ledger_time_ms > answer.position.ledger_time_ms


@pytest.mark.parametrize(
    "request_",
    [
        explain_pb2.ExplainRequest(),
        act(action=""),
        act(action="*"),
        act(resource="x"),
        act(parents=["a" * 32] * 9),
        act(parents=["a"]),
        act(context=["a"]),
        held(""),
        held("x" * 100_000),
        held("a" * 32, resource="x"),
    ],
)
async def test_what_breaks_the_contract_is_refused(
    edge: Any, explain: Stub, request_: explain_pb2.ExplainRequest
) -> None:
    edge.grant()
    assert await code_of(explain.Explain(request_)) is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_index_that_is_not_there_is_out_of_range(
    edge: Any, explain: Stub, operators: Stub
) -> None:
    edge.grant()
    for stub in (explain, operators):
        request = act(EXECUTOR)
        request.minimum_index = 1_000
        code = await code_of(asyncio.wait_for(stub.Explain(request, timeout=1), 5))
        assert code is grpc.StatusCode.OUT_OF_RANGE


async def test_the_longest_explanation_fits_a_message(edge: Any, explain: Stub) -> None:
    path = "x" * 240
    for number in range(255):
        name = f"{number:03}-{'n' * 60}"
        body = grant_body(name, EXECUTOR, [f"//{DOMAIN}/{path}"])
        edge.core.run(DOMAIN, "grant.issue", body)
    edge.grant()
    answer = await explain.Explain(act(resource=f"//{DOMAIN}/nothing"))
    assert answer.reason == decision_pb2.REASON_NO_GRANT
    assert len(answer.steps[-2].things) == 256
    assert answer.ByteSize() < MAX_MESSAGE_BYTES // 4


async def test_who_asks_all_the_time_is_refused_and_others_are_not(
    edge: Any, dial: Dial, pki: Any, explain: Stub
) -> None:
    """An error, which is never a permit; what it costs an edge is bounded for each executor."""
    asked = await asyncio.gather(
        *(explain.Explain(act()) for _ in range(3 * MAX_EXPLANATIONS_AT_ONCE)),
        return_exceptions=True,
    )
    refused = [each for each in asked if isinstance(each, grpc.aio.AioRpcError)]
    assert refused
    assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert len(asked) - len(refused) >= MAX_EXPLANATIONS_AT_ONCE
    other = explain_pb2_grpc.ExplainServiceStub(dial(edge.port, pki.other))
    assert (await other.Explain(act())).verdict in (PERMIT, DENY)
