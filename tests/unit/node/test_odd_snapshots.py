"""A leader that lies: whatever it sends as a snapshot, nobody stops, and takes the truth later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from tests.unit.node import nodes as world
from tests.unit.node.nodes import Node, Nodes

from quorate.consensus import PeerError
from quorate.consensus.messages import SnapshotChunk, SnapshotOffer, SnapshotPull
from quorate.core import keys, protocol, state
from quorate.core.errors import StorageDamagedError, StorageFullError
from quorate.core.records import Kind, Role
from quorate.core.records import Node as NodeRecord
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import Writer
from quorate.core.vetting import Vetting
from quorate.node import snapshot_sender, snapshots
from quorate.node.snapshot_sender import SnapshotSender
from quorate.storage import Environment
from quorate.storage.turn import Turn
from quorate.testing.builders import key_for, node_body

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK = DOMAINS[0]
OTHER = f"spiffe://{BANK}/node/7"
RETIRED = f"spiffe://{BANK}/node/8"
_numbers = count()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, DOMAINS)
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None)
    assert nodes.leader is not None
    assert nodes.order(BANK, "node.add", node_body(RETIRED), nodes.leader).accepted
    assert nodes.order(BANK, "node.retire", {"node": RETIRED}, nodes.leader).accepted
    nodes.run_ms(1_000)
    yield nodes
    nodes.close()


def lagging(nodes: Nodes, entries: int = 60) -> Node:
    assert nodes.leader is not None
    behind = nodes.others()[0]
    nodes.isolate(behind.node_id)
    nodes.register(BANK, entries, nodes.leader)
    nodes.run_ms(100)
    return behind


@contextmanager
def lying(nodes: Nodes, tamper: Callable[[Turn], None]) -> Iterator[None]:
    """The leader sends what `tamper` makes of its store."""
    leader = nodes.leader
    assert leader is not None
    leader.environment.abort()
    path = nodes.directory / f"lies-{next(_numbers)}"
    leader.environment.backup(path)
    lies = Environment.open(path, map_size_bytes=256 << 20)
    tamper(lies.turn)
    lies.commit()
    sender = leader.core._snapshots.sender
    sender._environment = lies
    try:
        yield
    finally:
        sender.close()
        sender._environment = leader.environment
        lies.close()


def same(nodes: Nodes) -> bool:
    ledgers = [node.ledger() for node in nodes.nodes.values()]
    return all(ledger == ledgers[0] for ledger in ledgers)


def is_refused(nodes: Nodes, behind: Node, tamper: Callable[[Turn], None]) -> str:
    """That the node goes on with what it had, also after a restart, and takes the truth then.
    Returns what it has said about its leader."""
    assert nodes.leader is not None
    liar, before = nodes.leader.node_id, behind.ledger()
    with lying(nodes, tamper):
        nodes.isolate()
        nodes.until(lambda: behind.problems)
        nodes.run_ms(2_500)
        assert behind.ledger() == before
        assert not behind.word_holds()
        behind.start()
        nodes.connect_again(behind)
        nodes.run_ms(200)
        assert behind.ledger() == before
    assert {problem.partition(": ")[0] for problem in behind.problems} == {liar}
    said = behind.problems[0].partition(": ")[2]
    nodes.until(lambda: same(nodes) and behind.word_holds())
    return said


def node_record(turn: Turn, ident: str) -> NodeRecord:
    found = StateView(turn.state).node(ident)
    assert found is not None
    return found


def put_node(**changes: object) -> Callable[[Turn, str], None]:
    def tamper(turn: Turn, ident: str) -> None:
        state.save_node(turn.state, replace(node_record(turn, ident), **changes))  # type: ignore[arg-type]

    return tamper


def key_of(ident: str) -> bytes:
    found = keys.record(Kind.NODE, ident)
    assert found is not None
    return found


def another_key(turn: Turn, ident: str) -> None:
    """A well-formed one, on file as it should be."""
    public = key_for("stranger").public.hex()
    state.claim_key(turn.state, public, ident)
    put_node(log_key=public)(turn, ident)


ODD: dict[str, Callable[[Turn, str], None]] = {
    "no hex": put_node(log_key="zz"),
    "a byte": put_node(log_key="ab"),
    "another key": another_key,
    "no JSON": lambda turn, ident: turn.state.put(key_of(ident), b"\xff"),
    "nothing in it": lambda turn, ident: turn.state.put(key_of(ident), b"{}"),
    "another's record": lambda turn, ident: turn.state.put(
        key_of(ident), turn.state.get(key_of(RETIRED)) or b""
    ),
    "gone": lambda turn, ident: turn.state.delete(key_of(ident)),
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("whose", ["the sender's", "its own", "a third one's"])
def test_a_record_of_a_node_that_is_odd_stops_nobody(nodes: Nodes, what: str, whose: str) -> None:
    assert nodes.leader is not None
    behind = lagging(nodes)
    [third] = [n for n in nodes.others() if n is not behind]
    idents = {"the sender's": nodes.leader, "its own": behind, "a third one's": third}
    ident = idents[whose].node_id
    said = is_refused(nodes, behind, lambda turn: ODD[what](turn, ident))
    assert said.startswith("a snapshot"), said


def scrapped(store: Writer) -> None:
    for key, _ in list(store.scan(b"")):
        store.delete(key)


OTHER_ODDITIES: dict[str, Callable[[Turn], None]] = {
    "a node of no domain": lambda turn: turn.state.put(key_of(OTHER), b"{}"),
    "an entry of an index for nobody": lambda turn: turn.state.put(keys.active_node(OTHER), b""),
    "a time of 100 bytes": lambda turn: turn.state.put(keys.LEDGER_TIME, b"\xff" * 100),
    "a time beyond all": lambda turn: turn.state.put(keys.LEDGER_TIME, b"\xff" * 8),
    "a time before": lambda turn: state.save_ledger_time(turn.state, 1),
    "what nobody knows": lambda turn: turn.state.put(b"?", b"?"),
    "nothing": lambda turn: scrapped(turn.state),
    "a wrong count": lambda turn: state.count_executor(turn.state, BANK, 1),
    "who was retired": lambda turn: state.save_node(
        turn.state, replace(node_record(turn, RETIRED), status=Status.ACTIVE, role=Role.OBSERVER)
    ),
    "other parameters": lambda turn: state.save_federation(
        turn.state,
        replace(
            StateView(turn.state).federation(),
            parameters=replace(StateView(turn.state).federation().parameters, rho_ppm=1),
        ),
    ),
    "an entry that is to come": lambda turn: state.save_domain(
        turn.state,
        replace(StateView(turn.state).domains()[0], changed=turn.ledger_size),
    ),
    "another federation": lambda turn: state.save_federation(
        turn.state, replace(StateView(turn.state).federation(), genesis_hash="0" * 64)
    ),
}


@pytest.mark.parametrize("what", OTHER_ODDITIES)
def test_a_state_that_is_odd_stops_nobody(nodes: Nodes, what: str) -> None:
    said = is_refused(nodes, lagging(nodes), OTHER_ODDITIES[what])
    assert said.startswith("a snapshot"), said


def test_a_state_is_looked_at_in_steps_while_the_node_answers(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its sender keeps what it sends, however long that takes."""
    monkeypatch.setattr(snapshots, "MAX_VETTED", 1)
    monkeypatch.setattr(snapshots, "PULL_AGAIN_S", 0.05)
    monkeypatch.setattr(snapshot_sender, "AWAY_S", 0.2)
    monkeypatch.setattr(snapshot_sender, "IDLE_S", 0.2)
    behind, looked = lagging(nodes), 0
    step = Vetting.step

    def watched(vetting: Vetting, most: int) -> bool:
        nonlocal looked
        assert most == 1
        looked += 1
        return step(vetting, most)

    monkeypatch.setattr(Vetting, "step", watched)
    leader, receiver = nodes.leader, behind.core._snapshots.receiver
    assert leader is not None
    nodes.isolate()
    nodes.until(lambda: receiver.is_vetting)
    pairs = leader.core._snapshots.sender._sending[behind.node_id].offer.state_count
    while receiver.is_vetting:
        nodes.register(BANK, 1, leader)
        nodes.run_ms(20)
    nodes.until(lambda: same(nodes) and behind.word_holds())
    assert looked == pairs + 1, "once, and at one snapshot"
    assert not behind.problems


