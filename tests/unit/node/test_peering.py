"""Whom a node dials and lets in follows from its state, and from the configuration in force."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from quorate.consensus.peers import Peer
from quorate.core import state
from quorate.core.keysets import KeySet
from quorate.core.records import Domain, Node, Role
from quorate.core.status import Status
from quorate.node.config import NodeConfig
from quorate.node.peering import Peering, peers_of_state
from quorate.storage import Environment
from quorate.testing.builders import Federation, ca_certificate, key_for, node_body

ME, OTHER, THIRD = (f"spiffe://{name}.example/node/1" for name in ("a", "b", "c"))
SECOND = "spiffe://b.example/node/2"
FOREIGN = "spiffe://x.example/node/1"
ORIGIN = "test.example/ledger"
NOW = 1_000


def ca(name: str) -> bytes:
    return ca_certificate(f"{name}.example").encode()


def node(node_id: str, status: Status = Status.ACTIVE) -> Node:
    domain = node_id.split("/")[2]
    number = node_id[-1]
    return Node(node_id, domain, f"{domain}:740{number}", "00", "11", Role.VOTER, status, changed=1)


def domain(node_id: str) -> Domain:
    name = node_id.split("/")[2]
    return Domain(name, Status.ACTIVE, "", "22", "33", ca_certificate(name), changed=1)


def config(**peers: str) -> NodeConfig:
    return NodeConfig.model_validate(
        {
            "node": {"id": ME, "data_dir": "data", "genesis": "genesis.json"},
            "listen": {"peer": "h:1", "governance": "h:2", "lease": "h:3"},
            "tls": {"certificate": "c", "private_key": "k"},
            "keys": {"signing": "s", "log": "l"},
            "peers": peers,
        }
    )


class Stage:
    """A node's store, and the configuration that is in force there."""

    def __init__(self, directory: Path, settings: NodeConfig) -> None:
        self.environment = Environment.open(directory, map_size_bytes=2**22)
        self.environment.initialise(bytes(32), ME)
        state.save_ledger_time(self.environment.turn.state, NOW)
        for node_id in (ME, OTHER, THIRD):
            state.save_domain(self.environment.turn.state, domain(node_id))
        self.members = [ME, OTHER, THIRD]
        self.save(*(node(node_id) for node_id in self.members))
        self.peering = Peering(
            self.environment,
            settings,
            lambda: self.members,
            origin=ORIGIN,
            founders=(ME, OTHER, THIRD),
        )

    def save(self, *nodes: Node) -> None:
        for each in nodes:
            state.save_node(self.environment.turn.state, each)
        self.environment.commit()

    def dialled(self) -> list[str]:
        return [peer.node_id for peer in self.peering.peers()]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path / "store", config())
    yield made
    made.environment.close()


def test_the_peers_are_all_nodes_but_this_one() -> None:
    settings = config(**{THIRD: "proxy:1"})
    nodes = [node(ME), node(OTHER), node(THIRD)]
    assert peers_of_state(nodes, [domain(each.id) for each in nodes], settings) == [
        Peer(OTHER, "b.example:7401", "1.node.b.example", (ca("b"),)),
        Peer(THIRD, "proxy:1", "1.node.c.example", (ca("c"),)),
    ]


def test_nothing_new_is_no_change(stage: Stage) -> None:
    assert stage.dialled() == [OTHER, THIRD]
    assert not stage.peering.refresh()
    stage.members = [ME, OTHER]
    assert not stage.peering.refresh(), "who is not a member yet is a peer all the same"
    assert stage.dialled() == [OTHER, THIRD]


def test_a_node_that_was_added_is_a_peer(stage: Stage) -> None:
    stage.save(node(SECOND))
    assert stage.peering.refresh()
    assert stage.dialled() == [OTHER, SECOND, THIRD]


