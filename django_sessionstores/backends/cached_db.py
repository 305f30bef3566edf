"""Sessions in the database, with copies in the cache: the engine of Django's ``cached_db``."""

from django_sessionstores.conf import engine_setting, settings
from django_sessionstores.session import SessionStore as BaseSessionStore
from django_sessionstores.storages.caches import storage_for
from django_sessionstores.storages.database import DatabaseStorage
from django_sessionstores.storages.layered import Layered


class SessionStore(BaseSessionStore):
    """Sessions of the ``db`` engine, read from the cache ``SESSION_CACHE_ALIAS``."""

    @classmethod
    def make_storage(cls) -> Layered:
        return Layered(
            storage_for(engine_setting("SESSION_CACHE_ALIAS")),
            DatabaseStorage(),
            lease=settings.CACHE_LEASE,
            retry=settings.CACHE_RETRY,
        )
