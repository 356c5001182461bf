"""A book defends itself against writers that come too late."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.chaos.demo.book import INBOX, OUTBOX, Book, Record
from quorate.client import StaleFenceError


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book.create(tmp_path / "b.sqlite", "bank.example", 3, "bills")


def test_records_leave_the_outbox_in_order_and_once(book: Book) -> None:
    first = book.next_unsent()
    assert first == Record("bank.example/000000", "bills no. 0")
    book.mark_sent(first, fence=1)
    second = book.next_unsent()
    assert second is not None
    assert second.id == "bank.example/000001"
    assert book.sent() == {first}


def test_a_record_is_received_once_however_often_it_is_sent(book: Book) -> None:
    record = Record("clinic.example/1", "x")
    book.receive(record, fence=4)
    book.receive(record, fence=4)
    book.receive(record, fence=5)
    assert book.received() == {record}


def test_an_older_fence_is_refused_and_nothing_is_written(book: Book) -> None:
    book.receive(Record("a", "x"), fence=9)
    with pytest.raises(StaleFenceError, match="8 is older than 9"):
        book.receive(Record("b", "x"), fence=8)
    assert {record.id for record in book.received()} == {"a"}
    assert book.highest_fence(INBOX) == 9
    assert book.highest_fence(OUTBOX) == 0  # each shelf has its own
    book.receive(Record("c", "x"), fence=9)


def test_the_fence_holds_for_marking_too(book: Book) -> None:
    record = book.next_unsent()
    assert record is not None
    book.mark_sent(record, fence=9)
    other = book.next_unsent()
    assert other is not None
    with pytest.raises(StaleFenceError):
        book.mark_sent(other, fence=8)
    assert book.next_unsent() == other


def test_two_connections_see_one_fence(book: Book, tmp_path: Path) -> None:
    with Book(tmp_path / "b.sqlite") as other:
        other.receive(Record("a", "x"), fence=9)
    with pytest.raises(StaleFenceError):
        book.receive(Record("b", "x"), fence=8)


@given(fences=st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_accepted_fences_never_go_back(
    tmp_path_factory: pytest.TempPathFactory, fences: list[int]
) -> None:
    accepted: list[int] = []
    path = tmp_path_factory.mktemp("book") / "b.sqlite"
    with Book.create(path, "bank.example", 0, "") as book:
        for number, fence in enumerate(fences):
            if accepted and fence < max(accepted):
                with pytest.raises(StaleFenceError):
                    book.receive(Record(str(number), ""), fence=fence)
            else:
                book.receive(Record(str(number), ""), fence=fence)
                accepted.append(fence)
            assert book.highest_fence(INBOX) == max(accepted)
        assert len(book.received()) == len(accepted)
