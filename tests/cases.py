"""Every engine on every store that it must work on: the rows that engine tests run over.

A new storage is one row of `CASES`, after a `Store` if it brings one. If it has an engine of its
own, the tests that need to know more of it fail, and tell what to add.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from django.core.cache import caches
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections
from django.test import override_settings

from tests import settings as test_settings
from tests.services import (
    HOST,
    MariaDB,
    Memcached,
    MemcachedNodes,
    MongoDB,
    PostgreSQL,
    Redis,
    Service,
    shared_service,
    skip_or_fail,
    stand_in_for_shared,
)

BACKENDS = "django_sessionstores.backends"
CACHE_ALIAS = "sessions"
CACHE_TABLE = "session_cache"
MONGODB_DATABASE = "sessions"


@dataclass(frozen=True)
class Store:
    """A cache, a database or another store: how Django is told about it, given a started `server`.

    ``configure`` gets None where there is no server, and makes an entry of CACHES or DATABASES, or
    options of SESSIONSTORES.
    """

    name: str
    configure: Callable[[Any], dict[str, Any]]
    server: type[Service] | None = None


_EMPTIED_BY_STORE: Final = frozenset(
    {"memory", "file", "db", "cache", "cached_db", "cookie", "mongodb"}
)
"""The engines whose stores `Engine.empty` knows."""
_EMPTY_INDEX: Final = "15"
"""The database of Redis that keeps an index without sessions, see `Engine.begin_index`."""
_END_OF_TIME: Final = 2**53
"""A moment, in milliseconds, at which every record has expired."""


def _folder(name: str) -> Path:
    return Path(test_settings.FOLDER) / name


# Databases ------------------------------------------------------------------------------------

SQLITE = Store("sqlite", lambda _: {})  # The default database of the test settings.
POSTGRESQL = Store(
    "postgresql",
    lambda server: {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": HOST,
        "PORT": server.port,
        "USER": server.USER,
        "NAME": server.DATABASE,
    },
    PostgreSQL,
)
MARIADB = Store(
    "mariadb",
    lambda server: {
        "ENGINE": "django.db.backends.mysql",
        "HOST": HOST,
        "PORT": server.port,
        "USER": server.USER,
        "NAME": server.DATABASE,
    },
    MariaDB,
)

# Caches ---------------------------------------------------------------------------------------


def _cache(backend: str, **entry: Any) -> dict[str, Any]:
    return {"BACKEND": backend, **entry}


DJANGO_REDIS = Store(
    "django-redis",
    lambda server: _cache("django_redis.cache.RedisCache", LOCATION=server.url()),
    Redis,
)
REDIS_CACHE = Store(
    "redis-cache",
    lambda server: _cache("django.core.cache.backends.redis.RedisCache", LOCATION=server.url()),
    Redis,
)
_PYMEMCACHE = "django.core.cache.backends.memcached.PyMemcacheCache"
MEMCACHED = Store(
    "memcached", lambda server: _cache(_PYMEMCACHE, LOCATION=server.addresses), Memcached
)
MEMCACHED_NODES = Store(
    "memcached-nodes", lambda server: _cache(_PYMEMCACHE, LOCATION=server.addresses), MemcachedNodes
)
LOCMEM = Store(
    "locmem",
    lambda _: _cache("django.core.cache.backends.locmem.LocMemCache", LOCATION=CACHE_ALIAS),
)
DATABASE_CACHE = Store(
    "database-cache",
    lambda _: _cache("django.core.cache.backends.db.DatabaseCache", LOCATION=CACHE_TABLE),
)
FILE_CACHE = Store(
    "file-cache",
    lambda _: _cache(
        "django.core.cache.backends.filebased.FileBasedCache", LOCATION=_folder("cache")
    ),
)

# Stores that are neither ------------------------------------------------------------------------

MONGODB = Store(
    "mongodb",
    lambda server: {"MONGODB_URI": server.url(), "MONGODB_DATABASE": MONGODB_DATABASE},
    MongoDB,
)

# Rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One engine on one combination of stores."""

    engine: str
    """The last part of SESSION_ENGINE."""
    cache: Store | None = None
    database: Store | None = None
    other: Store | None = None
    """The store that options of SESSIONSTORES name."""

    @cached_property
    def stores(self) -> list[Store]:
        return [each for each in (self.cache, self.database, self.other) if each is not None]

    @cached_property
    def id(self) -> str:
        stores = "+".join(store.name for store in self.stores)
        if self.engine == "cookie" and not stores:
            stores = "unregistered"
        return f"{self.engine}:{stores}".rstrip(":")

    @cached_property
    def registry(self) -> str:
        """Return the engine that keeps the registry, which uses the stores; empty without one."""
        if self.engine == "cache":
            return "db" if self.database else ""
        if self.engine != "cookie":
            return ""
        if self.other:
            return "mongodb"
        return {1: "cache" if self.cache else "db", 2: "cached_db"}.get(len(self.stores), "")

    @cached_property
    def names(self) -> set[str]:
        """Everything by which the case can be selected."""
        servers = {store.server.name for store in self.stores if store.server}
        names = {self.id, *(store.name for store in self.stores), *servers}
        # Tests that name cached_db expect that it takes part in the transactions of a database.
        is_usual = self.engine != "cached_db" or self.database is not None
        return names | {self.engine} if is_usual else names


