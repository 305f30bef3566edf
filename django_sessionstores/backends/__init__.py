"""The engines: modules for ``SESSION_ENGINE`` to name, each a ``SessionStore`` over a storage."""

from importlib import import_module

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from django_sessionstores.conf import NAME, settings
from django_sessionstores.storages.base import CacheStorage, Storage
from django_sessionstores.storages.caches import Kind, kind_of
from django_sessionstores.storages.registered import Registered


def with_registry(data: Storage) -> Storage:
    """The storage with the registry that the settings ask for, if they do.

    Raises ``ImproperlyConfigured`` where the registry cannot be one.
    """
    if not settings.REGISTRY:
        return data
    alias = django_settings.SESSION_CACHE_ALIAS
    if settings.REGISTRY == "cache" and kind_of(alias) is Kind.MEMCACHED:
        raise ImproperlyConfigured(
            f"{NAME}['REGISTRY'] is 'cache', and CACHES[{alias!r}] is memcached, which forgets "
            "what it has no room for and can list nothing. Use 'db', or name a cache on Redis."
        )
    if settings.REGISTRY == "cached_db" and isinstance(data, CacheStorage):
        # Its copies would take the places of the sessions.
        raise ImproperlyConfigured(
            f"{NAME}['REGISTRY'] is 'cached_db', which keeps copies in CACHES[{alias!r}], where "
            "the sessions are. Use 'db'."
        )
    engine = import_module(f"{__name__}.{settings.REGISTRY}")
    registry: Storage = engine.SessionStore.make_storage()
    return Registered(data, registry, window=settings.MERGE_WINDOW)
