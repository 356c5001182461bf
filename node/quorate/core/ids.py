"""The names of things: domains, SPIFFE IDs, actions, resources, origins.

Owns their syntax (the SPIFFE ID specification, narrowed to what DNS names and keys of the store can
carry). Does not know whether the thing named exists.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ID_CHARS, MAX_NAME_CHARS, MAX_SOCKET_PATH_BYTES

_DOMAIN: Final = r"[a-z0-9][a-z0-9._-]*"
_SEGMENT: Final = r"(?!\.{1,2}(?:/|\Z))[a-zA-Z0-9._-]+"

_DOMAIN_RE: Final = re.compile(_DOMAIN)
_SPIFFE_RE: Final = re.compile(rf"spiffe://({_DOMAIN})((?:/{_SEGMENT})+)")
_RESOURCE_RE: Final = re.compile(rf"//({_DOMAIN})((?:/{_SEGMENT})+)")
_ACTION_RE: Final = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*")
_NAME_RE: Final = re.compile(r"[a-z0-9][a-z0-9._-]*")
_ORIGIN_RE: Final = re.compile(rf"{_DOMAIN}(?:/{_SEGMENT})*")
_NONCE_RE: Final = re.compile(r"[0-9a-f]{16,64}")
_HASH_RE: Final = re.compile(r"[0-9a-f]{64}")
_LEASE_RE: Final = re.compile(r"[0-9a-f]{32}")
_ADDRESS_RE: Final = re.compile(r"(?:[a-zA-Z0-9][a-zA-Z0-9.-]*|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")

_SOCKET_PATH_RE: Final = re.compile(r"(?:/+[^/?#%,]+)+")
"""Whole, and without what gRPC would take for more than a path (its "naming" document)."""
SOCKET_SCHEME: Final = "unix:"

_PARSED_IDS: Final = 4_096

NODE_ROLE: Final = "node"
OPERATOR_ROLE: Final = "operator"


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A parsed SPIFFE ID. `path` begins with a slash."""

    trust_domain: str
    path: str

    @classmethod
    @lru_cache(maxsize=_PARSED_IDS)  # the same few call again and again
    def parse(cls, text: str) -> SpiffeId:
        """Raises MalformedError."""
        match = _match(_SPIFFE_RE, text, "a SPIFFE ID like spiffe://bank.example/agent/payments")
        return cls(match.group(1), match.group(2))

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.path[1:].split("/"))

    @property
    def role(self) -> str:
        """The first segment of the path: `node`, `operator`, or an executor's own choice."""
        return self.segments[0]

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


def dns_name(spiffe: str) -> str:
    """The DNS name that a certificate of this SPIFFE ID carries beside it, and a client checks:
    `spiffe://bank.example/node/1` -> `1.node.bank.example`. Raises MalformedError."""
    parsed = SpiffeId.parse(spiffe)
    return ".".join((*reversed(parsed.segments), parsed.trust_domain))


def check_domain(text: str) -> None:
    _match(_DOMAIN_RE, text, "a domain like bank.example")


def check_node(text: str) -> None:
    parsed = SpiffeId.parse(text)
    if parsed.role != NODE_ROLE or len(parsed.segments) < 2:
        raise MalformedError("must be a node's id like spiffe://bank.example/node/1")


def check_executor(text: str) -> None:
    if SpiffeId.parse(text).role in (NODE_ROLE, OPERATOR_ROLE):
        raise MalformedError("names a node or an operator, which are no executors")


def check_operator(text: str) -> None:
    parsed = SpiffeId.parse(text)
    if parsed.role != OPERATOR_ROLE or len(parsed.segments) < 2:
        raise MalformedError("must be an operator's id like spiffe://bank.example/operator/admin")


def check_action(text: str) -> None:
    _match(_ACTION_RE, text, "an action like payments.transfer")


