"""What is left of a federation, as far as it can be seen: the survivors' logs, and who answers.

Owns the summary of one node's store, and the two questions that must be answered with no before a
recovery: do the survivors make a quorum, and does anybody who was declared lost answer? Does not
own the recovery (`quorate.node.recover`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from quorate.consensus.configuration import Configuration
from quorate.core import codec
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.fields import Fields
from quorate.core.genesis import Genesis
from quorate.core.ids import SpiffeId, check_node, check_origin
from quorate.core.state import StateView
from quorate.node.config import NodeConfig
from quorate.node.identity import read_public
from quorate.node.locks import hold_all
from quorate.node.organisation import read_genesis
from quorate.node.reach import answers
from quorate.node.store import has_store, store_path
from quorate.node.store_care import Tell, opened
from quorate.storage import Snapshot

MAX_SUMMARY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Summary:
    """How far a surviving node's store goes. All numbers are 0 when it has none.

    log_term, log_index: of the last entry of its log, executed or not.
    """

    node: str
    origin: str
    genesis_hash: str
    log_term: int
    log_index: int
    ledger_size: int

    @property
    def domain(self) -> str:
        return SpiffeId.parse(self.node).trust_domain

    @property
    def reach(self) -> tuple[int, int]:
        """Of two logs, the one with the greater reach holds what is committed of the other."""
        return self.log_term, self.log_index

    def to_bytes(self) -> bytes:
        return codec.encode(asdict(self))


def read_summary(path: Path) -> Summary:
    """Raises ConfigurationError when the file is none that `summarise` made."""
    try:
        given = Fields(codec.decode(read_public(path, MAX_SUMMARY_BYTES), MAX_SUMMARY_BYTES))
        summary = Summary(
            node=given.text("node", check_node),
            origin=given.text("origin", check_origin),
            genesis_hash=given.text("genesis_hash"),
            log_term=given.integer("log_term"),
            log_index=given.integer("log_index"),
            ledger_size=given.integer("ledger_size"),
        )
        given.done()
    except MalformedError as error:
        raise ConfigurationError(
            f"{path} is no summary: {error}",
            hint="give what `quorate federation recover summary` has made",
        ) from error
    return summary


def summarise(config: NodeConfig, tell: Tell) -> Summary:
    """As `summary_of`; also refuses while the node runs."""
    genesis = read_genesis(config.node.genesis)
    with hold_all(config.node.data_dir):
        return summary_of(config, genesis, tell)


def summary_of(config: NodeConfig, genesis: Genesis, tell: Tell) -> Summary:
    """What the store of this node, which does not run, holds. Raises ConfigurationError or
    StorageError."""
    identity = config.node.id, genesis.origin, genesis.hash.hex()
    if not has_store(config):
        return Summary(*identity, 0, 0, 0)
    with opened(store_path(config), config, tell) as environment:
        environment.verify_identity(genesis.hash, config.node.id)
        with environment.read() as snapshot:
            index, term = snapshot.log_last()
            return Summary(*identity, term, index, snapshot.ledger_size)


def refuse_quorum(base: Snapshot, names: Collection[str]) -> None:
    """Raises ConfigurationError when `names` are a majority of the voters in force: then nothing is
    lost that they could not replace."""
    in_force = Configuration.decode(base.configurations()[-1][1])
    left = set(names) & set(in_force.voters)
    if 2 * len(left) > len(in_force.voters):
        raise ConfigurationError(
            f"{len(left)} of {len(in_force.voters)} voters are left, and they are a quorum",
            hint="start them; replace the others with `quorate node retire` and `node add`",
        )


def refuse_answers(config: NodeConfig, base: Snapshot, names: Collection[str]) -> None:
    """Raises ConfigurationError when a node that is not among `names`, and not retired, is there:
    it is not lost, and may be one of a quorum."""
    view = StateView(base.state)
    for node in view.active_nodes():
        domain = view.domain(node.domain)
        if node.id in names or domain is None:
            continue
        if answers(config, node.id, node.peer_address, domain.ca_certificate):
            raise ConfigurationError(
                f"{node.id} is not lost: it answers at "
                f"{config.peers.get(node.id, node.peer_address)}",
                hint="have its organisation stop it and give its summary, or mend the federation "
                "without a recovery",
            )
