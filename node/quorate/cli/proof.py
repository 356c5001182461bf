"""`quorate proof`: exporting what a node's ledger can prove, and whom to believe.

Owns what a file holds. How one is verified, by whoever gets it, is `quorate.cli.verify`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, choose_target
from quorate.cli.errors import VerificationError
from quorate.cli.ledger import GenesisOption, choose_genesis, progress_bar
from quorate.cli.ledger_check import check_ledger
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    OptionalClientOption,
    OptionalOrgOption,
    TimeoutOption,
)
from quorate.cli.output import Output, OutputOption, facts, show
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_INTEGER
from quorate.core.records import Node
from quorate.node.identity import write_public
from quorate.proofs import merkle
from quorate.proofs.checkpoint import parse_checkpoint
from quorate.proofs.note import parse_note
from quorate.proofs.policy import NONE
from quorate.proofs.tlog_proof import SUFFIX, TlogProof
from quorate.proofs.vkey import ED25519, VerifierKey
from quorate.v1 import ledger_pb2

app = typer.Typer(
    add_completion=False, help="Proofs of what the ledger holds, for who has no node."
)

FileOption = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="A new file, to be made.")
]


@app.command("export")
def export(
    *,
    index: Annotated[
        int, typer.Argument(min=0, max=MAX_INTEGER, help="Of the entry, as commands tell it.")
    ],
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    file: FileOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Write the proof of one entry of the ledger: `quorate verify` needs nothing but this file and
    a policy. The checkpoint in it is signed by this one node."""
    target = file or Path(f"entry-{index}{SUFFIX}")
    with Connection(choose_target(org, client, address)) as connection:
        proof = fetch_proof(connection, index, timeout)
    head = parse_checkpoint(parse_note(proof.checkpoint).text)
    write_public(target, proof.encode().encode())
    value = {"file": str(target), "index": index, "origin": head.origin, "size": head.size}

    def people(on: Console) -> None:
        on.print(f"[bold green]written[/] {escape(str(target))}")
        on.print(facts([("entry", index), ("log", head.origin), ("of entries", head.size)]))
        on.print(
            f"Next: quorate verify {escape(str(target))} --policy FILE, on any machine.",
            style="dim",
        )

    show(output, value, people)


@app.command("policy")
def policy(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    genesis: GenesisOption = None,
    file: FileOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Write whom to believe: the keys of this federation's log, of all nodes that are members.

    The whole ledger is verified for it, from the genesis on. Give the file to whoever is to verify
    proofs, by a way that he trusts: it is all that he has to believe.
    """
    target = file or Path("policy.txt")
    federation = choose_genesis(org, genesis)
    quiet = output is Output.JSON
    with (
        Connection(choose_target(org, client, address)) as connection,
        progress_bar(quiet=quiet) as progress,
    ):
        task = progress.add_task("verifying", total=None)
        checked, members = check_ledger(
            connection,
            federation,
            timeout,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    nodes = [node for node in members.state.nodes() if not node.retired]
    text = policy_text(members.state.federation().origin, nodes, checked.size)
    write_public(target, text.encode())
    value = {"file": str(target), "ledger_size": checked.size, "logs": [node.id for node in nodes]}

    def people(on: Console) -> None:
        on.print(f"[bold green]written[/] {escape(str(target))}")
        on.print(facts([("verified entries", checked.size), ("nodes", len(nodes))]))

    show(output, value, people)


def policy_text(origin: str, nodes: Sequence[Node], size: int) -> str:
    """The policy of these nodes' log keys, as of a ledger of `size` entries."""
    lines = [f"# {origin}, as of {size} entries."]
    for node in nodes:
        key = VerifierKey(origin, ED25519, bytes.fromhex(node.log_key))
        lines += [f"# {node.id}", f"log {key.encode()}"]
    return "\n".join(
        [*lines, "# Nobody cosigns yet: one node's word is enough.", f"quorum {NONE}", ""]
    )


def fetch_proof(connection: Connection, index: int, timeout_ms: int) -> TlogProof:
    """The proof of an entry under the node's newest checkpoint. Raises VerificationError for one
    that proves nothing."""
    asked = ledger_pb2.GetCheckpointRequest(minimum_index=index)
    checkpoint = connection.ask(connection.ledger.GetCheckpoint, asked, timeout_ms).note
    try:
        head = parse_checkpoint(parse_note(checkpoint).text)
    except MalformedError as error:
        raise VerificationError(f"the node's checkpoint: {error}") from error
    told = connection.ask(
        connection.ledger.GetInclusionProof,
        ledger_pb2.GetInclusionProofRequest(index=index, size=head.size),
        timeout_ms,
    )
    leaf = merkle.leaf_hash(told.entry)
    if not merkle.verify_inclusion(leaf, index, head.size, told.hashes, head.root):
        raise VerificationError(f"the node's proof of entry {index} does not hold")
    return TlogProof(index, tuple(told.hashes), checkpoint, told.entry)
