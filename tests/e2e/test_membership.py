"""Real processes come and go as members: nobody else's executors notice, nobody who was retired
ever permits again, and a federation that has lost a machine for good is made whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from tests.e2e.federations import (
    BANK,
    CLINIC,
    FREIGHT,
    WAIT_S,
    authority_ms,
    await_permit,
    await_roles,
    let_pass_until,
    log_entries,
    probe,
    register,
    registrations,
    roles,
    said,
    same_ledgers,
    snapshots,
    verified_ledgers,
    verify_everywhere,
    write_all,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Probing
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import wait_until
from quorate.v1 import decision_pb2, node_pb2

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TAIL = 5
SETTINGS = {"raft": {"log_tail_entries": TAIL, "election_min_ms": 1_000, "election_max_ms": 2_000}}
PATIENT = ("--authority-period", "10s")
"""A machine that is busy with other things must not look like a lost quorum here, where no denial
at all is allowed; a retired node is kept for as long."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("membership")
    with Cluster(directory, settings=SETTINGS, parameters=PATIENT, spares=2) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@pytest.fixture(scope="module")
def crew(federation: Cluster) -> Iterator[Crew]:
    crew = Crew(federation)
    yield crew
    crew.close()


@pytest.fixture
def probes() -> Iterator[dict[str, Probing]]:
    """Those that a test starts: they end with it."""
    started: dict[str, Probing] = {}
    yield started
    for probing in started.values():
        if probing.process.is_running():
            assert probing.process.stop() == 0


def in_force(cluster: Cluster, name: str) -> dict[str, str]:
    """The roles in force, by name."""
    names = {member.node_id: each for each, member in cluster.members.items()}
    return {names[node_id]: role for node_id, role in roles(cluster, name).items()}


def denials(probing: Probing) -> list[str]:
    return [asked.reason for asked in probing.journal.all() if asked.is_denial]


def assert_permits_nothing(probing: Probing, since_ns: int, until_ns: int) -> None:
    """It was asked in all that time, if it answers at all, and permitted nothing."""
    assert [a for a in probing.journal.permits(since_ns) if a.sent_ns <= until_ns] == []


def test_an_observer_joins_is_sent_everything_and_permits(
    federation: Cluster, crew: Crew, probes: dict[str, Probing]
):
    bank = federation.operator(BANK)
    write_all(bank, registrations(bank, 20 * TAIL))
    probes |= probe(crew, *federation.domains)
    name = federation.add_node(BANK)
    federation.wait_ready([name], timeout_s=WAIT_S)
    assert snapshots(federation, name) >= 1, "the log does not reach back so far"
    await_roles(
        federation,
        {**dict.fromkeys(federation.domains, "voter"), name: "learner"},
        federation.names,
    )
    worker = crew.join(name)
    lease = worker.lease(f"//{CLINIC}/records/observed")
    permitted = worker.check(lease.id)
    assert permitted.verdict == decision_pb2.VERDICT_PERMIT
    assert permitted.ttl_ms > 0
    # It is governed through like any other, and what it was not told yet it does not permit.
    revoked = federation.operator(name).submit("executor.suspend", {"executor": worker.id})
    assert revoked.accepted
    denied = worker.check(lease.id)
    assert denied.reason == decision_pb2.REASON_EXECUTOR_SUSPENDED
    assert federation.operator(name).submit("executor.reinstate", {"executor": worker.id}).accepted
    mirror = verified_ledgers(federation)
    assert len(mirror.entries) > 20 * TAIL
    for other in (CLINIC, FREIGHT):
        assert denials(probes[other]) == []


def test_an_observer_does_not_vote(federation: Cluster):
    """Two of three voters are gone, and the observer makes no majority with the third."""
    observer = next(n for n, role in in_force(federation, BANK).items() if role == "learner")
    voters = [n for n, role in in_force(federation, BANK).items() if role == "voter"]
    rest = [n for n in voters if federation.members[n].domain != BANK]
    federation.links.partition([[BANK, observer], *([n] for n in rest)])
    cut_ns = boottime_ns()
    period_ns = authority_ms(federation) * NS_PER_MS
    let_pass_until(cut_ns + period_ns)
    for name in (BANK, observer):
        assert not federation.status(name).has_authority
        assert federation.status(name).authority_reason == decision_pb2.REASON_INQUORATE
    federation.links.heal()
    federation.wait_ready(timeout_s=WAIT_S)


