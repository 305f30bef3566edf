"""Records in files below the folder of Django's file-based cache, without the cache's methods.

Those methods unpickle what they find: anyone who can write a file there can run code in the site.
And ``add`` looks first and writes later, entries are dropped at random when there are many, and
each write lists all of them.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
from django.core.cache.backends.base import default_key_func
from django.core.cache.backends.filebased import FileBasedCache
from django.utils.translation import gettext_noop

from ...core import clock
from ...core.phrases import Phrase
from ...core.records import Record, State
from ...exceptions import UnreadablePayload
from ..base import NAMESPACE, CacheStorage, has_fixed_keys, place_of_cache
from ..copies import is_refused
from ..files.disk import open_file, overwrite
from ..files.folder import Folder
from ..files.record_file import data_of, read_head, set_hint
from ..files.storage import FileStorage, Place
from .selection import cache_object

# Precedes each payload. For a copy, whose file ends with the lease, it is when the session expires;
# for a session that is stored here, 0.
_EXPIRES: Final = struct.Struct(">Q")
_MAX_NAME: Final = 200
"""The length of the longest name of a folder. File systems have names of 255 characters."""
_OWN: Final = _EXPIRES.pack(0)
_AT_ONCE: Final = 100
"""How many tombstones are written at most while a shard is locked: some milliseconds."""


def from_cache(alias: str) -> FileCacheStorage:
    """Return the storage for sessions in the file-based cache with this alias."""
    return FileCacheStorage(alias, cache_object(alias))


class CacheFolder(Folder):
    """The folder of a `FileCacheStorage`."""

    def _has_place(self) -> bool:
        # The cache makes the folder around it when it writes, so at first that may be missing. But
        # if it cannot be made, it is not known whether there are sessions.
        Path(self.path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return True


class FileCacheStorage(FileStorage, CacheStorage):
    """Files in a folder of their own, which the cache neither counts, nor culls, nor clears.

    The cache's prefix and version are in the folder's name, so that sites that they keep apart stay
    apart. If the cache has a ``KEY_FUNCTION``, what that puts in front of a key is in the name
    instead. It may depend on the request, and so does the folder then.

    A copy is a file that expires with its lease, for `purge` and for other copies, too. A folder of
    copies may be removed, like the folder of any cache.
    """

    durable = True

    # Copies are not listed, and come and go by the lease.
    indexes_users = False

    _folder_class = CacheFolder

    def __init__(self, alias: str, cache: FileBasedCache) -> None:
        self._alias = alias
        self._cache = cache
        self._location: str = cache._dir  # type: ignore[attr-defined]
        self._places: dict[str, Place] = {}
        name = _folder_name(cache)
        super().__init__(Path(self._location, name), setting=f"CACHES[{alias!r}]['LOCATION']")
        self._is_fixed = has_fixed_keys(cache)

    def _may_vanish(self) -> bool:
        return self.holds_copies

    def _place(self) -> Place:
        if self._is_fixed:
            return self._opened
        name = _folder_name(self._cache)
        place = self._places.get(name)
        if place is None:
            place = self._places.setdefault(name, self._open(Path(self._location, name)))
        return place

    def describe(self) -> str:
        return Phrase(
            gettext_noop("%(store)s (cache %(alias)s)"),
            store=super().describe(),
            alias=repr(self._alias),
        )

    def place(self) -> str:
        return place_of_cache(self._alias)

    def namespace(self) -> str:
        return self._cache.make_key(NAMESPACE)

    def read(self, session_id: str) -> Record | None:
        record = super().read(session_id)
        # The handle of a copy is the end of its lease.
        if record is None or record.handle is None or record.handle > clock.now():
            return record
        return None

    def _look(self, session_id: str) -> Record | None:
        # Only the bytes in front of the payload tell whether it is a copy.
        return self.read(session_id)

    _look_at_head = _look

    def fill(self, record: Record, until: int, now: int) -> None:
        with self._locks.hold(record.id, make_folders=True):
            with suppress(FileNotFoundError, UnreadablePayload):
                stored = read_head(self._folder.path_of(record.id), record.id)
                if is_refused(record, stored, now):
                    return
            self._write(_with_prefix(record, _EXPIRES.pack(record.expires), expires=until))

    def leave_tombstone(self, tombstone: Record, now: int) -> None:
        with self._locks.hold(tombstone.id, make_folders=True):
            self._leave(tombstone)

    def leave_tombstones(self, tombstones: Sequence[Record], now: int) -> None:
        """See `CacheStorage.leave_tombstones`. Locks each shard once for some of them."""
        in_order = sorted(tombstones, key=attrgetter("id"))
        for _, of_shard in groupby(in_order, lambda each: each.id[:2]):
            rest = list(of_shard)
            while rest:
                some, rest = rest[:_AT_ONCE], rest[_AT_ONCE:]
                with self._locks.hold(some[0].id, make_folders=True):
                    for each in some:
                        self._leave(each)

    def _leave(self, tombstone: Record) -> None:
        """Store a tombstone in place of whatever there is: if that is a file, in the same file.

        A new one takes ten times as long. If the process is killed meanwhile, the copy is damaged,
        and so of no use.
        """
        path = self._folder.path_of(tombstone.id)
        with self._folder.translate_errors():
            try:
                with open_file(path) as fd:
                    data = data_of(tombstone)
                    overwrite(fd, 0, data)
                    os.ftruncate(fd, len(data))
            except FileNotFoundError:
                self._write(tombstone)
            else:
                set_hint(path, tombstone.expires, self._kind_of(tombstone))

    def _entry(self, record: Record) -> Record:
        return _with_prefix(record, _OWN, expires=record.expires)

    def _unpack(self, session_id: str, data: bytes) -> Record:
        entry = super()._unpack(session_id, data)
        if entry.state is not State.LIVE:
            return entry
        if len(entry.payload) < _EXPIRES.size:
            raise UnreadablePayload("record is cut short")
        (expires,) = _EXPIRES.unpack_from(entry.payload)
        is_copy = expires != 0
        return msgspec.structs.replace(
            entry,
            payload=entry.payload[_EXPIRES.size :],
            expires=expires if is_copy else entry.expires,
            handle=entry.expires if is_copy else None,
        )


def _folder_name(cache: FileBasedCache) -> str:
    # Must not end like the entries of the cache, which it removes.
    if cache.key_func is default_key_func:
        parts = [str(cache.key_prefix), str(cache.version)]
    else:
        parts = [cache.make_key("")]
    names = [quote(part, safe="") for part in parts]
    name = "+".join(("django_sessionstores", *names))
    if len(name) <= _MAX_NAME:
        return name
    return f"django_sessionstores+{hashlib.blake2b(name.encode(), digest_size=20).hexdigest()}"


def _with_prefix(record: Record, prefix: bytes, *, expires: int) -> Record:
    return msgspec.structs.replace(record, payload=prefix + record.payload, expires=expires)
