"""The look at every pair of a state that another node has sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Final

from quorate.core import codec, ids, keys, protocol
from quorate.core.acts import ACTS, set_under
from quorate.core.errors import MalformedError
from quorate.core.frozen import check_frozen
from quorate.core.genesis import check_parameters
from quorate.core.keysets import all_keys
from quorate.core.limits import (
    MAX_ENTRY_BYTES,
    MAX_INTEGER,
)
from quorate.core.rates import check_rates, latest_moment
from quorate.core.records import (
    Federation,
    Kind,
    Node,
)
from quorate.core.rekeying import read_rekeying
from quorate.core.remembered import Remembered
from quorate.core.store import Reader
from quorate.core.thresholds import thresholds_from_json
from quorate.core.vetting.bounds import Bounds, require
from quorate.core.vetting.records import KINDS, RecordLooks, check_node

_NUMBER_BYTES: Final = 8
_RATED: Final = {
    keys.RATE_OF_DOMAIN: Kind.DOMAIN,
    keys.RATE_OF_NODES: Kind.DOMAIN,
    keys.RATE_OF_EXECUTOR: Kind.EXECUTOR,
}
_KEY_BYTES: Final = 32
_DIGEST_BYTES: Final = 32
_INDEXES: Final = (
    (keys.ACTIVE_NODES,),
    (keys.EDGES_OF_PAIR,),
    (keys.LIVE_GRANTS, keys.SPENT_GRANTS),
    (keys.LEASES_OF_GRANT,),
    (keys.OPEN_PROPOSALS,),
    (keys.FORGETTING,),
)
"""Each has an entry for every record that calls for one; the two of grants have one together."""


def read_node(state: Reader, ident: str) -> Node | None:
    """The record of one node of a state that nobody has looked at yet. Raises MalformedError."""
    key = keys.record(Kind.NODE, ident)
    data = None if key is None else state.get(key)
    if data is None:
        return None
    node = Node.from_json(codec.load(data))
    check_node(node)
    require(node.id == ident, f"a node lies where {ident} should")
    return node


class Vetting:
    """One look at a state, which does not change meanwhile."""

    def __init__(self, state: Reader, ledger_size: int = MAX_INTEGER) -> None:
        """ledger_size: of the ledger that has led to it; left out, it may be of any."""
        self._state = state
        self._ledger_size = ledger_size
        self._next = b""
        self._has_begun = False
        self._bounds = Bounds()  # to be read at the first step
        self._records = RecordLooks(state)
        self._rekeyings: Counter[str] = Counter()
        self._counted: dict[bytes, Counter[str]] = {
            keys.NODE_COUNTS: Counter(),
            keys.EXECUTOR_COUNTS: Counter(),
            keys.CONTAINMENT_COUNTS: Counter(),
        }
        self._found: Counter[bytes] = Counter()
        self._grant = b""  # whose leases are being counted
        self._leases = 0
        self._looks: dict[bytes, Callable[[bytes, bytes], None]] = {
            keys.FEDERATION: self._look_at_federation,
            keys.LEDGER_TIME: self._look_at_time,
            keys.OUTCOMES: self._look_at_outcome,
            keys.EXECUTOR_COUNTS: self._look_at_count,
            keys.NODE_COUNTS: self._look_at_count,
            keys.CONTAINMENT_COUNTS: self._look_at_count,
            keys.PUBLIC_KEYS: self._look_at_key,
            keys.LEASE_COUNTS: self._look_at_lease_count,
            keys.LINEAGE_HEADS: self._look_at_lineage_head,
            keys.THRESHOLDS: self._look_at_thresholds,
            keys.REKEYINGS: self._look_at_rekeying,
            keys.RATES: self._look_at_rate,
            **dict.fromkeys(KINDS, self._records.look),
            **{prefix: self._look_at_entry for index in _INDEXES for prefix in index},
        }

    def step(self, most: int) -> bool:
        """Looks at the next `most` pairs; True when it has seen all. Raises MalformedError for a
        state that can be none, and what the reader raises."""
        try:
            if not self._has_begun:
                self._begin()
            count = 0
            for key, value in islice(self._state.scan(b"", self._next), most):
                require(key[:1] in self._looks, f"there is nothing at {key!r}")
                self._looks[key[:1]](key, value)
                self._next = key + b"\x00"
                count += 1
            if count < most:
                self._end()
            return count < most
        except (ValueError, OverflowError) as error:  # text that is not ASCII, or no hex
            raise MalformedError(f"something at or behind {self._next!r}: {error}") from error

    def _begin(self) -> None:
        time = self._state.get(keys.LEDGER_TIME) or b""
        self._look_at_time(keys.LEDGER_TIME, time)
        federation = self._state.get(keys.FEDERATION)
        require(federation is not None, "no federation")
        record = Federation.from_json(codec.load(federation or b""))
        self._bounds = Bounds(
            ledger_time=int.from_bytes(time, "big"),
            version=record.protocol,
            ledger_size=self._ledger_size,
            fence_base=record.fence_base,
        )
        self._look_at_federation(keys.FEDERATION, federation or b"")
        self._records.begin(self._bounds)
        self._has_begun = True

    def _end(self) -> None:
        self._end_leases()
        for index in _INDEXES:
            expected = sum(self._records.expected[prefix] for prefix in index)
            found = sum(self._found[prefix] for prefix in index)
            require(expected == found, f"{found} entries at {index}, where {expected} belong")
        require(self._counted[keys.NODE_COUNTS] == self._records.nodes, "nodes are not as counted")
        counted = self._counted[keys.EXECUTOR_COUNTS]
        require(counted == self._records.executors, "executors are not as counted")
        counted = self._counted[keys.CONTAINMENT_COUNTS]
        require(counted == self._records.containments, "what is contained is not as counted")
        require(self._rekeyings == self._records.rekeyings, "keys were taken as nobody has counted")
        self._records.end()

    # -- what is not of one kind -----------------------------------------------------------------

    def _look_at_federation(self, key: bytes, value: bytes) -> None:
        record = Federation.from_json(codec.load(value))
        ids.check_origin(record.origin)
        known = protocol.FIRST <= record.protocol <= protocol.LATEST
        require(known, f"version {record.protocol} of the protocol, which is not known here")
        require(key == keys.FEDERATION, "a second federation")
        require(codec.encode(record.to_json()) == value, "a federation in another form")
        check_frozen(record.frozen, may_be=record.protocol >= protocol.SECOND)
        if record.frozen is not None:
            self._bounds.check_index(record.frozen.since, "what the federation has frozen")
        check_rates(record.rates, may_be=record.protocol >= protocol.SECOND)
        check_parameters(record.parameters)
        if record.widest is not None:
            require(record.protocol >= protocol.SECOND, "parameters that were never others")
            check_parameters(record.widest)
            require(record.widest != record.parameters, "widest parameters that go without saying")
            require(record.widest.covers(record.parameters), "parameters wider than the widest")
        self._records.check_policies(record, record.protocol)

    def _look_at_time(self, key: bytes, value: bytes) -> None:
        require(key == keys.LEDGER_TIME, "a second time")
        require(_number(value) <= MAX_INTEGER, "a time that none can be")

    def _look_at_count(self, key: bytes, value: bytes) -> None:
        domain = key[1:].decode("ascii")
        is_of_all = key == keys.CONTAINMENT_COUNTS
        is_of_one = self._records.has(keys.record(Kind.DOMAIN, domain))
        require(is_of_all or is_of_one, f"a count of {domain}")
        self._counted[key[:1]][domain] = _number(value)

    def _look_at_key(self, key: bytes, value: bytes) -> None:
        owner = value.decode("ascii")
        kind = Kind.NODE if owner.startswith("spiffe://") else Kind.DOMAIN
        require(len(key) == 1 + _KEY_BYTES, "a key of another length")
        require(self._records.has(keys.record(kind, owner)), f"a key of {owner}")

    def _look_at_outcome(self, key: bytes, value: bytes) -> None:
        said = codec.decode(value, MAX_ENTRY_BYTES)
        remembered = Remembered.from_json(said)
        require(remembered.to_json() == said, "an outcome in another form")
        command_id = remembered.outcome.command_id
        ids.check_command_id(command_id)
        require(keys.outcome(command_id) == key, "an outcome lies where another should")
        self._bounds.check_any_index(remembered.outcome.index, f"what became of {command_id}")
        self._records.expect(keys.forgetting(remembered.not_after, command_id))

    def _look_at_entry(self, key: bytes, value: bytes) -> None:
        require(value == b"", "an entry of an index that says something")
        self._found[key[:1]] += 1
        if key[:1] == keys.LEASES_OF_GRANT:
            grant = key[1 : 1 + _DIGEST_BYTES]
            if grant != self._grant:
                self._end_leases()
                self._grant = grant
            self._leases += 1

    def _look_at_lease_count(self, key: bytes, value: bytes) -> None:
        """Where there are leases on file, they were counted; their key comes first."""
        require(len(key) == 1 + _DIGEST_BYTES, "a count of leases of nothing")
        if _number(value):
            filed = next(self._state.scan(keys.LEASES_OF_GRANT + key[1:]), None)
            require(filed is not None, "leases that are not on file were counted")

    def _look_at_lineage_head(self, key: bytes, value: bytes) -> None:
        node = key[1:].decode("ascii")
        require(self._records.has(keys.record(Kind.NODE, node)), f"reports of {node}")
        require(len(value) == _DIGEST_BYTES, "a head of another length")

    def _look_at_rekeying(self, key: bytes, value: bytes) -> None:
        name, _, number = key[1:].partition(b"\x00")
        domain = name.decode("ascii")
        _, body = read_rekeying(value, domain)
        self._records.check_keys(domain, *all_keys(body))
        require(_number(number) == self._rekeyings[domain], f"proofs of {domain} out of order")
        self._rekeyings[domain] += 1

    def _look_at_rate(self, key: bytes, value: bytes) -> None:
        kind = _RATED.get(key[1:2])
        require(kind is not None and self._bounds.version >= protocol.SECOND, "a rate of nothing")
        owner = key[2:].decode("ascii")
        require(self._records.has(keys.record(kind or Kind.DOMAIN, owner)), f"a rate of {owner}")
        require(
            _number(value) <= latest_moment(self._bounds.ledger_time), "a moment that none can be"
        )

    def _look_at_thresholds(self, key: bytes, value: bytes) -> None:
        said = codec.decode_flat(value)
        require(key == keys.THRESHOLDS, "thresholds twice")
        types = thresholds_from_json(said).keys()
        own = ACTS[set_under(types, self._bounds.version)].keys()
        require(types == own, "thresholds of something else")

    def _end_leases(self) -> None:
        """All leases on file of one grant were seen."""
        if self._leases:
            counted = self._state.get(keys.LEASE_COUNTS + self._grant) or b""
            require(_number(counted) == self._leases, "leases are not as counted")
        self._leases = 0


def _number(value: bytes) -> int:
    require(len(value) == _NUMBER_BYTES, "a number of another length")
    return int.from_bytes(value, "big")
