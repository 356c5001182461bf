"""`quorate policy`: an organisation's policies, and what policies would decide.

Owns publishing, retiring, showing and checking. Cases are tried in `quorate.cli.policy_cases`, and
the past in `quorate.cli.policy_replay`; the federation's policies are proposed in
`quorate.cli.proposing`.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from quorate.cli.connection import Connection, choose_target
from quorate.cli.domain import WaitOption
from quorate.cli.govern import govern
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    OrgOption,
    TimeoutOption,
)
from quorate.cli.output import Output, OutputOption, facts, show
from quorate.cli.policy_cases import try_cases
from quorate.cli.policy_files import PolicyArgument, read_policies
from quorate.cli.policy_replay import replay
from quorate.cli.proposing import read
from quorate.cli.queries import read_records
from quorate.cli.submit import Wait
from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.core.records import BY_BALLOT, Policies, digest_of
from quorate.node.organisation import Organisation
from quorate.v1 import governance_pb2

app = typer.Typer(
    add_completion=False,
    help="Publish, retire and show policies; try them on cases, and on what the ledger recorded.",
)
app.command("test")(try_cases)
app.command("replay")(replay)


@app.command("publish")
def publish(
    file: PolicyArgument,
    *,
    org: OrgOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Put the organisation's policies in force, in the place of those that it has.

    Leases that they do not permit are interrupted, and those that they permit again go on.
    """
    body = {"text": read_policies(file)}
    govern(
        org, "policy.publish", body, timeout_ms=timeout, output=output, address=address, wait=wait
    )


@app.command("retire")
def retire(
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End the organisation's policies: it has none then, and no say by them."""
    govern(org, "policy.retire", {}, timeout_ms=timeout, output=output, address=address)


@app.command("show")
def show_policies(
    *,
    domain: Annotated[
        str,
        typer.Option("--domain", metavar="DOMAIN", help="Of this one; the own if not said."),
    ] = "",
    is_federation: Annotated[
        bool, typer.Option("--federation", help="Those that the organisations have agreed on.")
    ] = False,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show which policies are in force, and since when."""
    if is_federation and domain:
        raise MalformedError("give --domain or --federation, not both")
    owner = BY_BALLOT if is_federation else domain
    if not owner:
        if org is None:
            raise MalformedError("whose policies? Give --domain or --federation")
        owner = Organisation.load(org).domain
    elif not is_federation:
        ids.check_domain(owner)
    with Connection(choose_target(org, client, address)) as connection:
        records, first, _ = read_records(
            connection, governance_pb2.KIND_POLICIES, at_least, timeout
        )
    found = next((each for each in records if each.get("id") == owner), None)
    policies = None if found is None else read(Policies.from_json, found)
    text = "" if policies is None else policies.text
    value = {
        "owner": owner,
        "in_force": bool(text),
        "version": 0 if policies is None else policies.version,
        "sha256": digest_of(text) if text else "",
        "ledger_index": None if policies is None else policies.changed,
        "text": text,
        "ledger_size": first.position.size,
    }

    def people(on: Console) -> None:
        names = ("owner", "in_force", "version", "sha256", "ledger_index")
        on.print(facts([(name.replace("_", " "), value[name]) for name in names]))
        if text:
            on.print(text.rstrip("\n"), markup=False)

    show(output, value, people)


@app.command("check")
def check(file: PolicyArgument, *, output: OutputOption = Output.TEXT) -> None:
    """Look at a file as the ledger would, without any node: may it be published?"""
    text = read_policies(file)
    value = {"file": str(file), "sha256": digest_of(text), "bytes": len(text)}
    show(output, value, lambda on: on.print(facts([("may be published", True), *value.items()])))
