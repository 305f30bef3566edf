"""One test per check id: the mistake is named, and a sound configuration passes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from unittest import mock

import pytest
from django.contrib import admin
from django.contrib.auth.views import LoginView
from django.core import checks as django_checks
from django.core import mail
from django.core.cache.backends.base import BaseCache
from django.test import override_settings
from django.urls import path

from django_sessionstores import checks
from django_sessionstores.backends.memory import SessionStore as MemorySessionStore
from django_sessionstores.storages.database import DatabaseStorage

ENGINES = "django_sessionstores.backends."
LOCMEM = "django.core.cache.backends.locmem.LocMemCache"
OURS = "django_sessionstores.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
MEMCACHED = "django.core.cache.backends.memcached.PyMemcacheCache"
DUMMY = "django.core.cache.backends.dummy.DummyCache"


class SessionStore(MemorySessionStore):
    """A project's own engine: this module is named as SESSION_ENGINE."""


class OtherCache(BaseCache):
    """A cache of which only Django's API is known."""

    def __init__(self, location, params):
        super().__init__(params)


def not_a_function(base, mine):
    """What MERGE may name: anything that can be called."""


@pytest.fixture
def production(monkeypatch):
    """As on a live site: DEBUG off and no test runner's mail outbox."""
    monkeypatch.delattr(mail, "outbox", raising=False)
    with override_settings(DEBUG=False):
        yield


def ids(check) -> list[str]:
    return [message.id for message in check(None)]


@pytest.mark.parametrize(
    "check",
    [
        checks.check_settings,
        checks.check_merge_functions,
        checks.check_engine,
        checks.check_memory,
        checks.check_cache,
        checks.check_registry,
        checks.check_database,
        checks.check_file_path,
        checks.check_encryption_keys,
        checks.check_cookie,
        checks.check_cookie_size,
        checks.check_middleware,
        checks.check_cookie_protection,
        checks.check_former_engines,
    ],
)
@override_settings(SESSION_ENGINE=ENGINES + "memory", DEBUG=True)
def test_a_sound_configuration_passes(check):
    """No check cries wolf: noise teaches people to ignore checks."""
    assert ids(check) == []


def test_settings_must_be_a_dict():
    """E001: a list would otherwise fail at the first request."""
    with override_settings(SESSIONSTORES=["TOUCH_INTERVAL"]):
        assert ids(checks.check_settings) == ["sessionstores.E001"]
        assert ids(checks.check_encryption_keys) == []
        assert ids(checks.check_merge_functions) == []


def test_unknown_option_is_named_with_the_nearest_one():
    """E002: a misspelt option would silently keep its default."""
    with override_settings(SESSIONSTORES={"TOUCH_INTERVALL": 5}):
        (message,) = checks.check_settings(None)
    assert message.id == "sessionstores.E002"
    assert message.hint == "Did you mean 'TOUCH_INTERVAL'?"


@pytest.mark.parametrize("value", ["60", True, -1, None])
def test_option_of_a_wrong_type_is_named(value):
    """E003: a string of digits or a negative time is a mistake, told before the first request."""
    with override_settings(SESSIONSTORES={"TOUCH_INTERVAL": value}):
        (message,) = checks.check_settings(None)
    assert message.id == "sessionstores.E003"
    assert "TOUCH_INTERVAL" in message.msg


@pytest.mark.parametrize(
    "options",
    [
        {"ENCRYPTION_KEYS": [""]},
        {"ENCRYPTION_KEYS": [None]},
        {"CONFLICT_RETRIES": -1},
        {"MEMORY_MAX_SESSIONS": 0},
        {"COOKIE_MAX_PARTS": 17},
        {"TOUCH_INTERVAL": float("inf")},
        {"CACHE_LEASE": float("nan")},
    ],
    ids=str,
)
def test_option_of_a_useless_value_is_named(options):
    """E003: an empty secret, from a variable that is not set, would seal with nothing."""
    with override_settings(SESSIONSTORES=options):
        (message,) = checks.check_settings(None)
        assert ids(checks.check_encryption_keys) == []
    assert message.id == "sessionstores.E003"
    assert next(iter(options)) in message.msg


