"""The session engine ``db``: sessions in a database table."""

from django.apps import apps

from ..sessions import SessionStore as BaseSessionStore
from ..storages.sql.storage import DatabaseStorage, require_app
from . import DATABASE_SETTINGS

if apps.ready:
    # A server then does not start, because Django's middleware imports the engine.
    require_app()


class SessionStore(BaseSessionStore):
    """A session in the table of `StoredSession`, in the database that the routers choose."""

    settings_used = DATABASE_SETTINGS

    @classmethod
    def make_storage(cls) -> DatabaseStorage:
        return DatabaseStorage()
