"""Sessions of previous backends are migrated: nobody is logged out, and every logout holds."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.core.cache import caches
from django.db import connections, transaction
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.views.debug import ExceptionReporter

from django_sessionstores.core.clock import now
from django_sessionstores.core.flow import Pause
from django_sessionstores.core.records import State, session_id
from django_sessionstores.exceptions import SessionConflict, SessionEnded, StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.migration import lazy
from django_sessionstores.migration.sources.own_storage import OwnSource
from django_sessionstores.testing import (
    DAY,
    HOUR,
    Twin,
    at,
    in_threads,
    observed,
    suspicious_messages,
)
from tests.cases import Engine, empty_memory
from tests.migration.previous_backends import (
    DJANGO,
    OURS,
    after,
    at_django,
    before,
    django_store,
    empty_django,
    empty_folder,
    migrating,
)
from tests.services import MemcachedNodes

PLAIN = ["db", "cached_db", "cache", "file"]
COOKIE = "sessionid"
SELECTION = (
    "memory",
    "file",
    "db:sqlite",
    "cache:redis-cache",
    "cache:memcached",
    "cache:memcached+sqlite",
    "cache:locmem",
    "cached_db:redis-cache+postgresql",
    "mongodb:mongodb",
    "cookie:unregistered",
    "cookie:sqlite",
)
STORED = SELECTION[:-2]
"""Those that keep sessions by their keys."""


def is_at_django(name: str, key: str) -> bool:
    source = lazy.sources()[0]
    return source.find(key) is not None


@pytest.fixture(params=PLAIN)
def source(request: pytest.FixtureRequest, engine: Engine) -> Iterator[str]:
    """Yield one of Django's engines that store sessions, named in MIGRATE_FROM."""
    empty_django()
    django_store(request.param)
    with migrating(f"{DJANGO}.{request.param}"):
        yield request.param


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def in_async(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# Migrating ----------------------------------------------------------------------------------------


@pytest.mark.engines(*SELECTION)
def test_a_session_of_djangos_goes_on(engine: Engine, source: str, in_async: bool) -> None:
    """Same data, same user, same end; under the same key where the engine has keys."""
    key = at_django(source, _auth_user_id="7")
    session = Twin(engine.SessionStore(key), in_async)
    assert session.load() == {"cart": {"apples": 1}, "_auth_user_id": "7"}
    if engine.name == "cookie":
        assert session.session_key != key
        assert session.modified  # So that the browser gets the new one.
    else:
        assert session.session_key == key
        assert not session.modified
        assert not is_at_django(source, key)
    again = Twin(engine.SessionStore(session.session_key), in_async)
    assert again.load()["cart"] == {"apples": 1}
    assert again.session_id == session_id(key)
    again.set("more", 1)
    again.save()
    assert engine.SessionStore(again.session_key).load()["more"] == 1
    if engine.storage.lists:
        (info,) = Inventory().list().sessions
        assert (info.id, info.user_id) == (session_id(key), "7")


@pytest.mark.engines("db:sqlite", "cookie:sqlite")
def test_a_session_ends_when_it_would_have(engine: Engine, source: str) -> None:
    """The move neither logs out early nor lets live for longer."""
    session = django_store(source)()
    session.set_expiry(3600)
    session.save()
    taken = engine.SessionStore(session.session_key)
    assert taken.get_expiry_age() == 3600
    info = Inventory().get(session_id(session.session_key))
    assert info is not None
    assert abs(info.expires - timezone.now() - timedelta(hours=1)) < timedelta(minutes=1)
    with at(now() + 2 * HOUR):
        assert engine.SessionStore(taken.session_key).load() == {}


@pytest.mark.engines("db:sqlite")
def test_a_session_that_ended_after_its_migration_was_rolled_back(
    engine: Engine, source: str, in_async: bool
) -> None:
    """Its data is still at hand, and must not begin another session of the same user."""
    key = at_django(source, _auth_user_id="7")
    session = engine.SessionStore(key)
    with suppress(ZeroDivisionError), transaction.atomic(using=engine.database):
        assert session["_auth_user_id"] == "7"
        raise ZeroDivisionError
    django_store(source)().delete(key)
    with pytest.raises(SessionEnded):
        Twin(session, in_async).cycle_key()


@pytest.mark.engines("db:sqlite", "cookie:sqlite")
@pytest.mark.parametrize("does", ["nothing", "read", "save", "cycle", "cycle and save"])
@pytest.mark.parametrize("name", [*PLAIN, "signed_cookies"])
def test_a_flush_of_a_previous_backends_session_is_rolled_back(
    engine: Engine, name: str, in_async: bool, does: str
) -> None:
    """The session is read again by the cookie that the browser has, not by the key that was derived
    from it."""
    key = at_django(name, x=1)
    with migrating(f"{DJANGO}.{name}"):
        session = engine.SessionStore(key)
        twin = Twin(session, in_async)
        with suppress(ZeroDivisionError), transaction.atomic(using=engine.database):
            if does == "read":
                twin.load()
            if does == "save":
                twin.set("y", 2)
            if does.startswith("cycle"):
                twin.cycle_key()
            if does.endswith("save"):
                twin.save()
            twin.flush()
            raise ZeroDivisionError
        assert dict(twin.items()) == {"cart": {"apples": 1}, "x": 1}


@pytest.mark.engines("memory", "db:sqlite")
def test_what_was_deleted_by_its_id_is_not_migrated(
    engine: Engine, source: str, in_async: bool
) -> None:
    """Django's backends cannot delete a session by its id alone. A tombstone keeps it away."""
    key = at_django(source, _auth_user_id="7")
    storage = Twin(engine.SessionStore.storage(), in_async)
    storage.delete(session_id(key))
    assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("name", ["db", "cached_db", "file"])
def test_what_has_expired_stays_expired(engine: Engine, name: str) -> None:
    """Django would not have served it either."""
    empty_django()
    with migrating(f"{DJANGO}.{name}"):
        key = at_django(name)
        with at(now() + 15 * DAY):
            session = engine.SessionStore(key)
            assert session.load() == {}
            assert session.session_key is None


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("name", ["db", "cached_db", "file"])
def test_age_counts_from_the_last_save(engine: Engine, name: str) -> None:
    """ABSOLUTE_TIMEOUT does not begin anew more than it must, and nobody was idle at the move."""
    from django.contrib.sessions.models import Session

    key, two_days_ago = at_django(name), timezone.now() - timedelta(days=2)
    if name == "file":
        path = Path(settings.SESSION_FILE_PATH, COOKIE + key)
        os.utime(path, (two_days_ago.timestamp(),) * 2)
    else:
        expire_date = two_days_ago + timedelta(seconds=settings.SESSION_COOKIE_AGE)
        Session.objects.filter(pk=key).update(expire_date=expire_date)
    with migrating(f"{DJANGO}.{name}", ABSOLUTE_TIMEOUT=3 * 86_400, IDLE_TIMEOUT=3600):
        assert engine.SessionStore(key).load() != {}
        info = Inventory().get(session_id(key))
        assert info is not None
        assert abs(info.created - two_days_ago) < timedelta(minutes=1)
    with migrating(f"{DJANGO}.{name}", ABSOLUTE_TIMEOUT=86_400):
        assert engine.SessionStore(key).load() == {}


@pytest.mark.engines(*SELECTION)
def test_signed_cookies_are_taken_over(engine: Engine, in_async: bool) -> None:
    """They are longer than keys, and hold other characters. Parallel requests agree."""
    key = at_django("signed_cookies", _auth_user_id="7")
    with migrating(f"{DJANGO}.signed_cookies"):
        sessions = [Twin(engine.SessionStore(key), in_async) for _ in range(2)]
        for session in sessions:
            assert session.load()["_auth_user_id"] == "7"
            assert session.session_key != key
            assert session.modified
            session.save()
        first, second = sessions
        assert first.session_id == second.session_id
        if engine.name != "cookie":
            assert first.session_key == second.session_key
        assert engine.SessionStore(first.session_key).load()["cart"] == {"apples": 1}


@pytest.mark.engines("db:sqlite", "cookie:unregistered", "cookie:sqlite")
@pytest.mark.parametrize("middleware", ["django.contrib.sessions", "django_sessionstores"])
@pytest.mark.parametrize("name", [*PLAIN, "signed_cookies"])
def test_a_browser_notices_nothing(engine: Engine, user: Any, name: str, middleware: str) -> None:
    """It logs in with the one engine and stays logged in with the other."""
    empty_django()
    _, *others = settings.MIDDLEWARE
    django_store(name)
    browser = Client()
    with override_settings(SESSION_ENGINE=f"{DJANGO}.{name}"):
        browser.get("/login/ada/")
        browser.get("/write/x/1/")
        assert browser.get("/who/").content == b"ada"
    before = browser.cookies[COOKIE].value
    # A client keeps the middleware that it was made with, and that its engine.
    cookies, browser = browser.cookies, Client()
    browser.cookies = cookies
    with (
        override_settings(MIDDLEWARE=[f"{middleware}.middleware.SessionMiddleware", *others]),
        migrating(f"{DJANGO}.{name}"),
    ):
        for _ in range(2):
            assert browser.get("/who/").content == b"ada"
        assert browser.get("/read/").json()["x"] == "1"
        is_same = browser.cookies[COOKIE].value == before
        assert is_same is (name in PLAIN and engine.name != "cookie")
        browser.get("/logout/")
        assert browser.get("/who/").content == b""
    with migrating():
        assert browser.get("/who/").content == b""


@pytest.mark.engines("db:sqlite")
def test_altered_and_expired_cookies_are_not_taken_over(engine: Engine) -> None:
    """Somebody who can write a cookie must not be able to write a session."""
    key = at_django("signed_cookies", _auth_user_id="7")
    data, stamp, signature = key.rsplit(":", 2)
    with migrating(f"{DJANGO}.signed_cookies"):
        forged = at_django("signed_cookies", _auth_user_id="1").rsplit(":", 2)[0]
        for bad in (
            f"{forged}:{stamp}:{signature}",
            f"{data}:{stamp}:{signature[:-1]}",
            f"{data}:zzzzzz:{signature}",
            "a:b:c",
            "x" * 500,
            "ä:ö:ü",
        ):
            with suspicious_messages():
                assert engine.SessionStore(bad).load() == {}
        with override_settings(SECRET_KEY="another"), suspicious_messages():
            assert engine.SessionStore(key).load() == {}
        with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
            assert engine.SessionStore(key).load() != {}
        other = at_django("signed_cookies")
        with override_settings(SESSION_COOKIE_AGE=-1), suspicious_messages():
            assert engine.SessionStore(other).load() == {}


@pytest.mark.engines("db:sqlite")
def test_unknown_keys_are_unknown(engine: Engine, source: str) -> None:
    """They cost one round trip in each engine and one more."""
    with observed(engine.storage) as calls, observed_sources() as asked:
        session = engine.SessionStore("a" * 32)
        assert session.load() == {}
        assert session.session_key is None
    assert (calls, asked) == (["read", "read"], ["find"])
    with observed(engine.storage) as calls, observed_sources() as asked:
        assert engine.SessionStore("../../etc/passwd").load() == {}
        assert engine.SessionStore("A" * 32 + "é").load() == {}
    assert (calls, asked) == ([], [])


@pytest.mark.engines("memory", "cookie:sqlite")
@pytest.mark.parametrize("key", ["\ud800" * 32, "\0" * 32, "a:\ud800:c" * 9])
def test_what_no_store_can_look_for_is_unknown(engine: Engine, key: str) -> None:
    """It may come in the body of a request. It is neither an error nor an outage."""
    with migrating(f"{DJANGO}.signed_cookies", f"{DJANGO}.db"), suspicious_messages():
        assert engine.SessionStore(key).load() == {}
        assert not engine.SessionStore().exists(key)
        engine.SessionStore().delete(key)
        engine.SessionStore(key).flush()


@pytest.mark.engines("db:sqlite")
def test_a_key_that_no_previous_backend_can_know_is_read_once(engine: Engine) -> None:
    """Nobody can have moved it in between, so there is no second look."""
    with migrating(f"{DJANGO}.signed_cookies"), observed(engine.storage) as calls:
        assert engine.SessionStore("a" * 32).load() == {}
    assert calls == ["read"]


@pytest.mark.engines("db:sqlite")
def test_only_misses_ask_previous_backends(engine: Engine, source: str) -> None:
    """The sites' other requests cost what they did."""
    key = at_django(source)
    engine.SessionStore(key).load()
    with observed(engine.storage) as calls, observed_sources() as asked:
        session = engine.SessionStore(key)
        session["x"] = 1
        session.save()
        session.cycle_key()
        session.save()
    assert (calls, asked) == (["read", "update", "rotate"], [])


@contextmanager
def observed_sources() -> Iterator[list[str]]:
    """Yield the calls of the first previous backend in the block."""
    asked: list[str] = []
    source = lazy.sources()[0]
    originals = {name: getattr(source, name) for name in ("find", "remove", "lookup", "remove_id")}
    for name, original in originals.items():
        setattr(source, name, lambda *a, n=name, o=original: (asked.append(n), o(*a))[1])
    try:
        yield asked
    finally:
        for name in originals:
            delattr(source, name)


# At the same time ---------------------------------------------------------------------------------


@pytest.mark.engines(
    *("file", "db:sqlite", "db:postgresql", "cache:redis-cache", "cache:memcached+sqlite"),
    "cookie:sqlite",
)
def test_parallel_requests_agree(engine: Engine, source: str) -> None:
    """A page and its ten scripts find one session, and none finds it gone."""
    for _ in range(3):
        key = at_django(source, _auth_user_id="7")

        def request(key: str = key) -> Any:
            session = engine.SessionStore(key)
            return dict(session.load()), session.session_id

        found = in_threads([request] * 6)
        assert found == [({"cart": {"apples": 1}, "_auth_user_id": "7"}, session_id(key))] * 6


@pytest.mark.engines("db:sqlite", "cache:redis-cache", "cached_db:locmem+sqlite")
def test_moved_between_two_looks(engine: Engine, source: str) -> None:
    """Another request took it over after this one had not found it: it is not unknown."""
    key = at_django(source)
    with before(lazy.sources()[0], "find", lambda: engine.SessionStore(key).load()):
        assert engine.SessionStore(key).load() != {}


@pytest.mark.engines("cache:memcached+sqlite", "db:sqlite")
def test_stored_by_another_and_not_to_be_seen_yet(engine: Engine, source: str) -> None:
    """Data and registry are written one after the other; a transaction is seen when it commits."""
    key = at_django(source)
    with after(lazy.sources()[0], "find", lambda: engine.SessionStore(key).load()):
        read, number = engine.storage.read, count()

        def late(locator: str) -> Any:
            # The first look is this request's, the second is of the one that migrates.
            return None if next(number) in {2, 3} else read(locator)

        with mock.patch.object(engine.storage, "read", late):
            assert engine.SessionStore(key).load() != {}


@pytest.mark.engines("cache:memcached+sqlite")
def test_memcached_forgets_that_a_session_has_ended(engine: Engine, source: str) -> None:
    """The registry still knows that it has."""
    key = at_django(source)
    with before(lazy.sources()[0], "remove", crash), pytest.raises(KeyboardInterrupt):
        engine.SessionStore(key).load()
    Inventory().end(session_id(key))
    engine.empty_cache()
    assert is_at_django(source, key) or source in {"cache", "cached_db"}
    assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("is_listed", [False, True])
def test_stored_by_another_and_never_to_be_seen(
    engine: Engine, source: str, is_listed: bool
) -> None:
    """MySQL in a transaction shows what there was at its beginning, and a registry the entry of a
    session whose data is not there yet. That is no logout, and no session without data."""
    key, read = at_django(source), engine.storage.read
    with (
        after(lazy.sources()[0], "find", lambda: engine.SessionStore(key).load()),
        mock.patch.object(engine.storage, "read", return_value=None),
        mock.patch.object(engine.storage, "read_latest", return_value=None),
        mock.patch.object(engine.storage, "lookup", read if is_listed else lambda _: None),
        mock.patch.object(Pause, "sleep") as sleep,
        pytest.raises(StorageUnavailable, match="another request is migrating"),
    ):
        engine.SessionStore(key).load()
    # About a third of a second in all: a thread of the site waits for that long.
    assert [each.args[0] for each in sleep.call_args_list] == [0.02, 0.04, 0.08, 0.16]


@pytest.mark.engines(*STORED, "cookie:sqlite")
def test_logout_during_migration(engine: Engine, source: str) -> None:
    """One request has read the previous backend; another migrates and logs out; the first comes
    too late."""
    key = at_django(source)

    def log_out() -> None:
        session = engine.SessionStore(key)
        session.load()
        session.flush()

    with after(lazy.sources()[0], "find", log_out):
        session = engine.SessionStore(key)
        assert session.load() == {}
    assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("cookie:sqlite")
def test_a_purge_during_migration(engine: Engine, source: str) -> None:
    """Another request has registered the session, which has ended and was purged since."""
    key = at_django(source)
    with (
        after(lazy.sources()[0], "find", lambda: engine.SessionStore(key).load()),
        mock.patch.object(engine.storage, "read_latest", return_value=None),
    ):
        assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("db:sqlite", "cache:redis-cache", "cookie:sqlite")
def test_ended_by_id_during_migration(engine: Engine, source: str) -> None:
    """An operator knows no key, and ends it all the same."""
    key = at_django(source)

    def end() -> None:
        engine.SessionStore(key).load()
        assert Inventory().end(session_id(key))

    with after(lazy.sources()[0], "find", end):
        assert engine.SessionStore(key).load() == {}
    assert engine.SessionStore(key).load() == {}


def crash() -> None:
    raise KeyboardInterrupt


@pytest.mark.engines("db:sqlite", "cache:redis-cache", "cached_db:locmem+sqlite")
@pytest.mark.parametrize("way", ["logout", "inventory", "rotate"])
def test_a_copy_that_a_crash_left_behind_stays_dead(engine: Engine, source: str, way: str) -> None:
    """The process was killed after it had stored the session and before it removed the copy. Then
    the session ends or gets another key."""
    key = at_django(source, _auth_user_id="7")
    with before(lazy.sources()[0], "remove", crash), pytest.raises(KeyboardInterrupt):
        engine.SessionStore(key).load()
    assert is_at_django(source, key)
    session = engine.SessionStore(key)
    assert session.load() != {}
    if way == "logout":
        session.flush()
        assert not is_at_django(source, key)
    elif way == "inventory":
        assert Inventory().end(session.session_id)
    else:
        session.cycle_key()
        session.save()
        assert engine.SessionStore(session.session_key).load() != {}
    for moment in (now(), now() + HOUR, now() + 13 * DAY):
        with at(moment):
            engine.SessionStore.clear_expired()
            assert engine.SessionStore(key).load() == {}


def put_back(source: str, key: str, **data: Any) -> None:
    """As if whoever should have removed it had died before."""
    if not is_at_django(source, key):
        session = django_store(source)(key)
        session._session_cache = data
        session.save(must_create=True)
    assert is_at_django(source, key)


@pytest.mark.engines("memory", "db:sqlite", "cached_db:locmem+sqlite", "cookie:sqlite")
@pytest.mark.parametrize("way", ["logout", "unread", "inventory", "rotate"])
def test_a_copy_that_outlives_the_cookie_age_stays_dead(
    engine: Engine, source: str, way: str
) -> None:
    """``set_expiry()`` makes such sessions. Their tombstones must last as long."""
    data = {"_auth_user_id": "7", "_session_expiry": 365 * 86_400}
    key = at_django(source, **data)
    session = engine.SessionStore(key)
    if way != "unread":
        assert session.load() != {}
    if way == "inventory":
        assert Inventory().end(session.session_id)
    elif way == "rotate":
        session.cycle_key()
        session.save()
    else:
        session.flush()
    put_back(source, key, **data)
    for moment in (now(), now() + 15 * DAY, now() + 360 * DAY):
        with at(moment):
            engine.SessionStore.clear_expired()
            assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("db:sqlite")
def test_a_copy_with_a_longer_lifetime_than_the_session_stays_dead(
    engine: Engine, source: str
) -> None:
    """It may be from before a shorter lifetime was set."""
    key = at_django(source, _auth_user_id="7")
    session = engine.SessionStore(key)
    session.load()
    session.set_expiry(3600)
    session.save()
    session.cycle_key()
    session.save()
    put_back(source, key, _auth_user_id="7")
    with at(now() + settings.SESSION_COOKIE_AGE * 1000 - 60_000):
        engine.SessionStore.clear_expired()
        assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("db:sqlite")
def test_an_old_key_is_kept_from_the_browser_for_a_while_only(engine: Engine, source: str) -> None:
    """The tombstone lasts as long as a copy can, but a dead cookie is deleted as it always was."""
    key = at_django(source)
    session = engine.SessionStore(key)
    session["_auth_user_id"] = "7"
    session.cycle_key()
    session.save()
    old_id = session_id(key)
    superseded = engine.storage.read(old_id).last_activity
    for milliseconds, is_kept in ((59_999, True), (60_000, False), (HOUR, False)):
        with at(superseded + milliseconds):
            old = engine.SessionStore(key)
            assert (old.load(), old.session_key) == ({}, key if is_kept else None)
            storage = engine.SessionStore.storage()
            found = [storage.find(key, key).record, storage.peek(key), storage.read(old_id)]
            # It is known to have ended, and not unknown.
            expected = State.SUPERSEDED if is_kept else State.ENDED
            assert [each.state for each in found] == [expected] * 3


@pytest.mark.engines("db:sqlite", "cookie:sqlite", "cache:redis-cache")
@pytest.mark.parametrize("way", ["logout", "rotate"])
def test_a_signed_cookie_is_exchanged_once(engine: Engine, way: str) -> None:
    """It cannot be taken back, but what was made of it has ended."""
    key = at_django("signed_cookies", _auth_user_id="7")
    with migrating(f"{DJANGO}.signed_cookies"):
        session = engine.SessionStore(key)
        session.load()
        if way == "logout":
            session.flush()
        else:
            session.cycle_key()
            session.save()
        for moment in (now(), now() + HOUR, now() + 13 * DAY):
            with at(moment):
                assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("cookie:sqlite")
@pytest.mark.parametrize("name", [*PLAIN, "signed_cookies", "cookie"])
def test_an_old_key_that_comes_again_does_as_well_as_the_first_time(
    engine: Engine, user: Any, name: str, in_async: bool
) -> None:
    """Of another tab, or because a response was lost. Nobody else has changed anything, and what
    they do change is not lost, whichever key they have got."""
    empty_django()
    previous: Any = f"{DJANGO}.{name}"
    if name == "cookie":
        previous = (f"{OURS}.cookie", {"REGISTRY": ""})
        with override_settings(SESSIONSTORES={}):
            session = engine.SessionStore()
            session["cart"] = {"apples": 1}
            session.save()
            key = session.session_key
    else:
        key = at_django(name)
    with migrating(previous, MERGE_WINDOW=60):
        lost, tab, other, late = (Twin(engine.SessionStore(key), in_async) for _ in range(4))
        for session in (lost, tab):
            assert session.load() == {"cart": {"apples": 1}}
        for number, session in enumerate((tab, other, lost)):
            session.set(f"{number}", number)
            session.save()
        assert {each.session_id for each in (tab, other, lost)} == {tab.session_id}
        saved = {"cart": {"apples": 1}, "0": 0, "1": 1, "2": 2}
        for again in (key, tab.session_key, other.session_key, lost.session_key):
            assert engine.SessionStore(again).load() == saved
        late.cycle_key()
        late.set("_auth_user_id", "7")
        late.save()
        assert engine.SessionStore(late.session_key).load() == {**saved, "_auth_user_id": "7"}
        assert engine.SessionStore(key).load() == {}
        (info,) = Inventory().list().sessions
        assert info.user_id == "7"


@pytest.mark.engines("cookie:sqlite")
def test_an_old_key_that_comes_when_the_first_save_is_forgotten(
    engine: Engine, source: str
) -> None:
    """It reads as it is, and overwrites nothing that others have saved within the window."""
    key, moment = at_django(source), now()
    session = engine.SessionStore(key)
    for minute in (0, 20, 40):
        with at(moment + minute * 60_000):
            session["minute"] = minute
            session.save()
            session = engine.SessionStore(session.session_key)
    with at(moment + 40 * 60_000):
        late = engine.SessionStore(key)
        late["late"] = 1
        with pytest.raises(SessionConflict):
            late.save()
        assert engine.SessionStore(session.session_key)["minute"] == 40


@pytest.mark.engines("db:sqlite")
def test_the_end_of_what_was_nowhere_is_answered_truly(engine: Engine, source: str) -> None:
    """Its tombstone is stored all the same, because a request may be about to migrate it."""
    assert not Inventory().end(session_id("a" * 32))


@pytest.fixture
def own_source(engine: Engine) -> Iterator[str]:
    """Yield the key of a session in a previous backend of this package."""
    path = f"{OURS}.memory"
    empty_memory()
    with override_settings(SESSION_ENGINE=path):
        session = import_module(path).SessionStore()
        session["_auth_user_id"] = "7"
        session.save()
    with migrating(path):
        yield session.session_key


def end_by_id(inventory: Any, key: str) -> bool:
    return bool(inventory.end(session_id(key)))


def end_many_by_id(inventory: Any, key: str) -> bool:
    return [each.id for each in inventory.end_many([session_id(key)])] == [session_id(key)]


by_id = pytest.mark.parametrize("end", [end_by_id, end_many_by_id])
own_engines = pytest.mark.engines("db:sqlite", "cache:redis-cache", "file", "cookie:sqlite")


@own_engines
@by_id
@pytest.mark.parametrize("age", [0, 15 * DAY], ids=["live", "expired"])
def test_the_end_of_what_a_previous_backend_has_is_answered_truly(
    engine: Engine, own_source: str, end: Any, age: int, in_async: bool
) -> None:
    with at(now() + age):
        assert end(Twin(Inventory(), in_async), own_source) is (age == 0)
        assert not end(Twin(Inventory(), in_async), own_source)
    assert engine.SessionStore(own_source).load() == {}
    assert not is_at_django("memory", own_source)


@own_engines
@by_id
def test_such_an_end_in_a_transaction_is_answered_truly(
    engine: Engine, own_source: str, end: Any
) -> None:
    """Though the session is removed from the previous backend when the transaction commits."""
    with transaction.atomic(using=engine.database):
        assert end(Inventory(), own_source)
    assert engine.SessionStore(own_source).load() == {}
    assert not is_at_django("memory", own_source)


@own_engines
@by_id
def test_no_session_of_another_site_in_a_previous_backend_ends(
    engine: Engine, own_source: str, end: Any
) -> None:
    """A tombstone would keep that site from migrating it."""
    with override_settings(SESSIONSTORES={**settings.SESSIONSTORES, "SITE": "another"}):
        assert not end(Inventory(), own_source)
    assert engine.SessionStore(own_source)["_auth_user_id"] == "7"


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_a_logout_in_a_transaction(engine: Engine, source: str, commits: bool) -> None:
    """The previous backend is told when it is certain, and then it is told."""
    key = at_django(source)
    with suppress(RuntimeError), transaction.atomic(using=engine.database):
        engine.SessionStore(key).flush()
        if not commits:
            raise RuntimeError
    assert is_at_django(source, key) is not commits
    assert (engine.SessionStore(key).load() == {}) is commits


@pytest.mark.engines("db:sqlite", "cookie:sqlite")
def test_logging_out_without_reading(engine: Engine, source: str) -> None:
    """The session has not been migrated yet."""
    key = at_django(source)
    engine.SessionStore(key).flush()
    assert not is_at_django(source, key)
    assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("db:sqlite")
def test_logging_in_as_another_user_leaves_parallel_requests_their_cookie(
    engine: Engine, source: str
) -> None:
    """The behaviour is the same as without migration, see test_sessions."""
    key = at_django(source, _auth_user_id="7")
    session = engine.SessionStore(key)
    session.load()
    session.flush()
    session["_auth_user_id"] = "8"
    session.save()
    old = engine.SessionStore(key)
    assert (old.load(), old.session_key) == ({}, key)


@pytest.mark.engines("cookie:unregistered", "cookie:sqlite", "db:sqlite")
def test_logging_in_as_another_user_right_after(engine: Engine, source: str, user: Any) -> None:
    """The first request that the new engine sees is the login, and the login is flushed again."""
    get_user_model().objects.update_or_create(username="bob", defaults={"password": "x"})
    key = at_django(
        source,
        x=1,
        **{
            SESSION_KEY: str(user.pk),
            BACKEND_SESSION_KEY: settings.AUTHENTICATION_BACKENDS[0],
            HASH_SESSION_KEY: user.get_session_auth_hash(),
        },
    )
    browser = Client()
    browser.cookies[COOKIE] = key
    for name in ["bob", "ada"]:
        assert browser.get(f"/login/{name}/").status_code == 200
        assert browser.get("/who/").content.decode() == name
        assert "x" not in browser.get("/read/").json()
    # Without a registry, nothing tells that a key in a cookie has ended.
    if engine.id != "cookie:unregistered":
        assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("db:sqlite", "memory")
def test_exists(engine: Engine, source: str, in_async: bool) -> None:
    """Code that asks before it uses a key gets the right answer."""
    key = at_django(source)
    store = Twin(engine.SessionStore(), in_async)
    assert store.exists(key)
    assert not store.exists("b" * 32)
    engine.SessionStore(key).flush()
    assert not store.exists(key)


@pytest.mark.engines(
    *("db:sqlite", "db:postgresql", "cached_db:locmem+sqlite", "cache:database-cache"),
    "cache:memcached+sqlite",
)
@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_a_transaction_around_the_request(engine: Engine, source: str, commits: bool) -> None:
    """With ``ATOMIC_REQUESTS``, a view that fails rolls back what was stored in the database. If
    the session had been removed from the previous backend, it would be lost."""
    key = at_django(source)
    with suppress(RuntimeError), transaction.atomic(using=engine.database):
        assert engine.SessionStore(key).load() != {}
        if not commits:
            raise RuntimeError
    assert is_at_django(source, key) is not commits
    assert engine.SessionStore(key).load() != {}


@pytest.mark.engines("db:sqlite", "cached_db:locmem+sqlite")
@pytest.mark.parametrize("change", ["cycle_key", "rotate_later"])
def test_a_new_key_that_was_rolled_back_with_the_migration_is_stored_by_the_next_save(
    engine: Engine, source: str, in_async: bool, change: str
) -> None:
    """The code that has asked for it must not go on under the old key."""
    key = at_django(source)
    session = Twin(engine.SessionStore(key), in_async)
    with suppress(RuntimeError), transaction.atomic(using=engine.database):
        session.load()
        assert session.get("cart") == {"apples": 1}
        getattr(session, change)()
        session.save()
        raise RuntimeError
    session.save()
    assert session.session_key != key
    assert engine.SessionStore(key).load() == {}
    assert engine.SessionStore(session.session_key).load() == {"cart": {"apples": 1}}


@pytest.mark.engines("cache:memcached+sqlite")
@pytest.mark.parametrize("saves", [False, True], ids=["", "saves"])
@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_a_transaction_goes_on_where_another_request_has_died(
    engine: Engine, source: str, in_async: bool, commits: bool, saves: bool
) -> None:
    """Between the entry of a registry and the data. Nobody else stores the data until the entry
    expires, so each request of the browser would be answered with an outage."""
    key, data = at_django(source), engine.storage.data
    dies = mock.patch.object(data, "create", side_effect=KeyboardInterrupt)
    with dies, pytest.raises(KeyboardInterrupt):
        engine.SessionStore(key).load()
    session = Twin(engine.SessionStore(key), in_async)
    with suppress(RuntimeError), transaction.atomic(using=engine.database):
        assert session.load() == {"cart": {"apples": 1}}
        if saves:
            session.set("x", 1)
            session.save()
        if not commits:
            raise RuntimeError
    assert is_at_django(source, key) is not commits
    session.save()
    assert engine.SessionStore(key).load() == {"cart": {"apples": 1}} | ({"x": 1} if saves else {})
    engine.SessionStore(key).flush()
    assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("db:sqlite", "cached_db:locmem+sqlite")
def test_others_save_after_a_transaction_around_the_request_was_rolled_back(
    engine: Engine, source: str
) -> None:
    """The changes of other requests are merged as always, and the data of the view stays in the
    session."""
    key = at_django(source, visits=0)
    functions = {"visits": lambda base, mine, theirs: mine + theirs - base}
    with override_settings(SESSIONSTORES=settings.SESSIONSTORES | {"MERGE": functions}):
        session = engine.SessionStore(key)
        with suppress(RuntimeError), transaction.atomic(using=engine.database):
            cart = session["cart"]
            session["visits"] += 1
            raise RuntimeError
        other = engine.SessionStore(key)
        other["visits"] += 1
        other.save()
        session.save()
        cart["pears"] = 1
        session.save()
        data = engine.SessionStore(key).load()
    assert data == {"cart": {"apples": 1, "pears": 1}, "visits": 2}


# Trouble ------------------------------------------------------------------------------------------


@pytest.mark.engines("memory", "cookie:unregistered")
def test_an_outage_of_the_source_is_no_logout(
    engine: Engine, source: str, in_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the session is there is not known, and the cookie stays."""
    key = at_django(source)
    broken = lazy.sources()[0]

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError("connection refused to " + key)

    if source == "cache":
        monkeypatch.setattr(type(caches[settings.SESSION_CACHE_ALIAS]), "get", fail)
    elif source == "file":
        monkeypatch.setattr(Path, "read_text", fail)
    else:
        monkeypatch.setattr("django.db.models.query.QuerySet.first", fail)
    session = Twin(engine.SessionStore(key), in_async)
    with pytest.raises(StorageUnavailable, match="previous backend") as raised:
        session.load()
    assert key not in str(raised.value)
    assert raised.value.__suppress_context__
    assert broken.describe() in str(raised.value)
    browser = Client(raise_request_exception=False)
    browser.cookies[COOKIE] = key
    with override_settings(
        MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware", *settings.MIDDLEWARE[1:]]
    ):
        answer = browser.get("/read/")
    assert answer.status_code == 503
    assert COOKIE not in answer.cookies
    monkeypatch.undo()
    assert engine.SessionStore(key).load() != {}


@pytest.mark.engines("cached_db:django-redis+sqlite")
@pytest.mark.private_servers
def test_redis_goes_away_with_the_previous_sessions(engine: Engine) -> None:
    """Migrated sessions go on from the database. For all other keys, the outage is reported."""
    moved, left = at_django("cache"), at_django("cache")
    middleware = ["django_sessionstores.middleware.SessionMiddleware", *settings.MIDDLEWARE[1:]]
    with migrating(f"{DJANGO}.cache"), override_settings(MIDDLEWARE=middleware):
        assert engine.SessionStore(moved).load() != {}
        engine.server().stop()
        browser = Client(raise_request_exception=False)
        for key, status in ((moved, 200), (left, 503), ("c" * 32, 503)):
            browser.cookies[COOKIE] = key
            answer = browser.get("/read/")
            assert (answer.status_code, COOKIE in answer.cookies) == (status, False)


@pytest.mark.engines("memory", "db:sqlite")
@pytest.mark.parametrize("how", ["kill", "pause"])
@pytest.mark.parametrize(
    "options",
    [{}, {"ignore_exc": True, "retry_attempts": 0, "use_pooling": True}],
    ids=["plain", "hiding"],
)
def test_a_node_of_memcached_goes_away_with_previous_sessions(
    engine: Engine, how: str, options: dict[str, Any]
) -> None:
    """The outage may last long. pymemcache soon treats the node as empty, and asks other nodes for
    its keys."""
    middleware = ["django_sessionstores.middleware.SessionMiddleware", *settings.MIDDLEWARE[1:]]
    options = {**options, "timeout": 0.1, "connect_timeout": 0.1}
    entry = {"SESSION_CACHE_ALIAS": "source"}
    with MemcachedNodes(2) as nodes:
        source = {
            "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
            "LOCATION": nodes.addresses,
            "OPTIONS": options,
        }
        with (
            override_settings(CACHES={**settings.CACHES, "source": source}, MIDDLEWARE=middleware),
            migrating((f"{DJANGO}.cache", entry)),
        ):
            with override_settings(SESSION_CACHE_ALIAS="source"):
                keys = [at_django("cache") for _ in range(30)]
            assert engine.SessionStore(keys.pop()).load() != {}
            gone, stays = [], []
            getattr(nodes.members[0], how)()
            for _ in range(3):
                for key in keys:
                    browser = Client(raise_request_exception=False)
                    browser.cookies[COOKIE] = key
                    answer = browser.get("/read/")
                    assert COOKIE not in answer.cookies
                    (gone if answer.status_code == 503 else stays).append(key)
                    assert answer.status_code == 503 or answer.json() != {}
            assert len(gone) > len(set(gone)) > 0
            assert not set(gone) & set(stays)
            with pytest.raises(StorageUnavailable):
                engine.SessionStore(gone[0]).flush()
            if how == "pause":
                nodes.members[0].resume()
                assert all(engine.SessionStore(key).load() for key in set(gone))


@pytest.mark.engines("memory", "db:sqlite")
def test_an_outage_at_the_removal_fails_no_reader(
    engine: Engine, source: str, in_async: bool
) -> None:
    """The session is migrated already. What stays in the previous backend does not come back after
    a logout, which needs the previous backend."""
    key = at_django(source, _auth_user_id="7")

    def fail() -> None:
        raise StorageUnavailable("away")

    with before(lazy.sources()[0], "remove", fail):
        assert Twin(engine.SessionStore(key), in_async).load()["cart"] == {"apples": 1}
    assert is_at_django(source, key)
    session = Twin(engine.SessionStore(key), in_async)
    assert session.load()["cart"] == {"apples": 1}
    with before(lazy.sources()[0], "remove", fail), pytest.raises(StorageUnavailable):
        session.flush()
    assert engine.SessionStore(key).load() != {}
    Twin(engine.SessionStore(key), in_async).flush()
    assert not is_at_django(source, key)
    put_back(source, key, _auth_user_id="7")
    assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("memory", "db:sqlite", "cookie:sqlite")
def test_the_cache_of_djangos_cached_db_is_away(
    engine: Engine, in_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows tell all that is to be known, so sessions are migrated and end without it. A copy
    that the cache still has when it is back changes nothing."""
    empty_django()
    with migrating(f"{DJANGO}.cached_db"):
        keys = {way: at_django("cached_db", _auth_user_id="7") for way in ("read", "unread")}

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise OSError("connection refused")

        cache = type(caches[settings.SESSION_CACHE_ALIAS])
        with monkeypatch.context() as patch:
            patch.setattr(cache, "delete", fail)
            session = Twin(engine.SessionStore(keys["read"]), in_async)
            assert session.load()["cart"] == {"apples": 1}
            session.flush()
            Twin(engine.SessionStore(keys["unread"]), in_async).flush()
        for key in keys.values():
            assert django_store("cached_db")(key).load() != {}  # By its copy.
            # What the cookie engine has read stays where it was, and its tombstone counts.
            assert is_at_django("cached_db", key) is (
                engine.name == "cookie" and key == keys["read"]
            )
            assert engine.SessionStore(key).load() == {}


@pytest.mark.engines("memory")
def test_what_cannot_be_read_is_left_alone(engine: Engine, source: str) -> None:
    """A wrong SECRET_KEY, or objects that only pickle keeps: the reason is logged."""
    key = at_django(source)
    if source == "cache":
        caches[settings.SESSION_CACHE_ALIAS].set(
            f"django.contrib.sessions.cache{key}", {"when": time.struct_time([0] * 9), "x": Engine}
        )
        with suspicious_messages() as messages:
            assert engine.SessionStore(key).load() == {}
        assert "session['x'] cannot be saved" in messages[0]
    else:
        with override_settings(SECRET_KEY="another"), suspicious_messages() as messages:
            session = engine.SessionStore(key)
            assert session.load() == {}
        assert session.session_key == key
        assert "signature" in messages[0]
    assert key not in messages[0]


@pytest.mark.engines("db:sqlite", "cookie:sqlite", "cache:redis-cache")
@pytest.mark.parametrize("name", ["db", "cached_db", "file"])
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("in_transaction", [True, False], ids=["transaction", "autocommit"])
def test_a_logout_ends_no_session_of_another_site(
    engine: Engine, name: str, is_read: bool, in_transaction: bool
) -> None:
    """The other session stays in a previous backend that both sites share, and after the other site
    has migrated it."""
    empty_django()
    key = at_django(name)
    with migrating(f"{DJANGO}.{name}"):
        around = transaction.atomic(engine.database or "default")
        with override_settings(SECRET_KEY="another"), suspicious_messages():
            session = engine.SessionStore(key)
            if is_read:
                assert session.load() == {}
            with around if in_transaction else nullcontext():
                session.flush()
        assert is_at_django(name, key)
        assert engine.SessionStore(key).load() == {"cart": {"apples": 1}}


@pytest.mark.engines("memory")
def test_capitals_are_other_keys(engine: Engine, source: str) -> None:
    """Some databases and file systems do not tell them apart."""
    key = at_django(source)
    assert engine.SessionStore(key.upper()).load() == {}


class Visitor:
    """Has a key, and no frame of a test has it."""

    def __init__(self, name: str) -> None:
        self.key = at_django(name, card=CARD)

    def report(self, engine: Engine) -> str:
        """Return what is mailed to the site's admins of an outage that the visitor meets, at the
        logout at the latest."""
        try:
            session = engine.SessionStore(self.key)
            session.load()
            session.flush()
        except StorageUnavailable:
            return ExceptionReporter(None, *sys.exc_info()).get_traceback_html()
        raise AssertionError("no outage")


CARD = str(7**20)


@pytest.mark.engines("memory", "db:sqlite")
@pytest.mark.parametrize("name", [*PLAIN, "signed_cookies"])
@pytest.mark.parametrize("call", ["find", "create", "remove"])
def test_error_reports_show_neither_keys_nor_data(
    engine: Engine, name: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They show the variables of each frame, those of migration included."""
    if (name, call) in {("signed_cookies", "find"), ("signed_cookies", "remove")}:
        pytest.skip("Cookies are always there, and never removed")
    empty_django()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise StorageUnavailable("away") if call == "create" else OSError("away")

    with migrating(f"{DJANGO}.{name}"):
        visitor = Visitor(name)
        lazy.sources()
        if call == "create":
            monkeypatch.setattr(engine.storage, "create", fail)
        elif name == "file":
            monkeypatch.setattr(Path, {"find": "stat", "remove": "unlink"}[call], fail)
        elif name == "cache":
            cache = type(caches[settings.SESSION_CACHE_ALIAS])
            monkeypatch.setattr(cache, {"find": "get", "remove": "delete"}[call], fail)
        else:
            method = {"find": "first", "remove": "delete"}[call]
            monkeypatch.setattr(f"django.db.models.query.QuerySet.{method}", fail)
        report = visitor.report(engine)
    assert "away" in report or "is unreachable" in report
    assert "lazy.py" in report
    assert visitor.key not in report
    assert CARD not in report


# Between engines of the package -------------------------------------------------------------------

ROUNDS = [
    ("db", "file"),
    ("file", "db"),
    ("db", "cookie"),
    ("cookie", "db"),
    ("cookie", "memory"),
]


@pytest.mark.engines("memory")
@pytest.mark.parametrize(("old", "new"), ROUNDS, ids=lambda name: name)
def test_between_engines_of_the_package(engine: Engine, old: str, new: str, in_async: bool) -> None:
    """All that is known of a session comes along."""
    Old, New = (import_module(f"{OURS}.{name}").SessionStore for name in (old, new))  # noqa: N806
    empty_folder()
    source = Old()
    source["cart"] = {"apples": 1}
    source["_auth_user_id"] = "7"
    with at(now() - DAY):
        source.save()
    with migrating(f"{OURS}.{old}"), override_settings(SESSION_ENGINE=f"{OURS}.{new}"):
        session = Twin(New(source.session_key), in_async)
        assert session.load() == {"cart": {"apples": 1}, "_auth_user_id": "7"}
        record = session._current_state.record
        assert (record.user_id, record.created, record.expires) == (
            "7",
            source._current_state.record.created,
            source._current_state.record.expires,
        )
        assert (session.session_key == source.session_key) is ("cookie" not in {old, new})
        if "cookie" not in {old, new}:
            assert Old(source.session_key).load() == {}
            session.flush()
            assert New(source.session_key).load() == {}


@pytest.mark.engines("memory")
def test_a_key_that_a_login_has_superseded_in_the_previous_backend(engine: Engine) -> None:
    """A parallel request still carries it, and must not delete the cookie of the login."""
    source = import_module(f"{OURS}.db").SessionStore()
    source["cart"] = 1
    source.save()
    old = source.session_key
    source.cycle_key()
    source["_auth_user_id"] = "7"
    source.save()
    with migrating(f"{OURS}.db"):
        session = engine.SessionStore(old)
        assert (session.load(), session.session_key) == ({}, old)
        assert engine.SessionStore(source.session_key).load()["_auth_user_id"] == "7"


@pytest.mark.engines("memory")
def test_there_and_back(engine: Engine) -> None:
    """Two deployments whose workers run side by side, each with the other's engine as source."""
    empty_folder()
    key = None
    for name, source in [("db", "file"), ("file", "db")] * 3:
        with (
            override_settings(SESSION_ENGINE=f"{OURS}.{name}"),
            migrating(f"{OURS}.{source}"),
        ):
            session = import_module(f"{OURS}.{name}").SessionStore(key)
            session["visits"] = session.get("visits", 0) + 1
            session.save()
            key = session.session_key
    assert session["visits"] == 6


@pytest.mark.engines("cache:redis-cache")
def test_another_alias_of_the_same_engine(engine: Engine) -> None:
    """The entry names the setting that the engine had used."""
    entry = settings.CACHES[settings.SESSION_CACHE_ALIAS]
    aliases = {**settings.CACHES, "new": {**entry, "KEY_PREFIX": "new"}}
    django_key, session = at_django("cache"), engine.SessionStore()
    session["x"] = 1
    session.save()
    old = {"SESSION_CACHE_ALIAS": settings.SESSION_CACHE_ALIAS}
    with (
        override_settings(CACHES=aliases, SESSION_CACHE_ALIAS="new"),
        migrating((f"{OURS}.cache", old), (f"{DJANGO}.cache", old)),
    ):
        assert engine.SessionStore(django_key).load() != {}
        assert engine.SessionStore(session.session_key).load() == {"x": 1}
    assert engine.SessionStore(session.session_key).load() == {}


@pytest.mark.engines("cookie:sqlite")
def test_a_registered_cookie_moves_with_its_registry(engine: Engine) -> None:
    """Each cookie of the session moves, unless the session has ended."""
    sessions = []
    for _ in range(2):
        session = engine.SessionStore()
        session["x"] = 1
        session.save()
        sessions.append(session)
    ended, kept = sessions
    Inventory().end(ended.session_id)
    source = (f"{OURS}.cookie", {"REGISTRY": "db"})
    with override_settings(SESSION_ENGINE=f"{OURS}.db"), migrating(source, REGISTRY=""):
        New = import_module(f"{OURS}.db").SessionStore  # noqa: N806
        with suspicious_messages():
            assert New(ended.session_key).load() == {}
        taken = New(kept.session_key)
        assert taken.load() == {"x": 1}
        assert New(kept.session_key).session_key == taken.session_key
        (info,) = Inventory().list().sessions
        assert info.id == taken.session_id


def test_async_requests_in_parallel(django_db_setup: None, django_db_blocker: Any) -> None:
    """They run on one event loop, in which each ``await`` lets other requests run."""
    store = import_module(f"{OURS}.memory").SessionStore
    with (
        django_db_blocker.unblock(),
        override_settings(SESSION_ENGINE=f"{OURS}.memory"),
        migrating(f"{DJANGO}.db"),
    ):
        empty_django()
        key = at_django("db")

        async def load() -> Any:
            return await store(key).aload()

        async def all_at_once() -> list[Any]:
            return await asyncio.gather(*(load() for _ in range(8)))

        assert asyncio.run(all_at_once()) == [{"cart": {"apples": 1}}] * 8


@pytest.mark.engines("file", "db:sqlite", "cache:redis-cache", "cached_db:locmem+sqlite")
def test_many_that_end_at_once_leave_no_copy_that_comes_back(
    engine: Engine, source: str, in_async: bool
) -> None:
    """A crash has left copies in the previous backend, which must not be migrated again."""
    keys = [at_django(source, _auth_user_id="7") for _ in range(3)]
    for key in keys:
        assert engine.SessionStore(key).load()["_auth_user_id"] == "7"
        copy = django_store(source)(key)
        copy["_auth_user_id"] = "7"
        copy.save(must_create=not copy.exists(key))
    inventory = Twin(Inventory(), in_async)
    assert inventory.end_all("7") == 3
    assert [engine.SessionStore(key).load() for key in keys] == [{}] * 3
    assert inventory.end_all("7") == 0
    assert inventory.count(user="7") == 0


@pytest.mark.engines("db:sqlite")
def test_many_that_end_beside_a_previous_backend_take_one_commit(engine: Engine) -> None:
    """Each end takes several statements, of which the commit is the dearest."""
    django_store("file")  # It makes the folder.
    with migrating(f"{DJANGO}.file"):
        for _ in range(4):
            session = engine.SessionStore()
            session["_auth_user_id"] = "7"
            session.save()
        with CaptureQueriesContext(connections[engine.database]) as captured:
            assert Inventory().end_all("7") == 4
    words = [query["sql"].split()[0] for query in captured]
    assert words.count("COMMIT") == 1


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_storage_closes_with_its_source_unless_others_use_it(is_shared: bool) -> None:
    storage = mock.Mock()
    OwnSource(storage, is_shared=is_shared).close()
    assert storage.close.called is not is_shared


def test_previous_backends_are_closed_with_their_settings() -> None:
    """Each change of CACHES in a test would leave connections open."""
    source = mock.Mock()
    with mock.patch.object(lazy, "open_source", return_value=source):
        lazy._forget_sources()
        assert not source.close.called  # There were none.
        with override_settings(
            SESSIONSTORES={"MIGRATE_FROM": ["django.contrib.sessions.backends.db"]}
        ):
            assert lazy.sources() == (source,)
            assert lazy.sources() == (source,)
            lazy._forget_sources()
            assert source.close.call_count == 1
            assert lazy.sources() == (source,)
            lazy._forget_sources()
        assert source.close.call_count == 2
