"""An organisation's commands: made and signed here, submitted or kept in a file, and told.

Owns the signing with the governance key, and how what became of a command is shown. The repeating
until that is known is `quorate.cli.submit`'s.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, operator_target
from quorate.cli.given import given
from quorate.cli.live import live_line
from quorate.cli.options import now_ms
from quorate.cli.output import ExitCode, Output, console, facts, moment, show
from quorate.cli.signers import signers_of
from quorate.cli.submit import (
    QUERY_TIMEOUT_MS,
    Settled,
    SignedCommand,
    Wait,
    result_json,
    submit,
)
from quorate.core import dsse, ids
from quorate.core.commands import Command, open_envelope, parse_any
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.limits import MAX_COMMAND_LIFETIME_MS, MAX_ENVELOPE_BYTES
from quorate.node.identity import read_public, write_public
from quorate.node.organisation import Organisation
from quorate.proofs.commands import build_command
from quorate.proofs.signing import Signer
from quorate.v1 import node_pb2

COMMAND_MARGIN_MS: Final = 600_000
"""A command outlives the waiting for it by this much: clocks differ, and it is repeated."""
NONCE_BYTES: Final = 16
SAVED_LIFETIME_MS: Final = 20 * 3_600_000
"""Of a command that people bring to others, to be signed or submitted: less than a day, which is as
long as a ledger takes it for."""


def govern(
    directory: Path,
    kind: str,
    body: Mapping[str, object],
    *,
    timeout_ms: int,
    output: Output,
    address: str = "",
    wait: Wait | None = None,
    also_signed_by: Sequence[Signer] = (),
    on_accepted: Callable[[], None] = lambda: None,
    signers: Sequence[Signer] | None = None,
) -> None:
    """Builds a command of the organisation, signs it with its governance key, submits it, and
    prints what became of it. Exits with DENIED, or with UNKNOWN when it is accepted and `wait` was
    not reached in time. on_accepted: is called before anything is printed. signers: instead of the
    organisation's. With the option --save, it is kept in a file instead."""
    file = given().save
    if file is not None:
        save(directory, kind, body, file, output, also_signed_by=also_signed_by, signers=signers)
        return
    organisation = Organisation.load(directory)
    keys = [*(signers_of(organisation) if signers is None else signers), *also_signed_by]
    with Connection(operator_target(organisation, address)) as connection:
        command = sign_command(connection, organisation, kind, body, timeout_ms, keys)
        settled = _submit_in_sight(connection, command, timeout_ms, wait, output)
    if settled.accepted:
        on_accepted()
    value = {"type": kind, **settled.to_json()}
    show(output, value, lambda console: _print_settled(console, kind, settled, wait))
    if not settled.accepted:
        raise typer.Exit(ExitCode.DENIED)
    if _fell_short(settled, wait):
        raise typer.Exit(ExitCode.UNKNOWN)


def _submit_in_sight(
    connection: Connection,
    command: SignedCommand,
    timeout_ms: int,
    wait: Wait | None,
    output: Output,
) -> Settled:
    """Submits a command; on a terminal, with a line that says who is still open."""
    if wait is None or output is Output.JSON:
        return submit(connection, command, timeout_ms, wait)
    with live_line(console(error=True), wait) as told:
        return submit(connection, command, timeout_ms, wait, told)


def save(
    directory: Path,
    kind: str,
    body: Mapping[str, object],
    file: Path,
    output: Output,
    *,
    also_signed_by: Sequence[Signer] = (),
    signers: Sequence[Signer] | None = None,
) -> None:
    """Builds and signs a command of the organisation, and keeps it in a new file: for others of it
    to sign, or for an organisation whose own node cannot take it, so that another's does
    (`hand_in`)."""
    own = signers_of(Organisation.load(directory)) if signers is None else signers
    keys = [*own, *also_signed_by]
    command_id, not_after = write_command(directory, kind, body, file, signers=keys)
    value = {"type": kind, "file": str(file), "command_id": command_id, "not_after_ms": not_after}

    def people(console: Console) -> None:
        console.print(f"[bold green]signed[/] {kind}, and not submitted: {escape(str(file))}")
        console.print(facts([("command", command_id), ("expires", moment(not_after))]))
        console.print(
            "Next: whoever else has to sign runs `quorate command sign FILE --key KEY`; then, here "
            "or in another organisation, `quorate command submit FILE --org DIR`.",
            style="dim",
        )

    show(output, value, people)


def write_command(
    directory: Path,
    kind: str,
    body: Mapping[str, object],
    file: Path,
    *,
    signers: Sequence[Signer],
) -> tuple[str, int]:
    """As `save`, with nothing printed; returns the command's id, and its not_after."""
    organisation = Organisation.load(directory)
    nonce = secrets.token_hex(NONCE_BYTES)
    not_after = now_ms() + SAVED_LIFETIME_MS
    envelope = build_command(
        origin=organisation.genesis().origin,
        issuer=organisation.domain,
        command_type=kind,
        body=body,
        nonce=nonce,
        not_after=not_after,
        key=signers[0],
        also_signed_by=signers[1:],
    )
    # Nobody is to carry about what no ledger would take.
    parse_any(open_envelope(envelope).payload)
    write_public(file, envelope)
    return ids.command_id(organisation.domain, nonce), not_after


