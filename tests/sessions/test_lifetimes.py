"""A session ends when it has to, by the server's clock, on every engine."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client, override_settings

from django_sessionstores.conf import settings
from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.testing import DAY, HOUR, Twin, at, observed

COOKIE = "sessionid"
MINUTE = 60_000


@contextmanager
def limits(**options: Any) -> Iterator[None]:
    """With these options of ``SESSIONSTORES``, and those of the case."""
    present = getattr(django_settings, "SESSIONSTORES", {})
    with override_settings(SESSIONSTORES={**present, **options}):
        yield


@pytest.fixture(params=["django", "package"])
def browser(request: pytest.FixtureRequest, engine: Any) -> Iterator[Client]:
    """Under Django's middleware, and under the package's."""
    package = {
        "django": "django.contrib.sessions.middleware",
        "package": "django_sessionstores.middleware",
    }[request.param]
    with override_settings(
        MIDDLEWARE=[
            f"{package}.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ]
    ):
        yield Client()


def data(browser: Client) -> dict[str, Any]:
    return dict(browser.get("/read/").json())


def write(browser: Client) -> None:
    assert browser.get("/write/x/1/").status_code == 200


# Idle ---------------------------------------------------------------------------------------------


def test_an_idle_session_ends(browser: Client) -> None:
    """``SESSION_COOKIE_AGE`` alone would keep it for two weeks."""
    with limits(IDLE_TIMEOUT=1800):
        moment = now()
        with at(moment):
            write(browser)
        with at(moment + 31 * MINUTE):
            assert data(browser) == {}


def test_reading_keeps_a_session(browser: Client) -> None:
    """A user who only reads is not idle. The test reads every ten minutes, for three hours."""
    with limits(IDLE_TIMEOUT=1800):
        moment = now()
        with at(moment):
            write(browser)
        for minutes in range(10, 180, 10):
            with at(moment + minutes * MINUTE):
                assert data(browser) == {"x": "1"}, minutes
        with at(moment + (170 + 31) * MINUTE):
            assert data(browser) == {}


def test_reading_writes_in_steps_only(engine: Any, browser: Client) -> None:
    """Every request of a minute must not be a write."""
    with limits(IDLE_TIMEOUT=1800):
        moment = now()
        with at(moment):
            write(browser)
            assert COOKIE not in browser.get("/read/").cookies
        with at(moment + 30_000):
            assert COOKIE not in browser.get("/read/").cookies
        with at(moment + 2 * MINUTE):
            assert COOKIE in browser.get("/read/").cookies


@pytest.mark.parametrize("asgi", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("reads", [False, True], ids=["away", "read-only"])
@pytest.mark.parametrize("every_request", [False, True], ids=["idle", "every request"])
def test_reading_does_not_fail_because_the_expiry_cannot_be_moved(
    engine: Any, browser: Client, every_request: bool, reads: bool, asgi: bool
) -> None:
    """The store takes no writes, or stops answering after the session was read. The session ends
    as if the request had not been made, and the package's cookie does not last longer."""
    prefix = "/async" if asgi else ""
    options = {} if every_request else {"IDLE_TIMEOUT": 1800}
    moment, asked = now(), list[str]()

    def fail(name: str) -> None:
        asked.append(name)
        if name in {"touch", "update"} or not (reads or asked == [name]):
            raise StorageUnavailable("by the test")

    with limits(**options), override_settings(SESSION_SAVE_EVERY_REQUEST=every_request):
        with at(moment):
            write(browser)
        with at(moment + 2 * MINUTE), observed(engine.storage, before=fail):
            response = browser.get(f"{prefix}/read/")
        assert {"touch", "update"} & set(asked)
        assert (response.status_code, response.json()) == (200, {"x": "1"})
        if not django_settings.MIDDLEWARE[0].startswith("django."):
            assert COOKIE not in response.cookies
        with at(moment + 4 * MINUTE):
            assert COOKIE in browser.get(f"{prefix}/read/").cookies


def test_an_idle_limit_that_is_set_later_holds(engine: Any, browser: Client) -> None:
    """For sessions that were stored with a longer lifetime, too."""
    moment = now()
    with at(moment):
        write(browser)
    with limits(IDLE_TIMEOUT=1800), at(moment + 31 * MINUTE):
        assert data(browser) == {}


# Absolute -----------------------------------------------------------------------------------------


def test_no_use_moves_the_absolute_end(browser: Client) -> None:
    """Eight hours after the login, whoever is still there signs in again."""
    with limits(ABSOLUTE_TIMEOUT=8 * 3600), override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        moment = now()
        with at(moment):
            write(browser)
        for hours in range(1, 8):
            with at(moment + hours * HOUR):
                assert browser.get(f"/write/y/{hours}/").status_code == 200
                assert data(browser)["y"] == str(hours)
        with at(moment + 8 * HOUR):
            assert data(browser) == {}


