"""Records in the session key itself: a sealed token that the browser keeps in its cookie."""

from __future__ import annotations

import base64
import binascii
from typing import Final, NamedTuple

import msgspec
from django.conf import settings as django_settings
from django.utils.translation import gettext_noop

from .. import conf
from ..exceptions import PayloadTooLarge, UnreadablePayload
from ..records import Record, SecretText
from ..words import Phrase
from .base import Outcome, Storage, Taken, Updated

_ID_SIZE: Final = 20
_LEAST: Final = 74
"""Characters of the shortest token: an id and what sealing adds to nothing."""
_MOST: Final = 99 * 4096
_MARK_SIZE: Final = 8
_FLAGS: Final = 0
"""None yet. A token with any is of a later version."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, int, int, int, str | None, bytes]).decode


class _Seal(NamedTuple):
    """What belongs to a record that was in a token."""

    is_newest: bool
    """Whether it was sealed under the key that seals now."""
    mark: bytes
    """The end of the token: of two tokens, even of one record, no two are the same."""


def is_plausible(key: object) -> bool:
    """Whether ``key`` may be looked at: a key that was drawn, or what may be a token.

    Generous, so that whatever does not open is reported with a reason.
    """
    return isinstance(key, str) and 8 <= len(key) <= _MOST


class CookieStorage(Storage):
    """Each record is a token: its id, and sealed under it the times, the user and the data.

    A token opens only under the cookie's name, for the purpose of a session, and with a key of
    this project. It cannot be altered, nor read, but it can be kept: the browser holds whichever
    it likes. So nothing is compared here, and nothing ends before it expires. `Registered` does
    both.
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

    def identify(self, key: str) -> str | None:
        try:
            record = self.read(key)
        except UnreadablePayload:
            return None
        return None if record is None else record.id

    def locate(self, key: str) -> str:
        return SecretText(key)

    def is_outdated(self, record: Record) -> bool:
        seal: _Seal | None = record.handle
        return seal is not None and not seal.is_newest

    def mark(self, record: Record) -> bytes:
        seal: _Seal = record.handle
        return seal.mark

    def read(self, locator: str) -> Record | None:
        """The record in a token; its handle says whether it is sealed under the newest key.

        ``None`` for what is too short to be a token. Raises `UnreadablePayload` for all else.
        """
        if len(locator) < _LEAST:
            return None
        try:
            return _opened(locator)
        except UnreadablePayload as reason:
            # Raised anew: the frames that it comes from hold the token, which error reports show.
            raise UnreadablePayload(str(reason)) from None

    def create(self, record: Record, now: int) -> Updated:
        """The record's token, as `Updated.key`. Raises `PayloadTooLarge`."""
        token, mark = _sealed(record)
        _check_size(len(token))
        return Updated(msgspec.structs.replace(record, handle=_Seal(True, mark)), token)

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        return self.create(record, now)

    def rotate(self, record: Record, base: Record, grave: Record, now: int) -> Outcome | Taken:
        return self.create(record, now)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        return False  # Another expiry is another token: see `update`.

    def delete(self, session_id: str) -> bool:
        """Nothing: who has the token, has it."""
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
        self, record: Record, base: Record, grave: Record, now: int
    ) -> Outcome | Taken:
        return self.create(record, now)

    async def adelete(self, session_id: str) -> bool:
        return False

    async def apurge(self, now: int, batch: int) -> int:
        return 0


# In frames of their own, which hold tokens and data in the clear. None of them is on the stack of
# an error that leaves this module.


def _sealed(record: Record) -> tuple[SecretText, bytes]:
    """The token of a record, and its mark."""
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
    sealed = ring.seal(context, _FLAGS, packed)
    return SecretText(_text(bytes.fromhex(record.id) + sealed)), sealed[-_MARK_SIZE:]


def _opened(locator: str) -> Record:
    """The record in a token. Raises `UnreadablePayload`."""
    try:
        token = base64.urlsafe_b64decode(locator + "=" * (-len(locator) % 4))
    except (ValueError, binascii.Error):
        raise UnreadablePayload("cookie holds no token") from None
    if _text(token) != locator:
        # Characters that do not count: a token has one spelling.
        raise UnreadablePayload("cookie holds no token")
    record_id, sealed = token[:_ID_SIZE].hex(), token[_ID_SIZE:]
    ring = conf.key_ring()
    flags, packed = ring.open(_context(record_id), sealed)
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
        handle=_Seal(ring.is_newest(sealed), sealed[-_MARK_SIZE:]),
    )


def _text(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode("ascii")


def _context(record_id: str) -> str:
    """What a token is bound to. No payload of another engine is: those are bound to an id."""
    return f"session cookie {django_settings.SESSION_COOKIE_NAME} {record_id}"


def _check_size(size: int) -> None:
    limit = conf.cookie_bytes()
    if size <= limit:
        return
    name, parts = django_settings.SESSION_COOKIE_NAME, conf.cookie_parts()
    means = f"{parts} cookies" if parts > 1 else "one cookie"
    hint = "raise COOKIE_MAX_PARTS and COOKIE_MAX_BYTES as far as your proxies allow"
    if limit < conf.settings.COOKIE_MAX_BYTES and not conf.splits_cookies():
        hint = (
            "put django_sessionstores.middleware.SessionMiddleware, which splits cookies, in the "
            "place of Django's"
        )
    raise PayloadTooLarge(
        f"The session takes {size} bytes in {name!r}, and {means} may hold {limit}. The old "
        f"session stays. Store less in it, {hint}, or choose another SESSION_ENGINE."
    )
