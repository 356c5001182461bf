from __future__ import annotations

import pytest

from quorate.core.store import MemoryStore, Overlay


def filled() -> MemoryStore:
    store = MemoryStore()
    for key in (b"a", b"b1", b"b2", b"b3", b"c", b"\xff", b"\xff\xff1"):
        store.put(key, key + b"!")
    return store


def keys(store: MemoryStore | Overlay, prefix: bytes, start: bytes = b"") -> list[bytes]:
    return [key for key, _ in store.scan(prefix, start)]


@pytest.mark.parametrize("over", [False, True])
def test_scanning_stays_within_the_prefix(over: bool) -> None:
    store = Overlay(filled()) if over else filled()
    assert keys(store, b"b") == [b"b1", b"b2", b"b3"]
    assert keys(store, b"b", b"b2") == [b"b2", b"b3"]
    assert keys(store, b"b", b"a") == [b"b1", b"b2", b"b3"]
    assert keys(store, b"b", b"c") == []
    assert keys(store, b"\xff") == [b"\xff", b"\xff\xff1"]
    assert len(keys(store, b"")) == 7


def test_an_overlay_shows_its_writes_and_the_store_below_does_not() -> None:
    store = filled()
    before = store.items()
    overlay = Overlay(store)
    overlay.put(b"b0", b"first")
    overlay.put(b"b2", b"new")
    overlay.put(b"b4", b"last")
    overlay.delete(b"b1")
    overlay.delete(b"b9")
    assert list(overlay.scan(b"b")) == [
        (b"b0", b"first"),
        (b"b2", b"new"),
        (b"b3", b"b3!"),
        (b"b4", b"last"),
    ]
    assert overlay.get(b"b1") is None
    assert overlay.get(b"b2") == b"new"
    assert overlay.get(b"a") == b"a!"
    assert store.items() == before
    overlay.commit()
    assert keys(store, b"b") == [b"b0", b"b2", b"b3", b"b4"]


def test_a_discarded_overlay_leaves_nothing() -> None:
    store = filled()
    before = store.items()
    overlay = Overlay(store)
    overlay.put(b"x", b"")
    overlay.delete(b"a")
    overlay.discard()
    overlay.commit()
    assert store.items() == before
