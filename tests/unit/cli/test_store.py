"""`quorate node backup`, `restore`, `rejoin`, `verify`: the store of a node that does not run."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.syncs import Steps

from quorate.core.errors import StorageDamagedError
from quorate.node.config import NodeConfig, load_config
from quorate.node.identity import load_signing_key
from quorate.node.locks import CORE_LOCK, NODE_LOCK, hold
from quorate.node.organisation import read_genesis
from quorate.node.store import mark_path, open_environment, store_path
from quorate.proofs.checkpoint import open_checkpoint
from quorate.storage import Environment

CLINIC = "clinic.example"


@pytest.fixture
def config_file(federation: Any) -> Path:
    file: Path = federation.org() / "node.toml"
    text = file.read_text().replace("# [storage]", "[storage]\nmap_size_bytes = 8388608")
    file.write_text(text)
    return file


@pytest.fixture
def config(config_file: Path) -> NodeConfig:
    return load_config(config_file)


@pytest.fixture
def genesis(config: NodeConfig) -> Any:
    return read_genesis(config.node.genesis)


@pytest.fixture
def store(config: NodeConfig, genesis: Any) -> Path:
    """A node has run, and has stopped."""
    environment = open_environment(config, genesis)
    environment.turn.set_term_and_vote(7, config.node.id)
    environment.turn.log_append(1, 7, b"\x01")
    environment.commit()
    environment.close()
    return store_path(config)


@pytest.fixture
def node(run: Any, config_file: Path) -> Any:
    return lambda *arguments: run("node", *arguments, "--config", config_file, "-o", "json")


@pytest.fixture
def copy(node: Any, store: Path, tmp_path: Path) -> Path:
    """A backup of it."""
    to = tmp_path / "copy"
    assert node("backup", to).exit_code == 0
    return to


def token(config: NodeConfig) -> str:
    environment = Environment.open(store_path(config), map_size_bytes=8 * 1024 * 1024)
    try:
        return environment.probation()
    finally:
        environment.close()


def damage(data: Path) -> None:
    """One bit of what the genesis put into the state, wherever LMDB has a copy of it."""
    content = data.read_bytes()
    assert b'"governance_key"' in content
    data.write_bytes(content.replace(b'"governance_key"', b'"governance_keX"'))


def modes(directory: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in directory.iterdir()}


# -- backup ----------------------------------------------------------------------------------


def test_a_copy_is_verified_and_says_what_it_holds(
    node: Any, store: Path, genesis: Any, config: NodeConfig, tmp_path: Path
) -> None:
    to = tmp_path / "deep/er/copy"
    ran = node("backup", to)
    assert ran.exit_code == 0, ran.stderr
    assert modes(to) == {"data.mdb": 0o600}
    assert stat.S_IMODE(to.stat().st_mode) == 0o700
    value = ran.json
    assert (value["node_id"], value["genesis_hash"]) == (config.node.id, genesis.hash.hex())
    assert (value["ledger_size"], value["term"], value["probation"]) == (1, 7, False)
    key = load_signing_key(config.keys.log).public
    checkpoint = open_checkpoint(value["checkpoint"], genesis.origin, key)
    assert (checkpoint.size, checkpoint.root.hex()) == (1, value["root"])


def test_nothing_is_overwritten_by_a_copy(node: Any, copy: Path) -> None:
    before = (copy / "data.mdb").read_bytes()
    ran = node("backup", copy)
    assert ran.exit_code == 1
    assert "there already" in ran.error["message"]
    assert (copy / "data.mdb").read_bytes() == before


def test_a_copy_belongs_elsewhere(node: Any, store: Path) -> None:
    ran = node("backup", store.parent / "copy")
    assert (ran.exit_code, "inside" in ran.error["message"]) == (1, True)


def test_a_damaged_store_is_not_copied(node: Any, store: Path, tmp_path: Path) -> None:
    damage(store / "data.mdb")
    ran = node("backup", tmp_path / "copy")
    assert ran.exit_code == 6, ran.stderr
    assert "database state_a: key" in ran.error["message"]
    assert not list(tmp_path.glob("copy*"))


def test_there_must_be_something_to_copy(node: Any, config: NodeConfig, tmp_path: Path) -> None:
    ran = node("backup", tmp_path / "copy")
    assert (ran.exit_code, "there is no store" in ran.error["message"]) == (1, True)


# -- verify ----------------------------------------------------------------------------------


def test_a_whole_store_is_verified(node: Any, store: Path) -> None:
    ran = node("verify")
    assert ran.exit_code == 0, ran.stderr
    assert ran.json["verified"] is True


def test_what_is_damaged_is_named(node: Any, store: Path) -> None:
    damage(store / "data.mdb")
    ran = node("verify")
    assert ran.exit_code == 6
    assert ran.error["kind"] == "verification"
    assert "database state_a: key" in ran.error["message"]
    assert "bank.example" in ran.error["message"]


def test_a_file_that_is_cut_off_is_damaged(node: Any, store: Path) -> None:
    data = store / "data.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    assert node("verify").exit_code == 6


@pytest.mark.parametrize("lock", [NODE_LOCK, CORE_LOCK])
@pytest.mark.parametrize("command", ["verify", "restore", "rejoin"])
def test_a_node_that_runs_keeps_its_store(
    node: Any, copy: Path, config: NodeConfig, command: str, lock: str
) -> None:
    store = store_path(config)
    before = (store / "data.mdb").read_bytes()
    given: dict[str, list[object]] = {"restore": [copy, "--replace"], "rejoin": ["--replace"]}
    arguments = given.get(command, [])
    with hold(config.node.data_dir, lock):
        ran = node(command, *arguments)
    assert ran.exit_code == 1
    assert "runs in" in ran.error["message"]
    assert (store / "data.mdb").read_bytes() == before


# -- restore ---------------------------------------------------------------------------------


def test_what_is_restored_is_what_was_copied_and_on_probation(
    node: Any, store: Path, copy: Path, config: NodeConfig
) -> None:
    shutil.rmtree(store)
    ran = node("restore", copy)
    assert ran.exit_code == 0, ran.stderr
    assert (ran.json["term"], ran.json["ledger_size"]) == (7, 1)
    assert (ran.json["probation"], ran.json["checkpoint"]) == (True, "")
    assert ran.json["former"] is None
    assert len(token(config)) == 32
    assert modes(store)["data.mdb"] == 0o600
    assert modes(copy) == {"data.mdb": 0o600}


def test_what_is_restored_is_durable_before_it_has_its_name(
    node: Any, store: Path, copy: Path, config: NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(store)
    steps = Steps(monkeypatch)
    assert node("restore", copy).exit_code == 0
    steps.assert_put_in_place(store, "data.mdb")


def test_a_store_that_is_there_is_moved_aside_and_only_when_told(
    node: Any, store: Path, copy: Path, config: NodeConfig
) -> None:
    before = (store / "data.mdb").read_bytes()
    refused = node("restore", copy)
    assert (refused.exit_code, "--replace" in refused.error["hint"]) == (1, True)
    assert (store / "data.mdb").read_bytes() == before
    formers = []
    for _ in range(2):
        ran = node("restore", copy, "--replace")
        assert ran.exit_code == 0, ran.stderr
        formers.append(Path(ran.json["former"]))
    assert (formers[0] / "data.mdb").read_bytes() == before
    assert formers[0] != formers[1]
    assert all(former.parent == config.node.data_dir for former in formers)


def test_every_restoring_has_a_token_of_its_own(
    node: Any, copy: Path, config: NodeConfig, tmp_path: Path
) -> None:
    tokens = set()
    for number in range(2):
        assert node("restore", copy, "--replace").exit_code == 0
        tokens.add(token(config))
        again = tmp_path / f"again-{number}"
        assert node("backup", again).json["probation"] is True
        assert node("restore", again, "--replace").exit_code == 0
        tokens.add(token(config))
        assert node("rejoin", "--replace").exit_code == 0
        tokens.add(token(config))
    assert len(tokens) == 6


def test_a_damaged_backup_is_not_put_in_place(
    node: Any, store: Path, copy: Path, config: NodeConfig
) -> None:
    damage(copy / "data.mdb")
    before = (store / "data.mdb").read_bytes()
    ran = node("restore", copy, "--replace")
    assert ran.exit_code == 6, ran.stderr
    assert "the backup in" in ran.error["message"]
    assert (store / "data.mdb").read_bytes() == before
    assert not list(config.node.data_dir.glob("*.incoming*"))
    assert not list(config.node.data_dir.glob("*.replaced*"))


def test_another_nodes_backup_is_refused(
    run: Any, federation: Any, copy: Path, tmp_path: Path
) -> None:
    other = federation.org(CLINIC) / "node.toml"
    ran = run("node", "restore", copy, "--config", other, "-o", "json")
    assert ran.exit_code == 1
    assert "belongs to spiffe://bank.example/node/1" in ran.error["message"]
    assert not (federation.org(CLINIC) / "data/ledger").exists()


def test_what_is_no_backup_is_refused(node: Any, store: Path, tmp_path: Path) -> None:
    ran = node("restore", tmp_path, "--replace")
    assert (ran.exit_code, "there is no backup" in ran.error["message"]) == (1, True)


def test_a_restoring_that_was_interrupted_is_begun_again(
    node: Any, copy: Path, config: NodeConfig
) -> None:
    left = config.node.data_dir / "ledger.incoming"
    left.mkdir()
    (left / "data.mdb").write_bytes(b"half of it")
    assert node("restore", copy, "--replace").exit_code == 0
    assert not left.exists()


# -- a store that is lost --------------------------------------------------------------------


def test_a_node_that_has_lost_its_store_does_not_begin_another(
    store: Path, config: NodeConfig, genesis: Any
) -> None:
    shutil.rmtree(config.node.data_dir)
    with pytest.raises(StorageDamagedError, match=r"the store of spiffe://bank.* is gone") as lost:
        open_environment(config, genesis)
    assert "restore" in lost.value.hint
    assert "rejoin" in lost.value.hint
    assert not store.exists()


def test_an_emptied_store_is_a_lost_one(store: Path, config: NodeConfig, genesis: Any) -> None:
    shutil.rmtree(store)
    Environment.open(store, map_size_bytes=8 * 1024 * 1024).close()
    with pytest.raises(StorageDamagedError, match="is gone"):
        open_environment(config, genesis)


def test_the_mark_lies_with_the_keys_and_is_of_one_federation(
    store: Path, config: NodeConfig, genesis: Any
) -> None:
    mark = mark_path(config, genesis.hash)
    assert mark.parent == config.keys.signing.parent
    assert not mark.is_relative_to(config.node.data_dir)
    assert genesis.hash.hex() in mark.read_text()
    assert not mark_path(config, bytes(32)).exists()


def test_a_store_without_its_mark_gets_it_again(
    store: Path, config: NodeConfig, genesis: Any
) -> None:
    mark_path(config, genesis.hash).unlink()
    open_environment(config, genesis).close()
    assert mark_path(config, genesis.hash).exists()


def test_a_lost_store_is_begun_again_on_probation(
    node: Any, store: Path, config: NodeConfig, genesis: Any
) -> None:
    shutil.rmtree(store)
    ran = node("rejoin")
    assert ran.exit_code == 0, ran.stderr
    assert (ran.json["ledger_size"], ran.json["term"], ran.json["probation"]) == (1, 0, True)
    assert len(token(config)) == 32
    open_environment(config, genesis).close()
    assert token(config), "starting does not end it"


def test_a_store_that_is_there_is_not_begun_again_untold(
    node: Any, store: Path, config: NodeConfig
) -> None:
    before = (store / "data.mdb").read_bytes()
    assert node("rejoin").exit_code == 1
    assert (store / "data.mdb").read_bytes() == before
    ran = node("rejoin", "--replace")
    assert (Path(ran.json["former"]) / "data.mdb").read_bytes() == before
