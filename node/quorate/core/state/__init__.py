"""The replicated state, read and written as typed records.

Owns the way between records and the store, and that every index agrees with its records. Reading
raises StorageDamagedError for a record that is not what it should be: a node whose state is damaged
must stop, not decide differently from the others. Does not own the rules of what may change.
"""

from __future__ import annotations

from quorate.core.records import (
    Executor,
    Federation,
    Grant,
    Kind,
    Lease,
    LeaseStatus,
    TrustEdge,
)
from quorate.core.state.view import StateView, list_records, parse_lasting, record_json
from quorate.core.state.writing import (
    claim_key,
    count_executor,
    count_node,
    drop_expired_leases,
    drop_expired_proposals,
    drop_reference,
    forget,
    remember,
    save_containment,
    save_domain,
    save_edge,
    save_executor,
    save_federation,
    save_grant,
    save_lease,
    save_ledger_time,
    save_lineage,
    save_lineage_head,
    save_member,
    save_node,
    save_policies,
    save_proposal,
    save_reference,
    save_thresholds,
)
from quorate.core.status import Status

__all__ = [
    "Executor",
    "Federation",
    "Grant",
    "Kind",
    "Lease",
    "LeaseStatus",
    "StateView",
    "Status",
    "TrustEdge",
    "claim_key",
    "count_executor",
    "count_node",
    "drop_expired_leases",
    "drop_expired_proposals",
    "drop_reference",
    "forget",
    "list_records",
    "parse_lasting",
    "record_json",
    "remember",
    "save_containment",
    "save_domain",
    "save_edge",
    "save_executor",
    "save_federation",
    "save_grant",
    "save_lease",
    "save_ledger_time",
    "save_lineage",
    "save_lineage_head",
    "save_member",
    "save_node",
    "save_policies",
    "save_proposal",
    "save_reference",
    "save_thresholds",
]