CASES = (
    Case("memory"),
    Case("file"),
    Case("db", database=SQLITE),
    Case("db", database=POSTGRESQL),
    Case("db", database=MARIADB),
    Case("cache", DJANGO_REDIS),
    Case("cache", REDIS_CACHE),
    Case("cache", MEMCACHED),
    Case("cache", MEMCACHED_NODES),
    Case("cache", LOCMEM),
    Case("cache", DATABASE_CACHE),
    Case("cache", FILE_CACHE),
    Case("cached_db", REDIS_CACHE, POSTGRESQL),
    Case("cached_db", MEMCACHED, MARIADB),
    Case("cached_db", LOCMEM, SQLITE),
    Case("cached_db", DJANGO_REDIS, SQLITE),
    Case("cached_db", DATABASE_CACHE, SQLITE),
    Case("cached_db", FILE_CACHE, SQLITE),
    Case("cookie"),
    Case("cookie", database=SQLITE),
    Case("cookie", DJANGO_REDIS),
    Case("cookie", REDIS_CACHE, POSTGRESQL),
    Case("cache", MEMCACHED, SQLITE),
    Case("mongodb", other=MONGODB),
    Case("cookie", other=MONGODB),
    Case("cached_db", LOCMEM, other=MONGODB),
)


def select(*names: str) -> list[Case]:
    """Return the cases with any of the names: ids, engines, stores or servers. None: all cases.

    Raises ``ValueError`` for a name that selects nothing: its tests would silently not exist.
    """
    if unknown := set(names) - set().union(*(case.names for case in CASES)):
        raise ValueError(f"No case has the name {', '.join(sorted(unknown))}")
    return [case for case in CASES if not names or case.names & set(names)]


KINDS: Final = frozenset(
    {
        "memory",
        "file",
        "db:sqlite",
        "db:postgresql",
        "cache:django-redis",
        "cache:memcached",
        "cached_db:redis-cache+postgresql",
        "cookie:sqlite",
    }
)
"""The cases that differ in kind: what holds on these nearly always holds on the others."""

EXTRA: Final = frozenset({"mongodb:mongodb", "cookie:mongodb", "cached_db:locmem+mongodb"})
"""The cases that are of a kind of their own, but run only where all do, or alone."""


def representatives(cases: list[Case]) -> list[Case]:
    """Return those of some cases that differ in kind.

    Of an engine that has none among them, the first one stands for the others, unless it is an
    `EXTRA` one beside others.
    """
    kept = [case for case in cases if case.id in KINDS]
    rest = {case.engine: case for case in reversed(cases) if case.id not in EXTRA}
    for case in kept:
        rest.pop(case.engine, None)
    return [case for case in cases if case in kept or case in rest.values()] or cases


