"""The items of Django's cache on memcached, for sessions of Django's own backend."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any

from django.core.cache import caches

from ..pool_waits import pauses
from .client import BROKEN, TIMEOUT_SECONDS


class DjangoItems:
    """The items of a PyMemcacheCache, as Django finds and unpickles them.

    Django uses pymemcache's HashClient. That answers "no such key" while a node is down, and then
    moves the node's keys to others. Here a node that is down raises what its client raises.
    """

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._open()

    def get(self, key: str) -> Any:
        """Return the value of a key, or ``None``."""
        return self._ask("get", key)

    def delete(self, key: str) -> None:
        """Remove a key."""
        self._ask("delete", key)

    @property
    def names(self) -> Collection[str]:
        """The names of the nodes."""
        return self._nodes.clients.keys()  # type: ignore[no-any-return]

    def node_of(self, key: str) -> str:
        """Return the name of the node that has a key."""
        return str(self._nodes.hasher.get_node(self._cache.make_and_validate_key(key)))

    def close(self) -> None:
        """Close the connections."""
        self._nodes.close()

    def _ask(self, command: str, key: str) -> Any:
        if self._process != os.getpid():
            self._open()
        # Chosen from all nodes: this object never removes one.
        client = self._nodes.clients[self.node_of(key)]
        ask = partial(getattr(client, command), self._cache.make_and_validate_key(key))
        try:
            return ask()
        except BROKEN:  # Closed while it was idle, most likely.
            return ask()
        except RuntimeError:  # The pool is used up.
            for _ in pauses(self._cache._options["timeout"] or TIMEOUT_SECONDS):
                with suppress(RuntimeError):
                    return ask()
            raise

    def _open(self) -> None:
        cache: Any = caches.create_connection(self._alias)
        cache._options = {
            "connect_timeout": TIMEOUT_SECONDS,
            "timeout": TIMEOUT_SECONDS,
            **cache._options,
            "use_pooling": True,
        }
        self._cache, self._nodes = cache, cache._cache
        self._process = os.getpid()
