"""`quorate policy test`: policies tried on cases from a file, without any node.

Owns the form of the file, in TOML or JSON. What a set says of a case is what the ledger would hear
it say (`quorate.core.cedar`).
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from quorate.cli.output import ExitCode, Output, OutputOption, show, table
from quorate.cli.policy_files import PolicyArgument, read_policies
from quorate.core import ids, policies
from quorate.core.cedar import Ruling, Subject, rule
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.limits import MAX_ATTRIBUTES, MAX_DEPTH
from quorate.core.lineage import check_context
from quorate.node.identity import read_public

MAX_CASES: Final = 1_000
MAX_CASES_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """permits: what is expected. by: the policies that should decide it; None: whichever."""

    name: str
    subject: Subject
    permits: bool
    by: tuple[str, ...] | None


def try_cases(
    file: PolicyArgument,
    cases: Annotated[
        Path, typer.Argument(metavar="CASES", help="What should be decided how: TOML, or JSON.")
    ],
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Try policies on cases from a file: what is asked, and whether it should be permitted.

    Exits 1 when one is decided otherwise.
    """
    text, expected = read_policies(file), read_cases(cases)
    rows = [(case, rule(text, case.subject)) for case in expected]
    results = [_told(case, ruling) for case, ruling in rows]
    failed = sum(not each["passed"] for each in results)
    value = {"cases": results, "passed": len(results) - failed, "failed": failed}

    def people(on: Console) -> None:
        columns = ("case", "passed", "expected", "decided", "by")
        on.print(table(columns, [[each[name] for name in columns] for each in results]))
        on.print(f"{failed} of {len(results)} cases failed" if failed else "all as expected")

    show(output, value, people)
    if failed:
        raise typer.Exit(ExitCode.ERROR)


def read_cases(file: Path) -> list[Case]:
    """Raises MalformedError, whose field names the place, and ConfigurationError."""
    data = read_public(file, MAX_CASES_BYTES)
    try:
        return parse_cases(data, is_json=file.suffix == ".json")
    except MalformedError as error:
        raise MalformedError(f"{file}: {error}", hint="see docs/policies.md") from error


def parse_cases(data: bytes, *, is_json: bool) -> list[Case]:
    """Raises MalformedError."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # both formats', and that of UTF-8
        raise MalformedError(f"cannot be read: {error}") from error
    fields = Fields(value)
    items = fields.objects("case", 1, MAX_CASES)
    fields.done()
    found = [_case(Fields(item, f"case[{n}]"), n) for n, item in enumerate(items)]
    return found


def _case(fields: Fields, number: int) -> Case:
    executor = fields.text("executor", ids.check_executor)
    resource = fields.text("resource", ids.check_resource)
    owner = ids.resource_owner(resource)
    has_grant = fields.has("grant")
    subject = Subject(
        executor=executor,
        action=fields.text("action", ids.check_action),
        resource=resource,
        grant=fields.text("grant", ids.check_grant_id) if has_grant else f"{owner}/any",
        home=ids.SpiffeId.parse(executor).trust_domain,
        owner=owner,
        delegations=fields.integer("delegations", 0, MAX_DEPTH) if fields.has("delegations") else 0,
        hops=_hops(fields, is_own=ids.SpiffeId.parse(executor).trust_domain == owner),
        context=_context(fields),
    )
    case = Case(
        name=fields.text("name") if fields.has("name") else f"case {number + 1}",
        subject=subject,
        permits=fields.text("expect", _check_expected) == "permit",
        by=_names(fields) if fields.has("by") else None,
    )
    fields.done()
    return case


def _hops(fields: Fields, *, is_own: bool) -> int:
    """Within one domain there are none; else there is one, unless it is said."""
    least = 0 if is_own else 1
    most = 0 if is_own else MAX_DEPTH + 1
    return fields.integer("hops", least, most) if fields.has("hops") else least


def _context(fields: Fields) -> tuple[str, ...]:
    if not fields.has("context"):
        return ()
    said = fields.take("context")
    if not isinstance(said, dict) or len(said) > MAX_ATTRIBUTES:
        raise MalformedError(
            f"must be at most {MAX_ATTRIBUTES} names with text", field=fields.at("context")
        )
    inner = Fields(said, fields.at("context"))
    pairs = [f"{name}={inner.text(name)}" for name in sorted(said)]
    for pair in pairs:
        fields.checked("context", pair, check_context)
    return tuple(pairs)


def _names(fields: Fields) -> tuple[str, ...]:
    return tuple(sorted(fields.texts("by", ids.check_name, MAX_CASES, least=0)))


def _check_expected(text: str) -> None:
    if text not in {"permit", "deny"}:
        raise MalformedError("must be permit or deny")


def _told(case: Case, ruling: Ruling) -> dict[str, Any]:
    is_right = ruling.permits == case.permits and case.by in {None, ruling.by}
    return {
        "case": case.name,
        "passed": is_right,
        "expected": "permit" if case.permits else "deny",
        "decided": "permit" if ruling.permits else policies.reason_of(ruling).value,
        "by": list(ruling.by),
        "expected_by": None if case.by is None else list(case.by),
    }
