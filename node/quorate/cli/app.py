"""The root of the command line.

Owns the list of the groups, their loading on use, and the turning of every operating error into one
line, a hint and an exit code.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from quorate.cli import given
from quorate.cli.errors import classify
from quorate.cli.output import ExitCode, Output, print_error
from quorate.core.errors import QuorateError

# gRPC writes its own lines to stderr, where errors must be pure JSON; it reads this when imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

_GROUPS: Final = {
    "init": "init:app",
    "genesis": "genesis:app",
    "node": "node:app",
    "federation": "federation:app",
    "status": "status:status_app",
    "members": "status:members_app",
    "domain": "domain:app",
    "key": "key:app",
    "command": "command:app",
    "proposal": "proposal:app",
    "operator": "renew:operator_app",
    "executor": "executor:app",
    "trust": "trust:app",
    "grant": "grant:app",
    "resources": "resources:app",
    "attestation": "attestation:app",
    "policy": "policy:app",
    "lease": "lease:app",
    "exec": "exec:app",
    "explain": "explain:app",
    "lineage": "lineage:app",
    "ledger": "ledger:app",
    "proof": "proof:app",
    "verify": "verify:app",
    "outcome": "outcome:app",
    "demo": "demo:app",
    "chaos": "chaos:app",
}


class RootGroup(TyperGroup):
    """Imports a group's module when the group is used: `quorate lease check` pays for itself only,
    and no command pays for the server."""

    # The parameters are typer's private types; typer itself calls these with nothing else.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_GROUPS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        where = _GROUPS.get(cmd_name)
        if where is None:
            return None
        module, attribute = where.split(":")
        group = getattr(importlib.import_module(f"quorate.cli.{module}"), attribute)
        command = typer.main.get_command(group)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in _GROUPS and not args[0].startswith("-"):
            near = [f" Did you mean '{name}'?" for name in get_close_matches(args[0], _GROUPS, n=1)]
            ctx.fail(f"No such command '{args[0]}'.{''.join(near)}")
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        sys.exit(_run(super().main, arguments, prog_name or "quorate", extra))


def _run(run: Any, arguments: list[str], prog_name: str, extra: dict[str, Any]) -> int:
    output = _wished_output(arguments)
    try:
        code = run(args=arguments, prog_name=prog_name, **extra)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f"see `{context.command_path} --help`" if context is not None else ""
        return print_error("usage", error.format_message(), hint, ExitCode.USAGE, output=output)
    except typer.Abort:
        hint = "answer with y, or give --yes to sign without being asked"
        return print_error("aborted", "nothing was done", hint, ExitCode.ERROR, output=output)
    except QuorateError as error:
        kind, exit_code = classify(error)
        details = getattr(error, "details", {})
        return print_error(kind, str(error), error.hint, exit_code, output=output, details=details)
    except BrokenPipeError:
        # Whoever read our output has had enough. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.ERROR
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return print_error("system", message, "", ExitCode.ERROR, output=output)
    return code if isinstance(code, int) else ExitCode.OK


def _wished_output(arguments: Sequence[str]) -> Output:
    """How to print an error that comes before, or from, the reading of the arguments."""
    for position, argument in enumerate(arguments):
        if argument == "--":
            break
        value = arguments[position + 1 : position + 2] if argument in ("--output", "-o") else ()
        if argument == "--output=json" or list(value) == ["json"]:
            return Output.JSON
    return Output.TEXT


app = typer.Typer(
    cls=RootGroup,
    add_completion=False,
    # Its pretty traces print local variables, and ours hold private keys.
    pretty_exceptions_enable=False,
    help="A governance ledger for federations: execution leases, denied when a quorum is lost.",
    epilog="Exit codes: 0 done or permitted, 1 error, 2 usage, 3 denied, 4 outcome unknown, "
    "5 node unreachable, 6 verification failed, 130 interrupted.",
)


def _print_version(wished: bool) -> None:
    if wished:
        metadata = importlib.import_module("importlib.metadata")
        typer.echo(f"quorate {metadata.version('quorate')}")
        raise typer.Exit


@app.callback()
def _root(
    governance_key: Annotated[
        list[str] | None,
        typer.Option(
            "--governance-key",
            metavar="KEY",
            help="What the organisation's command is signed with, instead of its governance.key: a "
            "file, - for stdin, or a pkcs11: URI. Repeatable.",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            metavar="FILE",
            help="Keep the organisation's command in a new file, and submit it nowhere: others "
            "sign it with `quorate command sign`.",
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Makes the app a group, although its commands are in other modules."""
    given.set_given(tuple(governance_key or ()), save)


def main() -> int:
    """The entry point of the `quorate` script."""
    app(prog_name="quorate")
    return ExitCode.OK
