"""What is written to the log, and what is not."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from quorate.telemetry import configure_logging


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def _report(logger: str, error: BaseException) -> None:
    logging.getLogger(logger).error("Exception not handled", exc_info=error)


def test_a_call_that_a_stopping_server_cancels_is_no_fault(written: io.StringIO):
    _report("grpc._cython.cygrpc", asyncio.CancelledError())
    assert written.getvalue() == ""


def test_every_other_fault_of_the_library_is_written(written: io.StringIO):
    _report("grpc._cython.cygrpc", ValueError("broken"))
    _report("quorate.node", asyncio.CancelledError())
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["logger"] for line in lines] == ["grpc._cython.cygrpc", "quorate.node"]
