"""Two sites, or two tenants of one site, in one store: each has to do with its own sessions only.

`ARRANGEMENTS` are ways in which they differ, and `OPERATIONS` what one of them does while the other
one has sessions of a user with the same primary key.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import OperationalError, connections
from django.test import override_settings

from django_sessionstores import conf, signals
from django_sessionstores.core.clock import now
from django_sessionstores.inventory import Inventory
from django_sessionstores.migration import bulk
from django_sessionstores.migration.sources import OwnSource
from django_sessionstores.models import SessionStatistics
from django_sessionstores.operations import statistics
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.testing import HOUR, at
from tests import ROOT, cases
from tests.services import Redis, temporary_folder
from tests.sessions.test_lifetimes import limits

NAMES: Final = ("production", "staging")
_EMPTY_INDEXES: Final = "14"
"""The database of Redis that keeps the indexes of both without sessions."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_current: Final = ContextVar("the site that runs", default=NAMES[0])


# Arrangements -----------------------------------------------------------------------------------


class Arrangement:
    """Two sites or tenants that differ in one thing. ``engine`` is what they share."""

    reads_by_key = False
    """Whether a session key of one site means nothing to the other one."""

    def __init__(self, engine: cases.Engine, stack: ExitStack) -> None:
        self.engine = engine

    @contextmanager
    def site(self, name: str) -> Iterator[None]:
        """Run as one of the two."""
        token = _current.set(name)
        try:
            with self.settings(name):
                yield
        finally:
            _current.reset(token)

    def settings(self, name: str) -> AbstractContextManager[Any]:
        return override_settings()

    def reindex(self) -> None:
        """Build the indexes of both."""
        for name in NAMES:
            with self.site(name):
                self.engine.storage.reindex()


class SecretKeys(Arrangement):
    """Two projects, neither of which has ever heard of the other."""

    reads_by_key = True

    def settings(self, name: str) -> AbstractContextManager[Any]:
        return override_settings(SECRET_KEY=f"the secret of {name}")


class RotatingProduction(Arrangement):
    """A copy of the settings with a SECRET_KEY of its own, beside a site that has a new one."""

    reads_by_key = True
    saved = 0

    def settings(self, name: str) -> AbstractContextManager[Any]:
        if name == "staging":
            return override_settings(SECRET_KEY="the secret of staging")
        # Every other time it is a worker that does not have the new key yet.
        RotatingProduction.saved += 1
        if _is_saving.get() and RotatingProduction.saved % 2:
            return override_settings(SECRET_KEY="old")
        return override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["old"])


_is_saving: Final = ContextVar("whether sessions are being made", default=False)


class OneFolder(SecretKeys):
    """As Django's file engine is shared by sites that give their cookies different names."""

    def settings(self, name: str) -> AbstractContextManager[Any]:
        return override_settings(
            SECRET_KEY=f"the secret of {name}", SESSION_COOKIE_NAME=f"sessionid_{name}"
        )


class Prefixes(Arrangement):
    """One SECRET_KEY, and a KEY_PREFIX for each."""

    reads_by_key = True

    def settings(self, name: str) -> AbstractContextManager[Any]:
        shared = settings.CACHES
        entry = {**shared[cases.CACHE_ALIAS], "KEY_PREFIX": name}
        return override_settings(CACHES={**shared, cases.CACHE_ALIAS: entry})


def key_of_tenant(key: str, prefix: str, version: int) -> str:
    return f"{_current.get()}:{prefix}:{version}:{key}"


class KeyFunction(Arrangement):
    """One process for all tenants, whose KEY_FUNCTION asks for the tenant of the request."""

    reads_by_key = True

    def __init__(self, engine: cases.Engine, stack: ExitStack) -> None:
        super().__init__(engine, stack)
        shared = settings.CACHES
        entry = {**shared[cases.CACHE_ALIAS], "KEY_FUNCTION": f"{__name__}.key_of_tenant"}
        stack.enter_context(override_settings(CACHES={**shared, cases.CACHE_ALIAS: entry}))


SECOND: Final = "second"
_FOLDER: Final = temporary_folder()


class TenantRouter:
    """Sends the tables of some apps to the database of the tenant."""

    def __init__(self, *apps: str, sessions: str | None = None) -> None:
        self._apps = apps
        self._sessions = sessions

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        if model._meta.app_label not in self._apps:
            return self._sessions if model._meta.app_label == "django_sessionstores" else None
        return "default" if _current.get() == NAMES[0] else SECOND

    db_for_read = db_for_write


