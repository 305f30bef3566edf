"""The storage of records in files: one per session, in folders that only their owner can enter."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import ClassVar, NamedTuple, TypeVar

from django.utils.translation import gettext_noop

from ...core import clock
from ...core.phrases import Phrase
from ...core.records import HEAD_SIZE, TIMES_OFFSET, Record, State, pack, pack_times, unpack_head
from ...core.summary import Numbers
from ...exceptions import StorageUnavailable, UnreadablePayload
from ..base import Conflict, Gone, Outcome, Page, Storage, Taken, Updated, id_of_cursor, page_of
from ..outcomes import LockTaken, is_removal
from .census import Census
from .disk import READ, insist, open_file, overwrite, read_rest
from .folder import NEW, Folder
from .index import UserIndex
from .index_upkeep import IndexUpkeep
from .locks import ShardLocks
from .purge import Purge
from .record_file import (
    FRONT_SIZE,
    Kind,
    front,
    hint_at,
    kind_of,
    read_head,
    read_list_entry,
    read_owner,
    replace,
    set_hint,
    unpack_file,
)

T = TypeVar("T")


class Place(NamedTuple):
    """A folder of records, with all that belongs to it."""

    folder: Folder
    users: UserIndex
    locks: ShardLocks
    upkeep: IndexUpkeep
    purge: Purge
    census: Census


class FileStorage(Storage):
    """Records in files under ``folder``, see `Folder`, also for ``setting`` and ``is_temporary``.

    A record is replaced by a rename. So readers need no lock and see either the old record or the
    new one, and a process that is killed leaves no torn record. Writers hold the lock of the shard
    from the comparison of versions to the rename. So only one new record exists in a shard at any
    time, its name can be fixed, and the next writer overwrites what a killed process leaves.

    Sites may share the folder and its index: each lists, ends and purges the records with its mark.

    The index of users has an entry of each live record that has a user: made under the lock of the
    record's shard before the record is stored, removed after the record has gone, or by a purge
    after it has expired. So a process that is killed leaves an entry too many, never one too few.
    Lists skip such an entry and `purge` removes it. A save by the same user does not access the
    index.

    There is no ``fsync``. What a killed process has written is in the hands of the kernel, and
    safe. When power fails, the saves of the last seconds may be lost, as with Django's file
    backend; to prevent that would add milliseconds to every save.
    """

    lists = True
    indexes_users = True

    _folder_class: ClassVar[type[Folder]] = Folder

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        setting: str = "SESSION_FILE_PATH",
        is_temporary: bool = False,
    ) -> None:
        self._setting = setting
        self.temporary = is_temporary
        self._opened = self._open(folder)

    def _open(self, path: str | os.PathLike[str]) -> Place:
        path = os.path.abspath(path)
        index = UserIndex(path)
        folder = self._folder_class(
            path,
            setting=self._setting,
            may_vanish=self._may_vanish,
            index=index if self.indexes_users else None,
        )
        locks = ShardLocks(folder)
        upkeep = IndexUpkeep(index, folder, locks, self._all_records)
        census = Census(folder, index, self.sites)
        purge = Purge(
            folder,
            locks,
            index if self.indexes_users else None,
            upkeep,
            self.purge_rule,
            census.is_possible if self.indexes_users else bool,
        )
        return Place(folder, users=index, locks=locks, upkeep=upkeep, purge=purge, census=census)

    def _may_vanish(self) -> bool:
        """Return whether the folder may be removed while the site runs, with all that is in it."""
        return self.temporary

    def _place(self) -> Place:
        """Return the folder to use, which may depend on the request."""
        return self._opened

    @property
    def _folder(self) -> Folder:
        return self._place().folder

    @property
    def _index(self) -> UserIndex:
        return self._place().users

    @property
    def _locks(self) -> ShardLocks:
        return self._place().locks

    @property
    def _upkeep(self) -> IndexUpkeep:
        return self._place().upkeep

    @property
    def _purge(self) -> Purge:
        return self._place().purge

    def describe(self) -> str:
        return Phrase(gettext_noop("files in %(folder)s"), folder=self._folder.path)

    def folder(self) -> tuple[str, str]:
        return self._folder.path, self._setting

    def write_obstacle(self) -> str:
        return self._folder.write_obstacle()

    def nodes(self) -> dict[str, str]:
        # As another user, such as root, the doctor would make files that the site cannot write.
        return super().nodes() if self._folder.is_own() else {}

    def read(self, session_id: str) -> Record | None:
        try:
            fd = insist(os.open, self._folder.path_of(session_id), READ)
        except FileNotFoundError:
            self._folder.require()
            return None
        except OSError as error:
            raise self._folder.outage_of(error) from error
        try:
            data = read_rest(fd)
        except OSError as error:
            raise self._folder.outage_of(error) from error
        finally:
            os.close(fd)
        if self._folder.log.is_open:
            self._folder.log.succeeded()
        if not self._folder.was_there:
            self._folder.require()
        return self._unpack(session_id, data)

    def create(self, record: Record, now: int) -> Updated | Taken:
        with self._locks.hold(record.id, make_folders=True):
            try:
                os.lstat(self._folder.path_of(record.id))
            except FileNotFoundError:
                with self._follow_in_index(record):
                    self._write(self._entry(record))
                return Updated(record)
        return Taken()

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        with contextlib.suppress(FileNotFoundError), self._locks.hold(base.id):
            path = self._folder.path_of(base.id)
            with open_file(path) as fd:
                start = os.read(fd, FRONT_SIZE)
                head = unpack_head(base.id, start)
                if head.expires <= now:
                    return Gone()
                # The state as well: a reader that reads a head while it is being overwritten by
                # that of a tombstone may see some of both.
                if head.version != base.version or head.state is not base.state:
                    return Conflict(self._unpack(base.id, start + read_rest(fd)))
                if record.state is not State.LIVE and not is_removal(record):
                    overwrite(fd, 0, front(record, pack(record)))
            with self._follow_in_index(record, base):
                if is_removal(record):
                    insist(os.unlink, path)
                elif record.state is State.LIVE:
                    self._write(self._entry(record))
                else:
                    set_hint(path, record.expires, self._kind_of(record))
            return Updated(record)
        return Gone()

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        with (
            contextlib.suppress(FileNotFoundError, UnreadablePayload, LockTaken),
            self._locks.hold(base.id, waits=False),
        ):
            path = self._folder.path_of(base.id)
            with open_file(path) as fd:
                head = unpack_head(base.id, os.read(fd, HEAD_SIZE))
                if head.version != base.version or head.expires <= now:
                    return False
                expires = max(expires, head.expires)
                last_activity = max(last_activity, head.last_activity)
                overwrite(fd, TIMES_OFFSET, pack_times(last_activity, expires))
            set_hint(path, expires, self._kind_of(base))
            return True
        return False

    def delete(self, session_id: str) -> bool:
        # Locked, or a writer that has just compared versions would put the record back.
        with contextlib.suppress(FileNotFoundError), self._locks.hold(session_id):
            return self._remove(session_id)
        return False

    def end_many(self, session_ids: Sequence[str]) -> Collection[str]:
        """See `Storage.end_many`. Locks each shard once."""
        ended: list[str] = []
        try:
            for _, of_shard in groupby(sorted(session_ids), self._folder.shard_of):
                first, *rest = of_shard
                with contextlib.suppress(FileNotFoundError), self._locks.hold(first):
                    for each in (first, *rest):
                        with contextlib.suppress(FileNotFoundError):
                            if self._remove(each):
                                ended.append(each)
        except StorageUnavailable:
            if not ended:
                raise
        return ended

    def purge(self, now: int, batch: int) -> int:
        return self._purge.remove(now, batch)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `Storage.scan`. Reads the start of each file of the page, or of the user."""
        records = self._records(id_of_cursor(cursor), user_id, live_at)
        return page_of(self.own(records), limit)

    def count(self, now: int, user_id: str | None) -> int:
        """See `Storage.count`. Opens hardly any file, or reads the head of each."""
        if user_id is None:
            number = self._ask_census(lambda census: census.count(now))
            if number is not None:
                return number
        records = self._heads(now) if user_id is None else self._records("", user_id, now)
        return sum(record.is_live(now) for record in self.own(records))

    def numbers(self, now: int, most: int) -> Numbers | None:
        return self._ask_census(lambda census: census.numbers(now, most))

    def _ask_census(self, ask: Callable[[Census], T | None]) -> T | None:
        """Return what the census says; ``None`` if it would have to open each file."""
        self._folder.require()
        answer = None
        with self._folder.translate_errors():
            census = self._place().census
            if self.indexes_users and census.is_possible():
                answer = ask(census)
        # What is not there any more has no names, as if all were counted.
        self._folder.require()
        return answer

    def reindex(self) -> int | None:
        """See `Storage.reindex`. Reads the start of each file, and those of users once more."""
        return self._upkeep.rebuild(self.is_own) if self.indexes_users else None

    def index_is_complete(self) -> bool | None:
        if not self.indexes_users:
            return None
        self._folder.require()
        with self._folder.translate_errors():
            return self._index.is_complete()

    # --- Listing ---------------------------------------------------------------------------

    def _all_records(self) -> Iterator[Record]:
        return self._records("", None)

    def _records(self, last: str, user_id: str | None, live_at: int = 0) -> Iterator[Record]:
        """Yield the readable records after an id, in order of their ids, without payloads.

        Those that expired long before ``live_at`` may be left out.
        """
        self._folder.require()
        with self._folder.translate_errors():
            if user_id is None:
                yield from self._look_at_all(self._folder.ids(last), live_at)
            elif self.indexes_users and self._upkeep.ensure_complete():
                yield from self._records_of(user_id, last, live_at)
            else:
                for record in self._records(last, None, live_at):
                    if record.user_id == user_id:
                        yield record
        # What is not there any more has no names, as if the list were at its end.
        self._folder.require()

    def _records_of(self, user_id: str, last: str, live_at: int) -> Iterator[Record]:
        for entry in self._index.entries_of_user(user_id, last):
            for record in self._look_at_all([entry.session_id], live_at):
                if record.user_id == user_id:
                    yield record
                else:
                    # A list must work without this: the disk may be read-only.
                    with contextlib.suppress(StorageUnavailable):
                        self._upkeep.remove_if_stale(entry)

    def _heads(self, live_at: int) -> Iterator[Record]:
        """Yield the readable records by id, as far as `Record.is_live` needs them."""
        self._folder.require()
        with self._folder.translate_errors():
            yield from self._look_at_all(self._folder.ids(""), live_at, heads_only=True)
        self._folder.require()

    def _look_at_all(
        self, ids: Iterable[str], live_at: int, *, heads_only: bool = False
    ) -> Iterator[Record]:
        look = self._look_at_head if heads_only else self._look
        for session_id in ids:
            try:
                if live_at:
                    hint = hint_at(self._folder.path_of(session_id))
                    if hint is not None and hint.has_expired(live_at):
                        continue
                record = look(session_id)
            except (FileNotFoundError, UnreadablePayload):
                continue
            if record is not None:
                yield record

    def _look(self, session_id: str) -> Record | None:
        """Return the record as lists show it. Raises ``FileNotFoundError`` if there is none."""
        return read_list_entry(self._folder.path_of(session_id), session_id)

    def _look_at_head(self, session_id: str) -> Record | None:
        """Return the record as far as it has to be known to count it."""
        return read_head(self._folder.path_of(session_id), session_id)

    def _remove(self, session_id: str) -> bool:
        """Remove the file of a session, see `delete`. Only under the lock."""
        path = self._folder.path_of(session_id)
        try:
            record = read_owner(path, session_id)
        except UnreadablePayload:
            record = None  # A purge finds the entry of its user.
        is_live = record is not None and record.state is State.LIVE
        if record is not None and is_live and not self.is_own(record):
            return False
        if record is None or is_live:
            insist(os.unlink, path)
        # Also of a tombstone, in case its writer was killed before doing so.
        if self.indexes_users and record and record.user_id is not None:
            self._index.discard(record.user_id, session_id)
        return record is not None and record.is_live(clock.now())

    # --- Files -----------------------------------------------------------------------------

    def _entry(self, record: Record) -> Record:
        """Return what is stored of a live record; `_unpack` makes it the record again."""
        return record

    def _unpack(self, session_id: str, data: bytes) -> Record:
        """Return the record in the bytes of a file."""
        return unpack_file(session_id, data)

    def _write(self, record: Record) -> None:
        """Store a record in place of the one that is there. Only under the lock."""
        path, new = self._folder.path_of(record.id), f"{self._folder.shard_of(record.id)}/{NEW}"
        with self._folder.translate_errors():
            replace(path, new, record, self._kind_of(record))

    def _kind_of(self, record: Record) -> Kind:
        # Of what is not this site's, the file must be opened.
        return kind_of(record) if self.marked_by is None else Kind.UNKNOWN

    def _follow_in_index(
        self, record: Record, base: Record | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """See `IndexUpkeep.follow`."""
        if not self.indexes_users:
            return contextlib.nullcontext()
        # What is tried with a mark of its own is not of a site, and does not stay.
        if self.marked_by is None:
            self._index.note_site(record.site)
        return self._upkeep.follow(record, base)
