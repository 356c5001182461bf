"""Whether this process may evaluate policies: the very engine, and room for it.

Owns the check that every process of a node makes before it reads any state. Nodes whose engines
differ could decide one command differently, which nothing could mend; and an engine that runs out
of stack gives up where that of another machine goes on, or ends the process (`docs/adr/0027`).
"""

from __future__ import annotations

import resource
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from quorate.core import cedar
from quorate.core.errors import ConfigurationError, UnsupportedProtocolError
from quorate.core.limits import MAX_POLICY_NESTING, MAX_POLICY_OPERATORS

PACKAGE: Final = "cedarpy"
MIN_STACK_BYTES: Final = 4 * 1024 * 1024
"""Four times what the deepest policies that are let through were seen to need."""

_SUBJECT: Final = cedar.Subject(
    executor="spiffe://acme.example/agent/probe",
    action="probe.read",
    resource="//bank.example/probe",
    grant="bank.example/probe",
    home="acme.example",
    owner="bank.example",
    delegations=0,
    hops=1,
    context=("ticket=7",),
)


def check_engine() -> None:
    """Raises UnsupportedProtocolError for an engine of another version, or one that answers
    otherwise, and ConfigurationError where it has no room."""
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = "none"
    if found != cedar.ENGINE:
        raise UnsupportedProtocolError(
            f"the policy engine {PACKAGE} is {found}, and the protocol is that of {cedar.ENGINE}",
            hint=f"install {PACKAGE}=={cedar.ENGINE} and start the node again; every node of the "
            "federation must evaluate policies alike",
        )
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < MIN_STACK_BYTES:
        raise ConfigurationError(
            f"the stack may have {soft} bytes, and the policy engine needs {MIN_STACK_BYTES}",
            hint="raise the limit (ulimit -s, LimitSTACK= of systemd) and start the node again",
        )
    for text, expected in _probes().items():
        if cedar.rule(text, _SUBJECT) != expected:
            raise UnsupportedProtocolError(
                f"the policy engine {PACKAGE} {found} does not answer as that of the protocol",
                hint="install it anew; see whether something limits the stack of this process",
            )


def _probes() -> dict[str, cedar.Ruling]:
    """Questions with known answers, among them the deepest that are let through."""
    head = "permit (principal, action, resource) when {"
    inner = MAX_POLICY_NESTING - 1
    terms = MAX_POLICY_OPERATORS - inner - 3
    deepest = f"{'(' * inner}{'+'.join(['1'] * terms)}{')' * inner} == {terms}"
    permitted = cedar.Ruling(permits=True, by=("policy0",))
    return {
        f"{head} {deepest} }};": permitted,
        f'{head} context.given.hasTag("ticket") && context.hops == 1 }};': permitted,
        f"{head} context.cross_domain }}; forbid (principal, action, resource) when "
        '{ resource in Domain::"bank.example" };': cedar.Ruling(permits=False, by=("policy1",)),
        f"{head} 9223372036854775807 + context.hops > 0 }};": cedar.BROKEN,
    }
