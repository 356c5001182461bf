"""`quorate domain set-ca`: whatever is interrupted, the ledger's CA is in the directory."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from quorate.core.errors import ConfigurationError
from quorate.node import certificates
from quorate.node.certificates import issued_by, parse_certificate
from quorate.node.fresh_ca import FreshCa
from quorate.node.organisation import Organisation


def trusted(node: Any) -> tuple[str, ...]:
    return node.view.domain("bank.example").authorities


def set_ca(run: Any, federation: Any, *options: str) -> Any:
    return run("domain", "set-ca", "--org", federation.org(), *options)


def renew(run: Any, federation: Any) -> None:
    for verb in ("node", "operator"):
        assert run(verb, "renew", "--org", federation.org()).exit_code == 0


def test_two_are_trusted_while_certificates_are_renewed(
    run: Any, federation: Any, node: Any
) -> None:
    org = federation.org()
    [old] = trusted(node)
    ran = set_ca(run, federation)
    assert ran.exit_code == 0, ran.stderr
    assert trusted(node)[0] == old
    new = trusted(node)[1]
    assert (org / "ca.crt").read_text() == new + old, "executors are told of both"
    assert (org / "ca.crt.old").read_text() == old
    assert not list(org.glob("*.next"))
    for path in org.glob("*.key*"):
        assert path.stat().st_mode & 0o077 == 0, path
    shown = run("domain", "keys", "--org", org, "--output", "json").json["ca_fingerprints"]
    assert shown == [
        parse_certificate(each.encode()).fingerprint(SHA256()).hex() for each in (old, new)
    ]
    denied = set_ca(run, federation)
    assert denied.exit_code == 1
    assert "has two CAs already" in denied.stderr
    early = set_ca(run, federation, "--finish")
    assert early.exit_code == 1
    assert "tls.crt is of the older CA" in " ".join(early.stderr.split())
    assert len(trusted(node)) == 2
    renew(run, federation)
    assert issued_by(Organisation.load(org).operator().pair.certificate, new.encode())


def test_an_interrupted_one_goes_on_with_the_same_ca(
    run: Any, federation: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    org = federation.org()
    before = (org / "ca.crt").read_text()
    node.faults = ["refuse"] * 50
    assert set_ca(run, federation, "--timeout", "1s").exit_code != 0
    assert (org / "ca.crt").read_text() == before
    coming = (org / "ca.crt.next").read_text()
    node.faults = []
    with monkeypatch.context() as patch:  # taken, and nobody left to put it in its place
        patch.setattr(FreshCa, "adopt", lambda *_: None)
        assert set_ca(run, federation).exit_code == 0
    assert trusted(node) == (before, coming)
    assert (org / "ca.crt").read_text() == before
    ran = set_ca(run, federation)
    assert "taken already" in ran.stdout, ran.stderr
    assert (org / "ca.crt").read_text() == coming + before
    assert trusted(node) == (before, coming)


def test_a_finish_that_was_interrupted_is_finished(
    run: Any, federation: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    org = federation.org()
    assert set_ca(run, federation).exit_code == 0
    operator = {name: (org / name).read_bytes() for name in ("operator.crt", "operator.key")}
    renew(run, federation)
    with monkeypatch.context() as patch:
        patch.setattr(FreshCa, "trust", lambda *_: None)
        patch.setattr("quorate.cli.set_ca.issued_by", lambda *_: True)
        for name, data in operator.items():  # this node trusts the CA that it began with
            (org / name).write_bytes(data)
        assert set_ca(run, federation, "--finish").exit_code == 0
    assert len(trusted(node)) == 1
    assert (org / "ca.crt").read_text().count("BEGIN") == 2
    again = set_ca(run, federation, "--finish")
    assert "taken already" in again.stdout, again.stderr
    assert ((org / "ca.crt").read_text(),) == trusted(node)


def copy_of(org: Any) -> Any:
    """A colleague's, or a backup."""
    other = org.with_name("elsewhere")
    shutil.copytree(org, other)
    return other


def test_a_directory_with_the_older_ca_does_not_throw_the_newer_one_out(
    run: Any, federation: Any, node: Any
) -> None:
    other = copy_of(federation.org())
    [old] = trusted(node)
    assert set_ca(run, federation).exit_code == 0
    both = trusted(node)
    ran = run("domain", "set-ca", "--org", other, "--finish")
    assert ran.exit_code == 1
    assert "is the older one" in " ".join(ran.stderr.split())
    assert trusted(node) == both
    back = set_ca(run, federation, "--finish", "--back")
    assert back.exit_code == 1
    assert "is the newer one" in " ".join(back.stderr.split())
    went = run("domain", "set-ca", "--org", other, "--finish", "--back")
    assert went.exit_code == 0, went.stderr
    assert trusted(node) == (old,)


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_the_old_ca_is_kept_whenever_adopting_was_interrupted(
    federation: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    org = federation.org()
    old = {each: (org / each).read_bytes() for each in ("ca.key", "ca.crt")}
    fresh = FreshCa(org)
    coming = fresh.make("bank.example")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", stopping_at(org / f"{name}.next"))
        with pytest.raises(KeyboardInterrupt):
            fresh.adopt((old["ca.crt"].decode(), coming))
    fresh.adopt((old["ca.crt"].decode(), coming))
    assert {each: (org / f"{each}.old").read_bytes() for each in old} == old
    assert fresh.present == coming


def stopping_at(place: Any) -> Any:
    unlink = type(place).unlink

    def stop(path: Any, *, missing_ok: bool = False) -> None:
        if path == place:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    return stop


def test_a_ca_key_that_is_not_the_certificate_s_issues_nothing(federation: Any) -> None:
    org = federation.org()
    FreshCa(org).make("bank.example")
    shutil.copy(org / "ca.key.next", org / "ca.key")
    with pytest.raises(ConfigurationError, match="not that of its certificate"):
        certificates.issue_node(Organisation.load(org).ca(), "spiffe://bank.example/node/1")
