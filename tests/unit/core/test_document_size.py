"""Who is admitted must fit the recovery document, which names all domains that there ever were."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quorate.core import dsse, protocol
from quorate.core.genesis import NodeDescriptor, build_descriptor_payload
from quorate.core.limits import MAX_DOMAINS, MAX_GENESIS_BYTES
from quorate.core.outcome import Outcome, Reason
from quorate.core.recovery_room import longest_document
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import (
    Federation,
    Ledger,
    Organisation,
    ballot_body,
    proposal_body,
)

FOUNDERS = ("a.example", "b.example", "c.example")


def certificate(padding: int) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "long")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(padding))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(unknown, critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode("ascii")


def admit(ledger: Ledger, number: int, padding: int) -> Outcome:
    """Proposes a domain with a certificate that is so much longer, and has all agree."""
    joiner = Organisation.named(f"n{number}.example", f"127.0.0.1:{8000 + number}")
    payload = build_descriptor_payload(
        domain=joiner.domain,
        governance_key=joiner.governance.public,
        cosigner_key=joiner.cosigner.public,
        ca_certificate=certificate(padding),
        node=NodeDescriptor(
            joiner.node, joiner.peer_address, joiner.signing.public, joiner.log.public
        ),
    )
    descriptor = json.loads(sign_envelope(dsse.DESCRIPTOR_TYPE, payload, joiner.governance))
    body = proposal_body("domain.admit", {"descriptor": descriptor})
    opened = ledger.run(FOUNDERS[0], "proposal.open", body).outcome
    if opened.accepted:
        ledger.federation.organisations[joiner.domain] = joiner
        for voter in [domain.id for domain in ledger.view.domains()]:
            ledger.run(voter, "ballot.cast", ballot_body(str(opened.result["id"])))
        assert ledger.view.domain(joiner.domain) is not None
    return opened


@pytest.mark.parametrize(("padding", "fits"), [(0, True), (400, True), (3_300, False)])
def test_a_federation_admits_no_more_than_a_recovery_document_can_say(
    padding: int, fits: bool
) -> None:
    """Else there is none any more, when the quorum is lost."""
    ledger = Ledger(Federation.build(FOUNDERS))
    joining = MAX_DOMAINS - len(FOUNDERS)
    reasons = [admit(ledger, number, padding).reason for number in range(joining)]
    assert reasons[0] is None
    assert (reasons[-1] is None) is fits
    assert set(reasons) <= {None, Reason.LIMIT_EXCEEDED}
    assert longest_document(ledger.view.domains(), protocol.LATEST) <= MAX_GENESIS_BYTES


def test_whatever_is_said_of_a_domain_is_counted() -> None:
    ledger = Ledger(Federation.build(FOUNDERS))
    [one, *others] = ledger.view.domains()
    longer = replace(one, ca_certificate=one.ca_certificate + "x" * 300)
    for more in ([longer, *others], [one, *others, replace(one, domain="d.example")]):
        before = longest_document([one, *others], protocol.LATEST)
        assert longest_document(more, protocol.LATEST) >= before + 300
