"""`quorate attestation`: what executors have to prove, and proving it.

Owns the commands of the organisation that asks, and of the executor that answers. What a measuring
agent or a builder signs is made in `quorate.cli.evidence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli import evidence
from quorate.cli.connection import Connection, executor_target
from quorate.cli.domain import WaitOption
from quorate.cli.evidence import KEY_OR_FILE, evidence_in, public_keys
from quorate.cli.executor import executor_id
from quorate.cli.govern import govern
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    ClientOption,
    LeaseAddressOption,
    OptionalClientOption,
    OptionalOrgOption,
    OrgOption,
    TimeoutOption,
    duration_ms,
)
from quorate.cli.output import ExitCode, Output, OutputOption, facts, moment, show
from quorate.cli.queries import list_records
from quorate.cli.settling import new_request_id, settle
from quorate.cli.submit import Wait, reason_name
from quorate.client import Challenge, load_config, prove_key
from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.records import EvidenceKind
from quorate.node.organisation import Organisation
from quorate.v1 import decision_pb2, governance_pb2, lease_pb2

app = typer.Typer(add_completion=False, help="What executors have to prove of themselves.")

ReferenceArgument = Annotated[
    str, typer.Argument(metavar="REFERENCE", help="The organisation's name for it, like payments.")
]
RequestIdOption = Annotated[
    str,
    typer.Option(
        "--request-id", help="Makes a repeat of this request harmless. Random if not given."
    ),
]


def _texts(name: str, metavar: str, help_text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=f"{help_text} Repeatable.")


@app.command("set-reference")
def set_reference(
    reference: ReferenceArgument,
    *,
    org: OrgOption,
    executors: Annotated[
        list[str],
        _texts("--executor", "EXECUTOR", "Whom it is for: agent/payments, or agent/* for all."),
    ],
    kind: Annotated[
        EvidenceKind, typer.Option("--kind", help="What is proved, and how.")
    ] = EvidenceKind.MEASUREMENT,
    max_age: Annotated[
        int,
        typer.Option(
            "--max-age",
            parser=duration_ms,
            metavar="DURATION",
            show_default="1h",
            help="How long a proof counts: 10m, 1h.",
        ),
    ] = 3_600_000,
    signers: Annotated[
        list[str] | None, _texts("--signer", KEY_OR_FILE, "Whose measurements count.")
    ] = None,
    images: Annotated[
        list[str] | None, _texts("--image", "SHA256", "An image that it may be, in hex.")
    ] = None,
    measurements: Annotated[
        list[str] | None, _texts("--measurement", "HEX", "What it may measure as; any by default.")
    ] = None,
    environments: Annotated[
        list[str] | None, _texts("--environment", "NAME", "Where it may run; anywhere by default.")
    ] = None,
    builders: Annotated[
        list[str] | None, _texts("--builder", "ID", "Who may have built it; anybody by default.")
    ] = None,
    builder_keys: Annotated[
        list[str] | None, _texts("--builder-key", KEY_OR_FILE, "Whose provenance counts.")
    ] = None,
    keys: Annotated[
        list[str] | None,
        _texts("--key", "SHA256", "Of an svid: of its public key in DER; any by default."),
    ] = None,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Have executors of the organisation prove something, in place of what this reference asked.

    From then on they may do nothing that they have not proved it for.
    """
    organisation = Organisation.load(org)
    body: dict[str, Any] = {
        "reference": reference,
        "evidence": kind.value,
        "executors": [_pattern(organisation, each) for each in executors],
        "max_age_ms": max_age,
    }
    terms = {
        "signers": public_keys(signers),
        "images": images,
        "measurements": measurements,
        "environments": environments,
        "builders": builders,
        "builder_keys": public_keys(builder_keys),
        "keys": keys,
    }
    body |= {name: list(some) for name, some in terms.items() if some}
    act = "attestation.set_reference"
    govern(org, act, body, timeout_ms=timeout, output=output, address=address, wait=wait)


