"""The session engine ``db``: sessions in a database table."""

from ..sessions import SessionStore as BaseSessionStore
from ..storages.sql.storage import DatabaseStorage
from . import DATABASE_SETTINGS


class SessionStore(BaseSessionStore):
    """A session in the table of `StoredSession`, in the database that the routers choose."""

    settings_used = DATABASE_SETTINGS

    @classmethod
    def make_storage(cls) -> DatabaseStorage:
        return DatabaseStorage()
