"""The commands that need no node: what they make, what they refuse, how they say it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from quorate.client import load_config
from quorate.node import organisation
from quorate.node.certificates import issued_by

SECRETS = {
    "ca.key",
    "governance.key",
    "cosigner.key",
    "operator.key",
    "node/tls.key",
    "node/signing.key",
    "node/log.key",
}
PUBLIC = {"descriptor.json", "ca.crt", "operator.crt", "node/tls.crt", "node.toml"}


def files(directory: Path) -> dict[str, int]:
    return {
        str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode)
        for path in directory.rglob("*")
        if path.is_file()
    }


# -- init ------------------------------------------------------------------------------------


def test_init_makes_every_file_with_its_mode(run: Any, tmp_path: Path) -> None:
    org = tmp_path / "deep" / "bank"
    assert run("init", org, "--domain", "bank.example").exit_code == 0
    made = files(org)
    assert set(made) == SECRETS | PUBLIC
    assert {made[name] for name in SECRETS} == {0o600}
    assert stat.S_IMODE(org.stat().st_mode) == 0o700
    assert stat.S_IMODE((org / "node").stat().st_mode) == 0o700


def test_what_init_makes_belongs_together(run: Any, tmp_path: Path) -> None:
    answer = run("init", tmp_path / "o", "--domain", "bank.example", "--node", "2", "-o", "json")
    org = organisation.Organisation.load(tmp_path / "o")
    descriptor = org.descriptor()
    assert answer.json["node_id"] == descriptor.node.id == "spiffe://bank.example/node/2"
    assert answer.json["governance_key"] == descriptor.governance_key.hex()
    assert org.governance_key().public == descriptor.governance_key
    ca = descriptor.ca_certificate.encode()
    assert issued_by(org.operator().pair.certificate, ca)
    assert issued_by(org.config.tls.certificate.read_bytes(), ca)


def test_init_does_not_overwrite(run: Any, tmp_path: Path) -> None:
    assert run("init", tmp_path / "o", "--domain", "bank.example").exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}
    again = run("init", tmp_path / "o", "--domain", "clinic.example", "--output", "json")
    assert again.exit_code == 1
    assert again.error["kind"] == "configuration"
    assert "not empty" in again.error["message"]
    assert {path: path.read_bytes() for path in before} == before


def test_init_uses_an_empty_directory_and_closes_it(run: Any, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir(mode=0o755)
    assert run("init", tmp_path / "o", "--domain", "bank.example").exit_code == 0
    assert stat.S_IMODE((tmp_path / "o").stat().st_mode) == 0o700


def test_a_failed_init_leaves_nothing_of_its_own(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUORATE_RAFT__HEARTBEAT_MS", "fast")  # node.toml cannot be loaded
    assert run("init", tmp_path / "o", "--domain", "bank.example").exit_code == 1
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--domain", "Bank.Example"),
        ("--domain", "bank.example", "--node", "a/../b"),
        ("--domain", "bank.example", "--peer-address", "7401"),
        ("--domain", "bank.example", "--lease-address", "host:99999"),
        (),
    ],
)
def test_init_refuses_what_is_malformed(
    run: Any, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ran = run("init", tmp_path / "o", *arguments, "-o", "json")
    assert ran.exit_code == 2
    assert ran.error["kind"] == "usage"
    assert not (tmp_path / "o").exists()


def test_a_wildcard_is_no_peer_address(run: Any, tmp_path: Path) -> None:
    address = ("--peer-address", "0.0.0.0:7401")
    ran = run("init", tmp_path / "o", "--domain", "bank.example", *address)
    assert ran.exit_code == 1
    assert "--peer-address" in ran.stderr


# -- executor issue --------------------------------------------------------------------------


def test_an_executors_directory_is_what_the_client_reads(
    run: Any, tmp_path: Path, federation: Any
) -> None:
    out = tmp_path / "payments"
    ran = run("executor", "issue", federation.org(), "agent/payments", "--out", out, "-o", "json")
    assert ran.json["executor"] == "spiffe://bank.example/agent/payments"
    assert set(files(out)) == {"executor.crt", "executor.key", "ca.crt", "client.toml"}
    assert files(out)["executor.key"] == 0o600
    client = load_config(out)
    assert client.server_name == "1.node.bank.example"
    assert client.lease_address == "127.0.0.1:7403"
    assert client.spiffe_id == "spiffe://bank.example/agent/payments"
    assert issued_by(client.certificate, client.ca_certificate)


@pytest.mark.parametrize("path", ["node/1", "operator/admin", "a b", "..", "", "a//b"])
def test_what_is_no_executor_gets_no_certificate(
    run: Any, tmp_path: Path, federation: Any, path: str
) -> None:
    ran = run("executor", "issue", federation.org(), path, "--out", tmp_path / "out")
    assert ran.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_an_executors_directory_is_not_overwritten(
    run: Any, tmp_path: Path, federation: Any
) -> None:
    arguments = ("executor", "issue", federation.org(), "agent/x", "--out", tmp_path / "out")
    assert run(*arguments).exit_code == 0
    assert run(*arguments).exit_code == 1


def test_a_wildcard_is_nowhere_to_dial(run: Any, tmp_path: Path, federation: Any) -> None:
    file = federation.org() / "node.toml"
    file.write_text(file.read_text().replace("127.0.0.1:7403", "0.0.0.0:7403"))
    arguments = ("executor", "issue", federation.org(), "agent/x", "--out", tmp_path / "out")
    ran = run(*arguments, "-o", "json")
    assert ran.exit_code == 1
    assert "--lease-address" in ran.error["hint"]
    assert run(*arguments, "--lease-address", "node.bank.example:7403").exit_code == 0


def test_a_ca_key_that_others_can_read_issues_nothing(
    run: Any, tmp_path: Path, federation: Any
) -> None:
    (federation.org() / "ca.key").chmod(0o644)
    ran = run(
        "executor", "issue", federation.org(), "agent/x", "--out", tmp_path / "o", "-o", "json"
    )
    assert ran.exit_code == 1
    assert "chmod 600" in ran.error["hint"]
    assert not (tmp_path / "o").exists()


# -- how errors and help look ----------------------------------------------------------------


def test_an_error_is_one_line_and_a_hint(run: Any, tmp_path: Path) -> None:
    ran = run("status", "--org", tmp_path / "nowhere")
    assert ran.exit_code == 1
    assert ran.stdout == ""
    lines = ran.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2


@pytest.mark.parametrize("form", [("--output", "json"), ("--output=json",), ("-o", "json")])
def test_errors_are_json_when_json_was_asked_for(run: Any, form: tuple[str, ...]) -> None:
    for arguments in (("init",), ("nonsense",), ("lease", "check", "x", "--client", "/none")):
        ran = run(*arguments, *form)
        assert ran.exit_code != 0
        assert ran.stdout == ""
        assert set(ran.error) == {"kind", "message", "hint"}


def test_a_mistyped_command_is_guessed(run: Any) -> None:
    ran = run("genessis", "verify", "x")
    assert ran.exit_code == 2
    assert "'genesis'" in ran.stderr


def test_both_or_neither_directory_is_a_usage_error(run: Any, tmp_path: Path) -> None:
    assert run("status").exit_code == 2
    assert run("status", "--org", tmp_path, "--client", tmp_path).exit_code == 2


@pytest.mark.parametrize("text", ["", "10", "0s", "2h", "-1s", "1.5s", "1e3s", "\u0661s"])
def test_a_timeout_is_a_length_of_time(run: Any, text: str, tmp_path: Path) -> None:
    ran = run("status", "--org", tmp_path, "--timeout", text)
    assert ran.exit_code == 2


def test_an_unknown_setting_is_named(run: Any, federation: Any) -> None:
    file = federation.org() / "node.toml"
    file.write_text(file.read_text().replace("data_dir", "datadir"))
    ran = run("status", "--org", federation.org(), "-o", "json")
    assert ran.exit_code == 1
    assert ran.error["kind"] == "configuration"
    assert "node.datadir" in ran.error["message"]
    assert "data_dir" in ran.error["message"]


def test_a_node_that_is_not_there_is_unreachable(run: Any, federation: Any) -> None:
    for arguments in (("status",), ("executor", "register", "agent/x"), ("ledger", "verify")):
        ran = run(*arguments, "--org", federation.org(), "--address", "127.0.0.1:1", "-o", "json")
        assert ran.exit_code == 5
        assert ran.error["kind"] == "unreachable"
        assert "127.0.0.1:1" in ran.error["message"]


def commands() -> list[tuple[str, ...]]:
    groups = {
        "genesis": ("draft", "sign", "verify"),
        "node": (
            *("run", "init", "add", "promote", "demote", "retire", "submit", "list"),
            *("backup", "restore", "rejoin", "verify"),
        ),
        "domain": ("suspend", "reinstate", "list"),
        "executor": ("issue", "register", "suspend", "reinstate", "revoke", "list"),
        "trust": ("open", "close", "list"),
        "grant": ("issue", "suspend", "reinstate", "revoke", "list"),
        "lease": ("acquire", "check", "renew", "release", "watch"),
        "ledger": ("show", "verify"),
    }
    alone: list[tuple[str, ...]] = [("init",), ("status",), ("members",), ("outcome",), ("demo",)]
    steps = ("summary", "propose", "sign", "verify", "install")
    alone += [("federation", "recover", step) for step in steps]
    return alone + [(group, command) for group, names in groups.items() for command in names]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_and_an_output_option(run: Any, command: tuple[str, ...]) -> None:
    ran = run(*command, "--help")
    assert ran.exit_code == 0
    assert "--output" in ran.stdout


def test_help_names_every_group(run: Any) -> None:
    ran = run("--help")
    assert ran.exit_code == 0
    for command in commands():
        assert command[0] in ran.stdout


def test_the_command_line_loads_without_the_server() -> None:
    code = (
        "import sys, quorate.cli\n"
        "heavy = {'grpc', 'cryptography', 'lmdb', 'pysyncobj', 'pydantic', 'rich.table'}\n"
        "print(sorted(heavy & set(sys.modules) - {'rich.table'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_no_command_but_node_run_loads_the_server() -> None:
    code = (
        "import sys, quorate.cli.app as app\n"
        "for where in set(app._GROUPS.values()):\n"
        "    __import__('quorate.cli.' + where.split(':')[0])\n"
        "print([m for m in ('lmdb', 'pysyncobj', 'quorate.api', 'quorate.storage',\n"
        "                   'quorate.consensus', 'quorate.chaos') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_script_exits_with_the_code() -> None:
    script = Path(sys.executable).with_name("quorate")
    done = subprocess.run(
        [script, "genesis", "verify", "/none", "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["kind"] == "configuration"


def test_the_version_is_the_packages(run: Any) -> None:
    ran = run("--version")
    assert (ran.exit_code, ran.stdout) == (0, f"quorate {version('quorate')}\n")


def test_grpc_writes_nothing_of_its_own_unless_told_to() -> None:
    code = "import os, quorate.cli; print(os.environ['GRPC_VERBOSITY'])"
    for told, expected in (({}, "NONE"), ({"GRPC_VERBOSITY": "DEBUG"}, "DEBUG")):
        environment = {k: v for k, v in os.environ.items() if k != "GRPC_VERBOSITY"} | told
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env=environment,
        )
        assert done.stdout.strip() == expected
