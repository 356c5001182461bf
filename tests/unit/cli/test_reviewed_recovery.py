"""What a survivor is shown before it signs a recovery document."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from quorate.cli.recover import _review
from quorate.core import dsse, protocol
from quorate.core.acts import ACTS
from quorate.core.records import BY_BALLOT, PolicyMark, Rates
from quorate.core.recovering import next_fence_base
from quorate.core.recovery import Former, Recovery, build_recovery_payload, parse_recovery_draft
from quorate.core.thresholds import Threshold
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import Federation, Ledger


def test_who_is_expelled_or_suspended_and_the_thresholds_are_shown() -> None:
    """They are signed for: who has a vote from then on follows from them."""
    ledger = Ledger(Federation.build(("a.example", "b.example", "c.example")))
    federation = ledger.view.federation()
    former = Former(federation.origin, federation.genesis_hash, 1, "0" * 64, 1, 1, "0" * 64)
    payload = build_recovery_payload(
        origin="new.example/1",
        created_ms=federation.ledger_time,
        parameters=federation.parameters,
        version=federation.protocol,
        fence_base=next_fence_base(federation, 1),
        former=former,
        descriptors=ledger.federation.parsed_genesis().descriptors,
        survivors=["a.example", "b.example"],
        suspended_by={"b.example": BY_BALLOT},
        expelled=["c.example"],
        thresholds=dict.fromkeys(map(str, ACTS[protocol.LATEST]), Threshold.TWO_THIRDS),
        rates=Rates(60, 0),
        policies=PolicyMark(3, "5" * 64),
    )
    recovery, _ = parse_recovery_draft(sign_envelope(dsse.RECOVERY_TYPE, payload))
    text = " ".join(_shown(recovery).split())
    assert "c.example was expelled" in text
    assert "suspended by the federation" in text
    assert "domain.expel two-thirds" in text
    assert "domain_per_min 60" in text
    assert "version 3" in text
    assert "5" * 64 in text
    retired = replace(recovery, policies=PolicyMark(3, ""))
    assert "they were retired" in _shown(retired)
    assert "thresholds" not in _shown(replace(recovery, thresholds={}))


def _shown(recovery: Recovery) -> str:
    console = Console(width=200)
    with console.capture() as shown:
        _review(console, recovery, ())
    return shown.get()
