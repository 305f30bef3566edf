"""The backend of a site with random session keys."""

from ..internals import SessionStore as BaseSessionStore
from ..internals import Storage
from ..recording import Recording, storage_in_use


class SessionStore(Recording, BaseSessionStore):
    """Sessions in the storage of the running world."""

    @classmethod
    def make_storage(cls) -> Storage:
        return storage_in_use()
