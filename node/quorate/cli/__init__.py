"""The command line: `quorate`.

Owns what a person and a script see: commands, tables, JSON, exit codes. One module per group of
commands, imported when the group is used; the rules live in the packages below.
"""

from __future__ import annotations

from quorate.cli.app import main

__all__ = ["main"]
