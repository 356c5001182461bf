"""The configuration of one node: a TOML file, overridden by environment variables.

Owns the settings, their limits, and what a mistake in them looks like to a person. Reads no key,
certificate or genesis (see `quorate.node.identity`, `quorate.core.genesis`); starts nothing.

A variable is `QUORATE_<SECTION>__<KEY>`, for example `QUORATE_LISTEN__PEER=0.0.0.0:7401`, and wins
over the file. Relative paths are relative to the file, wherever they were given.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from quorate.core import ids
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.limits import MAX_SOCKET_PATH_BYTES

ENVIRONMENT_PREFIX: Final = "QUORATE_"
MAX_CONFIG_BYTES: Final = 256 * 1024
MIN_MAP_BYTES: Final = 256 * 1024
MAX_MAP_BYTES: Final = 2**44
DEFAULT_MAP_BYTES: Final = 1024**3
MAX_PEERS: Final = 64
MAX_EDGES: Final = 64


def _syntax(check: Callable[[str], None]) -> AfterValidator:
    def validate(text: str) -> str:
        try:
            check(text)
        except MalformedError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(validate)


def _check_path(path: Path) -> Path:
    # An empty path would silently mean the directory that holds the file.
    if str(path) in ("", "."):
        raise ValueError("a path must name a file or directory")
    try:
        return path.expanduser()
    except RuntimeError as error:  # `~` of somebody whom this machine does not know
        raise ValueError(f"{path} is in nobody's home directory") from error


Address = Annotated[str, _syntax(ids.check_address)]
NodeId = Annotated[str, _syntax(ids.check_node)]
FilePath = Annotated[Path, AfterValidator(_check_path)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NodeSection(_Section):
    """Who the node is, and where it keeps what it knows.

    descriptor: of its domain, which is asked for only where the genesis does not name the domain.
    """

    id: NodeId
    data_dir: FilePath
    genesis: FilePath
    descriptor: FilePath | None = None


class ListenSection(_Section):
    """Where the node listens: for its peers, for its operators, for its executors.

    lease_socket: a unix socket for executors of this machine, beside the address.
    """

    peer: Address
    governance: Address
    lease: Address
    lease_socket: FilePath | None = None

    @model_validator(mode="after")
    def _distinct(self) -> ListenSection:
        if len({self.peer, self.governance, self.lease}) < 3:
            raise ValueError("peer, governance and lease must be three different addresses")
        return self


class TlsSection(_Section):
    certificate: FilePath
    private_key: FilePath


class KeysSection(_Section):
    """Ed25519 keys: `signing` for the lease commands of this node, `log` for its checkpoints."""

    signing: FilePath
    log: FilePath


class StorageSection(_Section):
    map_size_bytes: int = Field(DEFAULT_MAP_BYTES, ge=MIN_MAP_BYTES, le=MAX_MAP_BYTES)


class RaftSection(_Section):
    """Raft's timers, and how much of its log is kept. An election starts after a random time
    between the two bounds."""

    heartbeat_ms: int = Field(100, ge=10, le=10_000)
    election_min_ms: int = Field(500, ge=31, le=60_000)
    election_max_ms: int = Field(1000, ge=32, le=60_000)
    log_tail_entries: int = Field(10_000, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _ordered(self) -> RaftSection:
        # Raft section 5.6: a follower must hear several heartbeats within its shortest timeout,
        # and the bounds must lie apart or elections split for ever.
        if self.election_min_ms <= 3 * self.heartbeat_ms:
            raise ValueError("election_min_ms must be more than three times heartbeat_ms")
        if self.election_max_ms <= self.election_min_ms:
            raise ValueError("election_max_ms must be more than election_min_ms")
        return self


class EdgeSection(_Section):
    """The processes that answer executors."""

    processes: int = Field(1, ge=1, le=MAX_EDGES)


class LogSection(_Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class MetricsSection(_Section):
    """Where each process serves its metrics to Prometheus, in the clear; nowhere unless told. Of
    several edges, each next one takes the next port."""

    core: Address | None = None
    edge: Address | None = None

    def edge_in(self, slot: int) -> str | None:
        """Of the edge in this slot."""
        if self.edge is None:
            return None
        host, _, port = self.edge.rpartition(":")
        return f"{host}:{int(port) + slot}"


class NodeConfig(BaseSettings):
    """Everything that a node is told. Immutable; made by `load_config` only."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_nested_max_split=1,
        extra="forbid",
        frozen=True,
    )

    node: NodeSection
    listen: ListenSection
    tls: TlsSection
    keys: KeysSection
    peers: dict[NodeId, Address] = Field(default_factory=dict, max_length=MAX_PEERS)
    storage: StorageSection = StorageSection()  # type: ignore[call-arg]
    raft: RaftSection = RaftSection()  # type: ignore[call-arg]
    edge: EdgeSection = EdgeSection()  # type: ignore[call-arg]
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The file arrives as init_settings. No .env file of whatever directory we stand in.
        return env_settings, init_settings


