"""Previous backends that answer, but from which no session can be removed, or not from each node.

Each logout removes a session there. So does the first request with it, but that can do without.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from importlib import import_module
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import override_settings
from pymongo import MongoClient

from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.mongodb import indexes
from tests.cases import POSTGRESQL, Engine
from tests.management.test_sessions import document_of_failure
from tests.operations.test_what_would_break import NOT_MIGRATED, fault, problems
from tests.operations.test_what_would_break import _no_other_findings as _no_other_findings
from tests.operations.test_wrong_addresses import ALIAS, PYMEMCACHE
from tests.operations.test_wrong_addresses import open_database as open_database  # A fixture.
from tests.services import MemcachedNodes, MongoDB, PostgreSQL, Redis
from tests.storages.files.test_storage import as_another_user

OURS = "django_sessionstores.backends"
DJANGO = "django.contrib.sessions.backends"
REDIS = "django.core.cache.backends.redis.RedisCache"
NOT_REMOVED = (
    "Every logout fails, because the session could be migrated again. Other requests go on."
)
NOT_MIGRATED_INTO_KEY = "Every request fails whose session has not been migrated yet."
NOT_REMOVED_INTO_KEY = (
    "Every logout fails whose session has not been migrated yet, because it could be migrated "
    "again. Other requests go on."
)

pytestmark = pytest.mark.engines("db:sqlite")


@contextmanager
def migrating(path: str, cache: dict[str, Any] | None = None, **overrides: Any) -> Iterator[None]:
    """Migrate from a previous backend, with a cache whose alias is "old"."""
    if cache is not None:
        overrides["SESSION_CACHE_ALIAS"] = "old"
    options = {**getattr(settings, "SESSIONSTORES", {}), "MIGRATE_FROM": [(path, overrides)]}
    caches = {**settings.CACHES, **({"old": cache} if cache else {})}
    with override_settings(CACHES=caches, SESSIONSTORES=options):
        yield


@pytest.mark.parametrize("path", [DJANGO, OURS])
def test_one_node_of_three(engine: Engine, path: str) -> None:
    """One random key would be on one of the others, most of the time."""
    with MemcachedNodes() as server:
        cache = {"BACKEND": PYMEMCACHE, "LOCATION": server.addresses, "OPTIONS": {"timeout": 0.4}}
        with migrating(f"{path}.cache", cache):
            assert problems() == []
            dead = server.members[1]
            dead.kill()
            for _ in range(3):
                id_, breaks, text = fault()
                assert (id_, breaks) == ("sessionstores.E022", NOT_MIGRATED)
                assert f"node 127.0.0.1:{dead.port}" in text
            stores = document_of_failure("doctor")["stores"]
    assert [bool(each["error"]) for each in stores if each["is_previous"]].count(True) == 1
    assert len([each for each in stores if each["is_previous"]]) == 3


@pytest.mark.parametrize("path", [DJANGO, OURS])
def test_a_replica(engine: Engine, path: str) -> None:
    with (
        Redis() as server,
        migrating(f"{path}.cache", {"BACKEND": REDIS, "LOCATION": server.url()}),
    ):
        assert problems() == []
        server.cli("replicaof", "127.0.0.1", "1")
        id_, breaks, text = fault()
        assert (id_, breaks) == ("sessionstores.E026", NOT_REMOVED)
        assert "CACHES['old']" in text


@pytest.mark.engines("db:sqlite", "file", "cache:memcached", "cookie:sqlite")
@pytest.mark.parametrize("path", [DJANGO, OURS])
@pytest.mark.parametrize("is_gone", [True, False])
def test_requests_fail_as_the_doctor_says(engine: Engine, path: str, is_gone: bool) -> None:
    entry = {"BACKEND": REDIS}
    with Redis() as server, migrating(f"{path}.cache", {**entry, "LOCATION": server.url()}):
        old = f"{path}.cache"
        with override_settings(SESSION_ENGINE=old, SESSION_CACHE_ALIAS="old"):
            store = import_module(old).SessionStore
            keys = [stored(store) for _ in range(2)]
        migrated, other = stored(engine.SessionStore), stored(engine.SessionStore)
        if is_gone:
            server.kill()
        else:
            server.cli("replicaof", "127.0.0.1", "1")
        # With sessions in cookies, the checks warn that a copied cookie can be exchanged.
        ids = {"sessionstores.E022", "sessionstores.E026"}
        (breaks,) = [each.breaks for each in problems() if each.id in ids]
        if engine.storage.holds_in_key:
            assert breaks == (NOT_MIGRATED_INTO_KEY if is_gone else NOT_REMOVED_INTO_KEY)
        else:
            assert breaks == (NOT_MIGRATED if is_gone else NOT_REMOVED)
        with pytest.raises(StorageUnavailable) if is_gone else nullcontext():
            assert engine.SessionStore(keys[0])["color"] == "blue"
        for key in (keys[1], migrated):
            # A cookie of the engine says that its session is not in a previous backend.
            goes_on = key == migrated and engine.storage.holds_in_key
            with nullcontext() if goes_on else pytest.raises(StorageUnavailable):
                engine.SessionStore(key).flush()
        assert engine.SessionStore(other)["color"] == "blue"


def stored(store: Any) -> str:
    """Return the key of a session that an engine has stored."""
    session = store()
    session["color"] = "blue"
    session.save()
    return str(session.session_key)


def test_the_cache_of_djangos_cached_db(engine: Engine) -> None:
    """Only the rows are read, so no request fails because a copy cannot be removed."""
    with (
        Redis() as server,
        migrating(f"{DJANGO}.cached_db", {"BACKEND": REDIS, "LOCATION": server.url()}),
    ):
        assert problems() == []
        server.kill()
        assert problems() == []


@pytest.mark.engines("cache:memcached")
def test_the_cache_of_cached_db(engine: Engine) -> None:
    """Requests go on without it."""
    with (
        Redis() as server,
        migrating(f"{OURS}.cached_db", {"BACKEND": REDIS, "LOCATION": server.url()}),
    ):
        assert problems() == []
        server.kill()
        id_, breaks, text = fault()
    assert (id_, breaks) == ("sessionstores.E022", "")
    assert "Requests go on without this cache" in text


@pytest.mark.engines("cache:memcached")
def test_files_that_cannot_be_removed(engine: Engine) -> None:
    with as_another_user() as place, migrating(f"{DJANGO}.file", SESSION_FILE_PATH=str(place)):
        id_, breaks, text = fault()
    assert (id_, breaks) == ("sessionstores.E026", NOT_REMOVED)
    assert str(place) in text


@pytest.mark.engines("cache:memcached")
def test_files_in_a_folder_that_nobody_else_may_enter(engine: Engine) -> None:
    """No request can know whether its session is there."""
    with as_another_user(rights=0) as place:
        folder = place / "sessions"
        with migrating(f"{DJANGO}.file", SESSION_FILE_PATH=str(folder)):
            id_, breaks, text = fault()
            with pytest.raises(StorageUnavailable):
                engine.SessionStore("a" * 32).load()
    assert (id_, breaks) == ("sessionstores.E022", NOT_MIGRATED)
    assert f"{folder}, is unreachable (PermissionError)" in text


class TableToSessions:
    """Sends the table of the sessions of an app to another database."""

    def __init__(self, app: str) -> None:
        self._app = app

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return ALIAS if model._meta.app_label == self._app else None

    db_for_read = db_for_write


@pytest.mark.engines("cache:memcached")
@pytest.mark.parametrize(
    ("path", "app", "table", "said"),
    [
        (DJANGO, "sessions", "django_session", "its user may read and delete the rows"),
        (OURS, "django_sessionstores", "django_sessionstores_storedsession", "GRANT SELECT"),
    ],
)
def test_a_table_that_may_only_be_read(
    engine: Engine, open_database: Any, path: str, app: str, table: str, said: str
) -> None:
    """A statement that deletes nothing needs the right as well."""
    with (
        PostgreSQL() as server,
        override_settings(DATABASE_ROUTERS=[TableToSessions(app)]),
        migrating(f"{path}.db"),
    ):
        with open_database(POSTGRESQL.configure(server)):
            call_command("migrate", app, database=ALIAS, verbosity=0)
            assert problems() == []
        with closing(psycopg.connect(server.url(), autocommit=True)) as connection:
            connection.execute("CREATE ROLE shop LOGIN")
            connection.execute(f"GRANT SELECT ON {table} TO shop")
        with open_database(POSTGRESQL.configure(server) | {"USER": "shop"}):
            id_, breaks, text = fault()
    assert (id_, breaks) == ("sessionstores.E026", NOT_REMOVED)
    assert said in text


def test_mongodb(engine: Engine) -> None:
    """A user who may only read; then a server that is gone."""
    with MongoDB("--auth", replica_set="") as server:
        admin = {"createUser": "admin", "pwd": "hush-hush", "roles": ["root"]}
        assert server.ask(admin)["ok"]
        address = f"mongodb://%s:hush-hush@{server.addresses[0]}/shop?authSource=admin"
        with MongoClient(address % "admin") as client:
            client["shop"]["django_sessionstores"].create_indexes(
                indexes.models(indexes.missing([]))
            )
            reader = [{"role": "read", "db": "shop"}]
            client["admin"].command("createUser", "reader", pwd="hush-hush", roles=reader)
        with migrating(f"{OURS}.mongodb", MONGODB_URI=address % "admin"):
            assert problems() == []
        with migrating(f"{OURS}.mongodb", MONGODB_URI=address % "reader"):
            id_, breaks, text = fault()
            assert (id_, breaks) == ("sessionstores.E026", NOT_REMOVED)
            assert "db.grantRolesToUser" in text
            server.kill()
            id_, breaks, text = fault()
            assert (id_, breaks) == ("sessionstores.E022", NOT_MIGRATED)
            assert "hush-hush" not in text
