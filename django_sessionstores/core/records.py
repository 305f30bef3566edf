"""The record that a storage keeps for one session, its packed form, and session keys and ids."""

from __future__ import annotations

import hashlib
import random
import re
import secrets
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from ..exceptions import UnreadablePayload
from .client_bytes import pack_ip, pack_user_agent, unpack_ip, unpack_user_agent

T = TypeVar("T")

ID_SIZE: Final = 20
"""The bytes of a session id, which is written as twice as many hexadecimal characters."""


class State(IntEnum):
    """The state of a session id, as its record says."""

    LIVE = 0
    SUPERSEDED = 1
    """The session got another key. A request with the old key is anonymous, but its cookie stays,
    because the browser may already have the new key."""
    ENDED = 2
    """The session has ended. Stored only if a copy could come back, from a cache or from a previous
    backend, in which case the tombstone outlives every copy; or to say why, see `end_notes`."""
    ROTATED = 3
    """The session got another key because the old one had grown old. During the rotation grace
    period, which begins at the last activity of the tombstone, a request with the old key is served
    and gets the new key."""


STATES: Final = {state.value: state for state in State}
"""The states by their numbers. A call of the enumeration takes ten times as long."""

_WITHOUT_SUCCESSOR: Final = frozenset({State.LIVE, State.ENDED})

TOMBSTONES: Final = tuple(state for state in State if state is not State.LIVE)
"""The states of tombstones."""


class SecretText(str):
    """Text that error reports do not show, although they show the variables of every frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret characters>"


class SecretBytes(bytes):
    """Bytes that error reports do not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret bytes>"


class SecretDict(dict[Any, Any]):
    """Session data that error reports do not show. It is a copy of the dict that it is made of."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret values>"


def as_secret(key: str | None) -> str | None:
    """Return a session key as `SecretText`, and any other value unchanged."""
    return SecretText(key) if isinstance(key, str) else key


class Client(NamedTuple):
    """The client of a request, as far as it is known."""

    ip: str
    user_agent: str


Changes = tuple[tuple[bytes, bytes], ...]
"""The changes of a save: for each changed key of the session, a digest and the encrypted change."""


class Change(NamedTuple):
    """An encrypted change of one key of a session, and the version that the save has made."""

    version: int
    encrypted: bytes


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One session as a storage keeps it. All times are milliseconds since the epoch, UTC.

    Times are integers, not ``datetime``, because integers need no conversion, mean the same in
    every store and survive a change of ``USE_TZ``. The class is a msgspec struct, because creating
    a frozen dataclass takes ten times as long.
    """

    id: str
    """The session id: a digest of the key, see `session_id`."""
    payload: bytes = b""
    """The encrypted bytes of the session's dict; empty in a tombstone."""
    version: int = 1
    """The save that made the record, see `next_version`. A storage updates only the version that
    the caller has seen."""
    state: State = State.LIVE
    user_id: str | None = None
    created: int = 0
    last_activity: int = 0
    expires: int = 0
    """From this moment on, the record counts as absent."""
    ip: str = ""
    user_agent: str = ""
    handle: Any = None
    """Private to the storage that made the record, for example memcached's cas token."""
    changes: Changes = ()
    """The changes of this save, if the storage ``keeps_changes``."""
    pending: tuple[Change, ...] = ()
    """The changes that are still to be applied to the payload, the oldest first."""
    size: int | None = None
    """The bytes of the payload, if a list shows the record without it; ``None`` if unknown."""
    origin: str = ""
    """The id under which the session began, if its key was rotated since; see `lineage`. A session
    that was migrated has an id that no key has."""
    site: int = 0
    """The mark of the site, or of its tenant, that stored the session: one of `Storage.sites`. It
    is a signed number of 32 bits. A record that is not a session's may have 0, and belongs to all
    sites."""

    def __repr__(self) -> str:
        return f"<Record {self.id[:8]} {self.state.name} version={self.version}>"

    def is_live(self, now: int) -> bool:
        """Return whether the record is of a session that still runs at ``now``."""
        return self.state is State.LIVE and self.expires > now

    @property
    def lineage(self) -> str:
        """The id under which the session began.

        It stays the same when the session rotates, and changes at a login. So two records with the
        same lineage are the same session.
        """
        return self.origin or self.id

    @property
    def successor(self) -> str:
        """The id under which the session continues, if this is a tombstone that knows it.

        Otherwise it is empty. A tombstone stores it in place of the payload, unless the session has
        ended: then there may be a note of the reason, see `end_notes`.
        """
        if self.state in _WITHOUT_SUCCESSOR or len(self.payload) < ID_SIZE:
            return ""
        link = self.payload[:ID_SIZE]
        return link.hex() if any(link) else ""

    @property
    def is_bound(self) -> bool:
        """Whether the session is bound to a device, for lists, see `next_version`."""
        return self.state is State.LIVE and self.version & _LOW in _MARKS

    @property
    def was_refused(self) -> bool:
        """Whether the key of a bound session was used without the proof of the device."""
        return self.state is State.LIVE and self.version & _LOW == _REFUSED

    @property
    def is_login(self) -> bool:
        """Whether this is the tombstone of a session whose user has logged in again."""
        return self.state is State.SUPERSEDED and bool(self.successor) and self.version % 2 == 1