# Running a case -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Engine:
    """A case whose stores run and whose settings are in force."""

    case: Case
    SessionStore: type[Any]
    database: str
    """The alias of the database that the package's tables are in."""
    servers: dict[type[Service], Service] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.case.id

    @property
    def name(self) -> str:
        """Return the last part of SESSION_ENGINE, such as ``cached_db``."""
        return self.case.engine

    @property
    def storage(self) -> Any:
        return self.SessionStore.own_storage()

    @property
    def rotates_by_age(self) -> bool:
        """Whether sessions of users get another key after ``ROTATE_AFTER``."""
        return self.storage.lists and not self.storage.holds_in_key

    @property
    def cache(self) -> Any:
        """Django's cache object. Of an engine without one, ``InvalidCacheBackendError``."""
        return caches[CACHE_ALIAS]

    @property
    def file_path(self) -> Path:
        """Where the ``file`` engine keeps its sessions."""
        return _folder("sessions")

    def server(self, *kinds: type[Service]) -> Any:
        """Return the one server of the case, or that of the given kind."""
        found = [server for kind, server in self.servers.items() if not kinds or kind in kinds]
        if len(found) != 1:
            raise LookupError(f"{self.id} has {len(found)} such servers")
        return found[0]

    def empty_cache(self) -> None:
        """Remove all that the cache holds, past the package."""
        self.cache.clear()
        if self.case.cache is FILE_CACHE:  # Which clears its own entries only.
            _empty_folder(_folder("cache"))

    def begin_index(
        self, kept_in: str = _EMPTY_INDEX, reindex: Callable[[], object] | None = None
    ) -> None:
        """Copy an index without sessions into an empty Redis, if the engine has one there.

        Otherwise the first list would build it, which takes longer than most tests. The database
        ``kept_in`` has what ``reindex`` has built once.
        """
        if not self._has_index:
            return
        copy = """
            redis.call('SELECT', ARGV[1])
            for _, key in ipairs(redis.call('KEYS', '*')) do
                redis.call('COPY', key, key, 'DB', ARGV[2])
            end
            return redis.call('DBSIZE')
        """
        server = self.server(Redis)
        if server.cli("EVAL", copy, "0", kept_in, "0") == "0":
            (reindex or self.storage.reindex)()
            server.cli("EVAL", copy, "0", "0", kept_in)

    def forget_index(self, kept_in: str) -> None:
        """Remove an index without sessions that `begin_index` has kept."""
        if self._has_index:
            empty = "redis.call('SELECT', ARGV[1]) redis.call('FLUSHDB')"
            self.server(Redis).cli("EVAL", empty, "0", kept_in)

    @property
    def _has_index(self) -> bool:
        return self.case.stores in ([DJANGO_REDIS], [REDIS_CACHE])

    def empty(self) -> None:
        """Remove all sessions, past the package: straight in the stores that are known here.

        What another storage has is purged as if all of it had expired.
        """
        if self.case.engine == "memory":
            empty_memory()
        if self.case.cache is not None:
            self.empty_cache()
        if self.case.database is not None:
            from django_sessionstores.models import StoredSession

            StoredSession._base_manager.using(self.database).all()._raw_delete(self.database)
        if self.case.other is MONGODB:
            everything = [{"q": {}, "limit": 0}]
            command = {"delete": "django_sessionstores", "deletes": everything}
            # The benchmark removes a million.
            assert self.server(MongoDB).ask(command, MONGODB_DATABASE, seconds=300)["ok"]
        # The folder that SESSION_FILE_PATH names, which more engines than "file" may use.
        self.file_path.mkdir(mode=0o700, exist_ok=True)
        if self.case.engine == "file":
            _empty_folder(self.file_path)
        if self.case.engine not in _EMPTIED_BY_STORE:
            while self.storage.purge(_END_OF_TIME, 1000):
                pass


def skip_unless_rotating(engine: Engine) -> None:
    """Skip a test that needs the rotation of keys by their age, if the engine has none."""
    import pytest

    if not engine.rotates_by_age:
        pytest.skip(
            f"{engine.id} does not rotate keys by age: "
            + (
                "its keys hold the records"
                if engine.storage.holds_in_key
                else "it cannot list sessions"
            )
        )


def empty_memory() -> None:
    """Remove the sessions that the engine ``memory`` keeps in this process."""
    from django_sessionstores.backends.memory import SessionStore

    storage: Any = SessionStore.own_storage()
    for records in (storage._sessions, storage._tombstones):
        records.clear()


def remove_users() -> None:
    """Remove all users, and tell nobody: for each, the package would look for sessions to end."""
    from django.contrib.admin.models import LogEntry
    from django.contrib.auth import get_user_model

    model = get_user_model()
    connection = connections[model._base_manager.db]
    # After each test, and most make no users: the query of a manager takes ten times as long.
    with connection.cursor() as cursor:
        table = connection.ops.quote_name(model._meta.db_table)
        cursor.execute(f"SELECT EXISTS (SELECT 1 FROM {table})")
        if not cursor.fetchone()[0]:
            return
    groups, permissions = model.groups.through, model.user_permissions.through
    for each in (LogEntry, groups, permissions, model):
        rows = each._base_manager.all()
        rows._raw_delete(rows.db)