class Databases(Arrangement):
    """A router sends the users and the sessions of each tenant to a database of their own."""

    apps = ("auth", "contenttypes", "django_sessionstores")
    sessions: str | None = None
    """The database of all sessions, if they are in one that is not the default one."""

    def __init__(self, engine: cases.Engine, stack: ExitStack) -> None:
        super().__init__(engine, stack)
        entry = {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{_FOLDER}/second.sqlite3",
            "OPTIONS": {"timeout": 30},
        }
        is_new = not os.path.exists(entry["NAME"])
        cases._add_database(SECOND, entry, migrate=False)
        if is_new:  # With the tables of users.
            call_command("migrate", database=SECOND, verbosity=0, interactive=False)
        stack.callback(cases._remove_database, SECOND)
        for model in _tables():
            model._base_manager.using(SECOND).all().delete()
        router = TenantRouter(*self.apps, sessions=self.sessions)
        stack.enter_context(override_settings(DATABASE_ROUTERS=[router]))


class DatabasesOfUsers(Databases):
    """The users of each tenant are in a database of their own, and all sessions in one."""

    apps = ("auth", "contenttypes")


class DatabaseOfOneTenant(DatabasesOfUsers):
    """The same, and all sessions are in the database of one of the tenants."""

    sessions = SECOND


class Schemas(Arrangement):
    """A schema for each tenant, as PostgreSQL's search_path selects it."""

    def __init__(self, engine: cases.Engine, stack: ExitStack) -> None:
        super().__init__(engine, stack)
        self._connection = connections[engine.database]
        stack.callback(self._execute, "SET search_path TO public")
        for name in NAMES:
            self._execute(f"DROP SCHEMA IF EXISTS {name} CASCADE", f"CREATE SCHEMA {name}")
            for table in (each._meta.db_table for each in _tables()):
                self._execute(f"CREATE TABLE {name}.{table} (LIKE public.{table} INCLUDING ALL)")

    def settings(self, name: str) -> AbstractContextManager[Any]:
        self._execute(f"SET search_path TO {name}")
        return override_settings()

    def _execute(self, *statements: str) -> None:
        with self._connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


class Names(Arrangement):
    """Two sites that share everything but their names, such as two workers of pytest-xdist."""

    def settings(self, name: str) -> AbstractContextManager[Any]:
        return limits(SITE=name)


def _tables() -> list[Any]:
    from django_sessionstores.models import StoredSession

    return [StoredSession, SessionStatistics]


IN_A_CACHE: Final = (
    "cache:django-redis",
    "cache:redis-cache",
    "cache:locmem",
    "cache:database-cache",
    "cache:file-cache",
    "cookie:django-redis",
)
EVERY: Final = tuple(case.id for case in cases.CASES)
ARRANGEMENTS: Final[dict[type[Arrangement], tuple[str, ...]]] = {
    SecretKeys: EVERY,
    RotatingProduction: EVERY,
    OneFolder: ("file", "cache:file-cache", "cached_db:file-cache+sqlite"),
    Prefixes: (*IN_A_CACHE, "cache:memcached+sqlite"),
    KeyFunction: (*IN_A_CACHE, "cache:memcached+sqlite"),
    Databases: (
        "file",
        "db:sqlite",
        "cached_db:locmem+sqlite",
        "cached_db:django-redis+sqlite",
        "cookie:sqlite",
        "cache:memcached+sqlite",
        *IN_A_CACHE,
    ),
    DatabasesOfUsers: ("db:sqlite", "cached_db:django-redis+sqlite", "cookie:sqlite"),
    DatabaseOfOneTenant: ("db:sqlite", "cached_db:django-redis+sqlite", "cookie:sqlite"),
    Schemas: ("db:postgresql", "cached_db:redis-cache+postgresql"),
    Names: ("file", *IN_A_CACHE),
}
"""The engines on which each arrangement makes a difference."""
QUICK: Final = {
    (SecretKeys, "file"),
    (SecretKeys, "db:postgresql"),
    (OneFolder, "cache:file-cache"),
    (Prefixes, "cache:locmem"),
    (KeyFunction, "cache:memcached+sqlite"),
    (Databases, "cookie:sqlite"),
    (DatabasesOfUsers, "db:sqlite"),
    (DatabaseOfOneTenant, "db:sqlite"),
    (Schemas, "db:postgresql"),
    (Names, "cache:redis-cache"),
}
"""What is run by default; the rest is slow."""


# Operations -------------------------------------------------------------------------------------


