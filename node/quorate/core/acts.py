"""What domains decide together, by ballot: parsed once into typed values.

Owns the form of each. How a ballot goes, and what each does, is `quorate.core.balloting`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from quorate.core import codec, ids, protocol
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.genesis import Descriptor, parse_descriptor
from quorate.core.status import Act
from quorate.core.thresholds import Threshold
from quorate.core.verbs import Verb


@dataclass(frozen=True, slots=True)
class AdmitDomain:
    """descriptor: as the domain has signed it, with its first node, which votes."""

    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class JudgeDomain:
    """What the others do to a domain, for good if the act is to revoke."""

    act: Act
    domain: str


@dataclass(frozen=True, slots=True)
class SetThresholds:
    """thresholds: of every type of act, so that nothing stays as it was by oversight."""

    thresholds: dict[str, Threshold]


@dataclass(frozen=True, slots=True)
class UpgradeFederation:
    """protocol: the version of the rules to live by from the next command on."""

    protocol: int


FederationAct = AdmitDomain | JudgeDomain | SetThresholds | UpgradeFederation


def admit_domain(body: Fields) -> AdmitDomain:
    """Raises MalformedError, as the others."""
    signed = body.nested("descriptor")
    envelope = {name: signed.take(name) for name in ("payload", "payloadType", "signatures")}
    signed.done()
    try:
        return AdmitDomain(parse_descriptor(codec.encode(envelope)))
    except MalformedError as error:
        place = ".".join(part for part in (body.at("descriptor"), error.field) if part)
        raise MalformedError(error.problem, field=place) from error


def judge_domain(act: Act, body: Fields) -> JudgeDomain:
    return JudgeDomain(act, body.text("domain", ids.check_domain))


def set_thresholds(types: Iterable[str], body: Fields) -> SetThresholds:
    said = body.nested("thresholds")
    thresholds = {name: Threshold(said.text(name, _check_threshold)) for name in sorted(types)}
    said.done()
    return SetThresholds(thresholds)


def upgrade_federation(body: Fields) -> UpgradeFederation:
    return UpgradeFederation(body.integer("protocol", protocol.FIRST + 1, protocol.MOST))


def _check_threshold(text: str) -> None:
    if text not in list(Threshold):
        raise MalformedError(f"must be {', '.join(Threshold)}")


ACTS: Final[Mapping[Verb, Callable[[Fields], FederationAct]]] = MappingProxyType(
    {
        Verb.DOMAIN_ADMIT: admit_domain,
        Verb.DOMAIN_SUSPEND: partial(judge_domain, Act.SUSPEND),
        Verb.DOMAIN_REINSTATE: partial(judge_domain, Act.REINSTATE),
        Verb.DOMAIN_EXPEL: partial(judge_domain, Act.REVOKE),
        Verb.FEDERATION_SET_THRESHOLDS: lambda body: set_thresholds(map(str, ACTS), body),
        Verb.FEDERATION_UPGRADE: upgrade_federation,
    }
)
"""What is done by ballot. A domain can suspend itself, and reinstate itself, without one."""


def parse_act(act: str, text: str) -> FederationAct:
    """What was proposed, from a record of it. Raises MalformedError."""
    check_act(act)
    body = Fields(codec.load(text.encode("utf-8")))
    parsed = ACTS[Verb(act)](body)
    body.done()
    return parsed


def check_act(text: str) -> None:
    if text not in list(ACTS):
        raise MalformedError(f"must be one of {', '.join(ACTS)}")