def _empty_folder(folder: Path) -> None:
    """Remove what is in a folder and in its folders, which stay: one that is missing would be taken
    for one that is not mounted."""
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(mode=0o700)
        else:
            path.unlink(missing_ok=True)


class OneDatabase:
    """A database router that sends the package's tables and the cache table to one database."""

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        ours = model._meta.app_label in {"django_sessionstores", "django_cache"}
        return self.alias if ours else None

    db_for_write = db_for_read


def engine_path(case: Case) -> str:
    """SESSION_ENGINE for the case. Skips where the module is not there."""
    path = f"{BACKENDS}.{case.engine}"
    if find_spec(path) is None:
        skip_or_fail(f"The engine {path} does not exist")
    return path


@contextmanager
def activate(
    case: Case,
    *,
    private: bool | Mapping[type[Service], Callable[[], Service]] = False,
    prepare: bool = True,
    **settings: Any,
) -> Iterator[Engine]:
    """Put a case in force: stores started and empty, settings overridden.

    ``private`` starts servers for this one time, which a test may do with as it likes; a mapping
    says how to make them, ``{Redis: partial(Redis, maxmemory="3mb")}``. Subprocesses started
    meanwhile reach the same stores through `attach`. Further ``settings`` are overridden as well.
    """
    # Not at the top, where the apps are not ready.
    from django_sessionstores.operations.indexes import make_indexes

    with ExitStack() as stack:
        path = engine_path(case)
        servers: dict[type[Service], Service] = {}
        for kind in {store.server for store in case.stores if store.server}:
            if private:
                make = private.get(kind, kind) if isinstance(private, Mapping) else kind
                servers[kind] = stack.enter_context(make())
                stack.enter_context(stand_in_for_shared(servers[kind]))
            else:
                servers[kind] = shared_service(kind)

        def entry(store: Store) -> dict[str, Any]:
            return store.configure(servers[store.server] if store.server else None)

        overrides: dict[str, Any] = {
            "SESSION_ENGINE": path,
            "SESSION_FILE_PATH": _folder("sessions"),
        }
        options = {"REGISTRY": case.registry} if case.registry else {}
        if case.other is not None:
            options |= entry(case.other)
            if case.engine == "cached_db":
                options["CACHED_STORE"] = "mongodb"
        if options:
            overrides["SESSIONSTORES"] = options
        if case.cache is not None:
            overrides["CACHES"] = {
                "default": _cache("django.core.cache.backends.locmem.LocMemCache"),
                CACHE_ALIAS: entry(case.cache),
            }
            overrides["SESSION_CACHE_ALIAS"] = CACHE_ALIAS
        alias = DEFAULT_DB_ALIAS
        if case.database is not None and case.database.server is not None:
            server = servers[case.database.server]
            # The port tells a private server from the shared one.
            alias = f"{case.database.name}_{server.port}"
            _add_database(alias, entry(case.database), migrate=prepare)
            if private:
                stack.callback(_remove_database, alias)
            overrides["DATABASE_ROUTERS"] = [OneDatabase(alias)]
        stack.enter_context(override_settings(**(overrides | settings)))
        engine = Engine(case, import_module(path).SessionStore, alias, servers)
        if prepare:
            if case.cache is DATABASE_CACHE:
                call_command("createcachetable", database=alias, verbosity=0)
            if case.other is MONGODB:
                make_indexes()  # As `migrate` does.
            engine.empty()
            if not private:
                engine.begin_index()
        yield engine


def _add_database(alias: str, entry: dict[str, Any], *, migrate: bool) -> None:
    """Make a database known to Django while it runs, with its tables."""
    if alias in connections.settings:
        return
    completed = connections.configure_settings({DEFAULT_DB_ALIAS: {}, alias: entry})
    connections.settings[alias] = completed[alias]
    if migrate:
        # Users and all else of Django's are in the default database.
        call_command(
            "migrate", "django_sessionstores", database=alias, verbosity=0, interactive=False
        )


def _remove_database(alias: str) -> None:
    connections[alias].close()
    del connections[alias]
    del connections.settings[alias]


def attach(case_id: str) -> AbstractContextManager[Engine]:
    """`activate`, in a subprocess of a test, what its parent has activated, as it stands."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    (case,) = select(case_id)
    return activate(case, prepare=False)
