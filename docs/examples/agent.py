"""An agent whose three tools run only under leases.

    python agent.py billing

A model says which tool to call next, and this program calls it. Each call is an act under a lease
that names the tool's action and what it is used on. A denial ends the conversation: a model is not
asked to find another way.

There is no model here. `Script` plays one; a real one takes its place in `main`.
"""

import argparse
import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from quorate.client import AsyncGate, AsyncLeasePool, DeniedError, current_permit, governed

TASK: Final = "Remind everybody who has not paid."
INVOICES: Final = "//bank.example/invoices"
OUTBOX: Final = "//bank.example/outbox"
UNPAID: Final = {number: 10 * number for number in range(1, 31)}
"""What stands for a database: the amount of each invoice that is not paid."""

Tool = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Call:
    """A tool that a model wants called."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One step of the conversation: what was asked for, or what a tool gave back."""

    role: str
    content: Any


class Model(Protocol):
    """What a real model is put behind."""

    async def reply(self, messages: Sequence[Message]) -> Call | str:
        """The tool to call next, or the last word."""


class Script:
    """Plays a model: it says the same things in the same order, and reads the tools' answers."""

    def __init__(self) -> None:
        self._play = _conversation()

    async def reply(self, messages: Sequence[Message]) -> Call | str:
        try:
            return self._play.send(messages[-1].content if len(messages) > 1 else None)
        except StopIteration as end:
            return str(end.value)


def _conversation() -> Generator[Call, Any, str]:
    unpaid = yield Call("list_unpaid", {})
    for number in unpaid:
        amount = yield Call("read_invoice", {"number": number})
        yield Call("send_reminder", {"number": number, "text": f"Please pay {amount}."})
    return f"{len(unpaid)} customers were reminded."


def tools(pool: AsyncLeasePool, mail_s: float) -> dict[str, Tool]:
    """Everything that a model can do here, by name. mail_s: how long it takes to send a letter."""

    @governed(pool, "invoices.list", INVOICES)
    async def list_unpaid() -> list[int]:
        return sorted(UNPAID)

    # The model chooses the number; whether that invoice may be read is not its decision.
    @governed(pool, "invoices.read", lambda number: f"{INVOICES}/{number}")
    async def read_invoice(number: int) -> int:
        return UNPAID[number]

    @governed(pool, "mail.send", OUTBOX)
    async def send_reminder(number: int, text: str) -> str:
        permit = current_permit()
        assert permit is not None
        await asyncio.sleep(mail_s)  # stands for a mail server; cancelled when trust goes
        print(f"sent reminder {number} under fence {permit.fence}: {text}")
        return "sent"

    return {tool.__name__: tool for tool in (list_unpaid, read_invoice, send_reminder)}


async def use(tool: Tool | None, call: Call) -> Any:
    """What the tool gives back, or what the model did wrong. Raises DeniedError."""
    if tool is None:
        return f"there is no tool {call.tool}"
    try:
        inspect.signature(tool).bind(**call.arguments)
    except TypeError as error:
        return f"{call.tool}: {error}"
    return await tool(**call.arguments)


async def converse(model: Model, known: Mapping[str, Tool]) -> str:
    """Lets the model work until its last word. Raises DeniedError."""
    messages = [Message("user", TASK)]
    while isinstance(turn := await model.reply(messages), Call):
        result = await use(known.get(turn.tool), turn)
        messages += [Message("model", turn), Message("tool", result)]
    return turn


async def main(directory: Path, mail_s: float) -> int:
    async with AsyncGate.open(directory) as gate, AsyncLeasePool(gate) as pool:
        try:
            print(await converse(Script(), tools(pool, mail_s)))
        except DeniedError as error:
            print(f"stopped: {error.reason} {error.denied.thing}")
            return 3
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An agent whose tools run only under leases.")
    parser.add_argument("directory", type=Path, help="made by quorate executor issue")
    parser.add_argument("--mail-seconds", type=float, default=1.0, help="for one letter")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.directory, options.mail_seconds)))
