"""An organisation's new keys: made, kept beside the present ones, and put in their place.

Owns the files, so that whatever is interrupted, the keys that the ledger has are in the directory:
new keys are durable before anybody hears of them, and present ones are kept as `.old` before they
are replaced. What the ledger has taken is for the caller to find out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quorate.core.errors import ConfigurationError
from quorate.node.identity import load_signing_key, save_signing_key
from quorate.node.organisation import COSIGNER_KEY_FILE, GOVERNANCE_KEY_FILE
from quorate.node.store import sync_directory
from quorate.proofs.signing import SigningKey

_NEXT: Final = ".next"
_OLD: Final = ".old"


@dataclass(frozen=True, slots=True)
class Pair:
    """A key in the organisation's directory, and the one that is to take its place; the same when
    it stays."""

    file: Path
    present: SigningKey
    wanted: SigningKey

    @classmethod
    def load(cls, file: Path, *, is_renewed: bool) -> Pair:
        """Makes the new key, unless one is there from a time that was interrupted. Raises
        ConfigurationError."""
        present = load_signing_key(file)
        following = file.with_name(file.name + _NEXT)
        if not is_renewed:
            if following.exists():
                raise ConfigurationError(
                    f"{following} is there from a renewal that was interrupted",
                    hint="renew that key, too; or remove the file, if the ledger does not have it",
                )
            return cls(file, present, present)
        if not following.exists():
            save_signing_key(following, SigningKey.generate())
            sync_directory(file.parent)
        return cls(file, present, load_signing_key(following))

    @property
    def is_renewed(self) -> bool:
        return self.wanted.public != self.present.public

    def adopt(self) -> None:
        """The new key is the ledger's: it takes the place of the present one, kept as `.old`."""
        if not self.is_renewed:
            return
        old = self.file.with_name(self.file.name + _OLD)
        old.unlink(missing_ok=True)
        os.link(self.file, old)
        self.file.with_name(self.file.name + _NEXT).replace(self.file)
        sync_directory(self.file.parent)


@dataclass(frozen=True, slots=True)
class FreshKeys:
    """Both keys of an organisation."""

    governance: Pair
    cosigner: Pair

    @classmethod
    def of(cls, directory: Path, *, governance: bool, cosigner: bool) -> FreshKeys:
        """Which of the two are to be renewed. Raises ConfigurationError."""
        return cls(
            Pair.load(directory / GOVERNANCE_KEY_FILE, is_renewed=governance),
            Pair.load(directory / COSIGNER_KEY_FILE, is_renewed=cosigner),
        )

    @property
    def wanted(self) -> tuple[str, str]:
        """The public keys in hex."""
        return self.governance.wanted.public.hex(), self.cosigner.wanted.public.hex()

    @property
    def present(self) -> tuple[str, str]:
        return self.governance.present.public.hex(), self.cosigner.present.public.hex()

    def adopt(self) -> None:
        self.governance.adopt()
        self.cosigner.adopt()
