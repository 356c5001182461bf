"""A node is taken for one of the federation by those who do not know it, on its domain's word
alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core import dsse
from quorate.core.limits import MAX_ENVELOPE_BYTES
from quorate.core.verbs import Verb
from quorate.node.introduction import find_order, is_order
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import Federation, Ledger, key_for, node_body

BANK, CLINIC = "bank.example", "clinic.example"
FIRST, SECOND, THIRD = (f"spiffe://{BANK}/node/{name}" for name in "123")


class Kept(Ledger):
    """A ledger to look back in."""

    def __init__(self) -> None:
        super().__init__(Federation.build())

    @property
    def ledger_size(self) -> int:
        return len(self.entries)

    def ledger_entries(self, first: int, limit: int) -> list[bytes]:
        return self.entries[first : first + limit]

    def order_of(self, node_id: str) -> bytes:
        node = self.view.node(node_id)
        assert node is not None
        return find_order(self, node)

    def believes(self, order: bytes, node_id: str = SECOND, by: str = BANK) -> bool:
        domain = self.view.domain(by)
        assert domain is not None
        return is_order(order, node_id, self.federation.origin, domain, self.view.ledger_time())


@pytest.fixture(scope="module")
def ledger() -> Kept:
    ledger = Kept()
    assert not ledger.run(CLINIC, "node.add", node_body(SECOND)).outcome.accepted
    assert ledger.run(BANK, "node.add", node_body(SECOND)).outcome.accepted
    assert not ledger.run(BANK, "node.add", node_body(SECOND)).outcome.accepted
    return ledger


def test_an_order_is_found_and_believed(ledger: Kept) -> None:
    order = ledger.order_of(SECOND)
    assert ledger.believes(order)
    assert not ledger.believes(order, THIRD), "it is nobody else's"
    assert not ledger.believes(order, by=CLINIC), "and no other domain's"


def test_an_order_is_found_however_long_ago_it_was_given() -> None:
    ledger = Kept()
    ledger.run(BANK, "node.add", node_body(SECOND))
    for number in range(600):  # more than a page, with the node's name in some of them
        ledger.run(CLINIC, "executor.register", {"executor": f"spiffe://{CLINIC}/agent/{number}"})
        ledger.run(CLINIC, "node.retire", {"node": SECOND})
    ledger.run(BANK, "node.demote", {"node": FIRST})
    assert ledger.run(BANK, "node.promote", {"node": SECOND}).outcome.accepted
    assert ledger.believes(ledger.order_of(SECOND))


def test_a_change_beyond_the_ledger_is_not_looked_for() -> None:
    """A recovered ledger is shorter than the one before, whose numbers its state may hold."""
    ledger = Kept()
    ledger.run(BANK, "node.add", node_body(SECOND))
    node = ledger.view.node(SECOND)
    assert node is not None
    assert ledger.believes(find_order(ledger, replace(node, changed=2**53 - 1)))


def test_who_was_not_added_has_no_order(ledger: Kept) -> None:
    assert ledger.order_of(FIRST) == b""
    assert not ledger.believes(b"", FIRST)


def forged(**changes: object) -> bytes:
    """An order that is good but for what is changed."""
    federation = Federation.build()
    said: dict[str, object] = {"issuer": BANK, "kind": "node.add", "body": node_body(SECOND)}
    return federation.command(**(said | changes))  # type: ignore[arg-type]


def test_the_forgeries_below_are_good_but_for_one_thing(ledger: Kept) -> None:
    assert ledger.believes(forged())


@pytest.mark.parametrize(
    "changes",
    [
        {"key": key_for("somebody")},
        {"key": key_for(f"{BANK} signing")},  # the node's own key, which its machine holds
        {"key": key_for(f"{CLINIC} governance")},
        {"issuer": CLINIC},
        {"origin": "other.example/ledger"},
        {"body": node_body(THIRD)},
        {"kind": Verb.NODE_PROMOTE, "body": {"node": SECOND}},
        {"kind": Verb.NODE_RETIRE, "body": {"node": SECOND}},
        {"kind": Verb.EXECUTOR_REGISTER, "body": {"executor": f"spiffe://{BANK}/agent/a"}},
    ],
    ids=str,
)
def test_another_command_is_no_order(ledger: Kept, changes: dict[str, object]) -> None:
    assert not ledger.believes(forged(**changes))


def test_another_kind_of_document_is_no_order(ledger: Kept) -> None:
    payload = dsse.parse(forged(), MAX_ENVELOPE_BYTES).payload
    key = key_for(f"{BANK} governance")
    assert ledger.believes(sign_envelope(dsse.COMMAND_TYPE, payload, key))
    assert not ledger.believes(sign_envelope(dsse.DESCRIPTOR_TYPE, payload, key))


@given(st.binary(max_size=400))
def test_garbage_is_no_order(ledger: Kept, data: bytes) -> None:
    assert not ledger.believes(data)


def test_what_is_too_large_is_not_read(ledger: Kept) -> None:
    assert not ledger.believes(b" " * (MAX_ENVELOPE_BYTES + 1))


@given(st.data())
def test_no_byte_of_an_order_can_be_changed(ledger: Kept, data: st.DataObject) -> None:
    order = bytearray(ledger.order_of(SECOND))
    place = data.draw(st.integers(0, len(order) - 1))
    order[place] ^= data.draw(st.integers(1, 255))
    assert not ledger.believes(bytes(order))
