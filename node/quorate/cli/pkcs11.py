"""A private key that stays in a device: named by a URI (RFC 7512), used through PKCS #11.

Owns the reading of the URI and the signing (CKM_EDDSA, PKCS #11 3.0). The library that speaks to
devices is an extra, `quorate[pkcs11]`, and is loaded on use. Whatever a device signs is verified
before anybody sees it: a device that is set up wrongly shows here, and not in a ledger.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

from quorate.core import dsse
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.node.identity import read_private

SCHEME: Final = "pkcs11:"
MODULE_VARIABLE: Final = "QUORATE_PKCS11_MODULE"
PIN_VARIABLE: Final = "QUORATE_PKCS11_PIN"
_PATH: Final = frozenset({"token", "serial", "manufacturer", "model", "object", "id", "type"})
_QUERY: Final = frozenset({"module-path", "pin-source"})
_MAX_URI_CHARS: Final = 2_048
_TEXT: Final = re.compile(rb"[^\x00-\x1f]{1,255}")
_OCTETS: Final = bytes([0x04, dsse.PUBLIC_KEY_BYTES])
"""What goes before the point where a device gives it as a DER octet string."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class KeyUri:
    """token, object: labels. id: of the key, in bytes. Empty: not said. pin_source: a file."""

    token: str = ""
    serial: str = ""
    manufacturer: str = ""
    model: str = ""
    object: str = ""
    id: bytes = b""
    module_path: str = ""
    pin_source: str = ""


def parse_uri(text: str) -> KeyUri:
    """Raises MalformedError, also for what RFC 7512 has and this does not know: it may mean another
    key."""
    if len(text) > _MAX_URI_CHARS or not text.startswith(SCHEME):
        raise MalformedError("is no pkcs11: URI")
    path, _, query = text.removeprefix(SCHEME).partition("?")
    said = {**_attributes(path, ";", _PATH), **_attributes(query, "&", _QUERY)}
    if said.pop("type", b"private") != b"private":
        raise MalformedError("names something else than a private key", field="type")
    if not {"object", "id"} & said.keys():
        raise MalformedError("names no key", hint="name it by object=LABEL, or by id=%01")
    ident = said.pop("id", b"")
    source = _decoded(said.pop("pin-source", b""))
    return KeyUri(
        id=ident,
        module_path=_decoded(said.pop("module-path", b"")),
        pin_source=source.removeprefix("file://").removeprefix("file:"),
        **{name: _decoded(value) for name, value in said.items()},
    )


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise MalformedError(
                "has the PIN in it, where every process of this machine sees it",
                hint=f"give pin-source=file:FILE, or set {PIN_VARIABLE}",
            )
        if name not in known or not equals or name in found:
            raise MalformedError(f"'{name[:64]}' is not known, or there twice")
        data = unquote_to_bytes(value)
        if _TEXT.fullmatch(data) is None and not (name == "id" and 0 < len(data) <= 255):
            raise MalformedError("is empty, too long, or no text", field=name)
        found[name] = data
    return found


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("is no text") from error


class DeviceKey:
    """A key in a device, for as long as the process lives. It is a `quorate.proofs.signing.Signer`.

    sign: given a message, what the device makes of it."""

    __slots__ = ("_sign", "keyid", "public")

    def __init__(self, public: bytes, sign: Callable[[bytes], bytes]) -> None:
        dsse.check_public_key(public)
        self.public = public
        self.keyid = dsse.key_id(public)
        self._sign = sign

    def sign(self, message: bytes) -> bytes:
        """Raises ConfigurationError when the device has signed with something else."""
        signature = self._sign(message)
        if not dsse.verify_bytes(self.public, signature, message):
            raise ConfigurationError(
                "the device's signature is none of the public key that it shows",
                hint="its public and private key must be a pair, with the same id",
            )
        return signature

    def __repr__(self) -> str:
        return f"DeviceKey(keyid={self.keyid!r})"


