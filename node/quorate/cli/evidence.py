"""`quorate attestation sign-measurement`, `sign-provenance`, `new-key`: for whoever measures and
builds.

Owns the documents that these sign. They reach no node: whoever measures an executor needs to know
nothing of the federation but the challenge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.output import Output, OutputOption, facts, print_json, show
from quorate.core import codec, dsse, ids
from quorate.core.attestation_forms import check_challenge
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_EVIDENCE_BYTES
from quorate.core.verifying import Asked
from quorate.core.verifying.base import check_builder, check_digest, check_measurement
from quorate.core.verifying.measurement import (
    MEASURED,
    PROVENANCE,
    STATEMENT_TYPE,
    built,
    measured,
    statement_of,
)
from quorate.node.identity import load_signing_key, read_public, save_signing_key
from quorate.proofs.signing import SigningKey, sign_envelope

KeyOption = Annotated[
    Path, typer.Option("--key", metavar="FILE", help="The signer's Ed25519 key, of mode 0600.")
]
ImageOption = Annotated[
    str, typer.Option("--image", metavar="SHA256", help="Of the image, in hex.")
]


KEY_OR_FILE = "HEX|FILE"
"""An Ed25519 public key, or the name of a file that holds it in hex."""


def public_keys(said: Sequence[str] | None) -> list[str]:
    """Raises MalformedError for what is neither, and ConfigurationError."""
    return [_public_key(each) for each in said or ()]


def _public_key(text: str) -> str:
    if len(text) != 2 * dsse.PUBLIC_KEY_BYTES or "/" in text:
        text = read_public(Path(text)).decode("ascii", "replace").strip()
    dsse.parse_public_key(text)
    return text


def new_key(
    key: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, of mode 0600.")],
    *,
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a key to sign measurements or provenance with, and FILE.pub with its public half."""
    fresh = SigningKey.generate()
    save_signing_key(key, fresh)
    public = key.with_name(f"{key.name}.pub")
    public.write_text(f"{fresh.public.hex()}\n", "ascii")

    def people(on: Console) -> None:
        on.print("[bold green]made[/]")
        on.print(facts([("key", key), ("public key", fresh.public.hex())]))

    show(output, {"key": str(key), "public_key": fresh.public.hex()}, people)


def sign_measurement(
    *,
    key: KeyOption,
    origin: Annotated[str, typer.Option("--origin", help="Of the federation's ledger.")],
    executor: Annotated[
        str, typer.Option("--executor", metavar="SPIFFE", help="What was measured.")
    ],
    challenge: Annotated[str, typer.Option("--challenge", metavar="HEX", help="As it was asked.")],
    image: ImageOption,
    environment: Annotated[
        str, typer.Option("--environment", metavar="NAME", help="Where it runs.")
    ] = "",
    measurement: Annotated[
        str, typer.Option("--measurement", metavar="HEX", help="What it measures as.")
    ] = "",
    provenance: Annotated[
        Path | None,
        typer.Option("--provenance", metavar="FILE", help="As its builder has signed it."),
    ] = None,
) -> None:
    """Sign what was measured, as evidence for `report`; prints it."""
    for check, text in (
        (ids.check_origin, origin),
        (ids.check_executor, executor),
        (check_challenge, challenge),
        (ids.check_name, environment or "any"),
        (check_measurement, measurement or "0" * 64),
    ):
        _checked(check, text)
    said = measured(Asked(origin, executor, challenge), environment, measurement)
    evidence: dict[str, object] = {"measurement": _signed(key, image, MEASURED, said)}
    if provenance is not None:
        evidence["provenance"] = evidence_in(provenance)
    if len(codec.encode(evidence)) > MAX_EVIDENCE_BYTES:
        raise MalformedError(f"the evidence is larger than {MAX_EVIDENCE_BYTES} bytes")
    print_json(evidence)


def sign_provenance(
    *,
    key: KeyOption,
    image: ImageOption,
    builder: Annotated[str, typer.Option("--builder", metavar="ID", help="Who has built it.")],
) -> None:
    """Sign who has built an image, for `sign-measurement`; prints it."""
    _checked(check_builder, builder)
    print_json(_signed(key, image, PROVENANCE, built(builder)))


def evidence_in(file: Path) -> dict[str, object]:
    """What one of these commands has printed. Raises MalformedError, and ConfigurationError."""
    try:
        value = codec.load(read_public(file, MAX_EVIDENCE_BYTES))
    except MalformedError as error:
        raise MalformedError(f"{file}: {error}") from error
    if not isinstance(value, dict):
        raise MalformedError(f"{file} holds no JSON object")
    return dict(value)


def _signed(key: Path, image: str, kind: str, predicate: dict[str, object]) -> Any:
    _checked(check_digest, image)
    payload = statement_of(image, kind, predicate)
    return codec.load(sign_envelope(STATEMENT_TYPE, payload, load_signing_key(key)))


def _checked(check: Any, text: str) -> None:
    try:
        check(text)
    except MalformedError as error:
        raise MalformedError(f"{escape(text)}: {error.problem}") from error
