"""Routes of several edges and grants that are passed on, and whatever breaks them."""

from __future__ import annotations

from itertools import pairwise

from tests.property.core.naive.cast import ACTION_PATTERNS, ACTIONS, HOUR_MS, Body, Cast, Deed
from tests.property.core.naive.deciding import Basis, grant_named, name_of
from tests.property.core.naive.world import Thing, find, home, owner


class Linking(Cast):
    """Makes up what version 2 of the protocol has brought."""

    def _link(self) -> None:
        """A way of several edges, or two that are as long, and a grant at its end that is passed
        on, and on."""
        members = [each["domain"] for each in self._world.domains if each["status"] == "active"]
        self._chance.shuffle(members)
        ways = [members]
        if len(members) > 3 and self.often(0.4):
            first, *between, last = members
            ways = [[first, each, last] for each in between[:2]]
        for number, way in enumerate(ways):
            for place, (truster, trustee) in enumerate(pairwise(way)):
                for kind in ("r", "q") if self.often(0.3) else ("r",):
                    edge = self.edge(truster, f"{kind}{number}{place}", trustee, members[0])
                    edge |= {"actions": ["*"]} if self.often(0.8) else {}
                    edge |= {"resources": [f"//{members[0]}/*"]} if self.often(0.8) else {}
                    following = len(way) - 2 - place
                    if following and self.often(0.95):
                        edge |= {"max_depth": following + self.one((0, 0, 1))}
                    self._planned.append((truster, "trust.open", edge))
        for place, executor in enumerate(self.executors(members[-2:])):
            if self.often(0.6):
                grant = self.terms(members[0], f"h{place}", executor, self._world.time)
                grant |= {"actions": ["*"], "resources": [f"//{members[0]}/*"]}
                grant |= {"max_depth": self.one((1, 2, 3, 3)), "max_lease_ttl_ms": 100_000}
                self._planned.append((members[0], "grant.issue", grant))
        wished = ["grant.delegate"] * 3 + ["lease.acquire", "lease.acquire", "break"] * 3
        self._planned += [("", verb, {}) for verb in wished if self.often(0.8)]

    def ending(self) -> list[Deed]:
        """Something that a lease rests on through several links is not as it was, and the lease is
        asked for again; and once more when it is good again."""
        lease = self.linked_lease()
        if lease is None:
            return []
        issuer, verb, body = self.one(self.breaks(lease["_basis"]))
        deeds = [(issuer, verb, body)]
        executor = lease["executor"]
        asked = {name: lease[name] for name in ("executor", "action", "resource")} | {"ttl_ms": 0}
        asked |= {"context": lease["context"]} if lease["context"] else {}
        renewal = {"lease": lease["lease"], "executor": executor, "ttl_ms": 0}
        again = self.node(home(executor)), "lease.acquire", asked
        more = self.node(home(executor)), "lease.renew", renewal
        deeds += [each for each in (again, more) if self.often(0.5)]
        if verb == "executor.contain" and self.often(0.7):
            deeds.append((issuer, "executor.lift_containment", body))
            deeds += [each for each in (again, more) if self.often(0.5)]
        if verb.endswith(".suspend") and self.often(0.7):
            deeds.append((issuer, verb.replace("suspend", "reinstate"), body))
            deeds += [each for each in (again, more) if self.often(0.5)]
        return deeds

    def linked_lease(self) -> Thing | None:
        """One that rests on several edges, or on a grant that was passed on."""
        now = self._world.time
        linked = [
            each
            for each in self._world.leases
            if each["status"] == "active" and now < each["expires_at"]
            if each["_basis"].chain or len(each["_basis"].route) > 1
        ]
        return self.one(linked) if linked else None

    def breaks(self, basis: Basis) -> list[Deed]:
        """What ends a lease, of what it does not share with a plain one."""
        found: list[Deed] = []
        edges = [*basis.route, *(edge for link in basis.chain for edge in link.route)]
        for edge in edges:
            truster, name = edge["truster"], {"edge": edge["edge"]}
            less = {"actions": [self.one(ACTIONS)], "resources": edge["resources"]}
            found += [(truster, "trust.close", name), (truster, "trust.narrow", name | less)]
        for domain in [edge["trustee"] for edge in edges]:
            found.append((domain, "domain.suspend", {"domain": domain}))
        for link in basis.chain:
            who, domain = link.delegator["executor"], link.delegator["domain"]
            acts = self.one(("executor.suspend", "executor.suspend", "executor.revoke"))
            found.append((domain, acts, {"executor": who}))
            acts = self.one(("grant.suspend", "grant.suspend", "grant.revoke"))
            found.append((link.grant["issuer"], acts, {"grant": link.grant["grant"]}))
            found.append((domain, "domain.suspend", {"domain": domain}))
        for passed, link in zip(basis.grants, basis.chain, strict=False):
            who = link.delegator["executor"]
            body = {"executor": who, "grant": name_of(passed)}
            found.append((self.node(home(who)), "grant.recall", body))
        return found

    def _contained(self, act: str) -> tuple[str, Body]:
        """An executor or a lease: one of which something came, mostly, or that is contained."""
        is_lift = act == "lift_containment"
        if is_lift and self._world.contained and self.often(0.9):
            found = self.one(self._world.contained)
            is_executor = found["thing"].startswith("spiffe")
            body = {"executor" if is_executor else "lease": found["thing"]}
            return self.mostly(self.one(found["by"])), body
        leases = self._world.leases
        above = {parent for each in leases for parent in each["parents"]}
        some = [each for each in leases if each["lease"] in above]
        if not leases or self.often(0.2):
            executor = self.anybody()
            return self.mostly(home(executor)), {"executor": executor}
        lease = self.one(some if some and self.often(0.8) else leases)
        if self.often(0.4):
            return self.mostly(home(lease["executor"])), {"executor": lease["executor"]}
        by = self.one((home(lease["executor"]), owner(lease["resource"])))
        return self.mostly(by), {"lease": "0" * 32 if self.often(0.03) else lease["lease"]}

    def _delegation(self, at: int) -> tuple[str, Body]:
        """A part of what somebody has, mostly, of what was passed on already often."""
        parent = self.passable(at)
        if parent is None:
            issuer, name = self.existing(self._world.grants, "grant")
            parent = find(self._world.grants, issuer=issuer, grant=name)
        if parent is None:
            executor = self.anybody()
            terms = self.terms(self.domain(), "", executor, at)
            ident = f"{self.domain()}/g{self.one('123')}"
        else:
            executor, ident = str(parent["executor"]), name_of(parent)
            terms = self.part_of(parent, at)
        others = [each["executor"] for each in self._world.executors if each["status"] == "active"]
        to = self.one(others) if others and self.often(0.8) else self.anybody()
        passed_on = self.passed_on()
        if passed_on and self.often(0.35):  # who was passed something before
            to = self.one(passed_on)["executor"]
        if to == executor and self.often(0.8):
            to = self.anybody()
        executor = self.anybody() if self.often(0.05) else executor
        body = terms | {"executor": executor, "grant": ident, "to": to}
        return self.node(self.mostly(home(executor))), body

    def passable(self, at: int) -> Thing | None:
        """A grant that may be passed on; mostly one that was, when there is one."""
        if self.often(0.08):
            return None
        world = self._world
        found = [
            each
            for each in world.grants
            if each["max_depth"] and each["status"] == "active" and each["not_after"] > at
        ]
        passed_on = [each for each in found if each["parent"]]
        found = passed_on if passed_on and self.often(0.75) else found
        return self.one(found) if found else None

    def part_of(self, parent: Thing, at: int) -> Body:
        """Terms that are within a grant's, but for one at times."""
        part: Body = {
            name: self.one((list(parent[name]), list(parent[name]), parent[name][:1]))
            for name in ("actions", "resources")
        }
        if parent["actions"] == ["*"]:
            part["actions"] = list(self.one(ACTION_PATTERNS))
        part["not_after"] = min(parent["not_after"], at + self.one((HOUR_MS, HOUR_MS, 5_000)))
        part["max_lease_ttl_ms"] = min(parent["max_lease_ttl_ms"], self.one((2_000, 100_000)))
        for name in ("max_uses", "max_concurrent"):
            part[name] = self.one((parent[name], parent[name], parent[name] and 1, 2))
            part[name] = min(part[name], parent[name] or part[name])
        depth = max(parent["max_depth"] - self.one((1, 1, 1, 2)), 0)
        if self.often(0.2):
            match self.one(("actions", "resources", "time", "ttl", "uses", "at once", "depth", "")):
                case "actions":
                    part["actions"] = list(self.one(ACTION_PATTERNS))
                case "resources":
                    part["resources"] = self.resources(self.domain())
                case "time":
                    part["not_after"] = parent["not_after"] + self.one((0, 1))
                case "ttl":
                    part["max_lease_ttl_ms"] = parent["max_lease_ttl_ms"] + self.one((0, 1))
                case "uses":
                    part["max_uses"] = self.one((0, parent["max_uses"] + 1))
                case "at once":
                    part["max_concurrent"] = self.one((0, parent["max_concurrent"] + 1))
                case "depth":
                    depth = parent["max_depth"]
                case _:
                    part["not_after"] = at - self.one((0, 1))
        return part | ({"max_depth": depth} if depth else {}) | self.conditions(0.2)

    def _recall(self) -> tuple[str, Body]:
        """Of what was passed on, by who did, mostly."""
        passed_on = self.passed_on()
        alive = [each for each in passed_on if each["status"] != "revoked"]
        if not passed_on or self.often(0.15):
            issuer, name = self.existing(self._world.grants, "grant")
            executor = self.anybody()
            body = {"executor": executor, "grant": f"{issuer}/{name}"}
            return self.node(self.mostly(home(executor))), body
        grant = self.one(alive if alive and self.often(0.8) else passed_on)
        parent = grant_named(self._world, grant["parent"])
        assert parent is not None
        executor = self.anybody() if self.often(0.15) else parent["executor"]
        body = {"executor": executor, "grant": name_of(grant)}
        return self.node(self.mostly(home(executor))), body

    def passed_on(self) -> list[Thing]:
        return [each for each in self._world.grants if each["parent"]]
