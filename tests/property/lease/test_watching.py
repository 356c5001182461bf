"""What watchers hear, whenever they come, break off and come again, and however far the edge lags
behind: held to the ledger itself. Nothing of a lease is lost, told twice, or older than the lease;
and in the notices of one watcher the ledger never shrinks. Of what no entry says (what policies
mean for a lease, and whether enough was proved) something may be lost, and nothing is told that is
not so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.lease.test_lapsing import prove

from quorate.api import convert, tracking
from quorate.api.errors import OutOfRangeError
from quorate.api.notices import Notice, Watcher
from quorate.api.watch import WatchHub
from quorate.client.slot import PermitSlot
from quorate.client.watching import WatchTalk
from quorate.core.decision import check_lease
from quorate.core.effects import effect_of, things_of
from quorate.core.outcome import Permit, Reason
from quorate.lease import following
from quorate.telemetry import Metrics
from quorate.testing.builders import ORIGIN, acquire_body, svid_body
from quorate.testing.checks import ACTION, EXECUTOR, RESOURCE, Source, make_world

NODE = "spiffe://bank.example/node/1"
MOST_LEASES = 4

Told = tuple[str, str, int, bool | None]
"""One notice as a reader has it: lease, event, size, and whether the lease is good by the ledger;
None: it says nothing of that."""


def told_of(lease: str, event: str, size: int, reason: object) -> Told:
    is_good = event in {"ACTIVE", "RESTORED"}
    is_of_node = event == "AUTHORITY_LOST" or reason is Reason.INQUORATE
    return lease, event, size, None if is_of_node else is_good


@dataclass
class Plain:
    """Who watches one lease, and goes on with the size of the last notice, whichever that was."""

    lease: str
    after: int
    told: list[Told] = field(default_factory=list)
    before: list[tuple[int, list[Told]]] = field(default_factory=list)
    """What was told, and from where on, until something was missed."""

    async def open(self, hub: WatchHub, stack: AsyncExitStack, _leases: list[str]) -> Watcher:
        after = self.told[-1][2] if self.told else self.after
        return await stack.enter_async_context(hub.watch(EXECUTOR, (self.lease,), after_size=after))

    def read(self, notice: Notice) -> None:
        reason = notice.denial.reason if notice.denial else None
        self.told.append(
            told_of(notice.lease_id, notice.event.value, notice.at.ledger_size, reason)
        )

    def broke(self, error: Exception | None = None) -> None:
        if error is not None:
            self.before.append((self.after, self.told))
            self.after, self.told = 0, []


@dataclass
class Library:
    """The client's own talk, over all leases that there are; more are added meanwhile."""

    told: list[Told] = field(default_factory=list)
    before: list[tuple[int, list[Told]]] = field(default_factory=list)
    talk: WatchTalk = field(default_factory=lambda: WatchTalk("s" * 16))
    known: set[str] = field(default_factory=set)

    async def open(self, hub: WatchHub, stack: AsyncExitStack, leases: list[str]) -> Watcher:
        self.add(leases)
        said: list[Any] = []
        assert self.talk.begin(said.append)
        first, *more = said
        watcher = await stack.enter_async_context(
            hub.watch(EXECUTOR, tuple(first.lease_ids), after_size=first.after_size)
        )
        for request in more:
            await hub.add(watcher, tuple(request.lease_ids))
        return watcher

    def add(self, leases: list[str]) -> list[str]:
        fresh = [lease for lease in leases if lease not in self.known]
        for lease in fresh:
            self.known.add(lease)
            assert self.talk.add(lease, PermitSlot(make_world().clock))
        return fresh

    def read(self, notice: Notice) -> None:
        heard = self.talk.heard(convert.notice_to_wire(notice))
        if heard is not None:
            self.told.append(
                told_of(heard.lease_id, heard.event.value, heard.ledger_size, heard.reason)
            )

    def broke(self, error: Exception | None = None) -> None:
        self.talk.broken(error)
        if error is not None:
            self.before.append((0, self.told))
            self.told = []


