"""The Merkle tree of the ledger: RFC 6962 section 2.1, RFC 9162 section 2.1, with SHA-256.

Owns hashing, appending, roots, proofs and their verification. Keeps nothing: the nodes of
*complete* subtrees are read and written through `NodeReader` and `NodeStore` by (level, index);
node (0, i) is leaf i, and node (l, i) covers leaves [i * 2^l, (i + 1) * 2^l). A node, once written,
never changes, and every root and proof of every earlier size can be made from the same nodes.

Verifying takes whatever bytes a stranger hands over and answers a bool; making a proof asserts its
arguments, which are the caller's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Protocol

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
MAX_TREE_SIZE: Final = 2**63 - 1


class NodeReader(Protocol):
    """The nodes of a tree."""

    def node(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree. Raises when there is none: the store is damaged then."""
        ...


class NodeStore(NodeReader, Protocol):
    """The nodes of a tree that grows."""

    def put_node(self, level: int, index: int, digest: bytes) -> None: ...


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf; the prefix keeps leaves and inner nodes apart (RFC 9162, 2.1.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def append(store: NodeStore, size: int, digest: bytes) -> None:
    """Adds the leaf hash `digest` as leaf `size`, and every node that it completes.

    Writes 2 nodes a leaf on average, and reads 1.
    """
    assert len(digest) == HASH_BYTES
    level, index = 0, size
    store.put_node(level, index, digest)
    while index & 1:
        digest = node_hash(store.node(level, index - 1), digest)
        level, index = level + 1, index >> 1
        store.put_node(level, index, digest)


def root(reader: NodeReader, size: int) -> bytes:
    """The root hash of the first `size` leaves, from at most log2(size) + 1 nodes."""
    assert size >= 0
    return _range_hash(reader, 0, size) if size else EMPTY_ROOT


def inclusion_proof(reader: NodeReader, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 9162, 2.1.3.1: the siblings from the leaf up to the root."""
    assert 0 <= index < size
    path = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range_hash(reader, middle, high))
            high = middle
        else:
            path.append(_range_hash(reader, low, middle))
            low = middle
    path.reverse()
    return path


def consistency_proof(reader: NodeReader, old_size: int, new_size: int) -> list[bytes]:
    """PROOF(old_size, D[new_size]) of RFC 9162, 2.1.4.1.

    Nothing can be proven about a tree of size 0: every tree extends it.
    """
    assert 0 < old_size <= new_size
    proof = []
    low, high = 0, new_size
    known = True  # the old tree's root is what the verifier holds: it is left out of the proof
    while old_size < high:
        middle = low + _split(high - low)
        if old_size <= middle:
            proof.append(_range_hash(reader, middle, high))
            high = middle
        else:
            proof.append(_range_hash(reader, low, middle))
            low = middle
            known = False
    if not known:
        proof.append(_range_hash(reader, low, high))
    proof.reverse()
    return proof


def verify_inclusion(
    digest: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes
) -> bool:
    """Whether the leaf hash `digest` is leaf `index` of the tree of `size` leaves under
    `root_hash` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size <= MAX_TREE_SIZE or not _hashes(digest, root_hash, *proof):
        return False
    node, last = index, size - 1
    for sibling in proof:
        if last == 0:
            return False  # longer than the path to the root
        if node & 1 or node == last:
            digest = node_hash(sibling, digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and digest == root_hash


def verify_consistency(
    old_size: int, new_size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> bool:
    """Whether the tree of `new_size` leaves under `new_root` extends the one of `old_size` leaves
    under `old_root` (RFC 9162, 2.1.4.2). False for an old size of 0, about which a proof says
    nothing: a verifier that has seen no tree yet must know that it trusts its first one."""
    if not 0 < old_size <= new_size <= MAX_TREE_SIZE or not _hashes(old_root, new_root, *proof):
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    if not proof:
        return False
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)  # a complete subtree: the verifier's own hash begins the path
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old_digest = new_digest = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_digest = node_hash(sibling, old_digest)
            new_digest = node_hash(sibling, new_digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_digest = node_hash(new_digest, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old_digest == old_root and new_digest == new_root


def _range_hash(reader: NodeReader, low: int, high: int) -> bytes:
    """The hash of leaves [low, high), where `low` is a multiple of the range's largest power of 2:
    its complete subtrees, folded from the right."""
    rest = high - low
    end = high
    digest = b""
    while rest:
        level = (rest & -rest).bit_length() - 1
        node = reader.node(level, (end >> level) - 1)
        digest = node_hash(node, digest) if digest else node
        end -= 1 << level
        rest &= rest - 1
    return digest


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _hashes(*digests: bytes) -> bool:
    return all(len(digest) == HASH_BYTES for digest in digests)
