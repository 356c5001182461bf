"""`quorate exec`: any program, run under a lease (`quorate.runner`).

Owns the command line and what is told of the ending. The standard output is the program's; all of
ours goes to standard error.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Final

import typer

from quorate.cli.errors import InterruptedOutcomeError, interruptions
from quorate.cli.options import ClientOption, duration_ms
from quorate.cli.output import ExitCode, Output, OutputOption, print_error
from quorate.client import Denied, Gate, Lease, load_config
from quorate.core.errors import MalformedError
from quorate.runner.contained import Contained
from quorate.runner.leased import Ending, run

app = typer.Typer(add_completion=False)

DEFAULT_TTL_MS: Final = 10 * 60 * 1_000
DEFAULT_GRACE_MS: Final = 2_000
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
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze", help="Let the command stand still while it is denied, if that may pass."
        ),
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a program under a lease: it is started with a permit, and ended when there is none.

    Exits with the program's own code, 128 and the number for a signal; 3 when it was denied.
    """
    config = load_config(client)
    lease: Lease | Denied
    with Contained(command, grace_ms=grace, freeze=freeze) as contained, Gate.open(config) as gate:
        lease = _acquire(gate, action, resource, ttl)
        ending = Ending(denied=lease) if isinstance(lease, Denied) else run(gate, lease, contained)
    raise typer.Exit(_told(ending, command[0], lease, output))


def _acquire(gate: Gate, action: str, resource: str, ttl_ms: int) -> Lease | Denied:
    request_id = uuid.uuid4().hex
    message = "interrupted: nothing was started; it is not known whether the lease was granted"
    hint = "if it was, it lapses by itself"
    details: dict[str, object] = {"request_id": request_id}
    with interruptions(lambda: InterruptedOutcomeError(message, hint=hint, details=details)):
        return gate.acquire(action, resource, ttl_ms, request_id=request_id)


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