def test_it_looks_on_without_being_spoken_to(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MAX_VETTED", 10)
    behind = lagging(nodes)
    receiver = behind.core._snapshots.receiver
    nodes.isolate()
    nodes.until(lambda: receiver.is_vetting)
    while receiver.is_vetting:
        assert behind.core.has_more
        behind.core.turn()


def test_a_disk_that_fails_under_it_is_no_fault_of_the_sender(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = lagging(nodes)

    def damaged(_vetting: object, _most: int) -> bool:
        raise StorageDamagedError("the disk")

    monkeypatch.setattr(Vetting, "step", damaged)
    nodes.isolate()
    with pytest.raises(StorageDamagedError):
        nodes.run_ms(1_000)
    assert not behind.problems


# -- how much there is of it ---------------------------------------------------------------------


def leap(turn: Turn, entries: int, indexes: int, size: int = 1) -> None:
    """The ledger grows by so many lies, over so many indexes of the log."""
    index, term = turn.log_last()
    configuration = turn.configurations()[-1][1]
    turn.log_reset(index + indexes, term)
    turn.put_configuration(index + indexes, configuration)
    turn.set_applied(index + indexes)
    for number in range(entries):
        turn.append_ledger(b"%d" % number + b"j" * size)


def test_a_ledger_longer_than_the_log_could_make_is_not_begun(nodes: Nodes) -> None:
    behind = lagging(nodes)
    said = is_refused(nodes, behind, lambda turn: leap(turn, 1_000, 5))
    assert said == "a snapshot with more entries than there were commands"


def test_nothing_is_staged_for_who_has_not_signed(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = lagging(nodes)
    begun: list[int] = []
    monkeypatch.setattr(Turn, "stage_begin", lambda _turn, index, _size: begun.append(index))
    assert nodes.leader is not None
    signs = nodes.leader.core._snapshots.sender._sign
    nodes.leader.core._snapshots.sender._sign = lambda size, root: signs(size, b"\0" * 32)[:-9]
    nodes.isolate()
    nodes.until(lambda: behind.problems)
    assert not begun
    assert "no good checkpoint" in behind.problems[0]


def test_no_ledger_is_staged_for_a_sender_that_nobody_has_met_and_that_has_not_signed(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer does not know its leader; the state that it is sent does."""
    behind = lagging(nodes)
    assert nodes.leader is not None
    behind.core.nodes.pop(nodes.leader.node_id)
    nodes.leader.core._snapshots.sender._sign = lambda _size, _root: "nothing"
    staged: list[int] = []
    monkeypatch.setattr(Turn, "stage_ledger", lambda _turn, first, _: staged.append(first))
    nodes.isolate()
    nodes.until(lambda: behind.problems)
    assert not staged
    assert "no good checkpoint" in behind.problems[0]


def test_more_records_than_were_announced_are_not_taken(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a disk could be filled with them, and no end be sent."""
    behind = lagging(nodes)
    describe = SnapshotSender._describe
    monkeypatch.setattr(
        SnapshotSender,
        "_describe",
        lambda *given: replace(describe(*given), state_count=10),
    )
    nodes.isolate()
    nodes.until(lambda: behind.problems)
    assert "more records" in behind.problems[0]
    assert behind.environment.turn.staged() is None


def lied_to(nodes: Nodes, entries: int, size: int = 1) -> Node:
    """A follower that has taken in so much of a false ledger, before its liar fell silent."""
    behind = lagging(nodes, 3)
    nodes.isolate()
    nodes.until(lambda: same(nodes))
    nodes.isolate(behind.node_id)
    assert nodes.leader is not None
    nodes.register(BANK, 60, nodes.leader)
    nodes.run_ms(100)
    with lying(nodes, lambda turn: leap(turn, entries, entries, size)):
        nodes.isolate()
        turn = behind.environment.turn
        nodes.until(lambda: (s := turn.staged()) is not None and s.ledger_next > entries // 2)
        nodes.isolate(behind.node_id)
    return behind


def test_lies_that_were_staged_give_way_to_the_truth_a_part_at_a_time(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_DISCARDED", 100)
    monkeypatch.setattr(snapshot_sender, "MAX_CHUNK_ITEMS", 200)
    behind = lied_to(nodes, 3_000)
    removed: list[int] = []
    discard = Turn.discard_staging

    def watched(turn: Turn, most: int) -> bool:
        removed.append(most)
        return discard(turn, most)

    monkeypatch.setattr(Turn, "discard_staging", watched)
    nodes.isolate()
    nodes.until(lambda: same(nodes) and behind.word_holds())
    assert max(removed) <= 100
    nodes.until(lambda: not behind.environment.turn.has_remains)
    list(behind.environment.verify())


@pytest.mark.parametrize("ended", ["goes on", "starts again"])
def test_a_store_that_a_snapshot_has_filled_serves_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    monkeypatch.setattr(world, "MAP_SIZE_BYTES", 3 << 20)
    nodes = Nodes(tmp_path, DOMAINS)
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None)
    behind = lagging(nodes)
    full: list[int] = []

    def probing(node: Node) -> None:
        turn = node.core.turn

        def turn_or_probe() -> None:
            if node.core.storage_problem:
                full.append(nodes.clock.boottime_ns())
                node.core.probe_storage()
            else:
                turn()

        monkeypatch.setattr(node.core, "turn", turn_or_probe)

    probing(behind)
    with lying(nodes, lambda turn: leap(turn, 20_000, 20_000, 400)):
        nodes.isolate()
        nodes.until(lambda: full or behind.core.storage_problem)
        if ended == "starts again":
            full.clear()
            behind.start()
            probing(behind)
            nodes.connect_again(behind)
        nodes.until(lambda: len(full) > 1)
        assert full[1] - full[0] > 4 * 10**9, "it is not begun again at once"
    nodes.isolate()
    nodes.connect_again(behind)
    nodes.until(lambda: same(nodes) and behind.word_holds())
    list(behind.environment.verify())
    nodes.close()


def test_what_is_kept_open_to_send_is_let_go_when_the_storage_is_full(nodes: Nodes) -> None:
    behind = lagging(nodes)
    leader = nodes.leader
    assert leader is not None
    nodes.isolate()
    sender = leader.core._snapshots.sender
    nodes.until(lambda: sender._sending)
    leader.core._storage_failed(StorageFullError("no room"))
    assert not sender._sending
    leader.core.probe_storage()
    nodes.until(lambda: same(nodes) and behind.word_holds())


# -- two senders ---------------------------------------------------------------------------------


class Two:
    """A receiver, a liar who has suspended somebody, and an honest node at the same index."""

    def __init__(self, nodes: Nodes) -> None:
        behind = lagging(nodes)
        [liar, honest] = [node for node in nodes.nodes.values() if node is not behind]
        nodes.until(lambda: liar.core.durable_applied == honest.core.durable_applied)
        liar.environment.abort()
        liar.environment.backup(nodes.directory / "lies")
        self.lies = Environment.open(nodes.directory / "lies", map_size_bytes=64 << 20)
        executor = next(StateView(self.lies.turn.state).executors())
        state.save_executor(self.lies.turn.state, replace(executor, status=Status.SUSPENDED))
        self.lies.commit()
        self.behind, self.nodes = behind, behind.core.nodes
        self.receiver = behind.core._snapshots.receiver
        self.senders = {
            node.node_id: SnapshotSender(environment, behind.core.now_s, node.core._sign_checkpoint)
            for node, environment in ((liar, self.lies), (honest, honest.environment))
        }
        self.liar, self.honest = liar.node_id, honest.node_id
        self.honest_node = honest

    def offer(self, peer: str) -> SnapshotOffer:
        offer = self.senders[peer].offer(self.behind.node_id, 9)
        assert offer is not None
        return offer

    def pull(self, peer: str) -> SnapshotPull | None:
        """The next part, asked for, sent and taken in. None: there is none."""
        asked = self.receiver.next_pull()
        if asked is None:
            return None
        assert asked[0] == peer
        chunk = self.senders[peer].on_pull(self.behind.node_id, asked[1])
        assert chunk is not None
        self.receiver.on_chunk(peer, chunk)
        self.receiver.vet()
        self.behind.environment.commit()
        return asked[1]

    def close(self) -> None:
        for sender in self.senders.values():
            sender.close()
        self.behind.environment.abort()
        self.lies.close()


@pytest.fixture
def two(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Two]:
    monkeypatch.setattr(snapshot_sender, "MAX_CHUNK_BYTES", 2_000)
    two = Two(nodes)
    yield two
    two.close()


def test_parts_of_one_state_do_not_become_those_of_another(two: Two) -> None:
    """Of the same index, and announced otherwise: it is begun anew."""
    theirs, ours = two.offer(two.liar), two.offer(two.honest)
    assert (theirs.index, theirs.ledger_size) == (ours.index, ours.ledger_size)
    two.receiver.on_offer(two.liar, theirs, two.nodes)
    for _ in range(4):
        two.pull(two.liar)
    two.receiver.abandon()
    two.receiver.on_offer(two.honest, ours, two.nodes)
    pull = two.pull(two.honest)
    assert pull is not None
    assert pull.state_after == b""
    while not two.receiver.is_complete():
        two.pull(two.honest)
    two.receiver.install()
    two.behind.environment.commit()
    assert two.behind.environment.turn.state_digest().encode() == ours.state_digest


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_is_here_is_held_against_what_its_last_sender_announced(
    two: Two, is_restarted: bool
) -> None:
    """The parts of a liar who announced the truth, or of before a restart, that has forgotten what
    was announced."""
    theirs, ours = two.offer(two.liar), two.offer(two.honest)
    if not is_restarted:
        theirs = replace(theirs, state_digest=ours.state_digest)
    two.receiver.on_offer(two.liar, theirs, two.nodes)
    while (pull := two.pull(two.liar)) is not None and not pull.is_ledger:
        pass
    if is_restarted:
        two.behind.start()
        two.receiver = two.behind.core._snapshots.receiver
    two.receiver.abandon()
    two.receiver.on_offer(two.honest, ours, two.nodes)
    pull = two.pull(two.honest)
    assert pull is None or pull.is_ledger, "it goes on where it was"
    while not two.receiver.is_complete():
        two.pull(two.honest)
    before = two.behind.environment.turn.state_digest()
    with pytest.raises(PeerError, match="not the one that was announced"):
        two.receiver.install()
    two.behind.environment.commit()
    assert two.behind.environment.turn.state_digest() == before
    assert two.behind.environment.turn.staged() is None


@pytest.mark.parametrize("which", [0, 1], ids=["signing key", "log key"])
def test_a_newcomer_does_not_take_a_state_that_gives_it_another_key(two: Two, which: int) -> None:
    """One that is not in the state that it has cannot compare the two."""
    own = list(two.receiver._own_keys)
    own[which] = key_for("its own").public.hex()
    two.receiver._own_keys = own[0], own[1]
    two.receiver.on_offer(two.honest, two.offer(two.honest), two.nodes)
    while not two.receiver.is_complete():
        two.pull(two.honest)
    with pytest.raises(PeerError, match="another key"):
        two.receiver.install()


def test_the_root_is_held_against_what_its_last_sender_has_signed(two: Two) -> None:
    ours = two.offer(two.honest)
    two.receiver.on_offer(two.honest, ours, two.nodes)
    while not two.receiver.is_complete():
        two.pull(two.honest)
    two.receiver.abandon()
    signs = two.senders[two.liar]._sign
    theirs = replace(ours, checkpoint=signs(ours.ledger_size, b"\0" * 32))
    two.receiver.on_offer(two.liar, theirs, two.nodes)
    while not two.receiver.is_complete():
        two.receiver.vet()
    with pytest.raises(PeerError, match="does not continue"):
        two.receiver.install()


def test_a_snapshot_that_was_overtaken_by_the_own_ledger_takes_nothing_of_it(two: Two) -> None:
    """Offered for a ledger of this size, at an index far ahead; then the log brings more entries,
    and only then the state comes. The root of the own beginning is a good one."""
    environment, honest = two.receiver._environment, two.honest
    environment.commit()
    with environment.read() as snapshot:
        size, root = snapshot.ledger_size, snapshot.root()
    made = two.offer(honest)
    note = two.honest_node.core._sign_checkpoint(size, root)
    offer = replace(made, index=made.index + 1_000, ledger_size=size, checkpoint=note)
    two.receiver.on_offer(honest, offer, two.nodes)
    environment.commit()
    environment.turn.append_ledger(b"an entry that the log has brought")
    environment.turn.set_applied(environment.turn.applied_index + 1)
    environment.commit()
    with environment.read() as snapshot:  # a state that a ledger of this size can have
        pairs = tuple(snapshot.state_page(None, 1 << 20))
    two.receiver.next_pull()
    chunk = SnapshotChunk(offer.term, offer.index, False, b"", 0, pairs, (), True)
    two.receiver.on_chunk(honest, chunk)
    while two.receiver.is_vetting:
        two.receiver.vet()
    assert two.receiver.is_complete()
    with pytest.raises(PeerError, match="leads back"):
        two.receiver.install()
    environment.commit()
    assert environment.turn.ledger_size == size + 1


def test_a_state_of_later_rules_is_refused_now_and_then_and_nobody_is_stopped(
    nodes: Nodes,
) -> None:
    """A leader that lies must not stop a node; one that speaks true must not be kept busy."""
    behind = lagging(nodes)

    def later(turn: Turn) -> None:
        federation = StateView(turn.state).federation()
        later_rules = replace(federation, protocol=protocol.LATEST + 1)
        state.save_federation(turn.state, later_rules)

    with lying(nodes, later):
        nodes.isolate()
        nodes.run_ms(int(3 * snapshots.REFUSED_S * 1_000))
    refused = [each for each in behind.problems if "not known here" in each]
    assert 1 <= len(refused) <= 4, behind.problems
    nodes.until(lambda: behind.ledger() == nodes.leader.ledger() if nodes.leader else False)
