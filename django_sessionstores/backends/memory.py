"""The session engine ``memory``: sessions in the memory of one process.

It is for development and tests.
"""

from ..conf import settings
from ..sessions import SessionStore as BaseSessionStore
from ..storages.memory import MemoryStorage


class SessionStore(BaseSessionStore):
    """A session that ends with the process.

    There are at most ``SESSIONSTORES["MEMORY_MAX_SESSIONS"]`` of them.
    """

    settings_used = ("MEMORY_MAX_SESSIONS",)

    @classmethod
    def make_storage(cls) -> MemoryStorage:
        return MemoryStorage(settings.MEMORY_MAX_SESSIONS)
