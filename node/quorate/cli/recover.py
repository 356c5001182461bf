"""`quorate federation recover`: how the survivors go on when the quorum is lost for good.

Owns what the steps say and what a person signs. `quorate.cli.federation` is where they hang; what
they do is in `quorate.node.recover`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.errors import VerificationError
from quorate.cli.output import Output, OutputOption, console, facts, moment, show
from quorate.cli.signers import signers_of
from quorate.cli.store import ConfigOption, damage, progress
from quorate.core import dsse
from quorate.core.errors import ConfigurationError
from quorate.core.recovery import Recovery, governance_keys_of, signatures_missing
from quorate.node import recover
from quorate.node.config import load_config
from quorate.node.former import check_former
from quorate.node.identity import replace_public, write_public
from quorate.node.organisation import Organisation, read_genesis
from quorate.node.store_care import Tell
from quorate.node.survivors import Summary, read_summary, summarise
from quorate.proofs.signing import Signer

app = typer.Typer(
    add_completion=False,
    help="Go on without a quorum that is lost for good: a new ledger, begun by all who survive.",
)

DirectoryArgument = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="What `quorate federation recover propose` made."),
]


@app.command("summary")
def summary(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    *,
    config: ConfigOption,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say how far the store of a stopped node goes, for whoever is to propose the recovery."""
    with progress(output) as tell, damage():
        found = summarise(load_config(config), tell)
    write_public(file, found.to_bytes())
    value = {"file": str(file), **asdict(found)}

    def people(on: Console) -> None:
        on.print(facts(value.items()))
        if found.ledger_size == 0:
            on.print(
                "[bold yellow]There is no store here.[/] Check node.data_dir, and that its disk is "
                "mounted: the store may hold what the others lack, or make a quorum."
            )

    show(output, value, people)


