"""The private keys that a command line signs with: from files, from stdin, from a device.

Owns how one is named: a file, `-`, or a URI of RFC 7512. What a key file is, is
`quorate.node.identity`'s; what a device does, `quorate.cli.pkcs11`'s, which is loaded on use.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from quorate.cli.given import given
from quorate.core.errors import ConfigurationError
from quorate.node.identity import MAX_KEY_FILE_BYTES, load_signing_key
from quorate.node.organisation import Organisation
from quorate.proofs.signing import Signer, SigningKey

STDIN: Final = "-"
_DEVICE: Final = "pkcs11:"


def load_signer(where: str) -> Signer:
    """Raises ConfigurationError."""
    if where == STDIN:
        return _read_stdin()
    if where.startswith(_DEVICE):
        module = importlib.import_module("quorate.cli.pkcs11")
        device: Signer = module.load(where)
        return device
    return load_signing_key(Path(where))


def load_signers(places: Iterable[str]) -> list[Signer]:
    """Each key once, in the order given. Raises ConfigurationError."""
    found: dict[str, Signer] = {}
    names = list(places)
    if names.count(STDIN) > 1:
        raise ConfigurationError("stdin holds one key", hint="give others as files")
    for place in names:
        signer = load_signer(place)
        found.setdefault(signer.keyid, signer)
    return list(found.values())


def signers_of(organisation: Organisation) -> list[Signer]:
    """Those that were given, or else the governance key in the organisation's directory. Raises
    ConfigurationError."""
    places = given().governance_keys
    return load_signers(places) if places else [organisation.governance_key()]


def _read_stdin() -> Signer:
    if sys.stdin.isatty():
        raise ConfigurationError(
            "a private key is not typed in", hint="write it into the program: `... < FILE`"
        )
    data = sys.stdin.buffer.read(MAX_KEY_FILE_BYTES + 1)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise ConfigurationError(f"stdin has more than {MAX_KEY_FILE_BYTES} bytes")
    try:
        return SigningKey.from_pem(data)
    except ConfigurationError as error:
        raise ConfigurationError(f"stdin: {error}", hint=error.hint) from error
