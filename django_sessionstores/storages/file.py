"""Records in files: one per session, in folders that only their owner can enter.

Layout::

    <folder>/3f/            one of 256 shards, by the first two characters of the id
    <folder>/3f/3f9c...     a packed record, named by the session id, never by the key
    <folder>/3f/.lock       empty: who changes the shard holds its lock
    <folder>/3f/.new        the record that is being written, until it takes its place
    <folder>/users/         which sessions are whose, see `file_index`
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

import msgspec
from django.utils.translation import gettext_noop

from ..exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from ..records import (
    HEAD_SIZE,
    START_SIZE,
    TIMES_OFFSET,
    Record,
    State,
    bare,
    pack,
    pack_times,
    unpack,
    unpack_head,
    unpack_start,
)
from ..words import Phrase
from .base import Conflict, Gone, Outcome, Page, Storage, Taken, Updated, after, page_of
from .disk import POLL_SECONDS, insist, names_in
from .file_index import Entry, UserIndex

LOCK_SECONDS: Final = 5.0
"""How long a writer waits for others in the shard. Each is in there for less than a millisecond:
who waits this long waits for a process that hangs or is stopped."""

_SHARDS: Final = tuple(f"{number:02x}" for number in range(256))
_LOCK: Final = ".lock"
_NEW: Final = ".new"
_ID_LENGTH: Final = 40

# One call reads nearly every session. A buffer of this size costs no more than a small one.
_READ_SIZE: Final = 65_536

# Windows does not; there the lock files of empty shards stay.
_REMOVES_OPEN_FILES: Final = os.name == "posix"

_NO_SPACE: Final = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

_BINARY: Final = getattr(os, "O_BINARY", 0)  # Windows would translate line ends.
_READ: Final = os.O_RDONLY | _BINARY
_CHANGE: Final = os.O_RDWR | _BINARY
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY
# Writable, because NFS asks for that before it grants an exclusive lock. For the same reason it
# is a file that is locked, not the folder.
_OPEN_LOCK: Final = os.O_RDWR | os.O_CREAT

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> None:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error

    def _unlock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(fd: int) -> None:
        # Not left to close(): if another thread has forked meanwhile, the child has the file
        # open as well, and would keep the lock for as long as it lives.
        fcntl.flock(fd, fcntl.LOCK_UN)


class FileStorage(Storage):
    """Records in files under ``folder``. The first write makes it; its parent must be there.

    A record is replaced by a rename. So readers need no lock and see the old record or the new
    one, and a process that is killed tears nothing. Writers hold the lock of the shard from the
    comparison of versions to the rename. So only one new record exists in a shard at any time,
    its name can be fixed, and what a killed process leaves, the next writer overwrites.

    Times and tombstones are written over the head of the record that is there: it fits in one
    cache line, so a reader sees the old or the new one. What follows the head of a tombstone is
    the sealed payload of before, which no one is given, and which goes with the next `purge`.
    Replacing the file instead makes ext4 allocate its blocks at once, which is most of what a
    save costs there; cutting it off would show a reader half of the old record.

    A file's modification time is the moment its record expires: `purge` finds its candidates
    without opening the others. It is a hint, lost by a careless copy; the record itself decides.

    `purge` removes the lock file and the folder of a shard in which no session is left, while it
    holds the lock. Who waited for a lock file that is no longer there opens the next one. (On
    Windows both stay, as an open file cannot be removed there.)

    The index of users has an entry of each live record that has a user: made under the lock of the
    record's shard before the record takes its place, removed after the record has gone. So a
    process that is killed leaves an entry too many, never one too few. What it leaves is skipped
    by lists and removed by `purge`. A save by the same user does not go near the index.

    No ``fsync``. What a killed process has written is the kernel's, and safe. When power fails,
    the saves of the last seconds may be lost, as with Django's engine; to prevent that would add
    milliseconds to every save.
    """

    lists = True

    _has_index = True
    """Whether it is written which sessions are whose."""

    def __init__(
        self, folder: str | os.PathLike[str], *, setting: str = "SESSION_FILE_PATH"
    ) -> None:
        self._folder = os.path.abspath(folder)
        self._setting = setting  # What an error message tells to look at.
        self._is_trusted = False
        self._index = UserIndex(self._folder)
        # What is left of the round through all shards that the last purge() stopped in: to begin
        # each batch from the start would look at every file once per batch.
        self._round: Iterator[Callable[[int], bool]] | None = None
        self._purging = threading.Lock()

    def describe(self) -> str:
        return Phrase(gettext_noop("files in %(folder)s"), folder=str(self._folder))

    def read(self, session_id: str) -> Record | None:
        try:
            fd = insist(os.open, self._path(session_id), _READ)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            data = _read_rest(fd)
        except OSError as error:
            raise self._unavailable(error) from error
        finally:
            os.close(fd)
        return self._unpack(session_id, data)

    def create(self, record: Record, now: int) -> Updated | Taken:
        with self._locked(record.id, make_folders=True):
            try:
                os.lstat(self._path(record.id))
            except FileNotFoundError:
                with self._entered(record):
                    self._write(self._entry(record))
                return Updated(record)
        return Taken()

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        with contextlib.suppress(FileNotFoundError), self._locked(base.id):
            path = self._path(base.id)
            with _opened(path) as fd:
                start = os.read(fd, HEAD_SIZE)
                head = unpack_head(base.id, start)
                if head.expires <= now:
                    return Gone()
                # The state as well: who read a head while it was being overwritten by that of a
                # tombstone may have seen some of both.
                if head.version != base.version or head.state is not base.state:
                    return Conflict(self._unpack(base.id, start + _read_rest(fd)))
                if record.state is not State.LIVE:
                    _overwrite(fd, 0, pack(record)[:HEAD_SIZE])
            with self._entered(record, base):
                if record.state is State.LIVE:
                    self._write(self._entry(record))
                else:
                    _hint_expiry(path, record.expires)
            return Updated(record)
        return Gone()

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        with (
            contextlib.suppress(FileNotFoundError, UnreadablePayload),
            self._locked(base.id),
        ):
            path = self._path(base.id)
            with _opened(path) as fd:
                head = unpack_head(base.id, os.read(fd, HEAD_SIZE))
                if head.version != base.version or head.expires <= now:
                    return False
                expires = max(expires, head.expires)
                last_activity = max(last_activity, head.last_activity)
                _overwrite(fd, TIMES_OFFSET, pack_times(last_activity, expires))
            _hint_expiry(path, expires)
            return True
        return False

    def delete(self, session_id: str) -> bool:
        # Locked, or a writer that has just compared versions would put the record back.
        with contextlib.suppress(FileNotFoundError), self._locked(session_id):
            try:
                record = self._read_start(session_id)
            except UnreadablePayload:
                record = None  # Whose it was, `purge` finds out.
            insist(os.unlink, self._path(session_id))
            # Also of a tombstone, in case that who wrote it was killed before doing so.
            if self._has_index and record and record.user_id is not None:
                self._index.discard(record.user_id, session_id)
            return record is not None and record.state is State.LIVE
        return False

    def purge(self, now: int, batch: int) -> int:
        removed = 0
        with self._purging:
            while True:
                begins_here = self._round is None
                self._round = self._round or self._candidates()
                try:
                    for remove in self._round:
                        removed += remove(now)
                        if removed >= batch:
                            return removed
                except OSError as error:
                    raise self._unavailable(error) from error
                finally:
                    if removed < batch:
                        self._round = None
                # Nothing is left only when a whole round has found nothing.
                if removed or begins_here:
                    return removed

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        """See `Storage.scan`. Reads the start of each file of the page, or of the user."""
        return page_of(self._records(after(cursor), user_id), limit)

    def count(self, now: int, user_id: str | None) -> int:
        """See `Storage.count`. Reads the head of each file, or of each of the user."""
        records = self._heads() if user_id is None else self._records("", user_id)
        return sum(record.is_live(now) for record in records)

    def reindex(self) -> int | None:
        """See `Storage.reindex`. Reads the start of each file, and those of users once more."""
        if not self._has_index:
            return None
        with self._reachable():
            indexed = self._complete_index()
            for entry in self._index.entries():
                self._remove_if_stale(entry)
            return indexed

    def index_is_complete(self) -> bool | None:
        if not self._has_index:
            return None
        try:
            return self._index.is_complete()
        except OSError as error:
            raise self._unavailable(error) from error

    def _complete_index(self) -> int:
        """Enter all sessions of users; how many sessions there are."""
        try:
            self._refuse_folder_of_others()
        except FileNotFoundError:
            return 0
        found = 0
        for record in self._records("", None):
            if record.state is State.LIVE:
                found += 1
                # Not under the lock. If the session ends meanwhile, this is an entry too many.
                if record.user_id is not None:
                    self._index.add(record.user_id, record.id)
        self._index.set_complete()
        return found

    def _records(self, last: str, user_id: str | None) -> Iterator[Record]:
        """The readable records after an id, by id, without payloads."""
        with self._reachable():
            if user_id is None:
                yield from self._readable(self._look, self._ids(last))
            elif self._is_indexed():
                yield from self._records_of(user_id, last)
            else:
                for record in self._records(last, None):
                    if record.user_id == user_id:
                        yield record

    def _heads(self) -> Iterator[Record]:
        """The readable records by id, as far as `Record.is_live` needs them."""
        with self._reachable():
            yield from self._readable(self._look_at_head, self._ids(""))

    def _records_of(self, user_id: str, last: str) -> Iterator[Record]:
        for entry in self._index.of_user(user_id, last):
            for record in self._readable(self._look, [entry.session_id]):
                if record.user_id == user_id:
                    yield record
                else:
                    # A list must do without: the disk may be read-only.
                    with contextlib.suppress(StorageUnavailable):
                        self._remove_if_stale(entry)

    def _is_indexed(self) -> bool:
        """Whether the index is complete, made so if that can be done.

        It is not in a folder of a version without an index, or of a backup without it.
        """
        if self._has_index and not self._index.is_complete():
            with contextlib.suppress(OSError, StorageUnavailable):
                self._complete_index()
        return self._has_index and self._index.is_complete()

    def _ids(self, last: str) -> Iterator[str]:
        """The ids of the files after an id, in order."""
        for shard in _SHARDS:
            if shard >= last[:2]:
                yield from filter(_is_id, names_in(f"{self._folder}/{shard}", after=last))

    def _readable(
        self, look: Callable[[str], Record | None], session_ids: Iterable[str]
    ) -> Iterator[Record]:
        for session_id in session_ids:
            try:
                record = look(session_id)
            except (FileNotFoundError, UnreadablePayload):
                continue
            if record is not None:
                yield record

    def _candidates(self) -> Iterator[Callable[[int], bool]]:
        """For each file and each shard in turn: what removes it if it should go, and says whether
        it was a session that did."""
        # First, because to look at an entry may make a shard, which goes below if it is empty. What
        # has expired loses its entry in the next round: whose it was would have to be read.
        for of_user in self._index.entries():
            yield partial(self._remove_if_alone, of_user)
        for shard in _SHARDS:
            try:
                entries = os.scandir(f"{self._folder}/{shard}")
            except FileNotFoundError:
                continue
            in_use = False
            with entries:
                for entry in entries:
                    if entry.name == _NEW:
                        yield partial(self._remove_left_over, shard, entry.path)
                    elif _is_id(entry.name):
                        yield partial(self._remove_if_expired, entry)
                        in_use = in_use or os.path.lexists(entry.path)
            if _REMOVES_OPEN_FILES and not in_use:
                yield partial(self._remove_if_empty, shard)

    def _remove_left_over(self, shard: str, path: str, now: int) -> bool:
        # Once the lock is ours, it is nobody's.
        with contextlib.suppress(FileNotFoundError), self._locked(shard):
            os.unlink(path)
        return False

    def _remove_if_empty(self, shard: str, now: int) -> bool:
        folder = self._shard(shard)
        with contextlib.suppress(FileNotFoundError), self._locked(shard):
            if not any(map(_is_id, os.listdir(folder))):
                os.unlink(f"{folder}/{_LOCK}")
                # From here on our lock keeps nobody out. Who comes now makes the next lock file,
                # which is in the way of rmdir(), or finds no folder.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        return False

    def _remove_if_alone(self, entry: Entry, now: int) -> bool:
        if not os.path.lexists(self._path(entry.session_id)):
            self._remove_if_stale(entry)
        return False

    def _remove_if_stale(self, entry: Entry) -> None:
        """Remove an entry unless there is a record of its user, or one that cannot be read."""
        # Also where there is no shard yet: who makes it may have made the entry.
        with self._locked(entry.session_id, make_folders=True):
            try:
                user_id = self._owner(self._read_start(entry.session_id))
            except FileNotFoundError:
                user_id = None
            except UnreadablePayload:
                return
            if not entry.is_of(user_id):
                self._index.remove(entry)

    def _remove_if_expired(self, entry: os.DirEntry[str], now: int) -> bool:
        return _seems_expired(entry, now) and self._remove_expired(entry.name, now)

    def _remove_expired(self, session_id: str, now: int) -> bool:
        """Remove a record if it is still expired under the lock; whether it was."""
        with contextlib.suppress(FileNotFoundError), self._locked(session_id):
            path = self._path(session_id)
            try:
                expires = self._read_head(session_id).expires
            except UnreadablePayload:
                # Nobody can load it. The modification time is all there is to go by.
                expires = 0
            if expires <= now:
                insist(os.unlink, path)
                return True
            _hint_expiry(path, expires)
        return False

    def _shard(self, session_id: str) -> str:
        return f"{self._folder}/{session_id[:2]}"

    def _path(self, session_id: str) -> str:
        # Digests come here. Should anything else, it must not name a file outside the folder.
        if not session_id.isalnum():
            raise ValueError("not a session id")
        return f"{self._folder}/{session_id[:2]}/{session_id}"

    @contextlib.contextmanager
    def _locked(self, session_id: str, *, make_folders: bool = False) -> Iterator[None]:
        """Be the only one, of all threads and processes, to change the shard of this id.

        Raises ``FileNotFoundError`` if there is no such shard, unless it is to be made. Any
        other ``OSError``, also of the body, becomes `StorageUnavailable`.
        """
        shard = self._shard(session_id)
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            while True:
                fd = self._open_lock(shard, make_folders, deadline)
                try:
                    self._wait_for_lock(fd, deadline)
                    try:
                        if _is_at(fd, f"{shard}/{_LOCK}"):
                            yield
                            return
                    finally:
                        _unlock(fd)
                finally:
                    os.close(fd)
                # A purge has removed it. Others may have locked its successor already.
                self._mind(deadline)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not make_folders:
                raise
            raise self._unavailable(error) from error

    def _open_lock(self, shard: str, make_folders: bool, deadline: float) -> int:
        if make_folders and not self._is_trusted:
            self._make_folder()
        while True:
            try:
                return os.open(f"{shard}/{_LOCK}", _OPEN_LOCK, 0o600)
            except FileNotFoundError:
                if not make_folders:
                    raise
            # More than once if a purge removes the shard while it is still empty.
            self._mind(deadline)
            self._make_folder()
            with contextlib.suppress(FileExistsError):
                os.mkdir(shard, 0o700)

    def _make_folder(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)
            if self._has_index:
                self._index.set_complete()  # Of no sessions.
        self._refuse_folder_of_others()

    def _refuse_folder_of_others(self) -> None:
        """Raises ``FileNotFoundError`` if there is no folder."""
        # In a temp folder that all users share, another user may have been there first.
        if os.stat(os.path.dirname(self._folder)).st_mode & stat.S_ISVTX:
            found = os.lstat(self._folder)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise StorageUnavailable(
                    f"{self._folder} is not a folder of this process's user. Name another place "
                    f"in {self._setting}, or remove it."
                )
        self._is_trusted = True

    def _wait_for_lock(self, fd: int, deadline: float) -> None:
        while True:
            try:
                return _try_lock(fd)
            except BlockingIOError:
                self._mind(deadline)
            time.sleep(POLL_SECONDS)

    def _mind(self, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise StorageUnavailable(
                f"Another process has kept a lock in {self._folder} for {LOCK_SECONDS:g} "
                "seconds. Does one hang, or is it stopped?"
            )

    def _entry(self, record: Record) -> Record:
        """What is kept of a live record; `_unpack` makes it the record again."""
        return record

    def _unpack(self, session_id: str, data: bytes) -> Record:
        record = unpack(session_id, data)
        if record.state is State.LIVE:
            return record
        # Only the head was written, over that of the session, which had the same user.
        return msgspec.structs.replace(unpack_head(session_id, data), user_id=record.user_id)

    def _read_head(self, session_id: str) -> Record:
        with _opened(self._path(session_id), _READ) as fd:
            return unpack_head(session_id, os.read(fd, HEAD_SIZE))

    def _read_start(self, session_id: str) -> Record:
        """The record without payload, and without its size."""
        with _opened(self._path(session_id), _READ) as fd:
            start = os.read(fd, START_SIZE)
            return unpack_start(session_id, start) or unpack(session_id, start + _read_rest(fd))

    def _look(self, session_id: str) -> Record | None:
        """The record as lists show it. Raises ``FileNotFoundError`` if there is none."""
        with _opened(self._path(session_id), _READ) as fd:
            start, length = os.read(fd, START_SIZE), os.fstat(fd).st_size
            record = unpack_start(session_id, start, length)
            return record or bare(unpack(session_id, start + _read_rest(fd)))

    def _look_at_head(self, session_id: str) -> Record | None:
        """The record as far as it has to be known to count it."""
        return self._read_head(session_id)

    def _owner(self, record: Record | None) -> str | None:
        """The user whose entry the record has."""
        if record is None or record.state is not State.LIVE or not self._has_index:
            return None
        return record.user_id

    @contextlib.contextmanager
    def _entered(self, record: Record, base: Record | None = None) -> Iterator[None]:
        """Have the index right while ``record`` takes the place of ``base``, if that fails, too.

        Only under the lock.
        """
        former, owner = self._owner(base), self._owner(record)
        if owner is not None and owner != former:
            self._index.add(owner, record.id)
        # Should it fail, the entry stays for `purge`: on a network a failure may be a success.
        yield
        if former is not None and former != owner:
            self._index.discard(former, record.id)

    def _write(self, record: Record) -> None:
        """Put a record in place of the one that is there. Only under the lock."""
        new = f"{self._shard(record.id)}/{_NEW}"
        try:
            fd = os.open(new, _WRITE, 0o600)
            try:
                _write_all(fd, pack(record))
            finally:
                # May be the first to say that the disk is full, on NFS and with quotas.
                os.close(fd)
            _hint_expiry(new, record.expires)
            insist(os.replace, new, self._path(record.id))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise self._unavailable(error) from error

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> StorageUnavailable:
        kind = StorageFull if error.errno in _NO_SPACE else StorageUnavailable
        return kind(
            f"The sessions in {self._folder} (see {self._setting}) are out of reach: {error}"
        )


@contextlib.contextmanager
def _opened(path: str, flags: int = _CHANGE) -> Iterator[int]:
    fd = insist(os.open, path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    """Whether an open file is still the one that others find there."""
    # Not by its number of links: network file systems keep a removed file that is open under
    # another name, so that it still has one.
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _overwrite(fd: int, offset: int, data: bytes) -> None:
    os.lseek(fd, offset, os.SEEK_SET)
    _write_all(fd, data)


def _read_rest(fd: int) -> bytes:
    data = os.read(fd, _READ_SIZE)
    # Only the end of a file makes a read short.
    if len(data) < _READ_SIZE:
        return data
    chunks = [data]
    while chunk := os.read(fd, _READ_SIZE):
        chunks.append(chunk)
    return b"".join(chunks)


def _write_all(fd: int, data: bytes) -> None:
    # A disk that is nearly full takes a part first, and refuses the rest.
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _hint_expiry(path: str, expires: int) -> None:
    # Some network file systems set no times. Then purge() opens more files, and that is all.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(expires * 1_000_000, expires * 1_000_000))


def _is_id(name: str) -> bool:
    return len(name) == _ID_LENGTH and name.isalnum()


def _seems_expired(entry: os.DirEntry[str], now: int) -> bool:
    try:
        return entry.stat(follow_symlinks=False).st_mtime_ns <= now * 1_000_000
    except FileNotFoundError:
        return False
