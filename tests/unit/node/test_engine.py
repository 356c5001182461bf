"""Whether a node starts with the policy engine that it finds."""

from __future__ import annotations

import resource
from importlib.metadata import PackageNotFoundError

import cedarpy
import pytest

from quorate.core import cedar
from quorate.core.errors import ConfigurationError, UnsupportedProtocolError
from quorate.node import engine
from quorate.node.engine import check_engine


def test_the_engine_that_is_installed_is_that_of_the_protocol() -> None:
    check_engine()


@pytest.mark.parametrize("found", ["4.12.1", "4.12.3", "4.12.2.post1", ""])
def test_with_another_engine_no_node_starts(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "version", lambda _: found)
    with pytest.raises(UnsupportedProtocolError, match=r"4\.12\.2"):
        check_engine()


def test_without_one_no_node_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(engine, "version", missing)
    with pytest.raises(UnsupportedProtocolError, match="none"):
        check_engine()


def test_the_lock_and_the_package_pin_that_very_engine(pytestconfig: pytest.Config) -> None:
    root = pytestconfig.rootpath
    assert f"cedarpy=={cedar.ENGINE} " in (root / "requirements.lock").read_text()
    assert f'"cedarpy=={cedar.ENGINE}",' in (root / "pyproject.toml").read_text()


def test_an_engine_that_answers_otherwise_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    always = cedarpy.AuthzResult({"decision": "Allow", "diagnostics": {"reason": ["policy0"]}})
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_: always)
    with pytest.raises(UnsupportedProtocolError, match="does not answer"):
        check_engine()


@pytest.mark.parametrize(("soft", "is_enough"), [(-1, True), (4 << 20, True), (1 << 20, False)])
def test_a_node_without_room_for_the_engine_does_not_start(
    soft: int, is_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, -1))
    if is_enough:
        check_engine()
        return
    with pytest.raises(ConfigurationError, match="stack"):
        check_engine()
