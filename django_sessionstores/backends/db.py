"""Sessions in a database table, the engine of Django's ``db``."""

from django_sessionstores.session import SessionStore as BaseSessionStore
from django_sessionstores.storages.database import DatabaseStorage


class SessionStore(BaseSessionStore):
    """Sessions in the table of `StoredSession`, in the database that the routers say."""

    @classmethod
    def make_storage(cls) -> DatabaseStorage:
        return DatabaseStorage()
