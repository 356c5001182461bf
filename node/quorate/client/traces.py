"""The trace that work belongs to, carried along with its lineage where OpenTelemetry's API is.

Owns what is done with the trace context of a request and of the running work
(https://www.w3.org/TR/trace-context/), in whatever form OpenTelemetry's propagators have it. Makes
no spans: that is for the application's own instrumentation, whose spans are left in their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Final

_NOT_OF_A_VARIABLE: Final = re.compile(r"[^A-Z0-9_]")


def _no_injection(headers: dict[str, str]) -> None:
    """Without OpenTelemetry there is no trace."""


def _no_trace(headers: Mapping[str, str]) -> AbstractContextManager[None]:
    return nullcontext()


def _no_variables() -> dict[str, str]:
    return {}


inject: Callable[[dict[str, str]], None] = _no_injection
"""Adds the running work's trace to what goes along with a call."""

continuing: Callable[[Mapping[str, str]], AbstractContextManager[None]] = _no_trace
"""The block belongs to the trace that a request with these headers names, if it names one.

Else the context stays as it is; and so it does within a span of this process: the caller is that
one's parent already, if the application has made it of the request, and whoever took its place
would cut the trace in two.
"""

variables: Callable[[], dict[str, str]] = _no_variables
"""The running work's trace as variables of another process's environment, in the place of what was
inherited (https://opentelemetry.io/docs/specs/otel/context/env-carriers/); none without a trace."""

with suppress(ImportError):
    from opentelemetry import context, propagate, trace

    def _inject(headers: dict[str, str]) -> None:
        propagate.inject(headers)

    @contextmanager
    def _continuing(headers: Mapping[str, str]) -> Iterator[None]:
        span = trace.get_current_span()
        if _goes_on(span):
            yield
            return
        # Into the context that is there: an empty one would take its baggage away.
        arrived = propagate.extract(headers, context.get_current())
        if trace.get_current_span(arrived) is span:  # there was no trace in them, or no valid one
            yield
            return
        token = context.attach(arrived)
        try:
            yield
        finally:
            context.detach(token)

    def _goes_on(span: trace.Span) -> bool:
        """Whether it is a span of this process that has not ended. One that is not sampled is one,
        too; one that has ended is left over from whatever started the server."""
        found = span.get_span_context()
        is_unsampled = isinstance(span, trace.NonRecordingSpan) and found.is_valid
        return span.is_recording() or (is_unsampled and not found.is_remote)

    def _variables() -> dict[str, str]:
        if not trace.get_current_span().get_span_context().is_valid:
            return {}
        carrier = dict.fromkeys(propagate.get_global_textmap().fields, "")
        propagate.inject(carrier)
        return {_NOT_OF_A_VARIABLE.sub("_", name.upper()): said for name, said in carrier.items()}

    inject, continuing, variables = _inject, _continuing, _variables
