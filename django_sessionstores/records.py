"""What a storage keeps for one session, its packed form, and how a key becomes an id."""

from __future__ import annotations

import hashlib
import re
import secrets
import struct
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec

from .exceptions import UnreadablePayload


class State(IntEnum):
    """What a record says about its session id."""

    LIVE = 0
    SUPERSEDED = 1
    """The session got another key. A request that still carries the old one is anonymous, but
    its cookie stays: the browser may hold the new one already."""
    ENDED = 2
    """The session is gone. Kept only in caches, where it outlives every stale copy."""
    RENEWED = 3
    """The session got another key because the old one had grown old. For a grace from then on, the
    last activity of the tombstone, a request with the old key is served, and told the new one."""


class SecretText(str):
    """Text that error reports do not show, though they show the variables of every frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret characters>"


class SecretBytes(bytes):
    """The same for bytes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret bytes>"


def hidden(key: str | None) -> str | None:
    """A session key as `SecretText`; anything else as it is."""
    return SecretText(key) if isinstance(key, str) else key


class Client(NamedTuple):
    """Who a request came from, as far as it can be told."""

    ip: str
    user_agent: str


Changes = tuple[tuple[bytes, bytes], ...]
"""What a save changed: of each changed key of the session a digest, and the change, sealed."""


class Change(NamedTuple):
    """A change of one key of a session, and the version that a save made by it."""

    version: int
    sealed: bytes


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One session as a storage keeps it. All times are milliseconds since the epoch, UTC.

    Milliseconds as integers, not ``datetime``: they cost nothing to convert, mean the same on
    every store and survive a change of ``USE_TZ``. A msgspec struct, not a dataclass: a frozen
    one is made in a tenth of the time.
    """

    id: str
    """The session id: a digest of the key, see `session_id`."""
    payload: bytes = b""
    """The sealed bytes of the session's dict; empty in a tombstone."""
    version: int = 1
    """Counts the saves. A storage updates only the version that the caller has seen."""
    state: State = State.LIVE
    user_id: str | None = None
    created: int = 0
    last_activity: int = 0
    expires: int = 0
    """From this moment on the record is as good as absent."""
    ip: str = ""
    user_agent: str = ""
    handle: Any = None
    """Private to the storage that made the record, for example memcached's cas token."""
    changes: Changes = ()
    """What this save changed, for storages that `keep_changes`."""
    pending: tuple[Change, ...] = ()
    """Changes to be laid over the payload, the oldest first: it is not the newest."""
    size: int | None = None
    """Bytes of the payload, of a record that a list shows without it; ``None`` if unknown."""

    def __repr__(self) -> str:
        return f"<Record {self.id[:8]} {self.state.name} version={self.version}>"

    def is_live(self, now: int) -> bool:
        """Whether the record is of a session that still runs at ``now``."""
        return self.state is State.LIVE and self.expires > now


def tombstone(
    record_id: str, state: State, *, now: int, seconds: float, of: Record | None = None
) -> Record:
    """A record without data that says for ``seconds`` what became of a session id.

    ``of`` is the session that goes on under another id: its user and its beginning tell which
    one it is there.
    """
    return Record(
        id=record_id,
        version=0,
        state=state,
        user_id=of.user_id if of else None,
        created=of.created if of else now,
        last_activity=now,
        expires=now + int(seconds * 1000),
    )


def bare(record: Record) -> Record:
    """The record without its payload, and what belongs to that."""
    return msgspec.structs.replace(
        record, payload=b"", handle=None, changes=(), pending=(), size=None
    )


def listed(record: Record) -> Record:
    """The record as lists show it: the size of its payload in place of the payload."""
    size = record.size or len(record.payload) or None
    return msgspec.structs.replace(bare(record), size=size)


_KEY_ALPHABET: Final = b"abcdefghijklmnopqrstuvwxyz234567" * 8
"""A character of Django's alphabet for each byte; each of the 32 for as many bytes."""


def moved(record: Record, expires: int, last_activity: int) -> Record:
    """The record after a touch. Its times move forward only."""
    return msgspec.structs.replace(
        record,
        expires=max(expires, record.expires),
        last_activity=max(last_activity, record.last_activity),
    )


def draw_key() -> str:
    """A new session key: 160 random bits as 32 characters of Django's alphabet.

    One call to the operating system. Django's ``get_random_string(32)`` makes 32 of them.
    """
    return key_of(secrets.token_bytes(32))


def derived_key(secret: str) -> str:
    """The session key for whom another engine gave ``secret`` as one, which is too long for ours.

    The same one for each request that brings it. As hard to guess as the secret: it is a digest.
    """
    return key_of(hashlib.blake2b(secret.encode(), digest_size=32, person=b"derived key").digest())


def key_of(material: bytes) -> str:
    """A session key out of 32 bytes: five bits of each."""
    return material.translate(_KEY_ALPHABET).decode("ascii")


# Django's keys are 32 of a-z0-9. Anything longer or with other characters was never handed out,
# so it can be refused without asking the store. Django's own lower bound of 8 is kept.
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9]{8,128}", re.ASCII)


def is_well_formed(key: object) -> bool:
    """Whether ``key`` could be a session key at all."""
    return isinstance(key, str) and _WELL_FORMED.fullmatch(key) is not None