def test_each_domain_vouches_for_its_nodes_known_or_not(stage: Stage) -> None:
    assert set(stage.peering.authorities()) == {ca(name) for name in "abc"}
    for node_id in (OTHER, SECOND):
        assert stage.peering.authorities_of(node_id) == (ca("b"),)
    assert stage.peering.authorities_of("spiffe://a.example/node/9") == (ca("a"),)
    assert stage.peering.authorities_of(FOREIGN) == ()


def test_a_retired_node_is_a_peer_until_it_is_no_member_any_more(stage: Stage) -> None:
    """In a federation of two, the other's vote is needed for removing it."""
    stage.save(node(OTHER, Status.REVOKED))
    assert stage.peering.refresh()
    assert stage.dialled() == [OTHER, THIRD]
    assert stage.peering.authorities_of(OTHER) != ()
    stage.members = [ME, THIRD]
    assert stage.peering.refresh()
    assert stage.dialled() == [THIRD]
    assert stage.peering.authorities_of(OTHER) == ()
    assert stage.peering.authorities_of(SECOND) != (), "the domain has other nodes"
    stage.members = [ME, OTHER, THIRD]  # that configuration was never committed, and is undone
    assert stage.peering.refresh()
    assert stage.dialled() == [OTHER, THIRD]


def test_who_is_retired_and_removed_itself_dials_nobody(stage: Stage) -> None:
    stage.save(node(ME, Status.REVOKED))
    stage.peering.refresh()
    assert stage.dialled() == [OTHER, THIRD]
    stage.members = [OTHER, THIRD]
    assert stage.peering.refresh()
    assert stage.dialled() == []


def test_what_a_node_says_of_its_own_address(stage: Stage) -> None:
    assert stage.peering.own_address() == "a.example:7401"


def test_a_node_that_is_not_added_yet_says_nothing_of_its_address(tmp_path: Path) -> None:
    joiner = config()
    joiner = joiner.model_copy(update={"node": joiner.node.model_copy(update={"id": SECOND})})
    stage = Stage(tmp_path / "store", joiner)
    assert stage.peering.own_address() == ""
    assert stage.dialled() == [ME, OTHER, THIRD]
    stage.save(replace(node(SECOND), peer_address="b.example:7499"))
    stage.peering.refresh()
    assert stage.peering.own_address() == "b.example:7499"
    assert stage.dialled() == [ME, OTHER, THIRD]
    stage.environment.close()


def test_the_configuration_says_where_to_dial(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "store", config(**{SECOND: "proxy:2"}))
    assert stage.peering.address_of(SECOND) == "proxy:2"
    assert stage.peering.address_of(OTHER) is None
    stage.environment.close()


def test_an_expelled_domain_vouches_for_nobody_once_it_is_out(stage: Stage) -> None:
    """Until its nodes are out of the configuration in force, their votes may be needed for that."""
    expelled = replace(domain(OTHER), status=Status.REVOKED)
    state.save_domain(stage.environment.turn.state, expelled)
    stage.save(node(OTHER, Status.REVOKED))
    assert stage.peering.refresh()
    assert ca("b") in stage.peering.authorities()
    stage.members = [ME, THIRD]
    assert stage.peering.refresh()
    assert set(stage.peering.authorities()) == {ca("a"), ca("c")}
    assert stage.peering.authorities_of(OTHER) == ()
    assert stage.peering.authorities_of(SECOND) == (), "nor for one that nobody knows"
    assert stage.dialled() == [THIRD]


def test_what_is_no_certificate_vouches_for_nobody_and_spoils_nothing(stage: Stage) -> None:
    """It may have been admitted: that a text is a certificate is not decided in the ledger."""
    text = ca_certificate("b.example").splitlines()
    broken = replace(domain(OTHER), ca_certificate="\n".join([text[0], "AAAA", text[-1], ""]))
    state.save_domain(stage.environment.turn.state, broken)
    stage.save()
    assert stage.peering.refresh()
    assert set(stage.peering.authorities()) == {ca("a"), ca("c")}
    assert stage.peering.authorities_of(OTHER) == ()
    assert stage.dialled() == [THIRD]


