"""`quorate proposal`: what organisations decide together.

Owns how a proposal is named by a person (the beginning of its id), and how it is told: what it
would do to what there is, who has a vote, and who has used it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, choose_target, operator_target, read_json
from quorate.cli.errors import RefusedError
from quorate.cli.membership import SaveOption
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    OrgOption,
    TimeoutOption,
)
from quorate.cli.output import (
    Output,
    OutputOption,
    facts,
    frozen_words,
    moment,
    rate_words,
    show,
    table,
)
from quorate.cli.policy_files import policy_words
from quorate.cli.proofs import ShownExecutor, read_executor
from quorate.cli.proposing import How, WaitOption, openers, read, read_federation
from quorate.cli.queries import list_records, read_records
from quorate.core import ids
from quorate.core.acts import (
    ACTS,
    AdmitDomain,
    FederationAct,
    FreezeFederation,
    JudgeDomain,
    ReinstateExecutor,
    RetireFederationPolicy,
    SetParameters,
    SetPolicy,
    SetRates,
    SetThresholds,
    ThawFederation,
    UpgradeFederation,
    parse_act,
)
from quorate.core.balloting import Count, count
from quorate.core.dsse import key_id
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.explanation import suspended_words
from quorate.core.proposals import Proposal, ProposalStatus
from quorate.core.records import Domain, Federation, Rates, digest_of
from quorate.core.status import Act
from quorate.core.thresholds import Threshold, Thresholds, thresholds_from_json
from quorate.node.organisation import Organisation
from quorate.v1 import governance_pb2

app = typer.Typer(add_completion=False, help="What organisations decide together.")
app.add_typer(openers, name="open")

ProposalArgument = Annotated[
    str,
    typer.Argument(metavar="PROPOSAL", help="Its id, or the beginning of it, as `list` shows it."),
]


@app.command("vote")
def vote(
    proposal: ProposalArgument,
    choice: Annotated[
        str, typer.Argument(metavar="yes|no", help="Whether it is to be done, or not.")
    ],
    *,
    org: OrgOption,
    wait: WaitOption = None,
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Cast the organisation's ballot; the last one counts. See first what it is on: `show`."""
    if choice not in {"yes", "no"}:
        raise MalformedError(f"'{choice}' is no ballot", hint="write yes or no")
    ident = _named(proposal, org, timeout, address, is_offline=save is not None)
    body = {"proposal": ident, "choice": choice}
    How(org, timeout, address, output, save, wait).say("ballot.cast", body)


