"""`quorate status` and `quorate members`: what a node says of itself. Nothing here is authority."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import typer
from rich.console import Console

from quorate.cli.connection import Connection, choose_target
from quorate.cli.expiring import end_of_keys, warning_of, warning_of_certificate
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    OptionalClientOption,
    OptionalOrgOption,
    TimeoutOption,
)
from quorate.cli.output import (
    Output,
    OutputOption,
    facts,
    fields_of,
    frozen_words,
    moment,
    print_warning,
    show,
    table,
)
from quorate.cli.queries import read_records
from quorate.cli.submit import reason_name
from quorate.core.errors import QuorateError
from quorate.v1 import governance_pb2, node_pb2

status_app = typer.Typer(add_completion=False)
members_app = typer.Typer(add_completion=False)


@status_app.command("status")
def status(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show how a node is: role, ledger, authority, storage, clock."""
    target = choose_target(org, client, address)
    with Connection(target) as connection:
        answer = connection.ask(connection.node.GetStatus, node_pb2.GetStatusRequest(), timeout)
        domains: list[dict[str, Any]] = []
        with suppress(QuorateError):  # how the node is has to be told, whatever it cannot tell
            domains = read_records(connection, governance_pb2.KIND_DOMAIN, 0, timeout)[0]
    own = next((each for each in domains if each.get("id") == target.domain), {})
    authority_reason = reason_name(answer.authority_reason)
    role = node_pb2.Role.Name(answer.role).removeprefix("ROLE_").lower()
    frozen = list(answer.frozen.actions) if answer.HasField("frozen") else None
    value = {
        "node_id": answer.node_id,
        "origin": answer.origin,
        "version": answer.version,
        "role": role,
        "leader": answer.leader,
        "term": answer.term,
        "commit_index": answer.commit_index,
        "applied_index": answer.applied_index,
        "ledger_size": answer.position.size,
        "ledger_time_ms": answer.position.ledger_time_ms,
        "root": answer.root.hex(),
        "has_authority": answer.has_authority,
        "authority_remaining_ms": answer.authority_remaining_ms,
        "authority_reason": authority_reason,
        "writable": answer.writable,
        "storage_problem": answer.storage_problem,
        "clock_offset_ms": answer.clock_offset_ms,
        "durable_turns": answer.durable_turns,
        "probation": answer.probation,
        "outbox_records": answer.outbox_records,
        "protocol": answer.protocol,
        "latest_protocol": answer.latest_protocol,
        "frozen": frozen,
        "keys_not_after_ms": end_of_keys(own),
        "certificate_not_after_ms": answer.certificate_not_after_ms,
    }

    def people(console: Console) -> None:
        if answer.has_authority:
            console.print("[bold green]quorate[/]: this node decides")
        else:
            console.print(f"[bold red]denying everything[/]: {authority_reason or 'no authority'}")
        if answer.probation:
            console.print("[bold yellow]on probation[/]: waits for a leader that readmits it")
        writable = "writable" if answer.writable else "not writable"
        shown = {
            **value,
            "ledger_time_ms": moment(answer.position.ledger_time_ms),
            "storage": answer.storage_problem or writable,
            "frozen": frozen_words(frozen),
            "keys_not_after_ms": moment(end_of_keys(own)),
            "certificate_not_after_ms": moment(answer.certificate_not_after_ms),
        }
        hidden = ("has_authority", "authority_reason", "writable", "storage_problem")
        console.print(
            facts((k.removesuffix("_ms"), v) for k, v in shown.items() if k not in hidden)
        )

    show(output, value, people)
    if (warning := warning_of(own, answer.position.ledger_time_ms)) != "":
        print_warning(warning, output=output)
    if (warning := warning_of_certificate(answer.certificate_not_after_ms, _wall_ms())) != "":
        print_warning(warning, output=output)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@members_app.command("members")
def members(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List the federation's nodes, as one node sees them."""
    with Connection(choose_target(org, client, address)) as connection:
        answer = connection.ask(connection.node.ListMembers, node_pb2.ListMembersRequest(), timeout)
    # Only the leader knows these, and it has at least its own; elsewhere all of them are 0.
    known = any(member.match_index or member.enforced_index for member in answer.members)
    unknown = {} if known else {"match_index": None, "enforced_index": None}
    listed = [{**fields_of(member), **unknown} for member in answer.members]
    value = {"ledger_size": answer.position.size, "members": listed}

    def people(console: Console) -> None:
        keys = (
            "node_id",
            "role",
            "raft_role",
            "peer_address",
            "connected",
            "match_index",
            "enforced_index",
            "protocol",
        )
        rows = [[member[key] for key in keys] for member in listed]
        columns = ("node", "role", "in force", "peer address", "connected", "match", "enforced")
        console.print(table([*columns, "protocol"], rows))

    show(output, value, people)
