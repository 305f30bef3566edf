"""The session engine ``cache``: sessions in the cache that ``SESSION_CACHE_ALIAS`` names."""

from ..conf import engine_setting
from ..sessions import SessionStore as BaseSessionStore
from ..storages.base import Storage
from ..storages.caches.selection import storage_for
from . import CACHE_SETTINGS, REGISTRY_SETTINGS, with_registry


class SessionStore(BaseSessionStore):
    """A session in Redis, memcached or any other Django cache.

    If the cache cannot list sessions and ``REGISTRY`` is set, the session is also in the registry.
    """

    settings_used = (*CACHE_SETTINGS, *REGISTRY_SETTINGS)

    @classmethod
    def make_storage(cls) -> Storage:
        return with_registry(storage_for(engine_setting("SESSION_CACHE_ALIAS")))
