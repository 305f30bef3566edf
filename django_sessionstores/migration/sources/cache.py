"""Django's backend ``cache``."""

from __future__ import annotations

import pickle
import zlib
from contextlib import suppress
from typing import Any, Final

from django.contrib.sessions.backends.base import SessionBase
from django.core.cache import InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop

from ...conf import engine_setting
from ...core import clock, lifetime
from ...core.phrases import Phrase
from ...storages.caches.selection import Kind, kind_of
from ...storages.inspection import draw_ids
from .base import PreviousSession
from .django_backend import DjangoSource, require_dict, translate_errors


class CacheSource(DjangoSource):
    """Django's ``cache``."""

    lists = False
    # Raised by ``get`` for an entry that is not a pickle, or whose classes are gone.
    _damage: Final = (pickle.UnpicklingError, zlib.error, EOFError, ImportError, AttributeError)

    def __init__(self, engine: type[SessionBase]) -> None:
        super().__init__(engine)
        self.alias = cache_alias()

    def describe(self) -> str:
        return Phrase(
            gettext_noop("the sessions of Django's engine in the cache %(alias)s"),
            alias=repr(self.alias),
        )

    def find(self, key: str) -> PreviousSession | None:
        with translate_errors(self, self._damage):
            data = self._items.get(self._key(key))
        if data is None:
            return None
        data = require_dict(data)
        # The cache knows when the entry expires, but does not tell.
        expires = lifetime.expires_at(data.get("_session_expiry"), clock.now(), self._age)
        return self._session(data, None, expires, None)

    def remove(self, key: str) -> None:
        with translate_errors(self):
            self._items.delete(self._key(key))

    @property
    def _items(self) -> Any:
        return caches[self.alias]

    def _key(self, key: str) -> str:
        return str(self._store.cache_key_prefix + key)  # type: ignore[attr-defined]


class MemcachedSource(CacheSource):
    """Django's ``cache`` on a PyMemcacheCache, whose client hides that a node is down."""

    def __init__(self, engine: type[SessionBase]) -> None:
        super().__init__(engine)
        # Imported only if it is used, because it needs the client library.
        from ...storages.memcached.django_items import DjangoItems

        self._nodes = DjangoItems(self.alias)

    def nodes(self) -> dict[str, str]:
        return draw_ids(self._nodes.names, lambda unused: self._nodes.node_of(self._key(unused)))

    @property
    def _items(self) -> Any:
        return self._nodes

    def close(self) -> None:
        self._nodes.close()


def cache_source(engine: type[SessionBase]) -> CacheSource:
    """Return the source for Django's ``cache``, which depends on the kind of the cache."""
    is_memcached = False
    with suppress(ImproperlyConfigured):  # The cache cannot store sessions of this package.
        is_memcached = kind_of(cache_alias()) is Kind.MEMCACHED
    return MemcachedSource(engine) if is_memcached else CacheSource(engine)


def cache_alias() -> str:
    """Return the alias of the cache of the source. Raises ``InvalidCacheBackendError``."""
    alias: str = engine_setting("SESSION_CACHE_ALIAS")
    if alias not in caches.settings:
        raise InvalidCacheBackendError(
            f"The previous backend's SESSION_CACHE_ALIAS is {alias!r}, which CACHES does not have. "
            f"It has: {', '.join(map(repr, caches.settings))}."
        )
    return alias
