"""Where an executor's node is, and how the two know each other.

Owns the reading of the directory that `quorate executor issue` makes: client.toml, executor.crt,
executor.key, ca.crt. Does not connect.
"""

from __future__ import annotations

import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from quorate.core.errors import ConfigurationError

_SETTINGS: Final = ("lease_address", "governance_address", "server_name", "spiffe_id")
_MAX_FILE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """One executor's connection to its own domain's node.

    server_name: the DNS name in the node's certificate, whatever address it is reached at.
    private_key: PEM; never shown.
    """

    lease_address: str
    governance_address: str
    server_name: str
    spiffe_id: str
    ca_certificate: bytes
    certificate: bytes
    private_key: bytes = field(repr=False)


def load_config(path: Path) -> ClientConfig:
    """Reads a client.toml, or the one in the directory `path`, and the key files beside it.

    Raises ConfigurationError when a file is missing, unreadable, too large or not what it should
    be, when a setting is missing or unknown, and when the private key can be read by others.
    """
    file = path / "client.toml" if path.is_dir() else path
    settings = _settings(file)
    directory = file.parent
    return ClientConfig(
        **settings,
        ca_certificate=_read(directory / "ca.crt"),
        certificate=_read(directory / "executor.crt"),
        private_key=_read_private(directory / "executor.key"),
    )


def _settings(file: Path) -> dict[str, str]:
    try:
        document = tomllib.loads(_read(file).decode())
    except (ValueError, RecursionError) as error:  # also for numbers, and lists, without end
        raise ConfigurationError(f"{file}: not TOML: {error}") from error
    table = document.pop("node", None)
    if document or not isinstance(table, dict):
        raise ConfigurationError(
            f"{file}: one table [node] is expected, and nothing else",
            hint="make the directory anew with: quorate executor issue",
        )
    unknown = sorted(set(table) - set(_SETTINGS))
    missing = [name for name in _SETTINGS if not isinstance(table.get(name), str)]
    if unknown or missing:
        raise ConfigurationError(
            f"{file}: [node] has unknown settings {unknown}, lacks {missing} (texts)",
            hint="make the directory anew with: quorate executor issue",
        )
    return {name: table[name] for name in _SETTINGS}


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{file}: {error.strerror}", hint="make it with: quorate executor issue"
        ) from error
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigurationError(f"{file}: larger than {_MAX_FILE_BYTES} bytes")
    return data


def _read_private(file: Path) -> bytes:
    data = _read(file)
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise ConfigurationError(
            f"{file}: mode {mode:04o} lets others read a private key", hint=f"chmod 600 {file}"
        )
    return data
