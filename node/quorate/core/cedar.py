"""The policy engine: Cedar, and what is kept from it.

Owns the schema that policies are written against, which texts the engine is shown at all, and what
it says of a request. Every node evaluates policies inside `apply`: so the engine's exact version
belongs to the protocol version (`quorate.node.engine` refuses to start with another), and nothing
here may depend on the machine. The engine is native code. Nested deeply enough it runs out of
stack, which ends the process, or gives up earlier on a small stack than on a large one: texts are
measured here first, by a reading of their tokens that is the engine's own (`docs/adr/0027`). Does
not own whose policies are asked (`quorate.core.policies`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

import cedarpy

from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.core.limits import (
    MAX_POLICIES_PER_SET,
    MAX_POLICY_BYTES,
    MAX_POLICY_NESTING,
    MAX_POLICY_OPERATORS,
)

ENGINE: Final = "4.12.2"
"""Of the package cedarpy, with the second version of the protocol."""

SCHEMA: Final = """\
entity Domain;
entity Executor in [Domain] { id: String, path: String, domain: Domain };
entity Resource in [Domain] { id: String, path: String, owner: Domain };
entity Given tags String;
action lease appliesTo {
  principal: [Executor],
  resource: [Resource],
  context: {
    action: String,
    cross_domain: Bool,
    delegations: Long,
    given: Given,
    grant: String,
    hops: Long,
  },
};
"""
"""There is one action, to hold a lease; what the lease is for is `context.action`. Which actions
there are is everybody's own, and a schema that names all of them would belong to nobody."""

