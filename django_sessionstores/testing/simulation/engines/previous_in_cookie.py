"""The previous backend of a site that has migrated, with sessions in the cookie."""

from ..internals import CookieSessionStore, Storage
from ..recording import previous_storage


class SessionStore(CookieSessionStore):
    """Sessions in the cookie, as they were before the migration."""

    @classmethod
    def make_storage(cls) -> Storage:
        return previous_storage()

    @classmethod
    def storage(cls) -> Storage:
        # The settings were different when this backend was in use.
        return cls.own_storage()
