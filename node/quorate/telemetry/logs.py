"""Structured logs of a process, on standard error.

Owns how log records look and where they go. What is worth a record is for each module to say; what
is counted rather than told lives in `quorate.telemetry.metrics`.
"""

from __future__ import annotations

import logging
import sys
from asyncio import CancelledError
from collections.abc import Callable
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

LogFormat = Literal["json", "text"]

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

DENIALS_LOGGED_PER_SECOND: Final = 1
"""Of each kind. The rest are counted, and the next record says how many it stands for."""


def configure_logging(
    level: str = "info", log_format: LogFormat = "json", *, stream: TextIO | None = None
) -> None:
    """Sends this process's records, and those of the libraries that use `logging`, to `stream`
    (standard error unless told), one line each as JSON, or for people.

    Raises ValueError for a level that is not one of `LEVELS`.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        rendering += [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    else:
        rendering.append(structlog.dev.ConsoleRenderer(colors=False))
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendering)
    )
    handler.addFilter(_is_no_cancelled_call)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _is_no_cancelled_call(record: logging.LogRecord) -> bool:
    """gRPC reports each call that a stopping server cancels as an unhandled exception. It is none:
    a call that was cancelled has no answer, and needs none."""
    kind = record.exc_info[0] if record.exc_info else None
    return not (
        record.name.startswith("grpc.") and kind is not None and issubclass(kind, CancelledError)
    )


class DenialLog:
    """Writes denials that the node makes by itself, a bounded number of records a second.

    When a quorum is lost every request is denied: the record matters, a record for each does not.
    The first of a kind is written at once; those within the second after it are counted, and the
    next record of the kind carries their number as `suppressed`.
    """

    def __init__(self, now_ns: Callable[[], int], logger: FilteringBoundLogger) -> None:
        self._now_ns = now_ns
        self._logger = logger
        self._last: dict[tuple[str, str], tuple[int, int]] = {}

    def denied(self, method: str, reason: str, executor: str) -> None:
        """Records one denial; `method` and `reason` are of closed sets, so the table is small."""
        key = (method, reason)
        now = self._now_ns()
        last, suppressed = self._last.get(key, (0, 0))
        if last and now - last < 1_000_000_000 // DENIALS_LOGGED_PER_SECOND:
            self._last[key] = (last, suppressed + 1)
            return
        self._last[key] = (now, 0)
        self._logger.warning(
            "denied without a quorum",
            method=method,
            reason=reason,
            executor=executor,
            suppressed=suppressed,
        )