@pytest.mark.parametrize("function", ["no.such.module.function", "tests.test_checks.ENGINES"])
def test_merge_function_must_exist(function):
    """E004: the first conflict is the worst moment to find out."""
    with override_settings(SESSIONSTORES={"MERGE": {"cart": function}}):
        assert ids(checks.check_merge_functions) == ["sessionstores.E004"]


def test_merge_function_that_exists_passes():
    """A dotted path is imported."""
    with override_settings(SESSIONSTORES={"MERGE": {"cart": "tests.test_checks.not_a_function"}}):
        assert ids(checks.check_merge_functions) == []


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
        assert ids(checks.check_engine) == ["sessionstores.E005"]


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("path", [ENGINES + "memory", "tests.test_checks"])
def test_memory_engine_is_refused_in_production(path):
    """E006: a second worker would not know who is logged in. Nor with an engine built on it."""
    with override_settings(SESSION_ENGINE=path):
        assert ids(checks.check_memory) == ["sessionstores.E006"]


def test_memory_engine_is_fine_in_tests():
    """The suite of a project that uses it must not fail for it."""
    with override_settings(SESSION_ENGINE=ENGINES + "memory", DEBUG=False):
        assert ids(checks.check_memory) == []


@pytest.mark.usefixtures("production")
def test_caches_that_lose_sessions():
    """W001, W002, W003: one process, too few entries, and cache.clear()."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cache", CACHES={"default": {"BACKEND": LOCMEM}}
    ):
        assert ids(checks.check_cache) == [
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
        assert ids(checks.check_cache) == []
        assert ids(checks.check_file_path) == []


@pytest.mark.usefixtures("production")
def test_cached_db_may_lose_its_cache():
    """Only what the database cannot make good is worth a warning there."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cached_db", CACHES={"default": {"BACKEND": LOCMEM}}
    ):
        assert ids(checks.check_cache) == ["sessionstores.W001"]


@contextmanager
def database(client: str, **options) -> Iterator[None]:
    """Sessions in a database with these OPTIONS, as seen through a client. Nothing is connected."""
    backend = "mysql" if client in {"MySQLdb", "pymysql"} else "postgresql"
    entry = {"ENGINE": f"django.db.backends.{backend}", "NAME": "shop", "OPTIONS": options}
    connection = SimpleNamespace(
        alias="default", Database=ModuleType(client), settings_dict=entry, vendor=backend
    )
    with (
        override_settings(SESSION_ENGINE=ENGINES + "db"),
        mock.patch.object(DatabaseStorage, "connection", return_value=connection),
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
        (message,) = checks.check_database(None)
    assert message.id == "sessionstores.W006"
    assert f"['OPTIONS']['{limit}']" in message.hint
    with database(client, **{limit: 2}):
        assert ids(checks.check_database) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("option", ["pool", "service"])
def test_a_limit_of_connecting_may_stand_elsewhere(option):
    """A pool gives up by itself, and a service file may say it: the check must not cry wolf."""
    with database("psycopg", **{option: True}):
        assert ids(checks.check_database) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("name", ["db", "cached_db"])
def test_sqlite_has_no_connection_to_wait_for(name):
    """It is the default of every new project."""
    with override_settings(SESSION_ENGINE=ENGINES + name):
        assert ids(checks.check_database) == []


def digest(key, key_prefix, version):
    return hashlib.sha256(f"{key_prefix}:{version}:{key}".encode()).hexdigest()


def with_registry(registry, cache=LOCMEM, of="cookie"):
    """An engine with a registry. No server is asked: none runs at port 1."""
    return override_settings(
        SESSION_ENGINE=ENGINES + of,
        SESSIONSTORES={"REGISTRY": registry},
        SESSION_CACHE_ALIAS="sessions",
        CACHES={
            "default": {"BACKEND": LOCMEM},
            "sessions": {"BACKEND": cache, "LOCATION": "127.0.0.1:1"},
        },
    )


@pytest.mark.usefixtures("production")
def test_cookies_without_a_registry_are_explained():
    """W020: that a logout ends nothing there is what nobody expects."""
    with with_registry(""):
        (message,) = checks.check_registry(None)
    assert message.id == "sessionstores.W020"
    for unprotected in ("logout", "password", "deactivation", "two requests"):
        assert unprotected in message.msg
    assert "REGISTRY" in message.hint


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    ("registry", "cache"),
    [
        ("db", LOCMEM),
        ("cached_db", MEMCACHED),
        ("cache", "django.core.cache.backends.redis.RedisCache"),
    ],
)
def test_a_registry_that_keeps_what_it_has_passes(registry, cache):
    """Each of the three engines that may be named, on a store that can be relied on."""
    with with_registry(registry, cache):
        assert ids(checks.check_engine) == []
        assert ids(checks.check_registry) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    "cache", ["django.core.cache.backends.db.DatabaseCache", "tests.test_checks.OtherCache"]
)
def test_a_registry_that_forgets_is_named(cache):
    """W021: a session that is dropped there ends, in the middle of somebody's work."""
    with with_registry("cache", cache):
        assert ids(checks.check_registry) == ["sessionstores.W021"]


