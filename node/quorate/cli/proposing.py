"""`quorate proposal open`: proposing what organisations decide together.

Owns how each thing is said, and where a command of an organisation about a proposal goes. What was
proposed is shown, and voted on, in `quorate.cli.proposal`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from quorate.cli.connection import Connection, operator_target
from quorate.cli.errors import RefusedError
from quorate.cli.executor import ExecutorArgument, executor_id
from quorate.cli.govern import govern
from quorate.cli.govern import save as save_command
from quorate.cli.membership import SaveOption
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    OrgOption,
    TimeoutOption,
    duration_ms,
    expiry_ms,
    now_ms,
)
from quorate.cli.output import Output, OutputOption
from quorate.cli.policy_files import PolicyArgument, read_policies
from quorate.cli.queries import read_records
from quorate.cli.resources import AllowOption
from quorate.cli.submit import Wait
from quorate.core import ids, protocol
from quorate.core.acts import ACTS
from quorate.core.errors import MalformedError
from quorate.core.genesis import check_parameters
from quorate.core.records import Parameters
from quorate.core.rows import Row
from quorate.core.thresholds import Threshold, Thresholds, thresholds_from_json
from quorate.node.organisation import Organisation, read_descriptor
from quorate.v1 import governance_pb2

openers = typer.Typer(
    add_completion=False, help="Propose something, and agree to it; the others vote."
)

_T = TypeVar("_T")

_SHORT: dict[str, str] = {
    verb.value.rpartition(".")[2]: verb.value for verb in ACTS[protocol.LATEST]
}
for _name, _verb in (
    ("thresholds", "set_thresholds"),
    ("parameters", "set_parameters"),
    ("rates", "set_rates"),
    ("policy", "set_policy"),
    ("retire-policy", "retire_policy"),
    ("reinstate-executor", "reinstate_executor"),
):
    _SHORT[_name] = _SHORT.pop(_verb)

DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="Like bank.example.")]
ExpiresOption = Annotated[
    str, typer.Option("--expires", help="Until when it can be voted on: 7d, or a moment.")
]
WaitOption = Annotated[
    Wait | None,
    typer.Option(
        "--wait",
        help="If this decides it, return when that is durable on a quorum, when no node decides "
        "otherwise any more, or when no executor holds a permit from before.",
    ),
]


@dataclass(frozen=True, slots=True)
class How:
    """Where a command of this organisation goes. save: to a file, and to no node."""

    org: Path
    timeout: int
    address: str
    output: Output
    save: Path | None = None
    wait: Wait | None = None

    def say(self, kind: str, body: dict[str, Any]) -> None:
        if self.save is not None:
            if self.wait is not None:
                raise MalformedError("give --save or --wait, not both")
            save_command(self.org, kind, body, self.save, self.output)
            return
        govern(
            self.org,
            kind,
            body,
            timeout_ms=self.timeout,
            output=self.output,
            address=self.address,
            wait=self.wait,
        )

    def open(self, act: str, body: dict[str, Any], expires: str) -> None:
        asked = {"act": act, "body": body, "expires_at": expiry_ms(expires, now_ms())}
        self.say("proposal.open", asked)

    def open_about(self, act: str, domain: str, expires: str) -> None:
        try:
            ids.check_domain(domain)
        except MalformedError as error:
            raise MalformedError(f"'{domain}': {error}") from error
        self.open(act, {"domain": domain}, expires)


@openers.command("admit")
def admit(
    descriptor: Annotated[
        Path,
        typer.Argument(
            metavar="DESCRIPTOR", help="The descriptor.json that `quorate init` made for them."
        ),
    ],
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Let another organisation be a member, with its first node, which votes in the consensus."""
    envelope = read_descriptor(descriptor).envelope.to_json()
    how = How(org, timeout, address, output, save)
    how.open("domain.admit", {"descriptor": envelope}, expires)