def test_an_order_counts_as_long_as_its_keys_do_by_ledger_time(stage: Stage) -> None:
    """Which goes on without any change of members."""
    federation = Federation.build(("a.example", "b.example"))
    key, offline = federation["b.example"].governance.public.hex(), key_for("offline").public.hex()
    expiring = KeySet((), 1, (offline,), 1, NOW + 1)
    changed = replace(domain(OTHER), governance_key=key, key_set=expiring)
    order = federation.command("b.example", "node.add", node_body(SECOND), origin=ORIGIN)
    state.save_domain(stage.environment.turn.state, changed)
    stage.save()
    assert stage.peering.refresh()
    assert stage.peering.belongs(SECOND, order)
    state.save_ledger_time(stage.environment.turn.state, NOW + 1)
    stage.save()
    assert not stage.peering.refresh()
    assert not stage.peering.belongs(SECOND, order)
    stage.save(node(SECOND))
    stage.peering.refresh()
    assert stage.peering.belongs(SECOND, order), "it is known, and needs none"


def test_an_expelled_domain_vouches_for_nobody_but_those_that_are_members_yet(stage: Stage) -> None:
    """What it signs, or its authority issues, lets no other node of it in."""
    federation = Federation.build(("a.example", "b.example", "c.example"))
    key = federation["b.example"].governance.public.hex()
    gone = replace(domain(OTHER), status=Status.REVOKED, governance_key=key)
    order = federation.command("b.example", "node.add", node_body(SECOND), origin=ORIGIN)
    state.save_domain(stage.environment.turn.state, replace(gone, status=Status.ACTIVE))
    stage.environment.commit()
    stage.peering.refresh()
    assert stage.peering.belongs(SECOND, order)
    state.save_domain(stage.environment.turn.state, gone)
    stage.save(node(OTHER, Status.REVOKED))
    stage.peering.refresh()
    assert stage.peering.authorities_of(OTHER) != (), "it may be needed for its own removal"
    assert ca("b") in stage.peering.authorities()
    assert stage.peering.authorities_of(SECOND) == ()
    assert not stage.peering.belongs(SECOND, order)
    stage.members = [ME, THIRD]
    stage.peering.refresh()
    assert stage.peering.authorities_of(OTHER) == ()
    assert ca("b") not in stage.peering.authorities()
    assert stage.dialled() == [THIRD]


def test_two_authorities_vouch_while_a_domain_goes_from_one_to_the_other(stage: Stage) -> None:
    both = replace(domain(OTHER), next_ca=ca_certificate("next"))
    state.save_domain(stage.environment.turn.state, both)
    stage.environment.commit()
    assert stage.peering.refresh(), "whoever dials and serves is told"
    following = ca_certificate("next").encode()
    assert stage.peering.authorities_of(OTHER) == (ca("b"), following)
    assert stage.peering.authorities_of(SECOND) == (ca("b"), following)
    assert following not in stage.peering.authorities_of(THIRD)
    assert set(stage.peering.authorities()) == {*(ca(name) for name in "abc"), following}
    assert {peer.node_id: peer.authorities for peer in stage.peering.peers()}[OTHER] == (
        ca("b"),
        following,
    )
    alone = replace(both, ca_certificate=both.next_ca, next_ca="")
    state.save_domain(stage.environment.turn.state, alone)
    stage.environment.commit()
    assert stage.peering.refresh()
    assert stage.peering.authorities_of(OTHER) == (following,)
    assert ca("b") not in stage.peering.authorities()


def test_a_next_authority_that_is_none_spoils_not_the_other(stage: Stage) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    state.save_domain(stage.environment.turn.state, replace(domain(OTHER), next_ca=broken))
    stage.environment.commit()
    assert stage.peering.refresh()
    assert stage.peering.authorities_of(OTHER) == (ca("b"),)
    assert set(stage.peering.authorities()) == {ca(name) for name in "abc"}