def test_an_organisation_replaces_its_node_and_nobody_else_notices(
    federation: Cluster, crew: Crew, probes: dict[str, Probing]
):
    old = next(n for n in (CLINIC, FREIGHT) if n != federation.leader())
    others = [n for n in federation.names if federation.members[n].domain != old]
    for name in others:
        if name not in crew.workers:
            crew.join(name)
    probes |= probe(crew, *others)
    new = federation.add_node(old)
    federation.wait_ready([new], timeout_s=WAIT_S)
    federation.retire(old, through=new)
    federation.promote(new)
    voters = {n: role for n, role in in_force(federation, new).items() if n not in (old, new)}
    await_roles(federation, {**voters, new: "voter"}, federation.names)
    assert federation.stop(old) == 0
    crew.join(new)
    probes |= probe(crew, new)
    for operator in federation.operators():
        register(operator)
    now_ns = boottime_ns()
    for name in others:
        await_permit(probes[name], now_ns)
        assert denials(probes[name]) == []


def test_the_node_that_leads_is_retired_and_what_comes_back_permits_nothing(
    federation: Cluster, crew: Crew, probes: dict[str, Probing]
):
    leader = federation.leader()
    domain = federation.members[leader].domain
    others = [n for n in federation.names if federation.members[n].domain != domain]
    for name in (leader, *others):
        if name not in crew.workers:
            crew.join(name)
    probes |= probe(crew, leader, *others)
    own = [n for n in federation.names if federation.members[n].domain == domain and n != leader]
    heir = own[0] if own else federation.add_node(domain)
    federation.wait_ready([heir], timeout_s=WAIT_S)

    federation.retire(leader, through=heir)
    retired_ns = boottime_ns()
    federation.promote(heir)
    wait_until(
        "another leader",
        lambda: any(
            (s := federation.status_or_none(n)) is not None and s.role == node_pb2.ROLE_LEADER
            for n in federation.names
        ),
        WAIT_S,
    )
    voters = {n: r for n, r in in_force(federation, heir).items() if n not in (leader, heir)}
    await_roles(federation, {**voters, heir: "voter"}, federation.names)
    assert leader not in federation.names
    late_ns = retired_ns + authority_ms(federation) * NS_PER_MS
    let_pass_until(late_ns)
    assert probes[leader].process.is_running()
    assert_permits_nothing(probes[leader], late_ns, boottime_ns())

    # It stops, and comes back: it is refused by everybody, and permits nothing for ever.
    assert federation.stop(leader) == 0
    refusals = said(federation.members[leader].log, "link_down", "PERMISSION_DENIED")
    federation.start([leader])
    back_ns = boottime_ns()
    wait_until("its answer", lambda: federation.status_or_none(leader) is not None, WAIT_S)
    wait_until(
        "its refusal by another node",
        lambda: said(federation.members[leader].log, "link_down", "PERMISSION_DENIED") > refusals,
        WAIT_S,
    )
    let_pass_until(max(boottime_ns(), back_ns + authority_ms(federation) * NS_PER_MS))
    status = federation.status(leader)
    assert (status.has_authority, status.leader) == (False, "")
    assert_permits_nothing(probes[leader], late_ns, boottime_ns())
    member = federation.members[leader]
    body = {
        "node": member.node_id,
        "peer_address": "127.0.0.1:7999",
        "signing_key": "11" * 32,
        "log_key": "22" * 32,
        "role": "observer",
    }
    again = federation.operator(heir).submit("node.add", body)
    assert not again.accepted, "its id can never be used again"
    assert federation.stop(leader) == 0

    now_ns = boottime_ns()
    for name in others:
        await_permit(probes[name], now_ns)
        assert denials(probes[name]) == []


