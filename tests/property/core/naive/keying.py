"""What authors do with keys: who signs, mostly enough and sometimes not, and which keys a domain is
to have."""

from __future__ import annotations

from typing import Final

from tests.property.core.naive import keys
from tests.property.core.naive.cast import HOUR_MS, Body, Cast
from tests.property.core.naive.world import Thing, find

from quorate.testing.builders import ca_certificate

SPARE: Final = ("k1", "k2", "k3", "k4")
"""Keys that a domain may come to have, by name."""
OFFLINE: Final = ("r1", "r2")


class Keying(Cast):
    def signers(self, issuer: str, verb: str, body: Body) -> frozenset[str]:
        """The keys that sign a domain's command: as many as have to, mostly."""
        domain = find(self._world.domains, domain=issuer)
        if domain is None:
            return frozenset({self._key_of(f"{issuer} governance")})
        own = sorted(keys.governing(domain))
        needed = keys.terms(domain)["threshold"]
        offline = sorted(keys.recovering(domain))
        if offline and self.often(0.05):
            return frozenset(self._chance.sample([*own, *offline], self.one((1, len(own)))))
        if needed > 1 and self.often(0.15):  # one short
            return frozenset(self._chance.sample(own, needed - 1))
        if verb != "domain.rekey":
            return frozenset(self._chance.sample(own, needed))
        signed = set(self._chance.sample(own, needed))
        if offline and self.often(0.4):
            signed = set(self._chance.sample(offline, keys.terms(domain)["recovery_threshold"]))
            signed |= {own[0]} if self.often(0.1) else set()
        new = keys.fresh(domain, body) if body["domain"] == issuer else []
        if new and self.often(0.05):
            new.remove(self.one(new))
        return frozenset(signed | {*new})

    def new_keys(self, domain: str) -> Body:
        """The body of a command that gives a domain keys, of those that it may have."""
        has: Thing = find(self._world.domains, domain=domain) or {}
        if not has:
            return self._alone(domain)
        if self.often(0.05):
            return {name: has[name] for name in ("domain", "governance_key", "cosigner_key")} | (
                {"key_set": has["key_set"]} if has["key_set"] else {}
            )
        spare = [self._key_of(f"{domain} {name}") for name in SPARE]
        unused = [key for key in spare if key not in self._world.used_keys()]
        more = unused if self.often(0.9) else spare
        pool = list(dict.fromkeys([*sorted(keys.governing(has)), *more]))
        own = self._chance.sample(pool, min(len(pool), self.one((1, 1, 2, 2, 3))))
        offline = sorted(keys.recovering(has))
        recovery_threshold = keys.terms(has)["recovery_threshold"]
        if self.often(0.6):
            offline = [self._key_of(f"{domain} {name}") for name in OFFLINE]
            offline = sorted(self._chance.sample(offline, self.one((0, 1, 1, 1, 2))))
            recovery_threshold = self._chance.randint(1, len(offline)) if offline else 0
        end = 0
        if offline and self.often(0.6):
            end = self._world.time + self.one((0, 500, 500, 3_000, 3_000, 60_000, HOUR_MS))
        first, *others = own
        key_set = {
            "governance_keys": sorted(others),
            "threshold": self._chance.randint(1, len(own)),
            "recovery_keys": offline,
            "recovery_threshold": recovery_threshold,
            "not_after": end,
        }
        cosigner = has["cosigner_key"]
        if self.often(0.1):
            cosigner = self._key_of(f"{domain} {self.one(('c1', 'c2', 'signing'))}")
        body: Body = {"domain": domain, "governance_key": first, "cosigner_key": cosigner}
        if self.often(0.4):
            body["ca_certificates"] = self._authorities(has)
            if self.often(0.5):  # and nothing else
                kept = {name: has[name] for name in ("governance_key", "cosigner_key")}
                more = {"key_set": has["key_set"]} if has["key_set"] else {}
                return body | kept | more
        return body if key_set == keys.ALONE else body | {"key_set": key_set}

    def _authorities(self, has: Thing) -> list[str]:
        """Those that there are, others, one or two of them."""
        present = [each for each in (has["ca_certificate"], has["next_ca"]) if each]
        some = [*present, ca_certificate(f"{has['domain']} 2"), ca_certificate("another")]
        return self._chance.sample(list(dict.fromkeys(some)), self.one((1, 2)))

    def _alone(self, domain: str) -> Body:
        names = ("governance_key", "cosigner_key")
        return {"domain": domain} | {name: self._key_of(f"{domain} {name}") for name in names}
