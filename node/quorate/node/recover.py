"""The recovery of a federation whose quorum is lost for good: what each surviving node's tool does.

Owns the three steps, each on the machine of a stopped node. *Summarise*: how far this node's log
goes. *Propose*, where it goes furthest: a copy of the store with all of its log executed, the
*base*, and the document that commits to it. *Install*, everywhere, when all survivors have signed:
a new store with the base's state and a ledger that begins with the document. Each step refuses what
would let two histories live. Does not own the document (`quorate.core.recovery`) nor what is
carried over (`quorate.core.recovering`).

Of all logs that are left, the one with the latest term, and of those the longest, holds what is
committed of the others (Raft, 5.4.1 and the log matching property), but for one case, which is
refused (`survivors.refuse_other_ledgers`). All of it is executed, committed or not: nobody can tell
any more, and a revocation must not be lost. That a store was restored does not change which log
goes furthest: a backup is a log as it once was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from quorate.consensus.configuration import COMMAND, Configuration
from quorate.core import dsse
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.genesis import Descriptor, Genesis, NodeDescriptor
from quorate.core.limits import MAX_GENESIS_BYTES
from quorate.core.recovering import carry_over, next_fence_base
from quorate.core.recovery import (
    Former,
    Recovery,
    build_recovery_payload,
    parse_recovery,
    parse_recovery_draft,
    state_hash,
)
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.node.config import NodeConfig
from quorate.node.former import check_former, is_changed
from quorate.node.identity import read_public, replace_public, write_public
from quorate.node.locks import hold_all
from quorate.node.machine import LedgerMachine
from quorate.node.organisation import read_genesis
from quorate.node.store import DATA_FILE, has_store, leave_mark, mark_path, store_path
from quorate.node.store_care import Tell, incoming, opened, put_in_place
from quorate.node.survivors import (
    Summary,
    check_survivors,
    refuse_answers,
    refuse_other_ledgers,
    refuse_quorum,
    summary_of,
)
from quorate.proofs import merkle
from quorate.proofs.signing import sign_envelope
from quorate.storage import Environment, Progress, Snapshot

BASE: Final = "base"
DOCUMENT: Final = "recovery.json"
_HINT: Final = "see docs/recovery.md"
_PAGE_BYTES: Final = 1024 * 1024
_ENTRIES_PER_TURN: Final = 512


# -- proposing -----------------------------------------------------------------------------------


def propose(
    config: NodeConfig, out: Path, origin: str, others: Sequence[Summary], tell: Tell
) -> tuple[Recovery, Summary]:
    """Makes the new directory `out` with the base and the document, for every survivor to sign.
    Returns the document, and how far this node's own store goes.

    origin: the new ledger's. others: the summaries of all other nodes that survive. Raises
    ConfigurationError when this is not the node to propose, or the quorum is not lost, and
    StorageError.
    """
    genesis = read_genesis(config.node.genesis)
    if out.exists():
        raise ConfigurationError(f"{out} is there already", hint="name a directory that is not")
    with hold_all(config.node.data_dir):
        survivors = [summary_of(config, genesis, tell), *others]
        check_survivors(survivors, genesis)
        try:
            out.mkdir(mode=0o700, parents=True)
            with opened(store_path(config), config, tell) as environment:
                environment.backup(out / BASE, tell)
            with opened(out / BASE, config, tell) as base:
                _finish_log(base, tell)
                for step in base.verify():
                    tell(step)
                with base.read() as snapshot:
                    payload = _document(config, snapshot, origin, survivors)
            _tidy_base(out)
            write_public(out / DOCUMENT, sign_envelope(dsse.RECOVERY_TYPE, payload))
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            raise
    return read_draft(out / DOCUMENT)[0], survivors[0]


def _finish_log(base: Environment, tell: Tell) -> None:
    """Executes what the log holds beyond the state."""
    machine, turn = LedgerMachine(base), base.turn
    first, (last, _) = turn.applied_index + 1, turn.log_last()
    for index in range(first, last + 1):
        held = turn.log_get(index)
        assert held is not None, "the log has no gaps"
        if held[1][:1] == COMMAND:
            machine.apply(index, held[1][1:])
        turn.set_applied(index)
        if index == last or index % _ENTRIES_PER_TURN == 0:
            base.commit()
            machine.forget()
            tell(Progress("log", index - first + 1, last - first + 1))


def _document(
    config: NodeConfig, base: Snapshot, origin: str, survivors: Sequence[Summary]
) -> bytes:
    view = StateView(base.state)
    federation, names = view.federation(), {each.node for each in survivors}
    nodes = {node.id: node for node in view.nodes()}
    for name in sorted(names):
        if name not in nodes or nodes[name].retired:
            raise ConfigurationError(f"{name} is no member of {federation.origin}", hint=_HINT)
    refuse_quorum(base, names, {each.node for each in survivors if each.probation})
    refuse_answers(config, base, names)
    refuse_other_ledgers(base, survivors)
    index, term = base.log_last()
    domains = view.domains()
    descriptors = [_descriptor(view, domain.id, names) for domain in domains]
    try:
        return build_recovery_payload(
            origin=origin,
            created_ms=max(time.time_ns() // 1_000_000, federation.ledger_time),
            parameters=federation.parameters,
            version=federation.protocol,
            fence_base=next_fence_base(federation, base.ledger_size),
            former=Former(
                origin=federation.origin,
                genesis_hash=federation.genesis_hash,
                ledger_size=base.ledger_size,
                root=base.root().hex(),
                log_index=index,
                log_term=term,
                state=state_hash(_pairs(base)),
            ),
            descriptors=descriptors,
            survivors={each.domain for each in survivors},
            on_probation={each.domain for each in survivors if each.probation},
            suspended_by={each.id: each.suspended_by for each in domains if each.suspended_by},
            expelled={each.id for each in domains if each.status is Status.REVOKED},
            thresholds=view.thresholds(),
            is_frozen=federation.frozen is not None,
            rates=federation.rates,
            policies=federation.policies,
        )
    except MalformedError as error:
        raise ConfigurationError(f"no recovery document can be made: {error}") from error


def _descriptor(view: StateView, domain_id: str, names: set[str]) -> Descriptor:
    """A domain with the node that it goes on with, or else the one that voted last."""
    domain = view.domain(domain_id)
    assert domain is not None
    own = [node for node in view.nodes() if node.domain == domain_id]
    node = max(own, key=lambda each: (each.id in names, not each.retired, each.votes, each.changed))
    return Descriptor(
        domain=domain.id,
        governance_key=bytes.fromhex(domain.governance_key),
        cosigner_key=bytes.fromhex(domain.cosigner_key),
        ca_certificate=domain.ca_certificate,
        node=NodeDescriptor(
            node.id,
            node.peer_address,
            bytes.fromhex(node.signing_key),
            bytes.fromhex(node.log_key),
        ),
        envelope=dsse.Envelope(b"", dsse.RECOVERY_TYPE, ()),
        key_set=domain.key_set,
        next_ca=domain.next_ca,
    )


def _pairs(snapshot: Snapshot) -> Iterator[tuple[bytes, bytes]]:
    after: bytes | None = None
    while page := snapshot.state_page(after, _PAGE_BYTES):
        yield from page
        after = page[-1][0]


def _tidy_base(out: Path) -> None:
    for file in (out / BASE).iterdir():
        if file.name != DATA_FILE:
            file.unlink()


# -- installing ----------------------------------------------------------------------------------


def install(config: NodeConfig, directory: Path, tell: Tell) -> tuple[Recovery, Path | None]:
    """Puts a new store, with the base's state and a ledger that begins with the document, in the
    place of this node's, and the document in the place of its genesis. Returns the document, and
    where the former store was moved to.

    Can be repeated after an interruption: the mark that the node has had a store in the new ledger
    is left last, by this or by a first start, whichever comes first. Where there is the mark and
    not the store, the node may have run on it, and has forgotten what it promised.

    Raises ConfigurationError or StorageError; before the last steps everything is as it was.
    """
    recovery = read_recovery(directory / DOCUMENT)
    genesis = read_genesis(config.node.genesis)
    if config.node.id not in recovery.nodes:
        raise ConfigurationError(
            f"{config.node.id} does not go on in {recovery.origin}",
            hint="its organisation can add another node to it",
        )
    if genesis.hash != recovery.hash:
        check_goes_on(config, directory, genesis, recovery, tell)
    former: Path | None = None
    with hold_all(config.node.data_dir):
        if not _is_installed(config, recovery, tell):
            _refuse_again(config, recovery)
            with incoming(config, replace=True) as place:
                _make(config, directory / BASE, place, recovery, tell)
                former = put_in_place(config, place)
            _tidy_base(directory)
        _replace_genesis(config, genesis, recovery)
        leave_mark(config, recovery.hash)
    return recovery, former


def _is_installed(config: NodeConfig, recovery: Recovery, tell: Tell) -> bool:
    if not has_store(config):
        return False
    with opened(store_path(config), config, tell) as own, own.read() as snapshot:
        return snapshot.identity() == (recovery.hash, config.node.id)


def _refuse_again(config: NodeConfig, recovery: Recovery) -> None:
    """Raises ConfigurationError when the node has had a store in the new ledger."""
    if mark_path(config, recovery.hash).exists():
        raise ConfigurationError(
            f"{config.node.id} has had a store in {recovery.origin}, and it is gone: begun anew "
            "from the base, the node could break what it has promised there",
            hint=f"with the document as {config.node.genesis}, `quorate node restore` a backup of "
            "the new ledger, or `quorate node rejoin` (docs/recovery.md)",
        )


def _make(config: NodeConfig, base_path: Path, place: Path, recovery: Recovery, tell: Tell) -> None:
    """Makes the new store in `place`, when nothing speaks against it."""
    if not (base_path / DATA_FILE).is_file():
        raise ConfigurationError(
            f"there is no base in {base_path}",
            hint="bring the whole directory that `quorate federation recover propose` made",
        )
    with opened(base_path, config, tell) as base, opened(place, config, tell) as fresh:
        for step in base.verify():
            tell(step)
        with base.read() as snapshot:
            _check_base(snapshot, recovery)
            refuse_quorum(snapshot, recovery.nodes, recovery.forgetful_nodes)
            refuse_answers(config, snapshot, recovery.nodes)
            _check_own(config, snapshot, recovery, tell)
            _found(fresh, snapshot, recovery, config.node.id, tell)
        for step in fresh.verify():
            tell(step)


def check_goes_on(
    config: NodeConfig, directory: Path, genesis: Genesis, recovery: Recovery, tell: Tell
) -> None:
    """As `check_former`, with the proofs of new keys that are in the base. Raises StorageError,
    too."""
    if not is_changed(genesis, recovery):
        check_former(genesis, recovery)
        return
    with opened(directory / BASE, config, tell) as base, base.read() as snapshot:
        check_former(genesis, recovery, snapshot.state)
    _tidy_base(directory)


def check_commitment(config: NodeConfig, directory: Path, recovery: Recovery, tell: Tell) -> None:
    """Verifies the base, which is the former ledger and state, and that the document commits to it.
    Raises ConfigurationError or StorageError."""
    with opened(directory / BASE, config, tell) as base:
        for step in base.verify():
            tell(step)
        with base.read() as snapshot:
            _check_base(snapshot, recovery)
    _tidy_base(directory)


def _check_base(base: Snapshot, recovery: Recovery) -> None:
    former = recovery.former
    found = base.ledger_size, base.root().hex(), base.log_last(), base.applied_index
    expected = (
        former.ledger_size,
        former.root,
        (former.log_index, former.log_term),
        former.log_index,
    )
    if found != expected or state_hash(_pairs(base)) != former.state:
        raise ConfigurationError(
            "the base is not the one that the survivors have signed for",
            hint="bring the directory again from where it was proposed",
        )


def _check_own(config: NodeConfig, base: Snapshot, recovery: Recovery, tell: Tell) -> None:
    """What this node holds must be the beginning of what the base holds. And who was left out of
    the count of the quorum, as on probation, must not have been readmitted since."""
    if not has_store(config):
        return
    with opened(store_path(config), config, tell) as own:
        own.verify_identity(bytes.fromhex(recovery.former.genesis_hash), config.node.id)
        with own.read() as snapshot:
            (index, term), size = snapshot.log_last(), snapshot.ledger_size
            is_on_probation = bool(snapshot.probation())
            is_beyond = (term, index) > (recovery.former.log_term, recovery.former.log_index)
            is_prefix = size <= base.ledger_size and (
                size == 0 or merkle.root(base, size) == snapshot.root()
            )
    if config.node.id in recovery.forgetful_nodes and not is_on_probation:
        raise ConfigurationError(
            f"{config.node.id} is not on probation any more, as the document says: others have "
            "readmitted it, and they may be a quorum",
            hint="do not go on: start the nodes, and see `quorate status`",
        )
    if is_beyond or not is_prefix:
        raise ConfigurationError(
            f"{config.node.id} holds what the base does not: term {term}, entry {index}, "
            f"{size} entries of the ledger",
            hint="do not go on: propose again, from the node whose log goes furthest",
        )


def _found(
    fresh: Environment, base: Snapshot, recovery: Recovery, node_id: str, tell: Tell
) -> None:
    """State, ledger and log of the new federation. Its log begins behind the former one, so that
    whoever joins with an empty log is sent the state, which the log alone does not make."""
    fresh.initialise(recovery.hash, node_id)
    turn, total = fresh.turn, base.state_count()
    for done, (key, value) in enumerate(_pairs(base), start=1):
        turn.state.put(key, value)
        if done % _ENTRIES_PER_TURN == 0:
            fresh.commit()
            tell(Progress("state", done, total))
    try:
        leaf = carry_over(turn.state, recovery)
    except MalformedError as error:
        raise ConfigurationError(f"the recovery document cannot be used: {error}") from error
    turn.append_ledger(leaf)
    # Behind the entry that every log begins with, too: a base that was begun again has no log yet.
    index, term = max(recovery.former.log_index, 1) + 1, recovery.former.log_term + 1
    turn.log_reset(index, term)
    turn.put_configuration(index, Configuration(tuple(sorted(recovery.nodes))).encode())
    turn.set_applied(index)
    turn.set_term_and_vote(term, None)
    fresh.commit()


def _replace_genesis(config: NodeConfig, genesis: Genesis, recovery: Recovery) -> None:
    """The document takes the genesis' place; the genesis stays beside it."""
    path = config.node.genesis
    if genesis.hash == recovery.hash:
        return
    kept = path.with_name(f"genesis-{genesis.hash.hex()[:16]}.json")
    if not kept.exists():
        write_public(kept, genesis.envelope.to_bytes())
    replace_public(path, recovery.envelope.to_bytes())


# -- reading the document ------------------------------------------------------------------------


def read_recovery(path: Path) -> Recovery:
    """Raises ConfigurationError unless every survivor has signed."""
    try:
        return parse_recovery(read_public(path, MAX_GENESIS_BYTES))
    except MalformedError as error:
        raise ConfigurationError(
            f"{path} is no recovery document that every survivor has signed: {error}",
            hint="each of them runs `quorate federation recover sign`",
        ) from error


def read_draft(path: Path) -> tuple[Recovery, tuple[str, ...]]:
    """The document, and the domains that have signed it. Raises ConfigurationError."""
    try:
        return parse_recovery_draft(read_public(path, MAX_GENESIS_BYTES))
    except MalformedError as error:
        raise ConfigurationError(f"{path} is no recovery document: {error}") from error
