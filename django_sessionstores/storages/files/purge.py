"""The purge: removing the files of expired records, and what killed processes have left."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias

from ...core.records import ID_LENGTH, Record, is_session_id
from ...exceptions import UnreadablePayload
from .disk import insist, names_in_any_order, times_in
from .folder import LOCK, NEW, SHARDS, Folder
from .index import UserIndex, entry_of, owner_of
from .index_upkeep import IndexUpkeep
from .locks import ShardLocks
from .record_file import (
    Kind,
    expired_time,
    first_time,
    has_set_times,
    kind_of,
    part_of,
    read_head,
    read_owner,
    set_hint,
)

# Windows does not; there the lock files of empty shards stay.
_REMOVES_OPEN_FILES: Final = os.name == "posix"

_AT_ONCE: Final = 100
"""How many files are removed at most while a shard is locked: some milliseconds."""

_OF_USER: Final = part_of(Kind.OF_USER)
_KNOWN: Final = frozenset(map(part_of, (Kind.OF_USER, Kind.ANONYMOUS, Kind.TOMBSTONE)))
"""In the hints that say whether a record has an entry in the index."""

_CLEARED_AT_ONCE: Final = 16
"""How many folders of the index are cleared before each shard, until all are. So no batch waits for
the whole index, and only a few of the 256 shards are purged before the index is cleared."""

_Round: TypeAlias = Generator[int, tuple[int, int], None]
"""A round through the folder, see `Purge._steps`."""


class Purge:
    """Rounds through all shards and all entries of the index, if there is one.

    ``rule`` is `SiteMarks.purge_rule`, and ``is_alone`` says whether all records are of this site.
    Then those that have expired some minutes ago are removed unread, once their entries have gone.
    To remove the entries of a folder one after the other takes half of what it takes to remove each
    with its record, and the record need not be read to know its user.

    An entry may go before its record, and without a lock, if the record has expired some minutes
    ago: nothing prolongs such a record, and while its file is there, no other is created with its
    id. So if the purge is killed, each live record still has its entry, and the next purge removes
    the others.

    A purge also removes the lock file and the folder of a shard in which no session is left, while
    it holds the lock. (On Windows both stay, because an open file cannot be removed there.)
    """

    def __init__(
        self,
        folder: Folder,
        locks: ShardLocks,
        index: UserIndex | None,
        upkeep: IndexUpkeep,
        rule: Callable[[int], Callable[[Record], bool]],
        is_alone: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._locks = locks
        self._index = index
        self._upkeep = upkeep
        self._rule = rule
        self._is_alone = is_alone
        # The rest of the round that the last batch stopped in: to begin each batch from the start
        # would look at every file once per batch.
        self._round: _Round | None = None
        # The moment for which a whole round has just been made.
        self._done: int | None = None
        self._lock = threading.Lock()

    def remove(self, now: int, batch: int) -> int:
        """Remove up to ``batch`` expired records, and return how many. See `Storage.purge`."""
        self._folder.require()
        with self._lock:
            removed = 0
            while self._done != now:
                begins_here = self._round is None
                removed += self._take_steps(now, batch - removed)
                # Nothing is left only when a whole round has found nothing, or has removed all that
                # had expired when it began.
                if removed or begins_here:
                    return removed
            self._done = None
            return 0

    def _take_steps(self, now: int, most: int) -> int:
        """Remove up to ``most`` sessions in the rest of the round, which may end; return how many.

        An error ends the round.
        """
        begun = self._round or self._begin_round()
        self._round, removed = None, 0
        try:
            while removed < most:
                removed += begun.send((now, most - removed))
        except StopIteration:
            return removed
        except OSError as error:
            raise self._folder.outage_of(error) from error
        self._round = begun
        return removed

    def _begin_round(self) -> _Round:
        begun = self._steps()
        next(begun)
        return begun

    def _steps(self) -> _Round:
        """Take a step for each request; yield how many sessions it has removed.

        A request has the time, and how many sessions the step may remove.
        """
        now, most = yield 0
        began, clearing, is_cleared = now, self._clear_index(now), False
        # Elsewhere, a record says whose it is, and when it may go.
        is_alone = self._index is not None and self._is_alone()
        for shard in SHARDS:
            if not is_cleared:
                is_cleared = len(list(islice(clearing, _CLEARED_AT_ONCE))) < _CLEARED_AT_ONCE
            cleared_until = began if is_cleared and is_alone else 0
            expired, left = self._look(shard, now)
            while expired:
                some, expired = expired[: min(most, _AT_ONCE)], expired[min(most, _AT_ONCE) :]
                removed = self._remove_expired(shard, some, now, cleared_until)
                left -= removed
                now, most = yield removed
            if _REMOVES_OPEN_FILES and not left and os.path.isdir(self._folder.shard_of(shard)):
                self._remove_if_empty(shard)
                now, most = yield 0
        if self._index:
            self._index.remove_empty_folders()
        # A folder that has gone meanwhile has nothing to purge, as if all were done.
        self._folder.require()
        self._done = now if began == now else None

    def _clear_index(self, now: int) -> Iterator[None]:
        """Remove the entries of what has expired some minutes before ``now``, and what killed
        processes have left there. Yields after each folder of the index."""
        for folder in self._index.entry_folders() if self._index else ():
            expired_until = expired_time(now) if self._is_alone() else 0
            for name in names_in_any_order(folder):
                session_id = name[-ID_LENGTH:]
                try:
                    found = os.stat(f"{self._folder.path}/{session_id[:2]}/{session_id}")
                except OSError:
                    if entry := entry_of(name):
                        self._upkeep.remove_if_stale(entry)
                    continue
                modified = found.st_mtime_ns
                if modified < expired_until and _is_sure(found, modified) and entry_of(name):
                    with contextlib.suppress(FileNotFoundError):
                        insist(os.unlink, f"{folder}/{name}")
            yield

    def _look(self, shard: str, now: int) -> tuple[list[tuple[str, int]], int]:
        """Return the names and times of the files that seem to have expired, and how many there
        are of all. Remove what a killed writer has left."""
        place, expired, number = self._folder.shard_of(shard), [], 0
        live_from = first_time(now + 1)
        for name, modified in times_in(place):
            if len(name) == ID_LENGTH:
                number += 1
                if modified < live_from and is_session_id(name):
                    expired.append((name, modified))
            elif name == NEW:
                self._remove_left_over(shard, f"{place}/{NEW}")
        return expired, number

    def _remove_left_over(self, shard: str, path: str) -> None:
        # While this process holds the lock, no other process is writing the file.
        with contextlib.suppress(FileNotFoundError), self._locks.hold(shard):
            os.unlink(path)

    def _remove_if_empty(self, shard: str) -> None:
        folder = self._folder.shard_of(shard)
        with contextlib.suppress(FileNotFoundError), self._locks.hold(shard):
            if not any(map(is_session_id, os.listdir(folder))):
                os.unlink(f"{folder}/{LOCK}")
                # From here on this lock keeps nobody out. A writer that comes now makes the next
                # lock file, which is in the way of rmdir(), or finds no folder.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _remove_expired(
        self, shard: str, files: Sequence[tuple[str, int]], now: int, cleared_until: int
    ) -> int:
        """Remove the records that are still expired under the lock, and return how many were.

        The index has no entries of what had expired some minutes before ``cleared_until``.
        """
        removed, is_alone, may_purge = 0, self._is_alone(), self._rule(now)
        place, expired_until = self._folder.shard_of(shard), expired_time(now)
        no_entry_until = expired_time(min(now, cleared_until))
        with contextlib.suppress(FileNotFoundError), self._locks.hold(shard):
            for session_id, modified in files:
                path = f"{place}/{session_id}"
                is_of_user = modified % 1_000_000 == _OF_USER
                has_no_entry = modified < (no_entry_until if is_of_user else expired_until)
                try:
                    if is_alone and has_no_entry and _is_sure(os.stat(path), modified):
                        insist(os.unlink, path)
                        removed += 1
                    else:
                        removed += self._remove_if_expired(path, session_id, may_purge)
                except FileNotFoundError:
                    continue
        return removed

    def _remove_if_expired(
        self, path: str, session_id: str, may_purge: Callable[[Record], bool]
    ) -> bool:
        try:
            # The user is after the head.
            record = (read_owner if self._index else read_head)(path, session_id)
        except UnreadablePayload:
            # Nobody can load it. Only the modification time says when it expires.
            record = Record(id=session_id)
        if not may_purge(record):
            set_hint(path, record.expires, kind_of(record) if self._index else Kind.UNKNOWN)
            return False
        insist(os.unlink, path)
        if self._index and (owner := owner_of(record)) is not None:
            self._index.discard(owner, session_id)
        return True


def _is_sure(found: os.stat_result, modified: int) -> bool:
    """Return whether the times of a file are those of a hint that says what its record is.

    ``modified`` is the modification time seen before, which says that the record has expired.
    """
    return modified % 1_000_000 in _KNOWN and has_set_times(found, modified)
