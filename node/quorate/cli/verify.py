"""`quorate verify`: whether a proof holds, offline.

Owns how the verdict is told. What is verified is `quorate.proofs.verifying`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.errors import VerificationError
from quorate.cli.output import Output, OutputOption, facts, moment, show
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.limits import MAX_ENTRY_BYTES
from quorate.node.identity import read_public
from quorate.proofs.policy import MAX_POLICY_BYTES, Policy, parse_policy
from quorate.proofs.tlog_proof import MAX_PROOF_BYTES
from quorate.proofs.verifying import NOT_CHECKED, Verdict, verify_proof

app = typer.Typer(add_completion=False)


@app.command("verify")
def verify(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The proof.")],
    policy: Annotated[
        Path,
        typer.Option("--policy", metavar="FILE", help="Whom to believe: `quorate proof policy`."),
    ],
    entry: Annotated[
        Path | None,
        typer.Option(
            "--entry", metavar="FILE", help="The entry that it must be of, byte for byte."
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Verify a proof, offline: no node is asked, and no key is needed. Exits 6 if it does not hold.

    Every step is told, and what none of them says.
    """
    trusted = read_policy(policy)
    shown = None if entry is None else read_public(entry, MAX_ENTRY_BYTES)
    verdict = verify_proof(read_public(file, MAX_PROOF_BYTES), trusted, entry=shown)
    if not verdict.is_good:
        last = verdict.findings[-1]
        raise VerificationError(
            f"{file}: {last.step}: {last.told}",
            hint="the proof proves nothing; get it again, or ask another member",
        )
    show(output, to_json(verdict), lambda on: _print(on, verdict))


def read_policy(path: Path) -> Policy:
    """Raises ConfigurationError for what is no policy."""
    try:
        return parse_policy(read_public(path, MAX_POLICY_BYTES))
    except MalformedError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def to_json(verdict: Verdict) -> dict[str, object]:
    """Of a verdict that is good."""
    assert verdict.entry is not None
    assert verdict.checkpoint is not None
    return {
        "verified": True,
        "origin": verdict.checkpoint.origin,
        "size": verdict.checkpoint.size,
        "root": verdict.checkpoint.root.hex(),
        "index": verdict.entry.seq,
        "type": verdict.entry.kind,
        "decision": "accepted" if verdict.entry.accepted else "denied",
        "reason": verdict.entry.reason or "",
        "time_ms": verdict.entry.time,
        "entry": verdict.entry_bytes.decode(),
        "cosigned": [{"witness": name, "time_s": at} for name, at in verdict.cosigned],
        "checked": [{"step": each.step, "told": each.told} for each in verdict.findings],
        "not_checked": list(NOT_CHECKED),
    }


def _print(on: Console, verdict: Verdict) -> None:
    for finding in verdict.findings:
        on.print(f"[bold green]\u2713[/] {finding.step:<11} {escape(finding.told)}")
    value = to_json(verdict)
    on.print("[bold green]verified[/]")
    cosigned = [(f"cosigned by {name}", moment(at * 1_000)) for name, at in verdict.cosigned]
    shown = ("origin", "size", "index", "type", "decision", "reason")
    on.print(facts([*((name, value[name]) for name in shown if value[name] != ""), *cosigned]))
    on.print("Not checked:", style="dim")
    for line in NOT_CHECKED:
        on.print(f"- {line}", style="dim")
