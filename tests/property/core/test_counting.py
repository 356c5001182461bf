"""Signatures are counted by keys: whatever is put into an envelope, too few never become enough."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.core import dsse
from quorate.core.errors import MalformedError
from quorate.core.keysets import has_enough
from quorate.testing.builders import key_for

PAYLOAD, KIND = b"{}", dsse.COMMAND_TYPE
KEYS = [key_for(f"counted {place}") for place in range(9)]
FOREIGN = [key_for(f"foreign {place}") for place in range(3)]
GOOD = {key.keyid: key.sign(dsse.pae(KIND, PAYLOAD)) for key in (*KEYS, *FOREIGN)}
IDS = list(GOOD)

signatures = st.lists(
    st.one_of(
        st.sampled_from(IDS).map(lambda keyid: dsse.Signature(keyid, GOOD[keyid])),
        st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)).map(  # of another key, or right
            lambda pair: dsse.Signature(pair[0], GOOD[pair[1]])
        ),
        st.tuples(st.sampled_from(IDS), st.binary(min_size=64, max_size=64)).map(
            lambda pair: dsse.Signature(*pair)
        ),
    ),
    max_size=24,
)


@settings(max_examples=300)
@given(signatures, st.integers(1, 9), st.integers(-1, 10), st.integers(0, 9))
def test_enough_have_signed_exactly_when_so_many_keys_have(
    some: list[dsse.Signature], size: int, threshold: int, doubled: int
) -> None:
    own = KEYS[:size]
    envelope = dsse.Envelope(PAYLOAD, KIND, tuple(some))
    really = {each.keyid for each in some if each.sig == GOOD[each.keyid]}
    have = len(really & {key.keyid for key in own})
    listed = [key.public.hex() for key in (*own, *own[:doubled])]
    assert has_enough(envelope, listed, threshold) == (0 < threshold <= have)


@settings(max_examples=200)
@given(signatures.filter(bool), st.integers(2, 9))
def test_what_comes_from_outside_names_each_key_once(
    some: list[dsse.Signature], threshold: int
) -> None:
    """And one good signature short, with any rubbish beside it, is not enough."""
    short = [dsse.Signature(key.keyid, GOOD[key.keyid]) for key in KEYS[: threshold - 1]]
    rubbish = [each for each in some if each.keyid in {key.keyid for key in FOREIGN}]
    data = dsse.Envelope(PAYLOAD, KIND, (*short, *rubbish)).to_bytes()
    names = [each.keyid for each in (*short, *rubbish)]
    try:
        envelope = dsse.parse(data, 16_384, most=32)
    except MalformedError:
        assert len({*names}) < len(names)
        return
    assert not has_enough(envelope, [key.public.hex() for key in KEYS], threshold)
