"""The storage of records in the session key: an encrypted token in the cookie of the browser."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Final

import msgspec
from django.conf import settings as django_settings
from django.utils.translation import gettext_noop

from .. import conf
from ..core.phrases import Phrase
from ..core.records import ID_SIZE, Record, SecretText, is_well_formed
from ..exceptions import PayloadTooLarge, UnreadablePayload
from .base import Outcome, Storage, Taken, Updated

if TYPE_CHECKING:
    from ..payloads.codec import Codec

_SIGN: Final = "."
"""The first character of every token. No session key of another engine has it, so that sessions can
be migrated between this engine and others: without it, one token in thirty would have only letters
and digits, and look like a plain key. A cookie can have this character without quoting."""
_LEAST: Final = 75
"""The length of the shortest token: the sign, an id, and what encryption adds to empty data."""
_MOST: Final = 99 * 4096
_MARK_SIZE: Final = 8
_FLAGS: Final = 0
"""No flags are defined. A token with flags was made by a later version."""

_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
"""The alphabet of Base64 for URLs, which a cookie can have without quoting."""
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int, int, int, str | None, bytes]).decode


class _Token(msgspec.Struct, frozen=True):
    """The handle of a record that was read from a token."""

    is_newest: bool
    """Whether the token was encrypted with the key that encrypts now."""
    mark: bytes
    """The end of the token. No two tokens have the same, even if they are of the same record."""


def is_plausible(key: object) -> bool:
    """Return whether ``key`` can be a session key: a plain key or a token.

    It is generous, so that a token that cannot be decrypted is reported with a reason.
    """
    return isinstance(key, str) and 8 <= len(key) <= _MOST


class CookieStorage(Storage):
    """Records as tokens. A token is the id, followed by the encrypted times, user and data.

    A token can only be decrypted as a session cookie of this name, with a key of this project. The
    browser can neither read nor alter it, but it can keep an old one. So this storage does not
    compare versions, and cannot end a session before it expires. `RegisteredStorage` does both.
    """

    authoritative = False
    holds_in_key = True
    keeps_client = False
    native_async = True
    self_expiring = True

    def describe(self) -> str:
        return Phrase(
            gettext_noop("the cookie %(name)s of the browser"),
            name=repr(django_settings.SESSION_COOKIE_NAME),
        )

    @property
    def codec(self) -> Codec:
        return conf.unencrypted_codec()

    def key_of(self, cookie: str) -> str | None:
        return cookie if is_plausible(cookie) else None

    def identify(self, key: str) -> str | None:
        try:
            record = self.read(key)
        except UnreadablePayload:
            return None
        return None if record is None else record.id

    def stated_id(self, key: str) -> str | None:
        return None if is_well_formed(key) else _stated_id(key)

    def locate(self, key: str) -> str:
        return SecretText(key)

    def is_outdated(self, record: Record) -> bool:
        token: _Token | None = record.handle
        return token is not None and not token.is_newest

    def mark(self, record: Record) -> bytes:
        token: _Token = record.handle
        return token.mark

    def read(self, locator: str) -> Record | None:
        """Return the record in a token, with a `_Token` as its handle.

        Return ``None`` for a plain key and for a text that is too short to be a token. Raises
        `UnreadablePayload` for any other text.
        """
        if len(locator) < _LEAST or is_well_formed(locator):
            return None
        try:
            return _decrypt(locator)
        except UnreadablePayload as reason:
            # A new exception, because the frames of the first one have the token, and error reports
            # show them.
            raise type(reason)(str(reason)) from None

    def create(self, record: Record, now: int) -> Updated:
        """Return the record's token, as `Updated.key`. Raises `PayloadTooLarge`."""
        token, mark = _encrypt(record)
        _check_size(len(token))
        return Updated(msgspec.structs.replace(record, handle=_Token(True, mark)), token)

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        return self.create(record, now)

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        return self.create(record, now)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        return False  # Another expiry needs another token, which `update` makes.

    def delete(self, session_id: str) -> bool:
        """Do nothing, because the record is only in the browser."""
        return False

    def purge(self, now: int, batch: int) -> int:
        return 0

    async def aread(self, locator: str) -> Record | None:
        return self.read(locator)

    async def acreate(self, record: Record, now: int) -> Updated:
        return self.create(record, now)

    async def aupdate(self, record: Record, base: Record, now: int) -> Outcome:
        return self.create(record, now)

    async def arotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Outcome | Taken:
        return self.create(record, now)

    async def adelete(self, session_id: str) -> bool:
        return False

    async def apurge(self, now: int, batch: int) -> int:
        return 0


