"""Tables that repeat what the code says say the same."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Le, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from quorate.client import ClientReason
from quorate.core.genesis import PARAMETER_RANGES
from quorate.core.outcome import Reason
from quorate.node.config import NodeConfig
from quorate.telemetry import metrics
from quorate.v1 import (
    core_pb2,
    decision_pb2,
    explain_pb2,
    governance_pb2,
    lease_pb2,
    ledger_pb2,
    lineage_pb2,
    node_pb2,
    peer_pb2,
)

LIMIT_MODULES = (
    "quorate.core.limits",
    "quorate.consensus.limits",
    "quorate.api.pace",
    "quorate.api.servers",
    "quorate.api.watch",
)


def names(rows: Any, kind: type[Enum]) -> list[str]:
    """The first cells that are names of `kind`, in the order of the page."""
    return [row[0].strip("`") for row in rows if re.fullmatch(r"`[A-Z_]+`", row[0])]


def test_reasons_are_the_codes(pages: dict[str, Any]) -> None:
    assert names(pages["docs/reasons.md"].rows(), Reason) == [reason.value for reason in Reason]


def test_every_reason_says_what_to_do(pages: dict[str, Any]) -> None:
    for row in pages["docs/reasons.md"].rows():
        assert len(row) == 4, row
        assert all(row[:3]), row
        assert row[3] or "nobody yet" in row[2], row


def test_reasons_are_the_wires() -> None:
    wire = {name.removeprefix("REASON_") for name in decision_pb2.Reason.keys()}  # noqa: SIM118
    assert wire - {"UNSPECIFIED"} == {reason.value for reason in Reason}
    assert {reason.name for reason in Reason} == {reason.value for reason in Reason}


def test_reasons_that_nobody_gives_are_given_nowhere(pages: dict[str, Any], root: Path) -> None:
    """A page that says `nobody yet` must notice when somebody does."""
    said = {r[0].strip("`") for r in pages["docs/reasons.md"].rows() if "nobody yet" in r[2]}
    assert said == {"QUARANTINED"}
    code = "\n".join(
        file.read_text()
        for folder in ("core", "api", "lease", "node", "storage")
        for file in (root / "node" / "quorate" / folder).glob("*.py")
    )
    # Named where reasons are defined, and where it is said what to do about each.
    assert len(re.findall(r"\bQUARANTINED\b", code)) == 3


def test_the_clients_reasons_are_listed(pages: dict[str, Any]) -> None:
    rows = pages["docs/executors.md"].rows()
    assert names(rows, ClientReason) == [reason.value for reason in ClientReason]


def settings() -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for section, field in NodeConfig.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= {f"{section}.{key}": inner for key, inner in kind.model_fields.items()}
        else:
            found[section] = field
    return found


def default_of(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    return "—" if value is PydanticUndefined else f"`{json.dumps(value)}`"


def limits_of(field: FieldInfo) -> str | None:
    """As the page writes them; None when they are not numbers or a choice."""
    least = next((item.ge for item in field.metadata if isinstance(item, Ge)), None)
    most = next((item.le for item in field.metadata if isinstance(item, Le)), None)
    longest = next((item.max_length for item in field.metadata if isinstance(item, MaxLen)), None)
    if least is not None and most is not None:
        return f"{least} to {most}"
    if longest is not None:
        return f"at most {longest}"
    choices = getattr(field.annotation, "__args__", None)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(choices)
    return None


def test_settings_are_the_models(pages: dict[str, Any]) -> None:
    rows = {row[0].strip("`"): row for row in pages["docs/configuration.md"].rows()}
    known = settings()
    assert list(rows) == list(known)
    for key, field in known.items():
        assert rows[key][1] == default_of(field), key
        expected = limits_of(field)
        assert expected is None or rows[key][2] == expected, key


def test_parameters_are_the_geneses(pages: dict[str, Any]) -> None:
    limits = importlib.import_module("quorate.core.limits")
    rows = {row[1].strip("`"): row for row in pages["docs/authority.md"].rows() if len(row) == 4}
    assert list(rows) == list(PARAMETER_RANGES)
    for name, (least, most) in PARAMETER_RANGES.items():
        assert int(rows[name][2].split()[0]) == getattr(limits, f"DEFAULT_{name.upper()}")
        assert rows[name][3].split(",")[0] == f"{least} to {most}"


@pytest.mark.parametrize("name", ["api", "consensus", "ledger"])
def test_limits_are_the_constants(pages: dict[str, Any], name: str) -> None:
    constants: dict[str, object] = {}
    for module in LIMIT_MODULES:
        constants |= vars(importlib.import_module(module))
    rows = [row for row in pages[f"docs/{name}.md"].rows() if re.fullmatch(r"`[A-Z_]+_.*`", row[0])]
    shown = {row[0].strip("`"): int(row[1]) for row in rows if row[1].isdecimal()}
    assert len(shown) > 5
    assert shown == {constant: constants.get(constant) for constant in shown}


def test_services_and_methods_are_the_contracts(pages: dict[str, Any]) -> None:
    expected = {
        service.name: [method.name for method in service.methods]
        for module in (
            lease_pb2,
            explain_pb2,
            governance_pb2,
            ledger_pb2,
            lineage_pb2,
            node_pb2,
            peer_pb2,
            core_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    text = pages["docs/api.md"].text
    shown = {
        name: re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
        for name, part in re.findall(r"^### (\w+)\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    }
    assert shown == expected


def test_types_of_commands_are_the_codes(pages: dict[str, Any]) -> None:
    verbs = importlib.import_module("quorate.core.verbs").Verb
    shown = [
        name
        for row in pages["docs/ledger.md"].rows()
        for name in re.findall(r"`([a-z]+\.[a-z_]+)`", row[0])
        if len(row) == 3 and not row[1].isdigit()
    ]
    assert sorted(shown) == sorted(verb.value for verb in verbs)


def test_the_metrics_are_those_that_there_are(pages: dict[str, Any]) -> None:
    source = inspect.getsource(metrics)
    instruments = set(re.findall(r"\"(quorate\.[a-z.]+)\"", source))
    shown = re.findall(
        r"^\| `(quorate\.[a-z.]+)` \|", pages["docs/operations.md"].text, re.MULTILINE
    )
    assert sorted(shown) == sorted(instruments)
