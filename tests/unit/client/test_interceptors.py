"""Rules by the method's name, and denials as gRPC has them."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from tests.unit.client.services import info_of

from quorate.client import ClientReason, Denied, DeniedError, Reason
from quorate.client.interceptors import (
    EXEMPT,
    Act,
    AsyncCallDeniedError,
    CallDeniedError,
    Outgoing,
    by_method,
)
from quorate.client.interceptors.refusals import Refusal
from quorate.client.interceptors.rules import decide

RECEIVE = Act("records.receive", "//bank.example/books/inbox")
READ = Act("records.read", "//bank.example/books/inbox")


@pytest.mark.parametrize(
    ("method", "act"),
    [
        ("/bank.Inbox/Receive", RECEIVE),
        ("/bank.Inbox/Read", READ),
        ("/bank.Inbox/Other", READ),
        ("/bank.Inbox/Burn", None),
        ("/grpc.health.v1.Health/Check", EXEMPT),
        ("/bank.Inboxes/Receive", None),
        ("/other.bank.Inbox/Receive", None),
        ("/bank.Inbox/Receive/", None),
        ("bank.Inbox/Receive", None),
        ("/bank.Inbox", None),
        ("", None),
    ],
)
def test_a_rule_by_method_knows_what_is_named(method: str, act: Any) -> None:
    rule = by_method(
        {
            "/bank.Inbox/*": READ,
            "/bank.Inbox/Receive": RECEIVE,
            "/bank.Inbox/Burn": None,
            "/grpc.health.v1.Health/*": EXEMPT,
        }
    )
    assert rule(Outgoing(method)) == act


@pytest.mark.parametrize(
    "name", ["", "/", "/*", "*", "/*/*", "bank.Inbox/Receive", "/bank.Inbox", "/bank.*/Receive"]
)
def test_a_name_that_would_govern_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        by_method({name: EXEMPT})


@pytest.mark.parametrize(
    "said", [Reason.NO_TRUST, None, True, "", ("records.read", "//bank.example/inbox"), Denied]
)
def test_what_is_no_act_is_a_denial(said: Any) -> None:
    refusal = decide(lambda _call: said, Outgoing("/bank.Inbox/Receive"))
    assert isinstance(refusal, Refusal)
    assert refusal.denied.reason is ClientReason.NO_RULE
    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("kind", [CallDeniedError, AsyncCallDeniedError])
def test_a_denied_call_is_both_errors_and_can_be_sent_elsewhere(kind: Any) -> None:
    refusal = Refusal(Denied(Reason.NO_TRUST, "freight.example", "for people"), "lease-7")
    error = kind(refusal)
    for each in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - made here
        assert isinstance(each, DeniedError)
        assert isinstance(each, grpc.RpcError)
        assert each.reason is Reason.NO_TRUST
        assert str(each) == "denied: NO_TRUST (freight.example) - for people"
        assert each.details() == "denied: NO_TRUST (freight.example)"
        assert each.code() is grpc.StatusCode.PERMISSION_DENIED
        info = info_of(each)
        assert (info.reason, info.domain) == ("NO_TRUST", "quorate")
        assert dict(info.metadata) == {"thing": "freight.example", "lease": "lease-7"}


def test_a_denied_call_is_a_call_that_has_ended() -> None:
    error = CallDeniedError(Refusal(Denied(Reason.NO_TRUST)))
    told: list[Any] = []
    error.add_done_callback(told.append)
    assert told == [error]
    assert (error.done(), error.running(), error.cancelled()) == (True, False, False)
    assert (error.is_active(), error.cancel(), error.add_callback(list)) == (False, False, False)
    assert error.exception() is error
    assert error.initial_metadata() == ()
    for raising in (error.result, lambda: next(error), lambda: list(error)):
        with pytest.raises(CallDeniedError):
            raising()
    assert error.traceback() is not None
    assert error.time_remaining() == 0
