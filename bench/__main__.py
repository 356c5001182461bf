"""Runs the benchmarks and prints their ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench import ancestry, beside_etcd, cached, client, etcd, growth, policing, public
from bench.beside_etcd import Peer, Row
from bench.client import UnaryClient
from bench.etcd import Etcd
from bench.federation import Federation, running
from bench.group import Group
from bench.pace import Pace
from bench.stopping import Spans, Stopping
from bench.watchers import many_watchers
from quorate.chaos.cluster import Cluster

SECTIONS = (
    "consensus",
    "checks",
    "edges",
    "cached",
    "watchers",
    "revoking",
    "stopping",
    "writes",
    "reads",
    "commands",
    "growth",
    "ancestry",
    "policies",
)
console = Console(stderr=True)


@dataclass
class Results:
    """What was measured. notes: what could not be, and why."""

    ratios: dict[str, float] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)
    spans: list[Spans] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    etcd: str = ""


class Bench:
    """The chosen sections, one after the other. Whatever is not measured is not running, but for
    the federation, which is made once."""

    def __init__(self, directory: Path, pace: Pace, stack: ExitStack) -> None:
        self.results = Results()
        self._directory = directory
        self._pace = pace
        self._stack = stack
        self._made: Federation | None = None
        self._client: UnaryClient | None = None
        self._stops: Stopping | None = None

    def consensus(self) -> None:
        with self._etcd("consensus") as peer, Group(self._directory / "group") as group:
            self.results.rows["consensus"] = beside_etcd.consensus(group, peer, self._pace)

    def checks(self) -> None:
        self._called("checks", public.check_against_echo)

    def edges(self) -> None:
        self._called("edges", public.edges_against_one)

    def watchers(self) -> None:
        self.results.ratios |= many_watchers(self._federation(), self._pace)

    def cached(self) -> None:
        self.results.ratios |= cached.cached_check(self._pace)

    def revoking(self) -> None:
        self.results.spans += self._stopping().revocations()

    def stopping(self) -> None:
        self.results.spans += self._stopping().faults()

    def writes(self) -> None:
        self._called("writes", public.writes_against_fsync)

    def reads(self) -> None:
        self._compared("reads", beside_etcd.reads)

    def commands(self) -> None:
        self._compared("commands", beside_etcd.commands)

    def growth(self) -> None:
        self.results.ratios |= growth.growth(self._directory, self._pace)

    def ancestry(self) -> None:
        self.results.ratios |= ancestry.ancestry(self._directory, self._pace)

    def policies(self) -> None:
        self.results.ratios |= policing.policing(self._directory, self._pace)

    def _called(
        self, section: str, measure: Callable[[Federation, UnaryClient, Pace], public.Ratios]
    ) -> None:
        """What is measured through the public API, if the client can be built."""
        if self._is_missing(section, client.missing()):
            return
        self.results.ratios |= measure(self._federation(), self._built(), self._pace)

    def _compared(
        self, section: str, measure: Callable[[Federation, Peer, Pace], list[Row]]
    ) -> None:
        with self._etcd(section) as peer:
            if peer is not None:
                self.results.rows[section] = measure(self._federation(), peer, self._pace)

    def _stopping(self) -> Stopping:
        """One for both sections: what it revokes has a name of its own each time."""
        if self._stops is None:
            federation = self._federation()
            self._stops = Stopping(federation.cluster, federation.crew, self._pace)
        return self._stops

    def _federation(self) -> Federation:
        if self._made is None:
            cluster = Cluster(self._directory / "federation", progress=console.print)
            self._made = self._stack.enter_context(running(self._stack.enter_context(cluster)))
        return self._made

    @contextmanager
    def _etcd(self, section: str) -> Iterator[Peer | None]:
        """None, with a note, when something that it needs is not installed."""
        if self._is_missing(section, etcd.missing(), client.missing()):
            yield None
            return
        with Etcd(self._directory / f"etcd-{section}") as running_etcd:
            self.results.etcd = running_etcd.version
            yield Peer(running_etcd, self._built())

    def _is_missing(self, section: str, *found: str) -> bool:
        """Whether something is; said at once, and once more at the end."""
        problems = [f"{section}: {problem}" for problem in found if problem]
        for problem in problems:
            console.print(f"[bold yellow]{problem}[/]")
        self.results.notes += problems
        return bool(problems)

    def _built(self) -> UnaryClient:
        if self._client is None:
            self._client = UnaryClient.build(self._directory)
        return self._client


def show(results: Results) -> None:
    """The ratios, and the comparisons with etcd, as tables."""
    out = Console()
    if results.ratios:
        table = Table("ratio, or figure", "median")
        for name, value in results.ratios.items():
            table.add_row(name, f"{value:.2f}")
        out.print(table)
    for section, rows in results.rows.items():
        out.print(_beside_etcd(section, rows))
    if results.spans:
        out.print(_spans(results.spans))
    for note in results.notes:
        out.print(f"[yellow]not measured: {note}[/]")


def _spans(spans: Sequence[Spans]) -> Table:
    table = Table("until nobody acts, ms", box=SIMPLE)
    for name in ("times", "median", "p99", "worst", "bound"):
        table.add_column(name, justify="right")
    for each in spans:
        values = (each.median, each.p99, each.worst, each.bound_ms)
        cells = ["" if value is None else f"{value:,.0f}" for value in values]
        table.add_row(each.what, str(len(each.samples)), *cells)
    return table


def _beside_etcd(section: str, rows: Sequence[Row]) -> Table:
    table = Table(
        title=f"{section}: medians; below, the medians of the ratios to etcd put",
        caption="CPU us: of all servers for one command; client: of the client for one call",
        box=SIMPLE,
    )
    for name in ("flight", "what", "a second", "p50 ms", "p99 ms", "CPU us", "client"):
        table.add_column(name, justify="left" if name == "what" else "right", no_wrap=True)
    flight = None
    for row in rows:
        if flight not in (None, row.flight):
            table.add_section()
        flight = row.flight
        cells = [
            _cell(f"{row.measured['rate']:,.0f}", row.ratios.get("rate")),
            _cell(f"{row.measured['p50_us'] / 1e3:.2f}", row.ratios.get("p50_us")),
            _cell(f"{row.measured['p99_us'] / 1e3:.2f}", row.ratios.get("p99_us")),
            _cell(f"{row.measured['cpu_us']:,.0f}", row.ratios.get("cpu_us")),
            f"{row.measured['client_cpu_us']:,.0f}" if row.measured["client_cpu_us"] else "",
        ]
        table.add_row(str(row.flight), row.what, *cells)
    return table


def _cell(value: str, ratio: float | None) -> str:
    return value if ratio is None else f"{value}\n[dim]{ratio:.2f} x[/]"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}")
    pace = Pace(options.rounds, options.seconds, console.print)
    with (
        tempfile.TemporaryDirectory(prefix="quorate-bench-") as directory,
        ExitStack() as stack,
    ):
        bench = Bench(Path(directory), pace, stack)
        for section in options.sections or SECTIONS:
            getattr(bench, section)()
        results = bench.results
    if options.output == "text":
        show(results)
        return
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "etcd": results.etcd or None,
    }
    document = {
        "machine": machine,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "ratios": results.ratios,
        "spans": [each.to_json() for each in results.spans],
        "notes": results.notes,
    }
    rows = {name: [row.to_json() for row in rows] for name, rows in results.rows.items()}
    print(json.dumps(document | rows))


if __name__ == "__main__":
    main()
