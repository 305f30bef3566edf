"""The session engines: ``SESSION_ENGINE`` names one of these modules with its ``SessionStore``."""

from importlib import import_module
from typing import Final

from django.core.exceptions import ImproperlyConfigured

from ..conf import NAME, engine_setting, settings
from ..storages.base import CacheStorage, Storage
from ..storages.caches.selection import Kind, kind_of, storage_for
from ..storages.registered import RegisteredStorage

DATABASE_SETTINGS: Final = ("DATABASES",)
CACHE_SETTINGS: Final = ("CACHES", "SESSION_CACHE_ALIAS")
MONGODB_SETTINGS: Final = (
    "MONGODB_URI",
    "MONGODB_CLIENT",
    "MONGODB_DATABASE",
    "MONGODB_COLLECTION",
    "DATABASE_TIMEOUT",
)
CACHED_DATABASE_SETTINGS: Final = (
    *CACHE_SETTINGS,
    *DATABASE_SETTINGS,
    *MONGODB_SETTINGS,
    "CACHED_STORE",
    "CACHE_LEASE",
    "STORE_RETRY",
)
REGISTRY_SETTINGS: Final = ("REGISTRY", "MERGE_WINDOW", *CACHED_DATABASE_SETTINGS)
"""The settings that `with_registry` depends on, for each kind of registry."""


def storage_of(engine: str) -> Storage:
    """Return the storage of another engine of the package, which is imported only if it is used."""
    storage: Storage = import_module(f"{__name__}.{engine}").SessionStore.make_storage()
    return storage


def with_registry(data: Storage) -> Storage:
    """Return a storage with the registry that ``REGISTRY`` names.

    Returns ``data`` itself if there is no such setting, or if the storage can list sessions.
    Raises ``ImproperlyConfigured`` if the setting names an engine that cannot be the registry.
    """
    kind = engine_setting("REGISTRY")
    if not kind or data.lists:
        return data
    alias = engine_setting("SESSION_CACHE_ALIAS")
    if kind == "cache" and kind_of(alias) is Kind.MEMCACHED:
        raise ImproperlyConfigured(
            f"{NAME}['REGISTRY'] is 'cache', and CACHES[{alias!r}] is memcached, which forgets "
            "what it has no room for and can list nothing. Use 'db', or name a cache on Redis."
        )
    if kind == "cache" and isinstance(data, CacheStorage):
        raise ImproperlyConfigured(
            f"{NAME}['REGISTRY'] is 'cache', and the sessions are in that same CACHES[{alias!r}], "
            "which can list nothing. Use 'db'."
        )
    if kind == "cached_db" and isinstance(data, CacheStorage):
        # Its cached copies would overwrite the sessions.
        raise ImproperlyConfigured(
            f"{NAME}['REGISTRY'] is 'cached_db', which keeps copies in CACHES[{alias!r}], where "
            "the sessions are. Use 'db'."
        )
    registry: Storage = (
        storage_for(alias)  # The engine of that name would ask for a registry of its own.
        if kind == "cache"
        else storage_of(kind)
    )
    if not registry.lists:
        raise ImproperlyConfigured(
            f"{NAME}['REGISTRY'] is 'cache', and CACHES[{alias!r}] cannot list its sessions, "
            "because of its KEY_FUNCTION or its BACKEND. Use 'db', or name a cache on Redis in "
            "SESSION_CACHE_ALIAS."
        )
    return RegisteredStorage(data, registry, window=settings.MERGE_WINDOW)
