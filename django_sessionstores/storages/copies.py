"""The copies of records that a cache keeps in front of another storage, the authority."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Lock
from typing import Final

import msgspec

from ..core import clock
from ..core.records import Record, State
from ..exceptions import StorageUnavailable

# Precedes the payload: a byte with which no encrypted payload begins, and when the record was read.
_HEAD: Final = struct.Struct(">BQ")
_COPY: Final = 0
_MARK: Final = 1


def make_copy(record: Record, asked: int) -> Record:
    """Return a copy of a record, for which the authority was asked at a moment.

    ``asked`` is in milliseconds since the epoch. The lifetime of the cache's entry does not tell
    it. That begins when the server executes the command, and a server that stands still may do so
    long after the sender has given up.
    """
    return msgspec.structs.replace(record, payload=_HEAD.pack(_COPY, asked) + record.payload)


def read_copy(stored: Record, since: int) -> Record | None:
    """Return the record in a copy; its handle is when the authority was asked for it.

    Return ``None`` if that was before ``since``, or if it is not a copy.
    """
    return _read(stored, _COPY, since)


def make_mark(base: Record) -> Record:
    """Return the mark that a cache has while ``base`` is replaced.

    It is newer than any copy of ``base``, so that the cache refuses those, and older than the next
    version. If ``base`` is from a copy, the mark also has what that had.
    """
    asked = base.handle if isinstance(base.handle, int) else 0
    payload = _HEAD.pack(_MARK, asked) + (base.payload if asked else b"")
    return msgspec.structs.replace(base, payload=payload, version=base.version + 1, handle=None)


def read_mark(stored: Record, since: int) -> Record | None:
    """Return the record in a mark, which counts only if the authority does not answer.

    Return ``None`` for the same reasons as `read_copy`, and if the mark does not have it.
    """
    record = _read(stored, _MARK, since)
    return record and msgspec.structs.replace(record, version=record.version - 1)


def _read(stored: Record, kind: int, since: int) -> Record | None:
    payload = stored.payload
    if len(payload) < _HEAD.size or payload[0] != kind:
        return None
    _, asked = _HEAD.unpack_from(payload)
    if asked < since:
        return None
    return msgspec.structs.replace(stored, payload=payload[_HEAD.size :], handle=asked)


def is_refused(copy: Record, stored: Record, now: int) -> bool:
    """Return whether a cache that has ``stored`` must not replace it by ``copy``.

    Such a copy was read before the session ended or was saved again, and comes too late. This is
    for caches that cannot run a script on the server to decide it.
    """
    if stored.state is State.LIVE:
        return stored.version > copy.version
    return stored.expires > now


_MAX_SUSPECTS: Final = 10_000
"""The maximum number of sessions that are remembered because the cache may have an outdated copy,
about two megabytes. If there are more, no copy counts for a lease."""

_process_began = clock.now()


def process_began() -> int:
    """Return when this process began, in milliseconds since the epoch."""
    return _process_began


def never() -> int:
    """Return 0, in place of `process_began` for a cache that no other process uses."""
    return 0


def _begin_process() -> None:
    global _process_began
    _process_began = clock.now()


if hasattr(os, "register_at_fork"):  # Not on Windows, where nothing forks.
    os.register_at_fork(after_in_child=_begin_process)


class CopyTrust:
    """What one process knows about which copies of a cache count.

    A copy counts for ``lease`` seconds from the moment at which the authority was asked for it. It
    does not count before that if a write may have missed the cache:

    - A session is suspect for a lease if its own write did, or if the authority has not answered.
    - Each process that could not reach the cache leaves it alone for ``retry`` seconds, and writes
      to the authority meanwhile. So when the cache answers again, only those copies count for
      which the authority is asked ``retry`` seconds later.
    - The same holds when the process begins, because it does not know what the others have met.
      ``process_began`` returns when that was, or 0 if no other process uses the cache.
    """

    def __init__(self, *, lease: float, retry: float, process_began: Callable[[], int]) -> None:
        self._lease = _milliseconds(lease)
        self._retry = _milliseconds(retry)
        self._process_began = process_began
        self._trusted_since = 0
        # Until when they are suspect, by the monotonic clock; the oldest first.
        self._suspects: dict[str, float] = {}
        self._suspects_lock = Lock()

    def oldest(self, now: int) -> int:
        """Return from when on the authority was asked for those copies that count now.

        Both are milliseconds since the epoch. What is returned is later than ``now`` if none does.
        """
        others_use_cache = self._process_began() + self._retry
        return max(now - self._lease + 1, others_use_cache, self._trusted_since)

    def is_suspect(self, session_id: str) -> bool:
        """Return whether no copy of this session counts now."""
        if clock.monotonic() < self._suspects.get(session_id, 0.0):
            return True
        now = clock.now()
        return self.oldest(now) > now

    def begin_again(self) -> None:
        """Note that the cache answers again after an outage."""
        self._trusted_since = clock.now() + self._retry

    def distrust(self, *session_ids: str) -> None:
        """Let no copy of these sessions count until every older lease has ended."""
        now = clock.monotonic()
        with self._suspects_lock:
            for each in session_ids:
                self._suspects.pop(each, None)
                self._suspects[each] = now + self._lease / 1000
            while self._suspects and next(iter(self._suspects.values())) <= now:
                del self._suspects[next(iter(self._suspects))]
            if len(self._suspects) > _MAX_SUSPECTS:
                self._suspects.clear()
                self._trusted_since = clock.now() + self._lease

    @contextmanager
    def distrust_on_error(self, *session_ids: str) -> Generator[None]:
        """Make sessions suspect if the write in this context is interrupted.

        The authority may have written without answering, or the task may have been cancelled before
        the change reached the cache. If the authority was not reached, the copy stays true. Of
        several sessions, some may have been written before that.
        """
        try:
            yield
        except BaseException as error:
            is_certain = isinstance(error, StorageUnavailable) and not error.was_sent
            if not is_certain or len(session_ids) > 1:
                self.distrust(*session_ids)
            raise


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
