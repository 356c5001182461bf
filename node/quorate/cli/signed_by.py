"""`quorate ledger signed-by`: what a key has signed, what of it is in force, and ending that.

Owns what can be made undone of each type of command, and by which other. That a command is in the
ledger, and that this key has signed it, is verified from the genesis; whether what it made is still
there is the node's word. See docs/key-compromise.md for what it is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from quorate.cli.connection import Connection, operator_target, read_json
from quorate.cli.govern import sign_command, write_command
from quorate.cli.ledger_check import check_ledger
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    OrgOption,
    TimeoutOption,
    expiry_ms,
    now_ms,
)
from quorate.cli.output import ExitCode, Output, OutputOption, moment, show, table
from quorate.cli.queries import read_records
from quorate.cli.signers import signers_of
from quorate.cli.submit import Settled, Wait, submit
from quorate.core import dsse
from quorate.core.bodies import RekeyDomain
from quorate.core.commands import Command, is_node
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.keysets import all_keys
from quorate.core.state import StateView
from quorate.core.verbs import Verb
from quorate.node.organisation import Organisation
from quorate.v1 import governance_pb2

_KEY: Final = re.compile(r"[0-9a-f]{8,64}")
_AGO: Final = re.compile(r"[0-9]+(ms|s|m|h|d)")
_KINDS: Final = {
    "executor": governance_pb2.KIND_EXECUTOR,
    "trust": governance_pb2.KIND_TRUST,
    "grant": governance_pb2.KIND_GRANT,
    "node": governance_pb2.KIND_NODE,
    "proposal": governance_pb2.KIND_PROPOSAL,
}
Records = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By kind, and by id."""


@dataclass(frozen=True, slots=True)
class Signed:
    """An accepted command that the key has signed. issuer: in whose name."""

    index: int
    time_ms: int
    verb: Verb
    issuer: str
    thing: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """in_force: None: a person has to look. ended_by: the command that ends it."""

    signed: Signed
    in_force: bool | None
    ended_by: tuple[Verb, dict[str, Any]] | None

    def to_json(self) -> dict[str, object]:
        ended_by = self.ended_by
        return {
            "index": self.signed.index,
            "time_ms": self.signed.time_ms,
            "type": self.signed.verb.value,
            "issuer": self.signed.issuer,
            "thing": self.signed.thing,
            "in_force": self.in_force,
            "ended_by": None
            if ended_by is None
            else {"type": ended_by[0].value, "body": ended_by[1]},
        }


