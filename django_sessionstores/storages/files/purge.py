"""The purge: removing the files of expired records, and what killed processes have left."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Sequence
from itertools import islice
from typing import Final, TypeAlias

from ...core.records import Record, is_session_id
from ...exceptions import UnreadablePayload
from .disk import insist
from .folder import LOCK, NEW, SHARDS, Folder
from .index import Entry, UserIndex, owner_of
from .index_upkeep import IndexUpkeep
from .locks import ShardLocks
from .record_file import hint_expiry, read_head, read_start

# Windows does not; there the lock files of empty shards stay.
_REMOVES_OPEN_FILES: Final = os.name == "posix"

_AT_ONCE: Final = 100
"""How many files are looked at, and at most removed, while a shard is locked: some milliseconds."""

_Round: TypeAlias = Generator[int, tuple[int, int], None]
"""A round through the folder, see `Purge._steps`."""


class Purge:
    """Rounds through all shards and all entries of the index, if there is one.

    ``may_purge`` says of a record whether it may be removed at a moment.

    A purge also removes the lock file and the folder of a shard in which no session is left, while
    it holds the lock. (On Windows both stay, because an open file cannot be removed there.)
    """

    def __init__(
        self,
        folder: Folder,
        locks: ShardLocks,
        index: UserIndex | None,
        upkeep: IndexUpkeep,
        may_purge: Callable[[Record, int], bool],
    ) -> None:
        self._folder = folder
        self._locks = locks
        self._index = index
        self._upkeep = upkeep
        self._may_purge = may_purge
        # The rest of the round that the last batch stopped in: to begin each batch from the start
        # would look at every file once per batch.
        self._round: _Round | None = None
        self._lock = threading.Lock()

    def remove(self, now: int, batch: int) -> int:
        """Remove up to ``batch`` expired records, and return how many. See `Storage.purge`."""
        removed = 0
        self._folder.require()
        with self._lock:
            while True:
                begins_here = self._round is None
                removed += self._take_steps(now, batch - removed)
                # Nothing is left only when a whole round has found nothing.
                if removed or begins_here:
                    return removed

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
        for shard in SHARDS:
            try:
                entries = os.scandir(f"{self._folder.path}/{shard}")
            except FileNotFoundError:
                continue
            left = 0
            with entries:
                while some := list(islice(entries, _AT_ONCE)):
                    files = [each for each in some if is_session_id(each.name)]
                    left += len(files)
                    for left_over in (each for each in some if each.name == NEW):
                        self._remove_left_over(shard, left_over.path)
                    expired = [each.name for each in files if _seems_expired(each, now)]
                    while expired:
                        removed = self._remove_expired(shard, expired[:most], now)
                        left -= removed
                        expired = expired[most:]
                        now, most = yield removed
            if _REMOVES_OPEN_FILES and not left:
                self._remove_if_empty(shard)
                now, most = yield 0
        # What killed processes have left: the entry of a record goes with the record.
        for of_user in self._index.entries() if self._index else ():
            self._remove_if_alone(of_user)
            now, most = yield 0
        # A folder that has gone meanwhile has nothing to purge, as if all were done.
        self._folder.require()

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

    def _remove_if_alone(self, entry: Entry) -> None:
        if not os.path.lexists(self._folder.path_of(entry.session_id)):
            self._upkeep.remove_if_stale(entry)

    def _remove_expired(self, shard: str, session_ids: Sequence[str], now: int) -> int:
        """Remove the records that are still expired under the lock, and return how many were."""
        removed = 0
        with contextlib.suppress(FileNotFoundError), self._locks.hold(shard):
            for session_id in session_ids:
                with contextlib.suppress(FileNotFoundError):
                    removed += self._remove_if_expired(session_id, now)
        return removed

    def _remove_if_expired(self, session_id: str, now: int) -> bool:
        path = self._folder.path_of(session_id)
        try:
            # The user is after the head.
            record = (read_start if self._index else read_head)(path, session_id)
        except UnreadablePayload:
            # Nobody can load it. Only the modification time says when it expires.
            record = Record(id=session_id)
        if not self._may_purge(record, now):
            hint_expiry(path, record.expires)
            return False
        insist(os.unlink, path)
        if self._index and (owner := owner_of(record)) is not None:
            self._index.discard(owner, session_id)
        return True


def _seems_expired(entry: os.DirEntry[str], now: int) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000 <= now
    except FileNotFoundError:
        return False
