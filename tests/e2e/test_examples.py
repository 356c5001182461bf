"""The examples of docs/examples.md: each works, and stops for the reason for which it should.

They are run by the commands of the page. An operator takes a grant away, or the quorum is lost.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.examples import WAIT_S, Place, Run, prepare
from tests.e2e.test_exec import OF_A_LOST_QUORUM

from quorate.chaos.cluster import Cluster
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.processes import wait_until

pytestmark = pytest.mark.cluster

LACKING = [program for program in ("node", "npm") if shutil.which(program) is None]
NEEDS_NODE = pytest.mark.skipif(
    bool(LACKING), reason=f"the client in Node.js needs what is not here: {', '.join(LACKING)}"
)
BANK = "bank.example"
HTTP_PORT = "7501"
RECORD = b"a record"
INVOICES = 30
AN_HOUR = "3600000"
WITHOUT_A_GRANT = ("stopped: NO_GRANT ", "stopped: GRANT_REVOKED ")
"""The second where an earlier test has left a grant that is revoked."""


@pytest.fixture(scope="module")
def directory(shared_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(shared_cluster, tmp_path_factory.mktemp("clone"))


@pytest.fixture
def place(cluster: Cluster, directory: Path) -> Iterator[Place]:
    with Place(cluster, directory) as made:
        yield made
        cluster.links.heal()  # what is left is taken back by a quorum


@pytest.fixture(scope="module")
def node_client(directory: Path, shared_cluster: Cluster) -> None:
    """Its packages, once."""
    Place(shared_cluster, directory).do("node install")


def reason_of(run: Run) -> str:
    """Why it says that it was stopped."""
    [reason] = re.findall(r"stopped: (?:PERMISSION_DENIED denied: )?([A-Z_]+)", run.text())
    return str(reason)


class Http:
    """A client of the HTTP service."""

    def __init__(self, place: Place) -> None:
        self._port = int(place.port(HTTP_PORT))

    @contextmanager
    def ask(
        self, method: str, path: str, body: bytes | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, of which nothing but the head was read."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT_S)
        with closing(connection):
            connection.request(method, path, body)
            with connection.getresponse() as answer:
                yield answer

    def json(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        with self.ask(method, path, body) as answer:
            return answer.status, json.loads(answer.read())

    def is_well(self) -> bool:
        try:
            with self.ask("GET", "/health") as answer:
                return answer.read() == b"well\n"
        except ConnectionRefusedError:
            return False

    @contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        """A stream from which the one record was read, and that waits for more."""
        status, answer = self.json("POST", "/records", RECORD)
        assert (status, answer["records"]) == (201, 1)
        with self.ask("GET", "/records") as stream:
            assert stream.read(len(RECORD) + 1) == RECORD + b"\n"
            yield stream


def serve_http(place: Place) -> tuple[Run, Http]:
    """The service, and somebody who asks it."""
    run, client = place.start("http serve"), Http(place)
    wait_until("the service", client.is_well, WAIT_S)
    return run, client


def assert_broken_off(stream: http.client.HTTPResponse) -> None:
    with pytest.raises(http.client.IncompleteRead):
        stream.read(1)


def serve_grpc(place: Place) -> tuple[Run, Run]:
    """The service, and somebody who follows it."""
    run = place.start("grpc serve")
    run.await_lines("serving")
    follower = place.start("grpc follow")
    follower.await_lines("reading", 3)
    return run, follower


def leases_since(mirror: LedgerMirror, size: int) -> set[tuple[str, str]]:
    """Action and resource of the leases that the ledger has granted since it had that size."""
    mirror.catch_up()
    granted = set()
    for entry in map(mirror.entry, range(size, len(mirror.entries))):
        if (entry["type"], entry["decision"]) == ("lease.acquire", "accepted"):
            body = json.loads(b64decode(entry["command"]["payload"]))["body"]
            granted.add((body["action"], body["resource"]))
    return granted


def test_the_agent_works_to_the_end_each_tool_under_its_lease(
    place: Place, mirror: LedgerMirror
) -> None:
    size = len(mirror.entries)
    place.do("agent grant")
    run = place.start("agent run", "--mail-seconds", "0")
    assert run.end() == 0, run.text()
    assert len(run.lines("sent reminder")) == INVOICES
    assert run.text().endswith(f"{INVOICES} customers were reminded.\n")
    assert leases_since(mirror, size) == {
        ("invoices.list", "//bank.example/invoices"),
        *(("invoices.read", f"//bank.example/invoices/{n}") for n in range(1, INVOICES + 1)),
        ("mail.send", "//bank.example/outbox"),
    }


def test_the_agent_sends_nothing_more_when_it_may_not(place: Place) -> None:
    place.do("agent grant")
    run = place.start("agent run")
    run.await_lines("sent reminder 1 ")
    place.do("agent revoke")
    sent = run.lines("sent reminder")
    assert run.end() == 3
    assert run.lines("sent reminder") == sent, "drained: nothing is sent any more"
    assert run.text().endswith(f"stopped: GRANT_REVOKED {place.grant_id('agent-mail')}\n")


def test_without_a_grant_no_tool_is_called(place: Place) -> None:
    run = place.start("agent run")
    assert run.end() == 3
    assert run.text().startswith(WITHOUT_A_GRANT)
    assert len(run.text().splitlines()) == 1


def test_the_grpc_service_ends_streams_and_refuses_calls(place: Place) -> None:
    place.do("grpc grant")
    run, follower = serve_grpc(place)
    place.do("grpc revoke")
    denied = f"stopped: PERMISSION_DENIED denied: GRANT_REVOKED ({place.grant_id('meter')})\n"
    assert follower.end() == 3
    assert follower.text().endswith(denied)
    single = place.start("grpc read")
    assert (single.end(), single.text()) == (3, denied)
    assert run.is_running()


def test_the_http_service_breaks_streams_off_and_refuses_requests(place: Place) -> None:
    place.do("http grant")
    run, client = serve_http(place)
    with client.stream() as stream:
        place.do("http revoke")
        assert_broken_off(stream)
    status, problem = client.json("POST", "/records", RECORD)
    assert (status, problem["reason"]) == (403, "GRANT_REVOKED")
    assert problem["thing"] == place.grant_id("inbox")
    status, problem = client.json("GET", "/elsewhere")
    assert (status, problem["reason"]) == (403, "NO_RULE")
    assert run.is_running()
    assert client.is_well()


def test_the_shell_script_is_ended_with_its_lease(place: Place) -> None:
    place.do("exec grant")
    place.do("exec records")
    run = place.start("exec run")
    run.await_lines("copied 1")
    place.do("exec revoke")
    archive = place.directory / "archive"
    copied = sorted(archive.iterdir())
    assert run.end() == 3
    assert run.lines("told to stop, ")
    assert f"stopped: GRANT_REVOKED ({place.grant_id('archive')})" in run.text()
    assert sorted(archive.iterdir()) == copied, "drained: nothing is written any more"
    fence, record = (archive / "1").read_text().splitlines()
    assert fence.startswith("fence ")
    assert record == "record 1"


@NEEDS_NODE
def test_the_client_in_node_stops_when_it_may_not_go_on(place: Place, node_client: None) -> None:
    refused = place.start("node run")
    assert refused.end() == 3
    assert refused.text().startswith(WITHOUT_A_GRANT)
    place.do("node grant")
    run = place.start("node run", AN_HOUR)
    run.await_lines("valve at")
    place.do("node revoke")
    assert run.end() == 3, "the watch told it: it would not have asked for an hour"
    assert len(run.lines("valve at")) == 1
    assert run.text().endswith(f"stopped: GRANT_REVOKED {place.grant_id('valve')}\n")


def test_a_lost_quorum_stops_every_example_and_services_serve_again(
    cluster: Cluster, place: Place
) -> None:
    place.do("agent grant", "exec grant", "grpc grant", "http grant")
    place.do("exec records")
    programs = {"sent": place.start("agent run"), "copied": place.start("exec run")}
    meter, follower = serve_grpc(place)
    inbox, client = serve_http(place)
    for beginning, run in programs.items():
        run.await_lines(beginning)
    with client.stream() as stream:
        cluster.links.partition([])
        for run in (*programs.values(), follower):
            assert run.end() == 3
            assert reason_of(run) in OF_A_LOST_QUORUM, run.text()
        assert_broken_off(stream)
    status, problem = client.json("POST", "/records", RECORD)
    assert status == 403
    assert problem["reason"] in OF_A_LOST_QUORUM

    cluster.links.heal()
    cluster.wait_ready()
    wait_until("the inbox", lambda: client.json("POST", "/records", RECORD)[0] == 201, WAIT_S)
    wait_until("the meter", lambda: place.start("grpc read").end() == 0, WAIT_S)
    assert meter.is_running()
    assert inbox.is_running()


@NEEDS_NODE
def test_the_client_in_node_stops_when_it_hears_nothing(
    cluster: Cluster, place: Place, node_client: None
) -> None:
    place.do("node grant")
    run = place.start("node run")
    run.await_lines("valve at", 3)
    cluster.pause(BANK)
    try:
        assert run.end() == 3
    finally:
        cluster.resume(BANK)
    assert reason_of(run) == "LATE"


@NEEDS_NODE
def test_a_lost_quorum_stops_the_client_in_node(
    cluster: Cluster, place: Place, node_client: None
) -> None:
    place.do("node grant")
    run = place.start("node run", AN_HOUR)
    run.await_lines("valve at")
    cluster.links.partition([])
    assert run.end() == 3
    assert reason_of(run) in OF_A_LOST_QUORUM, run.text()
