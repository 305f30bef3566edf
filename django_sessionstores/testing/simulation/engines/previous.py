"""The previous backend of a site that has migrated, with random session keys."""

from ..internals import SessionStore as BaseSessionStore
from ..internals import Storage
from ..recording import previous_storage


class SessionStore(BaseSessionStore):
    """Sessions in the previous storage of the running world."""

    @classmethod
    def make_storage(cls) -> Storage:
        return previous_storage()

    @classmethod
    def storage(cls) -> Storage:
        # The settings were different when this backend was in use.
        return cls.own_storage()
