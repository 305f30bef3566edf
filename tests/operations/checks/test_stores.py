"""Checks of the stores that hold sessions, one test per id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from django.db import connections
from django.test import override_settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from django_sessionstores.operations.checks import stores
from django_sessionstores.operations.checks.folders import check_file_path
from django_sessionstores.operations.checks.registry import check_registry
from django_sessionstores.operations.checks.stores import (
    check_cache,
    check_cache_retries,
    check_cache_timeouts,
    check_database,
    check_memory,
    check_write_access,
)
from tests.management.test_sessions import refuse
from tests.operations.checks.configurations import (
    ENGINES,
    HERE,
    LOCMEM,
    MEMCACHED,
    OWN_STORE,
    ids,
    with_registry,
)
from tests.operations.checks.own_store import OwnStorage
from tests.redis_versions import repeats
from tests.storages.redis.test_storage import DJANGO_REDIS, REDIS_CACHE


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        ({}, ["W024"]),
        ({"asks_for_rights": True}, []),
        ({"shared": False}, ["E006", "W024"]),
        ({"temporary": True}, ["W004", "W024"]),
    ],
    ids=lambda value: "-".join(value) or "none",
)
def test_a_storage_of_a_project_is_judged_by_its_traits(traits, expected, monkeypatch):
    """The checks must not pass over a storage because they do not know its class."""
    for name, value in traits.items():
        monkeypatch.setattr(OwnStorage, name, value)
    every = (check_memory, check_cache, check_database, check_file_path, check_write_access)
    with override_settings(SESSION_ENGINE=OWN_STORE):
        found = [message.id for check in every for message in check(None)]
    assert found == [f"sessionstores.{each}" for each in expected]


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("path", [ENGINES + "memory", HERE])
def test_memory_engine_is_refused_in_production(path):
    """E006: a second worker would not know who is logged in. Nor with an engine built on it."""
    with override_settings(SESSION_ENGINE=path):
        assert ids(check_memory) == ["sessionstores.E006"]


def test_memory_engine_is_fine_in_tests():
    """The suite of a project that uses it must not fail for it."""
    with override_settings(SESSION_ENGINE=ENGINES + "memory", DEBUG=False):
        assert ids(check_memory) == []


@pytest.mark.usefixtures("production")
def test_caches_that_lose_sessions():
    """W001, W002, W003: one process, too few entries, and cache.clear()."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cache", CACHES={"default": {"BACKEND": LOCMEM}}
    ):
        assert ids(check_cache) == [
            "sessionstores.W001",
            "sessionstores.W002",
            "sessionstores.W003",
        ]


@pytest.mark.usefixtures("production")
def test_a_cache_of_files_loses_no_sessions(tmp_path):
    """They are beside its entries: none is dropped for their number, none cleared. The folder is
    the cache's, whatever SESSION_FILE_PATH is."""
    files = "django.core.cache.backends.filebased.FileBasedCache"
    with override_settings(
        SESSION_ENGINE=ENGINES + "cache",
        SESSION_FILE_PATH=None,
        CACHES={"default": {"BACKEND": files, "LOCATION": tmp_path}},
    ):
        assert ids(check_cache) == []
        assert ids(check_file_path) == []


