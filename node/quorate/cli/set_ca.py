"""`quorate domain set-ca`: another CA for the own organisation, in two steps.

There is no way to do both in one: a node whose certificate is worth nothing from that very entry on
is cut off before it has heard that the entry is decided."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from quorate.cli.connection import Connection, operator_target
from quorate.cli.govern import govern
from quorate.cli.key_sets import body_of, find_domain
from quorate.cli.options import DEFAULT_TIMEOUT_MS, AddressOption, OrgOption, TimeoutOption
from quorate.cli.output import Output, OutputOption, facts, show
from quorate.core.bodies import RekeyDomain
from quorate.core.errors import ConfigurationError
from quorate.core.records import Domain
from quorate.node.certificates import issued_by
from quorate.node.fresh_ca import FreshCa
from quorate.node.identity import read_public
from quorate.node.organisation import OPERATOR_CERTIFICATE_FILE, Organisation


def set_ca(
    *,
    org: OrgOption,
    finish: Annotated[
        bool,
        typer.Option("--finish", help="The second step: trust the new CA alone from now on."),
    ] = False,
    back: Annotated[
        bool,
        typer.Option("--back", help="With --finish: trust the older CA alone, as it was before."),
    ] = False,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Give the organisation another CA.

    First a new one is made, and certificates of both are trusted; then renew the certificates of
    nodes, operators and executors; then say --finish. Can be repeated after an interruption: it
    goes on where it was. The old CA stays in the directory as .old.
    """
    organisation = Organisation.load(org)
    fresh = FreshCa(org)
    with Connection(operator_target(organisation, address)) as connection:
        domain = find_domain(connection, organisation.domain, timeout)
    if fresh.next in domain.authorities:  # taken, and nobody was left to put it in its place
        fresh.adopt(domain.authorities)
        if not finish:
            _show(domain, output)
            return
    if finish and not domain.next_ca and fresh.present == domain.ca_certificate:
        fresh.trust(domain.authorities)
        _show(domain, output)
        return
    wanted = _finished(organisation, domain, fresh, back) if finish else _begun(domain, fresh)
    govern(
        org,
        "domain.rekey",
        body_of(
            RekeyDomain(
                domain.id, domain.governance_key, domain.cosigner_key, domain.key_set, wanted
            )
        ),
        timeout_ms=timeout,
        output=output,
        address=address,
        on_accepted=lambda: fresh.trust(wanted) if finish else fresh.adopt(wanted),
    )


def _begun(domain: Domain, fresh: FreshCa) -> tuple[str, ...]:
    """Whom to trust with a CA that is new."""
    if domain.next_ca:
        raise ConfigurationError(
            f"{domain.id} has two CAs already",
            hint="renew what the older one has issued, and say --finish",
        )
    return domain.ca_certificate, fresh.make(domain.id)


def _finished(
    organisation: Organisation, domain: Domain, fresh: FreshCa, back: bool
) -> tuple[str, ...]:
    """Whom to trust when one of two CAs is to go: the older one, unless it is said otherwise."""
    present = fresh.present
    stays = domain.ca_certificate if back else domain.next_ca
    if domain.next_ca and present in domain.authorities and present != stays:
        raise ConfigurationError(
            f"the CA in {organisation.directory} is the {'newer' if back else 'older'} one",
            hint="find the directory with the other; --back is for the older CA, which may have "
            "been stolen, to be the only one again",
        )
    if present not in domain.authorities:
        raise ConfigurationError(
            f"the CA in {organisation.directory} is none that the federation knows",
            hint="find the directory, or the backup, with the present one",
        )
    operator = organisation.directory / OPERATOR_CERTIFICATE_FILE
    for file, verb in ((organisation.config.tls.certificate, "node"), (operator, "operator")):
        if file.exists() and not issued_by(read_public(file), present.encode("ascii")):
            raise ConfigurationError(
                f"{file} is of the older CA, and would be worth nothing",
                hint=f"renew it first: `quorate {verb} renew`",
            )
    return (present,)


def _show(domain: Domain, output: Output) -> None:
    value = {
        "type": "domain.rekey",
        "domain": domain.id,
        "ca_certificates": len(domain.authorities),
    }

    def people(console: Console) -> None:
        console.print("[bold green]taken[/] already; the directory has it now")
        console.print(facts(value.items()))

    show(output, value, people)