@app.command("retire-reference")
def retire_reference(
    reference: ReferenceArgument,
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Ask for this no more."""
    body = {"reference": reference}
    kind = "attestation.retire_reference"
    govern(org, kind, body, timeout_ms=timeout, output=output, address=address)


@app.command("list")
def list_references(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List what organisations have their executors prove."""
    list_records(
        governance_pb2.KIND_REFERENCE,
        ("id", "evidence", "executors", "images", "environments", "max_age_ms", "changed"),
        org=org,
        client=client,
        address=address,
        at_least=at_least,
        timeout_ms=timeout,
        output=output,
    )


@app.command("challenge")
def challenge(
    *,
    client: ClientOption,
    request_id: RequestIdOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Ask to be asked: what the executor proves has to quote the answer, within five minutes."""
    wished = lease_pb2.ChallengeRequest(request_id=request_id or new_request_id())
    with Connection(executor_target(client, address, lease=True)) as connection:
        answer = settle(connection, connection.leases.Challenge, wished, timeout)
    value = {
        **_verdict(answer),
        "challenge": answer.challenge,
        "origin": answer.origin,
        "executor": answer.executor,
        "references": dict(answer.references),
        "expires_at_ms": answer.expires_at_ms,
    }
    pairs = [
        ("challenge", answer.challenge),
        ("origin", answer.origin),
        ("executor", answer.executor),
        ("references", ", ".join(f"{name} ({kind})" for name, kind in answer.references.items())),
        ("until", moment(answer.expires_at_ms)),
    ]
    _tell(value, "asked", pairs, output)


@app.command("report")
def report(
    reference: ReferenceArgument,
    evidence_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="EVIDENCE",
            show_default="a proof of the executor's own key, made now",
            help="What a measuring agent has signed.",
        ),
    ] = None,
    *,
    client: ClientOption,
    challenge_text: Annotated[
        str, typer.Option("--challenge", metavar="HEX", help="The one that the evidence quotes.")
    ] = "",
    request_id: RequestIdOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Prove something to the federation. What is proved and does not equal the reference suspends
    the executor at once."""
    if (evidence_file is None) != (challenge_text == ""):
        raise MalformedError("give EVIDENCE and --challenge, or neither to prove the own key")
    target = executor_target(client, address, lease=True)
    with Connection(target) as connection:
        said: dict[str, object]
        if evidence_file is None:
            asked = _asked(connection, timeout)
            challenge_text, said = asked.text, prove_key(load_config(client).private_key, asked)
        else:
            said = evidence_in(evidence_file)
        wished = lease_pb2.AttestRequest(
            reference=reference,
            challenge=challenge_text,
            evidence=codec.encode(said).decode(),
            request_id=request_id or new_request_id(),
        )
        answer = settle(connection, connection.leases.Attest, wished, timeout)
    value = {
        **_verdict(answer),
        "reference": reference,
        "fresh_until_ms": answer.fresh_until_ms or None,
    }
    pairs = [("reference", reference), ("counts until", moment(answer.fresh_until_ms))]
    _tell(value, "proved", pairs, output)


@app.command("drift")
def drift(
    *,
    client: ClientOption,
    request_id: RequestIdOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Say that the executor is not what it was: it is suspended at once, and its leases end."""
    wished = lease_pb2.ReportDriftRequest(request_id=request_id or new_request_id())
    with Connection(executor_target(client, address, lease=True)) as connection:
        answer = settle(connection, connection.leases.ReportDrift, wished, timeout)
    _tell(_verdict(answer), "suspended", [("executor", answer.outcome.thing)], output)


app.command("sign-measurement")(evidence.sign_measurement)
app.command("sign-provenance")(evidence.sign_provenance)
app.command("new-key")(evidence.new_key)


def _asked(connection: Connection, timeout: int) -> Challenge:
    """Raises MalformedError where there is nothing to prove, and what `settle` does."""
    wished = lease_pb2.ChallengeRequest(request_id=new_request_id())
    answer = settle(connection, connection.leases.Challenge, wished, timeout)
    if answer.verdict != decision_pb2.VERDICT_PERMIT:
        why = f"{reason_name(answer.reason)} {answer.thing}".strip()
        raise MalformedError(f"the executor is not asked: {why}")
    return Challenge(
        text=answer.challenge,
        references=dict(answer.references),
        origin=answer.origin,
        executor=answer.executor,
        expires_at_ms=answer.expires_at_ms,
        ledger_index=answer.outcome.ledger_index,
    )


def _pattern(organisation: Organisation, text: str) -> str:
    """As `executor_id`, of one or of all below a path."""
    if not text.endswith("*"):
        return executor_id(organisation, text)
    return executor_id(organisation, text[:-1] + "x")[:-1] + "*"


def _verdict(answer: Any) -> dict[str, object]:
    permitted = answer.verdict == decision_pb2.VERDICT_PERMIT
    return {
        "verdict": "permit" if permitted else "deny",
        "reason": reason_name(answer.reason or answer.outcome.reason),
        "thing": answer.thing or answer.outcome.thing,
        "ledger_index": answer.outcome.ledger_index if answer.HasField("outcome") else None,
        "command_id": answer.outcome.command_id,
    }


def _tell(
    value: dict[str, object], done: str, pairs: Sequence[tuple[str, object]], output: Output
) -> None:
    """Exits with DENIED when it was."""

    def people(on: Console) -> None:
        if value["verdict"] != "permit":
            why = escape(f"{value['reason'] or 'UNSPECIFIED'} {value['thing']}".strip())
            on.print(f"[bold red]denied[/] {why}")
            return
        on.print(f"[bold green]{done}[/]")
        on.print(facts([*pairs, ("entry", value["ledger_index"])]))

    show(output, value, people)
    if value["verdict"] != "permit":
        raise typer.Exit(ExitCode.DENIED)
