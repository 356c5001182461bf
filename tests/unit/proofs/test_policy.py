"""Trust policies."""

from __future__ import annotations

import pytest

from quorate.core.errors import MalformedError
from quorate.proofs.policy import MAX_POLICY_BYTES, parse_policy
from quorate.proofs.signing import SigningKey
from quorate.proofs.vkey import COSIGNATURE, ED25519, VerifierKey

LOG = VerifierKey("a.example/log", ED25519, SigningKey.generate().public)
KEYS = [VerifierKey(f"w{n}.example", COSIGNATURE, SigningKey.generate().public) for n in range(6)]
X1, X2, X3, Y1, Y2, Y3 = (key.encode() for key in KEYS)
EXAMPLE = f"""log {LOG.encode()}

witness X1 {X1}
witness X2 {X2}
witness X3 {X3} https://x3.example/
group X-witnesses 2 X1 X2 X3

# the other organisation's
witness Y1 {Y1}
witness\tY2   {Y2}
  witness Y3 {Y3}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def is_met(policy: str, *cosigned: int) -> bool:
    keys = {KEYS[number] for number in cosigned}
    return parse_policy(policy.encode()).is_met_by(keys.__contains__)


def test_the_example_of_the_specification() -> None:
    policy = parse_policy(EXAMPLE.encode())
    assert policy.logs == (LOG,)
    assert list(policy.witnesses.values()) == KEYS
    assert is_met(EXAMPLE, 0, 1, 3)
    assert is_met(EXAMPLE, 1, 2, 5, 4)
    assert not is_met(EXAMPLE, 0, 1, 2), "nobody of Y"
    assert not is_met(EXAMPLE, 0, 3, 4, 5), "one of X alone"
    assert not is_met(EXAMPLE)


def test_a_quorum_may_be_one_witness_or_nobody() -> None:
    one = f"witness X1 {X1}\nquorum X1\n"
    assert is_met(one, 0)
    assert not is_met(one, 1)
    assert is_met("quorum none\n")
    assert parse_policy(b"quorum none").logs == ()


def test_names_are_octets() -> None:
    """The Kelvin sign is not a K, whatever Unicode says of both."""
    kelvin = f"witness \u212a {X1}\nwitness K {X2}\nquorum \u212a\n"
    assert is_met(kelvin, 0)
    assert not is_met(kelvin, 1)
    accented = VerifierKey("b\u00fccher.example", COSIGNATURE, SigningKey.generate().public)
    read = parse_policy(f"witness w {accented.encode()}\nquorum w".encode())
    assert read.witnesses["w"] == accented


AGAIN = VerifierKey("other.example", COSIGNATURE, KEYS[0].public).encode()
LOG_AGAIN = VerifierKey("b.example/log", ED25519, LOG.public).encode()
OWN = VerifierKey("a.example/log", COSIGNATURE, LOG.public).encode()
REFUSED = {
    "a log that cosigns for itself": f"log {LOG.encode()}\nwitness X1 {OWN}\nquorum none\n",
    "a log's own witness, before it": f"witness X1 {OWN}\nlog {LOG.encode()}\nquorum none\n",
    "nothing": "",
    "no quorum": f"witness X1 {X1}\n",
    "two quorums": "quorum none\nquorum none\n",
    "a quorum of nobody who is known": "quorum X1\n",
    "a quorum before its witness": f"quorum X1\nwitness X1 {X1}\n",
    "a key twice": f"witness X1 {X1}\nwitness X2 {X1}\nquorum none\n",
    "a key twice under other names": f"witness X1 {X1}\nwitness X2 {AGAIN}\nquorum none\n",
    "a log twice": f"log {LOG.encode()}\nlog {LOG_AGAIN}\nquorum none\n",
    "a name twice": f"witness X1 {X1}\nwitness X1 {X2}\nquorum none\n",
    "a group by a witness's name": f"witness X1 {X1}\ngroup X1 1 X1\nquorum none\n",
    "the name none": f"witness none {X1}\nquorum none\n",
    "none as a member": "group g 1 none\nquorum none\n",
    "a member twice": f"witness X1 {X1}\ngroup g 2 X1 X1\nquorum g\n",
    "a member of two groups": f"witness X1 {X1}\ngroup g 1 X1\ngroup h 1 X1\nquorum g\n",
    "a group without members": "group g all\nquorum none\n",
    "more than there are": f"witness X1 {X1}\ngroup g 2 X1\nquorum g\n",
    "none at all": f"witness X1 {X1}\ngroup g 0 X1\nquorum g\n",
    "a count that is odd": f"witness X1 {X1}\ngroup g 01 X1\nquorum g\n",
    "a count in other digits": f"witness X1 {X1}\ngroup g \u0661 X1\nquorum g\n",
    "a log's key for a witness": f"witness X1 {LOG.encode()}\nquorum none\n",
    "a witness's key for a log": f"log {X1}\nquorum none\n",
    "a word too many": f"witness X1 {X1} https://a.example/ b\nquorum none\n",
    "another word": "trust everybody\nquorum none\n",
    "a carriage return": "quorum none\r\n",
    "too much": "#" * (MAX_POLICY_BYTES + 1),
    "too many groups": "".join(
        f"witness w{n} {VerifierKey('a', COSIGNATURE, SigningKey.generate().public).encode()}\n"
        for n in range(257)
    )
    + "quorum none\n",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_none_is_refused(case: str) -> None:
    with pytest.raises(MalformedError):
        parse_policy(REFUSED[case].encode())


def test_the_line_is_named() -> None:
    with pytest.raises(MalformedError, match="line 3"):
        parse_policy(f"# a\nwitness X1 {X1}\nnonsense\n".encode())
