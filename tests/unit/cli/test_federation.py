"""`quorate federation recover`: two organisations of five voters are left, and go on."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.left import AGENT, BANK, CLINIC, LOST, MAP_BYTES, NEW, TERM, Left, make_left

from quorate.consensus.configuration import Configuration
from quorate.core import codec, state
from quorate.core.records import BY_BALLOT, Policies, Rates
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.node import certificates, recover
from quorate.node.config import NodeConfig
from quorate.node.locks import NODE_LOCK, hold
from quorate.node.organisation import read_genesis
from quorate.node.store import mark_path, open_environment, store_path
from quorate.storage import Environment


@pytest.fixture
def left(federation: Any, run: Any) -> Left:
    return make_left(federation, run)


# -- proposing -------------------------------------------------------------------------------


def test_all_of_the_longest_log_is_executed(left: Left, tmp_path: Path) -> None:
    ran = left.propose(tmp_path / "recovery")
    assert ran.exit_code == 0, ran.stderr
    former = ran.json["former"]
    assert (former["log_index"], former["log_term"], former["ledger_size"]) == (5, TERM, 5)
    assert ran.json["survivors"] == [BANK, CLINIC]
    assert ran.json["fence_base"] == 5 + 2**32
    assert ran.json["complete"] is False
    assert sorted(each.name for each in (tmp_path / "recovery").iterdir()) == [
        "base",
        "recovery.json",
    ]
    with left.view(BANK) as (snapshot, _):
        assert snapshot.applied_index == 4, "the node's own store stays as it is"


def test_only_the_node_whose_log_goes_furthest_proposes(left: Left, tmp_path: Path) -> None:
    summary = tmp_path / "bank.json"
    assert left.recover("summary", summary, domain=BANK).json["log_index"] == 5
    arguments = ("propose", tmp_path / "r", "--origin", NEW, "--survivor", summary)
    ran = left.recover(*arguments, domain=CLINIC)
    assert ran.exit_code == 1
    assert f"the log of spiffe://{BANK}/node/1 goes further" in ran.error["message"]
    assert not (tmp_path / "r").exists()


def test_a_later_term_goes_further_than_a_longer_log(left: Left, tmp_path: Path) -> None:
    left.never_ran(CLINIC)
    left.grow(CLINIC, entries=2, executed=2, term=TERM + 1)
    ran = left.propose(tmp_path / "r")
    assert (ran.exit_code, "goes further" in ran.error["message"]) == (1, True)


def test_a_quorum_that_is_left_is_not_recovered(left: Left, tmp_path: Path) -> None:
    left.grow(LOST, entries=0, executed=0)
    given = []
    for domain in (CLINIC, LOST):
        file = tmp_path / f"{domain}.json"
        left.recover("summary", file, domain=domain)
        given += ["--survivor", file]
    ran = left.recover("propose", tmp_path / "r", "--origin", NEW, *given, domain=BANK)
    assert ran.exit_code == 1
    assert "3 of 5 voters are left, and they are a quorum" in ran.error["message"]
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"origin": "quorate.example/another"}, "another federation"),
        ({"genesis_hash": "0" * 64}, "another federation"),
        ({"node": f"spiffe://{BANK}/node/9"}, "of one organisation"),
        ({"node": f"spiffe://{CLINIC}/node/9"}, "is no member"),
        ({"more": 1}, "is no summary"),
    ],
)
def test_summaries_that_do_not_fit_are_refused(
    left: Left, tmp_path: Path, change: dict[str, object], words: str
) -> None:
    file = tmp_path / "clinic.json"
    left.recover("summary", file, domain=CLINIC)
    file.write_bytes(codec.encode(json.loads(file.read_bytes()) | change))
    arguments = ("propose", tmp_path / "r", "--origin", NEW, "--survivor", file)
    ran = left.recover(*arguments, domain=BANK)
    assert (ran.exit_code, words in ran.error["message"]) == (1, True), ran.error


def test_a_node_that_runs_does_not_take_part(left: Left, tmp_path: Path) -> None:
    directory = left.agreed()
    with hold(left.config(BANK).node.data_dir, NODE_LOCK):
        for arguments in (
            ("summary", tmp_path / "s"),
            ("propose", tmp_path / "r", "--origin", NEW),
            ("install", directory),
        ):
            ran = left.recover(*arguments, domain=BANK)
            assert (ran.exit_code, "runs in" in ran.error["message"]) == (1, True)


# -- who answers -----------------------------------------------------------------------------


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Somebody at an address; `serve` is what becomes of one connection."""
    server = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def accept() -> None:
        while not done.is_set():
            try:
                link, _ = server.accept()
            except OSError:
                return
            with link:
                serve(link)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        done.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def with_certificate(pair: certificates.KeyPair, directory: Path) -> Callable[[Any], None]:
    """Somebody who shows this certificate."""
    (directory / "shown.pem").write_bytes(pair.certificate + pair.private_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "shown.pem")

    def serve(link: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(link, server_side=True) as made:
            made.recv(1)

    return serve


def dial(left: Left, address: str) -> None:
    """The bank dials the lost node there."""
    file = left.root / BANK / "node.toml"
    file.write_text(f'{file.read_text()}\n[peers]\n"spiffe://{LOST}/node/1" = "{address}"\n')


def test_a_member_that_answers_is_not_lost(left: Left, tmp_path: Path) -> None:
    node = left.config(LOST).tls
    pair = certificates.KeyPair(node.certificate.read_bytes(), node.private_key.read_bytes())
    with listening(with_certificate(pair, tmp_path)) as address:
        dial(left, address)
        ran = left.propose(tmp_path / "r")
    assert ran.exit_code == 1
    assert f"spiffe://{LOST}/node/1 is not lost: it answers at {address}" in ran.error["message"]
    assert not (tmp_path / "r").exists()


def test_a_member_that_answers_again_stops_the_installation(left: Left, tmp_path: Path) -> None:
    directory = left.agreed()
    node = left.config(LOST).tls
    pair = certificates.KeyPair(node.certificate.read_bytes(), node.private_key.read_bytes())
    with listening(with_certificate(pair, tmp_path)) as address:
        dial(left, address)
        ran = left.recover("install", directory, domain=BANK)
    assert (ran.exit_code, "is not lost" in ran.error["message"]) == (1, True)
    assert read_genesis(left.config(BANK).node.genesis).origin != NEW


def test_somebody_else_at_its_address_is_not_the_member(left: Left, tmp_path: Path) -> None:
    stranger = certificates.issue_node(certificates.make_ca(LOST), f"spiffe://{LOST}/node/1")
    with listening(with_certificate(stranger, tmp_path)) as address:
        dial(left, address)
        assert left.propose(tmp_path / "r").exit_code == 0


def test_who_hangs_is_not_known_to_be_lost(
    left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quorate.node.reach.TIMEOUT_S", 0.2)
    asked = threading.Event()

    def hang(_link: socket.socket) -> None:
        asked.wait(10)

    with listening(hang) as address:
        dial(left, address)
        ran = left.propose(tmp_path / "r")
        asked.set()
    assert (ran.exit_code, "is not lost" in ran.error["message"]) == (1, True)


# -- signing and verifying -------------------------------------------------------------------


def test_only_survivors_sign_and_only_for_their_own_federation(left: Left, tmp_path: Path) -> None:
    directory = tmp_path / "recovery"
    left.propose(directory)
    ran = left.recover("sign", left.root / LOST, directory, "--yes")
    assert (ran.exit_code, "does not go on" in ran.error["message"]) == (6, True)
    other = tmp_path / "elsewhere"
    shutil.copytree(left.root / CLINIC, other)
    document = json.loads((other / "genesis.json").read_bytes())
    assert document["signatures"].pop()
    (other / "genesis.json").write_bytes(codec.encode(document))
    assert left.recover("sign", other, directory, "--yes").exit_code == 1
    assert left.recover("verify", directory).exit_code == 6, "nobody has signed yet"


def test_signatures_in_any_order_make_one_document(left: Left, tmp_path: Path) -> None:
    directory, other = tmp_path / "recovery", tmp_path / "other"
    left.propose(directory)
    shutil.copytree(directory, other)
    for place, order in ((directory, (BANK, CLINIC)), (other, (CLINIC, BANK))):
        for domain in order:
            ran = left.recover("sign", left.root / domain, place, "--yes")
        assert ran.json["complete"] is True
    documents = [(place / "recovery.json").read_bytes() for place in (directory, other)]
    assert documents[0] == documents[1]


def test_what_the_document_commits_to_is_verified(left: Left) -> None:
    directory = left.agreed()
    genesis = left.root / "genesis.json"
    ran = left.recover("verify", directory, "--genesis", genesis, domain=BANK)
    assert ran.exit_code == 0, ran.stderr
    shutil.rmtree(directory / "base")
    shutil.copytree(store_path(left.config(CLINIC)), directory / "base")
    ran = left.recover("verify", directory, domain=BANK)
    assert (ran.exit_code, "is not the one" in ran.error["message"]) == (6, True)
    assert left.recover("verify", directory, "--genesis", genesis).exit_code == 0


# -- installing ------------------------------------------------------------------------------


def installed(left: Left) -> Path:
    directory = left.agreed()
    for domain in (BANK, CLINIC):
        ran = left.recover("install", directory, domain=domain)
        assert ran.exit_code == 0, ran.stderr
    return directory


def test_the_survivors_go_on_with_one_state_in_a_new_ledger(left: Left) -> None:
    installed(left)
    digests, roots = set(), set()
    for domain in (BANK, CLINIC):
        config = left.config(domain)
        recovery = read_genesis(config.node.genesis)
        assert recovery.origin == NEW
        open_environment(config, recovery).close()
        with left.view(domain) as (snapshot, view):
            assert snapshot.identity() == (recovery.hash, config.node.id)
            assert (snapshot.ledger_size, snapshot.applied_index) == (1, 6)
            assert (snapshot.log_first(), snapshot.log_last()) == (6, (6, TERM + 1))
            assert (snapshot.term(), snapshot.voted_for()) == (TERM + 1, None)
            [(index, data)] = snapshot.configurations()
            voters = tuple(f"spiffe://{each}/node/1" for each in (BANK, CLINIC))
            assert (index, Configuration.decode(data)) == (6, Configuration(voters))
            assert snapshot.probation() == ""
            agent = view.executor(AGENT)
            assert agent is not None
            assert agent.status is Status.REVOKED, "the log's last entry counts"
            assert view.executor(f"{AGENT}-2") is not None
            assert {node.id for node in view.active_nodes()} == set(voters)
            digests.add(snapshot.state_digest())
            roots.add(snapshot.root())
    assert len(digests) == len(roots) == 1


def test_rates_and_policies_stay_in_force_and_the_document_says_so(left: Left) -> None:
    """Ballots on them are verified from it."""
    config, rates = left.config(BANK), Rates(60, 0)
    policies = Policies(BY_BALLOT, 2, "permit (principal, action, resource);", 1)
    environment = open_environment(config, read_genesis(config.node.genesis))
    store = environment.turn.state
    held = StateView(store).federation()
    state.save_federation(store, replace(held, rates=rates, policies=policies.mark))
    state.save_policies(store, policies)
    environment.commit()
    environment.close()
    recovery = recover.read_recovery(installed(left) / recover.DOCUMENT)
    assert (recovery.rates, recovery.policies) == (rates, policies.mark)
    for domain in (BANK, CLINIC):
        with left.view(domain) as (_, view):
            assert (view.federation().rates, view.federation().policies) == (rates, policies.mark)
            assert view.policies(BY_BALLOT) == replace(policies, changed=0)


def test_what_was_before_is_kept(left: Left) -> None:
    genesis = (left.root / BANK / "genesis.json").read_bytes()
    with left.view(BANK) as (snapshot, _):
        root = snapshot.root()
    directory = left.agreed()
    ran = left.recover("install", directory, domain=BANK)
    kept = Environment.open(Path(ran.json["former_store"]), map_size_bytes=MAP_BYTES)
    with kept.read() as snapshot:
        assert snapshot.root() == root
    kept.close()
    [file] = (left.root / BANK).glob("genesis-*.json")
    assert file.read_bytes() == genesis


def test_installing_again_changes_nothing_and_ends_what_was_interrupted(left: Left) -> None:
    directory = installed(left)
    genesis = left.root / BANK / "genesis.json"
    document = genesis.read_bytes()
    shutil.copy(next((left.root / BANK).glob("genesis-*.json")), genesis)
    before = (store_path(left.config(BANK)) / "data.mdb").read_bytes()
    ran = left.recover("install", directory, domain=BANK)
    assert ran.exit_code == 0, ran.stderr
    assert ran.json["former_store"] is None
    assert genesis.read_bytes() == document
    assert (store_path(left.config(BANK)) / "data.mdb").read_bytes() == before


def ran_in_the_new_ledger(left: Left, domain: str) -> NodeConfig:
    """As a first start does."""
    config = left.config(domain)
    open_environment(config, read_genesis(config.node.genesis)).close()
    return config


@pytest.mark.parametrize("lost", ["the store", "the store, for the former one", "the genesis too"])
def test_a_node_that_has_run_in_the_new_ledger_is_not_installed_again(
    left: Left, lost: str
) -> None:
    """It would have forgotten what it promised there, and be on no probation."""
    directory = installed(left)
    config = ran_in_the_new_ledger(left, BANK)
    store = store_path(config)
    shutil.rmtree(store)
    if lost == "the store, for the former one":
        [former] = store.parent.glob("ledger.replaced-*")
        former.rename(store)
    if lost == "the genesis too":
        shutil.copy(next((left.root / BANK).glob("genesis-*.json")), config.node.genesis)
    before = sorted(store.parent.rglob("*.mdb"))
    ran = left.recover("install", directory, domain=BANK)
    assert (ran.exit_code, "has had a store in" in ran.error["message"]) == (1, True)
    assert "rejoin" in ran.error["hint"]
    assert sorted(store.parent.rglob("*.mdb")) == before


class KilledError(Exception):
    """The process ends here."""


# What an installation does to files, in order; the first and second renaming move the stores.
STEPS = [("rename", 1), ("rename", 2), ("_replace_genesis", 1), ("leave_mark", 1)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("step", "nth"), STEPS)
def test_an_installation_that_was_interrupted_anywhere_can_be_repeated(
    left: Left, monkeypatch: pytest.MonkeyPatch, step: str, nth: int, when: str
) -> None:
    """And has left nothing that a node would start on without what was carried over."""
    directory = left.agreed()
    where: Any = Path if step == "rename" else recover
    original = getattr(where, step)
    calls = 0

    def killed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            raise KilledError
        result = original(*arguments)
        if calls == nth:
            raise KilledError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(where, step, killed)
        with pytest.raises(KilledError):
            left.recover("install", directory, domain=BANK)
    ran = left.recover("install", directory, domain=BANK)
    assert ran.exit_code == 0, ran.stderr
    config = ran_in_the_new_ledger(left, BANK)
    assert mark_path(config, read_genesis(config.node.genesis).hash).exists()
    with left.view(BANK) as (snapshot, view):
        assert not snapshot.probation()
        assert view.executor(AGENT) is not None, "what was carried over"


def test_a_survivor_without_a_store_goes_on_too(left: Left) -> None:
    directory = left.agreed()
    shutil.rmtree(left.config(CLINIC).node.data_dir)
    assert left.recover("install", directory, domain=CLINIC).exit_code == 0


def refused(left: Left, directory: Path, words: str, domain: str = CLINIC) -> None:
    store = store_path(left.config(domain)) / "data.mdb"
    before = store.read_bytes() if store.exists() else b""
    ran = left.recover("install", directory, domain=domain)
    assert ran.exit_code == 1
    assert words in ran.error["message"]
    assert (store.read_bytes() if store.exists() else b"") == before
    assert read_genesis(left.config(domain).node.genesis).origin != NEW


def test_nobody_installs_what_not_everybody_signed(left: Left, tmp_path: Path) -> None:
    directory = tmp_path / "recovery"
    left.propose(directory)
    left.recover("sign", left.root / BANK, directory, "--yes")
    refused(left, directory, f"not signed by {CLINIC}")


def test_who_was_declared_lost_does_not_install(left: Left) -> None:
    left.grow(LOST, entries=1, executed=1)
    refused(left, left.agreed(), "does not go on", LOST)


def test_another_base_is_not_installed(left: Left) -> None:
    directory = left.agreed()
    shutil.rmtree(directory / "base")
    refused(left, directory, "there is no base")
    shutil.copytree(store_path(left.config(BANK)), directory / "base")
    refused(left, directory, "the base is not the one")


def fork(left: Left, commands: Sequence[bytes]) -> None:
    """The clinic's store turns out to hold something else."""
    left.never_ran(CLINIC)
    left.commands = list(commands)
    left.grow(CLINIC, entries=len(commands), executed=len(commands))


def test_a_node_that_holds_more_than_the_base_does_not_go_on(left: Left) -> None:
    directory, commands = left.agreed(), left.commands
    fork(left, [*commands, commands[0], commands[1]])
    refused(left, directory, "holds what the base does not")


def test_a_node_whose_ledger_is_another_one_does_not_go_on(left: Left) -> None:
    directory, commands = left.agreed(), left.commands
    fork(left, commands[2:3])
    refused(left, directory, "holds what the base does not")


def test_who_begins_empty_in_the_new_ledger_is_on_probation(left: Left) -> None:
    """Or those who survive could start without what is carried over, and agree on that."""
    installed(left)
    config = left.config(CLINIC)
    left.never_ran(CLINIC)
    open_environment(config, read_genesis(config.node.genesis)).close()
    with left.view(CLINIC) as (snapshot, _):
        assert len(snapshot.probation()) == 32
        theirs = snapshot.root()
    with left.view(BANK) as (snapshot, _):
        assert snapshot.root() == theirs, "leaf 0 is the same"


def test_a_recovered_federation_can_be_recovered_again(left: Left, tmp_path: Path) -> None:
    installed(left)
    ran = left.recover(
        "propose", tmp_path / "r", "--origin", "quorate.example/recovered-2", domain=BANK
    )
    assert ran.exit_code == 0, ran.stderr
    assert ran.json["fence_base"] == (5 + 2**32) + 1 + 2**32
    assert ran.json["survivors"] == [BANK]
