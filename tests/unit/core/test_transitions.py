"""How a command is judged, and what each governing command does."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest

from quorate.core import codec, dsse, state, transitions
from quorate.core.errors import StorageFullError
from quorate.core.limits import (
    MAX_COMMAND_LIFETIME_MS,
    MAX_EDGES_PER_PAIR,
    MAX_ENTRY_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_GRANTS_PER_EXECUTOR_AND_ISSUER,
    MAX_INTEGER,
    NONCES_FORGOTTEN_PER_COMMAND,
)
from quorate.core.outcome import Reason
from quorate.core.records import BY_BALLOT
from quorate.core.state import Status, list_records, record_json
from quorate.core.store import MemoryStore
from quorate.core.transitions import Applied
from quorate.core.verbs import Verb
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import (
    CREATED_MS,
    Ledger,
    grant_body,
    key_for,
    narrow_body,
    node_body,
    trust_body,
)

BANK, CLINIC = "bank.example", "clinic.example"
AGENT = "spiffe://clinic.example/agent/claims"
OWN = ["//bank.example/*"]


def entry_of(applied: Applied) -> Any:
    assert applied.entry is not None
    assert len(applied.entry) <= MAX_ENTRY_BYTES
    return codec.decode(applied.entry, MAX_ENTRY_BYTES)


def state_of(world: Ledger) -> dict[bytes, bytes]:
    """Everything but ledger time and what is remembered of commands."""
    return {key: value for key, value in world.store.items() if key[:1] not in b"Tcx"}


# -- the way in ----------------------------------------------------------------------------------


def test_an_accepted_command_is_recorded_as_it_was_signed(world: Any) -> None:
    envelope = world.federation.command(CLINIC, "executor.register", {"executor": AGENT})
    applied = world.apply(envelope)
    assert applied.outcome.accepted
    assert applied.outcome.result == {"id": AGENT}
    entry = entry_of(applied)
    assert codec.encode(entry.pop("command")) == envelope
    assert entry == {
        "v": 1,
        "origin": world.federation.origin,
        "seq": 1,
        "type": "executor.register",
        "decision": "accepted",
        "reason": "",
        "thing": AGENT,
        "policy_version": 0,
        "time": CREATED_MS,
    }
    assert world.view.outcome(applied.outcome.command_id) == applied.outcome


@pytest.mark.parametrize("data", [b"", b"{}", b"\x00\xff", b"[" * 5000])
def test_bytes_that_are_no_command_are_recorded_whole(world: Any, data: bytes) -> None:
    before = state_of(world)
    applied = world.apply(data)
    assert applied.outcome.reason is Reason.MALFORMED_COMMAND
    assert applied.outcome.command_id == hashlib.sha256(data).hexdigest()
    entry = entry_of(applied)
    assert entry["type"] == "malformed"
    assert entry["command"] == {"raw": b64encode(data).decode()}
    assert state_of(world) == before


def test_too_many_bytes_are_recorded_by_their_hash(world: Any) -> None:
    data = bytes(MAX_ENVELOPE_BYTES + 1)
    applied = world.apply(data)
    assert applied.outcome.reason is Reason.TOO_LARGE
    assert entry_of(applied)["command"] == {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }


def test_a_long_unknown_field_does_not_make_a_long_entry(world: Any) -> None:
    applied = world.apply(codec.encode({"x" * (MAX_ENVELOPE_BYTES - 50): 1}))
    assert applied.outcome.reason is Reason.MALFORMED_COMMAND
    entry_of(applied)
    good = codec.decode(world.federation.command(CLINIC, "grant.revoke", {"grant": "g"}), 9999)
    assert isinstance(good, dict)
    applied = world.apply(codec.encode(good | {"x" * (MAX_ENVELOPE_BYTES - 1000): 1}))
    assert applied.outcome.reason is Reason.MALFORMED_COMMAND
    entry_of(applied)


def test_a_payload_without_a_stamp_is_not_executed(world: Any) -> None:
    envelope = world.federation.command(CLINIC, "executor.register", {"executor": AGENT})
    applied = world.apply_payload(envelope)
    assert (applied.outcome.reason, applied.outcome.thing) == (Reason.MALFORMED_COMMAND, "stamp")
    assert world.view.executor(AGENT) is None
    assert world.apply_payload(b"short").outcome.reason is Reason.MALFORMED_COMMAND
    assert world.view.ledger_time() == CREATED_MS


BODY = {"executor": AGENT}
NODE_2 = "spiffe://clinic.example/node/2"
KEY = key_for("a key").public.hex()
DENIALS: dict[str, Any] = {
    "kind": "denials",
    "executor": "",
    "method": "Check",
    "lease": "",
    "reason": "INQUORATE",
    "ledger_size": 1,
    "first_at": 0,
    "last_at": 0,
    "count": 1,
}
PAYLOADS: list[tuple[dict[str, Any], str]] = [
    ({"v": 2}, "v"),
    ({"v": True}, "v"),
    ({"origin": "a b"}, "origin"),
    ({"type": "executor.promote"}, "type"),
    ({"type": 1}, "type"),
    ({"issuer": "Clinic"}, "issuer"),
    ({"issuer": AGENT}, "issuer"),
    ({"nonce": "abc"}, "nonce"),
    ({"not_after": -1}, "not_after"),
    ({"not_after": "soon"}, "not_after"),
    ({"more": 1}, "more"),
    ({"body": []}, "body"),
    ({"body": {}}, "body.executor"),
    ({"body": {"executor": 1}}, "body.executor"),
    ({"body": {"executor": "spiffe://clinic.example/node/1"}}, "body.executor"),
    ({"body": BODY | {"more": 1}}, "body.more"),
    ({"type": "trust.open", "body": trust_body("E", BANK, OWN)}, "body.edge"),
    ({"type": "trust.open", "body": trust_body("e", BANK, [])}, "body.resources"),
    ({"type": "trust.open", "body": trust_body("e", BANK, OWN * 2)}, "body.resources"),
    ({"type": "trust.open", "body": trust_body("e", BANK, ["*"])}, "body.resources[0]"),
    (
        {"type": "trust.open", "body": trust_body("e", BANK, OWN, actions=["a", "A"])},
        "body.actions[1]",
    ),
    ({"type": "trust.narrow", "body": narrow_body("E", OWN)}, "body.edge"),
    ({"type": "trust.narrow", "body": narrow_body("e", OWN, ["a*"])}, "body.actions[0]"),
    (
        {"type": "grant.issue", "body": grant_body("g", AGENT, OWN, max_lease_ttl_ms=0)},
        "body.max_lease_ttl_ms",
    ),
    (
        {"type": "grant.issue", "body": grant_body("g", AGENT, OWN, max_concurrent=1001)},
        "body.max_concurrent",
    ),
    ({"type": "lease.renew", "body": BODY | {"lease": "x", "ttl_ms": 0}}, "body.lease"),
    ({"type": "node.add", "body": node_body(AGENT)}, "body.node"),
    ({"type": "node.add", "body": node_body(NODE_2, "here")}, "body.peer_address"),
    ({"type": "node.add", "body": node_body(NODE_2, role="leader")}, "body.role"),
    ({"type": "node.add", "body": node_body(NODE_2, role=["voter"])}, "body.role"),
    ({"type": "node.add", "body": node_body(NODE_2, signing_key="00" * 31)}, "body.signing_key"),
    # y = 1: the neutral point, of low order.
    ({"type": "node.add", "body": node_body(NODE_2, log_key="01" + "00" * 31)}, "body.log_key"),
    # y = 2: no point of the curve.
    ({"type": "node.add", "body": node_body(NODE_2, log_key="02" + "00" * 31)}, "body.log_key"),
    (
        {
            "type": "node.add",
            "body": node_body(NODE_2, signing_key=KEY, log_key=KEY),
        },
        "body.log_key",
    ),
    ({"type": "node.add", "body": node_body(NODE_2, more=1)}, "body.more"),
    ({"type": "node.promote", "body": {"node": "2"}}, "body.node"),
    ({"type": "node.retire", "body": {"node": NODE_2, "role": "voter"}}, "body.role"),
]


@pytest.mark.parametrize(("changes", "field"), PAYLOADS)
def test_a_command_that_is_wrong_says_where(
    world: Any, changes: dict[str, Any], field: str
) -> None:
    payload = {
        "v": 1,
        "origin": world.federation.origin,
        "type": "executor.register",
        "issuer": CLINIC,
        "nonce": "0" * 16,
        "not_after": CREATED_MS,
        "body": BODY,
    } | changes
    envelope = sign_envelope(
        dsse.COMMAND_TYPE, codec.encode(payload), world.federation[CLINIC].governance
    )
    outcome = world.apply(envelope).outcome
    assert (outcome.reason, outcome.thing) == (Reason.MALFORMED_COMMAND, field)


def test_an_envelope_of_another_type_is_no_command(world: Any) -> None:
    payload = dsse.parse(
        world.federation.command(CLINIC, "executor.register", BODY), MAX_ENVELOPE_BYTES
    ).payload
    envelope = sign_envelope(dsse.GENESIS_TYPE, payload, world.federation[CLINIC].governance)
    outcome = world.apply(envelope).outcome
    assert (outcome.reason, outcome.thing) == (Reason.MALFORMED_COMMAND, "payloadType")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"origin": "other.example/ledger"}, Reason.WRONG_ORIGIN),
        ({"issuer": "nobody.example", "key": key_for("nobody")}, Reason.UNKNOWN_ISSUER),
        (
            {"issuer": "spiffe://clinic.example/node/9", "key": key_for("nobody")},
            Reason.UNKNOWN_ISSUER,
        ),
        ({"key": key_for("nobody")}, Reason.BAD_SIGNATURE),
        ({"key": key_for("bank.example governance")}, Reason.BAD_SIGNATURE),
        ({"key": key_for("clinic.example signing")}, Reason.BAD_SIGNATURE),
        ({"key": key_for("clinic.example cosigner")}, Reason.BAD_SIGNATURE),
        ({"not_after": CREATED_MS - 1}, Reason.EXPIRED_COMMAND),
        ({"not_after": CREATED_MS + MAX_COMMAND_LIFETIME_MS + 1}, Reason.LIFETIME_TOO_LONG),
    ],
)
def test_a_command_that_is_not_admitted_uses_up_no_nonce(
    world: Any, changes: dict[str, Any], reason: Reason
) -> None:
    nonce = "a" * 16
    arguments = {"issuer": CLINIC, "kind": "executor.register", "body": BODY, "nonce": nonce}
    applied = world.apply(world.federation.command(**(arguments | changes)))
    assert applied.outcome.reason is reason
    assert entry_of(applied)["decision"] == "denied"
    assert world.apply(world.federation.command(**arguments)).outcome.accepted


@pytest.mark.parametrize("not_after", [CREATED_MS, CREATED_MS + MAX_COMMAND_LIFETIME_MS])
def test_a_commands_lifetime_includes_both_ends(world: Any, not_after: int) -> None:
    envelope = world.federation.command(CLINIC, "executor.register", BODY, not_after=not_after)
    assert world.apply(envelope).outcome.accepted


# -- exactly once --------------------------------------------------------------------------------


def test_a_repeat_has_the_first_outcome_and_no_entry(world: Any) -> None:
    envelope = world.federation.command(CLINIC, "executor.register", BODY)
    first = world.apply(envelope)
    world.now += 1000
    again = world.apply(envelope)
    assert again.entry is None
    assert again.outcome.duplicate
    assert (again.outcome.index, again.outcome.result) == (1, first.outcome.result)
    assert len(world.entries) == 2


def test_a_denial_is_repeated_too(world: Any) -> None:
    envelope = world.federation.command(CLINIC, "executor.revoke", BODY)
    assert world.apply(envelope).outcome.reason is Reason.NOT_FOUND
    world.must(CLINIC, "executor.register", BODY)
    again = world.apply(envelope).outcome
    assert (again.reason, again.duplicate) == (Reason.NOT_FOUND, True)


def test_a_repeat_may_be_signed_anew_and_is_remembered_as_long_as_it_could_run(world: Any) -> None:
    nonce = "b" * 16
    command = world.federation.command
    first = command(CLINIC, "executor.register", BODY, nonce, CREATED_MS + 10)
    later = command(CLINIC, "executor.register", BODY, nonce, CREATED_MS + 1000)
    world.apply(first)
    assert world.apply(later).outcome.duplicate
    world.now += 500  # the first has expired, the second has not
    for _ in range(3):
        world.apply(b"junk")
    assert world.apply(later).outcome.duplicate
    assert world.apply(first).outcome.duplicate
    world.now += 501
    world.apply(b"junk")
    assert world.apply(later).outcome.reason is Reason.EXPIRED_COMMAND


def test_a_nonce_serves_one_command(world: Any) -> None:
    nonce = "c" * 16
    command = world.federation.command
    assert world.apply(command(CLINIC, "executor.register", BODY, nonce)).outcome.accepted
    for kind, body in (
        ("executor.revoke", BODY),
        ("executor.register", {"executor": AGENT + "2"}),
    ):
        applied = world.apply(command(CLINIC, kind, body, nonce))
        assert applied.outcome.reason is Reason.NONCE_REUSED
        assert applied.entry is not None
    assert world.view.executor(AGENT).status is Status.ACTIVE
    other = {"executor": "spiffe://bank.example/agent/x"}
    assert world.apply(command(BANK, "executor.register", other, nonce)).outcome.accepted


def test_commands_are_forgotten_when_they_could_not_run_again(world: Any) -> None:
    def remembered() -> int:
        return sum(1 for _ in world.store.scan(b"c"))

    for index in range(20):
        body = {"executor": f"{AGENT}{index}"}
        world.apply(
            world.federation.command(CLINIC, "executor.register", body, not_after=CREATED_MS + 5)
        )
    assert remembered() == 20
    world.now += 5
    world.apply(b"junk")
    assert remembered() == 20
    world.now += 1
    world.apply(b"junk")
    assert remembered() == 20 - NONCES_FORGOTTEN_PER_COMMAND
    world.apply(b"junk")
    world.apply(b"junk")
    assert remembered() == 0
    assert not list(world.store.scan(b"x"))


def test_a_command_counts_as_forgotten_as_soon_as_its_time_has_passed(world: Any) -> None:
    """Whether or not it is cleared away by then: a repeat clears away too, and makes no entry, so
    whoever executes the entries of a ledger again would come to something else."""

    def run(*, repeating: bool) -> Any:
        ledger = Ledger(world.federation)
        command = ledger.federation.command
        nonce = "e" * 16
        first = command(CLINIC, "executor.register", BODY, nonce, CREATED_MS + 10)
        other = command(
            BANK, "executor.register", {"executor": f"spiffe://{BANK}/agent/x"}, "f" * 16
        )
        for envelope in (first, other):
            assert ledger.apply(envelope).outcome.accepted
        ledger.now += 11
        if repeating:
            assert ledger.apply(other).outcome.duplicate
        anew = command(CLINIC, "executor.register", BODY, nonce, ledger.now + 10)
        return ledger.apply(anew).outcome, ledger.entries

    outcome, entries = run(repeating=False)
    assert outcome.reason is Reason.ALREADY_EXISTS
    assert run(repeating=True) == (outcome, entries)


# -- time, faults --------------------------------------------------------------------------------


def test_ledger_time_never_goes_back(world: Any) -> None:
    world.now += 100
    assert entry_of(world.apply(b"x"))["time"] == CREATED_MS + 100
    world.now -= 50
    assert entry_of(world.apply(b"y"))["time"] == CREATED_MS + 100
    world.now = MAX_INTEGER
    assert entry_of(world.apply(b"z"))["time"] == MAX_INTEGER
    applied = world.apply_payload((MAX_INTEGER + 1).to_bytes(8, "big") + b"w")
    assert applied.outcome.reason is Reason.MALFORMED_COMMAND


def test_a_fault_inside_is_recorded_and_changes_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(turn: Any, body: Any) -> Any:
        turn.store.put(b"E-half", b"done")
        raise ZeroDivisionError

    handlers = dict(transitions._HANDLERS) | {Verb.EXECUTOR_REGISTER: broken}
    monkeypatch.setattr(transitions, "_HANDLERS", handlers)
    before = state_of(world)
    applied = world.run(CLINIC, "executor.register", BODY)
    assert applied.outcome.reason is Reason.INTERNAL
    assert isinstance(applied.fault, ZeroDivisionError)
    assert entry_of(applied)["reason"] == "INTERNAL"
    assert state_of(world) == before


@pytest.mark.parametrize("error", [StorageFullError, MemoryError])
def test_what_the_node_cannot_help_passes_through(world: Any, error: type[Exception]) -> None:
    class Failing(MemoryStore):
        def get(self, key: bytes) -> bytes | None:
            if key.startswith(b"E"):
                raise error("no room")
            return world.store.get(key)  # type: ignore[no-any-return]

    before = world.store.items()
    envelope = world.federation.command(CLINIC, "executor.register", BODY)
    with pytest.raises(error):
        transitions.apply(Failing(), codec.stamp(world.now, envelope), 1)
    assert world.store.items() == before


# -- governing -----------------------------------------------------------------------------------


def status(world: Any, kind: str) -> str:
    idents = {"executor": AGENT, "grant": f"{BANK}/grant"}
    record = codec.decode(record_json(world.view, kind, idents[kind]) or b"", 9999)
    assert isinstance(record, dict)
    return str(record["status"])


@pytest.mark.parametrize(
    ("kind", "issuer", "body"),
    [("executor", CLINIC, {"executor": AGENT}), ("grant", BANK, {"grant": "grant"})],
)
def test_the_life_of_a_governed_thing(
    trusted: Any, kind: str, issuer: str, body: dict[str, Any]
) -> None:
    def act(name: str) -> Reason | None:
        reason: Reason | None = trusted.do(issuer, f"{kind}.{name}", body).reason
        return reason

    assert act("reinstate") is Reason.ILLEGAL_TRANSITION
    assert act("suspend") is None
    assert status(trusted, kind) == "suspended"
    assert act("suspend") is Reason.ILLEGAL_TRANSITION
    assert act("reinstate") is None
    assert status(trusted, kind) == "active"
    assert act("suspend") is None
    assert act("revoke") is None
    assert status(trusted, kind) == "revoked"
    assert [act(name) for name in ("suspend", "reinstate", "revoke")] == [Reason.FINAL] * 3


def test_what_is_revoked_is_never_made_again(trusted: Any) -> None:
    again: list[tuple[str, str, dict[str, Any]]] = [
        (CLINIC, "executor.register", {"executor": AGENT}),
        (BANK, "trust.open", trust_body("edge", CLINIC, OWN)),
        (BANK, "grant.issue", grant_body("grant", AGENT, OWN)),
    ]
    for issuer, kind, body in again:
        assert trusted.do(issuer, kind, body).reason is Reason.ALREADY_EXISTS
    trusted.must(BANK, "grant.revoke", {"grant": "grant"})
    trusted.must(BANK, "trust.close", {"edge": "edge"})
    trusted.must(CLINIC, "executor.revoke", {"executor": AGENT})
    for issuer, kind, body in again:
        assert trusted.do(issuer, kind, body).reason is Reason.FINAL
    for kind, body in (("close", {"edge": "edge"}), ("narrow", narrow_body("edge", OWN))):
        assert trusted.do(BANK, f"trust.{kind}", body).reason is Reason.FINAL


def test_what_does_not_exist_cannot_be_governed(world: Any) -> None:
    for issuer, kind, body in (
        (CLINIC, "executor.revoke", {"executor": AGENT}),
        (BANK, "trust.close", {"edge": "edge"}),
        (BANK, "trust.narrow", narrow_body("edge", OWN)),
        (BANK, "grant.revoke", {"grant": "grant"}),
    ):
        assert world.do(issuer, kind, body).reason is Reason.NOT_FOUND


def test_a_domain_governs_what_is_its_own(trusted: Any) -> None:
    before = state_of(trusted)
    for issuer, kind, body in (
        (BANK, "executor.register", {"executor": AGENT + "2"}),
        (BANK, "executor.revoke", {"executor": AGENT}),
        (CLINIC, "trust.open", trust_body("e2", CLINIC, ["//clinic.example/*"])),
        (CLINIC, "grant.issue", grant_body("g2", AGENT, OWN)),
        (CLINIC, "domain.suspend", {"domain": BANK}),
    ):
        assert trusted.do(issuer, kind, body).reason is Reason.NOT_AUTHORIZED, kind
    # Names are the issuer's own: another's grant of that name is simply not there.
    assert trusted.do(CLINIC, "trust.narrow", narrow_body("edge", OWN)).reason is Reason.NOT_FOUND
    assert trusted.do(CLINIC, "grant.revoke", {"grant": "grant"}).reason is Reason.NOT_FOUND
    assert state_of(trusted) == before


def test_a_suspended_domain_narrows_and_does_not_widen(trusted: Any) -> None:
    trusted.must(BANK, "grant.issue", grant_body("other", AGENT, OWN))
    trusted.must(BANK, "grant.suspend", {"grant": "other"})
    trusted.must(BANK, "domain.suspend", {"domain": BANK})
    own = {"executor": "spiffe://bank.example/agent/x"}
    for kind, body in (
        ("executor.register", own),
        ("trust.open", trust_body("e2", CLINIC, OWN)),
        ("grant.issue", grant_body("g2", AGENT, OWN)),
        ("grant.reinstate", {"grant": "other"}),
    ):
        assert trusted.do(BANK, kind, body).reason is Reason.DOMAIN_SUSPENDED, kind
    trusted.must(BANK, "grant.suspend", {"grant": "grant"})
    trusted.must(BANK, "grant.revoke", {"grant": "other"})
    trusted.must(BANK, "trust.narrow", narrow_body("edge", ["//bank.example/accounts/*"]))
    trusted.must(BANK, "trust.close", {"edge": "edge"})
    assert trusted.do(BANK, "domain.suspend", {"domain": BANK}).reason is Reason.ILLEGAL_TRANSITION
    trusted.must(BANK, "domain.reinstate", {"domain": BANK})
    trusted.must(BANK, "grant.reinstate", {"grant": "grant"})


def test_a_domain_that_another_suspended_does_not_reinstate_itself(trusted: Any) -> None:
    bank = replace(trusted.view.domain(BANK), status=Status.SUSPENDED, suspended_by=BY_BALLOT)
    state.save_domain(trusted.store, bank)
    assert trusted.do(BANK, "domain.reinstate", {"domain": BANK}).reason is Reason.NOT_AUTHORIZED
    state.save_domain(trusted.store, replace(bank, status=Status.REVOKED, suspended_by=""))
    assert trusted.do(BANK, "domain.reinstate", {"domain": BANK}).reason is Reason.DOMAIN_REVOKED
    body = {"executor": "spiffe://bank.example/agent/x"}
    assert trusted.do(BANK, "executor.register", body).reason is Reason.DOMAIN_REVOKED


def test_trust_and_grants_name_what_exists(world: Any) -> None:
    body = trust_body("e", "nobody.example", OWN)
    assert world.do(BANK, "trust.open", body).reason is Reason.UNKNOWN_DOMAIN
    body = grant_body("g", AGENT, OWN)
    assert world.do(BANK, "grant.issue", body).reason is Reason.UNKNOWN_EXECUTOR
    world.must(CLINIC, "executor.register", BODY)
    world.must(CLINIC, "executor.revoke", BODY)
    assert world.do(BANK, "grant.issue", body).reason is Reason.EXECUTOR_REVOKED


def test_a_grant_must_have_time_left(world: Any) -> None:
    world.must(CLINIC, "executor.register", BODY)
    body = grant_body("g", AGENT, OWN, not_after=CREATED_MS)
    assert world.do(BANK, "grant.issue", body).reason is Reason.GRANT_EXPIRED
    world.must(BANK, "grant.issue", body | {"not_after": CREATED_MS + 1})


def test_open_edges_of_a_pair_are_limited_and_closing_makes_room(world: Any) -> None:
    for index in range(MAX_EDGES_PER_PAIR):
        world.must(BANK, "trust.open", trust_body(f"e{index}", CLINIC, OWN))
    one_more = trust_body("one-more", CLINIC, OWN)
    assert world.do(BANK, "trust.open", one_more).reason is Reason.LIMIT_EXCEEDED
    world.must(CLINIC, "trust.open", trust_body("e", BANK, ["//clinic.example/*"]))
    world.must(BANK, "trust.close", {"edge": "e3"})
    world.must(BANK, "trust.open", one_more)


def test_grants_of_an_executor_are_limited_and_ending_them_makes_room(world: Any) -> None:
    world.must(CLINIC, "executor.register", BODY)
    for index in range(MAX_GRANTS_PER_EXECUTOR_AND_ISSUER):
        not_after = CREATED_MS + (10 if index < 2 else 100_000)
        world.must(BANK, "grant.issue", grant_body(f"g{index}", AGENT, OWN, not_after=not_after))

    def issue(name: str) -> Reason | None:
        reason: Reason | None = world.do(BANK, "grant.issue", grant_body(name, AGENT, OWN)).reason
        return reason

    assert issue("a") is Reason.LIMIT_EXCEEDED
    world.must(BANK, "grant.suspend", {"grant": "g9"})
    assert issue("b") is Reason.LIMIT_EXCEEDED
    world.must(BANK, "grant.revoke", {"grant": "g9"})
    assert issue("c") is None
    assert issue("d") is Reason.LIMIT_EXCEEDED
    world.now += 10  # two of them have expired
    assert [issue(name) for name in "efg"] == [None, None, Reason.LIMIT_EXCEEDED]


def test_executors_of_a_domain_are_limited(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.core.governing.MAX_EXECUTORS_PER_DOMAIN", 1)
    world.must(CLINIC, "executor.register", BODY)
    more = {"executor": AGENT + "2"}
    assert world.do(CLINIC, "executor.register", more).reason is Reason.LIMIT_EXCEEDED
    world.must(BANK, "executor.register", {"executor": "spiffe://bank.example/agent/x"})


# -- queries -------------------------------------------------------------------------------------


def test_records_can_be_listed_page_by_page(world: Any) -> None:
    expected = sorted(f"{AGENT}{index}" for index in range(7))
    for ident in expected:
        world.must(CLINIC, "executor.register", {"executor": ident})
    seen: list[str] = []
    after = ""
    while page := list_records(world.view, "executor", after, 3):
        seen += [ident for ident, _ in page]
        after = page[-1][0]
    assert seen == expected
    assert (
        record_json(world.view, "executor", expected[0])
        == list_records(world.view, "executor", "", 1)[0][1]
    )
    assert list_records(world.view, "executor", "", 0) == []
    assert list_records(world.view, "executor", "\ud800", 5) == []


def test_queries_for_what_cannot_be(world: Any) -> None:
    for ident in ("", "x\x00", "ä", "\ud800", "x" * 10_000):
        for kind in ("domain", "executor", "trust", "grant", "lease", "node"):
            assert record_json(world.view, kind, ident) is None
    with pytest.raises(ValueError, match="nonsense"):
        record_json(world.view, "nonsense", "x")
    for command_id in ("", "xyz", "0" * 64):
        assert world.view.outcome(command_id) is None
