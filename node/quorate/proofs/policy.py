"""Trust policies (https://c2sp.org/tlog-policy): which logs are believed, and whose cosignatures
make a checkpoint of them valid.

Owns the form of such a file and the counting. It counts *keys*: the same key under two names is
refused, and each counts in one way only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from quorate.core.errors import MalformedError
from quorate.proofs.vkey import COSIGNATURE, ED25519, VerifierKey, parse_vkey

MAX_POLICY_BYTES: Final = 64 * 1024
MAX_LOGS = MAX_WITNESSES = MAX_GROUPS = 256
NONE: Final = "none"
_NOT_ALLOWED: Final = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_COUNT_RE: Final = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class Group:
    """A group has witnessed what at least `needed` of its members have."""

    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """logs: a checkpoint must be signed by one of them. witnesses: by their names here. quorum: the
    witness or group that must have cosigned it; `none`: nobody must."""

    logs: tuple[VerifierKey, ...]
    witnesses: Mapping[str, VerifierKey]
    groups: Mapping[str, Group]
    quorum: str

    def is_met_by(self, has_cosigned: Callable[[VerifierKey], bool]) -> bool:
        """Whether those who have cosigned are a quorum."""
        if self.quorum == NONE:
            return True
        met = {name: has_cosigned(key) for name, key in self.witnesses.items()}
        for name, group in self.groups.items():  # each names only what stands before it
            met[name] = sum(met[member] for member in group.members) >= group.needed
        return met[self.quorum]


def parse_policy(data: bytes) -> Policy:
    """Raises MalformedError, which names the line, for anything that is not exactly a policy."""
    if len(data) > MAX_POLICY_BYTES:
        raise MalformedError(f"a policy has at most {MAX_POLICY_BYTES} bytes", field="policy")
    if _NOT_ALLOWED.search(data):
        raise MalformedError("a policy has no control characters", field="policy")
    reading = _Reading()
    for number, line in enumerate(data.decode("latin-1").split("\n"), start=1):
        words = line.replace("\t", " ").split(" ")
        try:
            reading.take([word for word in words if word])
        except MalformedError as error:
            raise MalformedError(str(error), field=f"policy line {number}") from error
    return reading.done()


class _Reading:
    """What the lines so far have said. Names are octets, which latin-1 keeps apart."""

    def __init__(self) -> None:
        self._logs: list[VerifierKey] = []
        self._witnesses: dict[str, VerifierKey] = {}
        self._groups: dict[str, Group] = {}
        self._free: set[str] = set()
        """Names that are no group's member yet."""
        self._quorum: str | None = None

    def take(self, words: Sequence[str]) -> None:
        match words:
            case []:
                pass
            case [first, *_] if first.startswith("#"):
                pass
            case ["log", vkey] | ["log", vkey, _]:
                self._take_log(vkey)
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                self._take_witness(name, vkey)
            case ["group", name, needed, *members]:
                self._take_group(name, needed, members)
            case ["quorum", name]:
                self._take_quorum(name)
            case _:
                raise MalformedError("is no line of a policy")

    def done(self) -> Policy:
        if self._quorum is None:
            raise MalformedError("says no quorum", field="policy")
        return Policy(tuple(self._logs), self._witnesses, self._groups, self._quorum)

    def _take_log(self, vkey: str) -> None:
        key = _key(vkey, ED25519)
        self._check_new(key)
        self._logs.append(key)
        _check_count(self._logs, MAX_LOGS)

    def _take_witness(self, name: str, vkey: str) -> None:
        key = _key(vkey, COSIGNATURE)
        self._define(name)
        self._check_new(key)
        self._witnesses[name] = key
        _check_count(self._witnesses, MAX_WITNESSES)

    def _take_group(self, name: str, told: str, members: Sequence[str]) -> None:
        counts = {"any": 1, "all": len(members)}
        if told not in counts and _COUNT_RE.fullmatch(told) is None:
            raise MalformedError("needs a count in decimal, `any` or `all`")
        needed = counts[told] if told in counts else int(told)
        if not 1 <= needed <= len(members):
            raise MalformedError("needs more members than it has, or none")
        for member in members:
            if member not in self._free:
                raise MalformedError(f"{member!r} is not defined before, or a member already")
            self._free.remove(member)
        self._define(name)
        self._groups[name] = Group(needed, tuple(members))
        _check_count(self._groups, MAX_GROUPS)

    def _take_quorum(self, name: str) -> None:
        if self._quorum is not None:
            raise MalformedError("is a second quorum")
        if name != NONE and name not in self._witnesses and name not in self._groups:
            raise MalformedError(f"{name!r} is not defined before")
        self._quorum = name

    def _check_new(self, key: VerifierKey) -> None:
        """Also a log does not cosign for itself."""
        if any(key.public == other.public for other in (*self._logs, *self._witnesses.values())):
            raise MalformedError("is a key that another line has")

    def _define(self, name: str) -> None:
        if name == NONE or name in self._witnesses or name in self._groups:
            raise MalformedError(f"{name!r} is taken")
        self._free.add(name)


def _key(vkey: str, kind: int) -> VerifierKey:
    try:
        text = vkey.encode("latin-1").decode()
    except UnicodeDecodeError as error:
        raise MalformedError("a key's name is UTF-8") from error
    key = parse_vkey(text)
    if key.kind != kind:
        raise MalformedError("is a key of the other kind: logs sign notes, witnesses cosign")
    return key


def _check_count(defined: Sequence[object] | Mapping[str, object], most: int) -> None:
    if len(defined) > most:
        raise MalformedError(f"more than {most} of them")
