"""The node's settings: what is read, what is refused, and how clearly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from quorate.consensus import RaftSettings
from quorate.core.errors import ConfigurationError
from quorate.node.config import MAX_SOCKET_PATH_BYTES, RaftSection, load_config

GOOD = """
[node]
id = "spiffe://bank.example/node/1"
data_dir = "data"
genesis = "genesis.json"
[listen]
peer = "127.0.0.1:7401"
governance = "127.0.0.1:7402"
lease = "127.0.0.1:7403"
[tls]
certificate = "node/tls.crt"
private_key = "/etc/keys/tls.key"
[keys]
signing = "node/signing.key"
log = "node/log.key"
"""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("QUORATE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(GOOD)
    return path


def refused(file: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_config(file)
    return caught.value


def test_relative_paths_are_relative_to_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    config = load_config(file)
    assert config.node.data_dir == file.parent / "data"
    assert config.tls.certificate == file.parent / "node/tls.crt"
    assert config.tls.private_key == Path("/etc/keys/tls.key")


@pytest.mark.parametrize("value", ["1" * 5_000, "[" * 5_000])
def test_numbers_and_lists_without_end_are_refused(file: Path, value: str) -> None:
    """The library gives up on them with errors that are not its own."""
    file.write_text(f"{GOOD}[storage]\nmap_size_bytes = {value}\n")
    assert "is not TOML" in str(refused(file))


def test_the_home_of_somebody_unknown_is_refused(file: Path) -> None:
    file.write_text(GOOD.replace('"data"', '"~nobody-here/data"'))
    error = refused(file)
    assert "node.data_dir: ~nobody-here/data is in nobody's home directory" in str(error)


def test_what_is_not_set_has_its_default(file: Path) -> None:
    config = load_config(file)
    assert config.storage.map_size_bytes == 1024**3
    assert (config.raft.heartbeat_ms, config.raft.election_min_ms) == (100, 500)
    assert config.peers == {}
    assert (config.log.level, config.log.format) == ("info", "json")


def test_an_environment_variable_wins_over_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORATE_LISTEN__PEER", "0.0.0.0:9401")
    monkeypatch.setenv("QUORATE_NODE__DATA_DIR", "elsewhere")
    monkeypatch.setenv("QUORATE_RAFT__HEARTBEAT_MS", "50")
    config = load_config(file)
    assert config.listen.peer == "0.0.0.0:9401"
    assert config.listen.lease == "127.0.0.1:7403"
    assert config.node.data_dir == file.parent / "elsewhere"
    assert config.raft.heartbeat_ms == 50


def test_peers_are_overridden_by_node_id(file: Path) -> None:
    file.write_text(GOOD + '[peers]\n"spiffe://clinic.example/node/1" = "127.0.0.1:9001"\n')
    assert load_config(file).peers == {"spiffe://clinic.example/node/1": "127.0.0.1:9001"}


@pytest.mark.parametrize("heartbeat_ms", [9, 10, 100, 10_000, 10_001])
@pytest.mark.parametrize("election_min_ms", [30, 31, 300, 301, 30_001, 60_000, 60_001])
@pytest.mark.parametrize("election_max_ms", [32, 301, 302, 60_000, 60_001])
def test_what_the_configuration_takes_for_timers_consensus_takes_as_well(
    heartbeat_ms: int, election_min_ms: int, election_max_ms: int
):
    timers = {
        "heartbeat_ms": heartbeat_ms,
        "election_min_ms": election_min_ms,
        "election_max_ms": election_max_ms,
    }
    try:
        RaftSection.model_validate(timers)
    except ValidationError:
        return
    assert RaftSettings(**timers).heartbeat_ms == heartbeat_ms


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("data_dir", "data_dri", "unknown key node.data_dri (did you mean data_dir?)"),
        ("[listen]", "[lisen]", "unknown section lisen (did you mean listen?)"),
        ('id = "spiffe', 'xyzzy = 1\nid = "spiffe', "unknown key node.xyzzy"),
        ('genesis = "genesis.json"', "", "node.genesis is missing"),
        ("127.0.0.1:7401", "127.0.0.1", "listen.peer"),
        ("127.0.0.1:7401", "127.0.0.1:0", "listen.peer"),
        ("127.0.0.1:7401", "127.0.0.1:7402", "three different addresses"),
        ("bank.example/node/1", "bank.example/agent/1", "node.id"),
        ('data_dir = "data"', 'data_dir = ""', "node.data_dir"),
        ('data_dir = "data"', "data_dir = 7", "node.data_dir"),
        ("[tls]", "[raft]\nheartbeat_ms = 400\n[tls]", "more than three times heartbeat_ms"),
        ("[tls]", "[raft]\nelection_max_ms = 500\n[tls]", "more than election_min_ms"),
        ("[tls]", "[storage]\nmap_size_bytes = 1\n[tls]", "storage.map_size_bytes"),
        ("[tls]", '[log]\nlevel = "loud"\n[tls]', "log.level"),
        ("[tls]", '[peers]\n"clinic" = "127.0.0.1:1"\n[tls]', "peers"),
        ("[node]", "_env_file = 'x'\n[node]", "unknown section _env_file"),
        ("[node]", "[node", "is not TOML"),
    ],
)
def test_a_mistake_is_named(file: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1))
    error = refused(file)
    assert told in str(error)
    assert str(file) in str(error)


def test_every_mistake_is_named_at_once(file: Path) -> None:
    file.write_text(GOOD.replace("data_dir", "datadir").replace("signing", "singing"))
    assert "node.datadir" in str(refused(file))
    assert "keys.singing" in str(refused(file))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("QUORATE_LISTEN__PER", "QUORATE_LISTEN__PEER"),
        ("QUORATE_RAFFT__HEARTBEAT_MS", "QUORATE_RAFT__HEARTBEAT_MS"),
    ],
)
def test_an_unknown_variable_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.setenv(name, "1")
    error = refused(file)
    assert name in str(error)
    assert told in str(error)


def test_one_underscore_too_few_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUORATE_NODE_DATA_DIR", "x")
    assert refused(file).hint == "write QUORATE_NODE__DATA_DIR"


def test_a_missing_file_is_told_and_not_traced(tmp_path: Path) -> None:
    assert "cannot be read" in str(refused(tmp_path / "none.toml"))


def test_a_huge_file_is_not_read(file: Path) -> None:
    file.write_text(GOOD + "#" * 300_000)
    assert "larger than" in str(refused(file))


def test_a_socket_whose_path_the_system_does_not_take_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = "/" + "s" * (MAX_SOCKET_PATH_BYTES - 1)
    monkeypatch.setenv("QUORATE_LISTEN__LEASE_SOCKET", longest)
    assert load_config(file).listen.lease_socket == Path(longest)
    monkeypatch.setenv("QUORATE_LISTEN__LEASE_SOCKET", longest + "s")
    assert "longer than 107 bytes" in str(refused(file))


def test_settings_do_not_change(file: Path) -> None:
    config = load_config(file)
    with pytest.raises(ValueError, match="frozen"):
        config.listen.peer = "127.0.0.1:1"
