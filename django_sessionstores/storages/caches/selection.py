"""The storage for sessions in a cache, selected by the cache's class in ``CACHES``."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from django.core.cache import InvalidCacheBackendError, caches
from django.core.cache.backends.filebased import FileBasedCache
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ...exceptions import missing_extra
from ..base import CacheStorage


class Kind(StrEnum):
    """How sessions are stored in a cache. The value names the module or package of the storage."""

    REDIS = "redis"
    MEMCACHED = "memcached"
    FILES = "file_cache"
    PORTABLE = "portable"
    """Through Django's cache API alone, which has no compare-and-set."""


# By name, so that a client library that is not used is not imported.
_KINDS: Final = {
    "django_redis.cache.RedisCache": Kind.REDIS,
    "django.core.cache.backends.redis.RedisCache": Kind.REDIS,
    "django.core.cache.backends.memcached.PyMemcacheCache": Kind.MEMCACHED,
    "django.core.cache.backends.filebased.FileBasedCache": Kind.FILES,
}
_REDIS_EXAMPLE: Final = "redis://127.0.0.1:6379/1"
_MEMCACHED_EXAMPLE: Final = "127.0.0.1:11211"
# What LOCATION is like, for classes that cannot do without. A subclass may know its own.
_LOCATIONS: Final = {
    "django_redis.cache.RedisCache": _REDIS_EXAMPLE,
    "django.core.cache.backends.redis.RedisCache": _REDIS_EXAMPLE,
    "django.core.cache.backends.memcached.PyMemcacheCache": _MEMCACHED_EXAMPLE,
    "django.core.cache.backends.filebased.FileBasedCache": "/var/cache/site",
    "django.core.cache.backends.db.DatabaseCache": "cache_table",
}
_OF_SERVERS: Final = (_REDIS_EXAMPLE, _MEMCACHED_EXAMPLE)
"""Those of which there may be several, in a list."""
_DEFAULT_CLIENT: Final = "django_redis.client.DefaultClient"
"""The client of django-redis that connects to the location; others may find their servers."""
_DUMMY: Final = "django.core.cache.backends.dummy.DummyCache"

# The distribution and the extra of a top-level module.
_CLIENTS: Final = {
    "django_redis": ("django-redis", "redis"),
    "redis": ("redis", "redis"),
    "pymemcache": ("pymemcache", "memcached"),
}


def kind_of(alias: str) -> Kind:
    """Return how sessions are stored in the cache with this alias. Opens no connection.

    Raises `InvalidCacheBackendError` if there is no such alias, `MissingExtra` if a client library
    is not installed, and `ImproperlyConfigured` if the cache does not store anything.
    """
    names = {f"{base.__module__}.{base.__qualname__}" for base in _cache_class(alias).__mro__}
    if _DUMMY in names:
        raise ImproperlyConfigured(
            f"SESSION_CACHE_ALIAS is {alias!r}, and CACHES[{alias!r}] is a DummyCache, which "
            "keeps nothing: nobody could stay logged in. Name a cache that stores."
        )
    return next((kind for name, kind in _KINDS.items() if name in names), Kind.PORTABLE)


def storage_for(alias: str) -> CacheStorage:
    """Return the storage for sessions in the cache with this alias. Opens no connection.

    Raises as `kind_of` does, and `InvalidCacheBackendError` if the cache has no usable location.
    """
    kind = kind_of(alias)
    _require_location(alias)
    try:
        # Each client library is imported only if it is used.
        if kind is Kind.REDIS:
            from ..redis import storage as redis

            return redis.from_cache(alias)
        if kind is Kind.MEMCACHED:
            from ..memcached import storage as memcached

            return memcached.from_cache(alias)
        if kind is Kind.FILES:
            from . import file_cache

            return file_cache.from_cache(alias)
    except ImportError as error:
        _explain(error)
        raise
    from . import portable

    return portable.from_cache(alias)


