"""Ids and patterns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorate.core import ids, patterns
from quorate.core.errors import MalformedError

GOOD: list[tuple[Callable[[str], object], list[str]]] = [
    (ids.check_domain, ["bank.example", "a", "9-x_y.z"]),
    (ids.check_node, ["spiffe://bank.example/node/1", "spiffe://b/node/eu/1"]),
    (
        ids.check_executor,
        ["spiffe://bank.example/agent/payments", "spiffe://b/nodes", "spiffe://b/A._-"],
    ),
    (ids.check_operator, ["spiffe://bank.example/operator/admin"]),
    (ids.check_resource, ["//bank.example/accounts/payroll", "//b/x"]),
    (ids.check_action, ["payments.transfer", "a", "a_1.b.c"]),
    (ids.check_name, ["g", "0", "a.b-c_d", "x" * 64]),
    (ids.check_origin, ["quorate.example/federation-1", "q"]),
    (ids.check_nonce, ["0" * 16, "f" * 64]),
    (ids.check_address, ["127.0.0.1:7401", "node.bank.example:1", "[::1]:65535"]),
    (
        ids.check_lease_address,
        ["127.0.0.1:7403", "unix:/s", "unix:/a//b", "unix:///run/a b/lease:1.sock"],
    ),
    (patterns.check_action_pattern, ["*", "payments.*", "payments.transfer", "a.b.*"]),
    (patterns.check_resource_pattern, ["//b/*", "//b/a/*", "//b/a"]),
]
BAD: list[tuple[Callable[[str], object], list[str]]] = [
    (ids.check_domain, ["", "Bank", "bank/x", ".bank", "bank\n", "b\x00", "bänk", "x" * 256]),
    (ids.check_node, ["spiffe://b/node", "spiffe://b/agent/1", "spiffe://B/node/1", "//b/node/1"]),
    (
        ids.check_executor,
        [
            "spiffe://b/node/1",
            "spiffe://b/operator/x",
            "spiffe://b",
            "spiffe://b/",
            "spiffe://b/a/",
            "spiffe://b/a//c",
            "spiffe://b/../a",
            "spiffe://b/a/.",
            "spiffe://b/a b",
            "spiffe://b/a?x",
            "spiffe://b:1/a",
            "SPIFFE://b/a",
            "spiffe://b/a\n",
            "spiffe://b/" + "a" * 255,
        ],
    ),
    (ids.check_operator, ["spiffe://b/operator", "spiffe://b/agent/x"]),
    (ids.check_resource, ["", "//b", "//b/", "/b/x", "//B/x", "//b/x/../y", "//b/*", "//b/x*"]),
    (ids.check_action, ["", "A", ".a", "a.", "a..b", "a.*", "*", "a b"]),
    (ids.check_name, ["", "-a", "A", "a/b", "x" * 65, "a\n"]),
    (ids.check_origin, ["", "a b", "/x", "a/", "a+b", "a\nb", "a/.."]),
    (ids.check_nonce, ["0" * 15, "f" * 65, "F" * 16, "g" * 16]),
    (ids.check_address, ["host", "host:", "host:0", "host:65536", ":1", "a b:1", "::1:1"]),
    (ids.check_lease_address, ["host", "unix:", "unix:s", "unix:///", "unix:/a/", "unix:/a#b"]),
    (patterns.check_action_pattern, ["", ".*", "**", "*.a", "a*", "a.*.b", "a.*.*", "a.**"]),
    (
        patterns.check_resource_pattern,
        [
            "",
            "*",
            "/*",
            "//*",
            "//*/a",
            "//b*",
            "//b/a*",
            "//b/*/a",
            "//b/**",
            "//b//*",
            "//b/../*",
        ],
    ),
]


@pytest.mark.parametrize(("check", "text"), [(c, t) for c, texts in GOOD for t in texts])
def test_names_that_are_right(check: Callable[[str], object], text: str) -> None:
    check(text)


@pytest.mark.parametrize(("check", "text"), [(c, t) for c, texts in BAD for t in texts])
def test_names_that_are_wrong(check: Callable[[str], object], text: str) -> None:
    with pytest.raises(MalformedError):
        check(text)


def test_a_spiffe_id_has_parts_and_a_dns_name() -> None:
    parsed = ids.SpiffeId.parse("spiffe://bank.example/node/1")
    assert (parsed.trust_domain, parsed.path, parsed.role) == ("bank.example", "/node/1", "node")
    assert str(parsed) == "spiffe://bank.example/node/1"
    assert ids.dns_name("spiffe://bank.example/node/1") == "1.node.bank.example"


def test_ids_derived_from_others_do_not_change() -> None:
    """They are part of the protocol: golden values."""
    command_id = ids.command_id("bank.example", "00" * 8)
    assert command_id == "03a97b5a9630035209be6623b5636a566cf5f0f49acba1d66e99fd258d3ac114"
    assert ids.lease_id("quorate.example/f", command_id) == "6f337ca200cac61162037b311e21c5e0"


@pytest.mark.parametrize(
    ("pattern", "action", "expected"),
    [
        ("*", "a.b", True),
        ("a.b", "a.b", True),
        ("a.b", "a.bc", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", True),
        ("a.*", "a", False),
        ("a.*", "ab.c", False),
        ("a.*", "a.", False),
        ("a.b.*", "a.b", False),
    ],
)
def test_action_patterns(pattern: str, action: str, expected: bool) -> None:
    assert patterns.action_matches(pattern, action) is expected


@pytest.mark.parametrize(
    ("pattern", "resource", "expected"),
    [
        ("//b/a", "//b/a", True),
        ("//b/a", "//b/a/c", False),
        ("//b/*", "//b/a/c", True),
        ("//b/a/*", "//b/a/c", True),
        ("//b/a/*", "//b/a", False),
        ("//b/a/*", "//b/ab", False),
        ("//b/*", "//bc/a", False),
        ("*", "//b/a", False),
    ],
)
def test_resource_patterns(pattern: str, resource: str, expected: bool) -> None:
    assert patterns.resource_matches(pattern, resource) is expected


def test_a_resource_pattern_has_one_owner() -> None:
    assert patterns.pattern_owner("//bank.example/*") == "bank.example"
    assert patterns.pattern_owner("//bank.example/a/b") == "bank.example"
