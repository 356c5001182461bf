"""Executors of the node's machine reach it by its unix socket, from the command line, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quorate.client import Gate, Lease, load_config

ACTION, RESOURCE = "payments.transfer", "//bank.example/accounts/payroll"


@pytest.fixture
def granted(run: Any, federation: Any, node: Any) -> None:
    """An executor is registered, and has a grant."""
    org = ("--org", federation.org())
    run("executor", "register", "agent/payments", *org)
    scope = ("--action", "payments.*", "--resource", "//bank.example/accounts/*")
    assert run("grant", "issue", "payroll", "agent/payments", *scope, *org).exit_code == 0


@pytest.fixture
def issue(run: Any, federation: Any, tmp_path: Path) -> Any:
    """Makes the executor's directory for an address."""

    def begin(address: str) -> Any:
        out = ("--out", tmp_path / "payments")
        what = ("executor", "issue", federation.org(), "agent/payments", *out)
        return run(*what, "--lease-address", address, "-o", "json")

    return begin


@pytest.mark.parametrize("form", ["unix:", "unix://"])
@pytest.mark.usefixtures("granted")
def test_every_lease_command_goes_by_the_socket(
    run: Any, node: Any, issue: Any, tmp_path: Path, form: str
) -> None:
    issued = issue(form + node.socket)
    assert issued.exit_code == 0, issued.stderr
    directory = tmp_path / "payments"
    assert load_config(directory).lease_address == form + node.socket

    def lease(*arguments: object) -> Any:
        return run("lease", *arguments, "--client", directory, "-o", "json")

    acquired = lease("acquire", ACTION, RESOURCE)
    assert acquired.exit_code == 0, acquired.stderr
    known = acquired.json["lease"]["id"]
    for command in (("check", known), ("report", known, "started"), ("renew", known)):
        ran = lease(*command)
        assert ran.exit_code == 0, ran.stderr
    watched = lease("watch", known, "--until-interrupted")
    assert watched.exit_code == 3
    assert "GRANT_REVOKED" in watched.stdout
    assert lease("release", known).exit_code == 0


@pytest.mark.usefixtures("granted")
def test_the_address_can_be_named_for_one_call(
    run: Any, node: Any, issue: Any, tmp_path: Path
) -> None:
    assert issue("127.0.0.1:1").exit_code == 0
    where = ("--client", tmp_path / "payments", "--address", f"unix:{node.socket}")
    ran = run("lease", "acquire", ACTION, RESOURCE, *where)
    assert ran.exit_code == 0, ran.stderr


@pytest.mark.usefixtures("granted")
def test_the_library_reads_what_was_issued(node: Any, issue: Any, tmp_path: Path) -> None:
    assert issue(f"unix:{node.socket}").exit_code == 0
    with Gate.open(tmp_path / "payments") as gate:
        assert isinstance(gate.acquire(ACTION, RESOURCE), Lease)


def test_a_socket_that_is_not_there_permits_nothing(
    run: Any, node: Any, issue: Any, tmp_path: Path
) -> None:
    gone = f"unix:{node.socket}.gone"
    assert issue(gone).exit_code == 0
    ran = run("lease", "check", "0" * 32, "--client", tmp_path / "payments", "-o", "json")
    assert ran.exit_code == 5
    assert gone in ran.error["message"]


MALFORMED = [
    ("unix:run/lease.sock", "whole path"),
    ("unix://run/lease.sock", "whole path"),
    ("unix:", "whole path"),
    ("unix:/run/", "whole path"),
    ("unix:/run/lease.sock?x", "whole path"),
    ("unix:/run/%6Cease.sock", "whole path"),
    ("unix:/run/a,b", "whole path"),
    ("unix:/run/a\nb", "whole path"),
    ("unix:/" + "s" * 107, "107 bytes"),
    ("unix:/" + "\u00e9" * 54, "107 bytes"),
]


@pytest.mark.parametrize("malformed", MALFORMED)
def test_what_can_be_no_socket_is_refused_with_what_it_should_be(
    run: Any, node: Any, issue: Any, tmp_path: Path, malformed: tuple[str, str]
) -> None:
    address, about = malformed
    refused = issue(address)
    assert refused.exit_code != 0
    assert about in refused.error["message"]
    assert "--lease-address" in refused.error["message"]
    assert not (tmp_path / "payments").exists()
    assert issue(node.address).exit_code == 0
    where = ("--client", tmp_path / "payments", "--address", address, "-o", "json")
    ran = run("lease", "check", "0" * 32, *where)
    assert about in ran.error["message"]


@pytest.mark.usefixtures("granted")
def test_a_name_that_is_not_ascii_is_one(run: Any, node: Any, issue: Any, tmp_path: Path) -> None:
    odd = Path(node.socket).with_name("b\u00fcro \U0001f600.sock")
    odd.symlink_to(node.socket)
    assert issue(f"unix:{odd}").exit_code == 0
    assert load_config(tmp_path / "payments").lease_address == f"unix:{odd}"
    ran = run("lease", "acquire", ACTION, RESOURCE, "--client", tmp_path / "payments")
    assert ran.exit_code == 0, ran.stderr


def test_the_ledger_is_not_read_by_a_socket(run: Any, node: Any, federation: Any) -> None:
    """Nothing serves it there."""
    where = ("--org", federation.org(), "--address", f"unix:{node.socket}", "-o", "json")
    ran = run("ledger", "verify", *where)
    assert ran.exit_code != 0
    assert "host:7401" in ran.error["message"]
