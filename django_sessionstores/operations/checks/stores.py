"""Checks of the stores that hold sessions on a live site: memory, caches, databases and files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings as django_settings
from django.core import checks
from django.core.cache.backends.locmem import LocMemCache
from django.db import connections
from django.utils.translation import gettext_noop as _

from ...conf import full_name
from ...core.phrases import Phrase
from ...storages.base import CacheStorage, Storage
from ...storages.caches.selection import cache_object
from ...storages.inspection import ManyTries
from ...storages.registered import RegisteredStorage
from .configuration import parts, production_storage, usable_storage


@checks.register
def check_memory(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the memory engine is used only for development and tests."""
    # check_cache reports a cache in the memory of one process.
    if not any(
        not (part.shared or isinstance(part, CacheStorage)) for part in parts(production_storage())
    ):
        return []
    return [
        checks.Error(
            Phrase(
                _(
                    "The memory engine keeps sessions in one process: a second worker does not see "
                    "them, and a restart ends them all."
                )
            ),
            hint=Phrase(_("Set SESSION_ENGINE to the db, cached_db, cache or file engine.")),
            id="sessionstores.E006",
        )
    ]


# A cache that drops its entries when it has more than this would drop sessions of a live site.
_FEW_ENTRIES: Final = 10_000


@checks.register
def check_cache(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the cache that holds sessions does not lose them on its own."""
    storage = production_storage()
    both = (
        (storage.data, storage.registry) if isinstance(storage, RegisteredStorage) else (storage,)
    )
    in_cache = [
        each
        for each in both
        if each and any(isinstance(part, CacheStorage) for part in parts(each))
    ]
    if not in_cache:
        return []
    alias = django_settings.SESSION_CACHE_ALIAS
    cache = cache_object(alias)
    messages: list[checks.CheckMessage] = []
    if isinstance(cache, LocMemCache):
        messages.append(_cache_in_one_process(alias))
    if all(each.durable for each in in_cache):
        return messages  # The cache keeps its entries, or the database has what the cache loses.
    if isinstance(cache, LocMemCache) and cache._max_entries < _FEW_ENTRIES:
        messages.append(_cache_too_small(alias, cache._max_entries))
    if alias == "default":
        messages.append(_cache_not_separate())
    return messages


def _cache_in_one_process(alias: str) -> checks.Warning:
    return checks.Warning(
        Phrase(
            _(
                "The cache %(cache)s, which has sessions or copies of them, is in the memory of "
                "one process: other workers do not see its sessions, and a restart loses them."
            ),
            cache=repr(alias),
        ),
        hint=Phrase(
            _("Point SESSION_CACHE_ALIAS to a cache that all workers share, such as Redis.")
        ),
        id="sessionstores.W001",
    )


def _cache_too_small(alias: str, limit: int) -> checks.Warning:
    return checks.Warning(
        Phrase(
            _(
                "The cache %(cache)s holds %(limit)s entries; from then on it drops "
                "sessions that are still in use."
            ),
            cache=repr(alias),
            limit=limit,
        ),
        hint=Phrase(
            _("Raise %(setting)s above the number of sessions, or use the db or cached_db engine."),
            setting=f"CACHES[{alias!r}]['OPTIONS']['MAX_ENTRIES']",
        ),
        id="sessionstores.W002",
    )


def _cache_not_separate() -> checks.Warning:
    return checks.Warning(
        Phrase(_("Sessions share the cache 'default': cache.clear() logs everyone out.")),
        hint=Phrase(
            _(
                "Give sessions a cache of their own in CACHES, with its own server or "
                "database number, and name it in SESSION_CACHE_ALIAS."
            )
        ),
        id="sessionstores.W003",
    )


# For each database client, by its module, the option that limits how long it waits for the
# server's greeting.
_CONNECT_TIMEOUTS: Final = {
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "MySQLdb": "connect_timeout",
    "pymysql": "read_timeout",
}
# Options that have a timeout of their own, or name a file that may set one.
_OTHER_TIMEOUTS: Final = {"pool", "service", "read_default_file"}


@checks.register
def check_database(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that opening a connection to a database that hangs has a timeout."""
    aliases = dict.fromkeys(part.database() for part in parts(production_storage()))
    messages: list[checks.CheckMessage] = []
    for alias in filter(None, aliases):
        connection = connections[alias]
        client = getattr(connection, "Database", None)
        option = _CONNECT_TIMEOUTS.get(getattr(client, "__name__", ""))
        options = connection.settings_dict["OPTIONS"]
        if option and not {option, *_OTHER_TIMEOUTS} & options.keys():
            messages.append(_no_connect_timeout(alias, option))
        pool = options.get("pool")
        if pool and "timeout" not in (pool if isinstance(pool, dict) else {}):
            messages.append(_no_pool_timeout(alias))
    return messages


def _no_connect_timeout(alias: str, option: str) -> checks.Warning:
    return checks.Warning(
        Phrase(
            _(
                "If the database %(database)s hangs, each request that opens a connection"
                " to it hangs as well, for minutes or forever."
            ),
            database=repr(alias),
        ),
        hint=Phrase(
            _("Set %(setting)s to a few seconds. %(option)s counts once there is a connection."),
            setting=f"DATABASES[{alias!r}]['OPTIONS'][{option!r}]",
            option=full_name("DATABASE_TIMEOUT"),
        ),
        id="sessionstores.W006",
    )


def _no_pool_timeout(alias: str) -> checks.Warning:
    return checks.Warning(
        Phrase(
            _(
                "If the database %(database)s hangs, or its pool is used up, a request waits 30 "
                "seconds for a connection."
            ),
            database=repr(alias),
        ),
        hint=Phrase(
            _("Set %(setting)s to a few seconds."),
            setting=f"DATABASES[{alias!r}]['OPTIONS']['pool']['timeout']",
        ),
        id="sessionstores.W036",
    )


@checks.register
def check_cache_timeouts(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that calls of the servers that hold sessions have a timeout."""
    return [
        _no_timeout(part, setting)
        for part in parts(production_storage())
        if (setting := part.missing_timeout())
    ]


def _no_timeout(part: Storage, setting: str) -> checks.Warning:
    text = Phrase(
        _("Sessions are in %(store)s. If that hangs, a request waits for it without end."),
        store=part.describe(),
    )
    if _holds_copies(part):
        text = Phrase(
            _(
                "Copies of sessions are in %(store)s. If that hangs, a request waits for it "
                "without end."
            ),
            store=part.describe(),
        )
    return checks.Warning(
        text,
        hint=Phrase(_("Set %(setting)s to a second or two."), setting=setting),
        id="sessionstores.W037",
    )


@checks.register
def check_cache_retries(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that clients do not try a server that hangs again and again while a request waits."""
    return [
        _many_tries(part.describe(), found)
        for part in parts(production_storage())
        if (found := part.many_tries())
    ]


def _many_tries(store: str, tries: ManyTries) -> checks.Warning:
    text = Phrase(
        _(
            "If one of the servers of %(store)s hangs, the client tries it %(number)s times, and a "
            "request waits for each."
        ),
        store=store,
        number=tries.number,
    )
    if not tries.number:
        text = Phrase(
            _(
                "If one of the servers of %(store)s hangs, the client tries it without end, and a "
                "request waits for that."
            ),
            store=store,
        )
    return checks.Warning(
        text,
        hint=Phrase(
            _(
                "Set %(setting)s to %(value)s. Import these classes from redis.retry and "
                "redis.backoff."
            ),
            setting=tries.setting,
            value=tries.value,
        ),
        id="sessionstores.W042",
    )


@checks.register
def check_write_access(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that this process may write to the folder, or the SQLite file, that sessions are in."""
    return [
        _unwritable(part, obstacle)
        for part in parts(usable_storage())
        if not part.asks_for_rights and (obstacle := part.write_obstacle())
    ]


def _unwritable(part: Storage, obstacle: str) -> checks.Warning:
    text = Phrase(_("Sessions are in %(store)s, which cannot be written."), store=part.describe())
    if _holds_copies(part):
        text = Phrase(
            _("Copies of sessions are in %(store)s, which cannot be written."),
            store=part.describe(),
        )
    return checks.Warning(text, hint=obstacle, id="sessionstores.W024")


def _holds_copies(part: Storage) -> bool:
    return isinstance(part, CacheStorage) and part.holds_copies