def test_everybody_knows_who_is_a_member_after_a_restart_of_all(federation: Cluster):
    some = federation.names[0]
    before = in_force(federation, some)
    assert len([role for role in before.values() if role == "voter"]) == len(federation.domains)
    for name in federation.names:
        os.killpg(federation.processes(name).pgid, signal.SIGKILL)
    for name in federation.names:
        federation.kill(name)  # waits until nothing is left
    federation.start()
    federation.wait_ready(timeout_s=WAIT_S)
    await_roles(federation, before, federation.names)
    for operator in federation.operators():
        register(operator)
    same_ledgers(federation)
    for name in federation.names:
        assert log_entries(federation, name) <= 10 * TAIL


def test_a_machine_is_lost_for_good_and_replaced_and_another_may_be_lost_then(
    tmp_path_factory: pytest.TempPathFactory,
):
    directory = tmp_path_factory.mktemp("lost")
    with Cluster(directory, settings=SETTINGS) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        clinic = cluster.operator(CLINIC)
        write_all(clinic, registrations(clinic, 10 * TAIL))
        lost = cluster.members[BANK]
        cluster.kill(BANK)
        attic = directory / "attic"
        attic.mkdir()
        for part in ("data", "node"):  # its store and its keys
            (lost.directory / part).rename(attic / part)

        # Its organisation has no node that would take a command: another hands them in.
        new = cluster.make_node(BANK)
        org = ("--org", str(lost.organisation))
        orders = {
            "retire.json": ("retire", "1"),
            "add.json": ("add", str(cluster.members[new].directory)),
        }
        for file, order in orders.items():
            cluster.cli("node", *order, *org, "--save", str(directory / file))
            cluster.cli_at(CLINIC, "node", "submit", str(directory / file))
        cluster.forget(BANK)
        cluster.start([new])
        cluster.wait_ready(timeout_s=WAIT_S)
        cluster.promote(new)
        await_roles(cluster, dict.fromkeys((new, CLINIC, FREIGHT), "voter"), cluster.names)
        verify_everywhere(cluster)

        # Whole again: it survives the loss of another.
        other = cluster.leader()
        cluster.kill(other)
        left = [name for name in cluster.names if name != other]
        cluster.wait_ready(left, timeout_s=WAIT_S)
        for name in left:
            register(cluster.operator(name))

        # The lost machine is found, with everything that it had, and started.
        for part in ("data", "node"):
            (attic / part).rename(lost.directory / part)
        cluster.start([BANK])
        wait_until("its answer", lambda: cluster.status_or_none(BANK) is not None, WAIT_S)
        wait_until(
            "its refusal", lambda: said(lost.log, "link_down", "PERMISSION_DENIED") > 0, WAIT_S
        )
        back_ns = boottime_ns()
        let_pass_until(back_ns + authority_ms(cluster) * NS_PER_MS)
        status = cluster.status(BANK)
        assert (status.has_authority, status.leader) == (False, "")
        for name in left:
            register(cluster.operator(name))
            assert cluster.members[BANK].node_id not in roles(cluster, name)


def test_who_was_away_lets_in_a_node_that_was_added_meanwhile_and_makes_it_the_leader(
    tmp_path_factory: pytest.TempPathFactory,
):
    """It knows neither the node nor its keys: the node shows its domain's order to add it."""
    with Cluster(tmp_path_factory.mktemp("away"), settings=SETTINGS) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        cluster.kill(FREIGHT)
        new = cluster.add_node(BANK)
        cluster.wait_ready([new], timeout_s=WAIT_S)
        cluster.retire(BANK, through=new)
        cluster.promote(new)
        voters = dict.fromkeys((new, CLINIC, FREIGHT), "voter")
        await_roles(cluster, voters, [new, CLINIC])
        assert cluster.stop(BANK) == 0
        cluster.kill(CLINIC)
        cluster.start([FREIGHT])
        cluster.wait_ready([new, FREIGHT], timeout_s=WAIT_S)
        assert cluster.leader() == new
        await_roles(cluster, voters, [new, FREIGHT])
        cluster.start([CLINIC])
        cluster.wait_ready(timeout_s=WAIT_S)
        same_ledgers(cluster)
