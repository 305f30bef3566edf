"""Directives that take facts from the package, so that no page can contradict it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from django_sessionstores import signals
from django_sessionstores.storages.base import CacheStorage, Storage
from django_sessionstores.storages.caches.database_cache import DatabaseCacheStorage
from django_sessionstores.storages.caches.file_cache import FileCacheStorage
from django_sessionstores.storages.caches.portable import LocMemStorage, PortableStorage
from django_sessionstores.storages.cookie import CookieStorage
from django_sessionstores.storages.files.storage import FileStorage
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.memcached.storage import MemcachedStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.mongodb.storage import MongoDBStorage
from django_sessionstores.storages.redis.storage import RedisStorage
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.storages.sql.storage import DatabaseStorage


def unconnected(kind: type[Storage]) -> Any:
    """A storage of which only what its class declares may be asked."""
    return kind.__new__(kind)


STORAGES: Final[dict[str, type[Storage] | Storage]] = {
    "``memory``": MemoryStorage,
    "``file``": FileStorage,
    "``db``": DatabaseStorage,
    "``cache`` on Redis": RedisStorage,
    "``cache`` on memcached": MemcachedStorage,
    "``cache`` on DatabaseCache": DatabaseCacheStorage,
    "``cache`` on FileBasedCache": FileCacheStorage,
    "``cache`` on LocMemCache": LocMemStorage,
    "``cache`` on another cache": PortableStorage,
    "``cached_db``": LayeredStorage(CacheStorage(), unconnected(DatabaseStorage), lease=1, retry=1),
    "``mongodb``": MongoDBStorage,
    "``cookie``": CookieStorage,
    "``cookie``, registered in ``db`` or ``cached_db``": RegisteredStorage(
        CookieStorage(), unconnected(DatabaseStorage), window=1
    ),
    "``cookie``, registered in ``cache`` on Redis": RegisteredStorage(
        CookieStorage(), unconnected(RedisStorage), window=1
    ),
    "``cache`` on memcached or another cache, registered in ``db``": RegisteredStorage(
        unconnected(MemcachedStorage), unconnected(DatabaseStorage), window=1
    ),
}

FACTS: Final = (
    ("Ends", "authoritative", "A session can be ended."),
    ("Merges", "authoritative", "The changes of parallel requests are all kept."),
    ("Shared", "shared", "All processes of the site see the same sessions."),
    ("Durable", "durable", "The store keeps sessions until they expire."),
    ("Expires", "self_expiring", "The store drops expired sessions itself."),
    ("Lists", "lists", "The store tells which sessions there are."),
    ("User index", "indexes_users", "The sessions of a user come from an index."),
    ("Count index", "indexes_counts", "The number of all sessions comes from an index."),
)
"""The columns: heading, attribute of storages, meaning."""


def storage_matrix() -> list[str]:
    """What each storage declares of itself, as the lines of a list and a table."""
    lines = [f"* *{heading}*: {meaning}" for heading, _flag, meaning in FACTS]
    lines += ["", ".. list-table::", "   :header-rows: 1", "   :widths: 30 8 10 10 10 10 8 8 8", ""]
    lines += _row("Engine and store", *(heading for heading, _flag, _meaning in FACTS))
    for name, storage in STORAGES.items():
        # Of a class, what depends on a setting is a property, and so a yes.
        cells = ("yes" if getattr(storage, flag) else "no" for _heading, flag, _meaning in FACTS)
        lines += _row(name, *cells)
    return lines


def _row(first: str, *others: str) -> list[str]:
    return [f"   * - {first}", *(f"     - {cell}" for cell in others)]


def reasons(of: str) -> list[str]:
    """What the signals call the causes of ends and rejections, as the lines of a table."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 20 80", ""]
    lines += _row("``reason``", "What it says")
    for name, meaning in getattr(signals, of).items():
        lines += _row(f"``{name}``", meaning)
    return lines


class Generated(SphinxDirective):
    """Puts lines made from the package in the place of the directive."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        container = nodes.Element()
        source = StringList(self.lines(), source="generated from the package")
        self.state.nested_parse(source, self.content_offset, container)
        return container.children


class StorageMatrix(Generated):
    """``.. storage-matrix::``"""

    lines = staticmethod(storage_matrix)


class Reasons(Generated):
    """``.. reasons:: END_REASONS``"""

    required_arguments = 1

    def lines(self) -> list[str]:
        return reasons(self.arguments[0])


def replay_language() -> list[str]:
    """The words of the programs that the simulation replays, as the lines of tables."""
    from django_sessionstores.testing.simulation import language
    from django_sessionstores.testing.simulation.operations import OPERATIONS
    from django_sessionstores.testing.simulation.views import spelling

    views = {
        spelling(name): (inspect.getdoc(view) or "").partition("\n")[0]
        for name, view in OPERATIONS.items()
    }
    tables = {
        "Step": language.STEPS,
        "Store": language.STORES,
        "View": views,
        "Argument of a view": language.ARGUMENTS,
        "At the end of a view": language.ENDS,
        "Around a sync view": language.TRANSACTIONS,
        "Option of the site": language.OPTIONS,
    }
    return [line for heading, words in tables.items() for line in _words(heading, words)]


def simulation_setups() -> list[str]:
    """What has happened before the pairs that the exhaustive run tries, as the lines of a table."""
    from django_sessionstores.testing.simulation.setups import SETUPS

    return _words("Setup", {name: setup.meaning for name, setup in SETUPS.items()})


def _words(heading: str, words: Mapping[str, str]) -> list[str]:
    lines = ["", ".. list-table::", "   :header-rows: 1", "   :widths: 22 78", ""]
    lines += _row(heading, "Meaning")
    for word, meaning in words.items():
        lines += _row(f"``{word}``", meaning)
    return lines


class ReplayLanguage(Generated):
    """``.. replay-language::``"""

    lines = staticmethod(replay_language)


class SimulationSetups(Generated):
    """``.. simulation-setups::``"""

    lines = staticmethod(simulation_setups)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("storage-matrix", StorageMatrix)
    app.add_directive("reasons", Reasons)
    app.add_directive("replay-language", ReplayLanguage)
    app.add_directive("simulation-setups", SimulationSetups)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
