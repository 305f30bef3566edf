"""The purge: removing the files of expired records, and what killed processes have left."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ...core.records import ID_LENGTH, Record, is_session_id
from ...exceptions import UnreadablePayload
from .disk import insist, open_folder, stats_in
from .folder import LOCK, NEW, SHARDS, Folder
from .index import UserIndex, owner_of
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

_KNOWN: Final = frozenset(map(part_of, (Kind.OF_USER, Kind.ANONYMOUS, Kind.TOMBSTONE)))
"""In the hints that say whether a record has an entry in the index."""

_HELD: Final = 250_000
"""Of about how many files the names are kept in memory, some 100 bytes each."""

_Round: TypeAlias = Generator[int, tuple[int, int], None]
"""A round through the folder, see `Purge._steps`."""


@dataclass(slots=True)
class _Shard:
    """What a look at a shard has found: names of files, most of them of records."""

    name: str
    unread: list[str] = field(default_factory=list)
    """Those that have expired some minutes ago for sure, and go without being read."""
    unsure: list[str] = field(default_factory=list)
    """Those that seem to have expired."""
    others: list[str] = field(default_factory=list)
    number: int = 0
    """How many there are."""

    def take(self, most: int) -> tuple[list[str], bool]:
        """Return some of what has expired or may have, and whether that goes unread."""
        names = self.unread or self.unsure
        taken, is_unread = names[:most], names is self.unread
        del names[:most]
        return taken, is_unread


class Purge:
    """Rounds through all shards and all entries of the index, if there is one.

    ``rule`` is `SiteMarks.purge_rule`, and ``is_alone`` says whether all records are of this site.
    Then those that have expired some minutes ago are removed unread, once their entries have gone.
    To remove the entries of a folder one after the other takes half of what it takes to remove each
    with its record, and neither the record nor the entry need be looked at: a look at the shards
    says which sessions these are, and the name of an entry says which session it is of. To keep no
    more than `_HELD` names in memory, a large folder is purged in parts of several shards.

    An entry may go before its record, and without a lock, if the record has expired some minutes
    ago: nothing prolongs such a record, and while its file is there, no other is created with its
    id. So if the purge is killed, each live record still has its entry, and the next purge removes
    the others. If another process removes the file after the look, and a record with the same id is
    created at once, as a migration may do, that gets its entry back.

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
        began, shards = now, iter(SHARDS)
        while some := self._look_at_some(shards, now):
            if self._index:
                self._clear_index(self._index, some)
            for shard in some:
                while shard.unread or shard.unsure:
                    removed = self._remove_expired(shard, min(most, _AT_ONCE), now)
                    shard.number -= removed
                    now, most = yield removed
                if _REMOVES_OPEN_FILES and not shard.number and self._has(shard.name):
                    self._remove_if_empty(shard.name)
                    now, most = yield 0
        if self._index:
            self._index.remove_empty_folders()
        # A folder that has gone meanwhile has nothing to purge, as if all were done.
        self._folder.require()
        self._done = now if began == now else None

    def _look_at_some(self, shards: Iterator[str], now: int) -> list[_Shard]:
        """Look at the next shards: at one if there is no index, or else at some."""
        some: list[_Shard] = []
        is_alone, held = self._index is not None and self._is_alone(), 0
        for shard in shards:
            some.append(self._look(shard, now, is_alone))
            held += some[-1].number
            if held >= _HELD or self._index is None:
                break
        return some

    def _look(self, name: str, now: int, is_alone: bool) -> _Shard:
        """Look at a shard, and remove what a killed writer has left."""
        place, shard = self._folder.shard_of(name), _Shard(name)
        # If other sites share the folder, a record says whose it is, and when it may go.
        live_from, expired_until = first_time(now + 1), expired_time(now) if is_alone else 0
        for each, found in stats_in(place):
            if len(each) == ID_LENGTH:
                shard.number += 1
                modified = found.st_mtime_ns
                if modified >= live_from or not is_session_id(each):
                    shard.others.append(each)
                elif modified < expired_until and _is_sure(found):
                    shard.unread.append(each)
                else:
                    shard.unsure.append(each)
            elif each == NEW:
                self._remove_left_over(name, f"{place}/{NEW}")
        return shard

    def _clear_index(self, index: UserIndex, shards: list[_Shard]) -> None:
        """Remove the entries of what goes unread, and those that killed processes have left."""
        gone = {each for shard in shards for each in shard.unread}
        known = gone.union(*(names for shard in shards for names in (shard.unsure, shard.others)))
        for shard in shards:
            shard.others.clear()
        for entry in index.remove_all_of(gone, known, {shard.name for shard in shards}):
            self._upkeep.remove_if_stale(entry)

    def _remove_left_over(self, shard: str, path: str) -> None:
        # While this process holds the lock, no other process is writing the file.
        with contextlib.suppress(FileNotFoundError), self._locks.hold(shard):
            os.unlink(path)

    def _has(self, shard: str) -> bool:
        return os.path.isdir(self._folder.shard_of(shard))

    def _remove_if_empty(self, shard: str) -> None:
        folder = self._folder.shard_of(shard)
        with contextlib.suppress(FileNotFoundError), self._locks.hold(shard):
            if not any(map(is_session_id, os.listdir(folder))):
                os.unlink(f"{folder}/{LOCK}")
                # From here on this lock keeps nobody out. A writer that comes now makes the next
                # lock file, which is in the way of rmdir(), or finds no folder.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _remove_expired(self, shard: _Shard, most: int, now: int) -> int:
        """Remove the next records that are still expired under the lock; return how many were."""
        names, is_cleared = shard.take(most)
        removed, may_purge, expired_until = 0, self._rule(now), expired_time(now)
        place = self._folder.shard_of(shard.name)
        with (
            contextlib.suppress(FileNotFoundError),
            self._locks.hold(shard.name),
            open_folder(place) as (folder, front),
        ):
            for name in names:
                try:
                    if is_cleared:
                        found = os.stat(front + name, dir_fd=folder)
                        if found.st_mtime_ns < expired_until and _is_sure(found):
                            insist(os.unlink, front + name, dir_fd=folder)
                            removed += 1
                            continue
                    removed += self._remove_if_expired(
                        f"{place}/{name}", name, may_purge, is_cleared=is_cleared
                    )
                except FileNotFoundError:
                    continue
        return removed

    def _remove_if_expired(
        self,
        path: str,
        session_id: str,
        may_purge: Callable[[Record], bool],
        *,
        is_cleared: bool,
    ) -> bool:
        try:
            # The user is after the head.
            record = (read_owner if self._index else read_head)(path, session_id)
        except UnreadablePayload:
            # Nobody can load it. Only the modification time says when it expires.
            record = Record(id=session_id)
        owner = owner_of(record) if self._index else None
        if not may_purge(record):
            set_hint(path, record.expires, kind_of(record) if self._index else Kind.UNKNOWN)
            if self._index and owner is not None and is_cleared:
                # It was created since the look, and its entry may have been removed.
                self._index.add(owner, session_id)
            return False
        insist(os.unlink, path)
        if self._index and owner is not None:
            self._index.discard(owner, session_id)
        return True


def _is_sure(found: os.stat_result) -> bool:
    """Return whether the times of a file are those of a hint that says what its record is."""
    return found.st_mtime_ns % 1_000_000 in _KNOWN and has_set_times(found)
