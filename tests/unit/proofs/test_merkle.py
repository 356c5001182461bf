"""The tree against the vectors that the certificate-transparency implementations share."""

import pytest

from quorate.proofs import merkle

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = [  # index, size, path
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY = [  # old size, new size, proof
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


class Nodes:
    """A node store in memory; a node may be written once."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}

    def node(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        assert (level, index) not in self.nodes
        self.nodes[level, index] = digest


@pytest.fixture
def tree() -> Nodes:
    nodes = Nodes()
    for size, leaf in enumerate(LEAVES):
        merkle.append(nodes, size, merkle.leaf_hash(leaf))
    return nodes


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_root_of_every_size_is_the_published_one(tree, size):
    assert merkle.root(tree, size).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_inclusion_proof_is_the_published_one(tree, index, size, path):
    proof = merkle.inclusion_proof(tree, index, size)
    assert [digest.hex() for digest in proof] == path
    root = bytes.fromhex(ROOTS[size])
    assert merkle.verify_inclusion(merkle.leaf_hash(LEAVES[index]), index, size, proof, root)


@pytest.mark.parametrize(("old", "new", "path"), CONSISTENCY)
def test_consistency_proof_is_the_published_one(tree, old, new, path):
    proof = merkle.consistency_proof(tree, old, new)
    assert [digest.hex() for digest in proof] == path
    old_root, new_root = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    assert merkle.verify_consistency(old, new, proof, old_root, new_root)


def test_nothing_is_consistent_with_the_empty_tree(tree):
    new_root = merkle.root(tree, 8)
    assert not merkle.verify_consistency(0, 8, [], merkle.EMPTY_ROOT, new_root)
    assert not merkle.verify_consistency(0, 0, [], merkle.EMPTY_ROOT, merkle.EMPTY_ROOT)
    with pytest.raises(AssertionError):
        merkle.consistency_proof(tree, 0, 8)


def test_equal_sizes_need_equal_roots_and_no_proof(tree):
    root, other = merkle.root(tree, 8), merkle.root(tree, 7)
    assert merkle.verify_consistency(8, 8, [], root, root)
    assert not merkle.verify_consistency(8, 8, [], root, other)
    assert not merkle.verify_consistency(8, 8, [root], root, root)


@pytest.mark.parametrize(("index", "size"), [(-1, 8), (8, 8), (0, 0), (0, -1), (0, 2**63)])
def test_positions_outside_the_tree_are_rejected(tree, index, size):
    root = merkle.root(tree, 8)
    assert not merkle.verify_inclusion(merkle.leaf_hash(LEAVES[0]), index, size, [], root)


def test_a_huge_proof_is_rejected_without_walking_it(tree):
    root = merkle.root(tree, 8)
    proof = [bytes(32)] * 10_000
    assert not merkle.verify_inclusion(merkle.leaf_hash(LEAVES[0]), 0, 8, proof, root)
    assert not merkle.verify_consistency(3, 8, proof, merkle.root(tree, 3), root)


def test_a_size_that_needs_a_longer_proof_is_rejected(tree):
    """The hashes alone fit: nothing but the length of the path speaks against the claim."""
    root, old_root = merkle.root(tree, 8), merkle.root(tree, 4)
    proof = merkle.consistency_proof(tree, 4, 8)
    assert merkle.verify_consistency(4, 8, proof, old_root, root)
    assert not merkle.verify_consistency(4, 16, proof, old_root, root)
    path = merkle.inclusion_proof(tree, 0, 8)
    assert merkle.verify_inclusion(merkle.leaf_hash(LEAVES[0]), 0, 8, path, root)
    assert not merkle.verify_inclusion(merkle.leaf_hash(LEAVES[0]), 0, 16, path, root)


def test_hashes_of_another_length_are_rejected(tree):
    root = merkle.root(tree, 2)
    good = merkle.inclusion_proof(tree, 0, 2)
    leaf = merkle.leaf_hash(LEAVES[0])
    assert merkle.verify_inclusion(leaf, 0, 2, good, root)
    assert not merkle.verify_inclusion(leaf, 0, 2, [good[0] + b"\x00"], root)
    assert not merkle.verify_inclusion(leaf, 0, 2, [good[0][:-1]], root)
    # Without the check, bytes could move from one hash to its neighbour.
    assert not merkle.verify_inclusion(leaf + good[0][:1], 0, 2, [good[0][1:]], root)


def test_leaves_and_nodes_never_collide(tree):
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
