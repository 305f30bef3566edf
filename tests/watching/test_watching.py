"""What is open under a session learns of its end, whichever process ends it, on every engine."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.sessions.backends.cache import SessionStore as ForeignSession
from django.test import Client, override_settings

from django_sessionstores import signals
from django_sessionstores.conf.options import Settings, settings
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.testing import observed
from django_sessionstores.watching import UNKNOWN, Watch, watching
from django_sessionstores.watching.watcher import watcher_of

COOKIE = "sessionid"
MIDDLEWARE = "django_sessionstores.middleware.SessionMiddleware"
SHORT = 0.1
LONG = 10
"""Seconds that nothing takes."""
QUIET = 0.5
"""Seconds for which a session that lives is watched."""

listing = pytest.mark.engines(
    *("memory", "file", "db", "cache", "cached_db", "cookie:sqlite", "cookie:django-redis"),
    *("mongodb", "cookie:mongodb"),
)
some = pytest.mark.engines("memory", "db:sqlite", "cache:django-redis")
Browser = Client


class _Deaf(list[Any]):
    """The observers of signals, to which nobody is added."""

    def append(self, observer: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def packages_middleware(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With the package's middleware, and a re-check that does not take long."""
    interval(monkeypatch, SHORT)
    _, *others = django_settings.MIDDLEWARE
    with override_settings(MIDDLEWARE=[MIDDLEWARE, *others]):
        yield
    vars(settings).pop("WATCH_INTERVAL", None)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions end as if another process had ended them: this one is told nothing."""
    monkeypatch.setattr(signals, "observers", _Deaf())


def interval(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(Settings, "WATCH_INTERVAL", seconds)
    vars(settings).pop("WATCH_INTERVAL", None)


@pytest.fixture
def options() -> Iterator[Callable[..., None]]:
    """Return a function that sets options of ``SESSIONSTORES`` beside those of the case."""
    with ExitStack() as stack:

        def change(**changed: Any) -> None:
            present = getattr(django_settings, "SESSIONSTORES", {})
            stack.enter_context(override_settings(SESSIONSTORES={**present, **changed}))

        yield change


def signed_in(username: str) -> Browser:
    browser = Client(raise_request_exception=False)
    assert browser.get(f"/login/{username}/").status_code == 200
    return browser


def session_of(engine: Any, browser: Browser) -> Any:
    """Return a session object as another request with the cookie of the browser gets it."""
    return engine.SessionStore(browser.cookies[COOKIE].value)


def visit(browser: Browser, path: str) -> Awaitable[Any]:
    return sync_to_async(browser.get)(path)


async def lives(watch: Watch) -> bool:
    await asyncio.sleep(QUIET)
    return not watch.has_ended


async def ended(watch: Watch) -> str:
    async with asyncio.timeout(LONG):
        return await watch.wait()


# Ends ---------------------------------------------------------------------------------------------


@listing
@pytest.mark.parametrize("how", ["logout", "end", "end_all"])
@pytest.mark.usefixtures("elsewhere")
def test_an_end_in_another_process_is_noticed(engine: Any, user: Any, how: str) -> None:
    """The store is the only one who knows of it. What else is watched goes on."""
    if how == "end_all" and not engine.storage.lists:
        pytest.skip(f"{engine.id} does not list sessions")
    browser, other = signed_in(user.username), signed_in(user.username)

    async def scenario() -> None:
        async with (
            watching(session_of(engine, browser)) as watch,
            watching(session_of(engine, other)) as another,
        ):
            assert await lives(watch)
            if how == "logout":
                await visit(browser, "/logout/")
            elif how == "end":
                assert await Inventory().aend(watch.id)
            else:
                await Inventory().aend_all(user, but=another.id)
            assert await ended(watch) == UNKNOWN
            assert not another.has_ended

    asyncio.run(scenario())


@some
@pytest.mark.parametrize("how", ["logout", "end", "end_all", "password", "limit", "deleted"])
def test_an_end_in_this_process_is_noticed_at_once_with_its_reason(
    engine: Any,
    user: Any,
    options: Callable[..., None],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever thread it happens in. The next re-check would be in an hour."""
    interval(monkeypatch, 3600)
    if how == "limit":
        options(MAX_SESSIONS=1)
    browser = signed_in(user.username)

    def change_password() -> None:
        user.set_password("another")
        user.save()

    async def scenario() -> str:
        async with watching(session_of(engine, browser)) as watch:
            if how == "logout":
                await visit(browser, "/logout/")
            elif how == "end":
                assert await Inventory().aend(watch.id)
            elif how == "end_all":
                await Inventory().aend_all(user)
            elif how == "password":
                await sync_to_async(change_password)()
            elif how == "limit":
                await sync_to_async(signed_in)(user.username)
            else:
                await user.adelete()
            return await ended(watch)

    revoked = {"end": "revoked", "end_all": "revoked", "limit": "evicted"}
    assert asyncio.run(scenario()) == revoked.get(how, how)


