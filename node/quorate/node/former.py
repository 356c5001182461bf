"""Whether a recovery document goes on from a genesis, by what both say of the organisations.

Owns that comparison. What a document says beyond it is `quorate.core.recovering`'s.
"""

from __future__ import annotations

from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.genesis import Descriptor, Genesis
from quorate.core.records import Domain
from quorate.core.recovery import Recovery
from quorate.core.rekeying import check_rekeyed
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import Reader


def check_former(genesis: Genesis, recovery: Recovery, base: Reader | None = None) -> None:
    """Raises ConfigurationError unless the document goes on from this genesis: it names it, and
    gives every organisation in it the keys and CAs that it has there, or has taken since, as the
    state of the base proves."""
    former = recovery.former
    known = {item.domain for item in recovery.descriptors}
    is_named = (genesis.hash.hex(), genesis.origin) == (former.genesis_hash, former.origin)
    are_there = known >= {item.domain for item in genesis.descriptors}
    if not is_named or not are_there:
        raise _goes_on_from_another(genesis)
    if genesis.parameters != recovery.parameters:
        if base is None:
            raise ConfigurationError(
                "the federation has other parameters in the document than in the genesis",
                hint="the base shows whether it has changed them itself: give --config, too",
            )
        if StateView(base).federation().parameters != recovery.parameters:
            raise _goes_on_from_another(genesis)
    for was, has in renewed(genesis, recovery):
        if base is None:
            raise ConfigurationError(
                f"{was.domain} has other keys in the document than in the genesis",
                hint="the base proves that it has taken them itself: give --config, too",
            )
        try:
            check_rekeyed(base, former.origin, _described(was), _described(has, base))
        except MalformedError as error:
            raise _goes_on_from_another(genesis) from error


def renewed(genesis: Genesis, recovery: Recovery) -> list[tuple[Descriptor, Descriptor]]:
    """Who is described otherwise than in the genesis."""
    known = {item.domain: item for item in recovery.descriptors}
    names = ("governance_key", "cosigner_key", "authorities", "key_set")
    return [
        (item, known[item.domain])
        for item in genesis.descriptors
        if item.domain in known
        and any(getattr(item, name) != getattr(known[item.domain], name) for name in names)
    ]


def is_changed(genesis: Genesis, recovery: Recovery) -> bool:
    """Whether the document says anything otherwise that only the base can show to be right."""
    return bool(renewed(genesis, recovery)) or genesis.parameters != recovery.parameters


def _described(item: Descriptor, base: Reader | None = None) -> Domain:
    """The domain with the keys of a descriptor, that were renewed as often as the base says."""
    known = None if base is None else StateView(base).domain(item.domain)
    return Domain(
        domain=item.domain,
        status=Status.ACTIVE,
        suspended_by="",
        governance_key=item.governance_key.hex(),
        cosigner_key=item.cosigner_key.hex(),
        ca_certificate=item.ca_certificate,
        changed=0,
        rekeyings=0 if known is None else known.rekeyings,
        key_set=item.key_set,
        next_ca=item.next_ca,
    )


def _goes_on_from_another(genesis: Genesis) -> ConfigurationError:
    return ConfigurationError(
        f"the recovery document does not go on from the genesis of {genesis.origin}",
        hint="do not sign it, and do not install it",
    )
