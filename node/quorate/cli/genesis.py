"""`quorate genesis`: drafting, signing and verifying the document that a federation begins with."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.hazmat.primitives.hashes import SHA256
from rich.console import Console
from rich.markup import escape

from quorate.cli.errors import VerificationError
from quorate.cli.options import duration_ms, now_ms
from quorate.cli.output import Output, OutputOption, console, facts, moment, show
from quorate.cli.signers import signers_of
from quorate.core import codec, dsse
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.genesis import (
    Descriptor,
    Genesis,
    build_genesis_payload,
    parse_draft,
    parse_genesis,
)
from quorate.core.limits import (
    DEFAULT_AUTHORITY_PERIOD_MS,
    DEFAULT_MAX_PERMIT_TTL_MS,
    DEFAULT_MAX_SKEW_MS,
    DEFAULT_RHO_PPM,
    MAX_DOMAINS,
    MAX_GENESIS_BYTES,
)
from quorate.core.records import Parameters
from quorate.node.certificates import check_ca, parse_certificate
from quorate.node.identity import read_public, replace_public, write_public
from quorate.node.organisation import Organisation, read_descriptor
from quorate.proofs.signing import Signer, sign_envelope

app = typer.Typer(add_completion=False, help="The document that a federation begins with.")

GenesisArgument = Annotated[
    Path, typer.Argument(metavar="GENESIS", help="The genesis.json, signed or not.")
]
_HINT: Final = "ask for a new draft; do not sign this one"


@app.command("draft")
def draft(
    descriptors: Annotated[
        list[Path],
        typer.Argument(metavar="DESCRIPTOR...", help="The descriptor.json of every organisation."),
    ],
    *,
    origin: Annotated[
        str, typer.Option("--origin", help="The ledger's name: quorate.example/federation-1.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")],
    authority_period: Annotated[
        int,
        typer.Option(
            "--authority-period",
            parser=duration_ms,
            metavar="DURATION",
            show_default="2s",
            help="How long after a quorum confirmed it a node may permit.",
        ),
    ] = DEFAULT_AUTHORITY_PERIOD_MS,
    max_permit_ttl: Annotated[
        int,
        typer.Option(
            "--max-permit-ttl",
            parser=duration_ms,
            metavar="DURATION",
            show_default="1s",
            help="How long an executor may rely on one permit.",
        ),
    ] = DEFAULT_MAX_PERMIT_TTL_MS,
    rho_ppm: Annotated[
        int, typer.Option("--rho-ppm", help="How far clock rates differ, parts per million.")
    ] = DEFAULT_RHO_PPM,
    max_skew: Annotated[
        int,
        typer.Option(
            "--max-skew",
            parser=duration_ms,
            metavar="DURATION",
            show_default="5s",
            help="How far off a node's wall clock may be for it to lead.",
        ),
    ] = DEFAULT_MAX_SKEW_MS,
    output: OutputOption = Output.TEXT,
) -> None:
    """Combine the organisations' signed descriptors into a genesis, for each of them to sign."""
    if len(descriptors) > MAX_DOMAINS:
        raise MalformedError(f"a federation has at most {MAX_DOMAINS} organisations")
    members = [read_descriptor(path) for path in descriptors]
    parameters = Parameters(authority_period, max_permit_ttl, rho_ppm, max_skew)
    payload = build_genesis_payload(
        origin, now_ms(), parameters, [member.envelope.to_bytes() for member in members]
    )
    write_public(out, sign_envelope(dsse.GENESIS_TYPE, payload))
    genesis, _ = _read(out)
    show(output, {"file": str(out), **_summary(genesis, ())}, lambda on: _review(on, genesis, ()))


