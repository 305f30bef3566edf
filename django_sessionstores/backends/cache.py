"""Sessions in the cache that ``SESSION_CACHE_ALIAS`` names."""

from django.conf import settings

from django_sessionstores.session import SessionStore as BaseSessionStore
from django_sessionstores.storages.base import CacheStorage
from django_sessionstores.storages.caches import storage_for


class SessionStore(BaseSessionStore):
    """Sessions in Redis, memcached or any other Django cache, by the class of the cache."""

    @classmethod
    def make_storage(cls) -> CacheStorage:
        return storage_for(settings.SESSION_CACHE_ALIAS)
