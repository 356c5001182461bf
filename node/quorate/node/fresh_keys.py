"""An organisation's new keys: made, kept beside the present ones, and put in their place.

Owns the files, so that whatever is interrupted, the keys that the ledger has are in the directory:
new keys are durable before anybody hears of them, and present ones are kept as `.old` before they
are replaced. What the ledger has taken is for the caller to find out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from quorate.core.dsse import key_id
from quorate.core.errors import ConfigurationError
from quorate.node.durable import sync_directory
from quorate.node.identity import load_signing_key, save_signing_key
from quorate.node.organisation import COSIGNER_KEY_FILE, GOVERNANCE_KEY_FILE
from quorate.proofs.signing import SigningKey

_NEXT: Final = ".next"
_OLD: Final = ".old"


class Pair:
    """A key in the organisation's directory, and the one, if any, that is to take its place.

    known: the public key, in hex, that the ledger has. Raises ConfigurationError when the directory
    has neither that nor one that is to be it: then nothing is made, and nothing changed."""

    def __init__(self, file: Path, known: str) -> None:
        self._file = file
        self._following = file.with_name(file.name + _NEXT)
        self.present = load_signing_key(file)
        self.wanted = load_signing_key(self._following) if self._following.exists() else None
        mine = [key.public.hex() for key in (self.present, self.wanted) if key is not None]
        if known not in mine:
            raise ConfigurationError(
                f"{file.name} is not the key that the federation knows",
                hint="find the directory, or the backup, with the present one; its id is "
                f"{key_id(bytes.fromhex(known))}; keep what is here",
            )
        self.is_taken = self.wanted is not None and self.wanted.public.hex() == known

    @property
    def public(self) -> str:
        """Of the key that is to be, or that stays."""
        return (self.wanted or self.present).public.hex()

    def renew(self) -> None:
        """Makes the new key, unless one is there from a time that was interrupted."""
        if self.wanted is None:
            save_signing_key(self._following, SigningKey.generate())
            sync_directory(self._file.parent)
            self.wanted = load_signing_key(self._following)

    def adopt(self) -> None:
        """The new key is the ledger's: it takes the place of the present one, kept as `.old`."""
        if self.wanted is None:
            return
        old = self._file.with_name(self._file.name + _OLD)
        old.unlink(missing_ok=True)
        os.link(self._file, old)
        self._following.replace(self._file)
        sync_directory(self._file.parent)


class FreshKeys:
    """Both keys of an organisation. known: those that the ledger has, governance key first. What it
    has taken already is put in its place first. Raises ConfigurationError."""

    def __init__(self, directory: Path, known: tuple[str, str]) -> None:
        self.governance = Pair(directory / GOVERNANCE_KEY_FILE, known[0])
        self.cosigner = Pair(directory / COSIGNER_KEY_FILE, known[1])
        self.was_interrupted = self.governance.is_taken or self.cosigner.is_taken
        if self.governance.is_taken:
            self.governance.adopt()
        if self.cosigner.is_taken:
            self.cosigner.adopt()

    def adopt(self) -> None:
        """Everything that was new is the ledger's now."""
        self.governance.adopt()
        self.cosigner.adopt()
