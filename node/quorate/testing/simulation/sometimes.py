"""What has to happen in some run of a range of seeds, or the range has shown little.

Owns the names of what is counted. A promise that holds because nothing ever tried it is worth
nothing: a range in which one of these never came up says so.
"""

from __future__ import annotations

from typing import Final

EXPECTED: Final = (
    "accepted",
    "denied",
    "repeat answered with the first outcome",
    "refused before it was proposed",
    "refused for good",
    "outcome unknown",
    "leader elected",
    "leader stepped down",
    "uncommitted entries truncated",
    "core killed in a turn",
    "stopped as planned",
    "leadership handed over before a stop",
    "storage full",
    "snapshot installed",
    "log compacted",
    "node added",
    "node retired",
    "voters changed",
    "proposal executed",
    "proposal rejected",
    "domain suspended by ballot",
    "domain reinstated by ballot",
    "retired node taken away",
    "disk lost",
    "disk restored",
    "disk lost while members change",
    "members change while a disk is lost",
    "commit counted a disk that was lost",
    "probation over",
    "authority granted",
    "permit",
    "denial",
    "denial INQUORATE",
    "denial CLOCK_STEP",
    "denial STORAGE_FULL",
    "edge held up in a check",
    "permit while a revocation spreads",
    "revocation enforced",
    "revocation enforced without a member",
    "revocation drained",
    "not enforced in time",
    "edge narrowed",
    "resources frozen",
    "denial FROZEN",
    "upgrade",
    "permit by a route",
    "permit by a delegation",
    "event in the ledger",
    "denials in the ledger",
    "report refused",
    "report unanswered",
)
