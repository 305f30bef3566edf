"""The session engine ``cookie``: sessions in the browser's cookie, encrypted.

If ``REGISTRY`` is set, they are in a registry as well.
"""

from ..sessions import SessionStore as BaseSessionStore
from ..storages.base import Storage
from ..storages.cookie import CookieStorage
from . import REGISTRY_SETTINGS, with_registry


class SessionStore(BaseSessionStore):
    """A session whose key contains the session, so that the key changes with each save."""

    settings_used = REGISTRY_SETTINGS

    @classmethod
    def make_storage(cls) -> Storage:
        return with_registry(CookieStorage())