def is_in_range(record: Record) -> bool:
    """Return whether every store can contain the numbers of a record. A damaged one has others."""
    return (
        0 <= record.version < _END_OF_NUMBERS
        and record.created >= 0
        and record.last_activity >= 0
        and record.expires >= 0
        and -_END_OF_SITES <= record.site < _END_OF_SITES
    )


_END_OF_NUMBERS: Final = 2**63
_END_OF_SITES: Final = 2**31


def make_tombstone(
    record_id: str,
    state: State,
    *,
    now: int,
    seconds: float,
    of: Record | None = None,
    successor: str = "",
    nonce: int = 0,
) -> Record:
    """Return a record without data that says for ``seconds`` what became of a session id.

    ``now`` is in milliseconds since the epoch. ``of`` is the session that had the id; the tombstone
    keeps its user and its site. ``successor`` is the id under which the session continues, and
    ``nonce`` the number with which its key was derived, which is stored in place of a version. It
    is odd if the user of the session has logged in again.
    """
    return Record(
        id=record_id,
        payload=bytes.fromhex(successor),
        version=nonce,
        state=state,
        user_id=of.user_id if of else None,
        created=of.created if of else now,
        last_activity=now,
        expires=now + int(seconds * 1000),
        site=of.site if of else 0,
    )


_COUNTS: Final = 2**31 - 1
"""The maximum counter of a version, which is followed by 0."""


_LOW: Final = 2**16 - 1
_BOUND: Final = 0xB07D
"""The last 16 bits in the versions of sessions that are bound to a device, and of no others."""
_REFUSED: Final = 0xB07E
"""The same, if the key of such a session was used without the proof of the device."""
_MARKS: Final = (_BOUND, _REFUSED)


def next_version(version: int = 0, *, is_bound: bool | None = None) -> int:
    """Return the version of the next save: a counter, followed by 32 bits.

    They are random, so that a save that was rolled back has another version than the save that
    took its place. Versions of one session compare by the counter. A version has 63 bits, which
    every store can keep.

    ``is_bound`` is whether the session is bound to a device; ``None`` if that is as before. Then
    the last 16 bits say so, because lists have the version of each session, and not its data.
    """
    # They need not be secret. Python seeds its generator anew in each process that is forked.
    tail, mark = random.getrandbits(32), version & _LOW
    if is_bound is not False and mark in _MARKS:
        tail = tail & ~_LOW | mark
    elif is_bound:
        tail = tail & ~_LOW | _BOUND
    elif tail & _LOW in _MARKS:
        tail ^= 0x100
    return (((version >> 32) + 1 & _COUNTS) << 32) | tail


def refused_version(version: int) -> int:
    """Return the next version of a session whose key was used without the proof of its device."""
    return next_version(version, is_bound=True) & ~_LOW | _REFUSED


def next_version_for(record: Record, version: int) -> int:
    """Return the version after another one, for a record that says the same to lists as this."""
    mark, following = record.version & _LOW, next_version(version, is_bound=False)
    return following & ~_LOW | mark if record.is_bound else following


def saves_of(record: Record) -> int:
    """Return the counter of the record's version, see `next_version`."""
    return record.version >> 32


def last_write(record: Record) -> tuple[int, int]:
    """Return the last activity and the version of a record, to sort records by their age."""
    return record.last_activity, record.version


def without_payload(record: Record) -> Record:
    """Return the record without its payload, and without the fields that belong to the payload.

    A tombstone keeps the id of its successor.
    """
    payload = b"" if record.state is State.LIVE else record.payload
    return msgspec.structs.replace(
        record, payload=payload, handle=None, changes=(), pending=(), size=None
    )


def list_entry(record: Record) -> Record:
    """Return the record as lists show it: with the size of its payload instead of the payload."""
    size = record.size or len(record.payload) or None
    return msgspec.structs.replace(without_payload(record), size=size)


_KEY_ALPHABET: Final = b"abcdefghijklmnopqrstuvwxyz234567" * 8
"""The character of Django's alphabet for each byte. Each of the 32 stands for as many bytes."""


def with_times(record: Record, expires: int, last_activity: int) -> Record:
    """Return the record after a touch, with these times. Times only move forward."""
    return msgspec.structs.replace(
        record,
        expires=max(expires, record.expires),
        last_activity=max(last_activity, record.last_activity),
    )


