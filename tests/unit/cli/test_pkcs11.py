"""Keys in a device: how they are named, and that they sign. SoftHSM2 stands for the device; without
it, or without the extra `quorate[pkcs11]`, those tests are skipped that need it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from quorate.cli import pkcs11
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.testing.builders import key_for

MODULES: Final = (
    os.environ.get("SOFTHSM2_MODULE", ""),
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
PIN: Final = "123456"
ED25519: Final = "1.3.101.112"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkcs11:object=gov", pkcs11.KeyUri(object="gov")),
        ("pkcs11:id=%01%ff;token=my%20hsm", pkcs11.KeyUri(id=b"\x01\xff", token="my hsm")),
        (
            "pkcs11:token=t;object=o;type=private?module-path=/lib/x.so&pin-source=file:/pin",
            pkcs11.KeyUri(token="t", object="o", module_path="/lib/x.so", pin_source="/pin"),
        ),
        ("pkcs11:id=%00", pkcs11.KeyUri(id=b"\x00")),
    ],
)
def test_a_uri_names_a_key(text: str, expected: pkcs11.KeyUri) -> None:
    assert pkcs11.parse_uri(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pkcs11",
        "pkcs11:",
        "pkcs11:token=t",
        "pkcs11:object=",
        "pkcs11:object=a;object=b",
        "pkcs11:object=a;slot-id=1",
        "pkcs11:object=a;type=public",
        "pkcs11:object=a?pin-value=1234",
        "pkcs11:object=a?unknown=1",
        "pkcs11:object=%ff",
        "pkcs11:object=a%00",
        f"pkcs11:object={'a' * 300}",
        f"pkcs11:object=a{';' * 3000}",
        "file:object=a",
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        pkcs11.parse_uri(text)


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> Any:
        raise ImportError

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigurationError, match="no devices") as error:
        pkcs11.load("pkcs11:object=a")
    assert "quorate[pkcs11]" in error.value.hint


def test_what_a_device_signs_is_verified() -> None:
    key, other = key_for("in a device"), key_for("another")
    good = pkcs11.DeviceKey(key.public, key.sign)
    assert (good.keyid, good.sign(b"x")) == (key.keyid, key.sign(b"x"))
    with pytest.raises(ConfigurationError, match="signature"):
        pkcs11.DeviceKey(key.public, other.sign).sign(b"x")
    with pytest.raises(MalformedError):
        pkcs11.DeviceKey(bytes(32), key.sign)


# -- with SoftHSM2 ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A token with two keys, and the beginning of their URI."""
    module = next((each for each in MODULES if each and Path(each).is_file()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM2 is not installed (Debian: softhsm2)")
    library: Any = pytest.importorskip("pkcs11", reason="quorate[pkcs11] is not installed")
    place = tmp_path_factory.mktemp("softhsm")
    (place / "tokens").mkdir()
    config = place / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {place}/tokens\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(config))
        make = ("--init-token", "--free", "--label", "quorate", "--pin", PIN, "--so-pin", "654321")
        subprocess.run(["softhsm2-util", *make], check=True, capture_output=True)
        util: Any = importlib.import_module("pkcs11.util.ec")
        names = library.Attribute
        with (
            library.lib(module)
            .get_token(token_label="quorate")
            .open(rw=True, user_pin=PIN) as session
        ):
            for label, ident in (("first", b"\x01"), ("second", b"\x02")):
                session.create_domain_parameters(
                    library.KeyType.EC_EDWARDS,
                    {names.EC_PARAMS: util.encode_named_curve_parameters(ED25519)},
                    local=True,
                ).generate_keypair(
                    mechanism=library.Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
                    store=True,
                    label=label,
                    id=ident,
                )
        pin = place / "pin"
        pin.write_text(f"{PIN}\n")
        pin.chmod(0o600)
        yield f"?module-path={module}&pin-source=file:{pin}"


def test_keys_in_a_device_are_found_by_label_or_id(device: str, run: Any) -> None:
    shown = run("key", "show", f"pkcs11:token=quorate;object=first{device}", "-o", "json")
    assert shown.exit_code == 0, shown.stderr
    by_id = run("key", "show", f"pkcs11:id=%01{device}", "-o", "json")
    assert by_id.json == shown.json
    assert "where" not in shown.json
    other = run("key", "show", f"pkcs11:object=second{device}", "-o", "json")
    assert other.json["public_key"] != shown.json["public_key"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("token=other;object=first", "0 tokens"),
        ("object=third", "0 private"),
        ("object=first;id=%02", "0 private"),
    ],
)
def test_a_key_that_is_not_there_is_said(device: str, run: Any, path: str, problem: str) -> None:
    ran = run("key", "show", f"pkcs11:{path}{device}")
    assert ran.exit_code == 1
    assert problem in ran.stderr


def test_a_wrong_pin_is_refused_and_not_shown(
    device: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pkcs11.PIN_VARIABLE, "999999")
    uri = f"pkcs11:object=first{device.partition('&')[0]}"
    ran = run("key", "show", uri)
    assert ran.exit_code == 1
    assert "refuses" in ran.stderr
    assert "999999" not in ran.stderr
    monkeypatch.setenv(pkcs11.PIN_VARIABLE, PIN)
    assert run("key", "show", uri).exit_code == 0


def test_an_organisation_is_governed_with_a_key_that_never_leaves_its_device(
    device: str, run: Any, federation: Any, node: Any
) -> None:
    uri = f"pkcs11:object=first{device}"
    public = run("key", "show", uri, "-o", "json").json["public_key"]
    taken = run(
        "domain", "set-keys", "--org", federation.org(), "--governance", public, "--signed-by", uri
    )
    assert taken.exit_code == 0, taken.stderr
    register = ("executor", "register", "agent/x", "--org", federation.org())
    assert run(*register).exit_code == 3, "the old key signs nothing any more"
    ran = run("--governance-key", uri, *register)
    assert ran.exit_code == 0, ran.stderr
    second = f"pkcs11:object=second{device}"
    both = run("key", "show", second, "-o", "json").json["public_key"], public
    ran = run(
        "--governance-key", uri, "domain", "set-keys", "--org", federation.org(),
        "--governance", both[0], "--governance", both[1], "--threshold", "2",
        "--signed-by", second,
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    suspend = ("domain", "suspend", "--org", federation.org())
    assert run("--governance-key", uri, *suspend).exit_code == 3
    assert run("--governance-key", uri, "--governance-key", second, *suspend).exit_code == 0
