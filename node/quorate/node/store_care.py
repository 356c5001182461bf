"""What an operator does to a node's store: copies it, puts a copy back, begins it again, verifies
it.

Owns the order of the steps, so that a crash at any of them leaves a store that is whole, or none;
and that a store which may have forgotten something is on probation before a node can start on it,
each time under a token of its own. Nothing is ever deleted that a node has run on. Does not own the
copy itself, nor what is verified (`quorate.storage`), nor how a node is readmitted (`node_core`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from quorate.core import codec, dsse
from quorate.core.errors import ConfigurationError, StorageDamagedError, StorageError
from quorate.core.genesis import Genesis
from quorate.core.lineage import RECORD_TYPE, Record
from quorate.core.state import StateView
from quorate.node.config import NodeConfig
from quorate.node.durable import sync_directory
from quorate.node.identity import load_signing_key
from quorate.node.locks import RunningError, hold_all
from quorate.node.organisation import read_genesis
from quorate.node.outbox import MAX_ROWS, Row
from quorate.node.store import (
    DATA_FILE,
    begin,
    has_store,
    leave_mark,
    new_token,
    store_path,
)
from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint
from quorate.storage import Environment, Progress

Tell = Callable[[Progress], None]

COPY: Final = "copy"
_COPY_BYTES: Final = 1024 * 1024
_MAP_ROOM_BYTES: Final = 16 * 1024 * 1024
_INCOMING: Final = ".incoming"
_USED_WHILE_OPEN: Final = ("lock.mdb", "bystander.lock")


@dataclass(frozen=True, slots=True)
class Holding:
    """What a store holds, verified. checkpoint: signed by the node; empty while it is on
    probation, when it signs nothing."""

    node_id: str
    origin: str
    genesis_hash: str
    ledger_size: int
    root: str
    ledger_time_ms: int
    applied_index: int
    term: int
    probation: bool
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """holding: what the node has now. former: where its store of before was moved to, if it had
    one."""

    holding: Holding
    former: Path | None


def backup(config: NodeConfig, to: Path, tell: Tell) -> Holding:
    """Copies the store to the new directory `to`, also while the node runs, and verifies the copy.

    Raises ConfigurationError or StorageError; then there is no such directory.
    """
    genesis = read_genesis(config.node.genesis)
    _refuse_within(config, to)
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_all(config.node.data_dir))
            is_stopped = True
        except RunningError:
            is_stopped = False
        # A node that runs has checked its store; one that does not may have a damaged one.
        environment = Environment.open(
            _existing(config),
            map_size_bytes=config.storage.map_size_bytes,
            read_only=not is_stopped,
            progress=tell,
        )
        stack.callback(environment.close)
        environment.verify_identity(genesis.hash, config.node.id)
        environment.backup(to, tell)
    try:
        holding = _verified(to, config, genesis, tell, what=f"the copy in {to}")
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    _tidy(to)
    return holding


def restore(config: NodeConfig, source: Path, tell: Tell, *, replace: bool) -> Replaced:
    """Puts the backup in the directory `source` in the place of the store, on probation.

    replace: whether there may be a store; it is moved aside. Raises ConfigurationError, also when
    the node runs, or StorageError; before the last step everything is as it was.
    """
    genesis = read_genesis(config.node.genesis)
    if not (source / DATA_FILE).is_file():
        raise ConfigurationError(
            f"there is no backup in {source}",
            hint="give the directory that `quorate node backup` made",
        )
    with hold_all(config.node.data_dir), incoming(config, replace=replace) as place:
        _copy(source / DATA_FILE, place / DATA_FILE, tell)
        _verified(place, config, genesis, tell, what=f"the backup in {source}")
        with opened(place, config, tell) as environment:
            _put_on_probation(environment)
        leave_mark(config, genesis.hash)  # first: who finds no store then knows that it had one
        former = put_in_place(config, place)
        holding = _verified(store_path(config), config, genesis, tell, what="what was restored")
    return Replaced(holding, former)


def rejoin(config: NodeConfig, tell: Tell, *, replace: bool) -> Replaced:
    """Begins the store again, empty and on probation. As `restore` otherwise."""
    genesis = read_genesis(config.node.genesis)
    with hold_all(config.node.data_dir), incoming(config, replace=replace) as place:
        with opened(place, config, tell) as environment:
            begin(environment, config, genesis)
            _put_on_probation(environment)
        leave_mark(config, genesis.hash)  # first: who finds no store then knows that it had one
        former = put_in_place(config, place)
        holding = _verified(store_path(config), config, genesis, tell, what="the new store")
    return Replaced(holding, former)


def verify(config: NodeConfig, tell: Tell) -> Holding:
    """Verifies everything in the store of a node that does not run. Raises ConfigurationError, or
    StorageDamagedError that names the database and the key."""
    genesis = read_genesis(config.node.genesis)
    with hold_all(config.node.data_dir):
        return _verified(_existing(config), config, genesis, tell, what="the store")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a node has to tell the ledger. envelope: with the node's signature, as JSON (DSSE)."""

    record: Record
    envelope: dict[str, codec.JsonValue]


