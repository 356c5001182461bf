"""Acts four to six: the quorum is lost, the network heals, the leading node dies and comes back.

Owns the faults, and the claims about what nodes and executors do meanwhile.
"""

from __future__ import annotations

from itertools import pairwise

from quorate.chaos.checks import open_node_checkpoint
from quorate.chaos.demo import cast
from quorate.chaos.demo.claims import MILLISECONDS, at_least, at_most, equal
from quorate.chaos.demo.journal import NS_PER_MS, Did, boottime_ns
from quorate.chaos.demo.measure import (
    CATCH_UP_MS,
    RECOVERY_MS,
    SETTLE_S,
    WINDOW_MS,
    elapsed_ms,
)
from quorate.chaos.demo.narrator import Narrator
from quorate.chaos.demo.stage import Stage
from quorate.core.outcome import Reason
from quorate.proofs.checkpoint import Checkpoint


def lose_quorum(stage: Stage, narrator: Narrator) -> dict[str, Checkpoint]:
    """No node reaches another: all deny, by themselves, within L. Returns earlier checkpoints."""
    narrator.act("4. The network falls apart: no quorum anywhere")
    stage.observe("work everywhere", lambda: all(map(stage.works, cast.DOMAINS)), SETTLE_S)
    earlier = {
        operator.domain: open_node_checkpoint(operator, stage.genesis)
        for operator in stage.cluster.operators()
    }
    period_ms = stage.authority_period_ms
    stage.cluster.links.partition([])  # every node alone; all processes live, every port answers
    cut_ns = boottime_ns()
    narrator.tell("every link is cut; all processes are alive and answer their executors")

    def inquorate(domain: str) -> bool:
        return any(
            event.at_ns > cut_ns and event.reason == Reason.INQUORATE
            for event in stage.events(domain, Did.DENIED)
        )

    stage.observe("denials everywhere", lambda: all(map(inquorate, cast.DOMAINS)), SETTLE_S)
    stage.let_pass_until(cut_ns + (period_ms + WINDOW_MS) * NS_PER_MS)
    heal_ns = boottime_ns()
    stage.cluster.links.heal()
    for domain in cast.DOMAINS:
        last = max(event.at_ns for event in stage.acts(domain) if event.at_ns <= heal_ns)
        narrator.claim(
            at_most(
                f"quorum.last_permit.{domain}",
                f"{domain}: last permit after the cut, against L",
                elapsed_ms(last, cut_ns),
                period_ms,
                MILLISECONDS,
            )
        )
    narrator.claim(
        equal(
            "quorum.denied",
            "nodes that answered INQUORATE while cut off",
            sum(map(inquorate, cast.DOMAINS)),
            len(cast.DOMAINS),
        )
    )
    _heal(stage, narrator, heal_ns)
    return earlier


def _heal(stage: Stage, narrator: Narrator, heal_ns: int) -> None:
    narrator.act("5. The network heals")
    stage.observe(
        "permits everywhere",
        lambda: all(stage.acts(domain, heal_ns) for domain in cast.DOMAINS),
        RECOVERY_MS / 1_000,
    )
    for domain in cast.DOMAINS:
        after = stage.acts(domain, heal_ns)
        narrator.claim(
            at_most(
                f"heal.first_permit.{domain}",
                f"{domain}: first permit after healing",
                elapsed_ms(after[0].at_ns if after else boottime_ns(), heal_ns),
                RECOVERY_MS,
                MILLISECONDS,
            )
        )


def kill_leader(stage: Stage, narrator: Narrator) -> None:
    """The leading node dies, all of it at once; the others go on; it comes back and catches up."""
    narrator.act("6. kill -9: the leading node dies, the others go on")
    stage.observe("work everywhere", lambda: all(map(stage.works, cast.DOMAINS)), SETTLE_S)
    victim = stage.cluster.leader()
    others = [domain for domain in cast.DOMAINS if domain != victim]
    stage.cluster.kill(victim)
    dead_ns = boottime_ns()
    narrator.tell(f"every process of the node of {victim}, the leader, is dead")
    helper = stage.cluster.operator(others[0])
    outcome = helper.order(
        "executor.register", {"executor": f"spiffe://{others[0]}/agent/newcomer"}
    )
    committed_ms = elapsed_ms(boottime_ns(), dead_ns)
    narrator.tell(
        f"{others[0]} registers another executor meanwhile: entry {outcome.ledger_index}, "
        f"{committed_ms:.0f} ms after the death"
    )
    stage.let_pass_until(dead_ns + (stage.authority_period_ms + WINDOW_MS) * NS_PER_MS)
    stage.observe("work of the others", lambda: all(map(stage.works, others)), SETTLE_S)
    back_ns = boottime_ns()
    stage.cluster.restart(victim)
    last = max(event.at_ns for event in stage.acts(victim) if event.at_ns <= back_ns)
    narrator.claim(
        at_most(
            "kill.last_permit",
            "last permit of the dead node's executor, against the life of a permit",
            elapsed_ms(last, dead_ns),
            stage.max_permit_ttl_ms,
            MILLISECONDS,
        )
    )
    for domain in others:
        narrator.claim(
            at_most(
                f"kill.longest_gap.{domain}",
                f"{domain}: longest time without a permit meanwhile",
                _longest_gap_ms(stage, domain, dead_ns, back_ns),
                RECOVERY_MS,
                MILLISECONDS,
            )
        )
    _come_back(stage, narrator, victim, back_ns)


def _longest_gap_ms(stage: Stage, domain: str, from_ns: int, to_ns: int) -> float:
    acts = [event.at_ns for event in stage.acts(domain, from_ns) if event.at_ns < to_ns]
    moments = [from_ns, *acts, to_ns]
    return max(elapsed_ms(later, earlier) for earlier, later in pairwise(moments))


def _come_back(stage: Stage, narrator: Narrator, victim: str, back_ns: int) -> None:
    """The dead node starts again from its disk."""
    goal = max(
        stage.cluster.status(domain).position.size for domain in cast.DOMAINS if domain != victim
    )

    def caught_up() -> bool:
        status = stage.cluster.status_or_none(victim)
        return (
            status is not None
            and status.has_authority
            and status.position.size >= goal
            and bool(stage.acts(victim, back_ns))
        )

    stage.observe(f"{victim} back", caught_up, CATCH_UP_MS / 1_000)
    status = stage.cluster.status_or_none(victim)
    narrator.claim(
        at_least(
            "kill.caught_up",
            f"{victim}: ledger size after coming back, against the others'",
            status.position.size if status is not None else 0,
            goal,
        )
    )
    after = stage.acts(victim, back_ns)
    narrator.claim(
        at_most(
            "kill.back",
            f"{victim}: from its start to its executor's first permit",
            elapsed_ms(after[0].at_ns if after else boottime_ns(), back_ns),
            CATCH_UP_MS,
            MILLISECONDS,
        )
    )
