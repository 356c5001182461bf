"""`quorate node`: making, adding, promoting, demoting, retiring and listing nodes."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quorate.cli.membership import node_id
from quorate.core.errors import MalformedError
from quorate.node import organisation
from quorate.node.certificates import issued_by, parse_certificate, spiffe_id
from quorate.node.config import load_config
from quorate.node.identity import load_signing_key, load_tls_identity
from quorate.node.organisation import Organisation

FIRST, SECOND = (f"spiffe://bank.example/node/{name}" for name in "12")
SECRETS = {"node/tls.key", "node/signing.key", "node/log.key"}
PUBLIC = {"node/tls.crt", "node.toml", "node.json", "genesis.json", "descriptor.json"}


@pytest.fixture
def make(run: Any, federation: Any, tmp_path: Path) -> Any:
    """Makes a further node of the bank; returns its directory."""

    def invoke(name: str = "2", port: int = 7499) -> Path:
        out = tmp_path / f"node-{name}"
        ran = run(
            *("node", "init", out, "--org", federation.org(), "--node", name),
            *("--peer-address", f"127.0.0.1:{port}", "-o", "json"),
        )
        assert ran.exit_code == 0, ran.stderr
        assert ran.json["node_id"] == f"spiffe://bank.example/node/{name}"
        return out

    return invoke


def test_running_a_node_loads_nothing_that_talks_to_one() -> None:
    code = (
        "import sys, typer, quorate.cli.node as node\n"
        "typer.main.get_command(node.app).get_command(None, 'run')\n"
        "print([name for name in ('grpc', 'quorate.cli.membership') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.fixture
def govern(run: Any, federation: Any, node: Any) -> Any:
    return lambda *arguments: run("node", *arguments, "--org", federation.org(), "-o", "json")


def test_init_makes_what_the_nodes_machine_needs_and_no_more(make: Any) -> None:
    out = make()
    made = {
        str(path.relative_to(out)): stat.S_IMODE(path.stat().st_mode)
        for path in out.rglob("*")
        if path.is_file()
    }
    assert set(made) == SECRETS | PUBLIC
    assert {made[name] for name in SECRETS} == {0o600}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700


def test_what_init_makes_belongs_together(make: Any, federation: Any) -> None:
    out = make()
    config = load_config(out / "node.toml")
    described = organisation.read_node(out)
    assert config.node.id == described.id == SECOND
    assert (config.listen.peer, described.peer_address) == ("127.0.0.1:7499",) * 2
    identity = load_tls_identity(config.tls.certificate, config.tls.private_key, expected_id=SECOND)
    bank = Organisation.load(federation.org())
    assert issued_by(identity.pair.certificate, bank.ca_certificate())
    assert load_signing_key(config.keys.signing).public == described.signing_key
    assert load_signing_key(config.keys.log).public == described.log_key
    assert organisation.read_genesis(config.node.genesis) == federation.genesis


def test_init_works_before_there_is_a_genesis(run: Any, tmp_path: Path) -> None:
    run("init", tmp_path / "o", "--domain", "bank.example")
    ran = run(
        *("node", "init", tmp_path / "n", "--org", tmp_path / "o", "--node", "2"),
        *("--peer-address", "127.0.0.1:9"),
    )
    assert ran.exit_code == 0, ran.stderr
    assert "Put the signed genesis at" in ran.stdout
    assert not (tmp_path / "n" / "genesis.json").exists()


@pytest.mark.parametrize(
    ("name", "address", "code"),
    [
        ("a b", "127.0.0.1:9", 2),
        ("2", "here", 2),
        ("2", "0.0.0.0:9", 1),
        ("x" * 80, "127.0.0.1:9", 2),
        ("2", "127.0.0.1:7402", 1),  # the default of governance: node.toml would not load
    ],
)
def test_init_that_fails_leaves_nothing(
    run: Any, federation: Any, tmp_path: Path, *, name: str, address: str, code: int
) -> None:
    out = tmp_path / "n"
    ran = run(
        *("node", "init", out, "--org", federation.org(), "--node", name),
        *("--peer-address", address),
    )
    assert ran.exit_code == code, ran.stderr
    assert not out.exists()


def test_init_does_not_overwrite(run: Any, make: Any, federation: Any) -> None:
    out = make()
    before = (out / "node" / "signing.key").read_bytes()
    ran = run(
        *("node", "init", out, "--org", federation.org(), "--node", "3"),
        *("--peer-address", "127.0.0.1:9"),
    )
    assert ran.exit_code == 1
    assert (out / "node" / "signing.key").read_bytes() == before


def test_a_node_is_replaced(govern: Any, make: Any, node: Any) -> None:
    out = make()
    for arguments in (("add", out), ("demote", "1"), ("promote", "2"), ("retire", FIRST)):
        ran = govern(*arguments)
        assert ran.exit_code == 0, (arguments, ran.stdout, ran.stderr)
        assert ran.json["type"] == f"node.{arguments[0]}"
    record = node.view.node(SECOND)
    assert (record.role, record.status, record.peer_address) == (
        "voter",
        "active",
        "127.0.0.1:7499",
    )
    assert record.signing_key == organisation.read_node(out).signing_key.hex()
    assert node.view.node(FIRST).status == "revoked"


def test_what_the_ledger_denies_exits_3(govern: Any, make: Any) -> None:
    out = make()
    denied = govern("add", out, "--role", "voter")
    assert (denied.exit_code, denied.json["reason"]) == (3, "LIMIT_EXCEEDED")
    assert denied.json["thing"] == FIRST
    for act in ("promote", "demote", "retire"):
        ran = govern(act, "node/9")
        assert (ran.exit_code, ran.json["reason"]) == (3, "NOT_FOUND"), act
    assert govern("retire", "spiffe://clinic.example/node/1").json["reason"] == "NOT_AUTHORIZED"
    for arguments in (("add", out / "node.json"), ("retire", "2")):
        assert govern(*arguments).exit_code == 0
    assert govern("retire", "2").json["reason"] == "FINAL"


def test_an_organisation_adds_its_own_nodes(run: Any, make: Any, federation: Any) -> None:
    ran = run("node", "add", make(), "--org", federation.org("clinic.example"), "-o", "json")
    assert ran.exit_code == 1
    assert "a node of bank.example, not of clinic.example" in ran.error["message"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"{" * 20_000,
        json.dumps({"id": SECOND, "peer_address": "x:1", "signing_key": "00", "log_key": ""}),
    ],
)
def test_what_does_not_describe_a_node_is_not_added(
    govern: Any, node: Any, tmp_path: Path, data: bytes | str
) -> None:
    file = tmp_path / "node.json"
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    ran = govern("add", file)
    assert (ran.exit_code, ran.error["kind"]) == (1, "configuration")
    assert govern("add", tmp_path / "nowhere").exit_code == 1
    assert len(node.entries) == 1


def test_nodes_are_listed_with_what_they_are_in_force(
    run: Any, govern: Any, make: Any, node: Any, federation: Any
) -> None:
    govern("add", make())
    node.raft_roles = {FIRST: "voter"}
    listed = {record["id"]: record for record in govern("list").json["records"]}
    assert set(listed) == {item.node.id for item in federation.genesis.descriptors} | {SECOND}
    assert (listed[FIRST]["role"], listed[FIRST]["in_force"]) == ("voter", "voter")
    assert (listed[SECOND]["role"], listed[SECOND]["in_force"]) == ("observer", "")
    assert listed[SECOND]["peer_address"] == "127.0.0.1:7499"
    text = run("node", "list", "--org", federation.org()).stdout
    assert "observer" in text
    assert "in force" in text


def test_a_name_is_of_the_own_organisation(federation: Any) -> None:
    bank = Organisation.load(federation.org())
    assert node_id(bank, "2") == node_id(bank, "node/2") == node_id(bank, SECOND) == SECOND
    for wrong in ("", "a b", "spiffe://bank.example/agent/a"):
        with pytest.raises(MalformedError):
            node_id(bank, wrong)


def test_commands_are_given_to_another_node_of_the_organisation(
    run: Any, make: Any, serving: Any, federation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the page on operations says: its id by a variable, its address by an option."""
    out = make()
    serving.start()
    run("node", "add", out, "--org", federation.org())
    identity = spiffe_id(parse_certificate((out / "node" / "tls.crt").read_bytes()))
    for name in ("tls.key", "tls.crt"):
        shutil.copy(out / "node" / name, federation.org() / "node" / name)
    second = serving.start()
    ask = ("status", "--org", federation.org(), "--address", second.address, "-o", "json")
    assert run(*ask).exit_code == 5
    monkeypatch.setenv("QUORATE_NODE__ID", str(identity))
    assert run(*ask).exit_code == 0


