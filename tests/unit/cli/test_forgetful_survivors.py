"""`quorate federation recover`, where survivors were restored or begun again: they may have
forgotten what they promised, and are no quorum with anybody."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.left import AGENT, BANK, CLINIC, LOST, MAP_BYTES, NEW, Left, make_left

from quorate.core.status import Status
from quorate.node.organisation import read_genesis
from quorate.node.store import open_environment, store_path
from quorate.storage import Environment

THREE = (BANK, CLINIC, LOST)


@pytest.fixture
def left(federation: Any, run: Any) -> Left:
    """All three nodes; the bank's log goes furthest."""
    made = make_left(federation, run)
    made.voters = THREE
    for domain, entries in ((BANK, 4), (CLINIC, 3), (LOST, 2)):
        made.never_ran(domain)
        made.grow(domain, entries=entries, executed=entries)
    return made


def node(left: Left, domain: str, *arguments: object) -> Any:
    ran = left.run("node", *arguments, "--config", left.root / domain / "node.toml", "-o", "json")
    assert ran.exit_code == 0, ran.stderr
    return ran


def begin_again(left: Left, domain: str) -> None:
    node(left, domain, "rejoin", "--replace")


def restore(left: Left, domain: str) -> None:
    copy = left.root / f"copy-of-{domain}"
    node(left, domain, "backup", copy)
    node(left, domain, "restore", copy, "--replace")


def propose(left: Left, by: str, *others: str, name: str = "recovery") -> Any:
    given: list[object] = []
    for domain in others:
        file = left.root / f"{name}-{domain}.json"
        assert left.recover("summary", file, domain=domain).exit_code == 0
        given += ["--survivor", file]
    return left.recover("propose", left.root / name, "--origin", NEW, *given, domain=by)


def agreed(left: Left, by: str, *others: str) -> Path:
    ran = propose(left, by, *others)
    assert ran.exit_code == 0, ran.stderr
    for domain in (by, *others):
        ran = left.recover("sign", left.root / domain, left.root / "recovery", "--yes")
        assert ran.exit_code == 0, ran.stderr
    return left.root / "recovery"


def goes_on(left: Left, directory: Path, domains: Sequence[str]) -> None:
    """All install; they are the voters, and none of them is on probation in the new ledger."""
    for domain in domains:
        ran = left.recover("install", directory, domain=domain)
        assert ran.exit_code == 0, ran.stderr
        config = left.config(domain)
        open_environment(config, read_genesis(config.node.genesis)).close()
        with left.view(domain) as (snapshot, view):
            assert snapshot.probation() == ""
            assert {each.id for each in view.active_nodes()} == {
                f"spiffe://{each}/node/1" for each in domains
            }


def only_the_bank_votes(left: Left) -> None:
    left.voters = (BANK,)
    left.never_ran(BANK)
    left.grow(BANK, entries=4, executed=3)


def test_the_only_voter_goes_on_from_a_backup(left: Left) -> None:
    only_the_bank_votes(left)
    restore(left, BANK)
    directory = agreed(left, BANK)
    goes_on(left, directory, [BANK])
    with left.view(BANK) as (_, view):
        agent = view.executor(AGENT)
        assert agent is not None
        assert agent.status is Status.REVOKED, "all of the backup's log was executed"


def test_the_only_voter_goes_on_from_the_genesis_when_there_is_nothing_else(left: Left) -> None:
    only_the_bank_votes(left)
    begin_again(left, BANK)
    directory = agreed(left, BANK)
    goes_on(left, directory, [BANK])
    with left.view(BANK) as (snapshot, view):
        assert view.executor(AGENT) is None
        assert snapshot.log_first() > 1, "whoever joins with an empty log must be sent the state"


@pytest.mark.parametrize("forget", [begin_again, restore])
def test_who_may_have_forgotten_is_no_quorum_with_the_others(left: Left, forget: Any) -> None:
    for domain in (CLINIC, LOST):
        forget(left, domain)
    directory = agreed(left, BANK, CLINIC, LOST)
    goes_on(left, directory, THREE)


def test_two_restored_ones_of_two_are_no_quorum(left: Left) -> None:
    left.voters = (BANK, CLINIC)
    for domain in left.voters:
        left.never_ran(domain)
        left.grow(domain, entries=3, executed=2)
        restore(left, domain)
    goes_on(left, agreed(left, BANK, CLINIC), [BANK, CLINIC])


def test_a_quorum_that_has_forgotten_nothing_readmits_the_others(left: Left) -> None:
    begin_again(left, LOST)
    ran = propose(left, BANK, CLINIC, LOST)
    assert ran.exit_code == 1
    assert "2 of 3 voters are left, and they are a quorum" in ran.error["message"]
    assert f"spiffe://{LOST}/node/1 may have forgotten" in ran.error["message"]
    assert "readmit" in ran.error["hint"]
    assert not (left.root / "recovery").exists()


