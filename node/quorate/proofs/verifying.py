"""Verifying a proof offline: step by step, with nothing but the file, a policy, and this package.

Owns the order of the steps, what each one says, and what none of them says. Reads no file, asks
nobody, needs no key. Whoever calls it compares the proven entry with what was shown to him: the
verdict holds for the entry's bytes, and for nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from quorate.core import entries, ids
from quorate.core.entries import Entry
from quorate.core.errors import MalformedError
from quorate.proofs import merkle, note
from quorate.proofs.checkpoint import Checkpoint, parse_checkpoint
from quorate.proofs.cosignature import cosigned_at
from quorate.proofs.policy import NONE, Policy
from quorate.proofs.tlog_proof import TlogProof, parse_proof
from quorate.proofs.vkey import VerifierKey


class Step(StrEnum):
    """What is checked, in this order. The first that fails ends it."""

    FORM = "form"
    CHECKPOINT = "checkpoint"
    LOG = "log"
    QUORUM = "quorum"
    ENTRY = "entry"
    INCLUSION = "inclusion"
    PLACE = "place"


_KIND_RE: Final = re.compile(r"[a-z_]{1,64}(\.[a-z_]{1,64})?")

NOT_CHECKED: Final = (
    "whether the command in the entry was signed by who it says: that takes the keys of its time, "
    "which a replay of the whole ledger knows (quorate ledger verify)",
    "whether anything after this checkpoint has changed what the entry decided",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One step. told: what was found, for people."""

    step: Step
    is_good: bool
    told: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """findings: of every step that was taken, in order. What is proven is only there when all were
    good. cosigned: by witness's name in the policy, when, in seconds since the epoch."""

    findings: tuple[Finding, ...]
    checkpoint: Checkpoint | None = None
    entry: Entry | None = None
    entry_bytes: bytes = b""
    cosigned: tuple[tuple[str, int], ...] = ()

    @property
    def is_good(self) -> bool:
        return self.entry is not None


class _RefusedError(Exception):
    """A step that failed."""


def verify_proof(data: bytes, policy: Policy, *, entry: bytes | None = None) -> Verdict:
    """Verifies a proof file.

    entry: of which it must be the proof; None: of the one that travels in it. Never raises for
    what is in `data`.
    """
    verifying = _Verifying(data, policy, entry)
    findings: list[Finding] = []
    for step in Step:
        try:
            told = getattr(verifying, step.value)()
        except (_RefusedError, MalformedError) as error:
            findings.append(Finding(step, False, str(error)))
            return Verdict(tuple(findings))
        findings.append(Finding(step, True, told))
    return Verdict(
        tuple(findings),
        verifying.head,
        verifying.parsed,
        verifying.leaf,
        tuple(sorted(verifying.cosigned.items())),
    )


class _Verifying:
    """One proof. Each step is a method of its name, and uses what those before it have found."""

    def __init__(self, data: bytes, policy: Policy, shown: bytes | None) -> None:
        self._data = data
        self._policy = policy
        self._shown = shown
        self.cosigned: dict[str, int] = {}

    def form(self) -> str:
        self.proof: TlogProof = parse_proof(self._data)
        self.note = note.parse_note(self.proof.checkpoint)
        return f"a proof of entry {self.proof.index}, with {len(self.proof.hashes)} hashes"

    def checkpoint(self) -> str:
        self.head = parse_checkpoint(self.note.text)
        ids.check_origin(self.head.origin)
        return f"{self.head.origin} with {self.head.size} entries"

    def log(self) -> str:
        """By a key that the policy lists under the very name of the log."""
        known = [key for key in self._policy.logs if key.name == self.head.origin]
        if not known:
            raise _RefusedError(f"the policy lists no log {self.head.origin}")
        for key in (*known, *self._policy.witnesses.values()):
            lines = [(line.name, line.key_id) for line in self.note.signatures]
            if lines.count((key.name, key.key_id)) > 1:
                raise _RefusedError(f"{key.name} has signed it twice with one key")
        good = [key for key in known if note.verify_note(self.note, key.name, key.public)]
        if not good:
            raise _RefusedError("no key of the log in the policy has signed it")
        return f"signed by {len(good)} of the {len(known)} keys of the log in the policy"

    def quorum(self) -> str:
        keys: dict[VerifierKey, int] = {}
        for name, key in self._policy.witnesses.items():
            at = cosigned_at(self.note, key)
            if at is not None:
                self.cosigned[name] = keys[key] = at
        if not self._policy.is_met_by(keys.__contains__):
            raise _RefusedError(
                f"{len(keys)} of the {len(self._policy.witnesses)} witnesses have cosigned it, "
                "which is no quorum"
            )
        if self._policy.quorum == NONE:
            return "the policy asks for none: it rests on the log's key alone"
        return f"cosigned by {', '.join(sorted(self.cosigned))}"

    def entry(self) -> str:
        told = self.proof.extra if self._shown is None else self._shown
        if told is None:
            raise _RefusedError("the proof does not hold the entry: give it, too")
        if self.proof.extra is not None and told != self.proof.extra:
            raise _RefusedError("the proof is of another entry than the one that is shown")
        self.leaf = told
        self.parsed = entries.parse(told)
        if _KIND_RE.fullmatch(self.parsed.kind) is None:
            raise _RefusedError("its type is none that an entry has")
        return f"{self.parsed.kind}: {self.parsed.reason or 'accepted'}"

    def inclusion(self) -> str:
        digest = merkle.leaf_hash(self.leaf)
        head = self.head
        if self.proof.index >= head.size:
            raise _RefusedError(f"a log of {head.size} entries has none of this index")
        if not merkle.verify_inclusion(
            digest, self.proof.index, head.size, self.proof.hashes, head.root
        ):
            raise _RefusedError("the hashes do not lead from the entry to the checkpoint's root")
        return f"leaf {self.proof.index} of {head.size}"

    def place(self) -> str:
        """What the entry says of itself is where it is."""
        if self.parsed.origin != self.head.origin:
            raise _RefusedError(f"the entry is of the log {self.parsed.origin}")
        if self.parsed.seq != self.proof.index:
            raise _RefusedError(f"the entry says that it is number {self.parsed.seq}")
        return "the entry says the same log and index"