def _sections() -> dict[str, type[_Section] | None]:
    """The known sections; None for the one whose keys are free (`peers`)."""
    return {
        name: field.annotation
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section)
        else None
        for name, field in NodeConfig.model_fields.items()
    }


def _keys_of(section: str) -> list[str]:
    model = _sections().get(section)
    return list(model.model_fields) if model is not None else []


def _suggest(wrong: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(wrong, list(known), n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuses a variable that was meant for us and names no setting."""
    known = {
        f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()
        for section in _sections()
        for key in _keys_of(section)
    }
    # The most likely slip: one underscore where two are needed.
    flat = {name.replace("__", "_"): name for name in known}
    for name in environment:
        upper = name.upper()
        if not upper.startswith(ENVIRONMENT_PREFIX) or upper in known:
            continue
        if upper in flat:
            raise ConfigurationError(
                f"environment variable {name} is not a setting", hint=f"write {flat[upper]}"
            )
        if "__" in upper:
            raise ConfigurationError(
                f"environment variable {name} is not a setting{_suggest(upper, known)}",
                hint="unset it, or name a setting as QUORATE_<SECTION>__<KEY>",
            )


def _read(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}",
            hint="give the node.toml that `quorate init` made",
        ) from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigurationError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also for numbers, and lists, without end
        raise ConfigurationError(f"{path} is not TOML: {error}") from error


def _explain(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            *section, key = (str(part) for part in item["loc"])
            known = _keys_of(section[0]) if section else list(_sections())
            problems.append(f"unknown key {where}{_suggest(key, known)}")
        elif item["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            problems.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)


def _absolute(config: NodeConfig, base: Path) -> NodeConfig:
    sections: dict[str, _Section] = {}
    for name in NodeConfig.model_fields:
        section = getattr(config, name)
        if isinstance(section, _Section):
            paths = {key: base / value for key, value in section if isinstance(value, Path)}
            sections[name] = section.model_copy(update=paths)
    return config.model_copy(update=sections)


def load_config(path: Path) -> NodeConfig:
    """Reads the file at `path` and the environment; every path in the result is absolute.

    Raises ConfigurationError that names every key at fault, with near matches.
    """
    _check_environment(os.environ)
    values = _read(path)
    hint = "correct the file, or the QUORATE_... variable that overrides it"
    # Before the sections become arguments: `_env_file` and its like are pydantic's, not a file's.
    for section in values:
        if section not in _sections():
            known = f"unknown section {section}{_suggest(section, _sections())}"
            raise ConfigurationError(f"{path}: {known}", hint=hint)
    try:
        config = NodeConfig(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_explain(error)}", hint=hint) from error
    except SettingsError as error:
        # A whole section in one variable is JSON; pydantic's message names the section.
        raise ConfigurationError(f"the environment: {error}", hint=hint) from error
    config = _absolute(config, path.resolve().parent)
    socket = config.listen.lease_socket
    if socket is not None and len(os.fsencode(socket)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"{path}: listen.lease_socket: {socket} is longer than {MAX_SOCKET_PATH_BYTES} bytes",
            hint="the system takes no longer path of a socket; choose a shorter one",
        )
    return config