@listing
@pytest.mark.parametrize("option", ["IDLE_TIMEOUT", "ABSOLUTE_TIMEOUT"])
def test_a_timeout_is_an_end(
    engine: Any, user: Any, options: Callable[..., None], option: str
) -> None:
    """Nobody ends the session: it is over because of the time."""
    options(**{option: 2})
    browser = signed_in(user.username)

    async def scenario() -> str:
        async with watching(session_of(engine, browser)) as watch:
            assert await lives(watch)
            return await ended(watch)

    assert asyncio.run(scenario()) == "expired"


@pytest.mark.engines("cookie:unregistered")
def test_a_session_that_only_the_browser_has_ends_by_time(
    engine: Any, user: Any, options: Callable[..., None]
) -> None:
    """The store is not asked for it: there is none."""
    options(ABSOLUTE_TIMEOUT=2)
    browser = signed_in(user.username)

    async def scenario() -> str:
        async with watching(session_of(engine, browser)) as watch:
            with observed(engine.storage) as calls:
                assert await lives(watch)
            assert calls == []
            return await ended(watch)

    assert asyncio.run(scenario()) == "expired"


@some
@pytest.mark.usefixtures("elsewhere")
def test_a_session_that_has_ended_before_is_not_watched(engine: Any, user: Any) -> None:
    """Its visitor is nobody, as everywhere on the site."""
    browser = signed_in(user.username)
    session = session_of(engine, browser)
    browser.get("/logout/")

    async def scenario() -> None:
        async with watching(session) as watch, watching(engine.SessionStore()) as anonymous:
            assert await lives(watch)
            assert await lives(anonymous)
            assert len(watcher_of(engine.SessionStore)) == 0

    asyncio.run(scenario())


def test_a_session_of_another_package_is_refused() -> None:
    async def scenario() -> None:
        async with watching(ForeignSession()):
            pass

    with pytest.raises(TypeError, match="Set SESSION_ENGINE to an engine of django_sessionstores"):
        asyncio.run(scenario())


# Rotation -----------------------------------------------------------------------------------------


@pytest.mark.engines(
    *("memory", "file", "db", "cache:django-redis", "cached_db", "mongodb:mongodb")
)
@pytest.mark.usefixtures("elsewhere")
def test_a_rotation_is_followed(engine: Any, user: Any, options: Callable[..., None]) -> None:
    """The session is the same. It goes on to be watched under its new id, more than once."""
    browser = signed_in(user.username)

    async def scenario() -> None:
        async with watching(session_of(engine, browser)) as watch:
            ids = [watch.id]
            for _ in range(2):
                options(ROTATE_AFTER=0.001)
                await visit(browser, "/who/")
                options(ROTATE_AFTER=0)
                assert await lives(watch)
                ids.append(watch.id)
            assert len(set(ids)) == 3
            await visit(browser, "/logout/")
            assert await ended(watch) == UNKNOWN

    asyncio.run(scenario())


@some
@pytest.mark.usefixtures("elsewhere")
def test_two_rotations_between_two_checks_are_followed(
    engine: Any, user: Any, options: Callable[..., None]
) -> None:
    browser = signed_in(user.username)

    async def scenario() -> None:
        async with watching(session_of(engine, browser)) as watch:
            with observed(engine.storage, before=_refuse_lookups):
                options(ROTATE_AFTER=0.001)
                for _ in range(3):
                    await visit(browser, "/who/")
                options(ROTATE_AFTER=0)
            assert await lives(watch)
            assert watch.id == session_of(engine, browser).session_id

    asyncio.run(scenario())


def _refuse_lookups(name: str) -> None:
    if name == "lookup_many":
        raise StorageUnavailable("not now")


@some
@pytest.mark.usefixtures("elsewhere")
def test_a_login_of_another_user_replaces_the_session(engine: Any, user: Any) -> None:
    """What was opened for the anonymous visitor is not the user's."""
    browser = Client()
    browser.get("/write/color/red/")

    async def scenario() -> str:
        async with watching(session_of(engine, browser)) as watch:
            await visit(browser, f"/login/{user.username}/")
            return await ended(watch)

    assert asyncio.run(scenario()) == "replaced"


