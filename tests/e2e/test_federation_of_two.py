"""One of two voters is retired, which takes its own vote: it is cut off only when it is removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.federations import BANK, CLINIC, WAIT_S, await_roles, register, said

from quorate.chaos.cluster import Cluster
from quorate.chaos.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.parametrize("leads", [True, False], ids=["the leader", "the follower"])
def test_one_of_two_is_retired_and_the_other_goes_on(tmp_path: Path, leads: bool) -> None:
    with Cluster(tmp_path, domains=(BANK, CLINIC)) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        leader = cluster.leader()
        follower = next(name for name in cluster.names if name != leader)
        gone, left = (leader, follower) if leads else (follower, leader)
        cluster.retire(gone)
        await_roles(cluster, {left: "voter"}, at=[left])
        register(cluster.operator(left))
        wait_until(
            "its refusal",
            lambda: said(cluster.members[gone].log, "link_down", "PERMISSION_DENIED") > 0,
            WAIT_S,
        )