def hand_in(
    directory: Path,
    file: Path,
    *,
    timeout_ms: int,
    output: Output,
    address: str = "",
    wait: Wait | None = None,
) -> None:
    """Submits a command that its issuer has signed and kept in a file, through this organisation's
    node, and prints what became of it."""
    envelope, command = read_command(file)
    with Connection(operator_target(Organisation.load(directory), address)) as connection:
        signed = SignedCommand(envelope.to_bytes(), command.command_id)
        settled = _submit_in_sight(connection, signed, timeout_ms, wait, output)
    value = {"type": command.verb, "issuer": command.issuer, **settled.to_json()}
    show(output, value, lambda console: _print_settled(console, command.verb, settled, wait))
    if not settled.accepted:
        raise typer.Exit(ExitCode.DENIED)
    if _fell_short(settled, wait):
        raise typer.Exit(ExitCode.UNKNOWN)


def read_command(file: Path) -> tuple[dsse.Envelope, Command]:
    """A command that was kept in a file; nothing is verified but its form. Raises
    ConfigurationError."""
    try:
        envelope = open_envelope(read_public(file, MAX_ENVELOPE_BYTES))
        return envelope, parse_any(envelope.payload)
    except MalformedError as error:
        raise ConfigurationError(
            f"{file} is no signed command: {error}",
            hint="give the file that a command with --save has made",
        ) from error


def sign_command(  # noqa: PLR0917  # as `govern`
    connection: Connection,
    organisation: Organisation,
    kind: str,
    body: Mapping[str, object],
    timeout_ms: int,
    keys: Sequence[Signer],
) -> SignedCommand:
    """A command of the organisation for the ledger that the node keeps, signed with these keys, the
    first of which is there. Raises ConfigurationError."""
    origin = organisation.genesis().origin
    # First a question that changes nothing: when the node cannot be reached now, nothing was
    # submitted, and that is certain.
    status = connection.ask(
        connection.node.GetStatus,
        node_pb2.GetStatusRequest(),
        min(timeout_ms, QUERY_TIMEOUT_MS),
    )
    if status.origin != origin:
        raise ConfigurationError(f"the node keeps {status.origin}, the genesis is {origin}'s")
    lifetime_ms = min(timeout_ms + COMMAND_MARGIN_MS, MAX_COMMAND_LIFETIME_MS // 2)
    nonce = secrets.token_hex(NONCE_BYTES)
    envelope = build_command(
        origin=origin,
        issuer=organisation.domain,
        command_type=kind,
        body=body,
        nonce=nonce,
        not_after=max(now_ms(), status.position.ledger_time_ms) + lifetime_ms,
        key=keys[0],
        also_signed_by=keys[1:],
    )
    return SignedCommand(envelope, ids.command_id(organisation.domain, nonce))


def _fell_short(settled: Settled, wait: Wait | None) -> bool:
    order = ["", *Wait]
    if wait is None or _is_without_effect(settled):
        return False
    return order.index(settled.reached) < order.index(wait)


def _counted(settled: Settled) -> dict[str, Any]:
    """How the ballots stand, when the command was one, or opened what they are on."""
    result = result_json(settled.result)
    return result if isinstance(result, dict) and "needed" in result else {}


def _is_without_effect(settled: Settled) -> bool:
    """Of a ballot that has brought nothing about there is nothing that could hold anywhere."""
    counted = _counted(settled)
    return bool(counted) and "executed" not in counted


def _print_settled(console: Console, kind: str, settled: Settled, wait: Wait | None) -> None:
    word = "[bold green]accepted[/]" if settled.accepted else "[bold red]denied[/]"
    about = escape(f"{settled.reason} {settled.thing}".strip())
    console.print(f"{word} {kind} {about}".rstrip())
    index = "not in the ledger" if settled.ledger_index is None else settled.ledger_index
    pairs: list[tuple[str, object]] = []
    counted = _counted(settled)
    if counted:
        agreed = f"{counted.get('yes')} of {counted['needed']} that are needed agree"
        became = f"{counted.get('status')} {counted.get('reason', '')}".rstrip()
        pairs += [("proposal", became), ("ballots", agreed)]
    pairs.append(("ledger index", index))
    if settled.accepted and wait is not None and not _is_without_effect(settled):
        pairs.append(("holds", settled.reached or "not known"))
        if settled.bound_ms:
            pairs.append(("over everywhere", f"within {settled.bound_ms} ms, whatever fails"))
    pairs += [("command", settled.command_id), ("took", f"{settled.took_ms:.0f} ms")]
    console.print(facts(pairs))
    if settled.accepted and _fell_short(settled, wait):
        console.print(f"[bold yellow]not known to be {wait} in time[/]")
