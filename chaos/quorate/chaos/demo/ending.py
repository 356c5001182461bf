"""Act seven: the ledgers are compared, every proof is verified, the books are counted.

Owns the reckoning. Everything is verified from the genesis and the entries' bytes; see
`quorate.chaos.checks`.
"""

from __future__ import annotations

from quorate.chaos.checks import Audit, audit, is_extended, read_ledger
from quorate.chaos.demo import cast
from quorate.chaos.demo.book import Book
from quorate.chaos.demo.claims import equal, more_than
from quorate.chaos.demo.journal import Did
from quorate.chaos.demo.measure import SETTLE_S
from quorate.chaos.demo.narrator import Narrator
from quorate.chaos.demo.stage import Stage
from quorate.chaos.processes import wait_until
from quorate.core import codec
from quorate.core.limits import MAX_ENTRY_BYTES
from quorate.proofs.checkpoint import Checkpoint


def compare(stage: Stage, narrator: Narrator, earlier: dict[str, Checkpoint]) -> None:
    """All ledgers are compared, and every decision's proof is verified."""
    narrator.act("7. Three ledgers, one history, every decision proven")
    statuses = stage.stop_executors()
    narrator.claim(
        equal("work.ended", "executors that ended in good order", _zeros(statuses), len(statuses))
    )

    def one_size() -> bool:
        sizes = {stage.cluster.status(domain).position.size for domain in cast.DOMAINS}
        return len(sizes) == 1

    wait_until("one size everywhere", one_size, SETTLE_S)
    operators = stage.cluster.operators()
    ledgers = [read_ledger(operator, stage.genesis) for operator in operators]
    told = [acknowledged for operator in operators for acknowledged in operator.acknowledged]
    result = audit(ledgers, stage.genesis, told)
    for problem in result.problems:
        narrator.tell(problem)
    _claim_audit(narrator, result)
    extended = sum(
        is_extended(earlier[operator.domain], ledger.checkpoint, operator)
        for operator, ledger in zip(operators, ledgers, strict=True)
    )
    narrator.claim(
        equal(
            "ledger.append_only",
            "ledgers that extend what they had signed before the network fell apart",
            extended,
            len(ledgers),
        )
    )
    _claim_fences(stage, narrator, ledgers[0].entries)
    _claim_books(stage, narrator)


def _zeros(statuses: dict[str, int]) -> int:
    return sum(status == 0 for status in statuses.values())


def _claim_audit(narrator: Narrator, result: Audit) -> None:
    narrator.tell(
        f"{result.entries} entries under root {result.root.hex()[:16]}..., "
        f"{result.acknowledged} acknowledged commands"
    )
    narrator.claim(
        equal(
            "ledger.problems",
            "faults found in comparing entries, roots, order and acknowledgements",
            len(result.problems),
            0,
        )
    )
    narrator.claim(
        equal(
            "ledger.proofs",
            "inclusion proofs verified, against entries times nodes",
            result.proofs_verified,
            result.entries * result.nodes,
        )
    )
    narrator.claim(
        equal(
            "ledger.checkpoints",
            "signed checkpoints verified with the keys of the genesis",
            result.checkpoints_verified,
            result.nodes,
        )
    )


def _claim_fences(stage: Stage, narrator: Narrator, entries: tuple[bytes, ...]) -> None:
    leases = [event for domain in cast.DOMAINS for event in stage.events(domain, Did.LEASED)]
    proven = {
        event.fence for event in leases if _is_acquisition(entries[event.fence : event.fence + 1])
    }
    narrator.claim(
        equal(
            "fence.recorded",
            "leases whose fence is theirs alone, and the index of their decision",
            len(proven),
            len({event.lease for event in leases}),
        )
    )


def _is_acquisition(entries: tuple[bytes, ...]) -> bool:
    for data in entries:
        entry = codec.decode(data, MAX_ENTRY_BYTES)
        assert isinstance(entry, dict)
        return entry.get("type") == "lease.acquire" and entry.get("decision") == "accepted"
    return False


def _claim_books(stage: Stage, narrator: Narrator) -> None:
    """Whatever left one book has arrived in the other."""
    moved = lost = 0
    for worker in cast.WORKERS:
        with Book(stage.book(worker.domain)) as own, Book(stage.book(worker.partner)) as partner:
            sent = own.sent()
            moved += len(sent)
            lost += len(sent - partner.received())
    narrator.claim(more_than("books.moved", "records moved between the books", moved, 0))
    narrator.claim(
        equal("books.lost", "records that left one book and are not in the other", lost, 0)
    )
