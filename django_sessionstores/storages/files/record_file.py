"""The file of one record: its format, what is read of it, and how it is replaced.

A file is a record in its packed form, with room for the id of a successor after the head. Times
and tombstones are written over these two: they fit in one cache line, so a reader sees either the
old or the new ones. After the head of a tombstone, the file still has the encrypted payload of the
session, which is never returned, and which the next purge removes. Replacing the file instead makes
ext4 allocate its blocks at once, which is most of what a save costs there; truncating it would show
a reader half of the old record.

A file's modification time is a `Hint`: the moment at which its record expires, and in the part
below a millisecond what kind of record it is. So a purge finds its candidates, a list leaves out
what has expired, and a count knows what is live, without opening the files. A write changes the
time, and the hint is set after that, so that it is never of another record. It is lost by a
careless copy, and some file systems do not store parts of a millisecond: then more files are
opened, and that is all.
"""

from __future__ import annotations

import contextlib
import os
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from ...core.records import (
    HEAD_SIZE,
    ID_SIZE,
    START_SIZE,
    Record,
    State,
    pack,
    unpack,
    unpack_head,
    unpack_owner,
    unpack_start,
    without_payload,
)
from .disk import READ, WRITE, insist, open_file, read_beginning, read_rest, write_all

_LONG: Final = 600_000
"""How many milliseconds after its expiry a session has expired for sure, by the hint. A network
file system may show a hint that is some minutes old. Times only move forward, so the record lives
as long as its hint says, or longer."""
_ATIME: Final = 1_000_000_000
"""How many nanoseconds the access time is after the modification time. If it were not, each read
would write the access time, with the mount option ``relatime``."""
FRONT_SIZE: Final = HEAD_SIZE + ID_SIZE
"""Bytes of the head and of the id of a successor, or of the note of an end."""


def front(record: Record, packed: bytes) -> bytes:
    """Return the beginning of a record's file: the head, and what a tombstone has to say."""
    said = b"" if record.state is State.LIVE else record.payload[:ID_SIZE]
    return packed[:HEAD_SIZE] + said.ljust(ID_SIZE, b"\0")


def data_of(record: Record) -> bytes:
    """Return the bytes of a record's file."""
    packed = pack(record)
    return front(record, packed) + packed[HEAD_SIZE:]


def unpack_file(session_id: str, data: bytes) -> Record:
    """Return the record or tombstone in the bytes of a file. Raises `UnreadablePayload`."""
    record = unpack(session_id, _packed_form(data))
    if record.state is State.LIVE:
        return record
    # Only the front was written, over that of the session, which had the same user.
    link = data[HEAD_SIZE:FRONT_SIZE]
    return msgspec.structs.replace(
        unpack_head(session_id, data),
        user_id=record.user_id,
        payload=link if any(link) else b"",
    )


def read_head(path: str, session_id: str) -> Record:
    """Return the head of a record. Raises `UnreadablePayload` and ``OSError``."""
    return unpack_head(session_id, read_beginning(path, HEAD_SIZE))


def read_owner(path: str, session_id: str) -> Record:
    """Return the head of a record with its user. Raises `UnreadablePayload` and ``OSError``."""
    record = unpack_owner(session_id, _packed_form(read_beginning(path, START_SIZE)))
    if record is None:
        with open_file(path, READ) as fd:
            record = unpack(session_id, _packed_form(read_rest(fd)))
    return record


def read_list_entry(path: str, session_id: str) -> Record:
    """Return a record as lists show it. Raises `UnreadablePayload` and ``OSError``."""
    with open_file(path, READ) as fd:
        start, length = os.read(fd, START_SIZE), os.fstat(fd).st_size - ID_SIZE
        record = unpack_start(session_id, _packed_form(start), length)
        return record or without_payload(unpack(session_id, _packed_form(start + read_rest(fd))))


def replace(path: str, new: str, record: Record, kind: Kind) -> None:
    """Write a record to the file ``new``, and rename that to ``path``. Raises ``OSError``.

    ``kind`` is for the hint.
    """
    try:
        fd = os.open(new, WRITE, 0o600)
        try:
            write_all(fd, data_of(record))
        finally:
            # May be the first to say that the disk is full, on NFS and with quotas.
            os.close(fd)
        set_hint(new, record.expires, kind)
        insist(os.replace, new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


class Kind(IntEnum):
    """What the record is that a hint is of."""

    UNKNOWN = 1
    ANONYMOUS = 2
    """A live record without a user."""
    OF_USER = 3
    """A live record of a user."""
    TOMBSTONE = 4


class Hint(NamedTuple):
    """What the modification time of a file says of its record."""

    expires: int
    """The moment at which the record expires, or earlier, in milliseconds."""
    kind: Kind

    def has_expired(self, now: int) -> bool:
        """Return whether the record has expired for sure."""
        return self.expires <= now - _LONG


def part_of(kind: Kind) -> int:
    """Return the nanoseconds below a millisecond in the hint of a record of this kind.

    They are not 0, which coarse clocks have, and no fewer than file systems store that have parts
    of a millisecond.
    """
    return kind * 1_000


def first_time(moment: int) -> int:
    """Return the first modification time of the hints that say a moment, in milliseconds."""
    return moment * 1_000_000


def expired_time(now: int) -> int:
    """Return the modification time below which all records have expired for sure."""
    return first_time(now + 1 - _LONG)


_KINDS: Final = {part_of(kind): kind for kind in Kind}


def hint_in(modified: int) -> Hint | None:
    """Return the hint in a modification time in nanoseconds; ``None`` if it is not one."""
    expires, part = divmod(modified, 1_000_000)
    kind = _KINDS.get(part)
    return None if kind is None else Hint(expires, kind)


def hint_at(path: str) -> Hint | None:
    """Return the hint of a file. Raises ``FileNotFoundError`` if there is no file."""
    return hint_in(os.stat(path).st_mtime_ns)


def kind_of(record: Record) -> Kind:
    """Return what a hint says of a record."""
    if record.state is not State.LIVE:
        return Kind.TOMBSTONE
    return Kind.ANONYMOUS if record.user_id is None else Kind.OF_USER


def set_hint(path: str, expires: int, kind: Kind) -> None:
    """Set the hint of a file, if that is possible."""
    modified = first_time(expires) + part_of(kind)
    # Some network file systems set no times. Then a purge opens more files, and that is all.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(modified + _ATIME, modified))


def has_set_times(found: os.stat_result) -> bool:
    """Return whether `set_hint` has set the times of a file.

    Among very many files that were copied without their times, one may have the time of a hint.
    """
    return found.st_atime_ns == found.st_mtime_ns + _ATIME


def _packed_form(data: bytes) -> bytes:
    """Return the packed form of a record from the bytes of its file."""
    return data[:HEAD_SIZE] + data[FRONT_SIZE:]