@pytest.mark.usefixtures("production")
def test_cached_db_may_lose_its_cache():
    """Only what the database cannot make good is worth a warning there."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cached_db", CACHES={"default": {"BACKEND": LOCMEM}}
    ):
        assert ids(check_cache) == ["sessionstores.W001"]


@pytest.mark.usefixtures("production")
def test_the_cache_of_a_registry_is_looked_at_as_one_of_sessions():
    """W001, W002: what is in one process, or dropped, ends sessions just the same."""
    with with_registry("cache"):
        assert ids(check_cache) == ["sessionstores.W001", "sessionstores.W002"]
        assert ids(check_registry) == []  # Said once.
    with with_registry("cached_db"):
        assert ids(check_cache) == ["sessionstores.W001"]
    with with_registry("db"):
        assert ids(check_cache) == []


@contextmanager
def database(client: str, **options) -> Iterator[None]:
    """Sessions in a database with these OPTIONS, as seen through a client. Nothing is connected."""
    backend = "mysql" if client in {"MySQLdb", "pymysql"} else "postgresql"
    entry = {"ENGINE": f"django.db.backends.{backend}", "NAME": "shop", "OPTIONS": options}
    connection = SimpleNamespace(Database=ModuleType(client), settings_dict=entry)
    with (
        override_settings(SESSION_ENGINE=ENGINES + "db"),
        mock.patch.object(stores, "connections", {"default": connection}),
    ):
        yield


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    ("client", "limit"),
    [
        ("psycopg", "connect_timeout"),
        ("psycopg2", "connect_timeout"),
        ("MySQLdb", "connect_timeout"),
        ("pymysql", "read_timeout"),
    ],
)
def test_opening_a_connection_should_have_a_limit(client, limit):
    """W006: a server that hangs would hang every worker. What helps depends on the client."""
    with database(client):
        (message,) = check_database(None)
    assert message.id == "sessionstores.W006"
    assert f"['OPTIONS']['{limit}']" in message.hint
    with database(client, **{limit: 2}):
        assert ids(check_database) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("options", [{"pool": {"timeout": 3}}, {"service": "shop"}], ids=str)
def test_a_limit_of_connecting_may_stand_elsewhere(options):
    """A pool gives up by itself, and a service file may say it: the check must not cry wolf."""
    with database("psycopg", **options):
        assert ids(check_database) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("pool", [True, {"max_size": 8}], ids=str)
def test_a_pool_should_not_be_waited_for_as_long_as_it_likes(pool):
    """W036: half a minute is not better than for ever for whoever waits for a page."""
    with database("psycopg", pool=pool):
        (message,) = check_database(None)
    assert message.id == "sessionstores.W036"
    assert "database 'default' hangs" in message.msg
    assert "DATABASES['default']['OPTIONS']['pool']['timeout']" in message.hint


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    ("backend", "option", "other"),
    [
        (DJANGO_REDIS, "SOCKET_TIMEOUT", "SOCKET_CONNECT_TIMEOUT"),
        (REDIS_CACHE, "socket_timeout", "socket_connect_timeout"),
        (MEMCACHED, "timeout", "connect_timeout"),
    ],
)
@pytest.mark.parametrize("name", ["cache", "cached_db", "cookie"])
def test_a_cache_should_have_timeouts(backend, option, other, name):
    """W037: as for databases. A client may have them by default."""

    def found(**options):
        entry = {"BACKEND": backend, "LOCATION": next(locations), "OPTIONS": options}
        with override_settings(
            SESSION_ENGINE=ENGINES + name,
            SESSIONSTORES={"REGISTRY": "cache"} if name == "cookie" else {},
            SESSION_CACHE_ALIAS="sessions",
            CACHES={"default": {"BACKEND": LOCMEM}, "sessions": entry},
        ):
            return check_cache_timeouts(None)

    if name == "cookie" and backend == MEMCACHED:
        pytest.skip("Not a registry.")
    # django-redis keeps a pool of connections for each address.
    locations = (f"127.0.0.1:{port}" for port in range(1, 4))
    if backend != MEMCACHED:
        locations = (f"redis://{each}" for each in locations)
    assert found(**{option: 1, other: 1}) == []
    # Without one to connect, clients of Redis use the other.
    for missing in (option, other) if backend == MEMCACHED else (option,):
        no_limit = {option: 1, other: 1, missing: None}
        if backend == DJANGO_REDIS:
            # Whose own option of this name cannot be empty.
            del no_limit[missing]
            no_limit["CONNECTION_POOL_KWARGS"] = {missing.lower(): None}
        (message,) = found(**no_limit)
        assert message.id == "sessionstores.W037"
        assert message.hint == f"Set CACHES['sessions']['OPTIONS']['{missing}'] to a second or two."


SENTINEL_CLIENT = "django_redis.client.SentinelClient"
SENTINEL_FACTORY = "django_redis.pool.SentinelConnectionFactory"
TIMEOUTS = {"socket_timeout": 1, "socket_connect_timeout": 1}
_names = count(1)


def behind_sentinels(backend: str, **kwargs: Any) -> dict[str, Any]:
    """Return the entry of a cache behind sentinels whose clients have these arguments."""
    # django-redis keeps a pool of connections for each address.
    entry = {"BACKEND": backend, "LOCATION": f"redis://sessions-{next(_names)}/0"}
    sentinels = [("127.0.0.1", 1), ("127.0.0.1", 2)]
    if backend == DJANGO_REDIS:
        options = {
            "CLIENT_CLASS": SENTINEL_CLIENT,
            "CONNECTION_FACTORY": SENTINEL_FACTORY,
            "SENTINELS": sentinels,
            "SENTINEL_KWARGS": kwargs,
            "SOCKET_TIMEOUT": 1,
        }
    else:
        options = {
            "pool_class": "redis.sentinel.SentinelConnectionPool",
            "service_name": "sessions",
            "sentinel_manager": Sentinel(sentinels, sentinel_kwargs=kwargs),
            **TIMEOUTS,
        }
    return {**entry, "OPTIONS": options}


def found_in_cache(entry: dict[str, Any], check: Any, engine: str = "cache") -> Any:
    caches = {"default": {"BACKEND": LOCMEM}, "sessions": entry}
    with override_settings(
        SESSION_ENGINE=ENGINES + engine, SESSION_CACHE_ALIAS="sessions", CACHES=caches
    ):
        return check(None)


@repeats
@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    ("backend", "place"),
    [
        (DJANGO_REDIS, "['SENTINEL_KWARGS']"),
        (REDIS_CACHE, "['sentinel_manager'].sentinel_kwargs"),
    ],
)
def test_sentinels_should_not_be_waited_for_again_and_again(backend, place):
    """W042, W037: one that hangs would keep the first request of each worker for 12 seconds."""

    def found(check: Any = check_cache_retries, **kwargs: Any) -> Any:
        return found_in_cache(behind_sentinels(backend, **kwargs), check)

    setting = f"CACHES['sessions']['OPTIONS']{place}"
    for tries, words in ((3, "tries it 3 times, and"), (0, "tries it without end, and")):
        (message,) = found(retry=Retry(NoBackoff(), tries - 1), **TIMEOUTS)
        assert message.id == "sessionstores.W042"
        assert words in message.msg
        assert message.hint.startswith(f"Set {setting}['retry'] to Retry(NoBackoff(), 0). Import")
    for tries in (1, 2):
        assert found(retry=Retry(NoBackoff(), tries - 1), **TIMEOUTS) == []
    # What the client does by itself depends on its version.
    default = Redis().connection_pool.connection_kwargs.get("retry")
    tries = 1 if default is None else default._retries + 1
    assert [f"tries it {tries} times" in each.msg for each in found(**TIMEOUTS)] == [True] * (
        tries > 2
    )
    (message,) = found(check_cache_timeouts, socket_timeout=None)
    assert message.hint == f"Set {setting}['socket_timeout'] to a second or two."
    assert found(check_cache_timeouts, **TIMEOUTS) == []


@repeats
@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("name", ["cache", "cached_db"])
def test_a_server_should_not_be_waited_for_again_and_again(name):
    """W042: the clients of Redis do not, unless they are told to."""
    retry = Retry(NoBackoff(), 5)
    for backend, options, option in (
        (REDIS_CACHE, {"retry": retry}, "['retry']"),
        (
            DJANGO_REDIS,
            {"CONNECTION_POOL_KWARGS": {"retry": retry}},
            "['CONNECTION_POOL_KWARGS']['retry']",
        ),
    ):
        entry = {"BACKEND": backend, "LOCATION": f"redis://127.0.0.1:{next(_names)}"}
        assert found_in_cache(entry, check_cache_retries, name) == []
        entry = {**entry, "LOCATION": f"redis://127.0.0.1:{next(_names)}", "OPTIONS": options}
        (message,) = found_in_cache(entry, check_cache_retries, name)
        # True of a store with sessions, and of one with copies.
        assert message.msg.startswith("If one of the servers of Redis through ")
        assert "tries it 6 times" in message.msg
        setting = f"CACHES['sessions']['OPTIONS']{option}"
        assert message.hint.startswith(f"Set {setting} to Retry(NoBackoff(), 1). Import")


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("name", ["db", "cached_db"])
def test_sqlite_has_no_connection_to_wait_for(name):
    """It is the default of every new project."""
    with override_settings(SESSION_ENGINE=ENGINES + name):
        assert ids(check_database) == []


@pytest.mark.parametrize("name", ["file", "db", "cached_db", "cookie"])
@pytest.mark.usefixtures("django_db_setup")
def test_a_folder_that_cannot_be_written_is_named(name, tmp_path, monkeypatch):
    """W024: reads find no session there, and nothing fails before the first login."""
    path = tmp_path if name == "file" else Path(connections["default"].settings_dict["NAME"])
    settings = {
        "SESSION_ENGINE": ENGINES + name,
        "SESSION_FILE_PATH": tmp_path,
        "SESSIONSTORES": {"REGISTRY": "db"} if name == "cookie" else {},
    }
    with override_settings(**settings):
        assert ids(check_write_access) == []
        refuse(monkeypatch, path)
        (message,) = check_write_access(None)
    assert message.id == "sessionstores.W024"
    assert str(path) in message.hint
    assert "owner" in message.hint


@pytest.mark.parametrize(
    "backend",
    [
        "django.core.cache.backends.db.DatabaseCache",
        "django.core.cache.backends.filebased.FileBasedCache",
    ],
    ids=["database", "file"],
)
@pytest.mark.usefixtures("django_db_setup")
def test_a_cache_of_copies_that_cannot_be_written_is_named_as_such(backend, tmp_path, monkeypatch):
    """W024: the sessions are in the database behind it."""
    database = Path(connections["default"].settings_dict["NAME"])
    place, location = (tmp_path,) * 2 if "filebased" in backend else (database, "session_cache")
    entry = {"BACKEND": backend, "LOCATION": location}
    for name, beginnings in (
        ("cache", ["Sessions are in "]),
        ("cached_db", ["Copies of sessions are in ", "Sessions are in "]),
    ):
        with (
            override_settings(
                SESSION_ENGINE=ENGINES + name,
                SESSION_CACHE_ALIAS="sessions",
                CACHES={"default": {"BACKEND": LOCMEM}, "sessions": entry},
            ),
            monkeypatch.context() as patch,
        ):
            refuse(patch, place)
            found = [message.msg for message in check_write_access(None)]
        if place != database:
            beginnings = beginnings[:1]
        assert len(found) == len(beginnings), found
        assert all(map(str.startswith, found, beginnings)), found