class OutOfRange(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """What a client has of a stream that ends with OUT_OF_RANGE."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OUT_OF_RANGE

    def details(self) -> str:
        return "begin with 0"


class Scene:
    """A node, its hub, and who reads of it. The hub looks when it is told to, and not before."""

    def __init__(self) -> None:
        self.world = make_world()
        self.hub = WatchHub(
            self.world.checker, lambda: Source(self.world), self.world.clock, Metrics()
        )
        self.leases = [self.world.lease_id]
        self.readers: dict[int, Plain | Library] = {}
        self.watchers: dict[int, tuple[Watcher, AsyncExitStack]] = {}
        self.surprise: tuple[int, list[tuple[str, int]]] = (0, [])
        self.world.before_open = self.before_open
        self.unsaid: dict[str, set[int]] = {}
        """Entries that do not say what they are to a lease."""
        self.good: dict[int, set[str]] = {}
        """Which leases a check would find good, by the size of the ledger."""
        self.ledger_run, self.world.ledger.run = self.world.ledger.run, self.run_one

    def run_one(self, *command: Any) -> Any:
        applied, ledger = self.ledger_run(*command), self.world.ledger
        checked = {
            lease: check_lease(ledger.view, lease, EXECUTOR, "", "", ledger.now)[0]
            for lease in self.leases
        }
        self.good[self.size] = {each for each in checked if isinstance(checked[each], Permit)}
        return applied

    def before_open(self) -> None:
        """The core process commits whenever it likes: between any two looks at the ledger."""
        left, written = self.surprise
        self.surprise = (left - 1, written) if left else (0, [])
        for what, which in () if left else written:
            self.entry(what, which)

    @property
    def size(self) -> int:
        return len(self.world.ledger.entries)

    def entry(self, what: str, which: int) -> None:
        match what:
            case "acquire" if len(self.leases) < MOST_LEASES:
                body: dict[str, object] = acquire_body(
                    EXECUTOR, ACTION, RESOURCE, 60_000, [self.leases[which % len(self.leases)]]
                )
                outcome = self.world.ledger.run(NODE, "lease.acquire", body).outcome
                if outcome.accepted:
                    self.leases.append(str(outcome.result["lease"]))
            case "release":
                body = {"lease": self.leases[which % len(self.leases)], "executor": EXECUTOR}
                self.world.ledger.run(NODE, "lease.release", body)
            case "executor" | "grant":
                self.turn(what)
            case "both":
                self.turn("executor")
                self.turn("grant")
            case "freeze":
                self.freeze(which)
            case "contain":
                self.contain(which)
            case "policies":
                text = POLICIES[which % len(POLICIES)]
                body = {"text": text} if text else {}
                verb = "policy.publish" if text else "policy.retire"
                self.world.ledger.run("bank.example", verb, body)
            case "reference":
                self.want()
            case "proof" if self.world.ledger.view.reference("bank.example", "key") is not None:
                prove(self.world)
            case "flap":
                self.turn("executor")
                self.turn("executor")

    def turn(self, kind: str) -> None:
        """Suspends it, or reinstates it."""
        body = {"executor": EXECUTOR} if kind == "executor" else {"grant": "g"}
        run = self.world.ledger.run
        if not run("bank.example", f"{kind}.suspend", body).outcome.accepted:
            assert run("bank.example", f"{kind}.reinstate", body).outcome.accepted

    def want(self) -> None:
        """Wants something proved, or no more."""
        body, run = svid_body("key", [EXECUTOR], 60_000), self.world.ledger.run
        if not run("bank.example", "attestation.set_reference", body).outcome.accepted:
            body = {"reference": "key"}
            assert run("bank.example", "attestation.retire_reference", body).outcome.accepted

    def freeze(self, which: int) -> None:
        """Freezes the bank's resources, for these leases or around them, or thaws them."""
        run, listed = self.world.ledger.run, LISTS[which % len(LISTS)]
        if not run("bank.example", "resources.freeze", {"actions": listed}).outcome.accepted:
            assert run("bank.example", "resources.thaw", {}).outcome.accepted

    def contain(self, which: int) -> None:
        """Contains the executor, or a lease, and what came from it, or lifts that."""
        body = {"lease": self.leases[which % len(self.leases)]} if which else {"executor": EXECUTOR}
        run = self.world.ledger.run
        if not run("bank.example", "executor.contain", body).outcome.accepted:
            assert run("bank.example", "executor.lift_containment", body).outcome.accepted

    async def look(self, *, is_told: bool = True) -> None:
        """is_told: that the ledger has moved; else it looks for another reason."""
        if is_told:
            self.hub.moved()
        self.hub._rested_s = 0
        await self.hub._look()

    async def join(self, number: int, which: int, after: int) -> None:
        if number in self.watchers:
            return
        if number not in self.readers:
            lease = self.leases[which % len(self.leases)]
            self.readers[number] = Plain(lease, after % (self.size + 1)) if number else Library()
        reader = self.readers[number]
        while True:
            stack = AsyncExitStack()
            try:
                watcher = await reader.open(self.hub, stack, self.leases)
                break
            except OutOfRangeError:
                reader.broke(OutOfRange())
        self.watchers[number] = watcher, stack

    async def add(self) -> None:
        library = self.readers.get(0)
        if isinstance(library, Library) and 0 in self.watchers:
            fresh = library.add(self.leases)
            if fresh:
                await self.hub.add(self.watchers[0][0], tuple(fresh))

    async def read(self, number: int, most: int) -> None:
        watcher, _ = self.watchers[number]
        for _ in range(min(most, len(watcher._queue))):
            self.readers[number].read(await watcher.next())
        if watcher.is_ending and not watcher._queue:
            with pytest.raises(OutOfRangeError):
                await watcher.next()
            await self.leave(number, OutOfRange())

    async def leave(self, number: int, error: Exception | None = None) -> None:
        if number in self.watchers:
            _, stack = self.watchers.pop(number)
            self.readers[number].broke(error)
            await stack.aclose()

    async def race(self, number: int, entries: list[tuple[str, int]]) -> None:
        """Entries come while the hub looks, and somebody joins."""

        async def write() -> None:
            for what, which in entries:
                self.entry(what, which)
                await asyncio.sleep(0)

        await asyncio.gather(self.look(), self.join(number, 0, 0), write(), self.add())

    async def run(self, script: Iterable[tuple[Any, ...]]) -> None:
        for step in script:
            match step:
                case ("entry", what, which):
                    self.entry(what, which)
                case ("look", is_told):
                    await self.look(is_told=is_told)
                case ("authority", has):
                    self.world.record = None
                    if has:
                        self.world.grant()
                    await self.look(is_told=False)
                case ("join", number, which, after):
                    await self.join(number, which, after)
                case ("add",):
                    await self.add()
                case ("read", number, most):
                    await self.join(number, most, most)
                    await self.read(number, most)
                case ("leave", number):
                    await self.leave(number)
                case ("surprise", after_looks, entries):
                    self.surprise = after_looks, entries
                case ("race", number, entries):
                    await self.race(number, entries)
        self.surprise = (0, [])
        self.world.grant()
        for _ in range(2):  # who is cut off the first time begins again
            for number in self.readers:
                await self.join(number, 0, 0)
            await self.look()
            await self.look()
            for number in self.readers:
                await self.read(number, 10_000)
        for number in self.readers:
            await self.leave(number)

    def states(self, lease_id: str) -> dict[int, bool]:
        """Whether the ledger has a lease good at each size, since it is there."""
        lease = self.world.ledger.view.lease(lease_id)
        assert lease is not None
        own, stopped = set(things_of(lease, ORIGIN)), set[str]()
        states = {lease.fence + 1: True}
        self.unsaid[lease_id] = set()
        for index in range(lease.fence + 1, self.size):
            effect = effect_of(index, self.world.ledger.entries[index])
            if effect is not None and effect.thing in own and not effect.spares(lease):
                if effect.is_unsaid:
                    self.unsaid[lease_id].add(index)
                else:
                    (stopped.discard if effect.reason is None else stopped.add)(effect.thing)
            states[index + 1] = lease_id in self.good[index + 1]
            assert states[index + 1] == (not stopped) or (not stopped and self.unsaid[lease_id])
        return states

    def check(self) -> None:
        for reader in self.readers.values():
            leases = reader.known if isinstance(reader, Library) else {reader.lease}
            after = 0 if isinstance(reader, Library) else reader.after
            for begun, told in [*reader.before, (after, reader.told)]:
                sizes = [size for _, _, size, _ in told]
                assert sizes == sorted(sizes), told
                is_last = told is reader.told
                for lease in leases:
                    own = [each for each in told if each[0] == lease]
                    assert own or not is_last, "whoever watches is told how it stands"
                    if own:
                        self._check(lease, own, begun, self.size if is_last else own[-1][2])

    def _check(self, lease: str, told: list[Told], after: int, until: int) -> None:
        states = self.states(lease)
        first = told[0][2]
        assert first >= min(states), f"older than the lease: {told}"
        for _, _, size, is_good in told:
            assert is_good is None or is_good == states[size], told
        begins = max(after, min(states)) if after else first
        heard = [states[begins], *(is_good for *_, is_good in told if is_good is not None)]
        true = [states[size] for size in range(begins, until + 1)]
        if not any(begins <= index < until for index in self.unsaid[lease]):
            assert _changes(heard) == _changes(true), told
        elif until == self.size:
            assert heard[-1] == true[-1], told


def _changes(states: list[bool]) -> list[bool]:
    """Each change once, whatever is said again in between."""
    return [now for before, now in pairwise([None, *states]) if now != before]  # type: ignore[misc]


LISTS = ([], [ACTION], ["others.*"])
ALL = "permit (principal, action, resource);"
POLICIES = (ALL, f"{ALL} forbid (principal, action, resource);", "")
WHAT = (
    *("executor", "executor", "grant", "grant", "freeze", "freeze", "flap", "flap", "both"),
    *("acquire", "acquire", "release", "contain", "contain", "contain"),
)
UNSAID = ("policies", "policies", "reference", "proof", "proof", *WHAT)
EXECUTOR_TURNS = ("executor", 0)
readers = st.integers(0, 2)


def steps_of(what: tuple[str, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    entries = st.tuples(st.sampled_from(what), st.integers(0, MOST_LEASES))
    return st.one_of(
        entries.map(lambda entry: ("entry", *entry)),
        entries.map(lambda entry: ("entry", *entry)),
        st.tuples(st.just("look"), st.booleans()),
        st.tuples(st.just("authority"), st.booleans()),
        st.tuples(
            st.just("join"),
            readers,
            st.integers(0, MOST_LEASES),
            st.one_of(st.just(0), st.integers(1, 20)),
        ),
        st.tuples(st.just("add")),
        st.tuples(st.just("read"), readers, st.integers(1, 4)),
        st.tuples(st.just("read"), readers, st.integers(1, 4)),
        st.tuples(st.just("leave"), readers),
        st.tuples(
            st.just("surprise"), st.integers(0, 5), st.lists(entries, min_size=1, max_size=3)
        ),
        st.tuples(st.just("race"), readers, st.lists(entries, max_size=4)),
    )


steps = steps_of(WHAT)


def run(script: Iterable[tuple[Any, ...]], most_behind: int = following.MAX_BEHIND) -> Scene:
    scene = Scene()
    with (
        patch.object(following, "MAX_BEHIND", most_behind),
        patch.object(tracking, "MAX_BEHIND", most_behind),
        patch.object(following, "MAX_FOLLOWED", 1),
        patch.object(tracking, "MAX_FOLLOWED", 1),
    ):
        asyncio.run(scene.run(script))
    scene.check()
    return scene


@settings(max_examples=120)
@given(st.lists(steps, min_size=10, max_size=50))
def test_nothing_is_lost_or_told_twice_or_out_of_order(script):
    run(script)


@settings(max_examples=120)
@given(st.lists(steps, min_size=10, max_size=50), st.integers(1, 6))
@example(
    [("race", 1, [EXECUTOR_TURNS]), *[("entry", *EXECUTOR_TURNS)] * 6, ("read", 0, 1)]
    + [("entry", *EXECUTOR_TURNS)] * 2,
    3,
)  # joined before all was read that others had watched
def test_what_an_edge_never_read_is_known_to_be_missed(script, most_behind):
    """Until there, and again from there on, it is as if there had been nothing else."""
    run(script, most_behind)


@settings(max_examples=120)
@given(st.lists(steps_of(UNSAID), min_size=10, max_size=50))
def test_what_no_entry_says_is_never_told_falsely(script):
    run(script)
