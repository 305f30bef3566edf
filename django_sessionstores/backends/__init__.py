"""The engines: modules for ``SESSION_ENGINE`` to name, each a ``SessionStore`` over a storage."""

from importlib import import_module

from django.core.exceptions import ImproperlyConfigured

from django_sessionstores.conf import NAME, engine_setting, settings
from django_sessionstores.storages.base import CacheStorage, Storage
from django_sessionstores.storages.caches import Kind, kind_of, storage_for
from django_sessionstores.storages.registered import Registered


def with_registry(data: Storage) -> Storage:
    """The storage with the registry that the settings ask for, if they do and it has no list.

    Raises ``ImproperlyConfigured`` where the registry cannot be one.
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
        # Its copies would take the places of the sessions.
        raise ImproperlyConfigured(
            f"{NAME}['REGISTRY'] is 'cached_db', which keeps copies in CACHES[{alias!r}], where "
            "the sessions are. Use 'db'."
        )
    registry: Storage = (
        storage_for(alias)  # The engine of that name would ask for a registry of its own.
        if kind == "cache"
        else import_module(f"{__name__}.{kind}").SessionStore.make_storage()
    )
    return Registered(data, registry, window=settings.MERGE_WINDOW)
