"""Find and remove the keys of a cache, except those of sessions.

``cache.clear()`` removes the sessions as well, and on Redis the keys of all other sites that use
the same database.
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
from ..storages.base import NAMESPACE, SHORT_NAMESPACE, prefix_of
from ..storages.caches.selection import Kind, cache_object, kind_of
from ..storages.sql.connection_errors import connection_error

BATCH: Final = 500
"""How many keys are removed at once. Every SQLite accepts up to 999 parameters."""
SESSIONS: Final = (NAMESPACE, SHORT_NAMESPACE, "django.contrib.sessions.")
"""The beginnings of the keys of sessions, after the cache's prefix. The second is for those on
Redis, and the third for those of Django's engines that have not been migrated yet."""


class CacheKeys:
    """The keys of a cache, in all its versions, except those of sessions of any engine.

    Keys with another prefix belong to other sites and are not included.
    """

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache
        self._prefix = _prefix(cache)
        self._beginning = re.compile(re.escape(self._prefix))
        if cache.key_func is default_key_func:
            self._prefix = f"{cache.key_prefix}:"
            self._beginning = re.compile(rf"{re.escape(self._prefix)}\d+:")

    def describe(self) -> str:
        """Return the name of the store, for messages."""
        raise NotImplementedError

    def batches(self) -> Iterator[list[Any]]:
        """Yield the keys in batches, as the store has them. A key may be yielded twice."""
        keys = (key for key in self._scan() if self._is_wanted(key))
        while batch := list(islice(keys, BATCH)):
            yield batch

    def count(self) -> int:
        """Return the number of keys, which is not exact if they change meanwhile."""
        return sum(map(len, self.batches()))

    def remove_all(self) -> int:
        """Remove the keys, and return how many were removed."""
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
    """The keys in Redis, found with SCAN and removed with UNLINK, which do not block the server."""

    def __init__(self, alias: str) -> None:
        from ..storages.redis.client import Server

        cache = caches.create_connection(alias)
        super().__init__(cache)
        self._server = Server(alias, cache)

    def describe(self) -> str:
        return self._server.describe()

    def _scan(self) -> Iterator[bytes]:
        return self._server.scan_keys(self._prefix.encode())

    def _remove(self, keys: list[bytes]) -> int:
        if self._server.spans_slots:
            return sum(self._server.ask("UNLINK", key) for key in keys)
        return int(self._server.ask("UNLINK", *keys))


class DatabaseKeys(CacheKeys):
    """The rows of a cache table, read in batches in the order of their keys."""

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
        """Return the rows of a query, or how many rows a statement has changed."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchall() if cursor.description else cursor.rowcount
        except Error as error:
            raise StorageUnavailable(
                connection_error(self._connection, error)
                or f"{self.describe()}: {type(error).__name__}. Look at its table and its log."
            ) from error


def keys_besides_sessions(alias: str) -> CacheKeys:
    """Return the keys of a cache, except those of sessions.

    Raises ``CommandError`` if the cache cannot list its keys.
    """
    if alias not in caches.settings:
        raise CommandError(
            f"CACHES has no {alias!r}. It has: {', '.join(map(repr, caches.settings))}."
        )
    kind, cache = kind_of(alias), cache_object(alias)
    if kind is Kind.REDIS:
        return RedisKeys(alias)
    if isinstance(cache, BaseDatabaseCache):
        return DatabaseKeys(alias)
    if kind is Kind.FILES:
        _check_no_entries(alias)
        raise CommandError(
            f"CACHES[{alias!r}] keeps its entries in files, apart from the sessions. To remove the "
            f"entries and no session, call caches[{alias!r}].clear()."
        )
    if kind is Kind.MEMCACHED:
        reason = "is memcached, which cannot list its keys"
    elif isinstance(cache, LocMemCache):
        reason = "is in the memory of the site's processes, which this command cannot access"
    else:
        reason = f"is a {type(cache).__name__}, whose API cannot list its keys"
    raise CommandError(
        f"CACHES[{alias!r}] {reason}. To clear it without ending sessions, keep the sessions in "
        "another cache, named by SESSION_CACHE_ALIAS, and then change the KEY_PREFIX or VERSION of "
        "this one."
    )


def _check_no_entries(alias: str) -> None:
    """Raise ``CommandError`` if sessions of a previous backend are among the cache's entries."""
    if any(isinstance(source, CacheSource) and source.alias == alias for source in sources()):
        raise CommandError(
            f"CACHES[{alias!r}] has sessions of Django's cache backend among its entries, and the "
            "names of the files do not tell which they are. Wait until you have removed that "
            "backend from MIGRATE_FROM."
        )


def _prefix(cache: BaseCache) -> str:
    """Return the beginning of all keys of a cache, in the version in use.

    Raises ``CommandError`` if the keys have no common beginning.
    """
    prefix = prefix_of(cache.make_key)
    if prefix is not None:
        return prefix
    raise CommandError(
        "The KEY_FUNCTION of this cache does not put the key last, so the keys of sessions cannot "
        "be recognised. Clear the cache with another tool."
    )
