"""Histories: what a few domains and their nodes do, made up so that much of it succeeds and most of
the rest fails late.

An author looks at the model's world to choose what exists, and never at the ledger. All chance
comes from one `random.Random`: the same one makes the same history, and a test may hand in one that
hypothesis can shrink.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from random import Random
from typing import Final

from tests.property.core.naive.cast import (
    ACTION_PATTERNS,
    ACTIONS,
    CONTEXTS,
    DAY_MS,
    FOUNDERS,
    HOUR_MS,
    JOINERS,
    NAMES,
    PATHS,
    Body,
    Deed,
)
from tests.property.core.naive.deciding import decide
from tests.property.core.naive.halting import TOGETHER, Halting
from tests.property.core.naive.keying import Keying
from tests.property.core.naive.linking import Linking
from tests.property.core.naive.rules import FOLLOWS
from tests.property.core.naive.showing import Showing
from tests.property.core.naive.world import (
    LATEST,
    REINSTATING,
    Command,
    No,
    World,
    find,
    home,
    is_for,
    owner,
)

WEIGHTS: Final = {
    "executor.register": 5,
    "executor.suspend": 1.5,
    "executor.reinstate": 2,
    "executor.revoke": 0.7,
    "executor.contain": 2.5,
    "executor.lift_containment": 3.5,
    "trust.open": 5,
    "trust.narrow": 4,
    "trust.close": 2,
    "grant.issue": 7,
    "grant.suspend": 2,
    "grant.reinstate": 2,
    "grant.revoke": 1,
    "grant.delegate": 6,
    "grant.recall": 2,
    "resources.freeze": 1,
    "resources.thaw": 2,
    "policy.publish": 1.3,
    "policy.retire": 1.5,
    "domain.suspend": 1.5,
    "domain.reinstate": 2,
    "domain.rekey": 7,
    "domain.admit": 0.2,
    "domain.expel": 0.2,
    "federation.set_thresholds": 0.2,
    "federation.set_parameters": 0.1,
    "federation.set_rates": 0.1,
    "federation.upgrade": 0.2,
    "federation.set_policy": 0.1,
    "federation.retire_policy": 0.1,
    "federation.reinstate_executor": 0.1,
    "federation.freeze": 0.1,
    "federation.thaw": 0.1,
    "proposal.open": 6,
    "proposal.withdraw": 2,
    "ballot.cast": 8,
    "node.add": 4,
    "node.promote": 2,
    "node.demote": 2,
    "node.retire": 1,
    "node.declare": 2,
    "lease.acquire": 20,
    "lease.renew": 6,
    "lease.release": 4,
    "lineage.append": 6,
    "attestation.set_reference": 2,
    "attestation.retire_reference": 1,
    "attestation.challenge": 5,
    "attestation.report": 8,
    "attestation.drift": 0.5,
    "break": 6,
    "prove": 6,
    "halt": 8,
}
"""break: whatever ends a lease that rests on several links, by one of them.
prove: an executor is asked, and answers; and something comes of it.
halt: something is frozen, tried, and thawed."""
VERBS: Final = tuple(WEIGHTS)
CUMULATED: Final = tuple(accumulate(WEIGHTS.values()))
REPEATING: Final = 0.07
"""How often somebody says again what was said before, more or less."""


class Author(Linking, Showing, Halting, Keying):
    """Makes up one command after the other."""

    def __init__(
        self,
        chance: Random,
        world: World,
        descriptors: Mapping[str, Body],
        key_of: Callable[[str], str],
    ) -> None:
        super().__init__(chance, world, descriptors, key_of)
        self._upgrade_at = chance.randint(5, 35) if self.often(0.75) else 1_000
        self._is_linked = self.often(0.7)
        """Whether domains tend to pass on what they have, rather than to trust each other."""
        self._is_rekeying = self.often(0.4)
        self._is_proved = self.often(0.5)
        """Whether domains have their executors prove things."""
        self._is_halting = self.often(0.5)
        """Whether anything is frozen, but for little."""
        if self.often(0.8):
            self._open()

    def next(self) -> Command:
        """The next command, of whoever gives it; the world has yet to judge it."""
        at = max(self._world.time + self.pause(), 0)
        if self._world.protocol < LATEST and len(self._written) >= self._upgrade_at:
            self._plan_upgrade()
        if self._written and self.often(REPEATING):
            command = self.again(at)
        else:
            command = self.made(at, *self.deed(at))
        if self.leads_too_far(command):
            return self.next()
        self._written.append(command)
        return command

    def deed(self, at: int) -> Deed:
        """What is done next, and by whom."""
        if self._planned:
            issuer, verb, body = self._planned.pop(0)
            return (issuer, verb, body) if issuer else self.worked_out(verb, at)
        verb = self.sensible(self._chance.choices(VERBS, cum_weights=CUMULATED)[0])
        return self.worked_out(verb, at)

    def worked_out(self, verb: str, at: int) -> Deed:
        if verb == "break":
            deeds = self.ending()
            self._planned = deeds[1:] + self._planned
            return deeds[0] if deeds else self.worked_out("lease.acquire", at)
        if verb == "prove":
            is_possible = self._is_proved and self._world.protocol == LATEST
            self._planned = (self.proving() if is_possible else []) + self._planned
            return self.deed(at) if is_possible else self.worked_out("lease.acquire", at)
        if verb == "halt":
            is_possible = self._is_halting and self._world.protocol == LATEST
            deeds = self.halting() if is_possible else []
            self._planned = deeds + self._planned
            return self.deed(at) if deeds else self.worked_out("lease.acquire", at)
        if verb.startswith(TOGETHER):
            return self.together(verb, at)
        if verb == "link":
            if self._world.protocol == LATEST:
                self._link()
            return self.deed(at)
        if verb == "reinstate":
            issuer, body = self._propose(at, REINSTATING, {"executor": self.failed()}, 0.95)
            return issuer, "proposal.open", body
        if verb == "upgrade":
            issuer, body = self._propose(at, "federation.upgrade", {"protocol": LATEST}, 0.9)
            if self.often(0.15):  # one is put back to its older program meanwhile
                self._planned.insert(0, (self.node(self.domain()), "node.declare", {"protocol": 1}))
            self._planned += [("", "link", {})] if self._is_linked else []
            return issuer, "proposal.open", body
        issuer, body = self.body_of(verb, at)
        return issuer, verb, body

    def leads_too_far(self, command: Command) -> bool:
        """Whether it begins an upgrade to what nobody's program knows: that stops all."""
        act, inner = command.body.get("act"), command.body.get("body", {})
        is_beyond = act == "federation.upgrade" and inner["protocol"] > LATEST
        return is_beyond and self.is_possible("federation.upgrade", inner)

    # -- chance ----------------------------------------------------------------------------------

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
        if verb.endswith("contain") and world.protocol == 1 and self.often(0.8):
            return "executor.suspend"
        if verb == "executor.lift_containment" and not world.contained and self.often(0.9):
            return "executor.contain"
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
        if subject == "policy" and world.protocol == 1 and self.often(0.8):
            return "lease.acquire"
        if subject == "resources":
            if (not self._is_halting or world.protocol == 1) and self.often(0.9):
                return "lease.acquire"
            if verb == "resources.thaw" and not world.frozen and self.often(0.8):
                return "lease.acquire"
        if verb in ("grant.delegate", "grant.recall") and world.protocol == 1 and self.often(0.8):
            return "grant.issue"
        if verb == "domain.rekey" and (world.protocol == 1 or not self._is_rekeying):
            return "grant.issue" if self.often(0.95) else verb
        if subject == "attestation":
            if (not self._is_proved or world.protocol == 1) and self.often(0.95):
                return "lease.acquire"
            if not world.references and self.often(0.9):
                return "attestation.set_reference"
            waiting = any(each["challenge"] for each in world.executors)
            if verb == "attestation.report" and not waiting and self.often(0.9):
                return "attestation.challenge"
        if verb == "grant.recall" and not self.passed_on() and self.often(0.9):
            return "grant.delegate"
        return verb

    def made(self, at: int, issuer: str, verb: str, body: Body) -> Command:
        is_long = self.often(0.5 if verb in ("lease.acquire", "grant.delegate") else 0.8)
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
        signers = frozenset[str]()
        if not issuer.startswith("spiffe://"):
            other = frozenset({self._key_of(f"{key} governance")})
            signers = other if key else self.signers(issuer, verb, body)
        return Command(issuer, verb, body, nonce, max(at + life, 0), at, origin, key, signers)

    def again(self, at: int) -> Command:
        """What was said before, as it was; or signed anew; or with something else in it."""
        said = self.one(self._written[-12:] if self.often(0.6) else self._written)
        other = self.one(self._written)
        made = ("lease.acquire", "grant.delegate")
        lasting = [each for each in self._written if each.verb in made]
        if lasting and self.often(0.3):  # the ledger may have forgotten it, and not what it made
            said = self.one(lasting)
        match self.one(("same", "same", "anew", "anew", "anew", "other")):
            case "same":
                return Command(**{**vars(said), "at": at})
            case "anew":
                return Command(**{**vars(said), "at": at, "not_after": at + self.one((0, HOUR_MS))})
        signers = other.signers if other.issuer == said.issuer else said.signers
        mixed = {"nonce": said.nonce, "issuer": said.issuer, "key": said.key, "signers": signers}
        return Command(**{**vars(other), **mixed, "at": at})

    def _open(self) -> None:
        """Everybody is registered, and trusts and grants enough for leases to be given."""
        members = [each["domain"] for each in self._world.domains]
        for domain in members:
            for name in NAMES[:2]:
                body = {"executor": f"spiffe://{domain}/agent/{name}"}
                self._planned.append((domain, "executor.register", body))
        share = 0.2 if self._is_linked else 0.7
        for domain in members:
            for trustee in members:
                if trustee != domain and self.often(share):
                    self._planned.append((domain, "trust.open", self.edge(domain, "e1", trustee)))
        for domain in members:
            for place, executor in enumerate(self.executors(members)):
                if self.often(share * 0.7):
                    grant = self.terms(domain, f"g{place}", executor, self._world.time)
                    self._planned.append((domain, "grant.issue", grant))
        if self._world.protocol == LATEST and self._is_linked:
            self._link()

    def _plan_upgrade(self) -> None:
        """Every node declares what its program knows, mostly, and somebody proposes to go on."""
        self._upgrade_at = len(self._written) + 20
        for node in self._world.active_nodes():
            if node["protocol"] < LATEST and self.often(0.95):
                self._planned.append((node["node"], "node.declare", {"protocol": LATEST}))
        self._planned.append(("", "upgrade", {}))

    # -- bodies: who gives the command, and what it says -------------------------------------------

    def body_of(self, verb: str, at: int) -> tuple[str, Body]:
        subject, _, act = verb.partition(".")
        makers: dict[str, Callable[[str, int], tuple[str, Body]]] = {
            "executor": self._executor,
            "trust": self._trust,
            "grant": self._grant,
            "domain": self._domain,
            "federation": self._federation,
            "policy": self._policy,
            "resources": self._resources,
            "proposal": self._proposal,
            "ballot": self._ballot,
            "node": self._node,
            "lease": self._lease,
            "lineage": self._lineage,
            "attestation": self._attestation,
        }
        return makers[subject](act, at)

    def _executor(self, act: str, at: int) -> tuple[str, Body]:
        if act in ("contain", "lift_containment"):
            return self._contained(act)
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
                    of = owner(edge["resources"][0])
                    resources = [f"//{of}/{each}" for each in self.one((["x/y"], ["x", "z"]))]
        return truster, {"edge": name, "actions": list(actions), "resources": list(resources)}

    def _grant(self, act: str, at: int) -> tuple[str, Body]:
        if act == "issue":
            issuer = self.domain()
            return issuer, self.terms(issuer, f"g{self.one('0123456')}", self.anybody(), at)
        if act == "delegate":
            return self._delegation(at)
        if act == "recall":
            return self._recall()
        issuer, name = self.existing(self._world.grants, "grant")
        return issuer, {"grant": name}

    def _domain(self, act: str, at: int) -> tuple[str, Body]:
        domain = self.domain()
        if act == "rekey":
            return self.mostly(domain), self.new_keys(domain)
        if act == "admit":
            return domain, {"descriptor": self._descriptors[self.one(JOINERS)]}
        if act == "reinstate":
            waiting = [e["domain"] for e in self._world.domains if e["status"] == "suspended"]
            domain = self.one(waiting) if waiting else domain
        return self.mostly(domain), {"domain": domain}

    def _federation(self, act: str, at: int) -> tuple[str, Body]:
        if act == "upgrade":
            return self.domain(), {"protocol": self.one((2, 2, 3))}
        if act == "set_parameters":
            return self.domain(), {"parameters": self.parameters()}
        if act == "set_rates":
            return self.domain(), self.rates()
        if act == "set_policy":
            return self.domain(), self.policies()
        if act in ("freeze", "thaw"):
            return self.domain(), self.of_all(f"federation.{act}")
        if act == "retire_policy":
            return self.domain(), {}
        if act == "reinstate_executor":
            return self.domain(), {"executor": self.failed()}
        return self.domain(), {"thresholds": self.thresholds()}

    def _policy(self, act: str, at: int) -> tuple[str, Body]:
        having = [each["owner"] for each in self._world.policies if "." in each["owner"]]
        domain = self.one(having) if having and self.often(0.5) else self.domain()
        return self.mostly(domain), self.policies() if act == "publish" else {}

    def _node(self, act: str, at: int) -> tuple[str, Body]:
        domain = self.domain()
        if act == "declare":
            return self.node(domain), {"protocol": self.one((1, 2, 2, 3))}
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
            context = self.often(0.35 if self._world.protocol > 1 else 0.02)
            said = {"context": list(self.one(CONTEXTS))} if context else {}
            executor, body = self.wish(said)
            body |= {"ttl_ms": ttl}
            if self._world.leases and self.often(0.3):
                late = self._world.leases[-4:] if self.often(0.6) else self._world.leases
                parents = [self.one(late)["lease"] for _ in range(self.one((1, 1, 2)))]
                body["parents"] = sorted({*parents, *self.one(([], [], [], ["0" * 32]))})
        else:
            executor, lease = self.held()
            body = {"executor": executor, "lease": lease}
            body |= {} if act == "release" else {"ttl_ms": ttl}
        return self.node(self.mostly(home(executor))), body

    def wish(self, said: Body) -> tuple[str, Body]:
        """An act that somebody wants to do, and says this of: mostly one that there is a grant
        for."""
        executor, body = self.wished()
        for _ in range(self.one((0, 3, 3))):
            if self.is_permitted(body | said):
                break
            executor, body = self.wished()
        return executor, body | said

    def is_permitted(self, wish: Body) -> bool:
        asked = wish["executor"], wish["action"], wish["resource"]
        try:
            decide(self._world, *asked, self._world.time, wish.get("context", ()))
        except No:
            return False
        return True

    def wished(self) -> tuple[str, Body]:
        executor, action = self.anybody(), self.one(ACTIONS)
        resource = f"//{self.domain()}/{self.one(PATHS)}"
        if self._world.grants and self.often(0.8):
            passed_on = self.passed_on()
            grant = self.one(passed_on if passed_on and self.often(0.6) else self._world.grants)
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
        _, wish = self.wish({})
        return wish["executor"], wish["action"], wish["resource"]
