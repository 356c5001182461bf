"""How an explanation is shown: one JSON value for programs, a table for people.

Owns the words of each question, and the one form of what a node has explained and of what was
explained here, of the past.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.output import ExitCode, Output, cell, facts, fields_of, moment, show, table
from quorate.cli.submit import reason_name
from quorate.core.explanation import Explanation, Step, Thing
from quorate.core.outcome import Decision, Deny
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
    "attestation": "has it proved what it has to?",
    "contained": "is nothing contained?",
    "owner": "is the resource's owner active?",
    "frozen": "is it let through there?",
    "action": "is the action one?",
    "trust": "does the owner trust its organisation?",
    "grant": "does a grant cover it?",
    "policy": "do all policies permit it?",
    "parents": "do the leases that it comes from hold?",
    "effect": "may it be done?",
}
_COLOURS: Final = {"passed": "green", "failed": "bold red"}
_OF_OTHER_ACTS: Final = ("NO_GRANT", "NO_TRUST")


def show_explanation(value: Mapping[str, Any], output: Output) -> None:
    """Prints it, and exits as a check would."""
    show(output, value, lambda on: _print(on, value))
    if value["verdict"] != "permit":
        raise typer.Exit(ExitCode.DENIED)


def of_node(answer: explain_pb2.ExplainResponse) -> dict[str, Any]:
    """What a node explains. What this version does not know the name of stands as a number."""
    is_permitted = answer.verdict == decision_pb2.VERDICT_PERMIT
    return {
        "verdict": "permit" if is_permitted else "deny",
        "reason": reason_name(answer.reason),
        "thing": answer.thing,
        "ledger_size": answer.position.size,
        "ledger_time_ms": answer.position.ledger_time_ms,
        "decided_at_ms": answer.decided_at_ms,
        "steps": [
            {
                "question": _name(explain_pb2.Question, step.question, "QUESTION"),
                "answer": _name(explain_pb2.Answer, step.answer, "ANSWER"),
                "reason": reason_name(step.reason),
                "thing": step.thing,
                "note": step.note,
                "things": list(map(_thing_of_node, step.things)),
                "remedy": fields_of(step.remedy) if step.HasField("remedy") else None,
            }
            for step in answer.steps
        ],
        "has_authority": answer.has_authority,
    }


def _thing_of_node(thing: explain_pb2.Thing) -> dict[str, Any]:
    return fields_of(thing) | {
        "role": _name(explain_pb2.ThingRole, thing.role, "THING_ROLE"),
        "changed": thing.changed if thing.HasField("changed") else None,
        "reason": reason_name(thing.reason),
    }


def of_past(explanation: Explanation, ledger_size: int, ledger_time_ms: int) -> dict[str, Any]:
    """What was explained here, in the same form, but for the node's authority."""
    reason, thing = _told(explanation.decision)
    return {
        "verdict": "deny" if reason else "permit",
        "reason": reason,
        "thing": thing,
        "ledger_size": ledger_size,
        "ledger_time_ms": ledger_time_ms,
        "decided_at_ms": explanation.ledger_time,
        "steps": list(map(_step_of_past, explanation.steps)),
    }


def _step_of_past(step: Step) -> dict[str, Any]:
    reason, thing = _told(step.denied)
    return {
        "question": step.question.value,
        "answer": step.answer.value,
        "reason": reason,
        "thing": thing,
        "note": step.note,
        "things": list(map(_thing_of_past, step.things)),
        "remedy": None if step.remedy is None else asdict(step.remedy),
    }


def _thing_of_past(thing: Thing) -> dict[str, Any]:
    reason, about = _told(thing.failure)
    return {
        "kind": str(thing.kind),
        "id": thing.id,
        "role": thing.role.value,
        "status": str(thing.status),
        "changed": thing.changed,
        "reason": reason,
        "reason_thing": "" if about == thing.id else about,
        "note": thing.note,
    }


def _told(decision: Decision | None) -> tuple[str, str]:
    return (decision.reason.value, decision.thing) if isinstance(decision, Deny) else ("", "")


def _name(wire: Any, number: int, prefix: str) -> str:
    known = wire.DESCRIPTOR.values_by_number.get(number)
    return str(number) if known is None else known.name.removeprefix(f"{prefix}_").lower()


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
