"""The data of a session in fewer bytes, without a length that reveals secrets.

Encryption does not hide the length of a cookie from an attacker who watches the connection. Often
the attacker can also choose a text that the session stores, for example a search, next to secrets
such as a CSRF token. If both were compressed in one stream, the cookie would be shorter for a text
that repeats a part of the secret, and would reveal the secret bit by bit. This attack is known as
CRIME. So each value is made shorter without regard to any other value:

* The names of Django's keys and the paths of its authentication backends become numbers.
* The hash of a login, 64 hexadecimal characters, becomes 32 bytes.
* A text, or bytes, of `DEFLATE_FROM` bytes or more is deflated by itself.
* Everything else stays as it is. So do lists and dicts, which have values of several origins.

The length still reveals how much data there is, and how well each long text compresses.

Tried and rejected: one stream for all values, for the reason above; one stream for each value of
the session, of any type, because packages keep secrets and texts from a link in one dict; padding,
which only makes the attack take longer. A dictionary for the compressor helps little with texts of
this length.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

import msgspec
from msgspec import Raw
from msgspec.msgpack import Ext

from ..core.login_keys import USER_BACKEND, USER_HASH, USER_ID
from ..exceptions import UnreadablePayload
from .deep_calls import with_enough_stack
from .serializers import SURROGATES

DEFLATE_FROM: Final = 128
"""The bytes from which on a text is deflated. Most shorter texts would become longer."""

# The tables and codes are part of the format of tokens: add at the end, never change or remove.
_NAMES: Final = (
    USER_ID,
    USER_BACKEND,
    USER_HASH,
    "_session_expiry",
    "_csrftoken",
    "_messages",
    "_password_reset_token",
    "testcookie",
    "_authenticated_at",
)
_BACKENDS: Final = (
    "django.contrib.auth.backends.ModelBackend",
    "django.contrib.auth.backends.AllowAllUsersModelBackend",
    "django.contrib.auth.backends.RemoteUserBackend",
    "django.contrib.auth.backends.AllowAllUsersRemoteUserBackend",
)
# Extension codes that the serializer does not use.
_BACKEND, _HEX, _DEFLATED = range(101, 104)

_encode = msgspec.msgpack.Encoder().encode
_split = msgspec.msgpack.Decoder(dict[str, Raw]).decode
_split_compact = msgspec.msgpack.Decoder(dict[str | int, Raw]).decode
_decode_ext = msgspec.msgpack.Decoder(Ext).decode

_CODES: Final = {name: code for code, name in enumerate(_NAMES)}
_NAMES_BY_CODE: Final = dict(enumerate(_NAMES))
_BACKEND_VALUES: Final = tuple(map(_encode, _BACKENDS))
_BACKEND_CODES: Final = {
    value: Ext(_BACKEND, bytes((code,))) for code, value in enumerate(_BACKEND_VALUES)
}
_RAW_BACKENDS: Final = tuple(map(Raw, _BACKEND_VALUES))
_WITH_SHORT_FORM: Final = frozenset({USER_HASH, USER_BACKEND})
"""The names whose values have a short form although they are not long."""
_HEX_HEAD: Final = b"\xd9\x40"
"""The head of a text of 64 bytes in MessagePack."""
_HEX_VALUE: Final = re.compile(_HEX_HEAD + rb"[0-9a-f]{64}")
_TEXT_HEADS: Final = frozenset(b"\xd9\xda\xdb\xc4\xc5\xc6")
"""The first bytes of texts of 32 bytes and more, and of bytes, in MessagePack."""
_EXT_HEADS: Final = frozenset(b"\xc7\xc8\xc9\xd4\xd5\xd6\xd7\xd8")
_EXT_HEAD_SIZE: Final = 6


@with_enough_stack
def compact(data: bytes) -> bytes | None:
    """Return a shorter form of a session's dict in MessagePack.

    Return ``None`` if a key of the dict is not a text.
    """
    try:
        values = _split(data)
    except msgspec.ValidationError:
        return None
    short: dict[str | int, Raw | Ext] = {}
    for name, value in values.items():
        is_short = len(value) < DEFLATE_FROM and name not in _WITH_SHORT_FORM
        short[_CODES.get(name, name)] = value if is_short else _shorten(name, value)
    return _encode(short)


def expand(data: memoryview, most: int) -> bytes:
    """Return the bytes that `compact` has made shorter.

    Raises `UnreadablePayload` for any other data, and if texts inflate to more than ``most`` bytes.
    """
    try:
        return _expand(data, most)
    except (msgspec.DecodeError, zlib.error, LookupError, ValueError):
        raise UnreadablePayload("payload is damaged") from None


def _shorten(name: str, value: Raw) -> Raw | Ext:
    if len(value) >= DEFLATE_FROM:
        raw = bytes(value)
        if raw[0] in _TEXT_HEADS or _is_text_with_surrogates(raw):
            deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
            deflated = deflater.compress(raw) + deflater.flush()
            if len(deflated) + _EXT_HEAD_SIZE < len(raw):
                return Ext(_DEFLATED, deflated)
    elif name == USER_HASH:
        raw = bytes(value)
        if _HEX_VALUE.fullmatch(raw):
            return Ext(_HEX, bytes.fromhex(raw[len(_HEX_HEAD) :].decode("ascii")))
    elif name == USER_BACKEND:
        return _BACKEND_CODES.get(bytes(value), value)
    return value


def _is_text_with_surrogates(raw: bytes) -> bool:
    return raw[0] in _EXT_HEADS and bool(_decode_ext(raw).code == SURROGATES)


@with_enough_stack
def _expand(data: memoryview, most: int) -> bytes:
    values: dict[str, Raw] = {}
    for code, value in _split_compact(data).items():
        name = _NAMES_BY_CODE[code] if isinstance(code, int) else code
        # Takes half as long as a memoryview of it.
        if bytes(value)[0] in _EXT_HEADS:
            ext = _decode_ext(value)
            content = bytes(ext.data)
            if ext.code == _DEFLATED:
                inflated = _inflate(content, most)
                most -= len(inflated)
                value = Raw(inflated)
            elif ext.code == _HEX:
                value = Raw(_HEX_HEAD + content.hex().encode("ascii"))
            elif ext.code == _BACKEND:
                value = _RAW_BACKENDS[content[0]]
        values[name] = value
    return _encode(values)


def _inflate(deflated: bytes, most: int) -> bytes:
    inflater = zlib.decompressobj(-15)
    inflated = inflater.decompress(deflated, most + 1)
    if len(inflated) > most or not inflater.eof or inflater.unused_data:
        raise ValueError("the deflated text is cut short, too long or followed by other data")
    return inflated