@app.command("withdraw")
def withdraw(
    proposal: ProposalArgument,
    *,
    org: OrgOption,
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Take back what the own organisation has proposed."""
    ident = _named(proposal, org, timeout, address, is_offline=save is not None)
    How(org, timeout, address, output, save).say("proposal.withdraw", {"proposal": ident})


@app.command("list")
def list_proposals(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List what was proposed, and what became of it."""
    list_records(
        governance_pb2.KIND_PROPOSAL,
        ("id", "act", "proposer", "status", "yes", "no", "expires_at", "changed"),
        org=org,
        client=client,
        address=address,
        at_least=at_least,
        timeout_ms=timeout,
        output=output,
    )


@app.command("show")
def show_proposal(
    proposal: ProposalArgument,
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what a proposal would do to what there is, and who has voted how."""
    with Connection(choose_target(org, client, address)) as connection:
        record = read(Proposal.from_json, _find(connection, proposal, at_least, timeout))
        domains, first, _ = read_records(
            connection, governance_pb2.KIND_DOMAIN, record.changed, timeout
        )
        federation = read_federation(connection, record.changed, timeout)
        act = _act(record)
        executor = _executor_of(connection, act, record.changed, timeout)
    members = [read(Domain.from_json, each) for each in domains]
    rules = read(thresholds_from_json, federation.get("thresholds"))
    present = read(Federation.from_json, federation)
    now = _Present(members, rules, present, executor)
    is_over = record.expired(first.position.ledger_time_ms)
    is_open = record.status is ProposalStatus.OPEN and not is_over
    # Who had a vote on what is over is not on record: the members are others by now.
    counted = count(members, rules, record) if is_open else None
    value = {
        **record.to_json(),
        "body": read_json(record.body.encode()),
        "expired": record.status is ProposalStatus.OPEN and is_over,
        "changes": _changes(act, now, is_open=is_open),
        "voters": sorted(counted.voters) if counted else None,
        "needed": counted.needed if counted else None,
        "ledger_size": first.position.size,
    }
    show(output, value, lambda console: _print(console, record, value, counted))


def _print(
    console: Console, record: Proposal, value: dict[str, Any], counted: Count | None
) -> None:
    """counted: how it stands; None when it is over."""
    status = "expired" if value["expired"] else record.status.value
    console.print(f"[bold]{record.act}[/] {status} {escape(record.thing)}".rstrip())
    pairs: list[tuple[str, object]] = [
        ("proposal", record.id),
        ("proposed by", record.proposer),
        ("until", moment(record.expires_at)),
    ]
    if record.reason:
        pairs.append(("failed for", record.reason))
    if counted is not None:
        pairs.append(("agreed", f"{counted.yes} of {counted.needed} that are needed"))
    console.print(facts(pairs))
    would = "was to be" if counted is None else "would be"
    console.print(table(["what", "is", would], value["changes"]))
    said = {**dict.fromkeys(record.yes, "yes"), **dict.fromkeys(record.no, "no")}
    voters = frozenset(said) if counted is None else counted.voters
    rows = [
        [domain, said.get(domain, ""), "" if domain in voters else "no vote"]
        for domain in sorted(voters | said.keys())
    ]
    console.print(table(["organisation", "ballot", ""], rows))
    console.print(f"at ledger size {value['ledger_size']}", style="dim")


@dataclass(frozen=True, slots=True)
class _Present:
    """What there is by now. executor: the one that the proposal is about, if it is about one."""

    members: list[Domain]
    rules: Thresholds
    federation: Federation
    executor: ShownExecutor | None


def _changes(act: FederationAct, now: _Present, *, is_open: bool) -> list[list[str]]:
    """What is, and what would be; of thresholds, once that is over, all that was asked for."""
    status = {member.id: _standing(member) for member in now.members}
    was_frozen = now.federation.frozen
    frozen = frozen_words(None if was_frozen is None else was_frozen.actions)
    policies = policy_words(now.federation.policies)
    match act:
        case AdmitDomain(item):
            return [
                ["organisation", status.get(item.domain, "no member"), item.domain],
                ["governance key", "", key_id(item.governance_key)],
                ["node, which votes", "", item.node.id],
                ["its address", "", item.node.peer_address],
                ["its signing key", "", key_id(item.node.signing_key)],
                ["its log key", "", key_id(item.node.log_key)],
            ]
        case JudgeDomain(to, domain):
            become = {
                Act.SUSPEND: "suspended by the federation",
                Act.REINSTATE: "active",
                Act.REVOKE: "revoked, and its nodes retired",
            }
            return [[domain, status.get(domain, "no member"), become[to]]]
        case SetThresholds(wished):
            return [
                [what, before, after]
                for what, after in wished.items()
                if (before := now.rules.get(what, Threshold.MAJORITY)) != after or not is_open
            ] or [["nothing", "", ""]]
        case SetParameters(parameters):
            present = now.federation.parameters.to_json()
            return [
                [name.replace("_", " "), str(present[name]), str(value)]
                for name, value in parameters.to_json().items()
                if value != present[name] or not is_open
            ] or [["nothing", "", ""]]
        case SetRates(rates):
            held = (now.federation.rates or Rates(0, 0)).to_json()
            return [
                [name.replace("_", " "), rate_words(held[name]), rate_words(value)]
                for name, value in (rates or Rates(0, 0)).to_json().items()
            ]
        case UpgradeFederation(version):
            return [["protocol", str(version - 1), str(version)]]
        case FreezeFederation(actions):
            return [["frozen", frozen, frozen_words(actions)]]
        case ThawFederation():
            return [["frozen", frozen, frozen_words(None)]]
        case SetPolicy(text):
            return [["policies", policies, f"sha256 {digest_of(text)}"], ["text", "", text]]
        case RetireFederationPolicy():
            return [["policies", policies, policy_words(None)]]
        case ReinstateExecutor(executor):
            return _reinstated(executor, now.executor)


def _executor_of(
    connection: Connection, act: FederationAct, at_least: int, timeout: int
) -> ShownExecutor | None:
    """The executor that an act is about; None where it is about none, or there is no such."""
    if not isinstance(act, ReinstateExecutor):
        return None
    with contextlib.suppress(ConfigurationError):
        return read_executor(connection, act.executor, at_least, timeout)
    return None


def _reinstated(ident: str, shown: ShownExecutor | None) -> list[list[str]]:
    """With what it has proved: without all of that, fresh, it is not done."""
    if shown is None:
        return [[ident, "not registered", "active"]]
    held = shown.executor
    why = f": {suspended_words(held)}" if held.suspended_for else ""
    proofs = [
        [f"proof for {each['reference']}", str(each["state"]), "fresh"] for each in shown.proofs
    ]
    return [[ident, f"{held.status}{why}", "active"], *proofs]


def _standing(member: Domain) -> str:
    return f"{member.status} by {member.suspended_by}" if member.suspended_by else member.status


def _named(text: str, org: Path, timeout: int, address: str, *, is_offline: bool) -> str:
    """The id that a person means. Offline nobody can be asked: then it must be whole."""
    try:
        ids.check_proposal_id(text)
    except MalformedError as error:
        if is_offline:
            raise MalformedError(
                f"'{text}' is no whole id of a proposal",
                hint="with --save no node is asked: give all 64 digits of `quorate proposal list`",
            ) from error
    else:
        return text
    with Connection(operator_target(Organisation.load(org), address)) as connection:
        return str(_find(connection, text, 0, timeout)["id"])


def _find(connection: Connection, text: str, at_least: int, timeout: int) -> dict[str, Any]:
    """The record of the one proposal whose id begins so. Raises MalformedError when nothing is
    said, and ConfigurationError when there is none, or more than one."""
    if not text:
        raise MalformedError("no proposal is named", hint="write the beginning of its id")
    records, _, _ = read_records(connection, governance_pb2.KIND_PROPOSAL, at_least, timeout)
    found = [each for each in records if str(each.get("id", "")).startswith(text)]
    if len(found) != 1:
        what = f"{len(found)} proposals begin" if found else "no proposal begins"
        hint = "see `quorate proposal list`" + ("; write more of the id" if found else "")
        raise ConfigurationError(f"{what} with '{text}'", hint=hint)
    return found[0]


def _act(record: Proposal) -> FederationAct:
    """What is proposed. Raises RefusedError: nobody should vote on what cannot be told."""
    if record.act not in list(ACTS.get(record.protocol, ())):
        raise RefusedError(
            f"proposal {record.id} is for {record.act}, which this version does not know",
            hint="use a newer one; the record as it is: `quorate proposal list -o json`",
        )
    return read(lambda text: parse_act(record.act, text, record.protocol), record.body)