@pytest.mark.usefixtures("production")
def test_the_cache_of_a_registry_is_looked_at_as_one_of_sessions():
    """W001, W002: what is in one process, or dropped, ends sessions just the same."""
    with with_registry("cache"):
        assert ids(checks.check_cache) == ["sessionstores.W001", "sessionstores.W002"]
        assert ids(checks.check_registry) == []  # Said once.
    with with_registry("cached_db"):
        assert ids(checks.check_cache) == ["sessionstores.W001"]
    with with_registry("db"):
        assert ids(checks.check_cache) == []


@pytest.mark.parametrize(
    ("registry", "cache", "of", "reason"),
    [
        ("cache", MEMCACHED, "cookie", "forgets"),
        ("cache", MEMCACHED, "cache", "forgets"),
        ("cache", DUMMY, "cookie", "keeps nothing"),
        ("cached_db", MEMCACHED, "cache", "where the sessions are"),
        ("cached_db", "tests.test_checks.OtherCache", "cache", "where the sessions are"),
        ("cache", "tests.test_checks.OtherCache", "cache", "can list nothing"),
    ],
)
def test_a_registry_that_cannot_be_one_is_refused(registry, cache, of, reason):
    """E005: memcached cannot be asked who is signed in, and copies of a registry would stand
    where the sessions in the same cache are."""
    with with_registry(registry, cache, of):
        (message,) = checks.check_engine(None)
    assert message.id == "sessionstores.E005"
    assert reason in message.msg


@pytest.mark.parametrize("registry", ["db", "cached_db"])
def test_a_registry_in_the_database_needs_the_app(registry):
    """E005: without it there is no table, which the first login would find out."""
    with with_registry(registry), override_settings(INSTALLED_APPS=[]):
        (message,) = checks.check_engine(None)
    assert message.id == "sessionstores.E005"
    assert "INSTALLED_APPS" in message.msg


@pytest.mark.usefixtures("production")
def test_file_path_should_be_chosen(tmp_path):
    """W004: folders for temporary files are emptied by restarts and cleaning jobs."""
    with override_settings(SESSION_ENGINE=ENGINES + "file", SESSION_FILE_PATH=None):
        assert ids(checks.check_file_path) == ["sessionstores.W004"]
    with override_settings(SESSION_ENGINE=ENGINES + "file", SESSION_FILE_PATH=tmp_path):
        assert ids(checks.check_file_path) == []


def test_short_encryption_keys_are_named_by_position_only():
    """W005: a weak key is found, and not printed."""
    with override_settings(SESSIONSTORES={"ENCRYPTION_KEYS": ["k" * 40, "hunter2"]}):
        (message,) = checks.check_encryption_keys(None)
    assert message.id == "sessionstores.W005"
    assert "hunter2" not in str(message)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"SESSION_COOKIE_NAME": "__Secure-id"}, ["SECURE"]),
        ({"SESSION_COOKIE_NAME": "__secure-id"}, ["SECURE"]),
        ({"SESSION_COOKIE_NAME": "__Host-id"}, ["SECURE"]),
        ({"SESSION_COOKIE_NAME": "__Host-id", "SESSION_COOKIE_PATH": "/x/"}, ["SECURE", "PATH"]),
        (
            {"SESSION_COOKIE_NAME": "__Host-id", "SESSION_COOKIE_DOMAIN": "example.com"},
            ["SECURE", "DOMAIN"],
        ),
    ],
    ids=str,
)
def test_prefix_of_the_cookie_must_hold(wrong, named):
    """E007: a browser that refuses the cookie says so to nobody; every login is lost."""
    with override_settings(**wrong):
        (message,) = checks.check_cookie(None)
    assert message.id == "sessionstores.E007"
    assert re.findall(r"SESSION_COOKIE_(\w+)", message.hint) == named


