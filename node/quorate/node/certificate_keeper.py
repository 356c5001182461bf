"""The certificate that a node shows, while its files change under it.

Owns when the files are looked at, what of them is taken, and the warning that the time is nearly
over. Does not own who makes a new certificate (`quorate.node.renewal`), nor what servers and links
do with it. Files that are not a whole and valid identity of this node, issued by its domain, change
nothing: the node goes on with the certificate that it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from quorate.core.errors import ConfigurationError
from quorate.node.certificates import issued_by, parse_certificate
from quorate.node.config import NodeConfig
from quorate.node.identity import TlsIdentity, load_tls_identity

LOOK_S: Final = 5.0
"""How often the files are looked at."""
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
        authority: bytes,
        *,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """authority: PEM of the domain's CA, which alone may have issued it."""
        self._config = config
        self._authority = authority
        self._now = now
        self._warned: datetime | None = None
        self._problem = ""
        self._take(current)

    def _take(self, identity: TlsIdentity) -> None:
        leaf = parse_certificate(identity.pair.certificate)
        self.current = identity
        # A leaf is worth nothing without its issuer.
        authority = parse_certificate(self._authority)
        self.ends = min(leaf.not_valid_after_utc, authority.not_valid_after_utc)
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
            if not issued_by(found.pair.certificate, self._authority):
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

    async def run(
        self, renewed: Callable[[TlsIdentity], Awaitable[None]], *, is_warning: bool = False
    ) -> None:
        """Looks again and again, and hands over what is new. is_warning: says when the end is near;
        of a node's processes one does."""
        while True:
            if is_warning:
                self.warn()
            await asyncio.sleep(LOOK_S)
            # Aside: a disk that hangs must not keep the node from what it has promised.
            found = await asyncio.to_thread(self.look)
            if found is not None:
                await renewed(found)
