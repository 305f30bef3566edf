"""Records in files below the folder of Django's cache of files, past the cache's own methods.

Those unpickle what they find: who can write a file there runs code in the site. And ``add`` looks
first and writes then, entries are dropped at random when there are many, and each write lists all
of them.
"""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from django.core.cache import caches
from django.core.cache.backends.filebased import FileBasedCache
from django.utils.translation import gettext_noop

from ..exceptions import UnreadablePayload
from ..records import Record, State
from ..words import Phrase
from .base import CacheStorage
from .copies import is_refused
from .file import FileStorage

# Stands in front of each payload. Of a copy, whose file ends with the lease: when the session
# expires. Of a session that is kept here, 0.
_EXPIRES: Final = struct.Struct(">Q")
_OWN: Final = _EXPIRES.pack(0)


def from_cache(alias: str) -> FileCacheStorage:
    """The storage for sessions in the cache of files with this alias."""
    cache: Any = caches.create_connection(alias)
    return FileCacheStorage(alias, cache)


class FileCacheStorage(FileStorage, CacheStorage):
    """Files in a folder of their own, which the cache neither counts, nor culls, nor clears.

    The cache's prefix and version are in the folder's name, so that whom they keep apart stays
    apart. Its ``KEY_FUNCTION`` is not asked: what that returns may depend on the request.

    A copy is a file that expires with its lease, for `purge` and for other copies, too.
    """

    durable = True

    # Copies are nobody's to list, and where they are kept come and go by the lease.
    _has_index = False

    def __init__(self, alias: str, cache: FileBasedCache) -> None:
        location: str = cache._dir  # type: ignore[attr-defined]
        super().__init__(
            Path(location, _folder_name(cache)), setting=f"CACHES[{alias!r}]['LOCATION']"
        )
        self._alias = alias

    def describe(self) -> str:
        return Phrase(
            gettext_noop("%(store)s (cache %(alias)s)"),
            store=super().describe(),
            alias=repr(self._alias),
        )

    def read(self, session_id: str) -> Record | None:
        record = super().read(session_id)
        # The handle of a copy is the end of its lease.
        if record is None or record.handle is None or record.handle > _now():
            return record
        return None

    def _look(self, session_id: str) -> Record | None:
        # Whether it is a copy stands in front of its payload.
        return self.read(session_id)

    _look_at_head = _look

    def fill(self, record: Record, until: int, now: int) -> None:
        with self._locked(record.id, make_folders=True):
            with suppress(FileNotFoundError, UnreadablePayload):
                if is_refused(record, self._read_head(record.id), now):
                    return
            self._write(_prefixed(record, _EXPIRES.pack(record.expires), expires=until))

    def bury(self, grave: Record, now: int) -> None:
        with self._locked(grave.id, make_folders=True):
            self._write(grave)

    def _entry(self, record: Record) -> Record:
        return _prefixed(record, _OWN, expires=record.expires)

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

    def _make_folder(self) -> None:
        # The cache, too, makes its own when it writes.
        Path(self._folder).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        super()._make_folder()


def _folder_name(cache: FileBasedCache) -> str:
    # Does not end as the entries of the cache do, which it removes.
    prefix, version = (quote(str(part), safe="") for part in (cache.key_prefix, cache.version))
    return f"django_sessionstores+{prefix}+{version}"


def _prefixed(record: Record, prefix: bytes, *, expires: int) -> Record:
    return msgspec.structs.replace(record, payload=prefix + record.payload, expires=expires)


def _now() -> int:
    return time.time_ns() // 1_000_000
