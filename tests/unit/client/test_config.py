"""The directory of an executor, and the connection that is made from it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import trustme
from tests.servers import stop
from tests.unit.client.conftest import ACTION, EXECUTOR, RESOURCE, ScriptedNode, granted

from quorate.client import ClientReason, Denied, Gate, Lease, load_config
from quorate.core.errors import ConfigurationError
from quorate.v1 import lease_pb2_grpc

SERVER_NAME = "1.node.bank.example"


def write_directory(directory: Path, ca: trustme.CA, address: str) -> Path:
    directory.mkdir()
    issued = ca.issue_cert(common_name="payments")
    (directory / "executor.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    (directory / "executor.key").write_bytes(issued.private_key_pem.bytes())
    (directory / "executor.key").chmod(0o600)
    (directory / "ca.crt").write_bytes(ca.cert_pem.bytes())
    (directory / "client.toml").write_text(
        f'[node]\nlease_address = "{address}"\ngovernance_address = "127.0.0.1:1"\n'
        f'server_name = "{SERVER_NAME}"\nspiffe_id = "{EXECUTOR}"\n'
    )
    return directory


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_node(ca: trustme.CA) -> Iterator[tuple[ScriptedNode, str]]:
    issued = ca.issue_cert(SERVER_NAME)
    credentials = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())],
        root_certificates=ca.cert_pem.bytes(),
        require_client_auth=True,
    )
    node = ScriptedNode()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    lease_pb2_grpc.add_LeaseServiceServicer_to_server(node, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield node, f"127.0.0.1:{port}"
    stop(server)


@pytest.mark.parametrize("value", ["1" * 5_000, "[" * 5_000])
def test_numbers_and_lists_without_end_are_refused(tmp_path: Path, value: str) -> None:
    """The library gives up on them with errors that are not its own."""
    (tmp_path / "client.toml").write_text(f"[node]\nserver_name = {value}\n")
    with pytest.raises(ConfigurationError, match="not TOML"):
        load_config(tmp_path)


def test_a_gate_opens_from_the_directory(
    tmp_path: Path, ca: trustme.CA, tls_node: tuple[ScriptedNode, str]
) -> None:
    node, address = tls_node
    node.then("Acquire", granted())
    with Gate.open(write_directory(tmp_path / "payments", ca, address)) as gate:
        assert isinstance(gate.acquire(ACTION, RESOURCE), Lease)


@pytest.mark.parametrize("stranger", ["server", "executor"])
def test_a_stranger_on_either_side_is_a_denial(
    tmp_path: Path, ca: trustme.CA, tls_node: tuple[ScriptedNode, str], stranger: str
) -> None:
    node, address = tls_node
    other = trustme.CA()
    directory = write_directory(tmp_path / "payments", other, address)
    if stranger == "executor":
        (directory / "ca.crt").write_bytes(ca.cert_pem.bytes())
    with Gate.open(directory) as gate:
        answer = gate.acquire(ACTION, RESOURCE, timeout_ms=300)
    assert isinstance(answer, Denied)
    assert answer.reason in (ClientReason.UNREACHABLE, ClientReason.LATE)
    assert not node.requests["Acquire"]


def test_a_node_with_another_name_is_a_denial(
    tmp_path: Path, ca: trustme.CA, tls_node: tuple[ScriptedNode, str]
) -> None:
    node, address = tls_node
    directory = write_directory(tmp_path / "payments", ca, address)
    text = (directory / "client.toml").read_text().replace("1.node.bank", "1.node.clinic")
    (directory / "client.toml").write_text(text)
    with Gate.open(directory) as gate:
        assert isinstance(gate.acquire(ACTION, RESOURCE, timeout_ms=300), Denied)
    assert not node.requests["Acquire"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_private_key_that_others_can_read_is_refused(
    tmp_path: Path, ca: trustme.CA, mode: int
) -> None:
    directory = write_directory(tmp_path / "payments", ca, "127.0.0.1:1")
    (directory / "executor.key").chmod(mode)
    with pytest.raises(ConfigurationError, match="private key") as raised:
        load_config(directory)
    assert "chmod 600" in raised.value.hint


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text + 'colour = "red"\n', "colour"),
        (lambda text: text.replace("server_name", "#"), "server_name"),
        (lambda text: text.replace(f'"{SERVER_NAME}"', "7"), "server_name"),
        (lambda text: text + "[other]\n", "nothing else"),
        (lambda _text: "[node", "not TOML"),
        (lambda _text: "", "nothing else"),
    ],
)
def test_settings_that_are_not_understood_are_refused(
    tmp_path: Path, ca: trustme.CA, change: object, problem: str
) -> None:
    directory = write_directory(tmp_path / "payments", ca, "127.0.0.1:1")
    file = directory / "client.toml"
    assert callable(change)
    file.write_text(change(file.read_text()))
    with pytest.raises(ConfigurationError, match=problem):
        load_config(file)


@pytest.mark.parametrize("name", ["client.toml", "executor.crt", "executor.key", "ca.crt"])
def test_a_missing_file_is_named(tmp_path: Path, ca: trustme.CA, name: str) -> None:
    directory = write_directory(tmp_path / "payments", ca, "127.0.0.1:1")
    (directory / name).unlink()
    # A directory without client.toml is still a directory.
    with pytest.raises(ConfigurationError, match=name):
        load_config(directory)


def test_a_private_key_is_not_shown(tmp_path: Path, ca: trustme.CA) -> None:
    config = load_config(write_directory(tmp_path / "payments", ca, "127.0.0.1:1"))
    assert "PRIVATE" not in repr(config)
    assert ssl.PEM_cert_to_DER_cert(config.certificate.decode())