def draw_key() -> str:
    """Return a new session key: 160 random bits as 32 characters of Django's alphabet.

    This makes one call to the operating system; Django's ``get_random_string(32)`` makes 32.
    """
    return key_of(secrets.token_bytes(32))


def derived_key(secret: str) -> str:
    """Return a session key for ``secret``, the key of another backend that is too long here.

    The result is the same for each request with that key. It is a digest, and as hard to guess as
    the secret.
    """
    # With surrogates, it was never the key of a session, and is not found.
    data = secret.encode("utf-8", "surrogatepass")
    return key_of(hashlib.blake2b(data, digest_size=32, person=b"derived key").digest())


def key_of(material: bytes) -> str:
    """Return the session key made of five bits of each of 32 bytes."""
    return material.translate(_KEY_ALPHABET).decode("ascii")


# Django's keys are 32 characters of a-z and 0-9. A much longer key, or one with other characters,
# was never issued, so it is refused without asking the store. The minimum of 8 is Django's.
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9]{8,128}", re.ASCII)


def is_well_formed(key: object) -> bool:
    """Return whether ``key`` can be a session key."""
    return isinstance(key, str) and _WELL_FORMED.fullmatch(key) is not None


def session_id(key: str) -> str:
    """Return the id of the session with this key: 40 hexadecimal characters.

    The digest does not depend on a secret, because an id must outlive a change of ``SECRET_KEY``.
    It cannot be reversed by guessing, because keys have 160 random bits.
    """
    digest = _ID_DIGEST.copy()
    digest.update(key.encode())
    return digest.hexdigest()


# Copying a hash object is a third faster than creating one.
_ID_DIGEST: Final = hashlib.blake2b(digest_size=ID_SIZE, person=b"session id")
ID_LENGTH: Final = 2 * ID_SIZE
"""The characters of a session id, two for each byte."""
LEAST_OF_ID: Final = 6
"""The characters that the beginning of an id must have if somebody types it."""
_SESSION_ID: Final = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")


def is_session_id(text: str) -> bool:
    """Return whether ``text`` can be a session id."""
    return _SESSION_ID.fullmatch(text) is not None


def is_beginning_of_id(text: str) -> bool:
    """Return whether a session id can begin with ``text``, which may be empty."""
    return is_session_id(text.ljust(ID_LENGTH, "0"))


def is_typed_id(text: str) -> bool:
    """Return whether ``text`` is a session id in lower case, or enough of its beginning."""
    return len(text) >= LEAST_OF_ID and is_beginning_of_id(text)


def is_storable(text: str) -> bool:
    """Return whether every store can contain ``text``.

    It must not have a NUL, or a surrogate, which stands for an undecodable byte of a command line.
    """
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


MAX_USER_ID: Final = 255
"""The maximum length of a user id, in characters. It is what a column of MySQL can have."""


def is_user_id(text: str) -> bool:
    """Return whether every store can contain ``text`` as the id of a user, and find it."""
    return len(text) <= MAX_USER_ID and is_storable(text)


# The packed form, for stores that keep bytes. The head has fixed places for the fields that scripts
# and the file storage compare or overwrite without reading the rest.
_HEAD: Final = struct.Struct(">BBQQQQi")
FORMAT: Final = 1
"""The first byte of the packed form."""
HEAD_SIZE: Final = _HEAD.size
VERSION_OFFSET: Final = 2
"""The offset of the version in the packed form: 8 bytes, big-endian."""
TIMES_OFFSET: Final = 18
"""The offset of last activity and expires in the packed form: 8 bytes each, big-endian."""
_TIMES: Final = struct.Struct(">QQ")
SITE_OFFSET: Final = 34
"""The offset of the site in the packed form."""
SITE_SIZE: Final = 4

OWNER_OFFSET: Final = HEAD_SIZE + 1
"""The offset of `pack_owner` in the packed form, after the mark of an array of five."""

START_SIZE: Final = 4096
"""The bytes of the packed form that have all fields except the payload, in almost any record."""

_encode = msgspec.msgpack.Encoder().encode
_decode_tail = msgspec.msgpack.Decoder(tuple[str | None, bytes, bytes, bytes, bytes]).decode
_decode_text = msgspec.msgpack.Decoder(str | None).decode
_decode_four = msgspec.msgpack.Decoder(tuple[str | None, bytes, bytes, bytes]).decode
_FOUR: Final = b"\x94"
"""The mark of an array of four in MessagePack."""


def pack(record: Record) -> bytes:
    """Return the packed form of the record, which does not have its id and handle."""
    head = _HEAD.pack(
        FORMAT,
        record.state,
        record.version,
        record.created,
        record.last_activity,
        record.expires,
        record.site,
    )
    origin = bytes.fromhex(record.origin)
    ip, user_agent = pack_ip(record.ip), pack_user_agent(record.user_agent)
    return head + _encode((record.user_id, ip, user_agent, origin, record.payload))