_TOKENS: Final = re.compile(
    r"""(?P<space>[ \n\t]+|//[ -~\t]*)
    |(?P<text>"(?:\\.|[^"\\\n])*")
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[0-9]+)
    |(?P<sign>&&|\|\||==|!=|<=|>=|::|[-<>+*!.,;:@()\[\]{}])""",
    re.VERBOSE,
)
"""As the engine reads them, less what no policy here needs: slots of templates (`?`), and text that
goes on over a line's end."""
_OTHER_CHARACTERS: Final = re.compile(r"[^ -~\t\n]")
_OPENING: Final = frozenset("([{")
_CLOSING: Final = frozenset(")]}")
_OPERATORS: Final = frozenset(
    {"&&", "||", "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "!", ".", "(", "[", "{"}
    | {"if", "in", "is", "has", "like", "when", "unless"}
)
"""What makes an expression deeper. Each costs the engine a part of its stack."""
_BEFORE_BRACKETS: Final = frozenset(
    {"permit", "forbid", "if", "then", "else", "in", "has", "like", "is"}
)
_METHODS: Final = frozenset(
    {"contains", "containsAll", "containsAny", "isEmpty", "hasTag", "getTag"}
)
"""Functions (`ip`, `decimal`, `datetime`, ...) are not among what a policy can call: nothing that
it is asked about has such a type, and what is not there cannot go wrong."""
_EFFECTS: Final = frozenset({"permit", "forbid"})

_PARSED_SETS: Final = 32

_T = TypeVar("_T")


class EngineFault(Exception):  # noqa: N818  # it is no error of whoever asks
    """The engine gave up. It says nothing then of what it was asked."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What one set of policies says of a request.

    permits: at least one policy permits it, and none forbids it. is_broken: the set could not be
    asked, or one of its policies could not be evaluated; it permits nothing then.
    by: the names of the policies that decided, in ascending order; none when no policy permits.
    """

    permits: bool
    is_broken: bool = False
    by: tuple[str, ...] = ()


BROKEN: Final = Ruling(permits=False, is_broken=True)


class Subject(NamedTuple):
    """What a set of policies is asked about. Nothing of it ever changes for one lease, so that an
    answer holds until the set is another.

    executor, action, resource, grant: as ids. home, owner: the domains of executor and resource.
    delegations: how often the grant was passed on. hops: the edges of the trust route.
    context: `<name>=<text>`, as the executor gave it; nobody has looked at whether it is true.
    """

    executor: str
    action: str
    resource: str
    grant: str
    home: str
    owner: str
    delegations: int
    hops: int
    context: tuple[str, ...]


def check_text(text: str) -> None:
    """Whether the engine may be shown a text. Raises MalformedError.

    Without the engine: a set of policies is looked at like this before anybody knows who sent it.
    """
    _measured(text)


def _measured(text: str) -> int:
    """How many policies a text holds that the engine may be shown. Raises MalformedError.

    Characters that print, spaces, tabs and ends of lines alone: the engine takes other ones for
    ends of lines, too, and what is a comment here would be a policy there.
    """
    if len(text) > MAX_POLICY_BYTES or _OTHER_CHARACTERS.search(text):
        raise MalformedError(
            f"must be ASCII text of at most {MAX_POLICY_BYTES} bytes, with lines that end in \\n"
        )
    return _Reading().read(text)


def check_set(text: str) -> None:
    """Whether a text is a set of policies that can be asked. Raises MalformedError, which says what
    is wrong in the engine's words."""
    try:
        parsed = _parsed(text)
        found = _guarded(lambda: cedarpy.validate_policies(text, _schema()))
    except EngineFault as error:
        raise MalformedError(str(error)) from error
    if len(parsed) == 0:
        raise MalformedError("holds no policy; to have none, retire what there is")
    if not found.validation_passed:
        raise MalformedError("; ".join(sorted({each.error for each in found.errors})))


def rule(text: str, subject: Subject) -> Ruling:
    """What the set says of the subject. Never raises but for MemoryError: whatever goes wrong, it
    permits nothing."""
    try:
        policies = _parsed(text)
        answer = _guarded(
            lambda: cedarpy.is_authorized(_request(subject), policies, _entities(subject))
        )
    except (MalformedError, EngineFault):
        return BROKEN
    told = answer.diagnostics
    if told.errors or answer.decision not in (cedarpy.Decision.Allow, cedarpy.Decision.Deny):
        return BROKEN
    names = told.id_annotations_by_reason
    by = tuple(sorted({names.get(each) or each for each in told.reasons}))
    return Ruling(permits=answer.decision is cedarpy.Decision.Allow, by=by)


# -- the engine ------------------------------------------------------------------------------------


@lru_cache(maxsize=_PARSED_SETS)
def _parsed(text: str) -> cedarpy.PolicySet:
    """The one way in which a text becomes policies. Raises MalformedError for one that the engine
    must not see, and EngineFault."""
    measured = _measured(text)
    parsed = _guarded(lambda: cedarpy.PolicySet.from_str(text))
    if len(parsed) != measured:
        raise EngineFault("the engine reads it otherwise than it was measured")
    if parsed.templates():
        raise EngineFault("a template, which says nothing by itself")
    return parsed


@lru_cache(maxsize=1)
def _schema() -> cedarpy.Schema:
    return cedarpy.Schema.from_str(SCHEMA)


def _guarded(ask: Callable[[], _T]) -> _T:
    """What the engine answers. Raises EngineFault for whatever it cannot do.

    A panic in it arrives as an exception that derives from none of Python's own for errors, so that
    no handler for those would see it. It ends this one question, and not the node.
    """
    try:
        return ask()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EngineFault(str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise EngineFault("the engine failed") from error


def _request(subject: Subject) -> dict[str, object]:
    return {
        "principal": {"type": "Executor", "id": subject.executor},
        "action": {"type": "Action", "id": "lease"},
        "resource": {"type": "Resource", "id": subject.resource},
        "context": {
            "action": subject.action,
            "cross_domain": subject.home != subject.owner,
            "delegations": subject.delegations,
            "given": _reference("Given", ""),
            "grant": subject.grant,
            "hops": subject.hops,
        },
    }


def _entities(subject: Subject) -> str:
    executor, resource = subject.executor, subject.resource
    given = dict(pair.split("=", 1) for pair in subject.context)
    return json.dumps(
        [
            _entity(
                "Executor",
                executor,
                {
                    "id": executor,
                    "path": executor.removeprefix(f"spiffe://{subject.home}"),
                    "domain": _reference("Domain", subject.home),
                },
                subject.home,
            ),
            _entity(
                "Resource",
                resource,
                {
                    "id": resource,
                    "path": resource.removeprefix(f"//{subject.owner}"),
                    "owner": _reference("Domain", subject.owner),
                },
                subject.owner,
            ),
            {"uid": {"type": "Given", "id": ""}, "attrs": {}, "parents": [], "tags": given},
        ]
    )


def _entity(
    kind: str, ident: str, attributes: Mapping[str, object], domain: str
) -> dict[str, object]:
    parents = [{"type": "Domain", "id": domain}]
    return {"uid": {"type": kind, "id": ident}, "attrs": attributes, "parents": parents}


def _reference(kind: str, ident: str) -> dict[str, object]:
    return {"__entity": {"type": kind, "id": ident}}


# -- reading a text's tokens -----------------------------------------------------------------------


class _Reading:
    """One reading of a text, word by word, which raises MalformedError at the first that makes it
    more than the engine is shown."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._policies = 0
        self._operators = 0
        self._names: set[str] = set()
        self._before = ("", "", "", "")  # the last tokens

    def read(self, text: str) -> int:
        """How many policies it holds."""
        place = 0
        while place < len(text):
            match = _TOKENS.match(text, place)
            if match is None:
                line = text.count("\n", 0, place) + 1
                raise MalformedError(f"line {line}: {text[place]!r} has no place in a policy")
            place = match.end()
            if match.lastgroup != "space":
                self._take(match.lastgroup or "", match.group())
        if self._open or self._before[-1] not in {"", ";"}:
            raise MalformedError("ends within a policy")
        return self._policies

    def _take(self, kind: str, word: str) -> None:
        if word in _OPERATORS:
            self._operators += 1
            if self._operators > MAX_POLICY_OPERATORS:
                raise MalformedError(
                    f"a policy of more than {MAX_POLICY_OPERATORS} operators; make several of it, "
                    "or ask whether a set contains something"
                )
        if word in _OPENING:
            self._check_bracket(word)
            self._open.append(word)
            if len(self._open) > MAX_POLICY_NESTING:
                raise MalformedError(f"nested deeper than {MAX_POLICY_NESTING} brackets")
        elif word in _CLOSING:
            if not self._open:
                raise MalformedError(f"{word} closes nothing")
            self._open.pop()
        elif word == ";":
            self._policies += 1
            self._operators = 0
            if self._policies > MAX_POLICIES_PER_SET:
                raise MalformedError(f"more than {MAX_POLICIES_PER_SET} policies")
        elif kind == "text" and self._before[-3:] == ("@", "id", "("):
            self._name(word[1:-1])
        self._before = (*self._before[1:], word)

    def _check_bracket(self, word: str) -> None:
        *_, earlier, before = self._before
        if word != "(" or not before.isidentifier() or before in _BEFORE_BRACKETS:
            return
        is_called = (earlier == "." and before in _METHODS) or earlier == "@"
        if not is_called:
            raise MalformedError(f"{before}() is nothing that a policy can call")

    def _name(self, name: str) -> None:
        try:
            ids.check_name(name)
        except MalformedError as error:
            raise MalformedError(f'@id("{name}"): {error}') from error
        if name in self._names:
            raise MalformedError(f"two policies are called {name}")
        self._names.add(name)
