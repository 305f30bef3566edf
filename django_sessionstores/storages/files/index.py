"""The index of users: an empty file for each session of each user.

Layout, below the folder of the records::

    users/c5/                       by the first two characters of the digest of the user id
    users/c5/c58a...-3f9c...        that digest, and the id of a session of the user
    users/.complete                 every record of a user has its entry
    users/.builder                  empty: locked by the process that makes the index complete

A user id may have any characters, and be too long for a file name; its digest is a name on every
file system. There is no folder for each user: on most file systems, a folder takes up as much space
as a session.

An entry says where to look, not what is there: the record decides, never the entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from ...core.records import ID_LENGTH, Record, State
from .disk import insist, names_in

_FOLDER: Final = "users"
_COMPLETE: Final = ".complete"
_BUILDER: Final = ".builder"
_ENTRY: Final = re.compile(rf"([0-9a-f]{{32}})-([0-9a-f]{{{ID_LENGTH}}})", re.ASCII)
_SHARD: Final = re.compile(r"[0-9a-f]{2}", re.ASCII)
_EMPTY_FILE: Final = os.O_WRONLY | os.O_CREAT
_TRIES: Final = 10


class Entry(NamedTuple):
    """An entry that says that a session may be one of a user's."""

    user: str
    """The digest of the user id."""
    session_id: str

    def is_of(self, user_id: str | None) -> bool:
        """Return whether this is an entry of the user."""
        return user_id is not None and _digest(user_id) == self.user


class UserIndex:
    """The entries below a folder. Nothing is locked here; every method may raise ``OSError``."""

    def __init__(self, folder: str) -> None:
        self._folder = f"{folder}/{_FOLDER}"

    def is_complete(self) -> bool:
        """Return whether every session of a user has an entry, not only those since some day."""
        return os.path.exists(f"{self._folder}/{_COMPLETE}")

    def set_complete(self) -> None:
        """Mark the index as complete. The folder of the records must exist."""
        self._make_folder(self._folder)
        self._make_file(f"{self._folder}/{_COMPLETE}")

    def open_builder_lock(self) -> int:
        """Return a descriptor of the file to lock before the index is made complete."""
        self._make_folder(self._folder)
        return insist(os.open, f"{self._folder}/{_BUILDER}", os.O_RDWR | os.O_CREAT, 0o600)

    def add(self, user_id: str, session_id: str) -> None:
        """Add an entry for a session of a user, if there is none."""
        self.put(Entry(_digest(user_id), session_id))

    def put(self, entry: Entry) -> None:
        """Add an entry, if there is none."""
        path = self._path(entry)
        # More than once if a purge removes the shard while it is still empty.
        for _ in range(_TRIES):
            try:
                return self._make_file(path)
            except FileNotFoundError:
                self._make_folder(self._folder)
                self._make_folder(os.path.dirname(path))
        return self._make_file(path)

    def discard(self, user_id: str, session_id: str) -> None:
        """Remove the entry of a session of a user, if there is one."""
        self.remove(Entry(_digest(user_id), session_id))

    def remove(self, entry: Entry) -> None:
        """Remove an entry, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            insist(os.unlink, self._path(entry))

    def entries_of_user(self, user_id: str, after: str) -> Iterator[Entry]:
        """Yield the entries of a user after a session id, in order of ids. In bounded memory."""
        digest = _digest(user_id)
        shard = f"{self._folder}/{digest[:2]}"
        for name in names_in(shard, after=f"{digest}-{after}", prefix=f"{digest}-"):
            if found := _ENTRY.fullmatch(name):
                yield Entry(*found.groups())

    def entries(self) -> Iterator[Entry]:
        """Yield all entries, and remove folders in which no entry is left by then."""
        for shard in names_in(self._folder):
            if not _SHARD.fullmatch(shard):
                continue
            folder = f"{self._folder}/{shard}"
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
                for file in files:
                    if found := _ENTRY.fullmatch(file.name):
                        yield Entry(*found.groups())
            # Refused while the folder is not empty.
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def _path(self, entry: Entry) -> str:
        return f"{self._folder}/{entry.user[:2]}/{entry.user}-{entry.session_id}"

    def _make_folder(self, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)

    def _make_file(self, path: str) -> None:
        os.close(insist(os.open, path, _EMPTY_FILE, 0o600))


def owner_of(record: Record | None) -> str | None:
    """Return the id of the user whose entry a record has; ``None`` if it has none."""
    return None if record is None or record.state is not State.LIVE else record.user_id


def _digest(user_id: str) -> str:
    # Lone surrogates are not a user's, but may be asked for.
    data = user_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16, person=b"sessions of user").hexdigest()
