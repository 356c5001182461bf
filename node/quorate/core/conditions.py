"""Conditions of a grant: what an executor has to say of its work to have a lease under it.

Owns their form, and whether a context meets them. A grant never changes its conditions, nor a lease
its context, so this is asked once, when a lease is acquired. Does not know whether what is said is
true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.limits import MAX_CONDITION_BYTES, MAX_CONDITIONS, MAX_PATTERNS
from quorate.core.patterns import check_text_pattern, text_matches
from quorate.core.rows import Row


@dataclass(frozen=True, slots=True)
class Condition:
    """name: of what the executor says in its context. values: one of them has to match that: exact,
    or a prefix that ends in *."""

    name: str
    values: tuple[str, ...]

    def is_met(self, said: Mapping[str, str]) -> bool:
        """What is not said meets nothing."""
        text = said.get(self.name)
        return text is not None and any(text_matches(each, text) for each in self.values)

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "values": list(self.values)}

    @classmethod
    def from_json(cls, value: object) -> Condition:
        row = Row(value)
        return cls(row.text("name"), row.texts("values"))


def first_unmet(conditions: Sequence[Condition], context: Sequence[str]) -> Condition | None:
    """The first condition that a context does not meet; None: it meets all. context:
    `<name>=<text>`, each name once."""
    if not conditions:
        return None
    said = said_in(context)
    return next((each for each in conditions if not each.is_met(said)), None)


def said_in(context: Sequence[str]) -> dict[str, str]:
    """What a context says, by name."""
    parts = (each.partition("=") for each in context)
    return {name: text for name, _, text in parts}


def check_conditions(conditions: Sequence[Condition]) -> None:
    """In ascending order of the names, and of the values of each. Raises MalformedError."""
    names = [each.name for each in conditions]
    if names != sorted({*names}):
        raise MalformedError("must name each once, in order")
    for each in conditions:
        ids.check_name(each.name)
        for value in each.values:
            check_text_pattern(value)
        if not each.values or list(each.values) != sorted({*each.values}):
            raise MalformedError(f"must give values of {each.name}, each once, in order")
    texts = (text for each in conditions for text in (each.name, *each.values))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    most = max((len(each.values) for each in conditions), default=0)
    if len(names) > MAX_CONDITIONS or most > MAX_PATTERNS or size > MAX_CONDITION_BYTES:
        raise MalformedError(
            f"more than {MAX_CONDITIONS} names, {MAX_PATTERNS} values of one, or "
            f"{MAX_CONDITION_BYTES} bytes"
        )


def read_conditions(body: Fields) -> tuple[Condition, ...]:
    """The field `conditions` of a command. Without any there is no such field: what is meant is
    said in one way only. Raises MalformedError."""
    if not body.has("conditions"):
        return ()
    said = body.objects("conditions", 1, MAX_CONDITIONS)
    conditions = tuple(
        _read(Fields(item, body.at(f"conditions[{place}]"))) for place, item in enumerate(said)
    )
    try:
        check_conditions(conditions)
    except MalformedError as error:
        raise MalformedError(error.problem, field=body.at("conditions")) from error
    return conditions


def _read(item: Fields) -> Condition:
    name = item.text("name", ids.check_name)
    values = item.texts("values", check_text_pattern, MAX_PATTERNS)
    item.done()
    return Condition(name, values)


def conditions_from_json(value: object) -> tuple[Condition, ...]:
    """Those of a record. Raises MalformedError."""
    if not isinstance(value, list):
        raise MalformedError("must be a list", field="conditions")
    return tuple(map(Condition.from_json, value))
