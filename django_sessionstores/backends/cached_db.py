"""The session engine ``cached_db``: sessions in the database, with copies in the cache.

``CACHED_STORE`` names another engine for the sessions.
"""

from django.apps import apps

from ..conf import engine_setting, settings
from ..sessions import SessionStore as BaseSessionStore
from ..storages.caches.selection import storage_for
from ..storages.copies import never, process_began
from ..storages.layered import LayeredStorage
from ..storages.sql.storage import require_app
from . import CACHED_DATABASE_SETTINGS, storage_of

if apps.ready and settings.CACHED_STORE == "db":
    # A server then does not start, because Django's middleware imports the engine.
    require_app()


class SessionStore(BaseSessionStore):
    """A session of another engine, read from the cache that ``SESSION_CACHE_ALIAS`` names."""

    settings_used = CACHED_DATABASE_SETTINGS

    @classmethod
    def make_storage(cls) -> LayeredStorage:
        cache = storage_for(engine_setting("SESSION_CACHE_ALIAS"))
        return LayeredStorage(
            cache,
            storage_of(engine_setting("CACHED_STORE")),
            lease=settings.CACHE_LEASE,
            retry=settings.STORE_RETRY,
            process_began=process_began if cache.shared else never,
        )
