"""`quorate key`: making a private key, and telling which one is where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.output import Output, OutputOption, facts, show
from quorate.cli.signers import load_signer
from quorate.node.identity import save_signing_key
from quorate.proofs.signing import Signer, SigningKey

app = typer.Typer(
    add_completion=False, help="Make a private key; show which public key a private one has."
)


@app.command("new")
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, of mode 0600.")],
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an Ed25519 key: to govern with, or to be kept offline for recovery.

    It is nothing to the federation before `quorate domain set-keys` has named it.
    """
    save_signing_key(file, SigningKey.generate())
    _show(load_signer(str(file)), str(file), output)


@app.command("show")
def show_key(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="A file, - for stdin, or a pkcs11: URI.")
    ],
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the public key of a private one, and its id. The private key is not shown."""
    _show(load_signer(key), "stdin" if key == "-" else key, output)


def _show(key: Signer, where: str, output: Output) -> None:
    value = {"public_key": key.public.hex(), "key_id": key.keyid}
    if not where.startswith("pkcs11:"):  # which may have a PIN in it
        value["where"] = where

    def people(console: Console) -> None:
        console.print(facts((name.replace("_", " "), escape(text)) for name, text in value.items()))

    show(output, value, people)
