"""Histories: what a few domains and their nodes do, made up so that much of it succeeds and most of
the rest fails late.

An author looks at the model's world to choose what exists, and never at the ledger. All chance
comes from one `random.Random`: the same one makes the same history, and a test may hand in one that
hypothesis can shrink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Any, Final, TypeVar

from tests.property.core.naive.ballots import OTHERS, is_possible
from tests.property.core.naive.deciding import decide
from tests.property.core.naive.rules import FOLLOWS
from tests.property.core.naive.world import (
    BALLOT_TYPES,
    Command,
    No,
    Thing,
    World,
    find,
    home,
    is_for,
    proposal_id,
)

T = TypeVar("T")
Body = dict[str, Any]

FOUNDERS: Final = ("a.example", "b.example", "c.example")
JOINERS: Final = ("x.example", "y.example")
NAMES: Final = ("a", "b", "c")
ACTIONS: Final = ("pay", "pay.out", "read")
PATHS: Final = ("x", "x/y", "z")
ACTION_PATTERNS: Final = (["*"], ["*"], ["pay.*"], ["pay", "read"], ["pay.*", "read"], ["read"])
PATH_PATTERNS: Final = (["*"], ["*"], ["x/*"], ["x", "z"], ["x/*", "z"], ["x"])
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000

SMALL_LIMITS: Final = {
    "MAX_CONCURRENT_LEASES": 3,
    "MAX_EDGES_PER_PAIR": 2,
    "MAX_GRANTS_PER_EXECUTOR_AND_ISSUER": 2,
    "MAX_DOMAINS": 4,
    "MAX_EXECUTORS_PER_DOMAIN": 2,
    "MAX_NODES_PER_DOMAIN": 2,
    "MAX_NODES_EVER_PER_DOMAIN": 3,
    "MAX_OPEN_PROPOSALS_PER_DOMAIN": 2,
    "MAX_EVENTS_PER_LEASE": 4,
    "NONCES_FORGOTTEN_PER_COMMAND": 1,
}
"""Some histories have these, so that limits are met."""

WEIGHTS: Final = {
    "executor.register": 5,
    "executor.suspend": 1.5,
    "executor.reinstate": 2,
    "executor.revoke": 0.7,
    "trust.open": 5,
    "trust.narrow": 4,
    "trust.close": 2,
    "grant.issue": 7,
    "grant.suspend": 2,
    "grant.reinstate": 2,
    "grant.revoke": 1,
    "domain.suspend": 1.5,
    "domain.reinstate": 2,
    "domain.admit": 0.2,
    "domain.expel": 0.2,
    "federation.set_thresholds": 0.2,
    "proposal.open": 6,
    "proposal.withdraw": 1,
    "ballot.cast": 8,
    "node.add": 4,
    "node.promote": 2,
    "node.demote": 2,
    "node.retire": 1,
    "lease.acquire": 20,
    "lease.renew": 6,
    "lease.release": 4,
    "lineage.append": 6,
}
VERBS: Final = tuple(WEIGHTS)
CUMULATED: Final = tuple(accumulate(WEIGHTS.values()))
PROPOSED: Final = BALLOT_TYPES[:-1]
"""All but an upgrade: these histories live by the protocol that they begin with."""
REPEATING: Final = 0.07
"""How often somebody says again what was said before, more or less."""


class Author:
    """Makes up one command after the other.

    descriptors: the signed descriptors of founders, and of who may join. key_of: the public key
    (hex) of a name.
    """

    def __init__(
        self,
        chance: Random,
        world: World,
        descriptors: Mapping[str, Body],
        key_of: Callable[[str], str],
    ) -> None:
        self._chance = chance
        self._world = world
        self._descriptors = descriptors
        self._key_of = key_of
        self._written: list[Command] = []
        self._planned: list[tuple[str, str, Body]] = []
        if self.often(0.8):
            self._open()

    def next(self) -> Command:
        """The next command, of whoever gives it; the world has yet to judge it."""
        at = max(self._world.time + self.pause(), 0)
        if self._written and self.often(REPEATING):
            command = self.again(at)
        elif self._planned:
            command = self.made(at, *self._planned.pop(0))
        else:
            verb = self.sensible(self._chance.choices(VERBS, cum_weights=CUMULATED)[0])
            issuer, body = self.body_of(verb, at)
            command = self.made(at, issuer, verb, body)
        self._written.append(command)
        return command

    # -- chance ----------------------------------------------------------------------------------

    def one(self, some: Sequence[T]) -> T:
        return self._chance.choice(some)

    def often(self, share: float) -> bool:
        return self._chance.random() < share

    def pause(self) -> int:
        if self.often(0.95 if self._planned else 0.6):
            return 0
        if self.often(0.9):
            return self.one((1, 500, 500, 500, 3_000, 3_000, -1_000))
        return self.one((10_000, 10_000, 60_000, HOUR_MS))

    # -- commands --------------------------------------------------------------------------------

    def sensible(self, verb: str) -> str:
        """A type of command for which there is something, mostly."""
        subject, world = verb.partition(".")[0], self._world
        first = {
            "executor": (world.executors, "executor.register"),
            "trust": (world.edges, "trust.open"),
            "grant": (world.grants, "grant.issue"),
            "ballot": (self.open_proposals(), "proposal.open"),
            "lease": (world.leases, "lease.acquire"),
            "lineage": (world.leases, "lease.acquire"),
        }
        if subject in first and not first[subject][0] and self.often(0.9):
            return first[subject][1]
        return verb

    def made(self, at: int, issuer: str, verb: str, body: Body) -> Command:
        is_long = self.often(0.5 if verb == "lease.acquire" else 0.8)
        life = 1_000_000 if is_long else self.one((0, 1_000, 5_000, DAY_MS, HOUR_MS))
        origin, key = self._world.origin, ""
        if self.often(0.02):
            match self.one(("origin", "key", "issuer", "early", "late", "kind")):
                case "origin":
                    origin = "elsewhere.example"
                case "key":
                    key = self.one(FOUNDERS)
                case "issuer":
                    issuer = self.one(("nobody.example", "spiffe://a.example/node/9"))
                case "early":
                    life = DAY_MS + HOUR_MS
                case "late":
                    life = -20_000
                case "kind":
                    issuer = self.domain() if issuer.startswith("spiffe") else self.node(issuer)
        nonce = f"{len(self._written) + 1:016x}"
        return Command(issuer, verb, body, nonce, max(at + life, 0), at, origin, key)

    def again(self, at: int) -> Command:
        """What was said before, as it was; or signed anew; or with something else in it."""
        said = self.one(self._written[-12:] if self.often(0.6) else self._written)
        other = self.one(self._written)
        acquired = [each for each in self._written if each.verb == "lease.acquire"]
        if acquired and self.often(0.3):  # the ledger may have forgotten it, and not the lease
            said = self.one(acquired)
        match self.one(("same", "same", "anew", "anew", "anew", "other")):
            case "same":
                return Command(**{**vars(said), "at": at})
            case "anew":
                return Command(**{**vars(said), "at": at, "not_after": at + self.one((0, HOUR_MS))})
        return Command(**{**vars(other), "at": at, "nonce": said.nonce, "issuer": said.issuer})

    def _open(self) -> None:
        """Everybody is registered, and trusts and grants enough for leases to be given."""
        members = [each["domain"] for each in self._world.domains]
        for domain in members:
            for name in NAMES[:2]:
                body = {"executor": f"spiffe://{domain}/agent/{name}"}
                self._planned.append((domain, "executor.register", body))
        for domain in members:
            for trustee in members:
                if trustee != domain and self.often(0.7):
                    self._planned.append((domain, "trust.open", self.edge(domain, "e1", trustee)))
        for domain in members:
            for place, executor in enumerate(self.executors(members)):
                if self.often(0.5):
                    grant = self.terms(domain, f"g{place}", executor, self._world.time)
                    self._planned.append((domain, "grant.issue", grant))

    # -- who and what ----------------------------------------------------------------------------

    def domain(self) -> str:
        """One that is a member, mostly."""
        if self.often(0.03):
            return self.one((*FOUNDERS, *JOINERS))
        return str(self.one(self._world.domains)["domain"])

    def mostly(self, domain: str) -> str:
        return self.domain() if self.often(0.05) else domain

    def executors(self, domains: Sequence[str]) -> list[str]:
        return [f"spiffe://{each}/agent/{name}" for each in domains for name in NAMES[:2]]

    def anybody(self) -> str:
        """An executor, registered mostly."""
        if self._world.executors and self.often(0.85):
            return str(self.one(self._world.executors)["executor"])
        return f"spiffe://{self.domain()}/agent/{self.one(NAMES)}"

    def node(self, domain: str) -> str:
        """One of a domain's, active mostly."""
        own = [each for each in self._world.active_nodes() if each["domain"] == domain]
        if own and self.often(0.95):
            return str(self.one(own)["node"])
        return f"spiffe://{domain}/node/{self.one('1111123')}"

    def existing(self, things: Sequence[Thing], name: str) -> tuple[str, str]:
        """The domain and the own name of an edge or grant, mostly one that there is."""
        own = "truster" if name == "edge" else "issuer"
        alive = [each for each in things if each["status"] != "revoked"]
        if alive and self.often(0.9):
            found = self.one(alive)
            return self.mostly(found[own]), found[name]
        if things and self.often(0.8):
            found = self.one(things)
            return found[own], found[name]
        return self.domain(), f"{name[0]}{self.one('123')}"

    def resources(self, domain: str) -> list[str]:
        others = self.domain() if self.often(0.03) else domain
        return [f"//{others}/{path}" for path in self.one(PATH_PATTERNS)]

    # -- bodies: who gives the command, and what it says -------------------------------------------

    def body_of(self, verb: str, at: int) -> tuple[str, Body]:
        subject, _, act = verb.partition(".")
        makers: dict[str, Callable[[str, int], tuple[str, Body]]] = {
            "executor": self._executor,
            "trust": self._trust,
            "grant": self._grant,
            "domain": self._domain,
            "federation": self._federation,
            "proposal": self._proposal,
            "ballot": self._ballot,
            "node": self._node,
            "lease": self._lease,
            "lineage": self._lineage,
        }
        return makers[subject](act, at)

    def _executor(self, act: str, at: int) -> tuple[str, Body]:
        executor = self.anybody()
        if act == "register" and self.often(0.8):
            executor = f"spiffe://{self.domain()}/agent/{self.one(NAMES)}"
        return self.mostly(home(executor)), {"executor": executor}

    def _trust(self, act: str, at: int) -> tuple[str, Body]:
        if act == "open":
            truster = self.domain()
            others = [each["domain"] for each in self._world.domains if each["domain"] != truster]
            trustee = self.one(others) if others and self.often(0.9) else self.domain()
            return truster, self.edge(truster, f"e{self.one('12345')}", trustee)
        truster, name = self.existing(self._world.edges, "edge")
        edge = find(self._world.edges, truster=truster, edge=name)
        if act == "close":
            return truster, {"edge": name}
        resources, actions = self.resources(truster), self.one(ACTION_PATTERNS)
        if edge is not None and self.often(0.7):
            resources, actions = edge["resources"], edge["actions"]
            match self.one("ar"):
                case "a":
                    actions = [each for each in ("pay.out", "read") if self.often(0.7)] or ["pay"]
                case "r":
                    resources = [f"//{truster}/{each}" for each in self.one((["x/y"], ["x", "z"]))]
        return truster, {"edge": name, "actions": list(actions), "resources": list(resources)}

    def edge(self, truster: str, name: str, trustee: str) -> Body:
        return {
            "edge": name,
            "trustee": trustee,
            "actions": list(self.one(ACTION_PATTERNS)),
            "resources": self.resources(truster),
        }

    def _grant(self, act: str, at: int) -> tuple[str, Body]:
        if act == "issue":
            issuer = self.domain()
            return issuer, self.terms(issuer, f"g{self.one('0123456')}", self.anybody(), at)
        issuer, name = self.existing(self._world.grants, "grant")
        return issuer, {"grant": name}

    def terms(self, issuer: str, name: str, executor: str, at: int) -> Body:
        life = HOUR_MS if self.often(0.7) else self.one((1, 0, 5_000, 100_000))
        return {
            "grant": name,
            "executor": executor,
            "actions": list(self.one(ACTION_PATTERNS)),
            "resources": self.resources(issuer),
            "not_after": at + life,
            "max_lease_ttl_ms": self.one((1, 2_000, 50_000, 50_000, 100_000)),
            "max_uses": self.one((0, 0, 0, 1, 2, 3)),
            "max_concurrent": self.one((0, 0, 0, 1, 2)),
        }

    def _domain(self, act: str, at: int) -> tuple[str, Body]:
        domain = self.domain()
        if act == "admit":
            return domain, {"descriptor": self._descriptors[self.one(JOINERS)]}
        if act == "reinstate":
            waiting = [e["domain"] for e in self._world.domains if e["status"] == "suspended"]
            domain = self.one(waiting) if waiting else domain
        return self.mostly(domain), {"domain": domain}

    def _federation(self, act: str, at: int) -> tuple[str, Body]:
        return self.domain(), {"thresholds": self.thresholds()}

    def thresholds(self) -> Body:
        if self.often(0.3):
            return dict.fromkeys(BALLOT_TYPES, "majority")
        wished = dict(self._world.thresholds)
        for name in BALLOT_TYPES:
            if self.often(0.3):
                wished[name] = self.one(("majority", "two-thirds", "unanimity"))
        return wished

    def _proposal(self, act: str, at: int) -> tuple[str, Body]:
        if act == "withdraw":
            found = self.proposed()
            return self.mostly(found["proposer"]), {"proposal": found["proposal"]}
        issuer = self.domain()
        verb, inner = self.proposable()
        life = self.one((600_000, 600_000, 5_000, 1_000))
        if self.often(0.03):
            life = self.one((0, 31 * DAY_MS))
        body = {"act": verb, "body": inner, "expires_at": at + life}
        if self.often(0.6) and self.is_possible(verb, inner):
            nonce = f"{len(self._written) + 1:016x}"
            opening = Command(issuer, "proposal.open", body, nonce, 0, at, self._world.origin)
            self.campaign(issuer, proposal_id(opening))
        return issuer, body

    def proposable(self) -> tuple[str, Body]:
        """What domains may want to do together."""
        is_open = self.open_proposals()
        if is_open and self.often(0.3):  # two are for the same
            other = self.one(is_open)
            return other["act"], other["_body"]
        verb, domains = self.one(PROPOSED), self._world.domains
        if verb == "federation.set_thresholds":
            return verb, {"thresholds": self.thresholds()}
        if verb == "domain.admit":
            joining = "a.example" if self.often(0.2) else self.one(JOINERS)
            return verb, {"descriptor": self._descriptors[joining]}
        out = [each["domain"] for each in domains if each["suspended_by"] == OTHERS]
        if out and self.often(0.5):
            return "domain.reinstate", {"domain": self.one(out)}
        active = [each["domain"] for each in domains if each["status"] == "active"]
        return verb, {"domain": self.one(active) if active and self.often(0.6) else self.domain()}

    def is_possible(self, act: str, body: Body) -> bool:
        try:
            is_possible(self._world, act, body)
        except No:
            return False
        return True

    def campaign(self, issuer: str, ident: str) -> None:
        """The others are about to vote, for it mostly."""
        for each in self._world.domains:
            if each["domain"] != issuer and self.often(0.9):
                choice = "yes" if self.often(0.85) else "no"
                ballot = {"proposal": ident, "choice": choice}
                self._planned.append((each["domain"], "ballot.cast", ballot))

    def _ballot(self, act: str, at: int) -> tuple[str, Body]:
        by, choice = self.domain(), self.one(("yes", "yes", "no"))
        ident = self.proposed()["proposal"]
        if self.often(0.3):
            self.campaign(by, ident)
        return by, {"proposal": ident, "choice": choice}

    def proposed(self) -> Thing:
        """A proposal, open mostly."""
        nothing = [{"proposer": self.domain(), "proposal": "0" * 64}]
        if self.often(0.03):
            return nothing[0]
        some = self.open_proposals() if self.often(0.9) else self._world.proposals
        return self.one(some or self._world.proposals or nothing)

    def open_proposals(self) -> list[Thing]:
        now = self._world.time
        proposals = self._world.proposals
        return [e for e in proposals if e["status"] == "open" and now < e["expires_at"]]

    def _node(self, act: str, at: int) -> tuple[str, Body]:
        domain = self.domain()
        if act != "add":
            node = self.node(domain)
            return self.mostly(home(node)), {"node": node}
        node = f"spiffe://{domain}/node/{self.one('1234')}"
        keys = {f"{name}_key": self._key_of(f"{node} {name}") for name in ("signing", "log")}
        if self.often(0.1):
            keys["log_key"] = self._key_of(f"{self.domain()} {self.one(('log', 'cosigner'))}")
        address = f"127.0.0.1:{self.one((7401, 9000, *range(7500, 7512)))}"
        role = self.one(("voter", "observer"))
        return self.mostly(domain), {"node": node, "peer_address": address, "role": role, **keys}

    def _lease(self, act: str, at: int) -> tuple[str, Body]:
        ttl = self.one((0, 0, 0, 1, 1_000, 30_000, 2 * DAY_MS))
        if act == "acquire":
            executor, body = self.wish()
            body |= {"ttl_ms": ttl}
            if self._world.leases and self.often(0.3):
                parents = [
                    self.one(self._world.leases)["lease"] for _ in range(self.one((1, 1, 2)))
                ]
                body["parents"] = sorted({*parents, *self.one(([], [], [], ["0" * 32]))})
        else:
            executor, lease = self.held()
            body = {"executor": executor, "lease": lease}
            body |= {} if act == "release" else {"ttl_ms": ttl}
        return self.node(self.mostly(home(executor))), body

    def wish(self) -> tuple[str, Body]:
        """An act that somebody wants to do: mostly one that there is a grant for."""
        executor, body = self.wished()
        for _ in range(self.one((0, 3, 3))):
            if self.is_permitted(body):
                break
            executor, body = self.wished()
        return executor, body

    def is_permitted(self, wish: Body) -> bool:
        asked = wish["executor"], wish["action"], wish["resource"]
        try:
            decide(self._world, *asked, self._world.time)
        except No:
            return False
        return True

    def wished(self) -> tuple[str, Body]:
        executor, action = self.anybody(), self.one(ACTIONS)
        resource = f"//{self.domain()}/{self.one(PATHS)}"
        if self._world.grants and self.often(0.8):
            grant = self.one(self._world.grants)
            executor, resource = grant["executor"], f"//{grant['issuer']}/{self.one(PATHS)}"
            if not is_for(grant, action, resource):  # once more
                action, resource = self.one(ACTIONS), f"//{grant['issuer']}/{self.one(PATHS)}"
        return executor, {"executor": executor, "action": action, "resource": resource}

    def held(self) -> tuple[str, str]:
        """An executor and a lease, its own and a late one mostly."""
        if not self._world.leases or self.often(0.03):
            return self.anybody(), "0" * 32
        lease = self.one(self._world.leases[-4:] if self.often(0.7) else self._world.leases)
        return self.anybody() if self.often(0.05) else lease["executor"], lease["lease"]

    def _lineage(self, act: str, at: int) -> tuple[str, Body]:
        executor, lease = self.held()
        node = self.node(self.mostly(home(executor)))
        records = [self.event(executor, lease, at) for _ in range(self.one((1, 1, 2, 3)))]
        if self.often(0.1):
            records.append(self.denials(executor, lease, at))
        head = self._world.heads.get(node, "")
        return node, {"after": "ab" * 32 if self.often(0.05) else head, "records": records}

    def event(self, executor: str, lease: str, at: int) -> Body:
        found = find(self._world.leases, lease=lease)
        legal = list(FOLLOWS[found["stage"]]) if found else []
        anything = sorted({each for stage in FOLLOWS.values() for each in stage})
        return {
            "kind": "event",
            "lease": lease,
            "executor": executor,
            "type": self.one(legal if legal and self.often(0.8) else anything),
            "attributes": self.one(({}, {"exit_code": "0"})),
            "at": at,
        }

    def denials(self, executor: str, lease: str, at: int) -> Body:
        return {
            "kind": "denials",
            "executor": executor if self.often(0.8) else "",
            "method": "Check",
            "lease": lease,
            "reason": "INQUORATE",
            "ledger_size": 7,
            "first_at": at,
            "last_at": at,
            "count": 3,
        }

    # -- questions -------------------------------------------------------------------------------

    def question(self) -> tuple[str, str, str]:
        """An executor, an action and a resource."""
        _, wish = self.wish()
        return wish["executor"], wish["action"], wish["resource"]