@app.command("propose")
def propose(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory.")],
    *,
    config: ConfigOption,
    origin: Annotated[
        str, typer.Option("--origin", help="The new ledger's name, another than before.")
    ],
    survivors: Annotated[
        list[Path] | None,
        typer.Option(
            "--survivor",
            metavar="FILE",
            help="The summary of another organisation's node that survives. Repeatable.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make the recovery document and what it commits to, on the stopped node whose log goes
    furthest.

    Refused while the survivors are a quorum, and while anybody who is not among them answers at the
    address of a member.
    """
    others = [read_summary(path) for path in survivors or ()]
    with progress(output) as tell, damage():
        recovery, own = recover.propose(load_config(config), directory, origin, others, tell)
    logs = [asdict(each) for each in (own, *others)]
    value = {"directory": str(directory), "logs": logs, **_summary(recovery, ())}

    def people(on: Console) -> None:
        _review(on, recovery, ())
        on.print(facts([("goes furthest", own.node), *(_log_of(each) for each in (own, *others))]))
        on.print(
            f"Next: every survivor runs `quorate federation recover sign ORGDIR {directory}`.",
            style="dim",
        )

    show(output, value, people)


@app.command("sign")
def sign(
    org: Annotated[Path, typer.Argument(metavar="ORGDIR", help="The organisation's directory.")],
    directory: DirectoryArgument,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Sign without asking.")] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Verify a recovery document, show what it says, and add the organisation's signature to it."""
    organisation = Organisation.load(org)
    file = directory / recover.DOCUMENT
    recovery, signed = recover.read_draft(file)
    with progress(output) as tell, damage():
        signers = _check(organisation, directory, recovery, tell)
    if organisation.domain not in signed:
        _review(console(error=output is Output.JSON), recovery, signed)
        if not yes:
            typer.confirm(f"Sign this as {organisation.domain}?", abort=True, err=True)
        _add_signatures(file, recovery, organisation.domain, signers)
        recovery, signed = recover.read_draft(file)
    value = {"signed_as": organisation.domain, **_summary(recovery, signed)}

    def people(on: Console) -> None:
        missing = [domain for domain in recovery.survivors if domain not in signed]
        state = f"still to sign: {', '.join(missing)}" if missing else "every survivor has signed"
        on.print(f"[bold green]signed[/] as {organisation.domain}; {state}")

    show(output, value, people)


@app.command("verify")
def verify(
    directory: DirectoryArgument,
    *,
    genesis: Annotated[
        Path | None,
        typer.Option("--genesis", metavar="FILE", help="The former genesis.json, to compare with."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="A node.toml: also verify the base, entry by entry, against the document.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Verify that every survivor has signed, and what the document commits to. Exits 6 if not."""
    try:
        recovery = recover.read_recovery(directory / recover.DOCUMENT)
        if config is not None:
            with progress(output) as tell, damage():
                recover.check_commitment(load_config(config), directory, recovery, tell)
        if genesis is not None and config is not None:
            with progress(output) as tell, damage():
                known, former = load_config(config), read_genesis(genesis)
                recover.check_goes_on(known, directory, former, recovery, tell)
        elif genesis is not None:
            check_former(read_genesis(genesis), recovery)
    except ConfigurationError as error:
        raise VerificationError(str(error), hint=error.hint) from error
    value = {"valid": True, **_summary(recovery, recovery.survivors)}

    def people(on: Console) -> None:
        _review(on, recovery, recovery.survivors)
        on.print("[bold green]valid[/]: every survivor has signed")

    show(output, value, people)


@app.command("install")
def install(
    directory: DirectoryArgument,
    *,
    config: ConfigOption,
    output: OutputOption = Output.TEXT,
) -> None:
    """Go on in the new ledger: on the stopped node of each survivor.

    The store and the genesis of before are kept beside the new ones. Every lease has ended; holders
    acquire anew.
    """
    with progress(output) as tell, damage():
        recovery, former = recover.install(load_config(config), directory, tell)
    value = {
        "former_store": None if former is None else str(former),
        **_summary(recovery, recovery.survivors),
    }

    def people(on: Console) -> None:
        on.print(f"[bold green]installed[/]: {escape(recovery.origin)}")
        if former is not None:
            on.print(f"the former store is in {escape(str(former))}")
        on.print(
            "Next: start the node when the other survivors have installed it too.", style="dim"
        )

    show(output, value, people)


def _check(
    organisation: Organisation, directory: Path, recovery: Recovery, tell: Tell
) -> list[Signer]:
    """What a survivor must not sign; who signs for it. Raises VerificationError."""
    genesis = organisation.genesis()
    try:
        if genesis.hash != recovery.hash:
            recover.check_goes_on(organisation.config, directory, genesis, recovery, tell)
    except ConfigurationError as error:
        raise VerificationError(str(error), hint=error.hint) from error
    if organisation.domain not in recovery.survivors:
        raise VerificationError(
            f"{organisation.domain} does not go on by this document",
            hint="give a summary of its node to whoever proposes",
        )
    own = next(item for item in recovery.descriptors if item.domain == organisation.domain)
    known = governance_keys_of(own)
    signers = signers_of(organisation)
    if not any(signer.public.hex() in known for signer in signers):
        raise ConfigurationError(
            "governance.key is not the key that the federation knows",
            hint="restore the directory as `quorate init` made it, or give --governance-key",
        )
    return signers


def _add_signatures(file: Path, recovery: Recovery, domain: str, signers: Sequence[Signer]) -> None:
    """Of the domain, as many as are missing."""
    message = dsse.pae(dsse.RECOVERY_TYPE, recovery.envelope.payload)
    by_key = {item.keyid: item for item in recovery.envelope.signatures}
    missing = signatures_missing(recovery, domain)
    own = next(item for item in recovery.descriptors if item.domain == domain)
    fresh = [
        signer
        for signer in signers
        if signer.keyid not in by_key and signer.public.hex() in governance_keys_of(own)
    ]
    for signer in fresh[:missing]:
        by_key[signer.keyid] = dsse.Signature(signer.keyid, signer.sign(message))
    # In the order of the domains: whoever signs last, the hash comes out the same.
    order = [
        dsse.key_id(dsse.parse_public_key(key))
        for item in recovery.descriptors
        for key in governance_keys_of(item)
    ]
    signatures = tuple(by_key[keyid] for keyid in order if keyid in by_key)
    replace_public(file, replace(recovery.envelope, signatures=signatures).to_bytes())


def _summary(recovery: Recovery, signed: tuple[str, ...]) -> dict[str, object]:
    complete = set(signed) == set(recovery.survivors)
    return {
        "origin": recovery.origin,
        "created_ms": recovery.created,
        "hash": recovery.hash.hex() if complete else None,
        "complete": complete,
        "former": recovery.former.to_json(),
        "fence_base": recovery.fence_base,
        "survivors": list(recovery.survivors),
        "nodes": list(recovery.nodes),
        "on_probation": list(recovery.on_probation),
        "signed": list(signed),
    }


def _review(on: Console, recovery: Recovery, signed: tuple[str, ...]) -> None:
    """Everything that a signature is given for."""
    former = recovery.former
    on.print(f"[bold]recovery of[/] {escape(former.origin)} [bold]as[/] {escape(recovery.origin)}")
    on.print(
        facts(
            [
                ("created", moment(recovery.created)),
                ("former genesis", former.genesis_hash),
                ("former ledger", f"{former.ledger_size} entries"),
                ("former root", former.root),
                ("log", f"up to entry {former.log_index} of term {former.log_term}"),
                ("state", former.state),
                ("fences begin at", recovery.fence_base),
            ]
        )
    )
    for item in recovery.descriptors:
        survives, was_expelled = (
            item.domain in some for some in (recovery.survivors, recovery.expelled)
        )
        becomes = "goes on" if survives else "was expelled" if was_expelled else "is lost"
        on.print(f"[bold]{escape(item.domain)}[/] {becomes}")
        shown = [("node", item.node.id), ("governance key id", dsse.key_id(item.governance_key))]
        if item.domain in recovery.suspended_by:
            shown += [("suspended by", recovery.suspended_by[item.domain])]
        if item.domain in recovery.on_probation:
            shown += [("probation", "its store was restored or begun again, or is gone")]
        if survives:
            shown += [("peer address", item.node.peer_address)]
            shown += [("signed", "yes" if item.domain in signed else "no")]
        on.print(facts(shown))
    if recovery.is_frozen:
        on.print("[bold]frozen[/] by the organisations together: it stays so")
    if recovery.policies is not None:
        mark = recovery.policies
        on.print(f"[bold]policies[/] of the organisations together, version {mark.version}")
        on.print(facts([("sha256", mark.sha256 or "none: they were retired")]))
    if recovery.rates is not None:
        on.print("[bold]rates[/] a minute; 0 is no limit")
        on.print(facts(recovery.rates.to_json().items()))
    if recovery.thresholds:
        on.print("[bold]thresholds[/]")
        on.print(facts(recovery.thresholds.items()))
    if recovery.on_probation:
        on.print(
            "[bold yellow]Some of those who go on may have forgotten entries.[/] What was "
            "acknowledged and is not in this ledger is lost, revocations among it: decide it again "
            "afterwards."
        )


def _log_of(each: Summary) -> tuple[str, str]:
    reach = f"entry {each.log_index} of term {each.log_term}, {each.ledger_size} in the ledger"
    return each.domain, f"{reach}, on probation" if each.probation else reach
