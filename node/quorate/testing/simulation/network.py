"""The network between simulated nodes: one stream a direction, as `quorate.consensus.transport`.

Owns links: when one is up, what is on its way, how long that takes, and what is lost. Messages of a
link arrive in order, and are lost only together with the link, which its sender is told: a stream
that stalls is given up after 1.5 s, and dialled again. A stream needs its acknowledgements: when
packets get through in one direction only, the streams of both directions end.

`roughness` above 0 makes it worse than any transport: that share of the frames has messages lost
silently, repeated, or delivered late, out of order and after the link was renewed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from quorate.testing.simulation.world import NS_PER_MS, World
from quorate.v1 import peer_pb2 as pb

if TYPE_CHECKING:
    from quorate.testing.simulation.machine import Machine

LINK_TIMEOUT_NS: Final = 1_500 * NS_PER_MS
_IDLE_FRAME_NS: Final = 500 * NS_PER_MS
_REDIAL_NS: Final = 250 * NS_PER_MS
_DIAL_TIMEOUT_NS: Final = 2_000 * NS_PER_MS
_LATE_MEAN_S: Final = 0.4
_SLOW_NS: Final = 700 * NS_PER_MS

Frame = list[pb.PeerMessage]


@dataclass(eq=False)
class Link:
    """The stream from `sender` to `receiver`.

    cut: its messages do not get through, its acknowledgements do. blocked: the number of the
    present blockage, 0 when nothing blocks it.
    """

    sender: Machine
    receiver: Machine
    delay_ns: int
    jitter_s: float
    chance: random.Random
    up: bool = False
    cut: bool = False
    slow: bool = False
    blocked: int = 0
    epoch: int = 0
    last_arrival: int = 0
    stalled: list[Frame] = field(default_factory=list)


class Network:
    """All links between the machines of a world."""

    def __init__(
        self,
        world: World,
        delay_ms: tuple[float, float],
        roughness: float,
    ) -> None:
        """delay_ms: between which bounds each link's usual delay lies."""
        self._world = world
        self.roughness = roughness
        self._delay_ms = delay_ms
        self._blockages = 0
        self._closed: set[tuple[str, str]] = set()
        self._machines: list[Machine] = []
        self.links: dict[tuple[str, str], Link] = {}
        self._by_node: dict[tuple[str, str], Link] = {}

    def add(self, machine: Machine) -> None:
        """One more machine, with links to and from all others."""
        for other in self._machines:
            for a, b in ((machine, other), (other, machine)):
                chance = self._world.stream(f"link {a.name} {b.name}")
                link = Link(
                    a,
                    b,
                    delay_ns=int(chance.uniform(*self._delay_ms) * NS_PER_MS),
                    jitter_s=chance.uniform(0.02, 0.5) * self._delay_ms[1] / 1000,
                    chance=chance,
                )
                self.links[a.name, b.name] = self._by_node[a.node_id, b.node_id] = link
        self._machines.append(machine)

    # -- messages ----------------------------------------------------------------------------

    def send(self, sender: Machine, outbox: list[tuple[str, pb.PeerMessage]]) -> None:
        """Carries a turn's messages; those to one receiver travel together."""
        frames: dict[str, Frame] = {}
        for peer, message in outbox:
            frames.setdefault(peer, []).append(message)
        for peer, frame in frames.items():
            link = self._by_node.get((sender.node_id, peer))
            if link is not None and link.up:
                self._carry(link, frame)

    def _carry(self, link: Link, frame: Frame) -> None:
        world = self._world
        data = b"".join(message.SerializeToString() for message in frame)
        name = link.sender.name
        world.trace.note_bytes(world.now, name, f"to {link.receiver.name}", data, frame)
        if self.roughness and link.chance.random() < self.roughness:
            frame = self._roughen(link, frame)
        delay = link.delay_ns + int(link.chance.expovariate(1) * link.jitter_s * 1e9)
        if link.slow:
            delay += link.chance.randrange(_SLOW_NS)
        arrival = world.now + delay
        arrival = link.last_arrival = max(link.last_arrival, arrival)
        world.at(arrival, partial(self._arrive, link, link.epoch, frame))

    def _roughen(self, link: Link, frame: Frame) -> Frame:
        """What arrives in time of a frame; the rest is lost, or arrives when nobody expects it."""
        in_time: Frame = []
        for message in frame:
            fate = link.chance.randrange(8)
            if fate > 1:
                in_time.append(message)
            if fate in (1, 2, 3):
                late = int(link.chance.expovariate(1 / _LATE_MEAN_S) * 1e9)
                self._world.after(late, partial(self._hand_over, link, [message]))
        return in_time

    def _arrive(self, link: Link, epoch: int, frame: Frame) -> None:
        if link.epoch != epoch:
            return
        if link.cut or (link.sender.name, link.receiver.name) in self._closed:
            link.stalled.append(frame)
            return
        self._hand_over(link, frame)

    @staticmethod
    def _hand_over(link: Link, frame: Frame) -> None:
        # Parsed anew: what one node holds, another cannot change.
        copies = [pb.PeerMessage.FromString(message.SerializeToString()) for message in frame]
        link.receiver.receive(link, copies)

    # -- faults ------------------------------------------------------------------------------

    def cut(self, a: str, b: str) -> None:
        """No message gets from `a` to `b`; acknowledgements do."""
        self.links[a, b].cut = True
        self.look_again(a, b)

    def close(self, a: str, b: str) -> None:
        """No packet gets from `a` to `b`."""
        self._closed.add((a, b))
        self._look_again_between(a, b)

    def restore(self, a: str, b: str) -> None:
        """Undoes `cut`, `close` and `slow` from `a` to `b`."""
        self._closed.discard((a, b))
        self.links[a, b].cut = self.links[a, b].slow = False
        self._look_again_between(a, b)

    def heal(self) -> None:
        for a, b in self.links:
            self.restore(a, b)

    def isolate(self, group: Iterable[str]) -> None:
        """No packet crosses the border of `group`, either way."""
        inside = set(group)
        for a, b in self.links:
            if (a in inside) != (b in inside):
                self.close(a, b)

    def reset(self, a: str, b: str) -> None:
        """The stream from `a` to `b` breaks; `a` is told at once, and dials again."""
        link = self.links[a, b]
        self._drop(link)
        self._dial_later(link)

    # -- the life of a link ------------------------------------------------------------------

    def links_of(self, name: str) -> Iterator[Link]:
        return (link for pair, link in list(self.links.items()) if name in pair)

    def core_started(self, machine: Machine) -> None:
        """A new process: it dials, and is dialled."""
        for link in self.links_of(machine.name):
            self._look_again(link)

    def core_ended(self, machine: Machine) -> None:
        """The process is gone, its machine is not: the other ends of its streams see it."""
        for link in self.links_of(machine.name):
            self._drop(link)
            self._look_again(link)

    def machine_ended(self, machine: Machine) -> None:
        """The machine is gone, and tells nobody."""
        for link in self.links_of(machine.name):
            if link.sender is machine:
                self._drop(link)
            self._look_again(link)

    def core_stalled(self, machine: Machine) -> None:
        """The process stands still, or goes on."""
        for link in self.links_of(machine.name):
            self._look_again(link)

    def look_again(self, a: str, b: str) -> None:
        self._look_again(self.links[a, b])

    def _look_again_between(self, a: str, b: str) -> None:
        self._look_again(self.links[a, b])
        self._look_again(self.links[b, a])

    def _is_passable(self, link: Link) -> bool:
        a, b = link.sender.name, link.receiver.name
        return not (
            link.cut
            or not self._is_wanted(link)
            or (a, b) in self._closed
            or (b, a) in self._closed
            or not link.sender.answers
            or not link.receiver.answers
        )

    def _is_wanted(self, link: Link) -> bool:
        """Whether the sender knows the receiver, from its state or because it is dialled by it, and
        the receiver has not seen it retired."""
        sender, receiver = link.sender, link.receiver
        if not receiver.admits(sender):
            return False
        return sender.knows(receiver.node_id) or (
            self.links[receiver.name, sender.name].up and sender.admits(receiver)
        )

    def members_changed(self, machine: Machine) -> None:
        """What `machine` knows of the members has changed: links to who is none end."""
        for link in list(self.links_of(machine.name)):
            if link.up and not self._is_wanted(link):
                self._drop(link)
            self._look_again(link)

    def _look_again(self, link: Link) -> None:
        """Something about the link may have changed."""
        is_passable = self._is_passable(link)
        if is_passable and link.blocked:
            link.blocked = 0
        elif not is_passable and not link.blocked:
            self._blockages += 1
            link.blocked = self._blockages
            patience = LINK_TIMEOUT_NS + link.chance.randrange(_IDLE_FRAME_NS)
            self._world.after(patience, partial(self._time_out, link, link.blocked))
        if not (link.cut or (link.sender.name, link.receiver.name) in self._closed):
            stalled, link.stalled = link.stalled, []
            for frame in stalled:
                self._hand_over(link, frame)
        if is_passable and not link.up:
            self._dial_later(link)

    def _time_out(self, link: Link, blockage: int) -> None:
        if link.blocked == blockage and link.up:
            self._drop(link)

    def _drop(self, link: Link) -> None:
        """The link ends; what is on its way is lost, and the sender knows it."""
        link.epoch += 1
        link.stalled = []
        link.last_arrival = 0
        if link.up:
            link.up = False
            link.receiver.stream_ended(link)
            link.sender.told(link.receiver.node_id, is_up=False)

    def _dial_later(self, link: Link) -> None:
        delay = link.chance.randrange(_REDIAL_NS)
        if link.chance.random() < 0.2:  # an attempt of before has yet to give up
            delay += link.chance.randrange(_DIAL_TIMEOUT_NS)
        self._world.after(delay, partial(self._dial, link, link.epoch))

    def _dial(self, link: Link, epoch: int) -> None:
        if link.epoch == epoch and not link.up and self._is_passable(link):
            link.epoch += 1  # other attempts are void
            link.up = True
            link.sender.told(link.receiver.node_id, is_up=True)
            self.look_again(link.receiver.name, link.sender.name)  # it is known there now
