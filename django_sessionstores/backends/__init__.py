"""The engines: modules for ``SESSION_ENGINE`` to name, each a ``SessionStore`` over a storage."""

from importlib import import_module

from django_sessionstores.conf import settings
from django_sessionstores.storages.base import Storage
from django_sessionstores.storages.registered import Registered


def with_registry(data: Storage) -> Storage:
    """The storage with the registry that the settings ask for, if they do."""
    if not settings.REGISTRY:
        return data
    engine = import_module(f"{__name__}.{settings.REGISTRY}")
    registry: Storage = engine.SessionStore.make_storage()
    return Registered(data, registry, window=settings.MERGE_WINDOW)
