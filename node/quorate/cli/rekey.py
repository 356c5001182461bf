"""`quorate domain rekey`: new keys for the own organisation, signed by the old."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from quorate.cli.connection import Connection, operator_target
from quorate.cli.govern import govern
from quorate.cli.options import DEFAULT_TIMEOUT_MS, AddressOption, OrgOption, TimeoutOption
from quorate.cli.output import Output, OutputOption, facts, show
from quorate.cli.queries import read_records
from quorate.core.errors import ConfigurationError
from quorate.node.fresh_keys import FreshKeys
from quorate.node.organisation import Organisation
from quorate.v1 import governance_pb2


class Only(StrEnum):
    """One of the two keys."""

    GOVERNANCE = "governance"
    COSIGNER = "cosigner"


def rekey(
    *,
    org: OrgOption,
    only: Annotated[
        Only | None, typer.Option("--only", help="Renew one of the two keys. Both by default.")
    ] = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Give the organisation new keys, and let the old ones sign nothing any more.

    Can be repeated after an interruption: it goes on where it was. The old keys stay in the
    directory as .old; remove them when a backup has the new ones.
    """
    organisation = Organisation.load(org)
    known = _known(organisation, address, timeout)
    fresh = FreshKeys(org, known)
    if fresh.was_interrupted:  # the ledger took them, and nobody was left to put them in place
        _show(known, output)
        return
    if only is not Only.COSIGNER:
        fresh.governance.renew()
    if only is not Only.GOVERNANCE:
        fresh.cosigner.renew()
    body = {
        "domain": organisation.domain,
        "governance_key": fresh.governance.public,
        "cosigner_key": fresh.cosigner.public,
    }
    new = (fresh.governance.wanted, fresh.cosigner.wanted)
    govern(
        org,
        "domain.rekey",
        body,
        timeout_ms=timeout,
        output=output,
        address=address,
        also_signed_by=[key for key in new if key is not None],
        on_accepted=fresh.adopt,
    )


def _known(organisation: Organisation, address: str, timeout: int) -> tuple[str, str]:
    """The organisation's keys as its node's state has them."""
    with Connection(operator_target(organisation, address)) as connection:
        found, _, _ = read_records(connection, governance_pb2.KIND_DOMAIN, 0, timeout)
    own = next((each for each in found if each.get("id") == organisation.domain), None)
    if own is None:
        raise ConfigurationError(f"{organisation.domain} is no member of the federation")
    return str(own.get("governance_key")), str(own.get("cosigner_key"))


def _show(known: tuple[str, str], output: Output) -> None:
    names = ("governance_key", "cosigner_key")
    value = {"type": "domain.rekey", **dict(zip(names, known, strict=True))}

    def people(console: Console) -> None:
        console.print("[bold green]taken[/] already; the directory has them now")
        console.print(facts(value.items()))

    show(output, value, people)
