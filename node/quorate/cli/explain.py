"""`quorate explain`: why something is permitted or denied, or was, and what would change it.

Owns whom is asked: of now the node, as operator or executor; of the past nobody, as it is decided
again here (`quorate.cli.past`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from quorate.cli.connection import Connection, choose_target, executor_target
from quorate.cli.executor import executor_id
from quorate.cli.explained import of_node, of_past, show_explanation
from quorate.cli.ledger import GenesisOption, choose_genesis, progress_bar
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    ContextOption,
    LeaseAddressOption,
    OptionalClientOption,
    OptionalOrgOption,
    TimeoutOption,
)
from quorate.cli.output import Output, OutputOption
from quorate.cli.past import Past
from quorate.client.config import load_config as load_client
from quorate.core import ids
from quorate.core.decision import DecisionRequest
from quorate.core.entries import Entry
from quorate.core.errors import MalformedError
from quorate.core.explaining import explain, explain_lease, holder_of
from quorate.core.explanation import Explanation
from quorate.core.limits import MAX_INTEGER, MAX_PARENTS
from quorate.core.lineage import check_whole_context
from quorate.core.outcome import Deny
from quorate.core.recounting import recount
from quorate.core.state import StateView
from quorate.node.organisation import Organisation
from quorate.v1 import explain_pb2

app = typer.Typer(
    add_completion=False, help="Why something is permitted or denied, and what would change it."
)

ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="EXECUTOR",
        help="A SPIFFE ID, or the path of one of the own organisation; if not said, the executor "
        "of --client, or the holder of the lease.",
    ),
]
AtOption = Annotated[
    int | None,
    typer.Option(
        "--at",
        min=0,
        max=MAX_INTEGER,
        metavar="INDEX",
        help="As it was when the ledger had recorded this entry: the ledger is fetched, and "
        "decided again up to there.",
    ),
]


@dataclass(frozen=True, slots=True)
class _Told:
    """An explanation at the state of a ledger of so many entries, and at its time. more: what to
    show besides."""

    explanation: Explanation
    size: int
    time_ms: int
    more: dict[str, object]


@dataclass(frozen=True, slots=True)
class _How:
    """Whom to ask, and how to show it."""

    org: Path | None
    client: Path | None
    genesis: Path | None
    address: str
    timeout: int
    output: Output

    def executor(self, text: str) -> str:
        """Whom it is about; empty: nobody was named. Raises MalformedError."""
        if text:
            if self.org is not None:
                return executor_id(Organisation.load(self.org), text)
            ids.check_executor(text)
            return text
        return "" if self.client is None else load_client(self.client).spiffe_id

    def ask(self, request: explain_pb2.ExplainRequest) -> None:
        """Of now."""
        if self.client is not None and self.org is None:
            target = executor_target(self.client, self.address, lease=True)
        else:
            target = choose_target(self.org, self.client, self.address)
        with Connection(target) as connection:
            answer = connection.ask(connection.explanations.Explain, request, self.timeout)
        show_explanation(of_node(answer), self.output)

    def ask_at(self, index: int, told: Callable[[StateView, int], Explanation]) -> None:
        """Of the past: the state after an entry, and its time."""

        def tell(past: Past) -> _Told:
            past.read_to(index + 1)
            time_ms = past.view.ledger_time()
            return _Told(told(past.view, time_ms), index + 1, time_ms, {})

        self.replay(index, tell)

    def replay(self, index: int, tell: Callable[[Past], _Told]) -> None:
        """Of a ledger that has this entry. Nothing is shown before all of it was verified."""
        target = choose_target(self.org, self.client, self.address)
        genesis = choose_genesis(self.org, self.genesis)
        quiet = self.output is Output.JSON
        with Connection(target) as connection, progress_bar(quiet=quiet) as progress:
            task = progress.add_task("deciding again", total=None)
            past = Past(
                connection,
                genesis,
                self.timeout,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
            past.require(index)
            told = tell(past)
            checkpoint = past.verify()
        value = of_past(told.explanation, told.size, told.time_ms)
        verified = {"size": checkpoint.size, "root": checkpoint.root.hex()}
        show_explanation({**value, **told.more, "verified": verified}, self.output)


@app.command("act")
def act(
    *,
    action: Annotated[str, typer.Option("--action", help="Like payments.transfer.")],
    resource: Annotated[
        str, typer.Option("--resource", help="Like //bank.example/accounts/payroll.")
    ],
    executor: ExecutorOption = "",
    parents: Annotated[
        list[str] | None,
        typer.Option(
            "--parent", metavar="LEASE", help="A lease that the work comes from; up to 8."
        ),
    ] = None,
    context: ContextOption = None,
    at: AtOption = None,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    genesis: GenesisOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Explain what a request for a lease would be answered, and ask for none.

    Exits 3 when it would be denied.
    """
    how = _How(org, client, genesis, address, timeout, output)
    whom, came_from = how.executor(executor), sorted(set(parents or ()))
    if not whom:
        raise MalformedError("which executor? Give --executor")
    if at is None:
        asked = explain_pb2.ExplainedAct(
            action=action, resource=resource, parents=came_from, context=context or []
        )
        how.ask(explain_pb2.ExplainRequest(executor=whom, act=asked))
        return
    if len(came_from) > MAX_PARENTS:
        raise MalformedError(f"work comes from at most {MAX_PARENTS} leases")
    said = tuple(sorted(context or (), key=lambda each: each.partition("=")[0]))
    check_whole_context(said)
    request = DecisionRequest(whom, action, resource, said)
    how.ask_at(at, lambda view, now_ms: explain(view, request, now_ms, came_from))