@app.command("sign")
def sign(
    org: Annotated[Path, typer.Argument(metavar="ORGDIR", help="The organisation's directory.")],
    file: GenesisArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Sign without asking.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Verify a genesis, show what it says, and add the organisation's signature to the file."""
    organisation = Organisation.load(org)
    genesis, signed = _read(file)
    key = _check_membership(organisation, genesis)
    if organisation.domain not in signed:
        # What is signed is shown first, always; to stderr when stdout is a program's.
        _review(console(error=output is Output.JSON), genesis, signed)
        if not yes:
            typer.confirm(f"Sign this as {organisation.domain}?", abort=True, err=True)
        _add_signature(file, genesis, signed, key)
        genesis, signed = _read(file)
    value = {"file": str(file), "signed_as": organisation.domain, **_summary(genesis, signed)}

    def people(on: Console) -> None:
        missing = [d.domain for d in genesis.descriptors if d.domain not in signed]
        state = f"still to sign: {', '.join(missing)}" if missing else "everybody has signed"
        on.print(f"[bold green]signed[/] as {organisation.domain}; {state}")

    show(output, value, people)


@app.command("verify")
def verify(file: GenesisArgument, *, output: OutputOption = Output.TEXT) -> None:
    """Verify that every organisation in a genesis has signed it. Exits 6 if not."""
    genesis, signed = _read(file)
    missing = [item.domain for item in genesis.descriptors if item.domain not in signed]
    if missing:
        raise VerificationError(
            f"{file} is not signed by {', '.join(missing)}",
            hint=f"each of them runs `quorate genesis sign ORGDIR {file.name}`",
        )
    try:
        parse_genesis(genesis.envelope.to_bytes())
    except MalformedError as error:  # the last word on what a node will accept
        raise VerificationError(f"{file}: {error}", hint=_HINT) from error
    value = {"file": str(file), "valid": True, **_summary(genesis, signed)}

    def people(on: Console) -> None:
        _review(on, genesis, signed)
        on.print("[bold green]valid[/]: every organisation has signed")

    show(output, value, people)


def _read(file: Path) -> tuple[Genesis, Sequence[str]]:
    """A genesis or draft, every descriptor in it verified, and who has signed.

    Raises VerificationError for anything malformed, and for a signature that is nobody's.
    """
    data = read_public(file, MAX_GENESIS_BYTES)
    try:
        unsigned = _fill_in(data)
        genesis, signed = parse_draft(unsigned or data)
        if unsigned is not None:
            genesis = replace(genesis, envelope=replace(genesis.envelope, signatures=()))
        for item in genesis.descriptors:
            check_ca(item.ca_certificate.encode(), item.domain)
    except MalformedError as error:
        raise VerificationError(f"{file} is no valid genesis: {error}", hint=_HINT) from error
    if len(genesis.envelope.signatures) != len(signed):
        raise VerificationError(f"{file} has a signature that is no member's", hint=_HINT)
    return genesis, signed


def _fill_in(data: bytes) -> bytes | None:
    """A draft that nobody has signed yet, with a signature of nobody's in it, so that it parses:
    DSSE knows no envelope without one. None when `data` has signatures."""
    value = codec.decode(data, MAX_GENESIS_BYTES)
    if not isinstance(value, dict) or value.get("signatures") != []:
        return None
    blank = {"keyid": "0" * 64, "sig": b64encode(bytes(dsse.SIGNATURE_BYTES)).decode()}
    return codec.encode({**value, "signatures": [blank]})


def _check_membership(organisation: Organisation, genesis: Genesis) -> Signer:
    """The genesis must describe this organisation exactly as it described itself; who signs."""
    own = organisation.descriptor()
    listed = next((d for d in genesis.descriptors if d.domain == organisation.domain), None)
    if listed is None:
        raise VerificationError(f"{organisation.domain} is not in this genesis", hint=_HINT)
    if listed.envelope != own.envelope:
        raise VerificationError(
            f"the genesis describes {organisation.domain} otherwise than its own descriptor.json",
            hint=_HINT,
        )
    [key, *others] = signers_of(organisation)
    if others or key.public != own.governance_key:
        raise ConfigurationError(
            "governance.key is not the key that descriptor.json names",
            hint="restore the directory as `quorate init` made it",
        )
    return key


def _add_signature(file: Path, genesis: Genesis, signed: Sequence[str], key: Signer) -> None:
    message = dsse.pae(dsse.GENESIS_TYPE, genesis.envelope.payload)
    mine = dsse.Signature(key.keyid, key.sign(message))
    by_key = {item.keyid: item for item in (*genesis.envelope.signatures, mine)}
    # In the order of the domains: whoever signs last, the bytes (and the genesis hash) come out
    # the same.
    order = [dsse.key_id(item.governance_key) for item in genesis.descriptors]
    signatures = tuple(by_key[keyid] for keyid in order if keyid in by_key)
    assert len(signatures) == len(signed) + 1
    replace_public(file, replace(genesis.envelope, signatures=signatures).to_bytes())


def _summary(genesis: Genesis, signed: Sequence[str]) -> dict[str, object]:
    complete = len(signed) == len(genesis.descriptors)
    return {
        "origin": genesis.origin,
        "created_ms": genesis.created,
        "parameters": genesis.parameters.to_json(),
        "hash": genesis.hash.hex() if complete else None,
        "complete": complete,
        "domains": [
            {"domain": item.domain, "signed": item.domain in signed, **_member(item)}
            for item in genesis.descriptors
        ],
    }


def _review(on: Console, genesis: Genesis, signed: Sequence[str]) -> None:
    """Everything that a signature is given for."""
    on.print(f"[bold]genesis of[/] {escape(genesis.origin)}")
    parameters = genesis.parameters
    on.print(
        facts(
            [
                ("created", moment(genesis.created)),
                ("authority period", f"{parameters.authority_period_ms} ms"),
                ("longest permit", f"{parameters.max_permit_ttl_ms} ms"),
                ("clock rates differ by", f"{parameters.rho_ppm} ppm"),
                ("clock skew of a leader", f"{parameters.max_skew_ms} ms"),
            ]
        )
    )
    for item in genesis.descriptors:
        on.print(f"[bold]{escape(item.domain)}[/]")
        shown = {**_member(item), "signed": item.domain in signed}
        on.print(facts((name.replace("_", " "), value) for name, value in shown.items()))


def _member(item: Descriptor) -> dict[str, object]:
    """What a descriptor commits to, with keys as their key ids."""
    certificate = parse_certificate(item.ca_certificate.encode())
    return {
        "node_id": item.node.id,
        "peer_address": item.node.peer_address,
        "governance_key_id": dsse.key_id(item.governance_key),
        "cosigner_key_id": dsse.key_id(item.cosigner_key),
        "signing_key_id": dsse.key_id(item.node.signing_key),
        "log_key_id": dsse.key_id(item.node.log_key),
        "ca_fingerprint": certificate.fingerprint(SHA256()).hex(),
    }
