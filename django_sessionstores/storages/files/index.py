"""The index of users: an entry for each session of each user, which is a name of an empty file.

Layout, below the folder of the records::

    users/c5/                       by the first two characters of the digest of the user id
    users/c5/c58a...-3f9c...        that digest, and the id of a session of the user
    users/.entry                    the empty file whose names the entries are
    users/.complete                 every record of a user has its entry, and every site too
    users/.sites/-1234              the mark of a site that has stored records
    users/.builder                  empty: locked by the process that makes the index complete

A user id may have any characters, and be too long for a file name; its digest is a name on every
file system. There is no folder for each user: on most file systems, a folder takes up as much space
as a session.

The entries are hard links to one file, so that only the session has a file of its own. On ext4 a
link is made in a tenth of the time that a new file takes, and removed in half of it. If links are
not possible, an entry is an empty file. Both are entries, also beside each other.

An entry says where to look, not what is there: the record decides, never the entry.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Set
from typing import Final, NamedTuple

from ...core.records import ID_LENGTH, Record, State
from .disk import insist, names_in, names_in_any_order, open_folder

_FOLDER: Final = "users"
_LINKED: Final = ".entry"
_COMPLETE: Final = ".complete"
_BUILDER: Final = ".builder"
_SITES: Final = ".sites"
_DIGEST_LENGTH: Final = 32
_ENTRY_LENGTH: Final = _DIGEST_LENGTH + 1 + ID_LENGTH
_ENTRY: Final = re.compile(rf"([0-9a-f]{{{_DIGEST_LENGTH}}})-([0-9a-f]{{{ID_LENGTH}}})", re.ASCII)
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
        self._noted: set[int] = set()

    def is_complete(self) -> bool:
        """Return whether every session of a user has an entry, not only those since some day.

        Then the marks of all sites are known as well.
        """
        return os.path.exists(f"{self._folder}/{_COMPLETE}")

    def completed_at(self) -> int | None:
        """Return when the index was made complete, in nanoseconds; ``None`` if it is not."""
        try:
            return os.stat(f"{self._folder}/{_COMPLETE}").st_mtime_ns
        except FileNotFoundError:
            return None

    def set_complete(self) -> None:
        """Mark the index as complete. The folder of the records must exist."""
        self._make_folder(self._folder)
        self._make_file(f"{self._folder}/{_COMPLETE}")

    def open_builder_lock(self) -> int:
        """Return a descriptor of the file to lock before the index is made complete."""
        self._make_folder(self._folder)
        return insist(os.open, f"{self._folder}/{_BUILDER}", os.O_RDWR | os.O_CREAT, 0o600)

    def folders(self) -> Iterator[str]:
        """Yield the paths of the folders of the index, each before those that are in it."""
        yield self._folder
        yield f"{self._folder}/{_SITES}"
        yield from self.entry_folders()

    def forget_sites(self) -> None:
        """Forget which sites were noted, because the folder may be another one than before."""
        self._noted.clear()

    def note_site(self, site: int) -> None:
        """Note that there are records with the mark of a site, once in this process."""
        if site not in self._noted:
            self._make_below(f"{self._folder}/{_SITES}/{site}", self._make_file)
            self._noted.add(site)

    def sites(self) -> set[int]:
        """Return the marks of the sites that have stored records."""
        return {int(name) for name in names_in(f"{self._folder}/{_SITES}")}

    def add(self, user_id: str, session_id: str) -> None:
        """Add an entry for a session of a user, if there is none."""
        self.put(Entry(_digest(user_id), session_id))

    def put(self, entry: Entry) -> None:
        """Add an entry, if there is none."""
        self._make_below(self._path(entry), self._link)

    def discard(self, user_id: str, session_id: str) -> None:
        """Remove the entry of a session of a user, if there is one."""
        self.remove(Entry(_digest(user_id), session_id))

    def remove(self, entry: Entry) -> None:
        """Remove an entry, if it exists."""
        _remove_file(self._path(entry))

    def remove_all_of(self, gone: Set[str], known: Set[str], shards: Set[str]) -> Iterator[Entry]:
        """Remove the entries of the sessions in ``gone``, by their names and without a look.

        Yields the entries of the other sessions of these shards that are not in ``known``.
        """
        for folder in self.entry_folders():
            with contextlib.suppress(FileNotFoundError), open_folder(folder) as (place, front):
                for name in names_in_any_order(folder if place is None else place):
                    session_id = name[-ID_LENGTH:]
                    if session_id in gone:
                        if _ENTRY.fullmatch(name):
                            _remove_file(front + name, place)
                    elif (
                        session_id[:2] in shards
                        and session_id not in known
                        and (entry := entry_of(name))
                    ):
                        yield entry

    def entries_of_user(self, user_id: str, after: str) -> Iterator[Entry]:
        """Yield the entries of a user after a session id, in order of ids. In bounded memory."""
        return self.entries_of(_digest(user_id), after)

    def entries_of(self, digest: str, after: str = "") -> Iterator[Entry]:
        """Yield the entries of the user with a digest, see `entries_of_user`."""
        shard = f"{self._folder}/{digest[:2]}"
        for name in names_in(shard, after=f"{digest}-{after}", prefix=f"{digest}-"):
            if entry := entry_of(name):
                yield entry

    def entries(self) -> Iterator[Entry]:
        """Yield all entries."""
        for folder in self.entry_folders():
            yield from filter(None, map(entry_of, names_in_any_order(folder)))

    def remove_empty_folders(self) -> None:
        """Remove the folders in which there is no entry."""
        for folder in self.entry_folders():
            # Refused while the folder is not empty.
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def entry_folders(self) -> Iterator[str]:
        """Yield the paths of the folders that the entries are in."""
        for name in names_in(self._folder):
            if _SHARD.fullmatch(name):
                yield f"{self._folder}/{name}"

    def sizes(self, without: set[str]) -> Iterator[Counter[str]]:
        """Yield how many entries users have, by their digests, without those of some sessions.

        Each user is in one of the counters.
        """
        for folder in self.entry_folders():
            # Only by their lengths, because there may be very many.
            names = [name for name in names_in_any_order(folder) if len(name) == _ENTRY_LENGTH]
            if without:
                names = [name for name in names if name[-ID_LENGTH:] not in without]
            yield Counter([name[:_DIGEST_LENGTH] for name in names])

    def _path(self, entry: Entry) -> str:
        return f"{self._folder}/{entry.user[:2]}/{entry.user}-{entry.session_id}"

    def _make_below(self, path: str, make: Callable[[str], None]) -> None:
        """Make a file in a folder of the index, and the folder if it is missing."""
        # More than once if a purge removes the folder while it is still empty.
        for _ in range(_TRIES):
            try:
                return make(path)
            except FileNotFoundError:
                self._make_folder(self._folder)
                self._make_folder(os.path.dirname(path))
        return make(path)

    def _link(self, path: str) -> None:
        """Make an entry. Raises ``FileNotFoundError`` if its folder is missing."""
        linked = f"{self._folder}/{_LINKED}"
        try:
            os.link(linked, path)
        except FileExistsError:
            return
        except FileNotFoundError:
            # The caller makes the folder, and tries again. The file may be missing as well.
            self._make_file(linked)
            raise
        except OSError as error:
            # Not possible on this file system, or the file belongs to another user.
            self._make_file(path)
            if error.errno == errno.EMLINK:
                # It has as many links as a file can have. The next entry makes a new one.
                _remove_file(linked)

    def _make_folder(self, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)

    def _make_file(self, path: str) -> None:
        os.close(insist(os.open, path, _EMPTY_FILE, 0o600))


def _remove_file(path: str, folder: int | None = None) -> None:
    try:
        insist(os.unlink, path, dir_fd=folder)
    except FileNotFoundError:
        return


def entry_of(name: str) -> Entry | None:
    """Return the entry that a file of this name is; ``None`` if it is not one."""
    return Entry(*found.groups()) if (found := _ENTRY.fullmatch(name)) else None


def owner_of(record: Record | None) -> str | None:
    """Return the id of the user whose entry a record has; ``None`` if it has none."""
    return None if record is None or record.state is not State.LIVE else record.user_id


def _digest(user_id: str) -> str:
    # Lone surrogates are not a user's, but may be asked for.
    data = user_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16, person=b"sessions of user").hexdigest()