def test_a_login_starts_the_absolute_age_anew(browser: Client, user: Any) -> None:
    """It is the age of the login; the visit before it does not count."""
    with limits(ABSOLUTE_TIMEOUT=8 * 3600):
        moment = now()
        with at(moment):
            write(browser)
        with at(moment + 7 * HOUR):
            browser.get("/login/ada/")
        with at(moment + 14 * HOUR):
            assert browser.get("/who/").content == b"ada"
        with at(moment + 15 * HOUR):
            assert browser.get("/who/").content == b""


def test_set_expiry_does_not_move_the_absolute_end(engine: Any) -> None:
    """It is a limit, not a default."""
    with limits(ABSOLUTE_TIMEOUT=3600):
        moment = now()
        with at(moment):
            session = engine.SessionStore()
            session["x"] = 1
            session.set_expiry(30 * 86_400)
            session.save()
        with at(moment + HOUR - 1):
            assert engine.SessionStore(session.session_key).get("x") == 1
        with at(moment + HOUR):
            assert engine.SessionStore(session.session_key).get("x") is None
            assert not engine.SessionStore().exists(session.session_key)


def test_an_absolute_limit_that_is_set_later_holds(browser: Client) -> None:
    """For sessions that are older than the setting."""
    moment = now()
    with at(moment):
        write(browser)
    with limits(ABSOLUTE_TIMEOUT=3600), at(moment + 2 * HOUR):
        assert data(browser) == {}


# All together -------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def session(request: pytest.FixtureRequest, engine: Any) -> Any:
    """Saved a moment ago."""
    stored = Twin(engine.SessionStore(), request.param)
    stored.set("x", 1)
    stored.save()
    return stored


def near(deadline: datetime.datetime | None, moment: int) -> bool:
    assert deadline is not None
    return abs(deadline.timestamp() * 1000 - moment) < 5000


def test_the_deadlines_by_default(session: Any) -> None:
    """Django's: two weeks after the last change, and no other."""
    idle, absolute, cookie = session.deadlines()
    assert near(idle, now() + 14 * DAY)
    assert absolute is None
    assert near(cookie, now() + 14 * DAY)


def test_the_expiry_that_was_set(session: Any) -> None:
    """Unless another one is asked about."""
    moment = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    second = datetime.timedelta(seconds=1)
    for expiry, seconds in ((None, 14 * 86_400), (300, 300), (moment + 60 * second, 60)):
        session.set_expiry(expiry)
        assert session.get_expiry_age(modification=moment) == seconds
        assert session.get_expiry_date(modification=moment) == moment + seconds * second
        assert session.get_expiry_age(modification=moment, expiry=7) == 7
        assert session.get_expiry_date(modification=moment, expiry=7) == moment + 7 * second


def test_the_deadlines_with_limits(engine: Any) -> None:
    """The three agree with what ends the session."""
    with limits(IDLE_TIMEOUT=1800, ABSOLUTE_TIMEOUT=3600):
        moment = now()
        with at(moment):
            session = engine.SessionStore()
            session["x"] = 1
            session.save()
        with at(moment + 20 * MINUTE):
            again = engine.SessionStore(session.session_key)
            again["x"] = 2
            again.save()
            deadlines = again.deadlines()
        assert near(deadlines.idle, moment + 50 * MINUTE)
        assert near(deadlines.absolute, moment + HOUR)
        assert near(deadlines.cookie, moment + 50 * MINUTE)
        with at(int(deadlines.idle.timestamp() * 1000) - 1):
            assert engine.SessionStore(again.session_key).get("x") == 2
        with at(int(deadlines.idle.timestamp() * 1000) + 1):
            assert engine.SessionStore(again.session_key).get("x") is None


def test_a_session_until_the_browser_closes(engine: Any, session: Any) -> None:
    """The cookie has no end of its own; the session does."""
    session.set_expiry(0)
    session.save()
    deadlines = session.deadlines()
    assert deadlines.cookie is None
    assert near(deadlines.idle, now() + 14 * DAY)


def test_no_deadlines_where_nothing_is_stored(engine: Any) -> None:
    """Nothing ends that has not begun."""
    assert engine.SessionStore().deadlines() is None


# Rotation -----------------------------------------------------------------------------------------


@pytest.mark.engines("cookie:unregistered", "cookie:sqlite", "cache:memcached")
def test_a_key_that_cannot_be_revoked_is_not_rotated(
    engine: Any, browser: Client, user: Any
) -> None:
    """The old key would stay valid, or the new one be a copy of it. For others: test_rotation."""
    moment = now()
    with limits(ROTATE_AFTER=3600):
        with at(moment):
            browser.get(f"/login/{user.username}/")
            before = engine.SessionStore(browser.cookies[COOKIE].value).session_id
        with at(moment + 61 * MINUTE):
            assert browser.get("/who/").content.decode() == user.username
            assert browser.get("/write/x/1/").status_code == 200
            assert engine.SessionStore(browser.cookies[COOKIE].value).session_id == before


def test_timeouts_are_seconds() -> None:
    """Sessions compare times in milliseconds."""
    with override_settings(SESSIONSTORES={"IDLE_TIMEOUT": 1800, "ABSOLUTE_TIMEOUT": 43_200.5}):
        assert settings.timeouts == (1_800_000, 43_200_500)