@dataclass
class Pair:
    """The two sites, each with sessions of its user and of a visitor."""

    arrangement: Arrangement

    def __post_init__(self) -> None:
        self.keys: dict[str, list[str]] = {}
        self.users: dict[str, Any] = {}
        for name in NAMES:
            with self.site(name):
                self.users[name], _ = get_user_model().objects.get_or_create(pk=7, username="ada")
                self.keys[name] = [self.log_in(name), self.log_in(name), self.begin(name, None)]
        self.ids = {name: self.listed(name) for name in NAMES}
        assert [len(ids) for ids in self.ids.values()] == [3, 3]

    def site(self, name: str) -> AbstractContextManager[None]:
        return self.arrangement.site(name)

    def begin(self, name: str, user_id: str | None, **more: Any) -> str:
        token = _is_saving.set(True)
        try:
            with self.site(name):
                session = self.arrangement.engine.SessionStore()
                session.update({"x": 1, **more})
                if user_id is not None:
                    session["_auth_user_id"] = user_id
                session.save()
                return str(session.session_key)
        finally:
            _is_saving.reset(token)

    def log_in(self, name: str) -> str:
        return self.begin(name, "7")

    def listed(self, name: str, **filters: Any) -> set[str]:
        with self.site(name):
            return {each.id for each in Inventory().iterate(**filters)}


def lists(pair: Pair) -> None:
    for name in NAMES:
        assert len(pair.listed(name, user="7")) == 2
        with pair.site(name):
            pages, cursor = [], ""
            for _ in range(9):
                page = Inventory().list(cursor=cursor, limit=1)
                pages += [each.id for each in page.sessions]
                cursor = page.next
                if not cursor:
                    break
            assert sorted(pages) == sorted(pair.ids[name])
    assert not pair.ids["production"] & pair.ids["staging"]


def counts(pair: Pair) -> None:
    for name in NAMES:
        with pair.site(name):
            assert Inventory().count() == 3
            assert Inventory().count(user="7") == 2


def ends_one(pair: Pair) -> None:
    with pair.site("production"):
        for each in pair.ids["staging"]:
            assert Inventory().get(each) is None
            assert Inventory().end(each) is False
            assert Inventory().end(each, user="7") is False
        for each in pair.ids["production"]:
            assert Inventory().end(each) is True
    assert pair.listed("production") == set()


def ends_all_of_a_user(pair: Pair) -> None:
    with pair.site("production"):
        assert Inventory().end_all("7") == 2
        assert Inventory().count() == 1


def ends_the_others(pair: Pair) -> None:
    (kept, _) = pair.listed("production", user="7")
    with pair.site("production"):
        assert Inventory().end_all("7", but=kept) == 1
    assert pair.listed("production", user="7") == {kept}


def ends_everything(pair: Pair) -> None:
    with pair.site("production"):
        assert Inventory().end_everything() == 3


def ends_with_the_password(pair: Pair) -> None:
    with pair.site("production"):
        user = pair.users["production"]
        user.set_password("another")
        user.save()
        assert Inventory().count() == 1


def purges(pair: Pair) -> None:
    with at(now() + 15 * 24 * HOUR), pair.site("production"):
        if Inventory().storage.self_expiring:
            return
        assert Inventory().purge() == 3
    with at(now() + 15 * 24 * HOUR):
        assert pair.listed("staging", expired=True) == pair.ids["staging"]


def counts_in_statistics(pair: Pair) -> None:
    counted = statistics.Statistics()
    with limits(STATISTICS=True), mock.patch.object(signals, "observers", [counted.note]):
        for name in NAMES:
            pair.log_in(name)
            with pair.site(name):
                assert Inventory().end_all("7") == 3
                if isinstance(pair.arrangement, Schemas):
                    counted.flush(at_once=True)
        counted.flush(at_once=True)
        for name in NAMES:
            with pair.site(name):
                sums = statistics.sums(_EPOCH)
                assert (sums.created, sums.ended) == (1, {"revoked": 3})


def migrates(pair: Pair) -> None:
    target = MemoryStorage(100)
    with pair.site("production"):
        storage = pair.arrangement.engine.storage
        if storage.holds_in_key:
            return
        moved = list(bulk.move(OwnSource(storage, is_shared=True), target, 100))
        assert moved == ["moved"] * 3
        assert target.count(now(), None) == 3
        assert Inventory().count() == 0


def rebuilds_the_index(pair: Pair) -> None:
    for name in NAMES:
        with pair.site(name):
            assert Inventory().reindex() in {None, 3}
    counts(pair)


def limits_sessions(pair: Pair) -> None:
    with limits(MAX_SESSIONS=1), pair.site("production"):
        session = pair.arrangement.engine.SessionStore()
        session["_auth_user_id"] = "7"
        session.save()
    assert len(pair.listed("production", user="7")) == 1


