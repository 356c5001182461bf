"""What is left of a federation, as far as it can be seen: the survivors' logs, and who answers.

Owns the summary of one node's store; which of the survivors may propose; and the two questions that
must be answered with no before a recovery: do the survivors make a quorum, and does anybody who was
declared lost answer? A survivor that may have forgotten what it promised is one of no quorum: it
waits for others to readmit it. Does not own the recovery (`quorate.node.recover`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from quorate.consensus.configuration import Configuration
from quorate.core import codec
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.fields import Fields
from quorate.core.genesis import Genesis
from quorate.core.ids import SpiffeId, check_node, check_origin
from quorate.core.recovery import Recovery
from quorate.core.state import StateView
from quorate.node.config import NodeConfig
from quorate.node.identity import read_public
from quorate.node.locks import hold_all
from quorate.node.membership import first_configuration
from quorate.node.organisation import read_genesis
from quorate.node.peering import usable_authorities
from quorate.node.reach import answers
from quorate.node.store import has_store, mark_path, store_path
from quorate.node.store_care import Tell, opened
from quorate.proofs import merkle
from quorate.storage import Snapshot

MAX_SUMMARY_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Summary:
    """How far a surviving node's store goes. All numbers are 0 when it has none.

    log_term, log_index: of the last entry of its log, executed or not. root: of its ledger, in hex.
    probation: it may have forgotten what it promised. Its store was restored or begun again and the
    others have not readmitted it yet; or the store is gone, and could only be restored or begun
    again.
    """

    node: str
    origin: str
    genesis_hash: str
    log_term: int
    log_index: int
    ledger_size: int
    root: str
    probation: bool

    @property
    def domain(self) -> str:
        return SpiffeId.parse(self.node).trust_domain

    @property
    def reach(self) -> tuple[int, int]:
        """Of two logs, the one with the greater reach holds what is committed of the other, but
        for the case that `refuse_other_ledgers` is about."""
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
            root=given.text("root"),
            probation=given.truth("probation"),
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
        has_had_one = mark_path(config, genesis.hash).exists()
        return Summary(*identity, 0, 0, 0, root="", probation=has_had_one)
    with opened(store_path(config), config, tell) as environment:
        environment.verify_identity(genesis.hash, config.node.id)
        with environment.read() as snapshot:
            index, term = snapshot.log_last()
            return Summary(
                *identity,
                term,
                index,
                snapshot.ledger_size,
                root=snapshot.root().hex(),
                probation=bool(snapshot.probation()),
            )


def check_survivors(survivors: Sequence[Summary], genesis: Genesis) -> None:
    """Raises ConfigurationError unless the first of them, this node, is the one to propose."""
    own = survivors[0]
    if own.ledger_size == 0:
        raise ConfigurationError(
            f"{own.node} has no store to go on with", hint="propose where there is one"
        )
    for other in survivors[1:]:
        if (other.origin, other.genesis_hash) != (own.origin, own.genesis_hash):
            raise ConfigurationError(f"{other.node} is of another federation: {other.origin}")
        if other.reach > own.reach:
            raise ConfigurationError(
                f"the log of {other.node} goes further than that of {own.node}: "
                f"term {other.log_term}, entry {other.log_index}",
                hint="propose on the machine of that node",
            )
    if isinstance(genesis, Recovery) and own.log_index <= genesis.former.log_index:
        raise ConfigurationError(
            f"{own.node} has begun again, and has nothing of what was carried over to {own.origin}",
            hint="`quorate node restore` a backup of any survivor's store on its machine, and "
            "propose there",
        )
    domains = [each.domain for each in survivors]
    if len(set(domains)) < len(domains):
        raise ConfigurationError(
            "two summaries are of one organisation",
            hint="each organisation goes on with one node, and adds others later",
        )


def refuse_other_ledgers(base: Snapshot, survivors: Sequence[Summary]) -> None:
    """Raises ConfigurationError when a survivor has executed what the base, of which the first
    survivor's whole log was executed, does not have.

    What was executed was decided. The log that goes furthest lacks it when its last entries are
    those of a leader whom nobody followed, and what they displaced was decided under a later leader
    all the same, by a quorum that is lost now (Ongaro and Ousterhout, figure 8).
    """
    for other in survivors[1:]:
        size = other.ledger_size
        if size == 0 or (size <= base.ledger_size and merkle.root(base, size).hex() == other.root):
            continue
        raise ConfigurationError(
            f"{other.node} has decided what the log of {survivors[0].node} does not have, though "
            "that goes further: entries at its end were never decided",
            hint=f"`quorate node rejoin --replace` for {survivors[0].node}, which keeps the store "
            "aside; then propose elsewhere, with a new summary of it",
        )


def refuse_quorum(base: Snapshot, names: Collection[str], forgetful: Collection[str]) -> None:
    """Raises ConfigurationError when those of `names` that have forgotten nothing are a majority of
    the voters in force: then nothing is lost that they could not replace, and they readmit who is
    on probation.

    forgetful: those of `names` that may have forgotten what they promised. They vote for nobody.
    """
    found = base.configurations()
    if found:
        in_force = Configuration.decode(found[-1][1])
    else:  # the store was begun again, and no node has run on it yet
        in_force = first_configuration(StateView(base.state).nodes())
    left = (set(names) - set(forgetful)) & set(in_force.voters)
    if 2 * len(left) > len(in_force.voters):
        waiting = "; ".join(f"{name} may have forgotten promises" for name in sorted(forgetful))
        raise ConfigurationError(
            f"{len(left)} of {len(in_force.voters)} voters are left, and they are a quorum"
            + (f" ({waiting}, and counts for none)" if waiting else ""),
            hint="start them: they readmit who is on probation; replace who is lost with "
            "`quorate node retire` and `node add`",
        )


def refuse_answers(config: NodeConfig, base: Snapshot, names: Collection[str]) -> None:
    """Raises ConfigurationError when a node that is not among `names`, and not retired, is there:
    it is not lost, and may be one of a quorum."""
    view = StateView(base.state)
    for node in view.active_nodes():
        domain = view.domain(node.domain)
        if node.id in names or domain is None:
            continue
        authorities = b"\n".join(usable_authorities(domain)).decode("ascii")
        if answers(config, node.id, node.peer_address, authorities):
            raise ConfigurationError(
                f"{node.id} is not lost: it answers at "
                f"{config.peers.get(node.id, node.peer_address)}",
                hint="have its organisation stop it and give its summary, or mend the federation "
                "without a recovery",
            )
