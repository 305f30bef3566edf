"""The file of one record: its format, what is read of it, and how it is replaced.

A file is a record in its packed form, with room for the id of a successor after the head. Times
and tombstones are written over these two: they fit in one cache line, so a reader sees either the
old or the new ones. After the head of a tombstone, the file still has the encrypted payload of the
session, which is never returned, and which the next purge removes. Replacing the file instead makes
ext4 allocate its blocks at once, which is most of what a save costs there; truncating it would show
a reader half of the old record.

A file's modification time is the moment its record expires: a purge finds its candidates without
opening the others, and a list leaves out what has expired long ago. It is a hint, lost by a
careless copy; the record itself decides. So that a list can tell a hint from the time of a copy or
of a write, the hint has a certain number of nanoseconds. If a file system does not store those,
lists open more files, and that is all.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

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
    unpack_start,
    without_payload,
)
from .disk import READ, WRITE, insist, open_file, read_rest, write_all

_HINT: Final = 1_000
"""The nanoseconds of a hint below a millisecond: not 0, which coarse clocks have, and no fewer than
file systems store that have parts of a millisecond."""
_LONG: Final = 3_600_000
"""How many milliseconds after its expiry a list leaves out a session by the hint. A network file
system may show a hint that is some minutes old."""
FRONT_SIZE: Final = HEAD_SIZE + ID_SIZE
"""Bytes of the head and of the id of a successor."""


def front(record: Record, packed: bytes) -> bytes:
    """Return the beginning of a record's file: the head, and the id of a successor."""
    return packed[:HEAD_SIZE] + bytes.fromhex(record.successor).ljust(ID_SIZE, b"\0")


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
    with open_file(path, READ) as fd:
        return unpack_head(session_id, os.read(fd, HEAD_SIZE))


def read_start(path: str, session_id: str) -> Record:
    """Return a record without its payload and without the size of that.

    Raises `UnreadablePayload` and ``OSError``.
    """
    with open_file(path, READ) as fd:
        start = os.read(fd, START_SIZE)
        record = unpack_start(session_id, _packed_form(start))
        return record or unpack(session_id, _packed_form(start + read_rest(fd)))


def read_list_entry(path: str, session_id: str) -> Record:
    """Return a record as lists show it. Raises `UnreadablePayload` and ``OSError``."""
    with open_file(path, READ) as fd:
        start, length = os.read(fd, START_SIZE), os.fstat(fd).st_size - ID_SIZE
        record = unpack_start(session_id, _packed_form(start), length)
        return record or without_payload(unpack(session_id, _packed_form(start + read_rest(fd))))


def replace(path: str, new: str, record: Record) -> None:
    """Write a record to the file ``new``, and rename that to ``path``. Raises ``OSError``."""
    try:
        fd = os.open(new, WRITE, 0o600)
        try:
            packed = pack(record)
            write_all(fd, front(record, packed) + packed[HEAD_SIZE:])
        finally:
            # May be the first to say that the disk is full, on NFS and with quotas.
            os.close(fd)
        hint_expiry(new, record.expires)
        insist(os.replace, new, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def hint_expiry(path: str, expires: int) -> None:
    """Set the modification time of a file to when its record expires, if that is possible."""
    # Some network file systems set no times. Then a purge opens more files, and that is all.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(expires * 1_000_000 + _HINT, expires * 1_000_000 + _HINT))


def has_long_expired(path: str, moment: int) -> bool:
    """Return whether the hint of a file says that its record expired long before a moment.

    Raises ``FileNotFoundError`` if there is no file.
    """
    hint = os.stat(path).st_mtime_ns
    return hint % 1_000_000 == _HINT and hint <= (moment - _LONG) * 1_000_000


def _packed_form(data: bytes) -> bytes:
    """Return the packed form of a record from the bytes of its file."""
    return data[:HEAD_SIZE] + data[FRONT_SIZE:]
