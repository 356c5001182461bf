"""`quorate domain rekey`: new keys for the own organisation, signed by the old."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from quorate.cli.connection import Connection, operator_target
from quorate.cli.given import given
from quorate.cli.govern import govern
from quorate.cli.key_sets import body_of, find_domain, key_set_or_none, refuse_missing
from quorate.cli.options import DEFAULT_TIMEOUT_MS, AddressOption, OrgOption, TimeoutOption
from quorate.cli.output import Output, OutputOption, facts, show
from quorate.cli.signers import load_signers
from quorate.core.bodies import RekeyDomain
from quorate.core.keysets import governance_keys, key_set_of
from quorate.core.records import Domain
from quorate.node.fresh_keys import FreshKeys
from quorate.node.identity import load_signing_key
from quorate.node.organisation import GOVERNANCE_KEY_FILE, Organisation


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
    with Connection(operator_target(organisation, address)) as connection:
        domain = find_domain(connection, organisation.domain, timeout)
    known = _known(org, domain)
    fresh = FreshKeys(org, known)
    if fresh.was_interrupted:  # the ledger took them, and nobody was left to put them in place
        _show(known, output)
        return
    if only is not Only.COSIGNER:
        fresh.governance.renew()
    if only is not Only.GOVERNANCE:
        fresh.cosigner.renew()
    wanted = _wanted(domain, known[0], fresh)
    new = (fresh.governance.wanted, fresh.cosigner.wanted)
    own = [organisation.governance_key(), *(key for key in new if key is not None)]
    others = load_signers(given().governance_keys)
    signers = [*own, *(key for key in others if key.keyid not in {each.keyid for each in own})]
    if given().save is None:
        refuse_missing(domain, wanted, [signer.public.hex() for signer in signers])
    govern(
        org,
        "domain.rekey",
        body_of(wanted),
        timeout_ms=timeout,
        output=output,
        address=address,
        signers=signers,
        on_accepted=fresh.adopt,
    )


def _known(org: Path, domain: Domain) -> tuple[str, str]:
    """The organisation's keys as the ledger has them: of several governance keys that one which is
    in the directory, or was made to be."""
    present = load_signing_key(org / GOVERNANCE_KEY_FILE).public.hex()
    coming = org / f"{GOVERNANCE_KEY_FILE}.next"
    made = load_signing_key(coming).public.hex() if coming.exists() else ""
    of_set = governance_keys(domain)
    governance = next((key for key in (made, present) if key in of_set), domain.governance_key)
    return governance, domain.cosigner_key


def _wanted(domain: Domain, known: str, fresh: FreshKeys) -> RekeyDomain:
    """The same set, with the new key in the place of the one in the directory."""
    first, *others = (
        fresh.governance.public if key == known else key for key in governance_keys(domain)
    )
    key_set = replace(key_set_of(domain), governance_keys=tuple(sorted(others)))
    return RekeyDomain(domain.id, first, fresh.cosigner.public, key_set_or_none(key_set))


def _show(known: tuple[str, str], output: Output) -> None:
    names = ("governance_key", "cosigner_key")
    value = {"type": "domain.rekey", **dict(zip(names, known, strict=True))}

    def people(console: Console) -> None:
        console.print("[bold green]taken[/] already; the directory has them now")
        console.print(facts(value.items()))

    show(output, value, people)