@openers.command("suspend")
def suspend(
    domain: DomainArgument,
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    wait: WaitOption = None,
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Deny everything that an organisation is part of, until the others reinstate it."""
    how = How(org, timeout, address, output, save, wait)
    how.open_about("domain.suspend", domain, expires)


@openers.command("reinstate")
def reinstate(
    domain: DomainArgument,
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End the suspension of an organisation that the others have suspended."""
    how = How(org, timeout, address, output, save)
    how.open_about("domain.reinstate", domain, expires)


@openers.command("reinstate-executor")
def reinstate_executor(
    executor: ExecutorArgument,
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Let an executor act again that was suspended for what it has proved, or said, and has proved
    anew what it has to."""
    how = How(org, timeout, address, output, save)
    named = executor_id(Organisation.load(org), executor)
    how.open("federation.reinstate_executor", {"executor": named}, expires)


@openers.command("expel")
def expel(
    domain: DomainArgument,
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    wait: WaitOption = None,
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End an organisation's membership, for ever: all it is part of is denied, its nodes retire."""
    how = How(org, timeout, address, output, save, wait)
    how.open_about("domain.expel", domain, expires)


@openers.command("thresholds")
def thresholds(
    rules: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT=RULE...",
            help=f"WHAT: {', '.join(sorted(_SHORT))}. RULE: {', '.join(Threshold)}. "
            "What is not named stays as it is.",
        ),
    ],
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Set how many have to agree on what is decided together."""
    changes = _rules(rules)
    with Connection(operator_target(Organisation.load(org), address)) as connection:
        present, version = read_rules(connection, 0, timeout)
    acts = [*map(str, ACTS.get(version, ()))]
    for act in changes.keys() - {*acts}:
        raise RefusedError(
            f"{act} is nothing that version {version} of the rules knows",
            hint="upgrade the federation, or use a newer Quorate",
        )
    body = {act: present.get(act, Threshold.MAJORITY).value for act in acts} | changes
    how = How(org, timeout, address, output)
    how.open("federation.set_thresholds", {"thresholds": body}, expires)


@openers.command("parameters")
def parameters(
    *,
    org: OrgOption,
    authority_period: Annotated[
        int | None,
        typer.Option(
            "--authority-period",
            parser=duration_ms,
            metavar="DURATION",
            help="How long after a quorum confirmed it a node may permit.",
        ),
    ] = None,
    max_permit_ttl: Annotated[
        int | None,
        typer.Option(
            "--max-permit-ttl",
            parser=duration_ms,
            metavar="DURATION",
            help="How long an executor may rely on one permit.",
        ),
    ] = None,
    rho_ppm: Annotated[
        int | None,
        typer.Option("--rho-ppm", help="How far clock rates differ, parts per million."),
    ] = None,
    max_skew: Annotated[
        int | None,
        typer.Option(
            "--max-skew",
            parser=duration_ms,
            metavar="DURATION",
            help="How far off a node's wall clock may be for it to lead.",
        ),
    ] = None,
    expires: ExpiresOption = "7d",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Set how long authority and permits last, and how wrong clocks may be. What is not named stays
    as it is."""
    said = (authority_period, max_permit_ttl, rho_ppm, max_skew)
    names = [item.name for item in fields(Parameters)]
    changes = {name: value for name, value in zip(names, said, strict=True) if value is not None}
    if not changes:
        raise MalformedError("no parameter is named", hint="give --authority-period or another")
    with Connection(operator_target(Organisation.load(org), address)) as connection:
        record = read_federation(connection, 0, timeout)
    wished = replace(read(Parameters.from_json, record.get("parameters")), **changes)
    check_parameters(wished)
    how = How(org, timeout, address, output)
    how.open("federation.set_parameters", {"parameters": wished.to_json()}, expires)


@openers.command("rates")
def rates(
    *,
    org: OrgOption,
    domain: Annotated[
        int,
        typer.Option(
            "--domain", min=0, help="Commands of a domain, and of its nodes, a minute; 0: no limit."
        ),
    ] = 0,
    executor: Annotated[
        int,
        typer.Option("--executor", min=0, help="Those for one executor, a minute; 0: no limit."),
    ] = 0,
    expires: ExpiresOption = "7d",
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Set how many commands are executed in a minute. What is not named has no limit from then on;
    what narrows never has one, nor have ballots."""
    how = How(org, timeout, address, output, save)
    body = {"domain_per_min": domain, "executor_per_min": executor}
    how.open("federation.set_rates", body, expires)


@openers.command("upgrade")
def upgrade(
    version: Annotated[
        int, typer.Argument(metavar="VERSION", help="One more than `quorate status` shows.")
    ],
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Live by the next version of the rules, once every node's program knows it."""
    how = How(org, timeout, address, output, save)
    how.open("federation.upgrade", {"protocol": version}, expires)


@openers.command("freeze")
def freeze(
    *,
    org: OrgOption,
    allow: AllowOption = None,
    expires: ExpiresOption = "7d",
    wait: WaitOption = None,
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Deny everything on everybody's resources but the actions that are named."""
    how = How(org, timeout, address, output, save, wait)
    how.open("federation.freeze", {"actions": allow or []}, expires)


@openers.command("thaw")
def thaw(
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End that. What an organisation has frozen of its own stays so."""
    How(org, timeout, address, output, save).open("federation.thaw", {}, expires)


@openers.command("policy")
def policy(
    file: PolicyArgument,
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    wait: WaitOption = None,
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Set the federation's policies, in the place of those that it has."""
    how = How(org, timeout, address, output, save, wait)
    how.open("federation.set_policy", {"text": read_policies(file)}, expires)


@openers.command("retire-policy")
def retire_policy(
    *,
    org: OrgOption,
    expires: ExpiresOption = "7d",
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End them: the federation has no policies then. Those of organisations stay."""
    How(org, timeout, address, output, save).open("federation.retire_policy", {}, expires)


def _rules(texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        what, _, rule = text.partition("=")
        if what not in _SHORT or rule not in list(Threshold):
            raise MalformedError(
                f"'{text}' is no threshold",
                hint=f"write it like expel=two-thirds; of {', '.join(sorted(_SHORT))}, and "
                f"{', '.join(Threshold)}",
            )
        if _SHORT[what] in found:
            raise MalformedError(f"{what} is named twice", hint="give one rule for it")
        found[_SHORT[what]] = rule
    return found


def read_rules(connection: Connection, at_least: int, timeout: int) -> tuple[Thresholds, int]:
    """How many have to agree, and the version of the protocol."""
    said = read_federation(connection, at_least, timeout)
    version = read(lambda value: Row(value).number_or("protocol", protocol.FIRST), said)
    return read(thresholds_from_json, said.get("thresholds")), version


def read_federation(connection: Connection, at_least: int, timeout: int) -> dict[str, Any]:
    """The federation's record, with its thresholds."""
    found, _, _ = read_records(connection, governance_pb2.KIND_FEDERATION, at_least, timeout)
    return found[0] if found else {}


def read(parse: Callable[[Any], _T], value: object) -> _T:
    """What a node has sent, parsed. Raises RefusedError: the person who asked is not to blame."""
    try:
        return parse(value)
    except MalformedError as error:
        raise RefusedError(f"this version cannot read the node's answer: {error}") from error