def check_resource(text: str) -> None:
    _match(_RESOURCE_RE, text, "a resource like //bank.example/accounts/payroll")


def check_name(text: str) -> None:
    if len(text) > MAX_NAME_CHARS:
        raise MalformedError(f"longer than {MAX_NAME_CHARS} characters")
    _match(_NAME_RE, text, "a name of lower-case letters, digits, dots, dashes, underscores")


def check_origin(text: str) -> None:
    _match(_ORIGIN_RE, text, "an origin like quorate.example/federation-1")


def check_nonce(text: str) -> None:
    _match(_NONCE_RE, text, "16 to 64 lower-case hex digits")


def check_command_id(text: str) -> None:
    _match(_HASH_RE, text, "64 lower-case hex digits")


def check_proposal_id(text: str) -> None:
    _match(_HASH_RE, text, "64 lower-case hex digits")


def check_lease_id(text: str) -> None:
    _match(_LEASE_RE, text, "a lease id of 32 lower-case hex digits")


def check_address(text: str) -> None:
    match = _match(_ADDRESS_RE, text, "an address like host:7401 or [::1]:7401")
    if not 1 <= int(match.group(1)) <= 65535:
        raise MalformedError("names a port outside 1 to 65535")


def check_lease_address(text: str) -> None:
    """Where executors reach their node: by a port, or by a unix socket of its machine. Raises
    MalformedError."""
    if not text.startswith(SOCKET_SCHEME):
        check_address(text)
        return
    path = text.removeprefix(SOCKET_SCHEME).removeprefix("//")
    if not path.isprintable() or not _SOCKET_PATH_RE.fullmatch(path):
        raise MalformedError(
            "must be a whole path, like unix:/run/quorate/lease.sock, without any of ?#%, in it"
        )
    if len(path.encode("utf-8")) > MAX_SOCKET_PATH_BYTES:
        raise MalformedError(f"names a socket by more than {MAX_SOCKET_PATH_BYTES} bytes")


def resource_owner(resource: str) -> str:
    """The domain that owns a resource. Raises MalformedError."""
    match = _match(_RESOURCE_RE, resource, "a resource like //bank.example/accounts/payroll")
    return match.group(1)


def command_id(issuer: str, nonce: str) -> str:
    """What a command is remembered by: a repeat of it, signed anew or not, has the same."""
    return hashlib.sha256(issuer.encode("utf-8") + b"\x00" + nonce.encode("utf-8")).hexdigest()


def proposal_id(command_id: str, act: str, body: str, expires_at: int) -> str:
    """The id of what a command proposes: a hash of exactly that, so that whoever votes for the id
    has voted for nothing else. body: of what is proposed, as canonical JSON."""
    named = "\x00".join((command_id, act, str(expires_at), body))  # no zero byte before the last
    return hashlib.sha256(named.encode("utf-8")).hexdigest()


def delegation_name(origin: str, made_by: str) -> str:
    """The name of the grant that the command with id `made_by` passes on, on ledger `origin`."""
    named = f"delegation\x00{origin}\x00{made_by}"
    return f"d-{hashlib.sha256(named.encode('utf-8')).hexdigest()[:32]}"


def check_grant_id(text: str) -> None:
    """`<domain>/<name>`. Raises MalformedError."""
    domain, _, name = text.partition("/")
    check_domain(domain)
    check_name(name)


def lease_id(origin: str, acquired_by: str) -> str:
    """The id of the lease that the command with id `acquired_by` obtains on ledger `origin`."""
    return hashlib.sha256((origin + acquired_by).encode("utf-8")).hexdigest()[:32]


def _match(pattern: re.Pattern[str], text: str, expected: str) -> re.Match[str]:
    if len(text) > MAX_ID_CHARS:
        raise MalformedError(f"longer than {MAX_ID_CHARS} characters")
    match = pattern.fullmatch(text)
    if match is None:
        raise MalformedError(f"must be {expected}")
    return match
