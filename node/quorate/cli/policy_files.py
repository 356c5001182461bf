"""Files of policies: read, and looked at before anything is signed.

Owns what a person is told of a file that holds none, and how a set is named to people. What makes a
set of policies is `quorate.core.cedar`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quorate.core.cedar import check_set
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_POLICY_BYTES
from quorate.core.records import PolicyMark
from quorate.node.engine import check_engine
from quorate.node.identity import read_public

PolicyArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Policies in Cedar, like policies.cedar.")
]


def read_policies(file: Path) -> str:
    """The set that a file holds, which the ledger would take. Raises MalformedError, with what is
    wrong in the engine's words, ConfigurationError when it cannot be read, and
    UnsupportedProtocolError where the engine is another than the ledger's."""
    check_engine()
    data = read_public(file, MAX_POLICY_BYTES)
    try:
        text = data.decode("utf-8")
        check_set(text)
    except UnicodeDecodeError as error:
        raise MalformedError(f"{file} is no text in UTF-8") from error
    except MalformedError as error:
        raise MalformedError(
            f"{file}: {error}", hint="see docs/policies.md for what a policy can ask about"
        ) from error
    return text


def policy_words(mark: PolicyMark | None) -> str:
    """Which set is in force; None: none."""
    if mark is None or not mark.sha256:
        return "none"
    return f"version {mark.version}, sha256 {mark.sha256}"