def signed_by(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="A key's id, its beginning (8 digits or more), or its public key."
        ),
    ],
    *,
    org: OrgOption,
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="WHEN", help="A ledger index; a moment; or how long ago, like 2d."
        ),
    ] = "0",
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="End all of it that is in force, each by a command."),
    ] = False,
    save_to: Annotated[
        Path | None,
        typer.Option(
            "--save-to",
            metavar="DIR",
            help="With --revoke: keep those commands in a new directory, for others to sign, too.",
        ),
    ] = None,
    wait: Annotated[
        Wait,
        typer.Option("--wait", help="With --revoke: how widely each has to hold before the next."),
    ] = Wait.DRAINED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List the accepted commands that a key has signed, and what of them is in force.

    The whole ledger is verified for it. Exits 3 when something could not be ended.
    """
    if _KEY.fullmatch(key) is None:
        raise MalformedError(f"'{key[:80]}' is no key", hint="give the id that `domain keys` shows")
    if save_to is not None and not revoke:
        raise MalformedError("--save-to is for what --revoke makes")
    organisation = Organisation.load(org)
    with Connection(operator_target(organisation, address)) as connection:
        found = _find(connection, organisation, _Wanted(key, since), timeout)
        todo = [each for each in found if each.in_force and each.ended_by is not None]
        todo = [each for each in todo if each.signed.issuer == organisation.domain]
        value: dict[str, object] = {"commands": [each.to_json() for each in found]}
        ends: list[dict[str, object]] = []
        if save_to is not None:
            ends = _save_all(org, todo, save_to)
        elif revoke:
            ends = _end_all(connection, organisation, todo, wait, timeout)
    value |= {"ended": ends} if revoke else {}
    show(output, value, lambda on: _print(on, found, ends))
    if any(each.get("accepted") is False for each in ends):
        raise typer.Exit(ExitCode.DENIED)


class _Wanted:
    """The key, as it was named, and from when on."""

    def __init__(self, key: str, since: str) -> None:
        self._key = key
        self._index = int(since) if since.isdecimal() and len(since) < 16 else 0
        self._time = 0
        if _AGO.fullmatch(since):
            now = now_ms()
            self._time = 2 * now - expiry_ms(since, now)
        elif not since.isdecimal():
            self._time = expiry_ms(since, now_ms())

    def includes(self, index: int, time_ms: int) -> bool:
        return index >= self._index and time_ms >= self._time

    def has_signed(self, envelope: dsse.Envelope, known: Sequence[str]) -> bool:
        """known: the public keys that can have signed it."""
        keys = [(public, dsse.parse_public_key(public)) for public in known]
        return any(
            (dsse.key_id(raw).startswith(self._key) or public == self._key) and envelope.verify(raw)
            for public, raw in keys
        )


def _find(
    connection: Connection, organisation: Organisation, wanted: _Wanted, timeout_ms: int
) -> list[Found]:
    heard: list[Signed] = []

    def tell(entry: Any, command: Command, envelope: dsse.Envelope, state: StateView) -> None:
        index, time_ms = int(entry["seq"]), int(entry["time"])
        if wanted.includes(index, time_ms) and wanted.has_signed(
            envelope, _known_keys(state, command)
        ):
            body = entry_body(envelope)
            thing = str(entry.get("thing", ""))
            heard.append(Signed(index, time_ms, command.verb, command.issuer, thing, body))

    check_ledger(connection, organisation.genesis(), timeout_ms, lambda _done, _all: None, tell)
    records: Records = {}
    if heard:
        records = {
            name: {
                str(each["id"]): each for each in read_records(connection, kind, 0, timeout_ms)[0]
            }
            for name, kind in _KINDS.items()
        }
    return [_judge(each, records) for each in heard]


def _known_keys(state: StateView, command: Command) -> list[str]:
    """The keys that may have signed: the issuer's, and those that it takes."""
    if is_node(command.issuer):
        node = state.node(command.issuer)
        return [] if node is None else [node.signing_key]
    domain = state.domain(command.issuer)
    own = [] if domain is None else list(all_keys(domain))
    return own + (list(all_keys(command.body)) if isinstance(command.body, RekeyDomain) else [])


def entry_body(envelope: dsse.Envelope) -> Mapping[str, Any]:
    """What the command says, as it was signed."""
    payload = read_json(envelope.payload)
    body = payload.get("body") if isinstance(payload, dict) else None
    return body if isinstance(body, dict) else {}


# -- what ends what --------------------------------------------------------------------------------


def _judge(signed: Signed, records: Records) -> Found:
    make = _ENDS.get(signed.verb)
    if signed.verb is Verb.BALLOT_CAST and signed.body.get("choice") != "yes":
        make = None
    if make is None:
        return Found(signed, None, None) if signed.verb in _BY_HAND else Found(signed, False, None)
    kind, verb, body_of, is_in_force = make
    record = records[kind].get(signed.thing)
    if record is None:
        return Found(signed, None, None)
    if kind == "proposal" and record.get("status") == "executed":
        return Found(signed, None, None)  # what it has brought about, a person looks at
    if not is_in_force(record):
        return Found(signed, False, None)
    return Found(signed, True, (verb, body_of(signed)))


def _part(name: str) -> Callable[[Signed], dict[str, Any]]:
    return lambda signed: {name: signed.body[name]}


def _is_left(record: Mapping[str, Any]) -> bool:
    return record.get("status") != "revoked"


def _is_active(record: Mapping[str, Any]) -> bool:
    return record.get("status") == "active"


def _is_open(record: Mapping[str, Any]) -> bool:
    return record.get("status") == "open"


