"""Memory and disk that grow are found, in samples that leak one way at a time."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quorate.chaos.demo.claims import Claim
from quorate.chaos.parts import CORE, EDGE
from quorate.chaos.soak.bounds import (
    ENTRY_BYTES,
    LIFE_GROWTH_BYTES,
    LOG_SLACK_ENTRIES,
    MIB,
    NEWBORN_GROWTH_BYTES,
    PEAK_BYTES,
    UNUSED_BYTES,
    Bounds,
    disk_claims,
    memory_claims,
)
from quorate.chaos.soak.samples import DiskSample, MemorySample

SECONDS = 1_800.0
EVERY_S = 3
COMMANDS_A_SECOND = 40
SLOW_START_S = 18
BOUNDS = Bounds(SECONDS, log_tail=8_000, max_log_entries=10_000)

Grown = Callable[[float, float], float]
"""Bytes that a process holds beyond its usual size: (when it was born, its age), seconds."""


def no_leak(_born_s: float, _age_s: float) -> float:
    return 0.0


def samples(part: str, grown: Grown, *, births: tuple[int, ...] = (0, 60, 100, 160, 1_200, 1_260)):
    """One process after the other; the last but two lives long. Noise of 1 MiB; 8 MiB of cache
    that fill in the first five minutes of a core's life; nothing imported yet when it is born."""
    chance = random.Random(part)  # noqa: S311 - noise
    ends = (*births[1:], int(SECONDS))
    for number, (born, end) in enumerate(zip(births, ends, strict=True)):
        for at_s in range(born, end, EVERY_S):
            age_s = at_s - born
            usual = 40 * MIB + (8 * MIB * min(1.0, age_s / 300) if part == CORE else 0)
            size = usual + chance.uniform(0, MIB) + grown(born, age_s)
            anon = int(size) if age_s >= SLOW_START_S else 5 * MIB
            settled = age_s > SLOW_START_S
            yield MemorySample(at_s, "bank.example", part, f"{number}", age_s, settled, anon)


def both(core: Grown = no_leak, edge: Grown = no_leak) -> list[MemorySample]:
    return [*samples(CORE, core), *samples(EDGE, edge)]


def failed(claims: list[Claim]) -> list[str]:
    return [claim.id for claim in claims if not claim.holds]


def test_a_cache_that_fills_and_noise_are_no_leak() -> None:
    claims = memory_claims(both(), BOUNDS)
    assert failed(claims) == []
    assert {claim.id.split(".")[1] for claim in claims} == {CORE, EDGE}


@pytest.mark.parametrize("bytes_a_command", [1_000, 2_000])
def test_a_core_that_keeps_every_command_is_found(bytes_a_command: int) -> None:
    def leak(_born_s: float, age_s: float) -> float:
        return bytes_a_command * COMMANDS_A_SECOND * age_s

    assert "memory.core.life" in failed(memory_claims(both(core=leak), BOUNDS))


def test_an_edge_that_keeps_something_of_every_check_is_found() -> None:
    def leak(_born_s: float, age_s: float) -> float:
        return 300 * COMMANDS_A_SECOND * age_s

    assert failed(memory_claims(both(edge=leak), BOUNDS)) == ["memory.edge.life"]


@pytest.mark.parametrize("part", [CORE, EDGE])
def test_a_process_that_is_born_larger_the_larger_the_ledger_is_found(part: str) -> None:
    def loaded(born_s: float, _age_s: float) -> float:
        return 200 * COMMANDS_A_SECOND * born_s

    claims = memory_claims(both(**{part: loaded}), BOUNDS)
    assert failed(claims) == [f"memory.{part}.newborn"]


def test_a_single_high_sample_is_a_peak_and_no_growth() -> None:
    def spike(born_s: float, age_s: float) -> float:
        return 300 * MIB if (born_s, age_s) == (160, 999) else 0.0

    assert failed(memory_claims(both(core=spike), BOUNDS)) == ["memory.core.peak"]


def test_where_no_process_lives_long_nothing_is_shown() -> None:
    births = tuple(range(0, int(SECONDS), 60))
    short = [*samples(CORE, no_leak, births=births), *samples(EDGE, no_leak)]
    assert failed(memory_claims(short, BOUNDS)) == ["memory.core.age"]


