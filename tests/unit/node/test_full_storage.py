"""A disk without room: the node waits for it, whatever it has on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.nodes import Nodes

from quorate.core.errors import StorageFullError
from quorate.storage.turn import Turn

BANK = "bank.example"


def test_a_new_node_waits_for_room_for_the_first_entry_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(tmp_path, (BANK,))
    node = nodes.add(nodes.federation[BANK].node)

    def full(*_: Any) -> None:
        raise StorageFullError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(Turn, "log_append", full)
        node.core._storage_failed(StorageFullError("no room"))
        node.core.probe_storage()
        assert node.core.storage_problem
    node.core.probe_storage()
    assert not node.core.storage_problem
    nodes.until(lambda: nodes.leader is node and node.word_holds())
    nodes.close()