def outbox(config: NodeConfig) -> list[Waiting]:
    """What waits in the outbox of a node, running or not. Raises ConfigurationError and
    StorageError."""
    path = _existing(config)
    keyid = dsse.key_id(load_signing_key(config.keys.signing).public)
    environment = Environment.open(
        path, map_size_bytes=config.storage.map_size_bytes, read_only=True
    )
    try:
        with environment.read() as snapshot:
            rows = [Row.parse(*each) for each in snapshot.outbox(0, MAX_ROWS)]
    finally:
        environment.close()
    return [
        Waiting(
            row.record,
            dsse.Envelope(
                row.payload, RECORD_TYPE, (dsse.Signature(keyid, row.signature),)
            ).to_json(),
        )
        for row in rows
    ]


def _existing(config: NodeConfig) -> Path:
    if not has_store(config):
        raise ConfigurationError(
            f"there is no store in {store_path(config)}",
            hint="check node.data_dir in the configuration",
        )
    return store_path(config)


def _refuse_within(config: NodeConfig, to: Path) -> None:
    if to.absolute().is_relative_to(config.node.data_dir.absolute()):
        raise ConfigurationError(
            f"{to} is inside the node's data directory",
            hint="a backup belongs on another disk; name a directory elsewhere",
        )


# -- verifying -----------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, config: NodeConfig, tell: Tell) -> Iterator[Environment]:
    """A store, or a copy of one, that nobody else has open; its pages are walked first."""
    data = path / DATA_FILE
    size_bytes = data.stat().st_size if data.exists() else 0
    environment = Environment.open(
        path,
        map_size_bytes=max(config.storage.map_size_bytes, size_bytes + _MAP_ROOM_BYTES),
        progress=tell,
    )
    try:
        yield environment
    finally:
        environment.close()


def _verified(
    path: Path, config: NodeConfig, genesis: Genesis, tell: Tell, *, what: str
) -> Holding:
    """Reads all of a store that nobody else has open."""
    try:
        with opened(path, config, tell) as environment:
            environment.verify_identity(genesis.hash, config.node.id)
            for step in environment.verify():
                tell(step)
            return _holding(environment, config, genesis)
    except StorageDamagedError as error:
        raise StorageDamagedError(f"{what} is damaged: {error}", hint=error.hint) from error


def _holding(environment: Environment, config: NodeConfig, genesis: Genesis) -> Holding:
    with environment.read() as snapshot:
        view = StateView(snapshot.state)
        if not view.installed() or snapshot.ledger_size == 0:
            raise StorageDamagedError("it has no genesis in it: it never became a node's store")
        checkpoint = Checkpoint(view.federation().origin, snapshot.ledger_size, snapshot.root())
        is_on_probation = bool(snapshot.probation())
        log_key = None if is_on_probation else load_signing_key(config.keys.log)
        return Holding(
            node_id=config.node.id,
            origin=checkpoint.origin,
            genesis_hash=genesis.hash.hex(),
            ledger_size=checkpoint.size,
            root=checkpoint.root.hex(),
            ledger_time_ms=view.ledger_time(),
            applied_index=snapshot.applied_index,
            term=snapshot.term(),
            probation=is_on_probation,
            checkpoint="" if log_key is None else sign_checkpoint(checkpoint, log_key),
        )


def _tidy(directory: Path) -> None:
    """Takes away what opening a copy has left beside it."""
    for name in _USED_WHILE_OPEN:
        (directory / name).unlink(missing_ok=True)
    sync_directory(directory)


# -- putting in place ----------------------------------------------------------------------------


def _put_on_probation(environment: Environment) -> None:
    """Under a new token: what was readmitted under an older one says nothing about this store."""
    environment.mark_probation(new_token())


@contextmanager
def incoming(config: NodeConfig, *, replace: bool) -> Iterator[Path]:
    """A directory to make the new store in. Whatever happens, it is gone afterwards; no node runs
    on it before it is in its place."""
    store = store_path(config)
    if store.exists() and any(store.iterdir()) and not replace:
        raise ConfigurationError(
            f"there is a store in {store}",
            hint="with --replace it is moved aside, and nothing of it is deleted",
        )
    place = store.with_name(store.name + _INCOMING)
    shutil.rmtree(place, ignore_errors=True)  # of a run that was interrupted
    try:
        place.mkdir(mode=0o700)
        yield place
    except OSError as error:
        raise StorageError(f"the store cannot be put in place: {error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _copy(source: Path, to: Path, tell: Tell) -> None:
    descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with source.open("rb") as reading, os.fdopen(descriptor, "wb") as writing:
        total, done = os.fstat(reading.fileno()).st_size, 0
        while part := reading.read(_COPY_BYTES):
            writing.write(part)
            done += len(part)
            tell(Progress(COPY, done, total))
        writing.flush()
        os.fsync(writing.fileno())


def put_in_place(config: NodeConfig, place: Path) -> Path | None:
    """Makes what is in `place` the node's store; returns where the one of before was moved to."""
    _tidy(place)
    store = store_path(config)
    former = None
    if store.exists() and any(store.iterdir()):
        former = _unused(store)
        store.rename(former)
    place.rename(store)
    sync_directory(store.parent)
    return former


def _unused(store: Path) -> Path:
    stem = f"{store.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    path, count = store.with_name(stem), 1
    while path.exists():
        count += 1
        path = store.with_name(f"{stem}-{count}")
    return path
