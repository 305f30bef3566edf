"""Checks of ``SESSION_ENGINE``, one test per id."""

from __future__ import annotations

import re

import pytest
from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware as DjangoMiddleware
from django.core import checks as django_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections
from django.test import override_settings

from django_sessionstores.operations.checks import engine
from django_sessionstores.operations.checks.engine import check_engine, report_storage
from django_sessionstores.operations.checks.options import check_settings
from django_sessionstores.operations.checks.stores import check_write_access
from django_sessionstores.sessions import SessionStore as BaseSessionStore
from django_sessionstores.storages.memory import MemoryStorage
from tests import ROOT
from tests.operations.checks.configurations import (
    DJANGO,
    DUMMY,
    ENGINES,
    HERE,
    LOCMEM,
    MEMCACHED,
    OTHER_CACHE,
    ids,
    with_registry,
)


@pytest.mark.parametrize(
    "overrides",
    [
        {"SESSION_ENGINE": ENGINES + "mysterious"},
        {"SESSION_ENGINE": ENGINES + "cache", "SESSION_CACHE_ALIAS": "missing"},
        {"SESSION_ENGINE": ENGINES + "cache", "CACHES": {"default": {"BACKEND": DUMMY}}},
    ],
    ids=["unknown engine", "unknown cache", "cache that keeps nothing"],
)
def test_engine_must_be_usable(overrides):
    """E005: Django's own checks pass with an engine that does not exist."""
    with override_settings(**overrides):
        assert ids(check_engine) == ["sessionstores.E005"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("db", {}), ("cached_db", {}), ("cookie", {"REGISTRY": "db"})],
)
@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")
def test_a_database_without_sql(name, options, monkeypatch):
    """E005: django-mongodb-backend accepts models, so only the first request would fail."""
    monkeypatch.setattr(type(connections["default"]), "vendor", "mongodb")
    with override_settings(SESSION_ENGINE=ENGINES + name, SESSIONSTORES=options):
        # The storage is made again.
        setting_changed.send(None, setting="DATABASES", value=None, enter=True)
        (message,) = check_engine(None)
    setting_changed.send(None, setting="DATABASES", value=None, enter=False)
    assert message.id == "sessionstores.E005"
    assert "The database 'default' is MongoDB" in message.msg
    assert "Use the engine 'mongodb' instead" in message.msg


class SessionStore(BaseSessionStore):
    """The class of an engine that reads a setting of its own."""

    settings_used = ("SHOP_SESSIONS",)

    @classmethod
    def make_storage(cls):
        return MemoryStorage(settings.SHOP_SESSIONS)


def test_an_engine_that_fails_is_reported():
    """E005: ``manage.py check`` would otherwise end in a traceback."""
    with override_settings(SESSION_ENGINE=__name__):
        (message,) = check_engine(None)
        assert message.id == "sessionstores.E005"
        assert "make_storage() fails with AttributeError: " in message.msg
        assert "SHOP_SESSIONS" in message.msg
        assert message in django_checks.run_checks(include_deployment_checks=True)
    with override_settings(SESSION_ENGINE=__name__, SHOP_SESSIONS=10):
        assert ids(check_engine) == []


NOT_ENGINES = ("signed_cookies",)
"""Modules that say which engine to name instead."""


def write(engine: str) -> str:
    return f"Write SESSION_ENGINE = 'django_sessionstores.backends.{engine}'."


MODULES = {path.stem for path in (ROOT / "django_sessionstores/backends").glob("[!_]*.py")}
NAMES = sorted(MODULES - {*NOT_ENGINES})
ALL_ENGINES = f"The engines are: {', '.join(repr(ENGINES + name) for name in NAMES)}."


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (ENGINES + "redis", write("cache")),
        (ENGINES + "database", write("db")),
        (ENGINES + "filebased", write("file")),
        (ENGINES + "cookies", "Did you mean 'django_sessionstores.backends.cookie'?"),
        (ENGINES + "cassandra", ALL_ENGINES),
        (ENGINES + "mongo", write("mongodb")),
        ("django_sessionstores.db", "Did you mean 'django_sessionstores.backends.db'?"),
        (
            "django_sessionstore.backends.cached_db",
            "Did you mean 'django_sessionstores.backends.cached_db'?",
        ),
        (ENGINES + "cahce", "Did you mean 'django_sessionstores.backends.cache'?"),
        ("db", "Did you mean 'django_sessionstores.backends.db'?"),
        (ENGINES + "DB", "Did you mean 'django_sessionstores.backends.db'?"),
        (ENGINES + "db.SessionStore", "Did you mean 'django_sessionstores.backends.db'?"),
        ("django_sessionstores.backends", ALL_ENGINES),
        ("django_sessionstores", ALL_ENGINES),
        (ENGINES + "signed_cookies", write("cookie")),
        (ENGINES + "signed_cookie", write("cookie")),
        (DJANGO + "redis", write("cache")),
        ("tests.cases", None),
        ("Not a path", ALL_ENGINES),
        (None, ALL_ENGINES),
        (5, ALL_ENGINES),
    ],
)
def test_a_wrong_path_is_told_the_engines(name, hint):
    """E005: the names of Django's engines and of stores are what people try."""
    with override_settings(SESSION_ENGINE=name):
        (message,) = check_engine(None)
    assert (message.id, message.hint) == ("sessionstores.E005", hint)
    assert repr(name) in message.msg


