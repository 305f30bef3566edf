"""The backend of a site that keeps its sessions in the cookie."""

from ..internals import CookieSessionStore, Storage
from ..recording import Recording, storage_in_use


class SessionStore(Recording, CookieSessionStore):
    """Sessions in the cookie, registered in the storage of the running world."""

    @classmethod
    def make_storage(cls) -> Storage:
        return storage_in_use()
