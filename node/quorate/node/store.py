"""A node's store: where it lies, how it begins, and that its loss is noticed.

Owns the opening of the store of a node that is to run, and the mark that the store was there: a
file beside the node's keys, outside the data directory. A node that finds the mark and no store has
lost its votes and what it acknowledged; were it to begin an empty store as if it were new, it could
break what it has promised. What is done about that is `quorate.node.store_care`'s.
"""

from __future__ import annotations

import secrets
from collections import deque
from pathlib import Path
from typing import Final

from quorate.core.errors import ConfigurationError, StorageDamagedError
from quorate.core.genesis import Genesis
from quorate.core.recovering import begin_without
from quorate.core.recovery import Recovery
from quorate.core.transitions import install_genesis
from quorate.node.config import NodeConfig
from quorate.node.durable import sync_directory
from quorate.node.identity import write_public
from quorate.storage import Environment

STORE: Final = "ledger"
"""The store's directory in the node's data directory."""
DATA_FILE: Final = "data.mdb"
TOKEN_BYTES: Final = 16
_MARK_DIGITS: Final = 16


def store_path(config: NodeConfig) -> Path:
    return config.node.data_dir / STORE


def has_store(config: NodeConfig) -> bool:
    return (store_path(config) / DATA_FILE).exists()


def mark_path(config: NodeConfig, genesis_hash: bytes) -> Path:
    """Where the mark lies that the node has had a store in this federation."""
    name = f"store-{genesis_hash.hex()[:_MARK_DIGITS]}.mark"
    return config.keys.signing.parent / name


def leave_mark(config: NodeConfig, genesis_hash: bytes) -> None:
    """Says durably that the node has a store in this federation. Raises ConfigurationError."""
    path = mark_path(config, genesis_hash)
    if path.exists():
        return
    text = (
        f"{config.node.id} has had a store in the federation of genesis {genesis_hash.hex()}.\n"
        "Keep this file with the node's keys: without it, a node that has lost its store would\n"
        "start as if it were new, and could break what it has promised.\n"
    )
    try:
        write_public(path, text.encode("ascii"))
        sync_directory(path.parent)
    except (ConfigurationError, OSError) as error:
        raise ConfigurationError(
            f"the mark that this node has a store cannot be left: {error}",
            hint=f"let the node's user write in {path.parent}",
        ) from error


def open_environment(config: NodeConfig, genesis: Genesis) -> Environment:
    """The node's store, checked, with the genesis in it.

    Raises StorageDamagedError when it is damaged, or was there once and is not any more,
    ConfigurationError or another StorageError when it cannot be used.
    """
    is_marked = mark_path(config, genesis.hash).exists()
    if is_marked and not has_store(config):
        raise _lost(config)
    environment = Environment.open(store_path(config), map_size_bytes=config.storage.map_size_bytes)
    try:
        if is_marked and not _has_begun(environment):
            raise _lost(config)
        begin(environment, config, genesis)
        leave_mark(config, genesis.hash)
    except BaseException:
        environment.close()
        raise
    return environment


def begin(environment: Environment, config: NodeConfig, genesis: Genesis) -> None:
    """Makes an empty store that of this node, with the genesis in it; checks one that has begun.
    Raises ConfigurationError or StorageError."""
    environment.initialise(genesis.hash, config.node.id)
    deque(environment.check(), maxlen=0)  # nothing else runs yet
    turn = environment.turn
    if turn.ledger_size == 0:
        if isinstance(genesis, Recovery):
            # The state that was carried over is with the others: alone, this node knows nothing.
            turn.append_ledger(begin_without(turn.state, genesis))
            turn.set_probation(new_token())
        else:
            turn.append_ledger(install_genesis(turn.state, genesis))
        environment.commit()
    environment.abort()


def new_token() -> str:
    """Names one time at which a store was put on probation."""
    return secrets.token_hex(TOKEN_BYTES)


def _has_begun(environment: Environment) -> bool:
    with environment.read() as snapshot:
        return snapshot.identity() is not None and snapshot.ledger_size > 0


def _lost(config: NodeConfig) -> StorageDamagedError:
    return StorageDamagedError(
        f"the store of {config.node.id} is gone: it was in {store_path(config)}",
        hint="check node.data_dir, and that its disk is mounted; else put a backup back with "
        "`quorate node restore`, or begin again without one with `quorate node rejoin` "
        "(docs/recovery.md)",
    )
