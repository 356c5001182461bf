from __future__ import annotations

from quorate.core.decision import _NEAREST_FIRST
from quorate.core.outcome import Reason
from quorate.core.status import FINAL, TRANSITIONS, Act, Status, follow
from quorate.v1 import decision_pb2


def test_reasons_are_those_of_the_wire() -> None:
    wire = {name.removeprefix("REASON_") for name in decision_pb2.Reason.DESCRIPTOR.values_by_name}
    assert wire - {"UNSPECIFIED"} == set(Reason)
    assert all(reason.name == reason.value for reason in Reason)


def test_every_way_that_a_grant_fails_has_a_rank() -> None:
    about_grants = {reason for reason in Reason if reason.startswith("GRANT_")}
    about_delegators = {Reason.EXECUTOR_SUSPENDED, Reason.EXECUTOR_REVOKED, Reason.NO_TRUST}
    about_delegators |= {Reason.DOMAIN_SUSPENDED, Reason.DOMAIN_REVOKED}
    about_delegators |= {Reason.CONTAINED}
    limits = {Reason.USES_EXHAUSTED, Reason.CONCURRENCY_LIMIT, Reason.CONDITION_UNMET}
    assert set(_NEAREST_FIRST) == about_grants | about_delegators | limits


def test_the_table_of_lives() -> None:
    assert {Status.REVOKED} == FINAL
    for status in Status:
        for act in Act:
            after = follow(status, act)
            if status is Status.REVOKED:
                assert after is Reason.FINAL
            elif (status, act) in TRANSITIONS:
                assert after is TRANSITIONS[status, act]
            else:
                assert after is Reason.ILLEGAL_TRANSITION
    assert len(TRANSITIONS) == 4
