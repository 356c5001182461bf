"""The types of commands, by name alone."""

from __future__ import annotations

from enum import StrEnum


class Verb(StrEnum):
    """The type of a command, as it stands in its payload."""

    EXECUTOR_REGISTER = "executor.register"
    EXECUTOR_SUSPEND = "executor.suspend"
    EXECUTOR_REINSTATE = "executor.reinstate"
    EXECUTOR_REVOKE = "executor.revoke"
    TRUST_OPEN = "trust.open"
    TRUST_NARROW = "trust.narrow"
    TRUST_CLOSE = "trust.close"
    GRANT_ISSUE = "grant.issue"
    GRANT_SUSPEND = "grant.suspend"
    GRANT_REINSTATE = "grant.reinstate"
    GRANT_REVOKE = "grant.revoke"
    GRANT_DELEGATE = "grant.delegate"
    GRANT_RECALL = "grant.recall"
    DOMAIN_SUSPEND = "domain.suspend"
    DOMAIN_REINSTATE = "domain.reinstate"
    DOMAIN_REKEY = "domain.rekey"
    DOMAIN_ADMIT = "domain.admit"
    DOMAIN_EXPEL = "domain.expel"
    FEDERATION_SET_THRESHOLDS = "federation.set_thresholds"
    FEDERATION_UPGRADE = "federation.upgrade"
    PROPOSAL_OPEN = "proposal.open"
    PROPOSAL_WITHDRAW = "proposal.withdraw"
    BALLOT_CAST = "ballot.cast"
    NODE_ADD = "node.add"
    NODE_PROMOTE = "node.promote"
    NODE_DEMOTE = "node.demote"
    NODE_RETIRE = "node.retire"
    NODE_DECLARE = "node.declare"
    LEASE_ACQUIRE = "lease.acquire"
    LEASE_RENEW = "lease.renew"
    LEASE_RELEASE = "lease.release"
    LINEAGE_APPEND = "lineage.append"
