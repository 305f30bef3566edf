"""The purge: removing the files of expired records, and what killed processes have left."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from ...core.records import Record
from ...exceptions import UnreadablePayload
from .disk import insist
from .folder import LOCK, NEW, SHARDS, Folder, is_id
from .index import Entry, UserIndex
from .index_upkeep import IndexUpkeep
from .locks import ShardLocks
from .record_file import hint_expiry, read_head

# Windows does not; there the lock files of empty shards stay.
_REMOVES_OPEN_FILES: Final = os.name == "posix"


class Purge:
    """Rounds through all entries of the index and all shards.

    ``may_purge`` says of a record whether it may be removed at a moment.

    A purge also removes the lock file and the folder of a shard in which no session is left, while
    it holds the lock. (On Windows both stay, because an open file cannot be removed there.)
    """

    def __init__(
        self,
        folder: Folder,
        locks: ShardLocks,
        index: UserIndex,
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
        self._round: Iterator[Callable[[int], bool]] | None = None
        self._lock = threading.Lock()

    def remove(self, now: int, batch: int) -> int:
        """Remove up to ``batch`` expired records, and return how many. See `Storage.purge`."""
        removed = 0
        self._folder.require()
        with self._lock:
            while True:
                begins_here = self._round is None
                self._round = self._round or self._candidates()
                try:
                    for remove in self._round:
                        removed += remove(now)
                        if removed >= batch:
                            return removed
                except OSError as error:
                    raise self._folder.outage_of(error) from error
                finally:
                    if removed < batch:
                        self._round = None
                # Nothing is left only when a whole round has found nothing.
                if removed or begins_here:
                    return removed

    def _candidates(self) -> Iterator[Callable[[int], bool]]:
        """Yield, for each file and each shard in turn, a function that removes it if it should go.

        The function returns whether it has removed a session.
        """
        # First, because to look at an entry may make a shard, which goes below if it is empty. An
        # expired record loses its entry in the next round: to know its user, it would have to be
        # read.
        for of_user in self._index.entries():
            yield partial(self._remove_if_alone, of_user)
        for shard in SHARDS:
            try:
                entries = os.scandir(f"{self._folder.path}/{shard}")
            except FileNotFoundError:
                continue
            in_use = False
            with entries:
                for entry in entries:
                    if entry.name == NEW:
                        yield partial(self._remove_left_over, shard, entry.path)
                    elif is_id(entry.name):
                        yield partial(self._remove_if_expired, entry)
                        in_use = in_use or os.path.lexists(entry.path)
            if _REMOVES_OPEN_FILES and not in_use:
                yield partial(self._remove_if_empty, shard)

    def _remove_left_over(self, shard: str, path: str, now: int) -> bool:
        # While this process holds the lock, no other process is writing the file.
        with contextlib.suppress(FileNotFoundError), self._locks.hold(shard):
            os.unlink(path)
        return False

    def _remove_if_empty(self, shard: str, now: int) -> bool:
        folder = self._folder.shard_of(shard)
        with contextlib.suppress(FileNotFoundError), self._locks.hold(shard):
            if not any(map(is_id, os.listdir(folder))):
                os.unlink(f"{folder}/{LOCK}")
                # From here on this lock keeps nobody out. A writer that comes now makes the next
                # lock file, which is in the way of rmdir(), or finds no folder.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return False

    def _remove_if_alone(self, entry: Entry, now: int) -> bool:
        if not os.path.lexists(self._folder.path_of(entry.session_id)):
            self._upkeep.remove_if_stale(entry)
        return False

    def _remove_if_expired(self, entry: os.DirEntry[str], now: int) -> bool:
        return _seems_expired(entry, now) and self._remove_expired(entry.name, now)

    def _remove_expired(self, session_id: str, now: int) -> bool:
        """Remove a record if it is still expired under the lock, and return whether it was."""
        with contextlib.suppress(FileNotFoundError), self._locks.hold(session_id):
            path = self._folder.path_of(session_id)
            try:
                record = read_head(path, session_id)
            except UnreadablePayload:
                # Nobody can load it. Only the modification time says when it expires.
                record = Record(id=session_id)
            if self._may_purge(record, now):
                insist(os.unlink, path)
                return True
            hint_expiry(path, record.expires)
        return False


def _seems_expired(entry: os.DirEntry[str], now: int) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns <= now * 1_000_000
    except FileNotFoundError:
        return False
