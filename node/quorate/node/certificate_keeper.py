"""The certificate that a node shows, and the CAs of its domain, while both change under it.

Owns when the files and the state are looked at, what of them is taken, and the warning that the
time is nearly over. Does not own who makes a new certificate (`quorate.node.renewal`), who may give
a domain other CAs (`quorate.core.rekeying`), nor what servers and links do with them. Files that
are not a whole and valid identity of this node, issued by its domain, change nothing: the node goes
on with the certificate that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from quorate.core.errors import ConfigurationError
from quorate.node.certificates import KeyPair, issued_by, parse_certificate
from quorate.node.config import NodeConfig
from quorate.node.identity import TlsIdentity, load_tls_identity

LOOK_S: Final = 5.0
"""How often the files are looked at."""
_PAUSE_S: Final = 0.1
"""Between two looks at a state that moves all the time."""
NEAR: Final = timedelta(days=30)
"""So long before its end the log warns."""
WARN_EVERY: Final = timedelta(days=1)

log = structlog.get_logger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class CertificateKeeper:
    """What a process shows now, and what it is to show next."""

    def __init__(
        self,
        config: NodeConfig,
        current: TlsIdentity,
        authorities: Callable[[], tuple[bytes, ...]],
        *,
        founding: tuple[bytes, ...] = (),
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """authorities: PEM of the CAs of the domain, as they are at the moment; those alone may
        have issued it. founding: those that the domain began with, which everybody knows."""
        self._config = config
        self._read_authorities = authorities
        self.authorities = self._find_authorities()
        self._founding = founding
        self._now = now
        self._moved = asyncio.Event()
        self._warned: datetime | None = None
        self._problem = ""
        self._take(current)

    def _take(self, identity: TlsIdentity) -> None:
        leaf = parse_certificate(identity.pair.certificate)
        self.current = identity
        self.is_of_founding = any(issued_by(identity.pair.certificate, e) for e in self._founding)
        # A leaf is worth nothing without its issuer.
        self.ends = min(
            [leaf.not_valid_after_utc]
            + [
                parse_certificate(each).not_valid_after_utc
                for each in self.authorities
                if issued_by(identity.pair.certificate, each, at=leaf.not_valid_before_utc)
            ]
        )
        self._warned = None

    def end_ms(self) -> int:
        """Until when what is shown is valid, in Unix milliseconds."""
        return int(self.ends.timestamp() * 1000)

    def remaining_s(self) -> float:
        return max(0.0, (self.ends - self._now()).total_seconds())

    def look(self) -> TlsIdentity | None:
        """What the files hold, if that is something else than what is shown, and good; from then on
        it is what is shown."""
        try:
            found = load_tls_identity(
                self._config.tls.certificate,
                self._config.tls.private_key,
                expected_id=self._config.node.id,
            )
            if found.pair == self.current.pair:
                self._problem = ""
                return None
            if not any(issued_by(found.pair.certificate, each) for each in self.authorities):
                raise ConfigurationError(
                    f"{self._config.tls.certificate} was not issued by the node's domain"
                )
        except ConfigurationError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("certificate.not_taken", problem=self._problem, hint=error.hint)
            return None
        self._problem = ""
        self._take(found)
        log.info("certificate.renewed", ends=f"{self.ends:%Y-%m-%dT%H:%M:%SZ}")
        return found

    def warn(self) -> bool:
        """Warns when the end is near, once a day; returns whether it did."""
        now = self._now()
        if self.ends - now > NEAR or (self._warned is not None and now - self._warned < WARN_EVERY):
            return False
        self._warned = now
        log.warning(
            "certificate.ends",
            ends=f"{self.ends:%Y-%m-%dT%H:%M:%SZ}",
            days=max(0, (self.ends - now).days),
            hint="renew it: `quorate node renew`",
        )
        return True

    def moved(self) -> None:
        """The state may have changed."""
        self._moved.set()

    def _find_authorities(self) -> tuple[bytes, ...]:
        found = self._read_authorities()
        if not found:
            raise ConfigurationError(
                "no CA of the node's domain can be read",
                hint="give it another: `quorate domain set-ca`",
            )
        return found

    def follow(self) -> bool:
        """Whether the domain's CAs have changed since it was asked last. Raises ConfigurationError
        when none is left that is a certificate: then nobody could be told from anybody."""
        found = self._find_authorities()
        if found == self.authorities:
            return False
        self.authorities = found
        if not any(issued_by(self.current.pair.certificate, each) for each in found):
            log.error("certificate.not_trusted", hint="renew it: `quorate node renew`")
        return True

    async def run(
        self,
        renewed: Callable[[KeyPair, bytes], Awaitable[None]],
        *,
        is_warning: bool = False,
    ) -> None:
        """Looks again and again, and hands over what to show, and PEM of whom to trust, when either
        is new: the CAs as soon as the state has them. is_warning: says when the end is near; of a
        node's processes one does."""
        looked = 0.0
        loop = asyncio.get_running_loop()
        while True:
            if is_warning:
                self.warn()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._moved.wait()
            self._moved.clear()
            is_new = self.follow()
            if is_new or loop.time() - looked >= LOOK_S:
                looked = loop.time()
                # Aside: a disk that hangs must not keep the node from what it has promised.
                is_new = (await asyncio.to_thread(self.look) is not None) or is_new
            if is_new:
                await renewed(self.current.pair, b"\n".join(self.authorities))
            await asyncio.sleep(_PAUSE_S)
