"""A storage is made again when a setting that it was made from changes, and only then."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from django.conf import settings
from django.core.signals import setting_changed
from django.test import override_settings

from django_sessionstores.sessions import SessionStore
from django_sessionstores.storages.memory import MemoryStorage
from tests import cases

OTHER_CACHES = {
    name: {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
    for name in ("default", cases.CACHE_ALIAS)
}


def _key(engine: Any) -> str:
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    return str(session.session_key)


@pytest.mark.engines("memory")
@pytest.mark.parametrize(
    "changed",
    [
        {"CACHES": OTHER_CACHES},
        {"SESSION_CACHE_ALIAS": "default"},
        {"SESSION_FILE_PATH": None},
        {"SESSION_ENGINE": "django_sessionstores.backends.file"},
        {"SESSIONSTORES": {"MAX_SESSIONS": 3, "CACHE_LEASE": 7}},
    ],
    ids=lambda changed: "+".join(changed),
)
def test_memory_keeps_its_sessions(engine: cases.Engine, changed: dict[str, Any]) -> None:
    """A project's test that overrides its caches must not sign its client out."""
    key = _key(engine)
    with override_settings(**changed):
        assert engine.SessionStore(key).get("x") == 1
        inside = _key(engine)
    assert engine.SessionStore(key).get("x") == 1
    assert engine.SessionStore(inside).get("x") == 1


@pytest.mark.engines("memory")
def test_memory_follows_its_own_option(engine: cases.Engine) -> None:
    with override_settings(SESSIONSTORES={"MEMORY_MAX_SESSIONS": 2}):
        keys = [_key(engine) for _ in range(3)]
        assert [engine.SessionStore(key).get("x") for key in keys] == [None, 1, 1]


USED = {
    "file": {"SESSION_FILE_PATH"},
    "db": {"DATABASES"},
    "cache": {"CACHES", "SESSION_CACHE_ALIAS", "DATABASES"},
    "cached_db": {"CACHES", "SESSION_CACHE_ALIAS", "DATABASES"},
    "cookie": {"CACHES", "SESSION_CACHE_ALIAS", "DATABASES"},
    "memory": set[str](),
    "mongodb": set[str](),
}
NAMES = ("SESSION_ENGINE", "SESSION_FILE_PATH", "SESSION_CACHE_ALIAS", "CACHES", "DATABASES")


@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")
def test_every_engine_is_made_again_for_its_own_settings(engine: cases.Engine) -> None:
    assert engine.name in USED, f"Add {engine.name!r} to USED, with the settings that it reads."
    for name in NAMES:
        before = engine.storage
        setting_changed.send(None, setting=name, value=None, enter=True)
        assert (engine.storage is not before) is (name in USED[engine.name]), name


@pytest.mark.parametrize(
    ("name", "value", "engines"),
    [
        ("MERGE_WINDOW", 7.0, {"cookie", "cache"}),
        ("CACHE_LEASE", 7.0, {"cached_db", "cookie", "cache"}),
        ("DATABASE_TIMEOUT", 7.0, {"mongodb", "cached_db", "cookie", "cache"}),
        ("MAX_SESSIONS", 7, set[str]()),
    ],
)
def test_every_engine_is_made_again_for_its_own_options(
    engine: cases.Engine, name: str, value: float, engines: set[str]
) -> None:
    before = engine.storage
    options = getattr(settings, "SESSIONSTORES", {})
    with override_settings(SESSIONSTORES={**options, name: value}):
        assert (engine.storage is not before) is (engine.name in engines)


@pytest.mark.engines("memory")
def test_an_engine_that_declares_nothing_is_made_again_for_each(engine: cases.Engine) -> None:
    """It may read any of them, as a project's own engine did before it could declare them."""

    class Engine(SessionStore):
        closed: ClassVar[list[MemoryStorage]] = []

        @classmethod
        def make_storage(cls) -> MemoryStorage:
            storage = MemoryStorage(10)
            storage.close = lambda: cls.closed.append(storage)  # type: ignore[method-assign]
            return storage

    first = Engine.own_storage()
    with override_settings(SESSIONSTORES={"MAX_SESSIONS": 3}):
        second = Engine.own_storage()
        assert second is not first
        with override_settings(CACHES=OTHER_CACHES):
            assert Engine.own_storage() is not second
        with override_settings(SESSION_COOKIE_AGE=10):
            third = Engine.own_storage()
        assert Engine.own_storage() is third
    assert Engine.closed[:2] == [first, second]
