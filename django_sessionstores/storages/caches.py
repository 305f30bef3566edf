"""Which storage keeps sessions in a cache: decided by the class that ``CACHES`` names."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from django.core.cache import InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..exceptions import missing_extra
from .base import CacheStorage


class Kind(StrEnum):
    """How sessions are kept in a cache. The value is the storage's module beside this one."""

    REDIS = "redis"
    MEMCACHED = "memcached"
    FILES = "file_cache"
    PORTABLE = "portable"
    """Through Django's cache API alone, which has no compare-and-set."""


# By name, so that no client library is imported to find out that it is not in use.
_KINDS: Final = {
    "django_redis.cache.RedisCache": Kind.REDIS,
    "django.core.cache.backends.redis.RedisCache": Kind.REDIS,
    "django.core.cache.backends.memcached.PyMemcacheCache": Kind.MEMCACHED,
    "django.core.cache.backends.filebased.FileBasedCache": Kind.FILES,
}
_DUMMY: Final = "django.core.cache.backends.dummy.DummyCache"

# Top-level module: distribution and extra.
_CLIENTS: Final = {
    "django_redis": ("django-redis", "redis"),
    "redis": ("redis", "redis"),
    "pymemcache": ("pymemcache", "memcached"),
}


def kind_of(alias: str) -> Kind:
    """How sessions are kept in the cache with this alias. Opens no connection.

    Raises `InvalidCacheBackendError` for an alias that is not there, `MissingExtra` for a client
    library that is not installed, and `ImproperlyConfigured` for a cache that keeps nothing.
    """
    names = {f"{base.__module__}.{base.__qualname__}" for base in _cache_class(alias).__mro__}
    if _DUMMY in names:
        raise ImproperlyConfigured(
            f"SESSION_CACHE_ALIAS is {alias!r}, and CACHES[{alias!r}] is a DummyCache, which "
            "keeps nothing: nobody could stay logged in. Name a cache that stores."
        )
    return next((kind for name, kind in _KINDS.items() if name in names), Kind.PORTABLE)


def storage_for(alias: str) -> CacheStorage:
    """The storage for sessions in the cache with this alias. Raises what `kind_of` raises."""
    kind = kind_of(alias)
    try:
        # Each client library is imported in one module only, and that one only where it is used.
        if kind is Kind.REDIS:
            from . import redis

            return redis.from_cache(alias)
        if kind is Kind.MEMCACHED:
            from . import memcached

            return memcached.from_cache(alias)
        if kind is Kind.FILES:
            from . import file_cache

            return file_cache.from_cache(alias)
    except ImportError as error:
        _explain(error)
        raise
    from . import portable

    return portable.from_cache(alias)


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
    """Raise `MissingExtra` if what is missing is a client library of ours."""
    client = _CLIENTS.get((error.name or "").partition(".")[0])
    if client:
        raise missing_extra(*client) from error
