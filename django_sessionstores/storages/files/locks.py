"""The locks of the shards: only one thread of one process changes a shard at any time."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Final

from ...exceptions import StorageUnavailable
from ..outcomes import LockTaken
from .disk import POLL_SECONDS
from .folder import LOCK, WRITE, Folder

LOCK_SECONDS: Final = 5.0
"""How long a writer waits for others in the shard. Each of them needs some milliseconds at most: a
writer that waits this long waits for a process that hangs or is stopped."""

# Writable, because NFS asks for that before it grants an exclusive lock. For the same reason it
# is a file that is locked, not the folder.
_OPEN: Final = os.O_RDWR | os.O_CREAT

if sys.platform == "win32":
    import msvcrt

    def try_lock(fd: int) -> None:
        """Lock an open file. Raises ``BlockingIOError`` if another process has locked it."""
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError from error

    def unlock(fd: int) -> None:
        """Release the lock of an open file."""
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def try_lock(fd: int) -> None:
        """Lock an open file. Raises ``BlockingIOError`` if another descriptor has locked it."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(fd: int) -> None:
        """Release the lock of an open file."""
        # Not left to close(): if another thread has forked meanwhile, the child has the file
        # open as well, and would keep the lock for as long as it lives.
        fcntl.flock(fd, fcntl.LOCK_UN)


class ShardLocks:
    """The locks of the shards of a folder.

    A purge removes the lock file of a shard without sessions, while it holds the lock. A writer
    that waited for a lock file that is no longer there opens the next one.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def hold(
        self, session_id: str, *, make_folders: bool = False, waits: bool = True
    ) -> Iterator[None]:
        """Keep all other threads and processes from changing the shard of this id.

        Waits for them, or raises `LockTaken` instead. Raises ``FileNotFoundError`` if there is no
        such shard, unless ``make_folders`` says to make it. Any other ``OSError``, also of the
        body, becomes `StorageUnavailable`.
        """
        shard = self._folder.shard_of(session_id)
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            is_late = False
            while True:
                fd = self._open(shard, make_folders, deadline)
                try:
                    self._wait(fd, deadline if waits else None)
                    try:
                        if _is_at(fd, f"{shard}/{LOCK}"):
                            yield
                            if self._folder.log.is_open:
                                self._folder.log.succeeded(WRITE)
                            return
                    finally:
                        unlock(fd)
                finally:
                    os.close(fd)
                # A purge has removed it. Others may have locked its successor already.
                is_late = self._is_late(deadline, was_late=is_late)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not make_folders:
                self._folder.require()
                raise
            raise self._folder.outage_of(error) from error

    def _open(self, shard: str, make_folders: bool, deadline: float) -> int:
        if make_folders and not self._folder.is_trusted:
            self._folder.make()
        is_late = False
        while True:
            try:
                return os.open(f"{shard}/{LOCK}", _OPEN, 0o600)
            except FileNotFoundError:
                if not make_folders:
                    raise
            # More than once if a purge removes the shard while it is still empty.
            is_late = self._is_late(deadline, was_late=is_late)
            self._folder.make()
            with contextlib.suppress(FileExistsError):
                os.mkdir(shard, 0o700)

    def _wait(self, fd: int, deadline: float | None) -> None:
        is_late = False
        while True:
            try:
                return try_lock(fd)
            except BlockingIOError:
                if deadline is None:
                    raise LockTaken from None
                is_late = self._is_late(deadline, was_late=is_late)
            time.sleep(POLL_SECONDS)

    def _is_late(self, deadline: float, *, was_late: bool) -> bool:
        """Return whether the deadline has passed; raise `StorageUnavailable` the second time.

        A process that was itself stopped for seconds, by its host or a full CPU, has not waited
        for others: it tries once more.
        """
        if was_late:
            raise StorageUnavailable(
                f"Another process has kept a lock in {self._folder.path} for {LOCK_SECONDS:g} "
                "seconds. Check whether a process hangs or is stopped."
            )
        return time.monotonic() >= deadline


def _is_at(fd: int, path: str) -> bool:
    """Return whether an open file is still the one that others find at this path."""
    # Not by its number of links: network file systems keep a removed file that is open under
    # another name, so that it still has one.
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
