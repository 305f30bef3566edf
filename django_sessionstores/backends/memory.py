"""Sessions in the memory of one process, for development and tests."""

from django_sessionstores.conf import settings
from django_sessionstores.session import SessionStore as BaseSessionStore
from django_sessionstores.storages.memory import MemoryStorage


class SessionStore(BaseSessionStore):
    """Sessions that end with the process, at most ``SESSIONSTORES["MEMORY_MAX_SESSIONS"]``."""

    @classmethod
    def make_storage(cls) -> MemoryStorage:
        return MemoryStorage(settings.MEMORY_MAX_SESSIONS)
