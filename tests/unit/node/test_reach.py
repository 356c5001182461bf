"""Who counts as lost before a recovery: not who takes a connection, unless it is somebody else. But
who is off cannot be told from who cannot be reached."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quorate.node import reach
from quorate.node.certificates import KeyPair, issue_node, make_ca
from quorate.node.reach import answers

NODE = "spiffe://clinic.example/node/1"
ALERT = bytes.fromhex("15030300020228")  # fatal: handshake failure
OTHER_SERVICE = b"HTTP/1.1 400 Bad Request\r\n\r\n"
RESETS = 100  # at every moment: before the handshake begins, and within it
CLINIC = make_ca("clinic.example")
CA_OF_NOBODY = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Somebody at an address, for one connection."""

    def accept() -> None:
        with suppress(OSError):
            link, _ = server.accept()
            with link:
                serve(link)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
    thread.join()


def showing(pair: KeyPair, directory: Path) -> Callable[[socket.socket], None]:
    (directory / "shown.pem").write_bytes(pair.certificate + pair.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "shown.pem")

    def serve(link: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(link, server_side=True) as made:
            made.recv(1)

    return serve


@pytest.fixture
def config(tmp_path: Path) -> Any:
    mine = issue_node(make_ca("bank.example"), "spiffe://bank.example/node/1")
    (tmp_path / "tls.crt").write_bytes(mine.certificate)
    (tmp_path / "tls.key").write_bytes(mine.private_key)
    tls = SimpleNamespace(certificate=tmp_path / "tls.crt", private_key=tmp_path / "tls.key")
    return SimpleNamespace(peers={}, tls=tls)


def is_there(config: Any, serve: Callable[[socket.socket], None]) -> bool:
    with listening(serve) as address:
        return answers(config, NODE, address, CLINIC.certificate.decode())


@pytest.mark.parametrize("days", [0, -400, 10], ids=["now", "expired", "not yet"])
def test_whoever_shows_the_nodes_certificate_is_there_whatever_its_date(
    config: Any, tmp_path: Path, days: int
) -> None:
    """A node starts with no such certificate, and goes on with one: its links last."""
    pair = issue_node(CLINIC, NODE, now=datetime.now(UTC) + timedelta(days=days))
    assert is_there(config, showing(pair, tmp_path))


def test_an_authority_that_has_expired_says_nothing_about_the_node(
    config: Any, tmp_path: Path
) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=4000)
    ca = make_ca("clinic.example", now=long_ago)
    pair = issue_node(ca, NODE, now=long_ago)
    with listening(showing(pair, tmp_path)) as address:
        assert answers(config, NODE, address, ca.certificate.decode())


@pytest.mark.parametrize("authorities", ["", "no certificate", CA_OF_NOBODY])
def test_of_a_domain_without_a_usable_ca_whoever_takes_the_connection_is_there(
    config: Any, tmp_path: Path, authorities: str
) -> None:
    """Its CAs are not decided in the ledger: they must not keep the others from asking."""
    with listening(showing(issue_node(CLINIC, NODE), tmp_path)) as address:
        assert answers(config, NODE, address, authorities)
    assert not answers(config, NODE, address, authorities)


@pytest.mark.parametrize("days", [0, -400])
@pytest.mark.parametrize("domain", ["clinic.example", "port.example"])
def test_somebody_else_is_not_the_node(config: Any, tmp_path: Path, domain: str, days: int) -> None:
    """Another's authority, be it of the same name; expired or not."""
    at = datetime.now(UTC) + timedelta(days=days)
    pair = issue_node(make_ca(domain), f"spiffe://{domain}/node/1", now=at)
    assert not is_there(config, showing(pair, tmp_path))


@pytest.mark.parametrize("days", [0, -400])
def test_another_node_of_the_same_domain_is_not_the_node(
    config: Any, tmp_path: Path, days: int
) -> None:
    at = datetime.now(UTC) + timedelta(days=days)
    pair = issue_node(CLINIC, "spiffe://clinic.example/node/2", now=at)
    assert not is_there(config, showing(pair, tmp_path))


def test_a_certificate_that_vouches_for_itself_is_not_the_nodes(
    config: Any, tmp_path: Path
) -> None:
    assert not is_there(config, showing(make_ca("port.example"), tmp_path))


@pytest.mark.parametrize("said", [ALERT, OTHER_SERVICE], ids=["alert", "another service"])
def test_whoever_speaks_and_is_not_understood_may_be_the_node(config: Any, said: bytes) -> None:
    def serve(link: socket.socket) -> None:
        link.sendall(said)
        link.recv(1 << 16)  # or what it sends is a reset

    assert is_there(config, serve)


def test_whoever_forwards_to_nobody_is_not_the_node(config: Any) -> None:
    def closes(link: socket.socket) -> None:
        link.recv(1 << 16)

    def resets(link: socket.socket) -> None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert not is_there(config, closes)
    for _ in range(RESETS):
        assert not is_there(config, resets)


def test_nobody_is_not_the_node(config: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert not answers(config, NODE, address, CLINIC.certificate.decode())


def test_who_takes_no_connection_in_time_is_lost(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is switched off answers nothing, and neither does one behind a cut."""
    monkeypatch.setattr(reach, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as full:
        where = server.getsockname()
        for _ in range(4):  # as many as wait to be accepted; the kernel drops what comes beyond
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(where)
        assert not answers(config, NODE, f"127.0.0.1:{where[1]}", CLINIC.certificate.decode())


def test_a_name_that_nobody_has_is_nobodys(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert not answers(config, NODE, "clinic.invalid:7401", CLINIC.certificate.decode())
