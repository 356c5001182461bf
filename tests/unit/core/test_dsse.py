from __future__ import annotations

from base64 import b64encode

import pytest

from quorate.core import codec, dsse
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_SIGNATURES
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import key_for

KIND = "application/vnd.example+json"
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def signed(*names: str, payload: bytes = b"hello") -> bytes:
    return sign_envelope(KIND, payload, *(key_for(name) for name in names))


def test_pae_is_that_of_the_specification() -> None:
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == expected


def test_each_signer_verifies_and_nobody_else() -> None:
    envelope = dsse.parse(signed("a", "b"), 4096)
    assert envelope.payload == b"hello"
    assert envelope.verify(key_for("a").public)
    assert envelope.verify(key_for("b").public)
    assert not envelope.verify(key_for("c").public)


def test_an_envelope_says_again_what_it_was_parsed_from() -> None:
    data = signed("a", "b")
    assert dsse.parse(data, 4096).to_bytes() == data


def test_a_signature_under_another_keys_id_does_not_count() -> None:
    value = codec.decode(signed("a"), 4096)
    value["signatures"][0]["keyid"] = key_for("b").keyid  # type: ignore[index, call-overload]
    envelope = dsse.from_json(value)
    assert not envelope.verify(key_for("a").public)
    assert not envelope.verify(key_for("b").public)


@pytest.mark.parametrize("place", ["payload", "payloadType"])
def test_what_is_signed_cannot_be_changed(place: str) -> None:
    value = codec.decode(signed("a"), 4096)
    changed = "aGVsbG8h" if place == "payload" else KIND + "x"
    assert isinstance(value, dict)
    assert not dsse.from_json(value | {place: changed}).verify(key_for("a").public)


def _broken() -> list[object]:
    good = {
        "payload": "aGk=",
        "payloadType": KIND,
        "signatures": [{"keyid": "0" * 64, "sig": b64encode(bytes(64)).decode()}],
    }
    signature = good["signatures"][0]
    assert isinstance(signature, dict)
    return [
        [],
        {**good, "more": 1},
        {"payload": "aGk=", "payloadType": KIND},
        {**good, "payload": 7},
        {**good, "payload": "aGk"},
        {**good, "payload": "aGl="},  # bits beyond the end: a second spelling of the same bytes
        {**good, "payload": "aG k="},
        {**good, "payload": "ä"},
        {**good, "payloadType": ""},
        {**good, "payloadType": "a b"},
        {**good, "signatures": []},
        {**good, "signatures": {}},
        {**good, "signatures": [signature, signature]},
        {**good, "signatures": [{**signature, "keyid": "A" * 64}]},
        {**good, "signatures": [{**signature, "sig": "aGk="}]},
        {**good, "signatures": [{**signature, "more": 1}]},
        {
            **good,
            "signatures": [
                {**signature, "keyid": f"{index:064x}"} for index in range(MAX_SIGNATURES + 1)
            ],
        },
    ]


@pytest.mark.parametrize("value", _broken())
def test_what_is_no_envelope_is_refused(value: object) -> None:
    with pytest.raises(MalformedError):
        dsse.parse(codec.encode(value), 16_384)


def test_only_a_draft_may_lack_signatures() -> None:
    data = signed()
    assert dsse.parse(data, 4096, draft=True).signatures == ()
    with pytest.raises(MalformedError):
        dsse.parse(data, 4096)


# -- public keys, against a second implementation of the curve ------------------------------------

Point = tuple[int, int]


def add(one: Point, two: Point) -> Point:
    (x1, y1), (x2, y2) = one, two
    product = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def root(square: int) -> int | None:
    """A square root modulo P (RFC 8032 section 5.1.3)."""
    x = pow(square, (P + 3) // 8, P)
    for candidate in (x, x * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == square % P:
            return candidate
    return None


def point_of(y: int) -> Point | None:
    x = root((y * y - 1) * pow(D * y * y + 1, -1, P))
    return None if x is None else (x, y)


def low_order_ys() -> set[int]:
    """The y of every point whose eightfold is the neutral one: 8 is the cofactor, and L times any
    point is one of them."""
    order = 2**252 + 27742317777372353535851937790883648493
    found: set[int] = set()
    for start in range(2, 40):
        point = point_of(start)
        if point is None:
            continue
        total: Point = (0, 1)
        for bit in bin(order)[2:]:
            total = add(total, total)
            if bit == "1":
                total = add(total, point)
        for _ in range(8):
            found.add(total[1])
            total = add(total, total)
    return found


def test_every_point_of_low_order_is_refused_and_they_are_all() -> None:
    ys = low_order_ys()
    assert len(ys) == 5
    for y in ys:
        for sign in (0, 1 << 255):
            with pytest.raises(MalformedError, match="low order"):
                dsse.check_public_key((y | sign).to_bytes(32, "little"))


def test_keys_that_are_no_canonical_points_are_refused() -> None:
    for y in range(P, 2**255):
        for sign in (0, 1 << 255):
            with pytest.raises(MalformedError, match="canonical"):
                dsse.check_public_key((y | sign).to_bytes(32, "little"))
    for y in range(2, 200):
        raw = y.to_bytes(32, "little")
        if point_of(y) is None:
            with pytest.raises(MalformedError, match="no point"):
                dsse.check_public_key(raw)
        else:
            dsse.check_public_key(raw)
    for raw in (b"", bytes(31), bytes(33)):
        with pytest.raises(MalformedError, match="32 bytes"):
            dsse.check_public_key(raw)


def test_real_keys_are_accepted() -> None:
    for index in range(50):
        dsse.check_public_key(key_for(f"key {index}").public)


def test_unusable_keys_verify_nothing() -> None:
    assert not dsse.verify_bytes(b"short", bytes(64), b"")
    assert not dsse.verify_bytes(bytes(32), b"short", b"")


def test_a_public_key_in_json_is_lower_case_hex() -> None:
    text = key_for("a").public.hex()
    assert dsse.parse_public_key(text) == key_for("a").public
    for wrong in (text.upper(), text[:-1], text + "0", " " + text):
        with pytest.raises(MalformedError):
            dsse.parse_public_key(wrong)