@pytest.mark.parametrize("name", ["__Secure-id", "__Host-id", "Host-id"])
def test_prefix_of_the_cookie_that_holds_passes(name):
    """The settings that the hint asks for are enough."""
    with override_settings(SESSION_COOKIE_NAME=name, SESSION_COOKIE_SECURE=name.startswith("__")):
        assert ids(checks.check_cookie) == []


def test_partitioned_cookie_must_be_secure():
    """E008: refused by browsers as well, without a word."""
    with override_settings(SESSIONSTORES={"COOKIE_PARTITIONED": True}):
        assert ids(checks.check_cookie) == ["sessionstores.E008"]
        with override_settings(SESSION_COOKIE_SECURE=True):
            assert ids(checks.check_cookie) == []
    with override_settings(SESSIONSTORES={"COOKIE_PARTITIONED": "yes"}):
        assert ids(checks.check_cookie) == []
        assert ids(checks.check_settings) == ["sessionstores.E003"]


def test_two_session_middlewares_are_refused():
    """E009: they would answer for two sessions, of which the view sees one."""
    for middleware in ([OURS, DJANGOS], [DJANGOS, OURS], [OURS, OURS]):
        with override_settings(MIDDLEWARE=middleware):
            assert ids(checks.check_middleware) == ["sessionstores.E009"]


def test_options_without_the_middleware_are_named():
    """W010: who sets TRUSTED_PROXIES believes that it is heeded."""
    options = {"TRUSTED_PROXIES": ["10.0.0.1"], "ON_OUTAGE": "anonymous", "TOUCH_INTERVAL": 5}
    with override_settings(SESSIONSTORES=options, MIDDLEWARE=[DJANGOS]):
        (message,) = checks.check_middleware(None)
        assert message.id == "sessionstores.W010"
        assert "TRUSTED_PROXIES" in message.msg
        assert "TOUCH_INTERVAL" not in message.msg
        with override_settings(MIDDLEWARE=[OURS]):
            assert ids(checks.check_middleware) == []


def test_a_middleware_that_does_not_exist_is_djangos_to_report():
    """The check must not be what fails."""
    with override_settings(MIDDLEWARE=["no.such.Middleware"]):
        assert ids(checks.check_middleware) == []


def test_cookie_without_protection_is_named_where_django_does_not_look():
    """W011, W012: Django looks for its own app and middleware by name."""
    with override_settings(
        INSTALLED_APPS=["django_sessionstores"],
        MIDDLEWARE=[OURS],
        SESSION_COOKIE_SECURE=False,
        SESSION_COOKIE_HTTPONLY=False,
    ):
        assert ids(checks.check_cookie_protection) == ["sessionstores.W011", "sessionstores.W012"]
        with override_settings(SESSION_COOKIE_SECURE=True, SESSION_COOKIE_HTTPONLY=True):
            assert ids(checks.check_cookie_protection) == []
        with override_settings(INSTALLED_APPS=["django.contrib.sessions"]):
            assert ids(checks.check_cookie_protection) == []


