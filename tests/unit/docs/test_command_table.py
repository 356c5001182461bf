"""The table of who may give which command, made from the code and compared with the page."""

from __future__ import annotations

from typing import Any, get_args

from tests.unit.core.test_issuers import BODIES

from quorate.core import commands, protocol, transitions
from quorate.core.acts import ACTS
from quorate.core.balloting import needs_ballot
from quorate.core.bodies import NodeBody
from quorate.core.verbs import Verb

HEADING = "| type | version | signed by |"
OF_NODES = {body.__name__ for body in get_args(NodeBody)}


def signed_by(verb: Verb) -> str:
    if transitions._HANDLERS[verb] is needs_ballot:
        return "nobody alone: by ballot"
    body = commands._BODIES[protocol.LATEST][verb](commands.Fields(dict(BODIES[verb]), "body"))
    if type(body).__name__ in OF_NODES:
        return "a node"
    return "a domain, or by ballot" if verb in ACTS[protocol.LATEST] else "a domain"


def since(verb: Verb) -> int:
    return min(version for version, bodies in commands._BODIES.items() if verb in bodies)


def test_the_table_is_the_codes(pages: dict[str, Any]) -> None:
    expected = [f"| `{verb}` | {since(verb)} | {signed_by(verb)} |" for verb in Verb]
    lines = pages["docs/ledger.md"].text.splitlines()
    start = lines.index(HEADING) + 2
    shown = lines[start : start + len(expected) + 1]
    assert shown[-1] == "", "no row more"
    assert shown[:-1] == expected, "\n".join(expected)
