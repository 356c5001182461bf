"""The errors of Quorate: one root, and what to do about each.

Owns the exception types that more than one package raises. A *denial* is not an error: decisions
are values (see `quorate.core.outcome`). A programmer's error is an assertion.
"""

from __future__ import annotations


class QuorateError(Exception):
    """Root of every operating error. `hint` says what a person can do about it."""

    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint


class MalformedError(QuorateError):
    """Bytes from outside that are not what their format says.

    `field` names the part at fault, as a dotted path (`body.executor`), or is empty.
    """

    def __init__(self, message: str, *, field: str = "", hint: str | None = None) -> None:
        super().__init__(f"{field}: {message}" if field else message, hint=hint)
        self.field = field
        self.problem = message


class ConfigurationError(QuorateError):
    """A file, setting or key of this node that cannot be used as it is."""


class ProbationError(QuorateError):
    """The node's store was restored, or begun again: the node vouches for nothing yet."""

    hint = "it is readmitted when it reaches a leader; see docs/recovery.md"


class UnsupportedProtocolError(QuorateError):
    """The federation lives by rules that this program does not know. The node must stop."""

    hint = "install a later version of Quorate, and start the node again"


class StorageError(QuorateError):
    """The node's store failed. Never caught on the way from a write: the turn is abandoned."""


class StorageFullError(StorageError):
    """The disk or the map is full. Nothing was written; the turn can be tried again later."""

    hint = "free disk space, or raise storage.map_size_bytes and restart the node"


class StorageDamagedError(StorageError):
    """The store contradicts itself, or the device failed. The node must stop."""

    hint = (
        "stop the node and keep its data directory as evidence; a voter that starts from an empty "
        "or an older one can break what it has promised (docs/recovery.md)"
    )
