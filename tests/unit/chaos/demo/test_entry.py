"""The demonstration ends politely however it is ended, and refuses a directory that is in use."""

from __future__ import annotations

import io
import os
import signal
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from quorate.chaos.demo import acts, entry
from quorate.chaos.demo.narrator import Narrator
from quorate.chaos.polite import POLITE_ENDS
from quorate.core.errors import ConfigurationError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("terminal_gone", [False, True])
def test_no_private_key_outlives_a_polite_end(
    places: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, terminal_gone: bool
) -> None:
    def perform(place: Path, _narrator: Narrator, *, keep: bool) -> int:
        assert place.parent == places
        (place / "governance.key").write_text("secret")
        try:
            signal.raise_signal(number)
        finally:
            if number is signal.SIGHUP:
                signal.raise_signal(number)  # a terminal that closes sends several
            if terminal_gone and number is not signal.SIGINT:
                raise OSError("the terminal is gone")
        return 0

    monkeypatch.setattr(entry, "_perform", perform)
    before = [signal.getsignal(each) for each in POLITE_ENDS]
    assert entry.run(output="text", keep=False, directory=None) == entry.INTERRUPTED
    assert list(places.iterdir()) == []
    assert [signal.getsignal(each) for each in POLITE_ENDS] == before


def test_under_nohup_a_hangup_changes_nothing(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(_place: Path, _narrator: Narrator, *, keep: bool) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    monkeypatch.setattr(entry, "_perform", perform)
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert entry.run(output="text", keep=False, directory=None) == 0
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_directory_that_is_not_empty_is_refused_before_anything_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine"
    file.write_text("")
    for used in (tmp_path, file):
        with pytest.raises(ConfigurationError, match="not an empty directory") as refused:
            entry.run(output="json", keep=False, directory=used)
        assert "new or empty" in refused.value.hint
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == [file]


def test_a_command_to_copy_is_the_whole_line() -> None:
    written = io.StringIO()
    console = Console(file=written, width=40, highlight=False, soft_wrap=True)
    line = f"quorate status --org '/a [bold]/{'x' * 60}'"
    Narrator("text", console).command(line)
    assert written.getvalue() == line + "\n"


def test_a_permit_before_the_order_is_said_to_be_before_it() -> None:
    assert acts._after_the_order(3.84) == "after 3.8 ms"
    assert acts._after_the_order(-3.84) == "3.8 ms before the order"
