"""``manage.py sessions clear`` and ``clear-cache``: the one without what the other removes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.test import override_settings

from django_sessionstores.storages.base import NAMESPACE
from tests import ROOT
from tests.cases import CACHE_ALIAS, Engine
from tests.management.test_sessions import (
    alive,
    answers,
    run_transcript,
    sessions,
    stored,
    transcripts,
    typed,
)
from tests.migration.previous_backends import DJANGO, at_django, empty_django, migrating
from tests.services import RedisCluster, shared_service

__all__ = ["answers"]

PAGE = ROOT / "docs/howto/clearing.rst"

GLOBS = ("", "*", "?", "[a-z]", "a\\b", "site:1", "%", "_", "^", "ü")
CACHES = (
    "cache:redis-cache",
    "cache:django-redis",
    "cache:database-cache",
    "cached_db:redis-cache+postgresql",
    "cached_db:database-cache+sqlite",
)


@contextmanager
def prefixed(*prefixes: str) -> Iterator[list[Any]]:
    """Caches beside each other in the same store, by prefix; sessions are in the first."""
    entry = settings.CACHES[CACHE_ALIAS]
    names = [f"prefix{number}" for number in range(len(prefixes))]
    aliases = {
        name: {**entry, "KEY_PREFIX": prefix} for name, prefix in zip(names, prefixes, strict=True)
    }
    with override_settings(CACHES={**settings.CACHES, **aliases}, SESSION_CACHE_ALIAS=names[0]):
        yield [caches[name] for name in names]


def fill(cache: Any) -> None:
    for number in range(7):
        cache.set(f"page{number}", number)
    cache.set("newer", 1, version=2)


def filled(cache: Any) -> int:
    """Return how many of the keys the cache has."""
    there = sum(cache.get(f"page{number}") == number for number in range(7))
    return there + (cache.get("newer", version=2) == 1)


@pytest.mark.engines("cache:redis-cache")
def test_transcripts_are_true(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the page about both commands."""
    entry = settings.CACHES[CACHE_ALIAS]
    with override_settings(CACHES={"default": entry}, SESSION_CACHE_ALIAS="default"):
        fill(caches["default"])
        for _ in range(2):
            stored(engine)
        shown = transcripts(PAGE)
        assert {command.split()[0] for command, _ in shown} == {"clear-cache", "clear"}
        for command, expected in shown:
            assert run_transcript(command, monkeypatch, lambda: "y") == expected


# clear --------------------------------------------------------------------------------------------


@pytest.mark.engines(*CACHES)
@pytest.mark.parametrize("prefix", GLOBS)
def test_clear_ends_sessions_and_keeps_the_cache(engine: Engine, prefix: str) -> None:
    """The prefix may have characters that are special in Redis or SQL."""
    with prefixed(prefix, "other", "aab", "x") as (cache, *others):
        for each in (cache, *others):
            fill(each)
        ended = [stored(engine, 7), stored(engine)]
        assert sessions("clear", interactive=False) == "2 sessions ended.\n"
        assert alive(engine, *ended) == [False, False]
        assert [filled(each) for each in (cache, *others)] == [8, 8, 8, 8]


@pytest.mark.engines("cache:redis-cache", "cache:database-cache")
def test_clear_keeps_the_sessions_of_others(engine: Engine) -> None:
    """This includes sites with another prefix, and the same site in another version."""
    with prefixed("a", "*") as (_, other):
        ended = stored(engine)
        other.set(f"{NAMESPACE}x", 1)
        other.set(f"{NAMESPACE}x", 1, version=2)
        caches["prefix0"].set(f"{NAMESPACE}x", 1, version=2)
        sessions("clear", interactive=False)
        assert alive(engine, ended) == [False]
        assert other.get(f"{NAMESPACE}x") == other.get(f"{NAMESPACE}x", version=2) == 1
        assert caches["prefix0"].get(f"{NAMESPACE}x", version=2) == 1


@pytest.mark.engines("file", "db:sqlite", "db:postgresql", "cookie:sqlite", "memory")
def test_clear_elsewhere(engine: Engine) -> None:
    """The same command on each engine that can tell what it has."""
    ended = [stored(engine, 7), stored(engine)]
    assert json.loads(sessions("clear", "--json", interactive=False)) == {"found": 2, "ended": 2}
    assert alive(engine, *ended) == [False, False]


