"""Checks of the previous backends in ``MIGRATE_FROM``."""

from __future__ import annotations

import pytest
from django.test import override_settings

from django_sessionstores.operations.checks.options import check_settings
from django_sessionstores.operations.checks.previous_backends import check_previous_backends
from tests.operations.checks.configurations import (
    DJANGO,
    ENGINES,
    LOCMEM,
    MEMCACHED,
    OTHER_CACHE,
    ids,
)


def source(engine: str, *entries: object, **settings: object):
    return override_settings(
        SESSION_ENGINE=ENGINES + engine,
        SESSIONSTORES={"MIGRATE_FROM": list(entries), **settings.pop("options", {})},
        **settings,
    )


@pytest.mark.parametrize(
    "entry",
    [7, "", ("path",), ("path", "alias"), ("path", {"ALIAS": "old"}), (7, {}), ["a", "b", "c"]],
    ids=str,
)
def test_entries_that_are_none(entry):
    """The engine would silently not be asked."""
    with source("memory", entry):
        (message,) = check_settings(None)
        assert message.id == "sessionstores.E003"
        assert "MIGRATE_FROM" in message.msg
        assert ids(check_previous_backends) == []


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
def test_previous_backend_on_the_same_storage(name, entry, settings):
    """Two engines would take each other's sessions for their own."""
    same = {"BACKEND": LOCMEM, "LOCATION": "same"}
    with source(name, entry, CACHES={"default": same, "twin": same}, **settings):
        found = {message.id: message for message in check_previous_backends(None)}
    # Only there can both engines stay, with the registry elsewhere.
    names_registry = "['REGISTRY']" in found["sessionstores.E016"].hint
    assert names_registry == (name == "cookie" and entry != ENGINES + "cookie")


@pytest.mark.parametrize(
    ("backend", "location"),
    [
        ("django.core.cache.backends.redis.RedisCache", "redis://127.0.0.1:1/1"),
        ("django_redis.cache.RedisCache", "redis://127.0.0.1:1/1"),
        (MEMCACHED, "127.0.0.1:1"),
        ("django.core.cache.backends.filebased.FileBasedCache", "{folder}/cache"),
        (OTHER_CACHE, ""),
    ],
)
def test_two_aliases_of_one_cache(backend, location, tmp_path):
    """E016, whatever the cache is. No server is asked: none runs at port 1."""
    same = {"BACKEND": backend, "LOCATION": location.format(folder=tmp_path)}
    entry = (ENGINES + "cache", {"SESSION_CACHE_ALIAS": "twin"})
    with source("cache", entry, CACHES={"default": same, "twin": dict(same)}):
        assert ids(check_previous_backends) == ["sessionstores.E016"]
    other = {**same, "KEY_PREFIX": "other"}
    with source("cache", entry, CACHES={"default": same, "twin": other}):
        assert ids(check_previous_backends) == []


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
def test_previous_backends_that_are_fine(name, entry, settings):
    """The checks accept what the guide shows."""
    same = {"BACKEND": LOCMEM, "LOCATION": "same"}
    with source(name, entry, CACHES={"default": same, "other": {**same, "KEY_PREFIX": "x"}}):
        assert ids(check_previous_backends) == []


@pytest.mark.parametrize(
    ("entry", "says", "hint"),
    [
        ("nothing.there", "nothing", "The engines are: "),
        (DJANGO + "dbb", "dbb", f"Did you mean '{DJANGO}db'?"),
        ("db", "db", f"Did you mean '{ENGINES}db'?"),
        ("tests.cases", "neither a session backend of Django nor", "pair of its path and a dict"),
        ((DJANGO + "cache", {"SESSION_CACHE_ALIAS": "none"}), "'none'", "pair of its path"),
        ((ENGINES + "cache", {"SESSION_CACHE_ALIAS": "none"}), "'none'", "pair of its path"),
        ((DJANGO + "file", {"SESSION_FILE_PATH": "/nowhere"}), "/nowhere", "pair of its path"),
    ],
    ids=["module", "misspelt", "name", "no engine", "djangos alias", "alias", "folder"],
)
def test_previous_backend_that_cannot_be_used(entry, says, hint):
    """The first request with an unknown cookie would be the one to find out."""
    with source("memory", entry):
        (message,) = check_previous_backends(None)
        assert message.id == "sessionstores.E017"
        assert message.msg.startswith("SESSIONSTORES['MIGRATE_FROM'] names ")
        assert says in message.msg
        assert hint in message.hint


@pytest.mark.parametrize(
    ("name", "entry"),
    [("db", DJANGO + "signed_cookies"), ("db", ENGINES + "cookie"), ("cookie", DJANGO + "db")],
    ids=lambda value: value.removeprefix(ENGINES),
)
def test_cookies_from_before_the_move(name, entry):
    """Cookies cannot be revoked, so the check says how long they last."""
    with source(name, entry, SESSION_COOKIE_AGE=86_401):
        (message,) = check_previous_backends(None)
        assert message.id == "sessionstores.W016"
        assert "up to 2 days" in message.msg


@pytest.mark.parametrize("old", [None, {"SESSION_CACHE_ALIAS": "old"}])
def test_the_registry_of_the_cookie_engine_in_the_cache_of_the_old_sessions(old):
    """E016: another cache cures it, and another kind of registry would not be needed."""
    path = ENGINES + "cached_db"
    caches = {
        name: {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"redis://127.0.0.1:1/{number}",
        }
        for number, name in enumerate(("default", "old"))
    }
    options = {"REGISTRY": "cache", "MIGRATE_FROM": [(path, old) if old else path]}
    with override_settings(SESSION_ENGINE=ENGINES + "cookie", SESSIONSTORES=options, CACHES=caches):
        found = [each for each in check_previous_backends(None) if each.id.endswith("E016")]
    assert len(found) == (0 if old else 1)
    for message in found:
        assert "Set SESSION_CACHE_ALIAS to another cache" in message.hint
        assert f"('{path}', {{'SESSION_CACHE_ALIAS': 'old'}})" in message.hint
