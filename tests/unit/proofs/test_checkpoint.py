"""Checkpoints: exactly the form of the specification, and only under the log's own name."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core.errors import MalformedError
from quorate.proofs import checkpoint, merkle, note
from quorate.proofs.checkpoint import Checkpoint
from quorate.proofs.signing import SigningKey

PUBLISHED = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
ROOT = base64.b64encode(bytes(range(32))).decode()
ORIGIN = "quorate.example/federation-1"


def test_the_published_example_is_read_and_written_the_same():
    parsed = checkpoint.parse_checkpoint(PUBLISHED)
    assert (parsed.origin, parsed.size) == ("example.com/behind-the-sofa", 20852163)
    assert parsed.root.hex().startswith("0ac5186a")
    assert parsed.body() == PUBLISHED


def test_extension_lines_are_kept():
    text = PUBLISHED + "opaque 1\nopaque 2\n"
    assert checkpoint.parse_checkpoint(text).body() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"o\n1\n{ROOT}",
        f"o\n1\n{ROOT}\n\n",
        f"o\n1\n{ROOT}\n\next\n",
        f"\n1\n{ROOT}\n",
        "o\n1\n",
        f"o\n\n{ROOT}\n",
        f"o\n01\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n1_0\n{ROOT}\n",
        f"o\n 1\n{ROOT}\n",
        f"o\n1 \n{ROOT}\n",
        f"o\n1.0\n{ROOT}\n",
        f"o\n0x1\n{ROOT}\n",
        f"o\n\u0661\n{ROOT}\n",  # an Arabic digit, which int() takes
        f"o\n9223372036854775808\n{ROOT}\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
        f"o\n1\n{ROOT[:-1]}\n",
        f"o\n1\n{ROOT[:-2]}9=\n",  # bits after the end
        f"o\n1\n{ROOT} \n",
        f"o\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"o\n1\n{base64.b64encode(bytes(33)).decode()}\n",
        f"o\n0\n{ROOT}\n",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(MalformedError):
        checkpoint.parse_checkpoint(text)


def test_the_empty_tree_has_its_own_root():
    empty = Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT)
    assert checkpoint.parse_checkpoint(empty.body()) == empty


@given(
    origin=st.from_regex(r"[a-z][a-z0-9./-]{0,40}", fullmatch=True),
    size=st.integers(1, 2**63 - 1),
    root=st.binary(min_size=32, max_size=32),
)
def test_what_is_written_is_read_back(origin, size, root):
    original = Checkpoint(origin, size, root)
    assert checkpoint.parse_checkpoint(original.body()) == original


def test_a_signed_checkpoint_opens_with_the_log_s_key_alone():
    key, other = SigningKey.generate(), SigningKey.generate()
    head = Checkpoint(ORIGIN, 7, bytes(range(32)))
    signed = checkpoint.sign_checkpoint(head, key)
    assert checkpoint.open_checkpoint(signed, ORIGIN, key.public) == head
    with pytest.raises(MalformedError, match="not signed"):
        checkpoint.open_checkpoint(signed, ORIGIN, other.public)
    with pytest.raises(MalformedError, match="another log"):
        checkpoint.open_checkpoint(signed, "quorate.example/federation-2", key.public)


def test_the_key_s_name_must_be_the_origin():
    key = SigningKey.generate()
    body = Checkpoint(ORIGIN, 7, bytes(range(32))).body()
    signed = note.sign_note(body, "quorate.example/someone-else", key)
    with pytest.raises(MalformedError, match="not signed"):
        checkpoint.open_checkpoint(signed, ORIGIN, key.public)


@pytest.mark.parametrize(
    "head",
    [
        Checkpoint("two\nlines", 1, bytes(32)),
        Checkpoint("", 1, bytes(32)),
        Checkpoint("with space", 1, bytes(32)),
        Checkpoint(ORIGIN, -1, bytes(32)),
        Checkpoint(ORIGIN, 1, bytes(31)),
        Checkpoint(ORIGIN, 1, bytes(32), ("",)),
    ],
)
def test_what_others_could_not_read_is_not_signed(head):
    with pytest.raises(MalformedError):
        checkpoint.sign_checkpoint(head, SigningKey.generate())