def session_id(key: str) -> str:
    """The id of the session with this key: 40 hexadecimal characters.

    Not keyed with a secret: keys are 160 random bits, so the digest cannot be reversed by
    guessing, and an id must outlive a change of ``SECRET_KEY``.
    """
    return hashlib.blake2b(key.encode(), digest_size=20, person=b"session id").hexdigest()


_SESSION_ID: Final = re.compile(r"[0-9a-f]{40}")


def is_session_id(text: str) -> bool:
    """Whether ``text`` could be a session id at all."""
    return _SESSION_ID.fullmatch(text) is not None


def is_beginning_of_id(text: str) -> bool:
    """Whether a session id could begin with ``text``, which may be empty."""
    return _SESSION_ID.fullmatch(text.ljust(40, "0")) is not None


def is_storable(text: str) -> bool:
    """Whether every store could have ``text``: no NUL, and nothing that is no character, as what
    stands for undecodable bytes of a command line."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


# The packed form, for stores that keep bytes. The head has a fixed place for what scripts and
# file headers compare or overwrite without reading the rest.
_HEAD: Final = struct.Struct(">BBQQQQ")
_FORMAT: Final = 1
HEAD_SIZE: Final = _HEAD.size
VERSION_OFFSET: Final = 2
"""Where the version stands in the packed form: 8 bytes, big-endian."""
TIMES_OFFSET: Final = 18
"""Where last activity and expires stand in the packed form: 8 bytes each, big-endian."""
_TIMES: Final = struct.Struct(">QQ")

OWNER_OFFSET: Final = HEAD_SIZE + 1
"""Where `pack_owner` stands in the packed form: after the mark of an array of four."""

START_SIZE: Final = 4096
"""In so many bytes of the packed form ends all but the payload, of any but a freak record."""

_encode_tail = msgspec.msgpack.Encoder().encode
_encode_text = msgspec.msgpack.Encoder().encode
_decode_tail = msgspec.msgpack.Decoder(tuple[str | None, str, str, bytes]).decode
_decode_text = msgspec.msgpack.Decoder(str | None).decode


def pack(record: Record) -> bytes:
    """The record as bytes, without its id and handle."""
    head = _HEAD.pack(
        _FORMAT,
        record.state,
        record.version,
        record.created,
        record.last_activity,
        record.expires,
    )
    return head + _encode_tail((record.user_id, record.ip, record.user_agent, record.payload))


def pack_times(last_activity: int, expires: int) -> bytes:
    """The 16 bytes that stand at `TIMES_OFFSET`, for a touch in place."""
    return _TIMES.pack(last_activity, expires)


def pack_owner(user_id: str) -> bytes:
    """The bytes that stand at `OWNER_OFFSET` in the records of this user, and of no other."""
    return _encode_text(user_id)


def _open_head(data: bytes) -> tuple[State, int, int, int, int]:
    try:
        form, state, version, created, last_activity, expires = _HEAD.unpack_from(data)
    except struct.error:
        raise UnreadablePayload("record is cut short") from None
    if form != _FORMAT or state >= len(State):
        raise UnreadablePayload("record is of an unknown format")
    return State(state), version, created, last_activity, expires


def unpack_head(record_id: str, data: bytes) -> Record:
    """The record without user, client and payload, from its first `HEAD_SIZE` bytes.

    Raises `UnreadablePayload` where they are not of this format.
    """
    state, version, created, last_activity, expires = _open_head(data)
    return Record(
        id=record_id,
        version=version,
        state=state,
        created=created,
        last_activity=last_activity,
        expires=expires,
    )


def unpack_start(record_id: str, data: bytes, length: int | None = None) -> Record | None:
    """The record without payload, from the first bytes of its packed form.

    It knows the size of the payload if it is given the length of the whole.

    ``None`` where they end before the payload begins; `START_SIZE` of them hardly ever do. Raises
    `UnreadablePayload` where they are not of this format.
    """
    head = unpack_head(record_id, data)
    texts: list[str | None] = []
    # User, address and agent; then comes the payload.
    at = OWNER_OFFSET
    for _ in range(3):
        end = _text_end(data, at)
        if end > len(data):
            return None
        try:
            texts.append(_decode_text(data[at:end]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise UnreadablePayload("record is damaged") from None
        at = end
    user_id, ip, user_agent = texts
    return msgspec.structs.replace(
        head,
        user_id=user_id,
        ip=ip or "",
        user_agent=user_agent or "",
        size=None if length is None else _bytes_in(length - at),
    )


def _text_end(data: bytes, at: int) -> int:
    """Where the MessagePack string, or nil, ends that begins there; beyond the data if cut."""
    kind = data[at] if at < len(data) else 0
    if kind & 0xE0 == 0xA0:
        return at + 1 + (kind & 0x1F)
    first = at + 1 + {0xD9: 1, 0xDA: 2, 0xDB: 4}.get(kind, 0)
    return first + int.from_bytes(data[at + 1 : first], "big")


def _bytes_in(length: int) -> int:
    """How many bytes are in a MessagePack byte string of this length, its mark included."""
    for mark, most in ((2, 0xFF), (3, 0xFFFF)):
        if length - mark <= most:
            return length - mark
    return length - 5


def unpack(record_id: str, data: bytes, handle: Any = None) -> Record:
    """The record that `pack` made bytes of. Raises `UnreadablePayload` for anything else."""
    state, version, created, last_activity, expires = _open_head(data)
    try:
        user_id, ip, user_agent, payload = _decode_tail(memoryview(data)[HEAD_SIZE:])
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
        ip=ip,
        user_agent=user_agent,
        handle=handle,
    )