def knows_its_own_keys(pair: Pair) -> None:
    """A browser that knows both sites under one host sends the cookie of one to the other."""
    engine = pair.arrangement.engine
    with pair.site("production"):
        for key in pair.keys["staging"]:
            session = engine.SessionStore(key)
            if pair.arrangement.reads_by_key:
                assert dict(session.items()) == {}
            session.flush()


OPERATIONS: Final[tuple[Callable[[Pair], None], ...]] = (
    lists,
    counts,
    ends_one,
    ends_all_of_a_user,
    ends_the_others,
    ends_everything,
    ends_with_the_password,
    purges,
    counts_in_statistics,
    migrates,
    rebuilds_the_index,
    limits_sessions,
    knows_its_own_keys,
)


# The matrix -------------------------------------------------------------------------------------


def matrix() -> Iterator[Any]:
    """Yield the pairs of an arrangement and an engine."""
    for arrangement, engines in ARRANGEMENTS.items():
        for engine in engines:
            marks = [] if (arrangement, engine) in QUICK else [pytest.mark.slow]
            yield pytest.param(
                arrangement, engine, marks=marks, id=f"{arrangement.__name__}-{engine}"
            )


@pytest.mark.parametrize(("arrangement", "case_id"), list(matrix()))
def test_each_has_to_do_with_its_own_sessions_only(
    django_db_setup: None, django_db_blocker: Any, arrangement: type[Arrangement], case_id: str
) -> None:
    (case,) = cases.select(case_id)
    with django_db_blocker.unblock(), cases.activate(case) as engine, ExitStack() as stack:
        if not engine.storage.lists:
            pytest.skip(f"{case_id} cannot list sessions, of this site or of another one")
        stack.callback(_empty, engine)
        stack.callback(engine.forget_index, _EMPTY_INDEXES)
        arranged = arrangement(engine, stack)
        failed: dict[str, str] = {}
        for operation in OPERATIONS:
            for name in NAMES:
                with arranged.site(name):
                    _empty(engine)
            engine.begin_index(_EMPTY_INDEXES, arranged.reindex)
            pair = Pair(arranged)
            try:
                operation(pair)
                if operation is not counts_in_statistics:
                    assert pair.listed("staging") == pair.ids["staging"]
            except Exception:  # noqa: BLE001 - told below
                failed[operation.__name__] = traceback.format_exc()
        assert not failed, "".join(failed.values())


def _empty(engine: cases.Engine) -> None:
    """Remove all sessions, users and statistics, and tell nobody: it would look for sessions."""
    engine.empty()
    for alias in {"default", SECOND, engine.database} & set(connections.settings):
        users = [get_user_model()] if alias in {"default", SECOND} else []
        for model in [*_tables(), *users]:
            model._base_manager.using(alias).all()._raw_delete(alias)


# Tenants by routers ------------------------------------------------------------------------------


class DemandingRouter:
    """Does not guess: outside of a tenant it raises an error."""

    error: Exception = RuntimeError("no tenant is selected")

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        if model._meta.app_label == "auth":
            raise self.error
        return None


@pytest.mark.engines("file", "db:sqlite", "cache:redis-cache", "cookie:sqlite")
@override_settings(DATABASE_ROUTERS=[f"{__name__}.DemandingRouter"])
def test_outside_of_a_tenant_sessions_are_those_of_the_default_database(
    engine: cases.Engine,
) -> None:
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    with override_settings(DATABASE_ROUTERS=[]):
        assert [each.id for each in Inventory().iterate()] == [session.session_id]