# Outages ------------------------------------------------------------------------------------------


@some
@pytest.mark.usefixtures("elsewhere")
def test_an_outage_ends_nothing(engine: Any, user: Any) -> None:
    """When it is over, the sessions are checked again."""
    browser = signed_in(user.username)

    async def scenario() -> None:
        async with watching(session_of(engine, browser)) as watch:
            with observed(engine.storage, before=_refuse_lookups):
                assert await lives(watch)
                await visit(browser, "/logout/")
                assert await lives(watch)
            assert await ended(watch) == UNKNOWN

    asyncio.run(scenario())


@pytest.mark.engines("memory")
def test_a_store_that_does_not_answer_is_soon_asked_again(
    engine: Any, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the re-check is: what was said to have ended is not forgotten."""
    interval(monkeypatch, 3600)
    monkeypatch.setattr("django_sessionstores.watching.watcher._RETRY", SHORT)
    browser = signed_in(user.username)

    async def scenario() -> None:
        async with watching(session_of(engine, browser)) as watch:
            with observed(engine.storage, before=_refuse_lookups):
                await visit(browser, "/logout/")
                assert await lives(watch)
            assert await ended(watch) == "logout"

    asyncio.run(scenario())


@pytest.mark.engines("memory")
@pytest.mark.usefixtures("elsewhere")
def test_a_mistake_does_not_stop_the_watcher(
    engine: Any, user: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise, nothing would be checked any more until the process is restarted."""
    browser, failures = signed_in(user.username), ["one", "two"]

    def fail(name: str) -> None:
        if name == "lookup_many" and failures:
            raise LookupError(failures.pop())

    async def scenario() -> None:
        async with watching(session_of(engine, browser)) as watch:
            with observed(engine.storage, before=fail):
                assert await lives(watch)
                await visit(browser, "/logout/")
                await ended(watch)

    asyncio.run(scenario())
    assert [each.message for each in caplog.records].count(
        "Sessions with open connections cannot be watched."
    ) == 2


# What it costs ------------------------------------------------------------------------------------


@asynccontextmanager
async def watched_sessions(engine: Any, number: int, times: int) -> AsyncIterator[list[Watch]]:
    """Yield the watches of new sessions, each of which is watched several times."""
    watches = list[Watch]()
    stack = []
    for _ in range(number):
        session = engine.SessionStore()
        session["color"] = "red"
        await session.asave()
        for _ in range(times):
            manager = watching(engine.SessionStore(session.session_key))
            stack.append(manager)
            watches.append(await manager.__aenter__())
    try:
        yield watches
    finally:
        for manager in stack:
            await manager.__aexit__(None, None, None)


@pytest.mark.engines("memory", "db:sqlite", "cache:django-redis")
@pytest.mark.parametrize(("number", "times", "expected"), [(1, 40, 1), (40, 2, 1), (501, 1, 2)])
@pytest.mark.usefixtures("elsewhere")
def test_one_call_asks_for_all_sessions(
    engine: Any, number: int, times: int, expected: int
) -> None:
    """However many connections there are: a call for each 500 sessions, and no other calls."""
    checks = list[int]()

    async def scenario() -> None:
        async with watched_sessions(engine, number, times) as watches:
            await asyncio.sleep(QUIET)
            watcher = watcher_of(engine.SessionStore)
            assert len(watcher) == number
            before = watcher.checks
            with observed(engine.storage) as calls:
                while watcher.checks < before + 3:
                    await asyncio.sleep(SHORT / 4)
                checks.append(watcher.checks - before)
            assert set(calls) == {"lookup_many"}
            # One may have begun before the calls were counted.
            assert abs(len(calls) - expected * checks[0]) <= expected
            assert not any(each.has_ended for each in watches)

    asyncio.run(scenario())


@pytest.mark.engines("memory", "cache:django-redis")
def test_nothing_is_asked_if_nothing_is_watched(engine: Any, user: Any) -> None:
    """The task is gone as well."""
    browser = signed_in(user.username)

    async def scenario() -> None:
        before = asyncio.all_tasks()
        async with watching(session_of(engine, browser)):
            await asyncio.sleep(QUIET)
        async with asyncio.timeout(LONG):
            while asyncio.all_tasks() != before:
                await asyncio.sleep(SHORT / 10)
        with observed(engine.storage) as calls:
            await asyncio.sleep(QUIET)
        assert calls == []

    asyncio.run(scenario())


@pytest.mark.engines("memory")
def test_connections_that_have_closed_leave_nothing(engine: Any, user: Any) -> None:
    """Ended or not, in whatever order, and cancelled while they begin."""
    browser = signed_in(user.username)

    async def connection(seconds: float) -> None:
        async with watching(session_of(engine, browser), counts_as_activity=True) as watch:
            watch.note_activity()
            await asyncio.sleep(seconds)

    async def storm() -> None:
        tasks = [asyncio.create_task(connection(n % 7 / 100)) for n in range(100)]
        await asyncio.sleep(0.02)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def scenario() -> None:
        for _ in range(20):
            await storm()
        await asyncio.sleep(0)
        assert len(watcher_of(engine.SessionStore)) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()
        assert [each for each in gc.get_objects() if type(each) is Watch] == []

    asyncio.run(scenario())


# Activity -----------------------------------------------------------------------------------------


@pytest.mark.engines("memory", "db:sqlite", "cache:django-redis")
@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.usefixtures("elsewhere")
def test_use_of_the_connection_is_activity_if_asked(
    engine: Any, user: Any, options: Callable[..., None], counts: bool
) -> None:
    options(IDLE_TIMEOUT=2)
    browser = signed_in(user.username)

    async def scenario() -> bool:
        async with watching(session_of(engine, browser), counts_as_activity=counts) as watch:
            for _ in range(12):
                watch.note_activity()
                await asyncio.sleep(0.25)
            return watch.has_ended

    assert asyncio.run(scenario()) is not counts


@pytest.mark.engines("memory", "db:sqlite")
@pytest.mark.usefixtures("elsewhere")
def test_activity_is_stored_seldom(engine: Any, user: Any, options: Callable[..., None]) -> None:
    """As for requests that read: once in five minutes, for all connections of a session."""
    options(ACTIVITY_INTERVAL=1)
    browser = signed_in(user.username)

    async def scenario() -> list[str]:
        async with (
            watching(session_of(engine, browser), counts_as_activity=True) as one,
            watching(session_of(engine, browser), counts_as_activity=True) as other,
        ):
            with observed(engine.storage) as calls:
                for _ in range(10):
                    one.note_activity()
                    other.note_activity()
                    await asyncio.sleep(0.15)
            return [each for each in calls if each != "lookup_many"]

    calls = asyncio.run(scenario())
    assert calls.count("touch") == 1, calls
    assert len(calls) == 2, calls  # The session is read before.


@pytest.mark.engines("memory", "cache:django-redis")
@pytest.mark.usefixtures("elsewhere")
def test_activity_is_stored_under_the_new_key(
    engine: Any, user: Any, options: Callable[..., None]
) -> None:
    """The key that opened the connection works for a second only."""
    options(IDLE_TIMEOUT=2, ROTATION_GRACE=1, TOMBSTONE_AGE=1)
    browser = signed_in(user.username)

    async def scenario() -> bool:
        async with watching(session_of(engine, browser), counts_as_activity=True) as watch:
            options(ROTATE_AFTER=0.001)
            await visit(browser, "/who/")
            options(ROTATE_AFTER=0)
            await asyncio.sleep(QUIET)
            for _ in range(16):
                watch.note_activity()
                await asyncio.sleep(0.25)
            return watch.has_ended

    assert not asyncio.run(scenario())


# Streams ------------------------------------------------------------------------------------------


@pytest.mark.engines("memory")
def test_items_come_until_the_end(engine: Any, user: Any) -> None:
    """The generator is closed, although it waits for its next item."""
    browser, closed = signed_in(user.username), list[str]()

    async def numbers(most: int) -> AsyncIterator[int]:
        try:
            for number in range(most):
                yield number
            await asyncio.sleep(3600)
        finally:
            closed.append("closed")

    async def few() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def scenario() -> None:
        async with watching(session_of(engine, browser)) as watch:
            assert [each async for each in watch.until_end(few())] == [1, 2]
            got = list[int]()
            async with asyncio.timeout(LONG):
                async for number in watch.until_end(numbers(3)):
                    got.append(number)
                    if number == 2:
                        await visit(browser, "/logout/")
            assert got == [0, 1, 2]
            assert closed == ["closed"]
            assert [each async for each in watch.until_end(few())] == []

    asyncio.run(scenario())