@pytest.mark.parametrize(
    "options",
    [
        {"TRUSTED_PROXIES": ["10.0.0.1/8"]},
        {"TRUSTED_PROXIES": "10.0.0.1"},
        {"TRUSTED_PROXIES": ["nginx"]},
        {"SECRET_NAMES": "diagnosis"},
        {"SECRET_NAMES": ["_"]},
        {"ON_OUTAGE": "ignore"},
        {"OUTAGE_RETRY_AFTER": 1.5},
        {"COOKIE_PARTITIONED": 1},
    ],
    ids=str,
)
def test_options_of_the_middleware_are_checked(options):
    """E003: a proxy that is not recognised would make everybody the proxy."""
    with override_settings(SESSIONSTORES=options):
        (message,) = checks.check_settings(None)
    assert message.id == "sessionstores.E003"
    assert next(iter(options)) in message.msg


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize(
    ("middleware", "options", "named"),
    [
        (OURS, {"COOKIE_MAX_BYTES": 16_384}, ["16340 bytes (cookies: 4)", "4096", "8192"]),
        (OURS, {"COOKIE_MAX_BYTES": 5_000}, ["5000 bytes (cookies: 2)", "4096"]),
        (OURS, {"COOKIE_MAX_PARTS": 1, "COOKIE_MAX_BYTES": 5_000}, ["4087 bytes (cookies: 1)"]),
        (DJANGOS, {"COOKIE_MAX_BYTES": 16_384}, ["4087 bytes (cookies: 1)", "4096"]),
        (DJANGOS, {"COOKIE_MAX_BYTES": checks.PROXY_SAFE_BYTES + 1}, ["2501 bytes (cookies: 1)"]),
    ],
)
def test_cookies_that_proxies_refuse_are_announced(middleware, options, named):
    """W015: nginx refuses the answer after the session is saved, or each request from then on."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cookie", MIDDLEWARE=[middleware], SESSIONSTORES=options
    ):
        (message,) = checks.check_cookie_size(None)
    assert message.id == "sessionstores.W015"
    assert all(number in message.msg for number in named)
    assert ("8192" in message.msg) is ("8192" in named)
    assert ("large_client_header_buffers" in message.hint) is ("8192" in named)
    assert str(checks.PROXY_SAFE_BYTES) in message.hint


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_cookies_that_proxies_pass_are_no_matter(middleware):
    """W015: who follows the hint has to be left alone."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cookie",
        MIDDLEWARE=[middleware],
        SESSIONSTORES={"COOKIE_MAX_BYTES": checks.PROXY_SAFE_BYTES},
    ):
        assert ids(checks.check_cookie_size) == []


@pytest.mark.usefixtures("production")
@pytest.mark.parametrize("name", ["db", "cache"])
def test_keys_without_data_are_short(name):
    """W015: only the cookie engine keeps in the cookie what a session holds."""
    with override_settings(SESSION_ENGINE=ENGINES + name, MIDDLEWARE=[OURS]):
        assert ids(checks.check_cookie_size) == []


def test_limits_that_cannot_be_worked_out_are_left_to_others(production):
    """W015: an option of the wrong type, E003, must not break the check."""
    with override_settings(
        SESSION_ENGINE=ENGINES + "cookie", SESSIONSTORES={"COOKIE_MAX_BYTES": "2500"}
    ):
        assert ids(checks.check_cookie_size) == []


@pytest.mark.parametrize(
    ("registry", "found"), [("", ["E019", "W022"]), ("db", ["W022"])], ids=["bare", "registered"]
)
def test_limits_and_renewals_that_have_no_list_of_sessions(registry, found):
    """E019, W022: every login would fail, and a leaked key would go on working."""
    options = {"MAX_SESSIONS": 3, "RENEW_AGE": 60, "REGISTRY": registry}
    with override_settings(SESSION_ENGINE=ENGINES + "cookie", SESSIONSTORES=options):
        assert [each.id[-4:] for each in checks.check_what_needs_a_list(None)] == found
    with override_settings(SESSION_ENGINE=ENGINES + "db", SESSIONSTORES=options | {"REGISTRY": ""}):
        assert checks.check_what_needs_a_list(None) == []


@override_settings(SESSION_ENGINE=ENGINES + "memory")
def test_the_deploy_check_says_which_store_is_used():
    """I001: an operator sees the adapter that was chosen, without being asked to trust a guess."""
    (message,) = checks.report_storage(None)
    assert (message.level, message.id) == (django_checks.INFO, "sessionstores.I001")
    assert "memory of this process" in message.msg