@pytest.mark.engines("file")
@override_settings(DATABASE_ROUTERS=[f"{__name__}.DemandingRouter"])
def test_a_router_that_cannot_ask_for_the_tenant_is_an_error(
    engine: cases.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session with the mark of another tenant would not end with its user's password."""
    monkeypatch.setattr(DemandingRouter, "error", OperationalError("the server is down"))
    session = engine.SessionStore()
    session["x"] = 1
    with pytest.raises(OperationalError):
        session.save()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("shop", "eu one", ""), ("shop eu", "one", "")),
        (("", "one", ""), (" one", "default", "")),
        (("shop", "default", "a:1:"), ("shop\na:1:", "default", "")),
        (("shop", "one", "a:1:"), ("shop", "one\na:1:", "")),
    ],
)
def test_names_do_not_run_into_each_other(
    monkeypatch: pytest.MonkeyPatch, one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    """Two sites of one store may have names that are equal once they are joined."""
    marks = []
    for name, database, namespace in (one, other):
        router = TenantRouter("auth")
        monkeypatch.setattr(router, "db_for_write", lambda *args, database=database, **_: database)
        with limits(SITE=name), override_settings(DATABASE_ROUTERS=[router]):
            marks.append(conf.sites(conf.tenant(), namespace))
    assert marks[0] != marks[1]


# Rings of keys -----------------------------------------------------------------------------------


@pytest.mark.engines("cache:redis-cache", "cache:database-cache", "db:sqlite", "file")
def test_a_site_may_have_many_keys(engine: cases.Engine) -> None:
    ring = [f"key {number}" for number in range(12)]
    for key in ring:
        with override_settings(SECRET_KEY=key):
            session = engine.SessionStore()
            session["_auth_user_id"] = "7"
            session.save()
    with override_settings(SECRET_KEY=ring[0], SECRET_KEY_FALLBACKS=ring[1:]):
        for limit in (1, 5, 100):
            found, cursor = set[str](), ""
            while True:
                page = Inventory().list(user="7", cursor=cursor, limit=limit)
                found |= {each.id for each in page.sessions}
                cursor = page.next
                if not cursor:
                    break
            assert len(found) == 12
        assert Inventory().count(user="7") == 12
        assert Inventory().end_all("7") == 12


_CONFTEST = """
import os
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of both workers",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_sessionstores"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    CACHES={"default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["REDIS"],
    }},
    SESSION_ENGINE="django_sessionstores.backends.cache",
    SESSIONSTORES={"SITE": os.environ.get("PYTEST_XDIST_WORKER", "")},
)
django.setup()
"""
_TEST = """
import time
from django.core.cache import cache
from django_sessionstores.backends.cache import SessionStore
from django_sessionstores.inventory import Inventory

def meet(place):
    cache.add(place, 0)
    cache.incr(place)
    deadline = time.monotonic() + 60
    while cache.get(place) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)

def test_a_worker():
    for _ in range(3):
        session = SessionStore()
        session["_auth_user_id"] = "1"
        session.save()
    meet("made")
    assert Inventory().count() == Inventory().count(user="1") == 3
    meet("counted")
    assert Inventory().end_all("1") == 3
"""


@pytest.mark.engines(
    "cached_db:locmem+sqlite",
    "cookie:sqlite",
    "cookie:redis-cache+postgresql",
    "cookie:django-redis",
)
def test_what_a_key_function_does_not_separate(engine: cases.Engine) -> None:
    """The documentation names the engines whose table it leaves to all tenants, and no check can:
    a KEY_FUNCTION may have any purpose. A registry in the cache is separated."""
    cache = {**settings.CACHES.get(cases.CACHE_ALIAS, settings.CACHES["default"])}
    cache["KEY_FUNCTION"] = f"{__name__}.key_of_tenant"
    with override_settings(CACHES={**settings.CACHES, cases.CACHE_ALIAS: cache}):
        session = engine.SessionStore()
        session["_auth_user_id"] = "7"
        session.save()
        token = _current.set("staging")
        try:
            listed = Inventory().count(user="7")
        finally:
            _current.reset(token)
    assert listed == (0 if engine.id == "cookie:django-redis" else 1)


@pytest.mark.engines("db:sqlite", "cache:django-redis", "file", "cookie:sqlite")
def test_a_name_separates_lists_but_not_keys(engine: cases.Engine) -> None:
    """As the documentation says: the session belongs to the site that has saved it last, and a
    logout at the other one leaves it alone."""
    here, there = NAMES
    with limits(SITE=here):
        session = engine.SessionStore()
        session["_auth_user_id"] = "7"
        session.save()
    with limits(SITE=there):
        engine.SessionStore(session.session_key).flush()
        assert Inventory().count() == 0
    with limits(SITE=here):
        assert engine.SessionStore(session.session_key)["_auth_user_id"] == "7"
        assert Inventory().count() == 1
    with limits(SITE=there):
        visited = engine.SessionStore(session.session_key)
        visited["x"] = 1
        visited.save()
        assert Inventory().count() == 1
    with limits(SITE=here):
        assert Inventory().count() == 0
        assert engine.SessionStore(visited.session_key)["x"] == 1


@pytest.mark.slow
def test_two_workers_of_xdist(tmp_path: Path) -> None:
    """Nothing else in their settings differs, and they count at the same time."""
    with Redis() as server:
        _run_workers(tmp_path, server.url())


def _run_workers(tmp_path: Path, url: str) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_worker.py").write_text(_TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "DJANGO_SETTINGS_MODULE"))
    }
    command = ["-m", "pytest", "-q", "-p", "no:django", "-n2", "--dist=each", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**environment, "REDIS": url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout
