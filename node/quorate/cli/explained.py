"""How an explanation is shown: one JSON value for programs, a table for people.

Owns the words of each question. What is in an explanation is the node's
(`quorate.v1.explain_pb2`), or the command line's own, of the past.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.output import ExitCode, Output, cell, facts, moment, show, table
from quorate.cli.submit import reason_name
from quorate.v1 import decision_pb2, explain_pb2

MAX_THINGS_SHOWN: Final = 12
"""Of one question, to people; those nearest to a permit come first."""

QUESTIONS: Final = {
    "node": "may this node permit anything?",
    "command": "may the command be given?",
    "lease": "is it the executor's lease?",
    "scope": "is the lease for this act?",
    "in_force": "is it in force?",
    "executor": "is the executor active?",
    "home": "is its organisation active?",
    "owner": "is the resource's owner active?",
    "action": "is the action one?",
    "trust": "does the owner trust its organisation?",
    "grant": "does a grant cover it?",
    "parents": "do the leases that it comes from hold?",
    "effect": "may it be done?",
}
_COLOURS: Final = {"passed": "green", "failed": "bold red"}
_OF_OTHER_ACTS: Final = ("NO_GRANT", "NO_TRUST")


def show_explanation(
    answer: explain_pb2.ExplainResponse, output: Output, more: Mapping[str, object]
) -> None:
    """Prints it, and exits as a check would. more: what is known besides; of the past that is the
    entry, and that it was verified."""
    is_permitted = answer.verdict == decision_pb2.VERDICT_PERMIT
    value = {
        "verdict": "permit" if is_permitted else "deny",
        "reason": reason_name(answer.reason),
        "thing": answer.thing,
        "ledger_size": answer.position.size,
        "ledger_time_ms": answer.position.ledger_time_ms,
        "decided_at_ms": answer.decided_at_ms,
        **more,
        "steps": list(map(_step, answer.steps)),
    }
    show(output, value, lambda on: _print(on, value))
    if not is_permitted:
        raise typer.Exit(ExitCode.DENIED)


def _name(wire: Any, number: int, prefix: str) -> str:
    """In small letters; the number, when this version does not know it."""
    known = wire.DESCRIPTOR.values_by_number.get(number)
    return str(number) if known is None else known.name.removeprefix(f"{prefix}_").lower()


def _step(step: explain_pb2.Step) -> dict[str, Any]:
    remedy = step.remedy if step.HasField("remedy") else None
    return {
        "question": _name(explain_pb2.Question, step.question, "QUESTION"),
        "answer": _name(explain_pb2.Answer, step.answer, "ANSWER"),
        "reason": reason_name(step.reason),
        "thing": step.thing,
        "note": step.note,
        "things": list(map(_thing, step.things)),
        "remedy": remedy
        and {"sentence": remedy.sentence, "command": remedy.command, "signer": remedy.signer},
    }


def _thing(thing: explain_pb2.Thing) -> dict[str, Any]:
    return {
        "kind": thing.kind,
        "id": thing.id,
        "role": _name(explain_pb2.ThingRole, thing.role, "THING_ROLE"),
        "status": thing.status,
        "changed": thing.changed if thing.HasField("changed") else None,
        "reason": reason_name(thing.reason),
        "reason_thing": thing.reason_thing,
        "note": thing.note,
    }


def _print(on: Console, value: Mapping[str, Any]) -> None:
    if value["verdict"] == "permit":
        on.print("[bold green]permit[/]")
    else:
        on.print(f"[bold red]deny[/] {escape(_joined(value['reason'], value['thing']))}")
    on.print(facts(_facts(value)))
    made = table(("question", "answer", "looked at", "status", "changed", "why"), ())
    for step in value["steps"]:
        for row in _rows(step):
            made.add_row(*row)
    on.print(made)
    for step in value["steps"]:
        if step["remedy"]:
            _print_remedy(on, step["remedy"])


def _facts(value: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    entry = value.get("entry")
    if entry is not None:
        yield "entry", f"{entry['index']} {entry['type']} {entry['thing']}".rstrip()
    yield "ledger size", value["ledger_size"]
    yield "decided at", moment(value["decided_at_ms"])
    if "has_authority" in value:
        yield "authority", value["has_authority"]
    verified = value.get("verified")
    if verified is not None:
        yield "verified", f"decided again, and in the signed ledger of {verified['size']} entries"


def _rows(step: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    answer = step["answer"].replace("_", " ")
    colour = _COLOURS.get(step["answer"], "dim")
    words = QUESTIONS.get(step["question"], step["question"])
    head = (escape(words), f"[{colour}]{escape(answer)}[/]")
    things = sorted(step["things"], key=lambda thing: thing["reason"] in _OF_OTHER_ACTS)
    why = _why(step["reason"], step["note"])
    if not things or step["note"]:
        yield (*head, "", "", "", escape(why))
        head = ("", "")
    for thing in things[:MAX_THINGS_SHOWN]:
        why = _why(_joined(thing["reason"], thing["reason_thing"]), thing["note"])
        what = f"{thing['kind']} {thing['id']}"
        yield (*head, *map(escape, (what, cell(thing["status"]), cell(thing["changed"]), why)))
        head = ("", "")
    if len(things) > MAX_THINGS_SHOWN:
        yield "", "", f"and {len(things) - MAX_THINGS_SHOWN} more", "", "", ""


def _print_remedy(on: Console, remedy: Mapping[str, str]) -> None:
    on.print(f"[bold]To change it:[/] {escape(remedy['sentence'])}.")
    if remedy["command"]:
        on.print(f"  {escape(remedy['command'])}")
    if remedy["signer"]:
        on.print(f"  by {escape(remedy['signer'])}", style="dim")


def _why(reason: str, note: str) -> str:
    return ", ".join(filter(None, (reason, note)))


def _joined(*words: str) -> str:
    return " ".join(filter(None, words))