@pytest.mark.parametrize("options", [{"REGISTRY": "redis"}, {"REGISTRY": 1}, ["no dict"]], ids=str)
def test_a_wrong_option_is_reported_once(options):
    """E003 or E001 says it: E005 would send the reader to SESSION_ENGINE, which is right."""
    with override_settings(SESSION_ENGINE=ENGINES + "cookie", SESSIONSTORES=options):
        assert ids(check_engine) == []
        assert len(ids(check_settings)) == 1


@pytest.mark.parametrize(
    ("backend", "location"),
    [
        ("django.core.cache.backends.redis.RedisCache", None),
        ("django.core.cache.backends.redis.RedisCache", "localhost:6379"),
        ("django_redis.cache.RedisCache", ["redis://localhost:6379", "localhost:6380"]),
        # The client would use the database 0 for each of them, without a word.
        ("django.core.cache.backends.redis.RedisCache", "redis://localhost:6379/production"),
        ("django.core.cache.backends.redis.RedisCache", "rediss://:secret@localhost/1a"),
        (
            "django_redis.cache.RedisCache",
            ["redis://localhost:6379/1", "redis://localhost:6380/one"],
        ),
        (MEMCACHED, ""),
        ("django.core.cache.backends.filebased.FileBasedCache", None),
        ("django.core.cache.backends.db.DatabaseCache", None),
    ],
)
def test_a_cache_without_its_location_is_named(backend, location):
    """E005: the first request would be the one to find out, by an error of the client."""
    cache = {"BACKEND": backend} | ({} if location is None else {"LOCATION": location})
    with override_settings(SESSION_ENGINE=ENGINES + "cache", CACHES={"default": cache}):
        (message,) = check_engine(None)
    assert message.id == "sessionstores.E005"
    assert "CACHES['default']['LOCATION']" in message.msg


@pytest.mark.parametrize("location", [5, {}, {"a": 1}, b"x", "a\0b", [5]], ids=ascii)
@pytest.mark.parametrize(
    "backend",
    [
        "django.core.cache.backends.redis.RedisCache",
        "django_redis.cache.RedisCache",
        MEMCACHED,
        "django.core.cache.backends.filebased.FileBasedCache",
        "django.core.cache.backends.db.DatabaseCache",
    ],
)
def test_a_location_of_a_wrong_type_is_named(backend, location):
    """E005: the client's own error, such as 'int' object is not iterable, names no setting."""
    cache = {"BACKEND": backend, "LOCATION": location}
    with override_settings(SESSION_ENGINE=ENGINES + "cache", CACHES={"default": cache}):
        (message,) = check_engine(None)
    assert message.id == "sessionstores.E005"
    assert "CACHES['default']['LOCATION'] cannot be used" in message.msg


@pytest.mark.parametrize("path", ["a\0b", "\ud800", 5, b"x", {}], ids=ascii)
def test_a_path_that_cannot_be_one_is_named(path):
    """E005: manage.py check ended with a traceback."""
    with override_settings(SESSION_ENGINE=ENGINES + "file", SESSION_FILE_PATH=path):
        (message,) = run_checks()
    assert message.id == "sessionstores.E005"
    assert "cannot be used: SESSION_FILE_PATH must be a string" in message.msg


@pytest.mark.parametrize("package", [ENGINES, DJANGO])
def test_a_previous_path_that_cannot_be_one_is_named(package):
    """E017: with the entry that it is in."""
    entry = (f"{package}file", {"SESSION_FILE_PATH": "a\0b"})
    with override_settings(SESSION_ENGINE=ENGINES + "db", SESSIONSTORES={"MIGRATE_FROM": [entry]}):
        (message,) = [each for each in run_checks() if each.level >= django_checks.ERROR]
    assert message.id == "sessionstores.E017"
    named = f"SESSION_FILE_PATH of {package}file in SESSIONSTORES['MIGRATE_FROM'] must be a string"
    assert named in message.msg


def run_checks():
    found = django_checks.run_checks()
    return [each for each in found if (each.id or "").startswith("sessionstores.")]


class Astray:
    def db_for_write(self, model, **hints):
        return "archive" if model._meta.app_label == "django_sessionstores" else None


