"""`quorate command`: a command that was kept in a file, signed by several, and handed in.

Owns the adding of signatures where there is neither a node nor an organisation's directory: with
keys that are kept apart. How a command is built and submitted is `quorate.cli.govern`'s.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import read_json
from quorate.cli.govern import hand_in, read_command
from quorate.cli.options import DEFAULT_TIMEOUT_MS, AddressOption, OrgOption, TimeoutOption
from quorate.cli.output import Output, OutputOption, console, facts, moment, show
from quorate.cli.signers import load_signers
from quorate.cli.submit import Wait
from quorate.core import dsse
from quorate.core.commands import Command
from quorate.core.errors import ConfigurationError
from quorate.core.limits import MAX_COMMAND_SIGNATURES
from quorate.node.identity import replace_public

app = typer.Typer(
    add_completion=False, help="Sign, show and submit a command that was kept in a file."
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="What `quorate --save FILE ...` has made.")
]


@app.command("sign")
def sign(
    file: FileArgument,
    *,
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            metavar="KEY",
            help="What to sign with: a file, - for stdin, or a pkcs11: URI. Repeatable.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Sign without asking.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what a command says, and add signatures to it. Needs neither a node nor a directory."""
    envelope, command = read_command(file)
    _people(console(error=output is Output.JSON), envelope, command)
    if not yes:
        if "-" in key:
            raise ConfigurationError(
                "stdin is the key, so that nobody can be asked",
                hint="see first what it says: `quorate command show`; then sign it with --yes",
            )
        typer.confirm("Sign this?", abort=True, err=True)
    message = dsse.pae(envelope.payload_type, envelope.payload)
    signed = {each.keyid: each for each in envelope.signatures}
    for signer in load_signers(key):
        signed[signer.keyid] = dsse.Signature(signer.keyid, signer.sign(message))
    if len(signed) > MAX_COMMAND_SIGNATURES:
        raise ConfigurationError(f"at most {MAX_COMMAND_SIGNATURES} keys sign one command")
    envelope = replace(envelope, signatures=tuple(signed.values()))
    replace_public(file, envelope.to_bytes())
    value = {"file": str(file), **_value(envelope, command)}
    show(output, value, lambda on: on.print(f"[bold green]signed[/]: {escape(str(file))}"))


@app.command("show")
def show_command(file: FileArgument, *, output: OutputOption = Output.TEXT) -> None:
    """Show what a command says, and which keys have signed it. No signature is verified."""
    envelope, command = read_command(file)
    show(output, _value(envelope, command), lambda on: _people(on, envelope, command))


@app.command("submit")
def submit(
    file: FileArgument,
    *,
    org: OrgOption,
    wait: Annotated[
        Wait | None,
        typer.Option(
            "--wait",
            help="Of a command that narrows: return when it is durable on a quorum, when no node "
            "decides otherwise any more, or when no executor holds a permit from before.",
        ),
    ] = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit it, through the node of whatever organisation; repeat that until the outcome is known.
    Submitting it twice is harmless."""
    hand_in(org, file, timeout_ms=timeout, output=output, address=address, wait=wait)


def _value(envelope: dsse.Envelope, command: Command) -> dict[str, Any]:
    said = read_json(envelope.payload)
    return {
        "type": command.verb.value,
        "issuer": command.issuer,
        "origin": command.origin,
        "not_after_ms": command.not_after,
        "command_id": command.command_id,
        "body": said.get("body"),
        "signed_by": [each.keyid for each in envelope.signatures],
    }


def _people(on: Console, envelope: dsse.Envelope, command: Command) -> None:
    value = _value(envelope, command)
    on.print(f"[bold]{command.verb}[/] of {escape(command.issuer)}")
    on.print(
        facts(
            [
                ("ledger", command.origin),
                ("expires", moment(command.not_after)),
                ("command", command.command_id),
                *((f"  {name}", said) for name, said in value["body"].items()),
                *(("signed by key", keyid) for keyid in value["signed_by"]),
            ]
        )
    )