def test_a_store_that_is_gone_has_forgotten_and_one_that_never_was_has_not(left: Left) -> None:
    begin_again(left, CLINIC)
    shutil.rmtree(store_path(left.config(LOST)))
    assert propose(left, BANK, CLINIC, LOST, name="gone").exit_code == 0
    left.never_ran(LOST)
    ran = propose(left, BANK, CLINIC, LOST, name="never")
    assert (ran.exit_code, "2 of 3 voters are left" in ran.error["message"]) == (1, True)


def test_a_summary_of_no_store_asks_whether_it_is_only_elsewhere(left: Left) -> None:
    arguments = ("federation", "recover", "summary")
    config = ("--config", left.root / LOST / "node.toml")
    assert "mounted" not in left.run(*arguments, left.root / "there", *config).stdout
    shutil.rmtree(store_path(left.config(LOST)))
    ran = left.run(*arguments, left.root / "gone", *config)
    assert ran.exit_code == 0, ran.stderr
    assert "node.data_dir" in ran.stdout
    assert "mounted" in ran.stdout


def test_people_are_told_what_may_be_lost(left: Left) -> None:
    only_the_bank_votes(left)
    node(left, BANK, "backup", left.root / "copy")
    node(left, BANK, "restore", left.root / "copy", "--replace")
    summary = left.recover("summary", left.root / "s", domain=BANK)
    assert summary.json["probation"] is True
    said = left.run(
        *("federation", "recover", "propose", left.root / "r", "--origin", NEW),
        *("--config", left.root / BANK / "node.toml"),
    )
    flat = " ".join(said.stdout.split())
    assert said.exit_code == 0, said.stderr
    assert "its store was restored or begun again" in flat
    assert "What was acknowledged and is not in this ledger is lost" in flat
    assert "goes furthest spiffe://bank.example/node/1" in flat
    signed = left.run(
        "federation", "recover", "sign", left.root / BANK, left.root / "r", answer="n"
    )
    assert "its store was restored or begun again" in " ".join(signed.stdout.split())


def test_the_document_says_who_may_have_forgotten(left: Left) -> None:
    begin_again(left, CLINIC)
    begin_again(left, LOST)
    assert propose(left, BANK, CLINIC, LOST).json["on_probation"] == [CLINIC, LOST]


def test_who_was_readmitted_since_does_not_install(left: Left) -> None:
    """It counted for no quorum, and may be one of a quorum by now."""
    for domain in (CLINIC, LOST):
        begin_again(left, domain)
    directory = agreed(left, BANK, CLINIC, LOST)
    environment = Environment.open(store_path(left.config(CLINIC)), map_size_bytes=MAP_BYTES)
    environment.clear_probation()
    environment.close()
    ran = left.recover("install", directory, domain=CLINIC)
    assert (ran.exit_code, "is not on probation" in ran.error["message"]) == (1, True)
    assert read_genesis(left.config(CLINIC).node.genesis).origin != NEW
    assert left.recover("install", directory, domain=LOST).exit_code == 0


def test_what_a_survivor_has_executed_is_in_the_base(left: Left) -> None:
    """A later term goes further, and may lack what the lost ones have decided by a later one still
    (figure 8 of the Raft paper): what was executed was decided."""
    left.voters = (*THREE, "gone.example", "lost.example")
    commands = left.commands
    left.never_ran(CLINIC)
    left.grow(CLINIC, entries=2, executed=2)
    left.never_ran(BANK)
    left.commands = [commands[0], commands[2]]
    left.grow(BANK, entries=2, executed=1, term=8)
    ran = propose(left, BANK, CLINIC, name="first")
    assert ran.exit_code == 1
    assert f"spiffe://{CLINIC}/node/1 has decided what the log" in ran.error["message"]
    assert "rejoin" in ran.error["hint"]
    assert not (left.root / "first").exists()
    begin_again(left, BANK)
    directory = agreed(left, CLINIC, BANK)
    goes_on(left, directory, [BANK, CLINIC])


def test_a_store_that_was_begun_again_knows_nothing_of_what_was_carried_over(left: Left) -> None:
    only_the_bank_votes(left)
    restore(left, BANK)
    goes_on(left, agreed(left, BANK), [BANK])
    begin_again(left, BANK)
    ran = left.recover("propose", left.root / "r", "--origin", "quorate.example/2", domain=BANK)
    assert (ran.exit_code, "was carried over" in ran.error["message"]) == (1, True)
    assert "restore" in ran.error["hint"]