@pytest.mark.engines("db:sqlite", "cache:database-cache", "cache:redis-cache")
def test_clear_asks(engine: Engine, answers: tuple[list[str], list[str]]) -> None:
    """Without a confirmation, and in a dry run, nothing is removed."""
    given, asked = answers
    session = stored(engine)
    assert typed("clear", "--dry-run") == (0, "Would end 1 session.\n")
    assert json.loads(sessions("clear", "--json", "--dry-run")) == {"found": 1, "ended": 0}
    given += ["n", ""]
    for _ in range(2):
        assert typed("clear") == (1, "CommandError: Nothing was ended.\n")
    code, output = typed("clear")
    assert (code, "--no-input" in output) == (1, True)
    assert alive(engine, session) == [True]
    given.append("y")
    assert typed("clear") == (0, "1 session ended.\n")
    assert asked[0] == "End 1 session? [y/N] "
    assert alive(engine, session) == [False]
    assert typed("clear") == (0, "There is no live session to end.\n")


@pytest.mark.engines("cache:memcached", "cookie:unregistered")
def test_clear_where_nobody_knows_what_there_is(engine: Engine) -> None:
    """A text that says what to do, and no session that has ended."""
    session = stored(engine)
    code, output = typed("clear", "--no-input")
    assert (code, "REGISTRY" in output) == (1, True)
    assert alive(engine, session) == [True]


@pytest.mark.engines("db:sqlite")
def test_clear_tells_what_it_does_not_reach(engine: Engine) -> None:
    """Sessions that have not been moved yet are of another engine."""
    empty_django()
    key = at_django("db")
    session = stored(engine)
    with migrating(f"{DJANGO}.db"):
        code, output = typed("clear", "--no-input")
        assert (code, "table django_session in database 'default' are not ended" in output) == (
            0,
            True,
        )
        assert alive(engine, session) == [False]
        assert engine.SessionStore(key).load() != {}


# clear-cache --------------------------------------------------------------------------------------


@pytest.mark.engines(*CACHES)
@pytest.mark.parametrize("prefix", GLOBS)
def test_clear_cache_keeps_sessions(engine: Engine, prefix: str) -> None:
    """Those of the package, those of Django's engines, and what has another prefix."""
    with prefixed(prefix, "other", "aab", "x") as (cache, *others):
        for each in (cache, *others):
            fill(each)
        kept = [stored(engine, 7), stored(engine)]
        django = at_django("cache")
        output = sessions("clear-cache", "prefix0", interactive=False)
        assert output == "8 keys removed.\n"
        assert filled(cache) == 0
        assert [filled(each) for each in others] == [8, 8, 8]
        assert alive(engine, *kept) == [True, True]
        if engine.storage.lists:
            assert json.loads(sessions("stats", "--json"))["live"] == 2
        with migrating(f"{DJANGO}.cache"):
            assert engine.SessionStore(django).load() != {}


@pytest.mark.engines("cache:redis-cache", "cache:database-cache")
def test_clear_cache_of_many_keys(engine: Engine) -> None:
    """More than fit one batch."""
    with prefixed("a") as (cache,):
        cache.set_many({f"{number}": 1 for number in range(1234)})
        if engine.case.id == "cache:database-cache":
            # Which culls at 300 entries.
            assert "keys removed" in sessions("clear-cache", "prefix0", interactive=False)
        else:
            assert sessions("clear-cache", "prefix0", interactive=False) == "1,234 keys removed.\n"
        assert cache.get_many([f"{number}" for number in range(1234)]) == {}


@pytest.mark.engines("cache:redis-cache", "cache:database-cache")
def test_clear_cache_asks(engine: Engine, answers: tuple[list[str], list[str]]) -> None:
    """It names what it is about to empty."""
    given, asked = answers
    cache = caches[CACHE_ALIAS]
    fill(cache)
    code, output = typed("clear-cache", CACHE_ALIAS, "--dry-run")
    assert (code, "Would remove 8 keys of " in output) == (0, True)
    found = json.loads(sessions("clear-cache", CACHE_ALIAS, "--dry-run", "--json"))
    assert found == {"found": 8, "removed": 0}
    given.append("n")
    assert typed("clear-cache", CACHE_ALIAS) == (1, "CommandError: Nothing was removed.\n")
    assert filled(cache) == 8
    given.append("y")
    assert typed("clear-cache", CACHE_ALIAS)[0] == 0
    assert asked[0].startswith("Remove 8 keys of ")
    assert asked[0].endswith(", and no session? [y/N] ")
    assert filled(cache) == 0


