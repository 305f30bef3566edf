"""The folder of all records: where each file is, and whether the folder can be used.

Layout::

    <folder>/3f/            one of 256 shards, by the first two characters of the id
    <folder>/3f/3f9c...     a record, named by the session id, never by the key, see `record_file`
    <folder>/3f/.lock       empty: whoever changes the shard holds its lock, see `locks`
    <folder>/3f/.new        the record that is being written, until it is renamed
    <folder>/users/         the sessions of each user, see `index`
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from ...core.records import is_session_id
from ...exceptions import StorageFull, StorageUnavailable
from ..outage_log import OutageLog, logger
from .disk import file_system_id, is_empty, is_read_only, mount_point_of, names_in
from .index import UserIndex

SHARDS: Final = tuple(f"{number:02x}" for number in range(256))
LOCK: Final = ".lock"
NEW: Final = ".new"

_NO_PERMISSION: Final = (errno.EACCES, errno.EPERM)
_REMOUNT: Final = "Mount its disk for writing."
_MAKE_ROOM: Final = (
    "Make room on it, or raise the quota. manage.py clearsessions removes the sessions that have "
    "expired."
)
_NO_SPACE: Final = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_NO_WRITES: Final = (*_NO_SPACE, errno.EROFS)
_SAMPLE: Final = 10
"""How many files of each folder are looked at to find one that cannot be written."""
WRITE: Final = "write"
"""The operation that a disk refuses which can be read, see `OutageLog.failed`."""


class Folder:
    """The folder at ``path``. The first write makes it; its parent must exist.

    If a folder was there and is missing, that is an outage, because a disk that is not mounted
    looks the same: sessions that cannot be found then have not ended, and a save must not begin a
    new folder below the mount point. Only ``may_vanish`` says that the folder may be removed with
    its sessions, as the system does with temporary files. Even then, the file system that it was
    on must be mounted. Another file system in its place must have the same folder, which the
    index tells from others. The folder is looked for only when a file is missing, so a session
    that is found costs nothing more.

    ``setting`` is the setting that error messages name. ``index`` is marked as complete if the
    folder is new.
    """

    def __init__(
        self,
        path: str,
        *,
        setting: str,
        may_vanish: Callable[[], bool],
        index: UserIndex | None,
    ) -> None:
        self.path = path
        self.is_trusted = False
        """Whether the folder is known to belong to this process's user."""
        self.log = OutageLog(lambda: f"the sessions in {path} (see {setting})")
        self._setting = setting
        self._may_vanish = may_vanish
        self._index = index
        # The file system that this process has seen the folder on.
        self._file_system: tuple[int, int] | None = None
        self._mount_point = ""
        self._completed_at: int | None = None
        """See `UserIndex.completed_at`. It tells one folder from another, and a copy has it too."""

    @property
    def was_there(self) -> bool:
        """Whether this process has seen the folder."""
        return self._file_system is not None

    def shard_of(self, session_id: str) -> str:
        """Return the path of the shard with the record of this id."""
        return f"{self.path}/{session_id[:2]}"

    def path_of(self, session_id: str) -> str:
        """Return the path of the record with this id."""
        # Ids are digests. Anything else must not name a file outside the folder.
        if not is_session_id(session_id):
            raise ValueError("not a session id")
        return f"{self.path}/{session_id[:2]}/{session_id}"

    def ids(self, last: str) -> Iterator[str]:
        """Yield the ids of the files that sort after an id, in order."""
        for shard in SHARDS:
            if shard >= last[:2]:
                yield from filter(is_session_id, names_in(f"{self.path}/{shard}", after=last))

    def make(self) -> None:
        """Make the folder if it is missing and may be. Raises `StorageUnavailable`."""
        self.require()
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, 0o700)
            self._report_new()
        self.refuse_other_owner()
        self.require()
        if self._index is not None:
            self._index.forget_sites()
            if is_empty(self.path):  # It may have been made by hand.
                self._index.set_complete()  # There are no sessions yet.
            self._completed_at = self._index.completed_at()

    def _report_new(self) -> None:
        """Log that there was no folder, which may be on a disk that is not mounted."""
        if not self._may_vanish():
            logger.warning(
                "The folder %s (see %s) was made for sessions, because it did not exist. If the "
                "site has had sessions, stop it and put the old folder in place of the new one.",
                self.path,
                self._setting,
            )

    def require(self) -> None:
        """Raise `StorageUnavailable` if the folder is missing and was there, or cannot be made.

        Before the first session there is no folder yet, which is not an outage. But if a write
        could not make it, nobody knows whether there are sessions: a permission may be wrong.
        """
        # Before the look: another thread may be about to make the first folder.
        was_there = self.was_there
        with self.translate_errors():
            found = None
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(self.path)
            if found is None:
                self._refuse_unmounted()
                self._refuse_absence(was_there)
            elif stat.S_ISDIR(found.st_mode):
                file_system = (found.st_dev, file_system_id(self.path))
                if file_system != self._file_system:
                    self._refuse_unmounted()
                    self._refuse_other_folder()
                    self._mount_point = mount_point_of(self.path)
                    self._file_system = file_system

    def _refuse_unmounted(self) -> None:
        """Raise `StorageUnavailable` if the file system that the folder was on is not mounted.

        What is in its place is not the folder. Another process, which has begun since, may have
        made that.
        """
        if self._mount_point and not os.path.ismount(self._mount_point):
            raise StorageUnavailable(
                f"The folder {self.path} (see {self._setting}) is missing, because nothing is "
                f"mounted at {self._mount_point}. Mount its disk."
            )

    def _refuse_other_folder(self) -> None:
        """Raise `StorageUnavailable` if the folder of this file system is another one than before.

        Otherwise users would be signed out whose sessions are not in it.
        """
        # Before the look: another thread may be about to make the first folder.
        known = self._completed_at
        completed_at = self._index.completed_at() if self._index is not None else None
        if known not in {None, completed_at} and not self._may_vanish():
            raise StorageUnavailable(
                f"The folder {self.path} (see {self._setting}) is on another disk than before, and "
                "has other sessions. Mount the earlier disk, or restart the site to use this one."
            )
        if completed_at is not None:
            self._completed_at = completed_at

    def _refuse_absence(self, was_there: bool) -> None:
        if self._is_expected(was_there):
            raise StorageUnavailable(
                f"The folder {self.path} (see {self._setting}) is missing. Mount its disk or "
                "restore the folder; if you removed the sessions on purpose, create it again, "
                "empty."
            )
        if obstacle := self._obstacle_in(os.path.dirname(self.path)):
            raise StorageUnavailable(
                f"The folder {self.path} (see {self._setting}) is missing. {obstacle}"
            )

    def _is_expected(self, was_there: bool) -> bool:
        """Return whether the folder, which is missing, should exist."""
        if was_there and not self._may_vanish():
            return True
        # A link leads to a disk that is not mounted.
        return os.path.islink(self.path) or not self._has_place()

    def _has_place(self) -> bool:
        """Return whether there is a place to make the folder in."""
        return os.path.isdir(os.path.dirname(self.path))

    def refuse_other_owner(self) -> None:
        """Raise `StorageUnavailable` if the folder is another user's.

        Raises ``FileNotFoundError`` if there is no folder.
        """
        found = os.lstat(self.path)
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        # In a temp folder that all users share, another user may have been there first.
        if not is_own and os.stat(os.path.dirname(self.path)).st_mode & stat.S_ISVTX:
            raise StorageUnavailable(
                f"{self.path} is not a folder of this process's user. Name another place "
                f"in {self._setting}, or remove it."
            )
        self.is_trusted = True

    def is_own(self) -> bool:
        """Return whether the folder exists and belongs to this process's user."""
        try:
            owner = os.stat(self.path).st_uid
        except OSError:
            return False
        return not hasattr(os, "geteuid") or owner == os.geteuid()

    def write_obstacle(self) -> str:
        """Return why this process cannot write to the folder, with the cure; empty if it can.

        Looks at all folders in it, and at `_SAMPLE` files of each.
        """
        if not os.path.lexists(self.path):
            return self._obstacle_in(_nearest_folder(self.path))
        # Those that are missing are made by a write. A command may have made some as another user.
        for place in filter(os.path.lexists, self._folders()):
            obstacle = self._obstacle_in(place)
            if not obstacle and place != self.path:
                obstacle = next(filter(None, map(self._obstacle_at, _some_files_in(place))), "")
            if obstacle:
                return obstacle
        return ""

    def _folders(self) -> Iterator[str]:
        """Yield the paths of all folders, each before those that are in it."""
        yield self.path
        yield from (f"{self.path}/{shard}" for shard in SHARDS)
        if self._index is not None:
            yield from self._index.folders()

    def _obstacle_in(self, place: str) -> str:
        """Return why this process cannot write to a folder, with the cure; empty if it can."""
        if os.path.isdir(place):
            return self._obstacle_at(place, os.R_OK | os.W_OK | os.X_OK)
        return f"{place} is not a folder. Remove it, or name another one in {self._setting}."

    def _obstacle_at(self, place: str, rights: int = os.R_OK | os.W_OK) -> str:
        """Return why this process does not have such rights; empty if it has."""
        if os.access(place, rights):
            return ""
        try:
            owner = os.stat(place).st_uid
        except FileNotFoundError:  # A purge has removed it.
            return ""
        if is_read_only(place):
            return f"{place} is mounted read-only. {_REMOUNT}"
        obstacle = f"This process may not write to {place}."
        if not hasattr(os, "geteuid"):
            return f"{obstacle} {self._cure()}"
        if owner == os.geteuid():
            # What is around the folder is not the package's.
            command = f"-R u+rwX {self.path}" if place.startswith(self.path) else f"u+rwx {place}"
            return f"{obstacle} Allow its owner to, with chmod {command}."
        return f"{obstacle} It belongs to the user {owner}. {self._cure()}"

    def _cure(self) -> str:
        return (
            f"Make {self._owner()} the owner of the folder and of all in it, or name another "
            f"folder in {self._setting}."
        )

    @staticmethod
    def _owner() -> str:
        # Windows has no user ids.
        return f"the user {os.geteuid()}" if hasattr(os, "geteuid") else "this process's user"

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn every ``OSError`` of the context into `StorageUnavailable`."""
        try:
            yield
        except OSError as error:
            raise self.outage_of(error) from error
        except StorageUnavailable as error:
            self.log.failed(error)
            raise

    def outage_of(self, error: OSError) -> StorageUnavailable:
        """Return the exception to raise for an error of the disk."""
        kind, meaning, cure = StorageUnavailable, "are unreachable", "Look at the disk."
        if error.errno in _NO_SPACE:
            kind, meaning, cure = (
                StorageFull,
                "cannot be saved, because the disk is full or the quota used up",
                _MAKE_ROOM,
            )
        elif error.errno in _NO_PERMISSION:
            meaning, cure = "are not accessible to this process", self._cure()
        elif error.errno == errno.EROFS:
            meaning, cure = "cannot be changed, because the disk is mounted read-only", _REMOUNT
        failure = kind(
            f"The sessions in {self.path} (see {self._setting}) {meaning} ({error}). {cure}"
        )
        refused = WRITE if error.errno in _NO_WRITES else None
        self.log.failed(failure, refused, str(error.strerror))
        return failure


def _some_files_in(folder: str) -> list[str]:
    """Return the paths of `_SAMPLE` files in a folder, in any order. A missing folder has none."""
    try:
        with os.scandir(folder) as entries:
            return [each.path for each in islice(filter(os.DirEntry.is_file, entries), _SAMPLE)]
    except FileNotFoundError:
        return []


def _nearest_folder(path: str) -> str:
    """Return the nearest place above a path at which there is something."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path
