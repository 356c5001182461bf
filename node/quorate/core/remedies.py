"""What would have to change for a denial to become a permit, and who can change it.

Owns one sentence for each reason, and the command of the `quorate` program where one would do it;
docs/reasons.md says the same at greater length. Pure, and only advice: whether it helps is decided
anew when somebody asks again. What is final says so. Does not know how a decision is reached.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.core.outcome import Deny, Reason
from quorate.core.records import BY_BALLOT


@dataclass(frozen=True, slots=True)
class Remedy:
    """sentence: what would have to change. command: as it is typed, words that the person has to
    choose in capitals; empty: there is none. signer: the domain whose key it takes, or
    BY_BALLOT; empty: nobody in particular."""

    sentence: str
    command: str = ""
    signer: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """What was asked. owner: of the resource. suspended_by: who suspended the domain that the
    denial is about. frozen_by: the domain that has frozen what was asked for, or BY_BALLOT.
    contained_by: the domains that contain what the denial is about.
    suspended_for: why the executor was, if not by its domain; suspended_by_domain: by that, too.
    wanted: what an unmet condition asks for, any of it.
    Whatever is not known is empty."""

    executor: str = ""
    action: str = ""
    resource: str = ""
    owner: str = ""
    suspended_by: str = ""
    frozen_by: str = ""
    contained_by: tuple[str, ...] = ()
    suspended_for: str = ""
    suspended_by_domain: bool = False
    wanted: tuple[str, ...] = ()

    @property
    def home(self) -> str:
        """The domain of the executor."""
        try:
            return ids.SpiffeId.parse(self.executor).trust_domain
        except MalformedError:
            return ""


def remedy(deny: Deny, case: Case) -> Remedy:
    """For any reason, and any text in it."""
    make = _MAKERS.get(deny.reason)
    return Remedy(_SENTENCES[deny.reason]) if make is None else make(deny.thing, case)


def _command(*words: str) -> str:
    return shlex.join(("quorate", *words))


def _name_of(record_id: str) -> tuple[str, str]:
    """Of a grant's id: whose it is, and its name there."""
    issuer, _, name = record_id.partition("/")
    return issuer, name


def _register(_thing: str, case: Case) -> Remedy:
    command = _command("executor", "register", case.executor)
    return Remedy("its organisation registers the executor", command, case.home)


def _reinstate_executor(_thing: str, case: Case) -> Remedy:
    command = _command("executor", "reinstate", case.executor)
    if case.suspended_for:
        sentence = "the executor proves anew what it has to; then its organisation reinstates it"
        if not case.suspended_by_domain:
            by_ballot = _command("proposal", "open", "reinstate-executor", case.executor)
            sentence += f", or the organisations do by ballot: `{by_ballot}`"
        return Remedy(sentence, command, case.home)
    return Remedy("its organisation reinstates the executor", command, case.home)


def _another_executor(_thing: str, case: Case) -> Remedy:
    sentence = "revoked for ever: its organisation registers another executor, with another id"
    return Remedy(sentence, _command("executor", "register", "ANOTHER"), case.home)


def _prove(thing: str, _case: Case) -> Remedy:
    command = _command("attestation", "report", _name_of(thing)[1] or "REFERENCE")
    return Remedy("the executor proves it, in answer to a new challenge", command)


def _equal(thing: str, _case: Case) -> Remedy:
    domain, name = _name_of(thing)
    sentence = "the executor is run as the reference says, and proves it; or the reference changes"
    return Remedy(sentence, _command("attestation", "set-reference", name or "REFERENCE"), domain)


def _admit(_thing: str, case: Case) -> Remedy:
    if case.resource and not case.owner:
        return Remedy("write the resource like //bank.example/accounts/payroll")
    sentence = "check the name; or the federation admits that organisation by ballot"
    return Remedy(sentence, _command("proposal", "open", "admit", "DESCRIPTOR"), BY_BALLOT)


def _reinstate_domain(thing: str, case: Case) -> Remedy:
    if case.suspended_by == BY_BALLOT:
        command = _command("proposal", "open", "reinstate", thing)
        return Remedy("the organisations reinstate it by ballot", command, BY_BALLOT)
    command = _command("domain", "reinstate")
    return Remedy("the organisation ends its suspension of itself", command, thing)