_End = tuple[str, Verb, Callable[[Signed], dict[str, Any]], Callable[[Mapping[str, Any]], bool]]
_ENDS: Final[Mapping[Verb, _End]] = {
    Verb.EXECUTOR_REGISTER: ("executor", Verb.EXECUTOR_REVOKE, _part("executor"), _is_left),
    Verb.EXECUTOR_REINSTATE: ("executor", Verb.EXECUTOR_SUSPEND, _part("executor"), _is_active),
    Verb.TRUST_OPEN: ("trust", Verb.TRUST_CLOSE, _part("edge"), _is_left),
    Verb.GRANT_ISSUE: ("grant", Verb.GRANT_REVOKE, _part("grant"), _is_left),
    Verb.GRANT_REINSTATE: ("grant", Verb.GRANT_SUSPEND, _part("grant"), _is_active),
    Verb.NODE_ADD: ("node", Verb.NODE_RETIRE, _part("node"), _is_left),
    Verb.PROPOSAL_OPEN: (
        "proposal",
        Verb.PROPOSAL_WITHDRAW,
        lambda signed: {"proposal": signed.thing},
        _is_open,
    ),
    Verb.BALLOT_CAST: (
        "proposal",
        Verb.BALLOT_CAST,
        lambda signed: {"proposal": signed.body["proposal"], "choice": "no"},
        _is_open,
    ),
}
"""Of what a command has made: where it is, what ends it, and whether that is called for."""
_BY_HAND: Final = frozenset(
    {
        Verb.BALLOT_CAST,
        Verb.RESOURCES_THAW,
        Verb.POLICY_PUBLISH,
        Verb.POLICY_RETIRE,
        Verb.ATTESTATION_SET_REFERENCE,
        Verb.ATTESTATION_RETIRE_REFERENCE,
        Verb.EXECUTOR_LIFT_CONTAINMENT,
        Verb.DOMAIN_REINSTATE,
        Verb.DOMAIN_REKEY,
        Verb.NODE_PROMOTE,
        Verb.NODE_DEMOTE,
        Verb.NODE_RETIRE,
        Verb.GRANT_DELEGATE,
        Verb.LEASE_ACQUIRE,
        Verb.LEASE_RENEW,
    }
)
"""No command simply takes these back: a person decides. Everything else narrows, or says something,
and is done."""
_FIRST: Final = (
    Verb.EXECUTOR_REVOKE,
    Verb.EXECUTOR_SUSPEND,
    Verb.GRANT_REVOKE,
    Verb.GRANT_SUSPEND,
    Verb.TRUST_CLOSE,
)
"""What stops leases comes first, and is waited for."""


def _in_order(todo: Sequence[Found]) -> list[tuple[Verb, dict[str, Any]]]:
    """Each command once: the first that stop leases."""
    commands: list[tuple[Verb, dict[str, Any]]] = []
    for each in todo:
        if each.ended_by is not None and each.ended_by not in commands:
            commands.append(each.ended_by)
    revoked = [body for verb, body in commands if verb in (Verb.EXECUTOR_REVOKE, Verb.GRANT_REVOKE)]
    left = [
        (verb, body)
        for verb, body in commands
        if verb not in (Verb.EXECUTOR_SUSPEND, Verb.GRANT_SUSPEND) or body not in revoked
    ]
    return sorted(left, key=lambda each: _FIRST.index(each[0]) if each[0] in _FIRST else 99)


def _end_all(
    connection: Connection,
    organisation: Organisation,
    todo: Sequence[Found],
    wait: Wait,
    timeout_ms: int,
) -> list[dict[str, object]]:
    signers = signers_of(organisation) if todo else []
    ends: list[dict[str, object]] = []
    for verb, body in _in_order(todo):
        command = sign_command(connection, organisation, verb.value, body, timeout_ms, signers)
        stops = verb in _FIRST
        settled: Settled = submit(connection, command, timeout_ms, wait if stops else None)
        ends.append({"type": verb.value, "body": body, **settled.to_json()})
    return ends


def _save_all(org: Path, todo: Sequence[Found], directory: Path) -> list[dict[str, object]]:
    try:
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            f"{directory} cannot be made: {error.strerror}", hint="name a directory that is not"
        ) from error
    signers = signers_of(Organisation.load(org))
    ends: list[dict[str, object]] = []
    for number, (verb, body) in enumerate(_in_order(todo), start=1):
        file = directory / f"{number:03d}-{verb.value}.json"
        write_command(org, verb.value, body, file, signers=signers)
        ends.append({"type": verb.value, "body": body, "file": str(file)})
    return ends


def _print(on: Console, found: Sequence[Found], ends: Sequence[Mapping[str, object]]) -> None:
    rows = []
    for each in found:
        signed = each.signed
        state = {True: "yes", False: "no", None: "look at it"}[each.in_force]
        by = "" if each.ended_by is None else each.ended_by[0].value
        rows.append((signed.index, moment(signed.time_ms), signed.verb, signed.thing, state, by))
    on.print(table(("index", "time", "type", "about", "in force", "ended by"), rows))
    on.print(f"{len(found)} commands, verified", style="dim")
    for end in ends:
        if "file" in end:
            on.print(f"[bold]saved[/] {end['type']}: {end['file']}")
        else:
            word = "[bold green]ended[/]" if end["accepted"] else "[bold red]denied[/]"
            on.print(f"{word} by {end['type']} {end['thing']} {end['reason']}".rstrip())
