"""`quorate domain set-keys` and `keys`: which keys an organisation has, and how many have to sign.

Owns how a set of keys is said, and who still has to sign it. `quorate domain rekey`, which makes
new keys in the organisation's directory, is `quorate.cli.rekey`'s.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from quorate.cli.connection import Connection, choose_target, operator_target
from quorate.cli.errors import RefusedError
from quorate.cli.given import given
from quorate.cli.govern import govern
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    OrgOption,
    TimeoutOption,
    expiry_ms,
    now_ms,
)
from quorate.cli.output import Output, OutputOption, facts, moment, show
from quorate.cli.queries import read_records
from quorate.cli.signers import load_signers
from quorate.core import dsse
from quorate.core.bodies import RekeyDomain
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.keysets import KeySet, fresh_keys, governance_keys, key_set_of
from quorate.core.records import Domain
from quorate.node.identity import read_public
from quorate.node.organisation import GOVERNANCE_KEY_FILE, Organisation
from quorate.proofs.signing import Signer
from quorate.v1 import governance_pb2

NEVER: Final = "never"
NONE: Final = "none"
_PUBLIC_BYTES: Final = 1024

PublicKeys = Annotated[
    list[str] | None,
    typer.Option(
        "--governance",
        metavar="PUBLIC",
        help="A governance key, as `quorate key show` has it: 64 hex digits, or a file with them. "
        "Repeatable: all of them. Else those that there are.",
    ),
]


def set_keys(
    *,
    org: OrgOption,
    governance: PublicKeys = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", min=1, max=9, help="How many governance keys have to sign."),
    ] = None,
    recovery: Annotated[
        list[str] | None,
        typer.Option(
            "--recovery",
            metavar="PUBLIC",
            help="A key kept offline, which signs nothing but new keys; all of them, or none.",
        ),
    ] = None,
    recovery_threshold: Annotated[
        int | None,
        typer.Option("--recovery-threshold", min=1, max=9, help="How many of those have to sign."),
    ] = None,
    cosigner: Annotated[
        str | None, typer.Option("--cosigner", metavar="PUBLIC", help="Another cosigner key.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            metavar="WHEN",
            help="Until when the governance keys do more than narrow: 365d, a moment, or never.",
        ),
    ] = None,
    signed_by: Annotated[
        list[str] | None,
        typer.Option(
            "--signed-by",
            metavar="KEY",
            help="What signs beside the governance key: each new key has to, and recovery keys do "
            "where they decide. A file, - for stdin, or a pkcs11: URI. Repeatable.",
        ),
    ] = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Say which keys the organisation has from now on, and how many of them have to sign.

    What is not said stays as the ledger has it. Where not all that have to sign are at hand, give
    --save FILE before `domain`, and have the others sign the file.
    """
    organisation = Organisation.load(org)
    with Connection(operator_target(organisation, address)) as connection:
        domain = find_domain(connection, organisation.domain, timeout)
    wanted = _wanted(
        domain,
        _Wishes(governance, threshold, recovery, recovery_threshold, cosigner, expires),
    )
    body = body_of(wanted)
    signers = _signers(organisation, signed_by or (), domain, wanted)
    if given().save is None:
        refuse_missing(domain, wanted, [signer.public.hex() for signer in signers])
    if not signers:
        raise ConfigurationError(
            "nobody signs this", hint="give --governance-key before `domain`, or --signed-by"
        )
    govern(
        org,
        "domain.rekey",
        body,
        timeout_ms=timeout,
        output=output,
        address=address,
        signers=signers,
    )


