"""`quorate policy replay`: which recorded decisions would have been others under other policies.

Owns which entries are looked at, and how the difference is told. Each is decided twice by the rules
of `quorate.core.decision`, at the state that it was recorded on: as it was, and with the policies
of the file in the place of their owner's. What follows from a difference is not: a lease that would
not have been given is still one of its grant's uses in the entries after it. No node is believed
(`quorate.cli.past`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from quorate.cli.connection import Connection, choose_target
from quorate.cli.ledger import GenesisOption, choose_genesis, progress_bar
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    OptionalClientOption,
    OptionalOrgOption,
    TimeoutOption,
)
from quorate.cli.output import ExitCode, Output, OutputOption, show, table
from quorate.cli.past import Past
from quorate.cli.policy_files import PolicyArgument, read_policies
from quorate.core import dsse, ids
from quorate.core.bodies import AcquireLease, RenewLease
from quorate.core.commands import parse_command
from quorate.core.decision import DecisionRequest, choose_route, held_lease, review
from quorate.core.entries import Entry
from quorate.core.errors import MalformedError
from quorate.core.leasing import broken_parent
from quorate.core.limits import MAX_INTEGER
from quorate.core.outcome import Deny
from quorate.core.records import BY_BALLOT
from quorate.core.state import StateView
from quorate.core.verbs import Verb
from quorate.node.organisation import Organisation

_LOOKED_AT: Final = frozenset({Verb.LEASE_ACQUIRE, Verb.LEASE_RENEW})


@dataclass(frozen=True, slots=True)
class _Found:
    """What was looked at, and what would be otherwise."""

    decisions: int
    changes: list[dict[str, Any]]
    stopped: list[str]
    size: int


def replay(
    file: PolicyArgument,
    *,
    domain: Annotated[
        str,
        typer.Option(
            "--domain", metavar="DOMAIN", help="As the policies of this one; the own if not said."
        ),
    ] = "",
    is_federation: Annotated[
        bool, typer.Option("--federation", help="As the policies of the federation.")
    ] = False,
    first: Annotated[
        int, typer.Option("--from", min=0, max=MAX_INTEGER, help="The first entry that counts.")
    ] = 0,
    last: Annotated[
        int | None,
        typer.Option("--to", min=0, max=MAX_INTEGER, help="The last one; the newest if not said."),
    ] = None,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    genesis: GenesisOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Try policies on what the ledger recorded: which decisions about leases would be others?

    The ledger is fetched, and decided again. Exits 3 when something would be decided otherwise, or
    a lease that is in force now would be interrupted.
    """
    text, owner = read_policies(file), _owner(domain, org, is_federation=is_federation)
    target, founding = choose_target(org, client, address), choose_genesis(org, genesis)
    quiet = output is Output.JSON
    with Connection(target) as connection, progress_bar(quiet=quiet) as progress:
        task = progress.add_task("deciding again", total=None)
        past = Past(
            connection,
            founding,
            timeout,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
        if last is not None:
            past.require(last)
        found = _walk(past, owner, text, first, past.size if last is None else last + 1)
        checkpoint = past.verify()
    value = {
        "owner": owner,
        "from": first,
        "to": found.size - 1,
        "decisions": found.decisions,
        "changes": found.changes,
        "would_be_interrupted": found.stopped,
        "verified": {"size": checkpoint.size, "root": checkpoint.root.hex()},
    }
    show(output, value, lambda on: _print(on, found))
    if found.changes or found.stopped:
        raise typer.Exit(ExitCode.DENIED)


def _owner(domain: str, org: Any, *, is_federation: bool) -> str:
    if is_federation:
        if domain:
            raise MalformedError("give --domain or --federation, not both")
        return BY_BALLOT
    if domain:
        ids.check_domain(domain)
        return domain
    if org is None:
        raise MalformedError("as whose policies? Give --domain or --federation")
    return Organisation.load(org).domain


def _walk(past: Past, owner: str, text: str, first: int, size: int) -> _Found:
    count, changes = 0, []
    for entry in past.walk_to(size):
        if entry.seq < first or entry.kind not in _LOOKED_AT:
            continue
        supposed = past.supposed(owner, text)
        was = _decide(past.view, entry)
        recorded = None if entry.reason is None else Deny(entry.reason, entry.thing)
        if supposed is None or was != recorded:
            continue  # it was denied for something else: as a command, or as a repeat
        count += 1
        would = _decide(supposed, entry)
        if (was is None) != (would is None):
            changes.append(_change(entry, was, would))
    return _Found(count, changes, _stopped(past, owner, text), size)


def _stopped(past: Past, owner: str, text: str) -> list[str]:
    """The leases that are in force after the last entry, and would not be."""
    view, supposed = past.view, past.supposed(owner, text)
    now = view.ledger_time()
    if supposed is None:
        return []
    return [
        lease.id
        for lease in view.leases()
        if review(view, lease, now) is None and review(supposed, lease, now) is not None
    ]


def _command(entry: Entry) -> AcquireLease | RenewLease:
    body = parse_command(dsse.from_json(entry.command, "command").payload).body
    assert isinstance(body, AcquireLease | RenewLease), "of these types alone"
    return body


def _decide(view: StateView, entry: Entry) -> Deny | None:
    """Why the lease is denied at this state; None: it is not."""
    body = _command(entry)
    if isinstance(body, RenewLease):
        lease = held_lease(view, body.lease, body.executor)
        return lease if isinstance(lease, Deny) else review(view, lease, entry.time)
    request = DecisionRequest(body.executor, body.action, body.resource, body.context)
    route = choose_route(view, request, entry.time)
    return route if isinstance(route, Deny) else broken_parent(view, body.parents, entry.time)


def _change(entry: Entry, was: Deny | None, would: Deny | None) -> dict[str, Any]:
    body = _command(entry)
    about = f"{body.action} on {body.resource}" if isinstance(body, AcquireLease) else body.lease
    return {
        "index": entry.seq,
        "type": entry.kind,
        "executor": body.executor,
        "about": about,
        "was": _words(was),
        "would_be": _words(would),
    }


def _words(denied: Deny | None) -> str:
    return "permitted" if denied is None else f"{denied.reason} {denied.thing}"


def _print(on: Console, found: _Found) -> None:
    if found.changes:
        columns = ("index", "type", "executor", "about", "was", "would_be")
        rows = [[each[name] for name in columns] for each in found.changes]
        on.print(table([name.replace("_", " ") for name in columns], rows))
    on.print(f"{len(found.changes)} of {found.decisions} decisions would be others")
    for lease in found.stopped:
        on.print(f"interrupted now: {lease}")