def pack_times(last_activity: int, expires: int) -> bytes:
    """Return the 16 bytes at `TIMES_OFFSET`, for a touch in place."""
    return _TIMES.pack(last_activity, expires)


def pack_site(site: int) -> bytes:
    """Return the `SITE_SIZE` bytes at `SITE_OFFSET` in the records of a site."""
    return site.to_bytes(SITE_SIZE, "big", signed=True)


def pack_owner(user_id: str) -> bytes:
    """Return the bytes at `OWNER_OFFSET` in the records of this user, and of no other user."""
    return _encode(user_id)


def _open_head(data: bytes) -> tuple[State, int, int, int, int, int]:
    try:
        form, number, version, created, last_activity, expires, site = _HEAD.unpack_from(data)
    except struct.error:
        raise UnreadablePayload("record is cut short") from None
    state = STATES.get(number)
    if form != FORMAT or state is None:
        raise UnreadablePayload("record is of an unknown format")
    return state, version, created, last_activity, expires, site


def unpack_head(record_id: str, data: bytes, user_id: str | None = None) -> Record:
    """Return the record without user, client and payload, from its first `HEAD_SIZE` bytes.

    ``user_id`` is the user, if known. Raises `UnreadablePayload` if the bytes do not have this
    format.
    """
    state, version, created, last_activity, expires, site = _open_head(data)
    return Record(
        id=record_id,
        version=version,
        state=state,
        user_id=user_id,
        created=created,
        last_activity=last_activity,
        expires=expires,
        site=site,
    )


def unpack_owner(record_id: str, data: bytes) -> Record | None:
    """Return the head of a record with its user, from the first bytes of its packed form.

    See `unpack_start`, which takes longer.
    """
    end = _end_of(data, OWNER_OFFSET)
    if end > len(data):
        unpack_head(record_id, data)  # Raises `UnreadablePayload` if the head is cut.
        return None
    return unpack_head(record_id, data, _decoded(_decode_text, data[OWNER_OFFSET:end]))


def unpack_start(record_id: str, data: bytes, length: int | None = None) -> Record | None:
    """Return the record without payload, from the first bytes of its packed form.

    ``length`` is the length of the whole packed form; the record has the size of the payload if it
    is given. Return ``None`` if the bytes end before the payload begins, which hardly ever happens
    with `START_SIZE` bytes. Raises `UnreadablePayload` if the bytes do not have this format.
    """
    head = unpack_head(record_id, data)
    at = OWNER_OFFSET
    # User, address, user agent and origin; then comes the payload.
    for _ in range(4):
        at = _end_of(data, at)
        if at > len(data):
            return None
    user_id, ip, user_agent, origin = _decoded(_decode_four, _FOUR + data[OWNER_OFFSET:at])
    return msgspec.structs.replace(
        head,
        user_id=user_id,
        ip=unpack_ip(ip),
        user_agent=unpack_user_agent(user_agent),
        origin=origin.hex(),
        size=None if length is None else _bytes_in(length - at),
    )


def _decoded(decode: Callable[[bytes], T], data: bytes) -> T:
    """Return a value of MessagePack. Raises `UnreadablePayload` if it is of another type."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UnreadablePayload("record is damaged") from None


def _end_of(data: bytes, at: int) -> int:
    """Return the end of the MessagePack string, bytes or nil at an offset; if it is cut, more than
    the length of the data."""
    kind = data[at] if at < len(data) else 0
    if kind & 0xE0 == 0xA0:
        return at + 1 + (kind & 0x1F)
    first = at + 1 + _LENGTH_SIZES.get(kind, 0)
    return first + int.from_bytes(data[at + 1 : first], "big")


_LENGTH_SIZES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""How many bytes the length of bytes or of a string has, by the mark in front of it."""


def _bytes_in(length: int) -> int:
    """Return the number of bytes in a MessagePack byte string whose length includes its mark."""
    for mark, most in ((2, 0xFF), (3, 0xFFFF)):
        if length - mark <= most:
            return length - mark
    return length - 5


def unpack(record_id: str, data: bytes, handle: Any = None) -> Record:
    """Return the record whose packed form this is. Raises `UnreadablePayload` for other bytes."""
    state, version, created, last_activity, expires, site = _open_head(data)
    try:
        user_id, ip, user_agent, origin, payload = _decode_tail(memoryview(data)[HEAD_SIZE:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise UnreadablePayload("record is damaged") from None
    return Record(
        id=record_id,
        payload=payload,
        version=version,
        state=state,
        user_id=user_id,
        created=created,
        last_activity=last_activity,
        expires=expires,
        ip=unpack_ip(ip),
        user_agent=unpack_user_agent(user_agent),
        origin=origin.hex(),
        site=site,
        handle=handle,
    )