@pytest.mark.engines("cache:redis-cache")
def test_clear_cache_with_a_key_function(engine: Engine) -> None:
    """One that puts the key last is understood; from any other nobody can tell sessions."""
    entry = settings.CACHES[CACHE_ALIAS]
    for function, works in ((prefix_last, False), (dashed, True)):
        aliases = {CACHE_ALIAS: {**entry, "KEY_FUNCTION": function}}
        with override_settings(CACHES={**settings.CACHES, **aliases}):
            cache = caches[CACHE_ALIAS]
            cache.set("page", 1)
            session = stored(engine)
            code, output = typed("clear-cache", CACHE_ALIAS, "--no-input")
            assert code == (0 if works else 1), output
            assert cache.get("page") == (None if works else 1)
            assert alive(engine, session) == [True]


def prefix_last(key: str, prefix: str, version: int) -> str:
    return f"{key}:{prefix}:{version}"


def dashed(key: str, prefix: str, version: int) -> str:
    return f"[{prefix}]-{version}-{key}"


@pytest.mark.engines("cache:memcached", "cache:locmem", "cache:file-cache", "db:sqlite")
@pytest.mark.parametrize("arguments", [["--no-input"], ["--dry-run"]], ids=["remove", "rehearse"])
def test_clear_cache_where_nobody_knows_the_keys(engine: Engine, arguments: list[str]) -> None:
    """The command never calls ``clear()``, which would end sessions as well."""
    session = stored(engine)
    alias = CACHE_ALIAS if engine.case.cache else "default"
    caches[alias].set("page", 1)
    code, output = typed("clear-cache", alias, *arguments)
    assert code == 1
    assert f"CACHES[{alias!r}]" in output
    assert caches[alias].get("page") == 1
    assert alive(engine, session) == [True]


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["clear-cache"], 2, "ALIAS"),
        (["clear-cache", "none"], 1, "CACHES has no 'none'. It has: 'default', 'sessions'."),
        (["clear-cache", CACHE_ALIAS, "--json"], 2, "--json goes with --no-input or --dry-run"),
        (["clear", "--json"], 2, "--json goes with --no-input or --dry-run"),
        (["clear", "everything"], 2, "unrecognized arguments"),
    ],
    ids=["no cache", "unknown cache", "json cache", "json", "too much"],
)
def test_bad_input(engine: Engine, arguments: list[str], code: int, says: str, capsys: Any) -> None:
    """Nothing is ended or removed that was not named."""
    session = stored(engine)
    caches[CACHE_ALIAS].set("page", 1)
    found, output = typed(*arguments)
    assert (found, says in " ".join((output + capsys.readouterr().err).split())) == (code, True)
    assert caches[CACHE_ALIAS].get("page") == 1
    assert alive(engine, session) == [True]


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers
def test_redis_is_unreachable(engine: Engine) -> None:
    """An exit code, and no traceback."""
    engine.server().stop()
    for arguments in (["clear"], ["clear-cache", CACHE_ALIAS]):
        code, output = typed(*arguments, "--no-input")
        assert code == 1
        assert "Redis through Django's RedisCache" in output


@pytest.mark.engines("cache:database-cache")
def test_the_database_is_unreachable(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reports the outage, and does not print what the error says."""

    def fail(*args: Any) -> Any:
        raise OperationalError("secret")

    with monkeypatch.context() as patch:
        patch.setattr("django.db.backends.utils.CursorWrapper.execute", fail)
        for arguments in (["clear"], ["clear-cache", CACHE_ALIAS]):
            code, output = typed(*arguments, "--no-input")
            assert (code, "secret" in output) == (1, False)


@pytest.mark.engines("db:sqlite")
def test_clear_cache_needs_no_engine_of_the_package(engine: Engine) -> None:
    """A site that has not moved yet may want it, too."""
    with (
        override_settings(SESSION_ENGINE=f"{DJANGO}.db"),
        pytest.raises(CommandError, match="is in the memory of the site's processes"),
    ):
        call_command("sessions", "clear-cache", "default", stdout=io.StringIO())


def test_clear_cache_on_a_cluster() -> None:
    """Keys of many slots, on all nodes."""
    entry = {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": shared_service(RedisCluster).url(),
        "KEY_PREFIX": "[cluster]",
        "OPTIONS": {"CONNECTION_FACTORY": "tests.storages.redis.test_storage.ClusterFactory"},
    }
    with override_settings(CACHES={"default": entry}):
        cache = caches["default"]
        fill(cache)
        cache.set(f"{NAMESPACE}x", 1)
        assert sessions("clear-cache", "default", interactive=False) == "8 keys removed.\n"
        assert (filled(cache), cache.get(f"{NAMESPACE}x")) == (0, 1)