# Functions whose frames have tokens and decrypted data. None of these frames is on the stack of an
# error that leaves this module.


def _encrypt(record: Record) -> tuple[SecretText, bytes]:
    """Return the token of a record, and its mark."""
    ring, context = conf.key_ring(), _context(record.id)
    packed = _encode(
        (
            record.version,
            record.created,
            record.last_activity - record.created,
            record.expires - record.last_activity,
            record.user_id,
            memoryview(record.payload),
        )
    )
    encrypted = ring.encrypt(context, _FLAGS, packed)
    return SecretText(_text(bytes.fromhex(record.id) + encrypted)), encrypted[-_MARK_SIZE:]


def _decode_text(locator: str) -> bytes:
    """Return the bytes of a token. Raises `UnreadablePayload`."""
    text = locator.removeprefix(_SIGN)
    try:
        token = binascii.a2b_base64(text.encode().translate(_FROM_URL_SAFE) + b"==")
    except ValueError:
        raise UnreadablePayload("cookie does not have a token") from None
    if _text(token) != locator:
        # Base64 ignores some characters and bits. A token must have one spelling.
        raise UnreadablePayload("cookie does not have a token")
    return token


def _stated_id(locator: str) -> str | None:
    """Return the id at the beginning of a token; ``None`` for any other text."""
    if len(locator) < _LEAST:
        return None
    try:
        return _decode_text(locator)[:ID_SIZE].hex()
    except UnreadablePayload:
        return None


def _decrypt(locator: str) -> Record:
    """Return the record in a token. Raises `UnreadablePayload`."""
    token = _decode_text(locator)
    record_id, encrypted = token[:ID_SIZE].hex(), token[ID_SIZE:]
    ring = conf.key_ring()
    flags, packed = ring.decrypt(_context(record_id), encrypted)
    if flags != _FLAGS:
        raise UnreadablePayload("token is of an unknown format")
    try:
        version, created, active_for, lifetime, user_id, payload = _decode(packed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UnreadablePayload("token is of an unknown format") from None
    return Record(
        id=record_id,
        payload=payload,
        version=version,
        user_id=user_id,
        created=created,
        last_activity=created + active_for,
        expires=created + active_for + lifetime,
        handle=_Token(ring.is_newest(encrypted), encrypted[-_MARK_SIZE:]),
    )


def _text(token: bytes) -> str:
    encoded = binascii.b2a_base64(token, newline=False)
    return _SIGN + encoded.rstrip(b"=").translate(_URL_SAFE).decode("ascii")


def _context(record_id: str) -> str:
    """Return the text to which a token is bound; payloads of other engines are bound to an id."""
    return f"session cookie {django_settings.SESSION_COOKIE_NAME} {record_id}"


def _check_size(size: int) -> None:
    limit = conf.cookie_bytes()
    if size <= limit:
        return
    name, parts = django_settings.SESSION_COOKIE_NAME, conf.cookie_parts()
    cookies = f"{parts} cookies" if parts > 1 else "one cookie"
    hint = "raise COOKIE_MAX_PARTS and COOKIE_MAX_BYTES as far as your proxies allow"
    if limit < conf.settings.COOKIE_MAX_BYTES and not conf.splits_cookies():
        hint = (
            "replace Django's SessionMiddleware by "
            "django_sessionstores.middleware.SessionMiddleware, which splits cookies"
        )
    raise PayloadTooLarge(
        f"The session takes {size} bytes in {name!r}, and {cookies} may hold {limit}; it was not "
        f"saved. Store less in the session, {hint}, or choose another SESSION_ENGINE."
    )