def load(text: str, environment: Mapping[str, str] = os.environ) -> DeviceKey:
    """Opens the device, logs in, and finds the key. Raises ConfigurationError or MalformedError."""
    uri = parse_uri(text)
    try:
        library: Any = importlib.import_module("pkcs11")
    except ImportError as error:
        raise ConfigurationError(
            "this installation speaks to no devices", hint="install quorate[pkcs11]"
        ) from error
    module = uri.module_path or environment.get(MODULE_VARIABLE, "")
    if not module:
        raise ConfigurationError(
            "which module speaks to the device?",
            hint=f"give module-path=FILE in the URI, or set {MODULE_VARIABLE}",
        )
    return _asked(library, lambda: _find(library, module, uri, _pin(uri, environment)))


def _find(library: Any, module: str, uri: KeyUri, pin: str | None) -> DeviceKey:
    tokens = [
        token
        for slot in library.lib(module).get_slots(token_present=True)
        for token in [slot.get_token()]
        if library.TokenFlag.TOKEN_INITIALIZED in token.flags and _is_meant(token, uri)
    ]
    if len(tokens) != 1:
        raise ConfigurationError(
            f"{len(tokens)} tokens are what the URI names", hint="name one, by token=LABEL"
        )
    [token] = tokens
    names, kinds = library.Attribute, library.ObjectClass
    wanted: dict[Any, Any] = {names.KEY_TYPE: library.KeyType.EC_EDWARDS}
    named = dict(wanted)
    if uri.object:
        named[names.LABEL] = uri.object
    if uri.id:
        named[names.ID] = uri.id
    # A session for each use: a token lets nobody log in twice, and several keys may be in one.
    with token.open(user_pin=pin) as session:
        ident = _only(session, {**named, names.CLASS: kinds.PRIVATE_KEY}, "private")[names.ID]
        pair = {**wanted, names.ID: ident, names.CLASS: kinds.PUBLIC_KEY}
        point = bytes(_only(session, pair, "public")[names.EC_POINT])
    if len(point) == len(_OCTETS) + dsse.PUBLIC_KEY_BYTES and point.startswith(_OCTETS):
        point = point[len(_OCTETS) :]
    own = {**wanted, names.ID: ident, names.CLASS: kinds.PRIVATE_KEY}

    def sign(message: bytes) -> bytes:
        with token.open(user_pin=pin) as session:
            private = _only(session, own, "private")
            return bytes(private.sign(message, mechanism=library.Mechanism.EDDSA))

    try:
        return DeviceKey(point, lambda message: _asked(library, lambda: sign(message)))
    except MalformedError as error:
        raise ConfigurationError(f"the key in the device is no Ed25519 key: {error}") from error


def _is_meant(token: Any, uri: KeyUri) -> bool:
    has = {
        "token": token.label,
        "serial": token.serial,
        "manufacturer": token.manufacturer_id,
        "model": token.model,
    }
    return all(
        _plain(value) == getattr(uri, name) or not getattr(uri, name) for name, value in has.items()
    )


def _plain(value: str | bytes) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text.rstrip(" \x00")


def _only(session: Any, wanted: dict[Any, Any], kind: str) -> Any:
    found = list(session.get_objects(wanted))
    if len(found) != 1:
        raise ConfigurationError(
            f"the device has {len(found)} {kind} Ed25519 keys of that name",
            hint="a key is a pair, private and public, with one id that no other has",
        )
    return found[0]


def _pin(uri: KeyUri, environment: Mapping[str, str]) -> str | None:
    if uri.pin_source:
        return read_private(Path(uri.pin_source)).decode("utf-8", "replace").strip()
    return environment.get(PIN_VARIABLE) or None


def _asked(library: Any, ask: Callable[[], _T]) -> _T:
    """What the device answers. Raises ConfigurationError when it does not."""
    try:
        return ask()
    except library.PKCS11Error as error:
        raise ConfigurationError(
            f"the device refuses: {type(error).__name__}",
            hint="check the module, the token and the PIN",
        ) from error
