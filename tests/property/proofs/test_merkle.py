"""The tree against the definitions of RFC 9162, written down as they stand there."""

import hashlib
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.proofs import merkle

LEAVES = tuple(b"entry %d" % index for index in range(70))


def largest_power_of_two_below(n):
    return max(1 << exponent for exponent in range(64) if 1 << exponent < n)


@cache
def mth(leaves):
    """MTH(D[n]), section 2.1.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = largest_power_of_two_below(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m, leaves):
    """PATH(m, D[n]), section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = largest_power_of_two_below(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, known):
    """SUBPROOF(m, D[n], b), section 2.1.4.1."""
    if m == len(leaves):
        return [] if known else [mth(leaves)]
    k = largest_power_of_two_below(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], known), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


class Nodes(dict):
    def node(self, level, index):
        return self[level, index]

    def put_node(self, level, index, digest):
        self[level, index] = digest


@pytest.fixture(scope="module")
def tree():
    nodes = Nodes()
    for size, leaf in enumerate(LEAVES):
        merkle.append(nodes, size, merkle.leaf_hash(leaf))
    return nodes


sizes = st.integers(1, len(LEAVES))


@st.composite
def positions(draw):
    size = draw(sizes)
    return draw(st.integers(0, size - 1)), size


@st.composite
def size_pairs(draw):
    new = draw(sizes)
    return draw(st.integers(1, new)), new


def mutations(proof):
    """Every proof that differs from `proof` by one fault."""
    for at, digest in enumerate(proof):
        yield [*proof[:at], bytes([digest[0] ^ 1]) + digest[1:], *proof[at + 1 :]]
        yield [*proof[:at], digest[:-1] + bytes([digest[-1] ^ 128]), *proof[at + 1 :]]
        yield proof[:at] + proof[at + 1 :]
        yield [*proof[:at], digest, *proof[at:]]
        if at:
            yield [*proof[: at - 1], digest, proof[at - 1], *proof[at + 1 :]]
    yield [*proof, bytes(32)]
    yield [bytes(32), *proof]


def test_every_root_and_proof_is_the_definition_s(tree):
    for size in range(1, len(LEAVES) + 1):
        leaves = LEAVES[:size]
        assert merkle.root(tree, size) == mth(leaves)
        for index in range(size):
            assert merkle.inclusion_proof(tree, index, size) == path(index, leaves)
        for old in range(1, size + 1):
            assert merkle.consistency_proof(tree, old, size) == subproof(old, leaves, True)


def test_only_complete_subtrees_are_stored(tree):
    for level, index in tree:
        assert (index + 1) << level <= len(LEAVES)
        assert tree[level, index] == mth(LEAVES[index << level : (index + 1) << level])


@given(position=positions())
def test_a_true_inclusion_is_accepted_and_no_mutation_of_it(tree, position):
    index, size = position
    leaf, root = merkle.leaf_hash(LEAVES[index]), merkle.root(tree, size)
    proof = merkle.inclusion_proof(tree, index, size)
    assert merkle.verify_inclusion(leaf, index, size, proof, root)
    for mutated in mutations(proof):
        assert not merkle.verify_inclusion(leaf, index, size, mutated, root)
    for other in range(size):
        if other != index:
            assert not merkle.verify_inclusion(leaf, other, size, proof, root)
            other_leaf = merkle.leaf_hash(LEAVES[other])
            assert not merkle.verify_inclusion(other_leaf, index, size, proof, root)
    for other in range(index + 1, len(LEAVES) + 1):
        if other != size:
            other_root = merkle.root(tree, other)
            assert not merkle.verify_inclusion(leaf, index, other, proof, other_root)
            assert not merkle.verify_inclusion(leaf, index, size, proof, other_root)


@given(pair=size_pairs())
def test_a_true_consistency_is_accepted_and_no_mutation_of_it(tree, pair):
    old, new = pair
    old_root, new_root = merkle.root(tree, old), merkle.root(tree, new)
    proof = merkle.consistency_proof(tree, old, new)
    assert merkle.verify_consistency(old, new, proof, old_root, new_root)
    for mutated in mutations(proof):
        assert not merkle.verify_consistency(old, new, mutated, old_root, new_root)
    for other in range(1, len(LEAVES) + 1):
        other_root = merkle.root(tree, other)
        if other != old:
            assert not merkle.verify_consistency(old, new, proof, other_root, new_root)
            assert not merkle.verify_consistency(other, new, proof, other_root, new_root)
        if other != new:
            assert not merkle.verify_consistency(old, new, proof, old_root, other_root)
            assert not merkle.verify_consistency(old, other, proof, old_root, other_root)


@given(
    digests=st.lists(st.binary(max_size=40), max_size=8),
    numbers=st.tuples(st.integers(), st.integers()),
    roots=st.tuples(st.binary(max_size=40), st.binary(max_size=40)),
)
def test_verifying_garbage_answers_and_never_raises(digests, numbers, roots):
    assert merkle.verify_inclusion(roots[0], *numbers, digests, roots[1]) in (True, False)
    assert merkle.verify_consistency(*numbers, digests, *roots) in (True, False)
