"""Sessions in the browser's cookie, sealed, and in a registry where `REGISTRY` names one."""

from django_sessionstores.backends import with_registry
from django_sessionstores.session import SessionStore as BaseSessionStore
from django_sessionstores.storages.base import Storage
from django_sessionstores.storages.cookie import CookieStorage, is_plausible


class SessionStore(BaseSessionStore):
    """The session key is the session: it changes with each save."""

    @classmethod
    def make_storage(cls) -> Storage:
        return with_registry(CookieStorage())

    def _validate_session_key(self, key: object) -> bool:
        return is_plausible(key)
