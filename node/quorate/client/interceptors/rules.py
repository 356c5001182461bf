"""Which act an RPC is.

Owns what a rule for outgoing calls is shown, and the rule that goes by the method's name. What a
rule may answer is `governed`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol, TypeVar

import grpc

from quorate.client.decisions import Denied
from quorate.client.governed import Act, Exempt, Rule, act_of
from quorate.client.interceptors.refusals import Refusal

_METHOD: Final = re.compile(r"/[^/*]+/(?:[^/*]+|\*)")


class Outgoing(NamedTuple):
    """An RPC that is about to be made: its method, "/package.Service/Method", and the metadata that
    the caller gave."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...] = ()


class _Named(Protocol):
    @property
    def method(self) -> str: ...


CallT = TypeVar("CallT", bound=_Named)


def by_method(acts: Mapping[str, Act | Exempt | None]) -> Callable[[_Named], Act | Exempt | None]:
    """A rule that goes by the method: "/package.Service/Method", or "/package.Service/*" for the
    methods of a service that are not named. What it does not know is denied, and what is None.

    Raises ValueError for what is no name of a method: it would govern nothing.
    """
    for name in acts:
        if not _METHOD.fullmatch(name):
            raise ValueError(f"{name!r} is neither /package.Service/Method nor /package.Service/*")
    known = dict(acts)

    def rule(call: _Named) -> Act | Exempt | None:
        service = call.method.rpartition("/")[0]
        return known.get(call.method, known.get(f"{service}/*"))

    return rule


def decide(rule: Rule[CallT], call: CallT) -> Act | Refusal | None:
    """The act that an RPC is, why it is refused, or None when it needs no lease. A rule that fails
    is a fault of this program, and so refused as INTERNAL."""
    code = grpc.StatusCode.PERMISSION_DENIED

    def noting(each: CallT) -> Act | Exempt | None:
        nonlocal code
        try:
            return rule(each)
        except Exception:
            code = grpc.StatusCode.INTERNAL
            raise

    act = act_of(noting, call)
    return Refusal(act, code=code) if isinstance(act, Denied) else act