def test_the_deploy_check_names_the_registry():
    """I001: where a session ends is in the registry, not where its data is."""
    with with_registry("db"):
        (message,) = checks.report_storage(None)
    assert re.search("cookie 'sessionid' .* registered in table", message.msg)


@pytest.mark.parametrize("cache", [MEMCACHED, "tests.test_checks.OtherCache"])
def test_the_deploy_check_says_which_caches_list_nothing(cache):
    """I002: better read before the day on which the sessions of a user have to be found."""
    with with_registry("", cache, "cache"):
        assert [each.id[-4:] for each in checks.report_storage(None)] == ["I001", "I002"]
    with with_registry("db", cache, "cache"):
        assert [each.id[-4:] for each in checks.report_storage(None)] == ["I001"]
    with with_registry("", LOCMEM, "cache"):
        assert [each.id[-4:] for each in checks.report_storage(None)] == ["I001"]


@pytest.mark.parametrize("cache", [LOCMEM, "django.core.cache.backends.db.DatabaseCache"])
def test_a_key_function_that_hides_ids_takes_a_registry(cache):
    """I002: the cache could list, but for what the project has set."""
    settings = with_registry("", cache, "cache")
    settings.options["CACHES"]["sessions"]["KEY_FUNCTION"] = "tests.test_checks.digest"
    with settings:
        assert [each.id[-4:] for each in checks.report_storage(None)] == ["I001", "I002"]
        with override_settings(SESSIONSTORES={"REGISTRY": "db"}):
            assert [each.id[-4:] for each in checks.report_storage(None)] == ["I001"]


# Former engines -----------------------------------------------------------------------------------


def former(engine: str, *entries: object, **settings: object):
    return override_settings(
        SESSION_ENGINE=ENGINES + engine,
        SESSIONSTORES={"MIGRATE_FROM": list(entries), **settings.pop("options", {})},
        **settings,
    )


DJANGO = "django.contrib.sessions.backends."


@pytest.mark.parametrize(
    "entry",
    [7, "", ("path",), ("path", "alias"), ("path", {"ALIAS": "old"}), (7, {}), ["a", "b", "c"]],
    ids=str,
)
def test_entries_that_are_none(entry):
    """The engine would silently not be asked."""
    with former("memory", entry):
        (message,) = checks.check_settings(None)
        assert message.id == "sessionstores.E003"
        assert "MIGRATE_FROM" in message.msg
        assert ids(checks.check_former_engines) == []


@pytest.mark.parametrize(
    ("name", "entry", "settings"),
    [
        ("memory", ENGINES + "memory", {}),
        ("db", ENGINES + "cached_db", {}),
        ("cached_db", ENGINES + "cache", {}),
        ("cache", (ENGINES + "cache", {"SESSION_CACHE_ALIAS": "twin"}), {}),
        ("file", ENGINES + "file", {}),
        ("cookie", ENGINES + "cookie", {}),
        ("cookie", ENGINES + "db", {"options": {"REGISTRY": "db"}}),
    ],
    ids=lambda value: str(value).removeprefix(ENGINES),
)
def test_former_engine_on_the_same_storage(name, entry, settings):
    """Two engines would take each other's sessions for their own."""
    same = {"BACKEND": LOCMEM, "LOCATION": "same"}
    with former(name, entry, CACHES={"default": same, "twin": same}, **settings):
        assert "sessionstores.E016" in ids(checks.check_former_engines)