def _thaw(thing: str, case: Case) -> Remedy:
    if case.frozen_by == BY_BALLOT:
        command = _command("proposal", "open", "thaw")
        return Remedy("the organisations end by ballot what they have frozen", command, BY_BALLOT)
    sentence = "the resource's owner ends what it has frozen"
    return Remedy(sentence, _command("resources", "thaw"), thing)


def _lift(thing: str, case: Case) -> Remedy:
    """Each that contains it has to end that; the command is of one."""
    sentence = "who has contained it ends that; nothing else makes this good again"
    what = (thing,) if thing.startswith("spiffe://") else ("--lease", thing)
    signer = case.contained_by[0] if case.contained_by else ""
    return Remedy(sentence, _command("executor", "lift-containment", *what), signer)


def _policy(thing: str, case: Case) -> Remedy:
    if thing in {case.owner, case.home}:
        command = _command("policy", "publish", "FILE")
        return Remedy("its organisation publishes policies that permit this", command, thing)
    command = _command("proposal", "open", "policy", "FILE")
    return Remedy("the organisations agree on policies that permit this", command, BY_BALLOT)


def _trust(_thing: str, case: Case) -> Remedy:
    words = ("--trustee", case.home, "--action", case.action, "--resource", case.resource)
    sentence = "the resource's owner opens trust for this; a lease then has to be acquired anew"
    return Remedy(sentence, _command("trust", "open", "NAME", *words), case.owner)


def _issue(sentence: str, case: Case) -> Remedy:
    words = (case.executor, "--action", case.action, "--resource", case.resource)
    return Remedy(sentence, _command("grant", "issue", "NAME", *words), case.owner)


def _grant(_thing: str, case: Case) -> Remedy:
    try:
        ids.check_action(case.action)
    except MalformedError:
        return Remedy("write the action like payments.transfer")
    return _issue("the resource's owner issues a grant that covers this", case)


def _reinstate_grant(thing: str, _case: Case) -> Remedy:
    issuer, name = _name_of(thing)
    command = _command("grant", "reinstate", name)
    return Remedy("its issuer reinstates the grant", command, issuer)


def _say(thing: str, case: Case) -> Remedy:
    name = thing.rpartition("/")[2] or "NAME"
    values = " or ".join(case.wanted) or "what the grant asks for"
    sentence = f"the executor asks for the lease with a context that says {name}: {values}"
    words = (case.action or "ACTION", case.resource or "RESOURCE", "--context", f"{name}=TEXT")
    return Remedy(sentence, _command("lease", "acquire", *words), case.home)


def _release(_thing: str, case: Case) -> Remedy:
    sentence = "release a lease of this grant, or wait until one expires"
    return Remedy(sentence, _command("lease", "release", "LEASE"), case.home)


def _acquire(sentence: str) -> Callable[[str, Case], Remedy]:
    def make(_thing: str, case: Case) -> Remedy:
        words = (case.action or "ACTION", case.resource or "RESOURCE")
        return Remedy(sentence, _command("lease", "acquire", *words), case.home)

    return make


