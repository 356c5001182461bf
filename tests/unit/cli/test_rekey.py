"""`quorate domain rekey`: whatever is interrupted, the ledger's keys are in the directory."""

from __future__ import annotations

from typing import Any

import pytest

from quorate.node.fresh_keys import FreshKeys
from quorate.node.identity import load_signing_key

FILES = ("governance.key", "cosigner.key")


@pytest.fixture
def keys(federation: Any) -> Any:
    """The public keys in the organisation's directory, by the ending of their files."""

    def read(ending: str = "") -> tuple[str, ...]:
        directory = federation.org()
        return tuple(load_signing_key(directory / f"{name}{ending}").public.hex() for name in FILES)

    return read


def known(node: Any) -> tuple[str, str]:
    domain = node.view.domain("bank.example")
    return domain.governance_key, domain.cosigner_key


def test_both_keys_are_renewed_and_the_old_ones_kept(
    run: Any, federation: Any, node: Any, keys: Any
) -> None:
    before = keys()
    ran = run("domain", "rekey", "--org", federation.org())
    assert ran.exit_code == 0, ran.stderr
    assert keys() == known(node)
    assert keys(".old") == before
    assert not set(keys()) & set(before)
    assert not list(federation.org().glob("*.next"))
    for path in federation.org().glob("*.key*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert run("domain", "suspend", "--org", federation.org()).exit_code == 0, "the new one signs"


@pytest.mark.parametrize("only", ["governance", "cosigner"])
def test_one_of_them_is_renewed(run: Any, federation: Any, node: Any, keys: Any, only: str) -> None:
    before, changed = keys(), ["governance", "cosigner"].index(only)
    ran = run("domain", "rekey", "--only", only, "--org", federation.org())
    assert ran.exit_code == 0, ran.stderr
    after = keys()
    assert after == known(node)
    assert after[changed] != before[changed]
    assert after[1 - changed] == before[1 - changed]


def test_an_interrupted_renewal_goes_on_with_the_same_keys(
    run: Any, federation: Any, node: Any, keys: Any
) -> None:
    before = keys()
    node.faults = ["refuse"] * 50
    failed = run("domain", "rekey", "--org", federation.org(), "--timeout", "1s")
    assert failed.exit_code != 0
    assert keys() == before
    wanted = keys(".next")
    node.faults = []
    assert run("domain", "rekey", "--org", federation.org()).exit_code == 0
    assert keys() == wanted == known(node)


def test_a_renewal_that_nobody_heard_of_is_found_out(
    run: Any, federation: Any, node: Any, keys: Any
) -> None:
    node.faults, node.knows_outcomes = ["forget"] * 50, False
    lost = run("domain", "rekey", "--org", federation.org(), "--timeout", "1s")
    assert lost.exit_code != 0
    node.faults, node.knows_outcomes = [], True
    assert known(node) == keys(".next"), "it was executed"
    found = run("domain", "rekey", "--org", federation.org(), "-o", "json")
    assert found.exit_code == 0, found.stderr
    assert keys() == known(node)
    assert (found.json["governance_key"], found.json["cosigner_key"]) == known(node)


def test_keys_that_the_federation_does_not_know_renew_nothing(
    run: Any, federation: Any, node: Any, keys: Any
) -> None:
    directory = federation.org()
    assert run("domain", "rekey", "--org", directory).exit_code == 0
    for name in FILES:  # an old backup is put back
        (directory / name).unlink()
        (directory / f"{name}.old").rename(directory / name)
    before = known(node)
    ran = run("domain", "rekey", "--org", directory, "-o", "json")
    assert ran.exit_code == 1
    assert "is not the key that the federation knows" in ran.error["message"]
    assert known(node) == before


def test_a_renewal_that_was_cut_off_between_the_two_keys_goes_on(
    run: Any, federation: Any, node: Any, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a third key: the directory has the ledger's, one of them as .next."""

    def dies(self: FreshKeys) -> None:
        self.governance.adopt()
        raise OSError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(FreshKeys, "adopt", dies)
        run("domain", "rekey", "--org", federation.org())
    assert keys() != known(node)
    again = run("domain", "rekey", "--org", federation.org())
    assert again.exit_code == 0, again.stderr
    assert keys() == known(node)
    assert not list(federation.org().glob("*.next"))


def test_a_node_that_cannot_be_asked_has_no_key_made(
    run: Any, federation: Any, node: Any, keys: Any
) -> None:
    org = federation.org()
    ran = run("domain", "rekey", "--org", org, "--address", "127.0.0.1:1", "--timeout", "1s")
    assert ran.exit_code != 0
    assert not list(org.glob("*.next"))
