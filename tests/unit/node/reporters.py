"""A federation whose nodes take in reports: executors with leases, and what the ledger has of it.

Owns what tests of the outbox have in common. Does not own the rule that they check by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.unit.node.nodes import Node, Nodes

from quorate.core import codec, dsse
from quorate.core.lineage import Denials, Event, EventType, Record, parse_record
from quorate.core.outcome import Deny, Reason
from quorate.node.outbox import Taken
from quorate.testing.builders import acquire_body, grant_body

NUMBER: Final = "number"
DOMAINS: Final = ("bank.example", "clinic.example", "port.example")


class Reporters(Nodes):
    """Nodes, each with an executor of its domain that holds a lease."""

    def __init__(self, directory: Path, domains: tuple[str, ...]) -> None:
        super().__init__(directory, domains)
        for domain in domains:
            self.add(self.federation[domain].node)
        self.settle()
        self.leases = {domain: self.lease(domain) for domain in domains}

    def settle(self) -> None:
        """Until somebody leads and all hold authority."""
        self.until(lambda: self.leader is not None)
        self.until(lambda: all(node.word_holds() for node in self.nodes.values()))

    def node(self, domain: str) -> Node:
        return self.nodes[self.federation[domain].node]

    def executor(self, domain: str, name: str = "one") -> str:
        return self.federation[domain].executor(name)

    def lease(self, domain: str, name: str = "one") -> str:
        """A lease of an executor of the domain on something of its own."""
        node, executor = self.node(domain), self.executor(domain, name)
        self.order(domain, "executor.register", {"executor": executor}, node)
        self.order(domain, "grant.issue", grant_body(name, executor, [f"//{domain}/*"]), node)
        body = acquire_body(executor, "act", f"//{domain}/thing")
        outcome = self.order(node.node_id, "lease.acquire", body, node)
        assert outcome.accepted
        return str(outcome.result["id"])

    def event(
        self, domain: str, number: int, kind: EventType | None = None, note: str = ""
    ) -> Event:
        """The domain's executor says that it has started, or, after that, something else."""
        kind = kind or (EventType.REPORTED if number else EventType.STARTED)
        said = {NUMBER: str(number)} | ({"note": note} if note else {})
        at = self.node(domain).core.ledger_clock.now_ms()
        return Event(self.leases[domain], self.executor(domain), kind, said, at)

    def denials(self, domain: str, count: int = 1, **changes: object) -> Denials:
        core = self.node(domain).core
        at = core.ledger_clock.now_ms()
        lease = str(changes.get("lease", self.leases[domain]))
        method = str(changes.get("method", "Check"))
        executor = str(changes.get("executor", self.executor(domain)))
        reason = Reason.INQUORATE
        return Denials(executor, method, lease, reason, core.ledger_size, at, at, count)

    def say(self, domain: str, *numbers: int, after: str | None = None) -> Taken:
        """Taken in; not durable before the next turn."""
        events = [self.event(domain, number) for number in numbers]
        taken = self.node(domain).core.outbox.report(events, after)
        assert isinstance(taken, Taken), taken
        return taken

    def refused(self, domain: str, *events: Event, after: str | None = None) -> Deny:
        found = self.node(domain).core.outbox.report(events, after)
        assert isinstance(found, Deny), found
        return found

    def crash(self, node: Node) -> None:
        """The core ends, and begins on what is durable."""
        node.start()
        self.connect_again(node)

    def emptied(self) -> bool:
        """Whether nobody has anything to tell any more, and all know it."""
        size = max(len(node.ledger()) for node in self.nodes.values())
        return all(
            node.core.outbox.waiting == 0 and node.core.ledger_size == size
            for node in self.nodes.values()
        )


def commands(node: Node) -> list[tuple[str, list[Record]]]:
    """Who has reported, and what, a command at a time, as this node's ledger has it."""
    found = []
    for data in node.ledger()[1:]:
        entry = codec.load(data)
        assert isinstance(entry, dict)
        if (entry["type"], entry["decision"]) != ("lineage.append", "accepted"):
            continue
        command = codec.load(dsse.from_json(entry["command"]).payload)
        assert isinstance(command, dict)
        body = command["body"]
        assert isinstance(body, dict)
        records = body["records"]
        assert isinstance(records, list)
        found.append((str(command["issuer"]), [parse_record(item) for item in records]))
    return found


def records(node: Node, issuer: str) -> list[Record]:
    """What one node has reported, as another one's ledger has it."""
    return [each for who, said in commands(node) if who == issuer for each in said]


def numbers(node: Node, issuer: str) -> list[int]:
    said = records(node, issuer)
    return [int(each.attributes[NUMBER]) for each in said if isinstance(each, Event)]


def denied(node: Node, issuer: str) -> int:
    return sum(each.count for each in records(node, issuer) if isinstance(each, Denials))


def rows(node: Node) -> int:
    """How many records lie in the store."""
    with node.environment.read() as snapshot:
        return len(snapshot.outbox(0, 2**31))


def follower(nodes: Reporters) -> tuple[str, Node]:
    """A domain whose node does not lead."""
    domain = next(each for each in DOMAINS if nodes.node(each) is not nodes.leader)
    return domain, nodes.node(domain)


def lose_quorum(nodes: Reporters) -> None:
    nodes.isolate(*nodes.nodes)
    nodes.until(lambda: not any(node.word_holds() for node in nodes.nodes.values()))


def heal(nodes: Reporters) -> None:
    nodes.isolate()
    nodes.until(nodes.emptied)
