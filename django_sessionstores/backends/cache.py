"""Sessions in the cache that ``SESSION_CACHE_ALIAS`` names."""

from django_sessionstores.backends import with_registry
from django_sessionstores.conf import engine_setting
from django_sessionstores.session import SessionStore as BaseSessionStore
from django_sessionstores.storages.base import Storage
from django_sessionstores.storages.caches import storage_for


class SessionStore(BaseSessionStore):
    """Sessions in Redis, memcached or any other Django cache, by the class of the cache.

    Those in a cache that can list nothing are in the registry where `REGISTRY` names one.
    """

    @classmethod
    def make_storage(cls) -> Storage:
        return with_registry(storage_for(engine_setting("SESSION_CACHE_ALIAS")))
