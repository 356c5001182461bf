"""What a person sees of the demonstration.

Owns words, colours and the summary. On a terminal there are colours; elsewhere, and with NO_COLOR,
plain lines. Decides nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

from quorate.chaos.demo.claims import Claim


class Narrator:
    """Tells the story as it goes, each line with the seconds since the beginning.

    output: "text" on standard output; with "json" the story goes to standard error, and standard
    output gets one document.
    """

    def __init__(self, output: str, console: Console | None = None) -> None:
        self._json = output == "json"
        self._console = console or Console(stderr=self._json, highlight=False, soft_wrap=True)
        self._start = time.monotonic()
        self.claims: list[Claim] = []

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def act(self, title: str) -> None:
        """A new part of the story begins."""
        self._console.print()
        self._console.print(Rule(f"[bold]{escape(title)}[/]", align="left", style="cyan"))

    def say(self, words: str) -> None:
        """One line. `words` may carry rich's markup, and nothing that came from outside may."""
        self._console.print(f"[dim]{self.elapsed_s:6.1f}s[/]  {words}")

    def tell(self, words: str) -> None:
        """One line of plain words."""
        self.say(escape(words))

    def command(self, line: str) -> None:
        """One line to copy into a shell: nothing stands before it, and nothing breaks it."""
        self._console.print(line, markup=False)

    def claim(self, claim: Claim) -> None:
        """Shows a claim, and remembers it for the summary."""
        self.claims.append(claim)
        mark = "[bold green]holds[/]" if claim.holds else "[bold red]FAILS[/]"
        shown = f"{claim.measured} {claim.relation} {claim.bound} {claim.unit}".rstrip()
        self.say(f"{mark}  {escape(claim.statement)}: [bold]{escape(shown)}[/]")

    def failed(self, words: str, hint: str) -> None:
        """The demonstration could not go on."""
        self._console.print(f"\n[bold red]The demonstration could not go on:[/] {escape(words)}")
        if hint:
            self._console.print(f"[yellow]{escape(hint)}[/]")

    def summary(self, problem: str) -> bool:
        """The table of all claims, and the JSON document; returns whether all held."""
        holds = all_hold(self.claims, problem)
        table = Table(title="What was claimed, and what was measured", title_justify="left")
        table.add_column("")
        table.add_column("claim")
        table.add_column("measured", justify="right")
        table.add_column("bound", justify="right")
        for claim in self.claims:
            table.add_row(
                "[green]holds[/]" if claim.holds else "[bold red]FAILS[/]",
                escape(claim.statement),
                escape(f"{claim.measured} {claim.unit}".rstrip()),
                escape(f"{claim.relation} {claim.bound} {claim.unit}".rstrip()),
            )
        self._console.print()
        self._console.print(table, soft_wrap=False)
        word = "[bold green]Every claim held[/]" if holds else "[bold red]Not every claim held[/]"
        self._console.print(f"{word} ({len(self.claims)} claims, {self.elapsed_s:.0f} s).")
        if self._json:
            document = {
                "holds": holds,
                "problem": problem,
                "duration_s": round(self.elapsed_s, 1),
                "claims": [claim.to_json() for claim in self.claims],
            }
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
            sys.stdout.flush()
        return holds


def all_hold(claims: Sequence[Claim], problem: str) -> bool:
    """True when nothing went wrong, something was claimed, and every claim held."""
    return not problem and bool(claims) and all(claim.holds for claim in claims)