@pytest.mark.parametrize(
    ("name", "entry", "settings"),
    [
        ("db", DJANGO + "db", {}),
        ("cache", (ENGINES + "cache", {"SESSION_CACHE_ALIAS": "other"}), {}),
        ("cached_db", (ENGINES + "cache", {"SESSION_CACHE_ALIAS": "other"}), {}),
        ("cache", DJANGO + "cache", {}),
        ("db", ENGINES + "file", {}),
    ],
    ids=lambda value: str(value).removeprefix(ENGINES),
)
def test_former_engines_that_are_fine(name, entry, settings):
    """What the guide shows is not complained about."""
    same = {"BACKEND": LOCMEM, "LOCATION": "same"}
    with former(name, entry, CACHES={"default": same, "other": {**same, "KEY_PREFIX": "x"}}):
        assert ids(checks.check_former_engines) == []


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("nothing.there", "nothing"),
        ("tests.cases", "neither an engine of Django's nor"),
        ((DJANGO + "cache", {"SESSION_CACHE_ALIAS": "none"}), "'none'"),
        ((ENGINES + "cache", {"SESSION_CACHE_ALIAS": "none"}), "'none'"),
        ((DJANGO + "file", {"SESSION_FILE_PATH": "/nowhere"}), "/nowhere"),
    ],
    ids=["module", "no engine", "djangos alias", "alias", "folder"],
)
def test_former_engine_that_cannot_be_used(entry, says):
    """The first request with an unknown cookie would be the one to find out."""
    with former("memory", entry):
        (message,) = checks.check_former_engines(None)
        assert message.id == "sessionstores.E017"
        assert says in message.msg


def test_migrate_from_for_an_engine_of_djangos():
    """Which would ignore it."""
    with former("memory", DJANGO + "db"), override_settings(SESSION_ENGINE=DJANGO + "cache"):
        assert ids(checks.check_former_engines) == ["sessionstores.E018"]


@pytest.mark.parametrize(
    ("name", "entry"),
    [("db", DJANGO + "signed_cookies"), ("db", ENGINES + "cookie"), ("cookie", DJANGO + "db")],
    ids=lambda value: value.removeprefix(ENGINES),
)
def test_cookies_from_before_the_move(name, entry):
    """What cannot be taken back has to be waited for."""
    with former(name, entry, SESSION_COOKIE_AGE=86_401):
        (message,) = checks.check_former_engines(None)
        assert message.id == "sessionstores.W016"
        assert "up to 2 days" in message.msg


# Of the pages in this module's URLconf.
urlpatterns = [
    path("open/", LoginView.as_view(), name="open"),
    path("shut/", LoginView.as_view(redirect_authenticated_user=True), name="shut"),
    path("admin/", admin.site.urls),
]


@pytest.mark.parametrize(
    ("login_url", "options", "found"),
    [
        ("open", {}, []),
        ("shut", {}, ["W018"]),
        ("/shut/?x=1", {}, ["W018"]),
        ("admin:login", {}, ["W018"]),
        ("shut", {"RECENT_SIGN_IN_URL": "open"}, []),
        ("open", {"RECENT_SIGN_IN_URL": "shut"}, ["W018"]),
        ("shut", {"RECENT_SIGN_IN_AGE": None}, []),
        ("nowhere", {}, ["W019"]),
        ("/not/in/the/urlconf/", {}, []),
        ("https://id.example/shut/", {}, []),
        ("open", {"RECENT_SIGN_IN_AGE": 0}, []),
    ],
)
def test_a_page_to_sign_in_again(login_url, options, found):
    """A browser that is sent to and fro shows an error of its own, and nothing is in the log."""
    with override_settings(
        ROOT_URLCONF=__name__,
        LOGIN_URL=login_url,
        SESSIONSTORES={"RECENT_SIGN_IN_AGE": 600} | options,
    ):
        assert ids(checks.check_recent_sign_in) == [f"sessionstores.{id_}" for id_ in found]


def test_recent_sign_ins_with_an_engine_of_djangos():
    """W017: it remembers none."""
    with override_settings(SESSION_ENGINE=DJANGO + "db", SESSIONSTORES={"RECENT_SIGN_IN_AGE": 60}):
        assert ids(checks.check_recent_sign_in) == ["sessionstores.W017"]


@pytest.mark.parametrize(
    "options",
    [
        {"RECENT_SIGN_IN_AGE": 0},
        {"RECENT_SIGN_IN_AGE": -1},
        {"RECENT_SIGN_IN_AGE": True},
        {"RECENT_SIGN_IN_AGE": float("nan")},
        {"RECENT_SIGN_IN_AGE": "600"},
        {"RECENT_SIGN_IN_URL": None},
    ],
    ids=str,
)
def test_options_of_recent_sign_ins_are_checked(options):
    """E003."""
    with override_settings(SESSIONSTORES=options):
        assert ids(checks.check_settings) == ["sessionstores.E003"]