def cache_object(alias: str) -> Any:
    """Return a new object of the cache with this alias, as ``caches.create_connection()`` does.

    Django's file-based cache makes its folder with the object, and raises ``OSError`` if it cannot.
    Here it makes none: the storage does, at the first write, and says which setting is wrong.
    """
    backend, entry = _cache_class(alias), dict(caches.settings[alias])
    if not issubclass(backend, FileBasedCache):
        return caches.create_connection(alias)
    without_folder = type(backend.__name__, (backend,), {"_createdir": lambda cache: None})
    location = entry.pop("LOCATION", "")
    del entry["BACKEND"]
    return without_folder(location, entry)


def _require_location(alias: str) -> None:
    """Raise `InvalidCacheBackendError` if a cache lacks its location.

    Its client would raise an error that names no setting, at the first request.
    """
    entry = caches.settings[alias]
    example = _LOCATIONS.get(entry["BACKEND"])
    client = (entry.get("OPTIONS") or {}).get("CLIENT_CLASS", _DEFAULT_CLIENT)
    if example is None or client != _DEFAULT_CLIENT:
        return
    location: Any = entry.get("LOCATION")
    setting = f"CACHES[{alias!r}]['LOCATION']"
    if location is not None and not _is_location(location, has_list=example in _OF_SERVERS):
        # Not its value, which may be a URL with a password.
        raise InvalidCacheBackendError(
            f"{setting} cannot be used, and SESSION_CACHE_ALIAS names this cache. It must be a "
            f"string without NUL, like {example!r}."
        )
    if not location:
        raise InvalidCacheBackendError(
            f"{setting} is not set, and SESSION_CACHE_ALIAS names this cache. Set it, for example "
            f"to {example!r}."
        )
    servers = re.split("[;,]", location) if isinstance(location, str) else location
    if example is _REDIS_EXAMPLE and not all("://" in str(server) for server in servers):
        # Not its value: a URL may have a password.
        raise InvalidCacheBackendError(
            f"{setting} must be a URL, and SESSION_CACHE_ALIAS names this cache. Write it like "
            f"{example!r}."
        )
    if example is _REDIS_EXAMPLE and not all(_has_number(str(server)) for server in servers):
        raise InvalidCacheBackendError(
            f"{setting} must end with the number of a database, and SESSION_CACHE_ALIAS names this "
            f"cache. The client ignores a name and uses database 0. Write it like {example!r}."
        )


def _is_location(location: Any, *, has_list: bool) -> bool:
    """Return whether the client of a cache can read a location, which may be a list of servers."""
    if has_list and isinstance(location, list | tuple | set | frozenset):
        return all(isinstance(each, str | tuple | list) for each in location)
    return isinstance(location, str | os.PathLike) and "\0" not in str(location)


def _has_number(url: str) -> bool:
    """Return whether the client of Redis finds the number of a database in a URL, or needs none."""
    try:
        scheme, _, path, query, _ = urlsplit(url)
    except ValueError:
        return True  # The client says that this is not an address.
    number = unquote(path).replace("/", "").strip()
    # With an @, it is a password with a slash, of which the client says what to do.
    if not scheme.startswith("redis") or "db=" in query or "@" in path or not number:
        return True
    return bool(re.fullmatch(r"-?\d+", number, re.ASCII))


def _cache_class(alias: str) -> type[Any]:
    if alias not in caches.settings:
        raise InvalidCacheBackendError(
            f"SESSION_CACHE_ALIAS is {alias!r}, which CACHES does not have. "
            f"It has: {', '.join(map(repr, caches.settings))}."
        )
    path = caches.settings[alias]["BACKEND"]
    try:
        backend = import_string(path)
    except ImportError as error:
        _explain(error)
        raise InvalidCacheBackendError(
            f"CACHES[{alias!r}]['BACKEND'], which SESSION_CACHE_ALIAS names, "
            f"cannot be imported: {error}"
        ) from error
    if not isinstance(backend, type):
        raise InvalidCacheBackendError(f"CACHES[{alias!r}]['BACKEND'] is {path!r}, not a class.")
    return backend


def _explain(error: ImportError) -> None:
    """Raise `MissingExtra` if a client library of one of the package's extras is missing."""
    client = _CLIENTS.get((error.name or "").partition(".")[0])
    if client:
        raise missing_extra(*client) from error