def show_keys(
    domain: Annotated[
        str, typer.Argument(metavar="[DOMAIN]", help="The own one, unless another is named.")
    ] = "",
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show which keys and CAs an organisation has, how many keys have to sign, and until when."""
    target = choose_target(org, client, address)
    with Connection(target) as connection:
        found = find_domain(connection, domain or target.domain, timeout, at_least)
    key_set = key_set_of(found)
    value = {
        "domain": found.id,
        "governance_keys": list(governance_keys(found)),
        "threshold": key_set.threshold,
        "cosigner_key": found.cosigner_key,
        "recovery_keys": list(key_set.recovery_keys),
        "recovery_threshold": key_set.recovery_threshold,
        "not_after_ms": key_set.not_after,
        "rekeyings": found.rekeyings,
        "ca_fingerprints": [_fingerprint(each) for each in found.authorities],
    }

    def people(console: Console) -> None:
        console.print(f"[bold]{found.id}[/]")
        rows: list[tuple[str, object]] = [("governance key", key) for key in governance_keys(found)]
        rows.append(("have to sign", key_set.threshold))
        rows.append(("expire", moment(key_set.not_after) if key_set.not_after else NEVER))
        rows += [("recovery key", key) for key in key_set.recovery_keys]
        if key_set.recovery_keys:
            rows.append(("have to sign", key_set.recovery_threshold))
        rows += [("cosigner key", found.cosigner_key), ("changed", f"{found.rekeyings} times")]
        rows += [("CA, SHA-256", _fingerprint(each)) for each in found.authorities]
        console.print(facts(rows))

    show(output, value, people)


def _fingerprint(pem: str) -> str:
    """As `quorate genesis verify` has it; a certificate of no use has one, too."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def find_domain(connection: Connection, name: str, timeout_ms: int, at_least: int = 0) -> Domain:
    """The record of a domain, as the node has it. Raises ConfigurationError."""
    kind = governance_pb2.KIND_DOMAIN
    found, _, _ = read_records(connection, kind, at_least, timeout_ms)
    record = next((each for each in found if each.get("id") == name), None)
    if record is None:
        raise ConfigurationError(f"{name} is no member of the federation")
    try:
        return Domain.from_json(record)
    except MalformedError as error:  # the person who asked is not to blame
        raise RefusedError(f"this version cannot read the node's answer: {error}") from error


def body_of(wanted: RekeyDomain) -> dict[str, Any]:
    """Of the command, as it is signed."""
    said: dict[str, Any] = {
        "domain": wanted.domain,
        "governance_key": wanted.governance_key,
        "cosigner_key": wanted.cosigner_key,
    }
    if wanted.authorities:
        said["ca_certificates"] = list(wanted.authorities)
    return said if wanted.key_set is None else said | {"key_set": wanted.key_set.to_json()}


def key_set_or_none(key_set: KeySet) -> KeySet | None:
    """Nothing is said of a set that says nothing."""
    return None if key_set == KeySet((), 1, (), 0, 0) else key_set


def refuse_missing(domain: Domain, wanted: RekeyDomain, signed: Sequence[str]) -> None:
    """Raises ConfigurationError when it is clear by now that the ledger would deny it, as too few
    have signed. What it says in the end is the ledger's."""
    missing = [key for key in fresh_keys(domain, wanted) if key not in signed]
    if missing:
        ids = ", ".join(dsse.key_id(dsse.parse_public_key(key))[:16] for key in missing)
        raise ConfigurationError(
            f"each new key has to sign, too, and these do not: {ids}",
            hint="give --signed-by for each; or --save FILE before `domain`, and have them sign it",
        )
    has = key_set_of(domain)
    governing = sum(key in signed for key in governance_keys(domain))
    recovering = sum(key in signed for key in has.recovery_keys)
    if governing < has.threshold and not 0 < has.recovery_threshold <= recovering:
        raise ConfigurationError(
            f"{governing} of the {has.threshold} governance keys that have to sign are here",
            hint="give --governance-key for each before `domain`; or --save FILE there, and have "
            "the others sign it",
        )


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What was said; None: stays as it is."""

    governance: list[str] | None
    threshold: int | None
    recovery: list[str] | None
    recovery_threshold: int | None
    cosigner: str | None
    expires: str | None


def _wanted(domain: Domain, wishes: _Wishes) -> RekeyDomain:
    has = key_set_of(domain)
    governing = list(governance_keys(domain))
    if wishes.governance is not None:
        governing = [_public(text) for text in wishes.governance]
    threshold = has.threshold if wishes.threshold is None else wishes.threshold
    recovery, recovery_threshold = list(has.recovery_keys), has.recovery_threshold
    if wishes.recovery == [NONE]:
        recovery, recovery_threshold = [], 0
    elif wishes.recovery is not None:
        recovery = [_public(text) for text in wishes.recovery]
        recovery_threshold = recovery_threshold or 1
    if wishes.recovery_threshold is not None:
        recovery_threshold = wishes.recovery_threshold
    first = domain.governance_key if domain.governance_key in governing else governing[0]
    not_after = has.not_after
    if wishes.expires is not None:
        not_after = 0 if wishes.expires == NEVER else expiry_ms(wishes.expires, now_ms())
    wanted = KeySet(
        tuple(sorted(key for key in governing if key != first)),
        threshold,
        tuple(sorted(recovery)),
        recovery_threshold,
        not_after,
    )
    return RekeyDomain(
        domain=domain.id,
        governance_key=first,
        cosigner_key=domain.cosigner_key if wishes.cosigner is None else _public(wishes.cosigner),
        key_set=key_set_or_none(wanted),
    )


def _public(text: str) -> str:
    """A public key that was given, or is in a file. Raises MalformedError."""
    if Path(text).is_file():
        text = read_public(Path(text), _PUBLIC_BYTES).decode("ascii", "replace").strip()
    try:
        dsse.parse_public_key(text)
    except MalformedError as error:
        raise MalformedError(
            f"'{text[:80]}' is no public key: {error.problem}",
            hint="give the 64 hex digits that `quorate key show` shows",
        ) from error
    return text


def _signers(
    organisation: Organisation, more: Sequence[str], domain: Domain, wanted: RekeyDomain
) -> list[Signer]:
    """Those given; with the key in the directory where none was given to govern, if it is of use.
    After a loss it may not be there."""
    known = {*governance_keys(domain), *governance_keys(wanted)}
    places = given().governance_keys
    file = organisation.directory / GOVERNANCE_KEY_FILE
    own: list[Signer] = []
    if not places and file.is_file():
        own = [key for key in [organisation.governance_key()] if key.public.hex() in known]
    found = {signer.keyid: signer for signer in own}
    for signer in load_signers([*places, *more]):
        found.setdefault(signer.keyid, signer)
    return list(found.values())
