"""An organisation's next CA: made, kept beside the present one, and put in its place.

Owns the files, as `quorate.node.fresh_keys` does those of keys: the next CA is durable before
anybody hears of it, and the present one is kept as `.old` before it is replaced. `ca.crt` names
whom tools and executors of the organisation trust, and the one that issues first. What the ledger
has taken is for the caller to find out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from quorate.node.certificates import KeyPair, make_ca
from quorate.node.durable import sync_directory
from quorate.node.identity import read_private, read_public, replace_pair, replace_public
from quorate.node.organisation import CA_CERTIFICATE_FILE, CA_KEY_FILE

_END: Final = "-----END CERTIFICATE-----\n"


class FreshCa:
    """The CA of an organisation's directory, and the one, if any, that is to take its place."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._certificate = directory / CA_CERTIFICATE_FILE
        self._key = directory / CA_KEY_FILE

    @property
    def present(self) -> str:
        """PEM of the one that issues."""
        return _first(read_public(self._certificate).decode("ascii", "replace"))

    @property
    def next(self) -> str:
        """PEM of the one that is to issue; empty, where there is none."""
        file = _next(self._certificate)
        return read_public(file).decode("ascii", "replace") if file.exists() else ""

    def make(self, domain: str) -> str:
        """Makes the next one, unless one is there from a time that was interrupted; PEM."""
        if not self.next:
            made = make_ca(domain)
            replace_pair(_next(self._certificate), _next(self._key), made)
        return self.next

    def adopt(self, trusted: tuple[str, ...]) -> None:
        """The ledger has the next one: it issues from now on, and `trusted`, PEM, are all that the
        ledger has."""
        coming = self.next
        if coming:
            for file, is_next in (
                (self._key, read_private(self._key) == read_private(_next(self._key))),
                (self._certificate, self.present == coming),
            ):
                if is_next:  # from a time that was interrupted: the old one is kept already
                    continue
                old = file.with_name(f"{file.name}.old")
                old.unlink(missing_ok=True)
                os.link(file, old)
            others = "".join(each for each in trusted if each != coming)
            pair = KeyPair((coming + others).encode("ascii"), read_private(_next(self._key)))
            replace_pair(self._certificate, self._key, pair)
            for file in (self._certificate, self._key):
                _next(file).unlink()
            sync_directory(self._directory)

    def trust(self, trusted: tuple[str, ...]) -> None:
        """The ledger has these, PEM, and that which issues is one of them."""
        present = self.present
        others = "".join(each for each in trusted if each != present)
        replace_public(self._certificate, (present + others).encode("ascii"))


def _next(file: Path) -> Path:
    return file.with_name(f"{file.name}.next")


def _first(text: str) -> str:
    """The first certificate of a file."""
    head, end, _ = text.partition(_END)
    return head + end
