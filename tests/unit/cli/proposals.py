"""What `quorate proposal` has signed, and has said: how tests read it."""

from __future__ import annotations

import re
from typing import Any

from quorate.core import codec, dsse, protocol
from quorate.core.acts import ACTS
from quorate.core.limits import MAX_ENVELOPE_BYTES

BANK, CLINIC, LOGISTICS = "bank.example", "clinic.example", "logistics.example"
PORT = "port.example"
EVERY = dict.fromkeys(map(str, ACTS[protocol.LATEST]), "majority")


def command(envelope: bytes) -> Any:
    return codec.load(dsse.parse(envelope, MAX_ENVELOPE_BYTES).payload)


def last(node: Any) -> tuple[str, Any]:
    """Type and body of what was submitted last."""
    said = command(node.requests[-1].envelope)
    return said["type"], said["body"]


def words(text: str) -> str:
    """As one line, without what draws tables."""
    return " ".join(text.replace("│", " ").split())


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