def test_where_no_process_is_born_late_nothing_is_shown() -> None:
    old = [*samples(CORE, no_leak, births=(0, 60, 100)), *samples(EDGE, no_leak)]
    assert failed(memory_claims(old, BOUNDS)) == ["memory.core.newborns"]


def test_without_samples_nothing_holds() -> None:
    assert {"memory.core.age", "memory.edge.age"} <= set(failed(memory_claims([], BOUNDS)))
    assert {"disk.grown", "disk.log.seen"} <= set(failed(disk_claims([], BOUNDS)))


# -- disk ------------------------------------------------------------------------------------


def store(
    log_kept: Callable[[int], int],
    *,
    entry_bytes: int = 2_000,
    unused_bytes: int = MIB,
    state_bytes: int = MIB,
    rate: int = COMMANDS_A_SECOND,
) -> Iterator[DiskSample]:
    for at_s in range(0, int(SECONDS), EVERY_S):
        entries = rate * at_s
        log_entries = log_kept(entries)
        used = entries * entry_bytes + log_entries * 700
        yield DiskSample(
            at_s=at_s,
            domain="bank.example",
            file_bytes=used + unused_bytes,
            used_bytes=used,
            state_bytes=state_bytes,
            log_bytes=log_entries * 700,
            log_entries=log_entries,
            ledger_entries=entries,
        )


def everything(entries: int) -> int:
    return entries


def compacted(entries: int) -> int:
    """Up to the bound, then cut."""
    return entries if entries < 9_000 else 5_000 + entries % 4_000


def test_a_log_that_is_compacted_holds() -> None:
    assert failed(disk_claims(list(store(compacted)), BOUNDS)) == []


def test_a_log_that_is_never_compacted_is_found() -> None:
    assert failed(disk_claims(list(store(everything)), BOUNDS)) == ["disk.log"]


def test_a_bound_that_was_never_reached_is_not_shown() -> None:
    assert failed(disk_claims(list(store(everything, rate=1)), BOUNDS)) == ["disk.log.seen"]


def test_pages_that_are_never_used_again_are_found() -> None:
    claims = disk_claims(list(store(compacted, unused_bytes=66 * MIB)), BOUNDS)
    assert failed(claims) == ["disk.unused"]


def test_the_pages_of_a_state_that_a_snapshot_replaced_may_be_unused() -> None:
    replaced = store(compacted, unused_bytes=100 * MIB, state_bytes=90 * MIB)
    assert failed(disk_claims(list(replaced), BOUNDS)) == []


def test_a_store_that_grows_by_too_much_for_an_entry_is_found() -> None:
    claims = disk_claims(list(store(compacted, entry_bytes=4_200)), BOUNDS)
    assert failed(claims) == ["disk.entry"]


def test_the_worst_node_counts() -> None:
    other = [
        DiskSample(
            at_s=sample.at_s,
            domain="clinic.example",
            file_bytes=sample.file_bytes,
            used_bytes=sample.used_bytes,
            state_bytes=sample.state_bytes,
            log_bytes=sample.log_bytes,
            log_entries=sample.ledger_entries,
            ledger_entries=sample.ledger_entries,
        )
        for sample in store(compacted)
    ]
    assert failed(disk_claims([*store(compacted), *other], BOUNDS)) == ["disk.log"]


def test_the_page_names_these_bounds() -> None:
    page = (Path(__file__).parents[4] / "docs" / "chaos.md").read_text()
    table = page.partition("| claim | bound |")[2].partition("\n\n")[0]
    shown = [int(number) for row in table.splitlines()[2:] for number in _BOUNDS.findall(row)]
    of_parts = (LIFE_GROWTH_BYTES, NEWBORN_GROWTH_BYTES, PEAK_BYTES)
    expected = [bounds[part] // MIB for bounds in of_parts for part in (CORE, EDGE)]
    assert shown == [*expected, ENTRY_BYTES, UNUSED_BYTES // MIB, LOG_SLACK_ENTRIES]


_BOUNDS = re.compile(r"(\d+) (?:MiB|bytes|entries)")