_MAKERS: Final[Mapping[Reason, Callable[[str, Case], Remedy]]] = MappingProxyType(
    {
        Reason.UNKNOWN_EXECUTOR: _register,
        Reason.EXECUTOR_SUSPENDED: _reinstate_executor,
        Reason.EXECUTOR_REVOKED: _another_executor,
        Reason.ATTESTATION_MISSING: _prove,
        Reason.ATTESTATION_STALE: _prove,
        Reason.ATTESTATION_MISMATCH: _equal,
        Reason.UNKNOWN_DOMAIN: _admit,
        Reason.DOMAIN_SUSPENDED: _reinstate_domain,
        Reason.FROZEN: _thaw,
        Reason.CONTAINED: _lift,
        Reason.POLICY_FORBIDS: _policy,
        Reason.NO_POLICY_PERMITS: _policy,
        Reason.POLICY_BROKEN: _policy,
        Reason.NO_TRUST: _trust,
        Reason.NO_GRANT: _grant,
        Reason.GRANT_SUSPENDED: _reinstate_grant,
        Reason.GRANT_REVOKED: lambda _, case: _issue(
            "revoked for ever: its issuer issues another grant, under another name", case
        ),
        Reason.GRANT_EXPIRED: lambda _, case: _issue("its issuer issues another grant", case),
        Reason.USES_EXHAUSTED: lambda _, case: _issue("its issuer issues another grant", case),
        Reason.CONCURRENCY_LIMIT: _release,
        Reason.CONDITION_UNMET: _say,
        Reason.UNKNOWN_LEASE: _acquire("check the id; or the executor acquires a lease"),
        Reason.NOT_LEASE_HOLDER: _acquire("the executor acquires a lease of its own"),
        Reason.LEASE_EXPIRED: _acquire(
            "the executor acquires another lease, and renews it earlier"
        ),
        Reason.LEASE_RELEASED: _acquire("the executor acquires another lease"),
        Reason.LEASE_SCOPE: _acquire("the executor acquires a lease for this very act"),
    }
)

_SENTENCES: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.INQUORATE: "the node gets in touch with a quorum again; see its status and members",
        Reason.CLOCK_STEP: "it passes with the next grant of authority; if it is often, look at "
        "the machine's time service",
        Reason.STORAGE_FULL: "make room on the node's disk, or raise storage.map_size_bytes",
        Reason.QUARANTINED: "compare the node's ledger with another member's",
        Reason.INTERNAL: "see the node's log, and report the fault",
        Reason.BEHIND: "ask again: the node is catching up",
        Reason.MALFORMED_REQUEST: "see what made the request",
        Reason.MALFORMED_COMMAND: "find out what built the command",
        Reason.TOO_LARGE: "name fewer or shorter patterns",
        Reason.WRONG_ORIGIN: "use the genesis of this federation",
        Reason.EXPIRED_COMMAND: "sign it again; check the clock of whoever signs",
        Reason.LIFETIME_TOO_LONG: "sign it with a nearer not_after; check the clock",
        Reason.UNKNOWN_ISSUER: "check the issuer",
        Reason.BAD_SIGNATURE: "sign it with the issuer's own key",
        Reason.TOO_FEW_SIGNATURES: "have others of the organisation sign it, too: `quorate command "
        "sign`",
        Reason.KEY_EXPIRED: "the organisation's recovery keys give it new keys, or the same for "
        "longer: `quorate domain set-keys`",
        Reason.NOT_AUTHORIZED: "let the owner give the command",
        Reason.NONCE_REUSED: "give it a fresh nonce or request id",
        Reason.ALREADY_EXISTS: "take another id, key or address; for a lease, a fresh request id",
        Reason.NOT_FOUND: "check the id",
        Reason.FINAL: "that is final: take another id",
        Reason.ILLEGAL_TRANSITION: "nothing: it is so already, or something has to come first",
        Reason.LIMIT_EXCEEDED: "close, revoke or retire what is not needed",
        Reason.LAST_VOTER: "let another organisation's node vote first",
        Reason.NODE_RETIRED: "ask another node of the organisation",
        Reason.OUT_OF_ORDER: "report it after the head that is named",
        Reason.WIDENS: "name less; for more, open another edge",
        Reason.NEEDS_BALLOT: "propose it: no organisation does this alone",
        Reason.PROPOSAL_CLOSED: "see what became of the proposal",
        Reason.PROPOSAL_EXPIRED: "propose it anew",
        Reason.NO_VOTE: "let the other organisations decide",
        Reason.SUPERSEDED: "propose it anew: something else was agreed on meanwhile",
        Reason.RATE_LIMITED: "ask again in a while; the others can agree on a higher rate",
        Reason.UNSUPPORTED_PROTOCOL: "upgrade the federation, or that node's program, first",
        Reason.DOMAIN_REVOKED: "nothing: the organisation was expelled, and that is final",
        Reason.NO_CHALLENGE: "ask for a challenge, and answer it in time",
        Reason.BAD_EVIDENCE: "see who has signed the evidence, what it says, and in which form",
        Reason.BROKEN_LINEAGE: "nothing: whoever asked for the work may do it no more",
    }
)
