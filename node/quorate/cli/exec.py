"""`quorate exec`: any program, run under a lease (`quorate.runner`).

Owns the command line and what is told of the ending. The standard output is the program's; all of
ours goes to standard error.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from typing import Annotated, Final

import typer

from quorate.cli.errors import InterruptedOutcomeError, interruptions
from quorate.cli.options import ClientOption, ContextOption, context_of, duration_ms
from quorate.cli.output import ExitCode, Output, OutputOption, print_error, print_warning
from quorate.client import Denied, Gate, Lease, load_config
from quorate.core.errors import MalformedError
from quorate.runner.contained import Contained
from quorate.runner.leased import Ending, run
from quorate.runner.output import PassedOn
from quorate.runner.record import Record

app = typer.Typer(add_completion=False)

DEFAULT_TTL_MS: Final = 10 * 60 * 1_000
DEFAULT_GRACE_MS: Final = 2_000
DIGEST_S: Final = 2.0
"""How long whoever reads the standard output may take for the rest of it to be in the digest."""
REPORT_S: Final = 2.0
"""How long the node may take for the last events."""
MAX_GRACE_MS: Final = 60 * 60 * 1_000


def _grace_ms(text: str | int) -> int:
    length = duration_ms(text)
    if length > MAX_GRACE_MS:
        raise MalformedError(f"a grace of {text}", hint="give at most 1h")
    return length


@app.command("exec", context_settings={"allow_interspersed_args": False})
def exec_(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="What to run, with its arguments; after --."),
    ],
    *,
    client: ClientOption,
    action: Annotated[str, typer.Option("--action", help="Like payments.transfer.")],
    resource: Annotated[
        str, typer.Option("--resource", help="Like //bank.example/accounts/payroll.")
    ],
    ttl: Annotated[
        int,
        typer.Option(
            "--ttl",
            parser=duration_ms,
            metavar="DURATION",
            show_default="10m",
            help="The wished life of the lease, which is renewed while the command runs.",
        ),
    ] = DEFAULT_TTL_MS,
    grace: Annotated[
        int,
        typer.Option(
            "--grace",
            parser=_grace_ms,
            metavar="DURATION",
            show_default="2s",
            help="From SIGTERM to SIGKILL, when the lease is gone; 0s: SIGKILL at once.",
        ),
    ] = DEFAULT_GRACE_MS,
    context: ContextOption = None,
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze", help="Let the command stand still while it is denied, if that may pass."
        ),
    ] = False,
    digest: Annotated[
        bool,
        typer.Option(
            "--digest/--no-digest",
            help="Pass the command's standard output through a pipe, and report its digest; never "
            "to a terminal.",
        ),
    ] = True,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a program under a lease: it is started with a permit, and ended when there is none.
    That it started, stood still, and how it ended is reported to the ledger.

    Exits with the program's own code, 128 and the number for a signal; 3 when it was denied.
    """
    config, said = load_config(client), context_of(context)
    lease: Lease | Denied
    with PassedOn(is_wanted=digest) as stdout, ExitStack() as stack:
        contained = stack.enter_context(
            Contained(command, grace_ms=grace, freeze=freeze, stdout=stdout.write_end)
        )
        stdout.started()
        gate = stack.enter_context(Gate.open(config))
        lease = _acquire(gate, action, resource, ttl, said)
        if isinstance(lease, Denied):
            ending, missing = Ending(denied=lease), ""
        else:
            record = Record(lease, command)
            ending = run(gate, lease, contained, record)
            missing = _recorded(record, ending, stdout)
    if missing:
        print_warning(f"the ledger is not told all of this run: {missing}", output=output)
    code = _told(ending, command[0], lease, output)
    if stdout.problem:
        print_warning(f"the command's output is not all written: {stdout.problem}", output=output)
        code = code or ExitCode.ERROR
    raise typer.Exit(code)


def _recorded(record: Record, ending: Ending, stdout: PassedOn) -> str:
    """What the ledger will not be told of the run; empty: nothing is missing."""
    if ending.denied is not None:
        record.interrupted(ending.denied.reason)
    if ending.has_started:
        code = ending.code if ending.denied is None else None
        record.ended(code, stdout.digest(DIGEST_S))
    told = record.finish(REPORT_S)
    if isinstance(told, Denied):
        return str(told)
    return "" if told else "the node did not answer in time"


def _acquire(
    gate: Gate, action: str, resource: str, ttl_ms: int, context: dict[str, str]
) -> Lease | Denied:
    request_id = uuid.uuid4().hex
    message = "interrupted: nothing was started; it is not known whether the lease was granted"
    hint = "if it was, it lapses by itself"
    details: dict[str, object] = {"request_id": request_id}
    with interruptions(lambda: InterruptedOutcomeError(message, hint=hint, details=details)):
        return gate.acquire(action, resource, ttl_ms, context=context, request_id=request_id)


def _told(ending: Ending, program: str, lease: Lease | Denied, output: Output) -> int:
    """Says on standard error what the command itself cannot have said; returns the exit code."""
    if ending.denied is not None:
        what = "stopped" if ending.has_started else "not started"
        details: dict[str, object] = {
            "reason": str(ending.denied.reason),
            "thing": ending.denied.thing,
            "lease_id": "" if isinstance(lease, Denied) else lease.id,
            "started": ending.has_started,
        }
        hint = "run it again when the reason no longer holds"
        if ending.denied.unknown:
            hint = "the lease may have been granted nevertheless; then it lapses by itself"
        message = f"{what}: {ending.denied}"
        return print_error("denied", message, hint, ExitCode.DENIED, output=output, details=details)
    if ending.problem:
        print_error("command", f"{program}: {ending.problem}", "", ExitCode.ERROR, output=output)
    return ending.code