def test_an_organisation_without_a_node_has_its_command_submitted_by_another(
    run: Any, federation: Any, serving: Any, tmp_path: Path
) -> None:
    file = tmp_path / "retire.json"
    saved = run("node", "retire", "1", "--org", federation.org(), "--save", file, "-o", "json")
    assert saved.exit_code == 0, saved.stderr
    again = run("node", "retire", "1", "--org", federation.org(), "--save", file)
    assert again.exit_code == 1, "nothing is overwritten"
    clinic = serving.start("clinic.example")
    handed_in = run(
        *("node", "submit", file, "--org", federation.org("clinic.example")), *("-o", "json")
    )
    assert handed_in.exit_code == 0, handed_in.stderr
    assert handed_in.json["command_id"] == saved.json["command_id"]
    assert (handed_in.json["issuer"], handed_in.json["accepted"]) == ("bank.example", True)
    assert clinic.view.node(FIRST).retired


def test_what_is_no_command_is_not_submitted(
    run: Any, federation: Any, node: Any, tmp_path: Path
) -> None:
    file = tmp_path / "command.json"
    for content in (b"", b"{}", (federation.org() / "descriptor.json").read_bytes()):
        file.write_bytes(content)
        ran = run("node", "submit", file, "--org", federation.org(), "-o", "json")
        assert ran.exit_code == 1
        assert "no signed command" in ran.error["message"]
    assert node.requests == []
