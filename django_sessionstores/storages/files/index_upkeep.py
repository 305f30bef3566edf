"""The upkeep of the index of users: it is made complete, and stale entries are removed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from ...core.records import Record, State
from ...exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from .folder import Folder
from .index import Entry, UserIndex, owner_of
from .locks import LOCK_SECONDS, ShardLocks, try_lock, unlock
from .record_file import read_owner

_POLL_SECONDS: Final = 0.02


class IndexUpkeep:
    """What keeps an index right besides the writes of records.

    ``records`` returns all readable records, without payloads.
    """

    def __init__(
        self,
        index: UserIndex,
        folder: Folder,
        locks: ShardLocks,
        records: Callable[[], Iterator[Record]],
    ) -> None:
        self._index = index
        self._folder = folder
        self._locks = locks
        self._records = records

    @contextlib.contextmanager
    def follow(self, record: Record, base: Record | None) -> Iterator[None]:
        """Keep the index right while the block replaces ``base`` by ``record``.

        The new entry is added before and the old one removed after, so a failure leaves an entry
        too many and never lacks one. The caller must hold the lock of the session.
        """
        previous, owner = owner_of(base), owner_of(record)
        added = None if owner == previous else owner
        if added is not None:
            self._index.add(added, record.id)
        try:
            yield
        except StorageFull:
            # Nothing was written. After other failures the entry stays for a purge, because on a
            # network a failure may be a success.
            if added is not None:
                self._index.discard(added, record.id)
            raise
        if previous is not None and previous != owner:
            self._index.discard(previous, record.id)

    def rebuild(self, is_own: Callable[[Record], bool]) -> int:
        """Make the index complete and remove stale entries; return the number of own sessions.

        The index has the sessions of all sites that share the folder.
        """
        with self._folder.translate_errors():
            indexed = self._complete(is_own)
            for entry in self._index.entries():
                self.remove_if_stale(entry)
            self._index.remove_empty_folders()
            return indexed

    def ensure_complete(self) -> bool:
        """Return whether the index is complete, and make it complete first if that is possible.

        The index is not complete in a folder of a version without an index, or of a backup without
        the index.
        """
        if not self._index.is_complete():
            with contextlib.suppress(OSError):
                self._complete_once()
        return self._index.is_complete()

    def remove_if_stale(self, entry: Entry) -> None:
        """Remove an entry, unless there is a record of its user, or one that cannot be read.

        Makes no file, so that a full disk can be purged.
        """
        try:
            with self._locks.hold(entry.session_id):
                if not self._is_right(entry):
                    self._index.remove(entry)
        except FileNotFoundError:
            # A writer makes the shard before the entry. One that has made both since then may have
            # relied on this entry.
            self._index.remove(entry)
            with contextlib.suppress(FileNotFoundError), self._locks.hold(entry.session_id):
                if self._is_right(entry):
                    self._index.put(entry)

    def _is_right(self, entry: Entry) -> bool:
        """Return whether the session is one of the entry's user, or cannot be read."""
        path = self._folder.path_of(entry.session_id)
        try:
            return entry.is_of(owner_of(read_owner(path, entry.session_id)))
        except FileNotFoundError:
            return False
        except UnreadablePayload:
            return True

    def _complete(self, is_counted: Callable[[Record], bool] = bool) -> int:
        """Add an entry for each session that has a user, and note that the index is complete.

        Returns the number of sessions, with and without a user, for which ``is_counted`` is true.
        """
        self._folder.require()
        try:
            self._folder.refuse_other_owner()
        except FileNotFoundError:
            return 0
        found = 0
        for record in self._records():
            if record.state is State.LIVE:
                found += is_counted(record)
                self._index.note_site(record.site)
                # Not under the lock. If the session ends meanwhile, this is an entry too many.
                if record.user_id is not None:
                    self._index.add(record.user_id, record.id)
        self._index.set_complete()
        return found

    def _complete_once(self) -> None:
        """Make the index complete, or wait until another request has done so.

        Does nothing if this process cannot write the index. Raises `StorageUnavailable` if another
        request takes longer than `LOCK_SECONDS`: to read all files meanwhile would be the same work
        again. The lock of a killed process ends with it.
        """
        try:
            self._folder.refuse_other_owner()
            fd = self._index.open_builder_lock()
        except StorageUnavailable:
            return
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while True:
                try:
                    try_lock(fd)
                    break
                except BlockingIOError:
                    if self._index.is_complete():
                        return
                if time.monotonic() >= deadline:
                    raise StorageUnavailable(
                        f"files in {self._folder.path}: another request or command makes the "
                        f"index of users, which takes longer than {LOCK_SECONDS:g} seconds. Try "
                        "again later."
                    )
                time.sleep(_POLL_SECONDS)
            try:
                if not self._index.is_complete():
                    with contextlib.suppress(StorageUnavailable):
                        self._complete()
            finally:
                unlock(fd)
        finally:
            os.close(fd)
