"""Real nodes: an organisation moves to two of three keys, its members follow, and when its keys are
stolen it does what docs/key-compromise.md says, line by line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.federations import (
    BANK,
    CLINIC,
    FREIGHT,
    WAIT_S,
    verified_ledgers,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.members import ClusterError
from quorate.core.dsse import key_id
from quorate.node.identity import load_signing_key

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATIENT = ("--authority-period", "10s")
"""A machine that is busy with other things must not look like a lost quorum here."""
RUNBOOK = Path(__file__).parents[2] / "docs/key-compromise.md"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("keys"), parameters=PATIENT) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@pytest.fixture(scope="module")
def keys(federation: Cluster) -> Path:
    """Where private keys are that are in no organisation's directory."""
    place = federation.directory / "elsewhere"
    place.mkdir(mode=0o700)
    return place


def cli(cluster: Cluster, *arguments: object, at: str = CLINIC) -> Any:
    return json.loads(cluster.cli_at(at, *map(str, arguments), "--output", "json"))


def make(cluster: Cluster, file: Path) -> str:
    made = json.loads(cluster.cli("key", "new", str(file), "--output", "json"))
    return str(made["public_key"])


def register(cluster: Cluster, name: str, *before: object) -> Any:
    return cli(cluster, *before, "executor", "register", f"spiffe://{CLINIC}/agent/{name}")


def own_key(cluster: Cluster) -> Path:
    return cluster.members[CLINIC].organisation / "governance.key"


def test_two_of_three_govern_while_a_member_is_away(federation: Cluster, keys: Path) -> None:
    publics = [load_signing_key(own_key(federation)).public.hex()]
    publics += [make(federation, keys / f"{name}.key") for name in ("second", "third")]
    assert federation.stop(FREIGHT) == 0
    file = keys / "keys.json"
    cli(
        federation, "--save", file, "domain", "set-keys", "--threshold", 2,
        *(part for public in publics for part in ("--governance", public)),
    )  # fmt: skip
    for name in ("second", "third"):
        federation.cli("command", "sign", str(file), "--key", str(keys / f"{name}.key"), "--yes")
    assert cli(federation, "command", "submit", file)["accepted"]
    with pytest.raises(ClusterError, match="TOO_FEW_SIGNATURES"):
        register(federation, "alone")
    before = same_size(federation)
    assert register(federation, "by-two", *with_keys(own_key(federation), keys / "third.key"))
    assert same_size(federation) == before + 1, "what one alone had signed was never proposed"


def with_keys(*files: Path) -> list[object]:
    return [part for file in files for part in ("--governance-key", file)]


def same_size(cluster: Cluster) -> int:
    return cluster.status(CLINIC).position.size


def test_whoever_was_away_and_who_restarts_follow(federation: Cluster, keys: Path) -> None:
    federation.start([FREIGHT])
    federation.restart(CLINIC)
    federation.wait_ready(timeout_s=WAIT_S)
    shown = cli(federation, "domain", "keys", CLINIC, at=FREIGHT)
    assert (len(shown["governance_keys"]), shown["threshold"]) == (3, 2)
    with pytest.raises(ClusterError, match="TOO_FEW_SIGNATURES"):
        register(federation, "still-alone")
    register(federation, "after", *with_keys(keys / "second.key", keys / "third.key"))
    verified_ledgers(federation)


def commands(text: str) -> list[list[str]]:
    """The lines of the runbook that are to be run, in order."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line)[1:] for line in lines]


def test_the_runbook_takes_an_organisation_back(federation: Cluster, keys: Path) -> None:
    """The thief has the two keys on the machine, grants himself something, and changes the keys."""
    recovery, thieves = (
        make(federation, keys / "recovery.key"),
        make(federation, keys / "thief.key"),
    )
    two = with_keys(own_key(federation), keys / "second.key")
    cli(
        federation, *two, "domain", "set-keys", "--recovery", recovery,
        "--signed-by", keys / "recovery.key",
    )  # fmt: skip
    since = same_size(federation)
    register(federation, "thief", *two)
    thief = f"spiffe://{CLINIC}/agent/thief"
    scope = ("--action", "*", "--resource", f"//{CLINIC}/*")
    cli(federation, *two, "grant", "issue", "stolen", thief, *scope)
    cli(federation, *two, "trust", "open", "stolen", "--trustee", BANK, *scope)
    with pytest.raises(ClusterError, match="NOT_AUTHORIZED"):
        cli(federation, *two, "domain", "set-keys", "--recovery", "none")
    cli(
        federation, *two, "domain", "set-keys", "--governance", thieves, "--threshold", 1,
        "--signed-by", keys / "thief.key",
    )  # fmt: skip
    register(federation, "more", "--governance-key", keys / "thief.key")

    lost = key_id(load_signing_key(own_key(federation)).public)
    said = follow_the_runbook(federation, keys, {"LOST": lost, "SINCE": str(since)})
    listed = next(each for each in said if "commands" in each)["commands"]
    assert {each["type"] for each in listed} == {
        "executor.register", "grant.issue", "trust.open", "domain.rekey",
    }  # fmt: skip
    [ended] = [each["ended"] for each in said if "ended" in each]
    assert [each["type"] for each in ended] == ["executor.revoke", "grant.revoke", "trust.close"]
    assert all(each["accepted"] and each["reached"] == "drained" for each in ended)
    left = cli(federation, "ledger", "signed-by", lost, "--since", since)["commands"]
    assert not any(each["in_force"] for each in left)
    with pytest.raises(ClusterError, match="BAD_SIGNATURE"):
        register(federation, "thief-again", "--governance-key", keys / "thief.key")
    # What the thief has signed with the key that he gave the organisation:
    fresh = with_keys(keys / "fresh.key")
    more = cli(
        federation, *fresh, "ledger", "signed-by", key_id(bytes.fromhex(thieves)), "--revoke"
    )
    assert [each["type"] for each in more["ended"]] == ["executor.revoke"]
    register(federation, "good-again", *fresh)
    verified_ledgers(federation)


def follow_the_runbook(cluster: Cluster, keys: Path, words: dict[str, str]) -> list[Any]:
    """Runs each line; returns what was printed. The first, by which the organisation stands still,
    is done by nobody here: the thief has changed the keys by now."""
    said: list[Any] = []
    steps = commands(RUNBOOK.read_text())
    assert steps[0][:2] == ["domain", "suspend"]
    for step in steps[1:]:
        line = [words.get(word, word) for word in step]
        line = [str(keys / word) if word.endswith(".key") else word for word in line]
        if "domain" in line and "reinstate" in line:
            cli(cluster, *with_keys(keys / "fresh.key"), "domain", "suspend")
        if "--org" in line:
            place = line.index("--org")
            said.append(cli(cluster, *line[:place], *line[place + 2 :]))
        else:
            said.append(json.loads(cluster.cli(*line, "--output", "json")))
            name = "COSIGNER" if "fresh-cosigner" in line[-1] else "PUBLIC"
            words[name] = said[-1]["public_key"]
    return said
