"""`quorate federation`: where the commands about the federation as a whole hang.

Loads what they stand on, which is much of a node, only when one of them is used.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import typer
from typer.core import TyperGroup

_RECOVER: Final = "recover"


class FederationGroup(TyperGroup):
    """Imports `quorate.cli.recover` when one of its commands is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [_RECOVER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name != _RECOVER:
            return None
        group: Any = typer.main.get_command(importlib.import_module("quorate.cli.recover").app)
        group.name = _RECOVER
        return group


app = typer.Typer(cls=FederationGroup, add_completion=False, help="The federation as a whole.")


@app.callback()
def _federation() -> None:
    """The federation as a whole: recovery, when its quorum is lost for good."""
