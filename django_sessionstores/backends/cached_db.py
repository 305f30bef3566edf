"""The session engine ``cached_db``: sessions in the database, with copies in the cache."""

from ..conf import engine_setting, settings
from ..sessions import SessionStore as BaseSessionStore
from ..storages.caches.selection import storage_for
from ..storages.layered import LayeredStorage
from ..storages.sql.storage import DatabaseStorage
from . import CACHED_DATABASE_SETTINGS


class SessionStore(BaseSessionStore):
    """A session of the ``db`` engine, read from the cache that ``SESSION_CACHE_ALIAS`` names."""

    settings_used = CACHED_DATABASE_SETTINGS

    @classmethod
    def make_storage(cls) -> LayeredStorage:
        return LayeredStorage(
            storage_for(engine_setting("SESSION_CACHE_ALIAS")),
            DatabaseStorage(),
            lease=settings.CACHE_LEASE,
            retry=settings.CACHE_RETRY,
        )
