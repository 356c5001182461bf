"""What domains decide together, by ballot: parsed once into typed values.

Owns the form of each, by version of the protocol. How a ballot goes, and what each does, is
`quorate.core.balloting`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Final

from quorate.core import cedar, codec, ids, patterns, protocol
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.genesis import Descriptor, parse_descriptor, read_parameters
from quorate.core.limits import MAX_PATTERNS, MAX_RATE_PER_MIN
from quorate.core.records import Parameters, Rates
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
    """thresholds: of every type of act of the version, so that nothing stays as it was by
    oversight."""

    thresholds: dict[str, Threshold]


@dataclass(frozen=True, slots=True)
class SetParameters:
    """parameters: all of them, so that nothing stays as it was by oversight."""

    parameters: Parameters


@dataclass(frozen=True, slots=True)
class SetRates:
    """rates: all of them; None: there are none any more."""

    rates: Rates | None


@dataclass(frozen=True, slots=True)
class UpgradeFederation:
    """protocol: the version of the rules to live by from the next command on."""

    protocol: int


@dataclass(frozen=True, slots=True)
class FreezeFederation:
    """actions: all that may still be done to anybody's resources; none: nothing."""

    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ThawFederation:
    """Ends that."""


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """text: the federation's whole set of policies, in the place of the one before."""

    text: str


@dataclass(frozen=True, slots=True)
class RetireFederationPolicy:
    """It has no policies any more."""


@dataclass(frozen=True, slots=True)
class ReinstateExecutor:
    """What was suspended for what it has proved, or said, may act again. executor: of whichever
    domain."""

    executor: str


_NO_RATES: Final = Rates(0, 0)

FederationAct = (
    AdmitDomain
    | JudgeDomain
    | SetThresholds
    | SetParameters
    | SetRates
    | UpgradeFederation
    | FreezeFederation
    | ThawFederation
    | SetPolicy
    | RetireFederationPolicy
    | ReinstateExecutor
)


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


def set_thresholds(version: int, body: Fields) -> SetThresholds:
    said, types = body.nested("thresholds"), map(str, ACTS[version])
    thresholds = {name: Threshold(said.text(name, _check_threshold)) for name in sorted(types)}
    said.done()
    return SetThresholds(thresholds)


def set_parameters(body: Fields) -> SetParameters:
    return SetParameters(read_parameters(body.nested("parameters")))


def set_rates(body: Fields) -> SetRates:
    rates = _all_rates(body)
    return SetRates(rates if rates != _NO_RATES else None)


def read_rates(said: Fields) -> Rates:
    """Those that are in force, from a record of them; there are some. Raises MalformedError."""
    rates = _all_rates(said)
    said.done()
    if rates == _NO_RATES:
        raise MalformedError("says nothing of any", field=said.at("domain_per_min"))
    return rates


def _all_rates(said: Fields) -> Rates:
    names = [item.name for item in fields(Rates)]
    return Rates(*(said.integer(name, 0, MAX_RATE_PER_MIN) for name in names))


def upgrade_federation(body: Fields) -> UpgradeFederation:
    return UpgradeFederation(body.integer("protocol", protocol.FIRST + 1, protocol.MOST))


def freeze_federation(body: Fields) -> FreezeFederation:
    return FreezeFederation(let_through(body))


def set_policy(body: Fields) -> SetPolicy:
    return SetPolicy(policy_text(body))


def policy_text(body: Fields) -> str:
    """What may be shown to the engine. Nothing is no set: to have none is another command."""
    return body.text("text", _check_policy_text)


def _check_policy_text(text: str) -> None:
    if not text:
        raise MalformedError("is empty; to have no policies, retire what there is")
    cedar.check_text(text)


def reinstate_executor(body: Fields) -> ReinstateExecutor:
    return ReinstateExecutor(body.text("executor", ids.check_executor))


def let_through(body: Fields) -> tuple[str, ...]:
    """The actions that a freeze spares. There may be none, and that is said, too."""
    return body.texts("actions", patterns.check_action_pattern, MAX_PATTERNS, least=0)


def _check_threshold(text: str) -> None:
    if text not in list(Threshold):
        raise MalformedError(f"must be {', '.join(Threshold)}")


_Acts = Mapping[Verb, Callable[[Fields], FederationAct]]

_OF_FIRST: Final[_Acts] = MappingProxyType(
    {
        Verb.DOMAIN_ADMIT: admit_domain,
        Verb.DOMAIN_SUSPEND: partial(judge_domain, Act.SUSPEND),
        Verb.DOMAIN_REINSTATE: partial(judge_domain, Act.REINSTATE),
        Verb.DOMAIN_EXPEL: partial(judge_domain, Act.REVOKE),
        Verb.FEDERATION_SET_THRESHOLDS: partial(set_thresholds, protocol.FIRST),
        Verb.FEDERATION_UPGRADE: upgrade_federation,
    }
)

_OF_SECOND: Final[_Acts] = MappingProxyType(
    {
        **_OF_FIRST,
        Verb.FEDERATION_SET_THRESHOLDS: partial(set_thresholds, protocol.SECOND),
        Verb.FEDERATION_SET_PARAMETERS: set_parameters,
        Verb.FEDERATION_SET_RATES: set_rates,
        Verb.FEDERATION_FREEZE: freeze_federation,
        Verb.FEDERATION_THAW: lambda _body: ThawFederation(),
        Verb.FEDERATION_SET_POLICY: set_policy,
        Verb.FEDERATION_RETIRE_POLICY: lambda _body: RetireFederationPolicy(),
        Verb.FEDERATION_REINSTATE_EXECUTOR: reinstate_executor,
    }
)

ACTS: Final[Mapping[int, _Acts]] = MappingProxyType(
    {protocol.FIRST: _OF_FIRST, protocol.SECOND: _OF_SECOND}
)
"""What is done by ballot, in each version of the protocol. A domain can suspend itself, and
reinstate itself, without one."""


def parse_act(act: str, text: str, version: int) -> FederationAct:
    """What was proposed under that version, which is known here, from a record of it. Raises
    MalformedError."""
    check_act(act, version)
    body = Fields(codec.load(text.encode("utf-8")))
    parsed = ACTS[version][Verb(act)](body)
    body.done()
    return parsed


def check_act(text: str, version: int) -> None:
    if text not in list(ACTS[version]):
        raise MalformedError(f"must be one of {', '.join(ACTS[version])}")


def set_under(types: AbstractSet[str], version: int) -> int:
    """The version under which thresholds of these types were set, as seen from a federation that
    lives by `version`: by that, or by the first before it that has them all."""
    return next(
        (each for each in range(protocol.FIRST, version) if types == ACTS[each].keys()), version
    )
