"""Who is a member, as far as a ledger was read, and so whose keys count.

Owns the repeating of every accepted command that is about members: nodes added and retired, domains
suspended, and the ballots by which they are admitted and expelled, or live by later rules. All that
these rely on is said by such commands, so that nobody's word is taken for what came of one. Does
not own what executors have proved: of a ballot to reinstate one, who has voted is counted, and
whether it could be done is the ledger's word.
"""

from __future__ import annotations

from typing import Final

from quorate.core import ids, keys, transitions
from quorate.core.acts import ReinstateExecutor, parse_act
from quorate.core.bodies import CastBallot, OpenProposal
from quorate.core.commands import Command
from quorate.core.dsse import Envelope
from quorate.core.errors import MalformedError
from quorate.core.genesis import Genesis
from quorate.core.keysets import refuse_expired, refuse_unsigned
from quorate.core.limits import MAX_COMMAND_LIFETIME_MS
from quorate.core.outcome import Reason
from quorate.core.records import DRIFT, Domain, Executor, Kind, Node
from quorate.core.recovering import begin_without
from quorate.core.recovery import Recovery
from quorate.core.rows import Row
from quorate.core.state import StateView, save_executor
from quorate.core.status import Status
from quorate.core.store import MemoryStore, Overlay
from quorate.core.turn import Turn
from quorate.core.verbs import Verb

_OF_MEMBERS: Final = frozenset(
    {
        Verb.NODE_ADD,
        Verb.NODE_PROMOTE,
        Verb.NODE_DEMOTE,
        Verb.NODE_RETIRE,
        Verb.NODE_DECLARE,
        Verb.DOMAIN_SUSPEND,
        Verb.DOMAIN_REKEY,
        Verb.DOMAIN_REINSTATE,
        Verb.PROPOSAL_OPEN,
        Verb.PROPOSAL_WITHDRAW,
        Verb.BALLOT_CAST,
    }
)


class Members:
    """Those of the founding document, and what accepted commands have made of them since."""

    def __init__(self, genesis: Genesis) -> None:
        self.origin = genesis.origin
        self._store = MemoryStore()
        self._time = genesis.created
        self._executed: dict[str, int] = {}
        if isinstance(genesis, Recovery):
            begin_without(self._store, genesis)
        else:
            transitions.install_genesis(self._store, genesis)

    @property
    def protocol(self) -> int:
        """The version of the rules that the next command is read by."""
        return StateView(self._store).federation().protocol

    def reach(self, entry: object) -> None:
        """The next entry, accepted or not, as it stands in the ledger. Raises MalformedError when
        ledger time went back."""
        time = Row(entry).number("time")
        if time < self._time:
            raise MalformedError("of a time before the entry before it")
        self._time = time

    def check(self, command: Command, envelope: Envelope) -> None:
        """Raises MalformedError unless its issuer, as known by now, has signed the command, for the
        time of the entry that was reached."""
        self._check_signed(command, envelope)
        if command.not_after < self._time:
            raise MalformedError(f"accepted, but it is to be denied: {Reason.EXPIRED_COMMAND}")
        if command.not_after > self._time + MAX_COMMAND_LIFETIME_MS:
            raise MalformedError(f"accepted, but it is to be denied: {Reason.LIFETIME_TOO_LONG}")

    def learn(self, command: Command, envelope: Envelope, entry: object) -> None:
        """Takes up what an accepted command does to the members. entry: as it stands in the ledger.
        Raises MalformedError where it could not be accepted, or does something else."""
        if command.verb not in _OF_MEMBERS:
            return
        self._use_up(command)
        row, view = Row(entry), StateView(self._store)
        node = view.node(command.issuer)
        domain = view.domain(node.domain if node else command.issuer)
        assert domain is not None, "its issuer was checked"
        overlay = Overlay(self._store)
        executor = self._reinstated(command)
        if executor and (command.verb is Verb.PROPOSAL_OPEN or row.nested("executed") is not None):
            save_executor(overlay, _suspended(executor))
        turn = Turn(
            overlay,
            StateView(overlay),
            command,
            envelope,
            domain,
            row.number("time"),
            row.number("seq"),
        )
        outcome = transitions.execute(turn)
        if not outcome.accepted:
            why = f"{outcome.reason} {outcome.thing}".rstrip()
            raise MalformedError(f"accepted, but it is to be denied: {why}")
        if self._less_carried(row.nested("executed")) != self._less_carried(
            outcome.result.get("executed")
        ):
            raise MalformedError("says that it did something else than it does")
        if executor:
            key = keys.record(Kind.EXECUTOR, executor)
            assert key is not None, "its form was checked"
            overlay.delete(key)
        overlay.commit()

    def _reinstated(self, command: Command) -> str:
        """The executor that a proposal or a ballot is to reinstate; empty: none."""
        body = command.body
        act = body.body if isinstance(body, OpenProposal) else None
        proposal = self.state.proposal(body.proposal) if isinstance(body, CastBallot) else None
        if proposal is not None:
            act = parse_act(proposal.act, proposal.body, proposal.protocol)
        return act.executor if isinstance(act, ReinstateExecutor) else ""

    def _less_carried(self, executed: object) -> object:
        """Without what a freeze let through that a recovery has carried over: its document says
        that there was one, and not of what."""
        frozen = self.state.federation().frozen
        if frozen is None or frozen.since != 0 or not isinstance(executed, dict):
            return executed
        return {name: value for name, value in executed.items() if name != "actions"}

    def _use_up(self, command: Command) -> None:
        """A ballot that was taken back could be shown again, behind the one that took it back. What
        has expired was forgotten, and may honestly be there again."""
        before = self._executed.get(command.command_id, -1)
        if before >= self._time:
            raise MalformedError("accepted, but it was executed before")
        self._executed[command.command_id] = command.not_after

    @property
    def state(self) -> StateView:
        """What is known of the federation: its members, and nothing else."""
        return StateView(self._store)

    def log_key(self, name: str) -> bytes | None:
        return log_key(self.state, name)

    def _check_signed(self, command: Command, envelope: Envelope) -> None:
        issuer, view = command.issuer, StateView(self._store)
        found: Node | Domain | None = view.node(issuer) or view.domain(issuer)
        if isinstance(found, Node):
            is_signed = envelope.verify(bytes.fromhex(found.signing_key))
        else:
            is_signed = found is not None and not refuse_unsigned(
                envelope, found, command.verb, issuer
            )
        if not is_signed or found is None or found.status is Status.REVOKED:
            raise MalformedError(f"accepted, but not signed by {issuer}")
        if isinstance(found, Domain):
            late = refuse_expired(envelope, found, command.verb, self._time)
            if late is not None:
                raise MalformedError(f"accepted, but it is to be denied: {late}")


def _suspended(executor: str) -> Executor:
    """One that a ballot can reinstate, in the place of one of which nothing is known here."""
    domain = ids.SpiffeId.parse(executor).trust_domain
    return Executor(executor, domain, Status.SUSPENDED, 0, suspended_for=DRIFT)


def log_key(state: StateView, name: str) -> bytes | None:
    """The key that the node with this DNS name signs checkpoints with; None: there is no such
    node. A retired one has signed what it had before."""
    for node in state.nodes():
        if ids.dns_name(node.id) == name:
            return bytes.fromhex(node.log_key)
    return None
