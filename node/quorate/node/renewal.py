"""New certificates for those that have one: a node, an operator.

Owns which files are replaced, and the checks before that: the new certificate is of whom the old
one is of, and its issuer is the organisation's CA. A new one has a new key. What a certificate says
is `quorate.node.certificates`'; how a running node takes it, `quorate.node.certificate_keeper`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from quorate.core import ids
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.node import certificates
from quorate.node.certificates import KeyPair
from quorate.node.config import load_config
from quorate.node.identity import load_certificate, replace_pair
from quorate.node.organisation import (
    CONFIG_FILE,
    OPERATOR_CERTIFICATE_FILE,
    OPERATOR_KEY_FILE,
    Organisation,
)


@dataclass(frozen=True, slots=True)
class Renewed:
    """What was issued, and where it is. ends: until when it is valid."""

    spiffe_id: str
    certificate: Path
    private_key: Path
    ends: datetime


def renew_node(organisation: Organisation, directory: Path) -> Renewed:
    """A new certificate and key for the node of a directory, in the place of those that it has.
    Raises ConfigurationError, and then nothing has changed."""
    file = directory / CONFIG_FILE
    if not file.is_file():
        raise ConfigurationError(
            f"{directory} is no node's directory: it has no {CONFIG_FILE}",
            hint="give the directory that `quorate init` or `quorate node init` made",
        )
    config = load_config(file)
    certificate, private_key = config.tls.certificate, config.tls.private_key
    if certificate.exists() and (named := _holder(certificate)) != config.node.id:
        raise ConfigurationError(
            f"{certificate} is of {named}, not of {config.node.id}",
            hint="see node.id and tls.certificate in its node.toml",
        )
    _check_own(organisation, config.node.id)
    pair = certificates.issue_node(organisation.ca(), config.node.id)
    return _replace(config.node.id, certificate, private_key, pair)


def renew_operator(organisation: Organisation) -> Renewed:
    """A new certificate and key for the operator of an organisation's directory, in the place of
    those that it has. Raises ConfigurationError, and then nothing has changed."""
    certificate = organisation.directory / OPERATOR_CERTIFICATE_FILE
    operator = _holder(certificate)
    _check_own(organisation, operator)
    try:
        pair = certificates.issue_operator(organisation.ca(), operator)
    except MalformedError as error:
        raise ConfigurationError(f"{certificate} is no operator's: {error}") from error
    return _replace(operator, certificate, organisation.directory / OPERATOR_KEY_FILE, pair)


def _holder(certificate: Path) -> str:
    """Whom a certificate names, expired or not."""
    try:
        return str(certificates.spiffe_id(load_certificate(certificate)))
    except MalformedError as error:
        raise ConfigurationError(f"{certificate}: {error}") from error


def _check_own(organisation: Organisation, spiffe: str) -> None:
    if ids.SpiffeId.parse(spiffe).trust_domain != organisation.domain:
        raise ConfigurationError(
            f"{spiffe} is not of {organisation.domain}",
            hint="give the directory of its own organisation with --org",
        )


def _replace(spiffe: str, certificate: Path, private_key: Path, pair: KeyPair) -> Renewed:
    replace_pair(certificate, private_key, pair)
    ends = certificates.parse_certificate(pair.certificate).not_valid_after_utc
    return Renewed(spiffe, certificate, private_key, ends)