@pytest.mark.parametrize(
    ("name", "options"), [("db", {}), ("cached_db", {}), ("cookie", {"REGISTRY": "db"})]
)
def test_a_router_that_names_no_database_is_an_error(name, options):
    """E005: all checks failed over it, with an error that names neither setting."""
    with override_settings(
        SESSION_ENGINE=ENGINES + name,
        SESSIONSTORES=options,
        DATABASE_ROUTERS=[f"{__name__}.Astray"],
    ):
        (message,) = check_engine(None)
        assert check_write_access(None) == []
    assert message.id == "sessionstores.E005"
    assert "DATABASE_ROUTERS" in message.msg
    assert "'archive'" in message.msg


@pytest.mark.parametrize(
    "location",
    [
        "redis://localhost",
        "redis://localhost/",
        "redis://localhost/01/",
        "redis://localhost?db=2",
        "redis://localhost/production?db=2",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=3",
    ],
)
def test_a_location_with_a_number_or_without_one_passes(location):
    cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": location}
    with override_settings(SESSION_ENGINE=ENGINES + "cache", CACHES={"default": cache}):
        assert check_engine(None) == []


def test_the_engines_that_a_hint_names_are_all():
    """One that is missing does not exist for readers."""
    hint = engine.engine_hint("no_such_engine")
    assert [name for name in NAMES if f"backends.{name}'" not in str(hint)] == []


def test_the_name_of_django_for_the_cookie_engine_is_explained_at_once():
    """A server does not start, and says why, where no check has run."""
    with (
        override_settings(SESSION_ENGINE=ENGINES + "signed_cookies"),
        pytest.raises(ImproperlyConfigured, match=r"'django_sessionstores.backends.cookie'"),
    ):
        DjangoMiddleware(lambda request: None)


@override_settings(SESSION_ENGINE=ENGINES + "memory")
def test_the_deploy_check_says_which_store_is_used():
    """I001: an operator sees the adapter that was chosen, without being asked to trust a guess."""
    (message,) = report_storage(None)
    assert (message.level, message.id) == (django_checks.INFO, "sessionstores.I001")
    assert "memory of this process" in message.msg


def test_the_deploy_check_names_the_registry():
    """I001: where a session ends is in the registry, not where its data is."""
    with with_registry("db"):
        (message,) = report_storage(None)
    assert re.search("cookie 'sessionid' .* registered in table", message.msg)


@pytest.mark.parametrize("cache", [MEMCACHED, OTHER_CACHE])
def test_the_deploy_check_says_which_caches_list_nothing(cache):
    """I002: better read before the day on which the sessions of a user have to be found."""
    with with_registry("", cache, "cache"):
        assert [each.id[-4:] for each in report_storage(None)] == ["I001", "I002"]
    with with_registry("db", cache, "cache"):
        assert [each.id[-4:] for each in report_storage(None)] == ["I001"]
    with with_registry("", LOCMEM, "cache"):
        assert [each.id[-4:] for each in report_storage(None)] == ["I001"]


@pytest.mark.parametrize("cache", [LOCMEM, "django.core.cache.backends.db.DatabaseCache"])
def test_a_key_function_that_hides_ids_takes_a_registry(cache):
    """I002: the cache could list, but for what the project has set."""
    settings = with_registry("", cache, "cache")
    settings.options["CACHES"]["sessions"]["KEY_FUNCTION"] = f"{HERE}.digest"
    with settings:
        assert [each.id[-4:] for each in report_storage(None)] == ["I001", "I002"]
        with override_settings(SESSIONSTORES={"REGISTRY": "db"}):
            assert [each.id[-4:] for each in report_storage(None)] == ["I001"]


@pytest.mark.parametrize(
    ("backend", "location"),
    [
        ("django.core.cache.backends.redis.RedisCache", "redis://127.0.0.1:1"),
        (MEMCACHED, "127.0.0.1:1"),
    ],
)
def test_an_option_that_the_client_of_a_cache_does_not_know(backend, location):
    """E005: the first request would be the one to find out. No server is asked: none runs."""
    cache = {"BACKEND": backend, "LOCATION": location, "OPTIONS": {"conect_timeout": 1}}
    with override_settings(SESSION_ENGINE=ENGINES + "cache", CACHES={"default": cache}):
        (message,) = check_engine(None)
    assert message.id == "sessionstores.E005"
    assert "CACHES['default']['OPTIONS']" in message.msg
    assert "'conect_timeout'" in message.msg


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import a_module_that_is_missing", "needs: No module named 'a_module_that_is_missing'"),
        ("1 / 0", "the module broken_engine fails with ZeroDivisionError: division by zero"),
    ],
)
def test_an_engine_whose_module_fails(code, says, tmp_path, monkeypatch):
    """E005: "No module named ..." alone would send the reader to SESSION_ENGINE."""
    (tmp_path / "broken_engine.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with override_settings(SESSION_ENGINE="broken_engine"):
        (message,) = check_engine(None)
    assert message.id == "sessionstores.E005"
    assert says in message.msg
