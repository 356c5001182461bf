"""An inbox over HTTP: a Starlette application whose requests run only under leases.

    python starlette_service.py billing 7501

The middleware is the outermost layer, so that nothing of the application runs before there is a
lease. Endpoints are coroutines: what Starlette runs in a thread cannot be stopped.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from quorate.client import AsyncGate, current_permit
from quorate.client.asgi import LeaseMiddleware, Scope
from quorate.client.governed import EXEMPT, Act, Exempt

INBOX: Final = "//bank.example/books/inbox"
ACTS: Final[dict[tuple[str, str], Act | Exempt]] = {
    ("GET", "/health"): EXEMPT,
    ("POST", "/records"): Act("records.receive", INBOX),
    ("GET", "/records"): Act("records.read", INBOX),
}
MAX_RECORD_BYTES: Final = 1_000
MAX_RECORDS: Final = 1_000


def rule(scope: Scope) -> Act | Exempt | None:
    """None, for whatever is not listed, is a denial."""
    return ACTS.get((scope.get("method", ""), scope["path"]))


class Inbox:
    """Records in memory, and those who wait for more."""

    def __init__(self) -> None:
        self._records: list[str] = []
        self._changed = asyncio.Condition()

    async def health(self, _request: Request) -> Response:
        return PlainTextResponse("well\n")

    async def receive(self, request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_RECORD_BYTES or len(self._records) == MAX_RECORDS:
                return PlainTextResponse("too large, or too many\n", status_code=413)
        permit = current_permit()
        assert permit is not None
        async with self._changed:
            self._records.append(body.decode(errors="replace"))
            self._changed.notify_all()
        return JSONResponse({"records": len(self._records), "fence": permit.fence}, 201)

    async def follow(self, _request: Request) -> Response:
        return StreamingResponse(self._lines(), media_type="text/plain")

    async def _lines(self) -> AsyncIterator[str]:
        """All records, and then each as it comes, until trust goes."""
        at = 0
        while True:
            async with self._changed:
                while len(self._records) == at:
                    await self._changed.wait()
            yield f"{self._records[at]}\n"
            at += 1


def application(directory: Path) -> Any:
    """An ASGI application, for any server."""
    inbox = Inbox()
    routes = [
        Route("/health", inbox.health),
        Route("/records", inbox.receive, methods=["POST"]),
        Route("/records", inbox.follow),
    ]
    return LeaseMiddleware(Starlette(routes=routes), lambda: AsyncGate.open(directory), rule)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An inbox over HTTP, under leases.")
    parser.add_argument("directory", type=Path, help="made by quorate executor issue")
    parser.add_argument("port", type=int, help="on 127.0.0.1")
    options = parser.parse_args()
    app = application(options.directory)
    # Streams do not end by themselves: a server that is told to end waits for them no longer.
    uvicorn.run(app, host="127.0.0.1", port=options.port, timeout_graceful_shutdown=2)
