"""The keys of a cache that are not those of sessions: find and remove them.

``cache.clear()`` takes the sessions along, and on Redis what other sites have in the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache, default_key_func
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management.base import CommandError
from django.db import Error, connections, router

from ..exceptions import StorageUnavailable
from ..migration.lazy import sources
from ..migration.sources import CacheSource
from ..storages.base import NAMESPACE, prefix_of
from ..storages.caches.selection import Kind, kind_of

BATCH: Final = 500
"""Keys that are removed at once. Below the 999 parameters that every SQLite takes."""
SESSIONS: Final = (NAMESPACE, "django.contrib.sessions.")
"""What the keys of sessions begin with, after the cache's prefix; also those of Django's engines,
as long as they have not been taken over."""

_GLOB: Final = re.compile(r"[*?\[\]^\\]")


class CacheKeys:
    """Keys of a cache, in all its versions, but those of sessions, of whatever engine.

    Those of other prefixes are somebody else's.
    """

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache
        self._prefix = _prefix(cache)
        self._beginning = re.compile(re.escape(self._prefix))
        if cache.key_func is default_key_func:
            self._prefix = f"{cache.key_prefix}:"
            self._beginning = re.compile(rf"{re.escape(self._prefix)}\d+:")

    def describe(self) -> str:
        raise NotImplementedError

    def batches(self) -> Iterator[list[Any]]:
        """The keys as the store has them, a batch at a time. Some may come twice."""
        keys = (key for key in self._scan() if self._is_wanted(key))
        while batch := list(islice(keys, BATCH)):
            yield batch

    def count(self) -> int:
        """How many there are, more or less."""
        return sum(map(len, self.batches()))

    def remove_all(self) -> int:
        """Remove them; how many there were."""
        return sum(map(self._remove, self.batches()))

    def _remove(self, keys: list[Any]) -> int:
        raise NotImplementedError

    def _scan(self) -> Iterator[Any]:
        raise NotImplementedError

    def _is_wanted(self, key: str | bytes) -> bool:
        text = key.decode(errors="surrogateescape") if isinstance(key, bytes) else key
        found = self._beginning.match(text)
        return found is not None and not text.startswith(SESSIONS, found.end())


class RedisKeys(CacheKeys):
    """Found by SCAN, removed by UNLINK, which does not keep others waiting."""

    def __init__(self, alias: str) -> None:
        from ..storages.redis.client import Server

        cache = caches.create_connection(alias)
        super().__init__(cache)
        self._server = Server(alias, cache)

    def describe(self) -> str:
        return self._server.describe()

    def _scan(self) -> Iterator[bytes]:
        return self._server.scan_keys(_GLOB.sub(r"\\\g<0>", self._prefix) + "*")

    def _remove(self, keys: list[bytes]) -> int:
        if self._server.spans_slots:
            return sum(self._server.ask("UNLINK", key) for key in keys)
        return int(self._server.ask("UNLINK", *keys))


class DatabaseKeys(CacheKeys):
    """The rows of a cache table, a batch at a time in the order of their keys."""

    def __init__(self, alias: str) -> None:
        cache: Any = caches.create_connection(alias)
        super().__init__(cache)
        self._model = cache.cache_model_class
        self._connection = connections[router.db_for_write(self._model)]
        quote = self._connection.ops.quote_name
        self._table, self._key = quote(self._model._meta.db_table), quote("cache_key")

    def describe(self) -> str:
        return f"cache table {self._model._meta.db_table} in database {self._connection.alias!r}"

    def _scan(self) -> Iterator[str]:
        last, condition = "", ""
        while rows := self._execute(
            f"SELECT {self._key} FROM {self._table} {condition} "  # noqa: S608
            f"ORDER BY {self._key} LIMIT {BATCH}",
            [last] if condition else [],
        ):
            yield from (row[0] for row in rows)
            last, condition = rows[-1][0], f"WHERE {self._key} > %s"

    def _remove(self, keys: list[str]) -> int:
        marks = ", ".join(["%s"] * len(keys))
        return self._execute(f"DELETE FROM {self._table} WHERE {self._key} IN ({marks})", keys)  # type: ignore[no-any-return]  # noqa: S608

    def _execute(self, sql: str, parameters: list[str]) -> Any:
        """The rows, or how many were changed."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else cursor.rowcount
        except Error as error:
            raise StorageUnavailable(f"{self.describe()}: {type(error).__name__}") from error


def keys_besides_sessions(alias: str) -> CacheKeys:
    """What is in a cache besides sessions. Raises ``CommandError`` where nobody can tell."""
    if alias not in caches.settings:
        raise CommandError(
            f"CACHES has no {alias!r}. It has: {', '.join(map(repr, caches.settings))}."
        )
    kind, cache = kind_of(alias), caches.create_connection(alias)
    if kind is Kind.REDIS:
        return RedisKeys(alias)
    if isinstance(cache, BaseDatabaseCache):
        return DatabaseKeys(alias)
    if kind is Kind.FILES:
        _check_no_entries(alias)
        raise CommandError(
            f"CACHES[{alias!r}] keeps its entries in files and this package's sessions beside "
            f"them: caches[{alias!r}].clear() removes the entries and no session."
        )
    if kind is Kind.MEMCACHED:
        reason = "is memcached, which cannot list what it has"
    elif isinstance(cache, LocMemCache):
        reason = "is in the memory of the site's processes, out of reach from here"
    else:
        reason = f"is a {type(cache).__name__}, of which only Django's API is known"
    raise CommandError(
        f"CACHES[{alias!r}] {reason}. To reset it without ending sessions, change its KEY_PREFIX "
        "or VERSION where SESSION_CACHE_ALIAS names another cache. Otherwise give the sessions a "
        "cache of their own first."
    )


def _check_no_entries(alias: str) -> None:
    """Refuse where Django's engine, which is being moved from, has its sessions as entries."""
    if any(isinstance(source, CacheSource) and source.alias == alias for source in sources()):
        raise CommandError(
            f"CACHES[{alias!r}] has sessions of Django's engine among its entries, in files whose "
            "names do not tell them apart. Wait until MIGRATE_FROM is no longer needed."
        )


def _prefix(cache: BaseCache) -> str:
    """What the keys of a cache begin with, in the version in use."""
    prefix = prefix_of(cache.make_key)
    if prefix is not None:
        return prefix
    raise CommandError(
        "The KEY_FUNCTION of this cache does not put the key last: its keys cannot be told from "
        "those of sessions."
    )
