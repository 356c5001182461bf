"""Nothing is pickled: not on the wire, not in the log, not when a leader dies and comes back.

Every node of these tests runs with pickle disarmed; this one makes sure that the trap is set, and
does what the engine underneath would have pickled for.
"""

from __future__ import annotations

import os
import secrets
import subprocess

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.mirror import LedgerMirror

pytestmark = pytest.mark.cluster

ATTEMPTS = (
    "import pickle; pickle.loads(pickle_of_none)",
    "import pickle; pickle.dumps(None)",
    "import pickle, io; pickle.load(io.BytesIO(pickle_of_none))",
    "import pickle, io; pickle.Unpickler(io.BytesIO(pickle_of_none))",
    "import _pickle; _pickle.loads(pickle_of_none)",
    "import pysyncobj.pickle as p; p.loads(pickle_of_none)",
    "import pysyncobj.pickle as p; p.dumps(None)",
)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_trap_works(tmp_path, pickle_trap, python, attempt):
    trap = type(pickle_trap).make(tmp_path)
    code = f"pickle_of_none = b'N.'; {attempt}"
    done = subprocess.run(
        [*python, "-c", code],
        env=os.environ | trap.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "pickling in a node" in done.stderr
    assert len(trap.sprung()) == 1


def test_a_federation_works_and_recovers_without_pickle(
    cluster: Cluster, mirror: LedgerMirror, pickle_trap, node_processes
):
    def trapped() -> bool:
        pids = [
            node_processes.pid(domain, part)
            for domain in cluster.members
            for part in ("supervisor", "core", "edge")
        ]
        return all(pid is not None and pickle_trap.is_armed(pid) for pid in pids)

    assert trapped()

    def write(domains: list[str]) -> None:
        for domain in domains:
            executor = f"spiffe://{domain}/agent/{secrets.token_hex(8)}"
            cluster.operator(domain).order("executor.register", {"executor": executor})

    write(list(cluster.members))
    leader = cluster.leader()
    cluster.kill(leader)
    write([domain for domain in cluster.members if domain != leader])
    cluster.start([leader])
    cluster.wait_ready()
    write(list(cluster.members))
    assert mirror.catch_up() > 0
    assert trapped()
    assert pickle_trap.sprung() == {}