@app.command("lease")
def lease(
    lease_id: Annotated[str, typer.Argument(metavar="LEASE", help="The id of the lease.")],
    *,
    action: Annotated[
        str,
        typer.Option("--action", help="The act that it is to be used for; its own if not said."),
    ] = "",
    resource: Annotated[str, typer.Option("--resource", help="On what; its own if not said.")] = "",
    executor: ExecutorOption = "",
    at: AtOption = None,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    genesis: GenesisOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Explain whether a lease can be acted on, as a check of it would be answered.

    Exits 3 when it cannot.
    """
    how = _How(org, client, genesis, address, timeout, output)
    whom = how.executor(executor)
    if at is None:
        held = explain_pb2.ExplainedLease(lease_id=lease_id, action=action, resource=resource)
        how.ask(explain_pb2.ExplainRequest(executor=whom, lease=held))
        return

    def told(view: StateView, now_ms: int) -> Explanation:
        holder = whom or holder_of(view, lease_id)
        return explain_lease(view, lease_id, holder, action, resource, now_ms)

    how.ask_at(at, told)


@app.command("entry")
def entry(
    index: Annotated[
        int,
        typer.Argument(min=0, max=MAX_INTEGER, metavar="INDEX", help="An entry of the ledger."),
    ],
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    genesis: GenesisOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Explain why the ledger accepted or denied a command.

    The ledger is fetched, and decided again up to there. Exits 3 for a command that was denied.
    """

    def tell(past: Past) -> _Told:
        past.read_to(index)
        recorded, time_ms = past.peek(), past.view.ledger_time()
        explanation = recount(past.view, recorded)
        past.read_to(index + 1)  # only now is it known that it was decided rightly
        _require_same(explanation, recorded)
        told = {"index": index, "type": recorded.kind, "thing": recorded.thing}
        return _Told(explanation, index, time_ms, {"entry": told})

    _How(org, client, genesis, address, timeout, output).replay(index, tell)


def _require_same(explanation: Explanation, recorded: Entry) -> None:
    """The recorded decision was made again; an explanation of another would be a fault of ours."""
    reason = explanation.decision.reason if isinstance(explanation.decision, Deny) else None
    assert reason is recorded.reason, "explained as it was decided"
