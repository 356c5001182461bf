"""The errors that only the command line has, and the exit code of each."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from quorate.cli.output import ExitCode
from quorate.core.errors import ConfigurationError, MalformedError, QuorateError, StorageError


class UnreachableError(QuorateError):
    """No answer from the node. What was asked for was a query, or was certainly not executed."""

    hint = "is the node running (`quorate node run`), and is the address right?"


class RefusedError(QuorateError):
    """The node answered with an error of gRPC's: it did not do what was asked."""


class BusyError(RefusedError):
    """A limit of the node's is reached: it was asked for too much, or too often."""

    hint = "ask again in a while"


class VerificationError(QuorateError):
    """A signature, hash or proof does not hold."""

    hint = "keep what you have as evidence, and compare with another member's node"


class UnknownOutcomeError(QuorateError):
    """The command may have been executed, and may yet be. `details` tell how to ask later."""

    def __init__(self, message: str, *, hint: str, details: dict[str, object]) -> None:
        super().__init__(message, hint=hint)
        self.details = details


class InterruptedOutcomeError(UnknownOutcomeError):
    """A person, or a service manager, did not wait until the outcome was known."""


@contextmanager
def interruptions(unknown: Callable[[], InterruptedOutcomeError]) -> Iterator[None]:
    """Around the sending of what may be executed: Ctrl-C and SIGTERM are told as what they leave
    behind, an outcome that is not known. For the main thread."""
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as error:
        raise unknown() from error
    finally:
        signal.signal(signal.SIGTERM, former)


_KINDS: Final = (
    (MalformedError, "usage", ExitCode.USAGE),
    (ConfigurationError, "configuration", ExitCode.ERROR),
    (StorageError, "storage", ExitCode.ERROR),
    (UnreachableError, "unreachable", ExitCode.UNREACHABLE),
    (RefusedError, "refused", ExitCode.ERROR),
    (InterruptedOutcomeError, "unknown_outcome", ExitCode.INTERRUPTED),
    (UnknownOutcomeError, "unknown_outcome", ExitCode.UNKNOWN),
    (VerificationError, "verification", ExitCode.VERIFICATION),
    (QuorateError, "error", ExitCode.ERROR),
)


def classify(error: QuorateError) -> tuple[str, ExitCode]:
    """What kind of error it is, for programs, and the exit code that it makes.

    A MalformedError that arrives here is about what the person wrote: whoever reads bytes of a
    node or a file makes it a VerificationError or a ConfigurationError.
    """
    return next((name, code) for kind, name, code in _KINDS if isinstance(error, kind))
