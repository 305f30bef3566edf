"""Lists say truly when a session was last active: requests that only read it count."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.test import Client, override_settings

from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory, SessionInfo
from django_sessionstores.testing import HOUR, at, observed, stores_of
from tests.sessions.test_lifetimes import COOKIE, MINUTE, limits

OURS = "django_sessionstores.middleware.SessionMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"


@pytest.fixture(autouse=True)
def _middleware() -> Iterator[None]:
    with override_settings(MIDDLEWARE=[OURS, *django_settings.MIDDLEWARE[1:]]):
        yield


@pytest.fixture(params=["/", "/async/"], ids=["sync", "async"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def listing(engine: Any) -> Any:
    """Return an engine that can list."""
    if not engine.storage.lists:
        pytest.skip(f"{engine.id} declares that it cannot list")
    return engine


def listed() -> SessionInfo:
    (found,) = Inventory().list().sessions
    return found


def since(moment: int) -> float:
    """Return the minutes from a moment to the last activity in the list."""
    return (listed().last_activity.timestamp() * 1000 - moment) / MINUTE


def test_reading_is_activity(listing: Any, prefix: str) -> None:
    """The time moves in steps of five minutes. Nothing else of the session changes, and no cookie
    is sent."""
    browser, moment = Client(), now()
    with at(moment):
        browser.get(f"{prefix}write/x/1/")
        before = listed()
    with at(moment + 4 * MINUTE), observed(listing.storage) as calls:
        browser.get(f"{prefix}read/")
    assert calls == ["read"]
    for minutes in (6, 12, 60):
        with at(moment + minutes * MINUTE):
            with observed(listing.storage) as calls:
                answer = browser.get(f"{prefix}read/")
            assert calls == ["read", "touch"]
            assert answer.json() == {"x": "1"}
            assert COOKIE not in answer.cookies
            assert since(moment) == pytest.approx(minutes, abs=0.01)
            assert (listed().expires, listed().created) == (before.expires, before.created)
            with observed(listing.storage) as calls:
                browser.get(f"{prefix}read/")
            assert calls == ["read"]
    with at(moment + 61 * MINUTE):
        assert browser.get(f"{prefix}write/x/2/").status_code == 200
        assert browser.get(f"{prefix}read/").json() == {"x": "2"}


def test_a_session_that_is_not_read_is_not_active(listing: Any, prefix: str) -> None:
    """A request that does not touch the session still costs nothing."""
    browser, moment = Client(), now()
    with at(moment):
        browser.get(f"{prefix}write/x/1/")
    with at(moment + HOUR):
        with observed(listing.storage) as calls:
            browser.get(f"{prefix}nothing/")
        assert calls == []
        assert since(moment) == pytest.approx(0, abs=0.01)


@pytest.mark.engines("memory", "db:sqlite", "cookie:sqlite", "cache:memcached+sqlite")
def test_it_can_be_disabled_and_needs_the_middleware(listing: Any) -> None:
    """In both cases, lists show the last change and a read writes nothing."""
    browser, moment = Client(), now()
    with at(moment):
        browser.get("/write/x/1/")
    with limits(ACTIVITY_INTERVAL=0), at(moment + HOUR):
        assert browser.get("/read/").json() == {"x": "1"}
    other = Client()  # Which makes its own middlewares.
    other.cookies = browser.cookies
    with (
        override_settings(MIDDLEWARE=[DJANGOS, *django_settings.MIDDLEWARE[1:]]),
        at(moment + HOUR),
    ):
        assert other.get("/read/").json() == {"x": "1"}
    with at(moment + HOUR):
        assert since(moment) == pytest.approx(0, abs=0.01)


def test_reading_does_not_fail_because_of_it(engine: Any, prefix: str) -> None:
    """The store may be read-only, or gone between the two calls."""
    browser, moment = Client(), now()
    with at(moment):
        browser.get(f"{prefix}write/x/1/")

    def fail(*args: Any) -> None:
        raise StorageUnavailable("away")

    async def afail(*args: Any) -> None:
        fail()

    with at(moment + HOUR), mock.patch.multiple(engine.storage, touch=fail, atouch=afail):
        answer = browser.get(f"{prefix}read/")
    assert (answer.status_code, answer.json()) == (200, {"x": "1"})
    assert COOKIE not in answer.cookies


class Transaction:
    """A middleware outside of the session's, around the whole of each request."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        with transaction.atomic(DATABASE):
            response = self.get_response(request)
            assert not transaction.get_rollback(DATABASE)
            return response


DATABASE = ""


@pytest.mark.engines("db:sqlite", "db:postgresql", "cached_db:locmem+sqlite", "cookie:sqlite")
def test_it_is_left_out_in_a_transaction(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it lost a race there, all that the request has written would be undone."""
    monkeypatch.setitem(globals(), "DATABASE", engine.database)
    browser, moment = Client(), now()
    with at(moment):
        browser.get("/write/x/1/")
    later = Client()  # With the other middlewares.
    later.cookies = browser.cookies
    with (
        override_settings(MIDDLEWARE=[f"{__name__}.Transaction", *django_settings.MIDDLEWARE]),
        at(moment + HOUR),
        observed(engine.storage) as calls,
    ):
        assert later.get("/read/").json() == {"x": "1"}
    assert "touch" not in calls


def test_it_never_takes_a_change_back(listing: Any, prefix: str) -> None:
    """Another request may save, or end the session, after this one has read it."""
    browser, other, moment = Client(), Client(), now()
    with at(moment):
        browser.get(f"{prefix}write/x/1/")
    other.cookies = browser.cookies.copy()

    def save(name: str) -> None:
        if name == "touch":
            other.get(f"{prefix}write/y/2/")

    def end(name: str) -> None:
        if name != "read":  # The cookie engine saves what its cookie has missed.
            Inventory().end_everything()

    with at(moment + HOUR):
        with observed(listing.storage, before=save):
            browser.get(f"{prefix}read/")
        assert other.get(f"{prefix}read/").json() == {"x": "1", "y": "2"}
    with at(moment + 2 * HOUR):
        with observed(listing.storage, before=end):
            browser.get(f"{prefix}read/")
        assert Inventory().count() == 0
        assert browser.get(f"{prefix}read/").json() == {}


@pytest.mark.engines("cache:memcached+sqlite", "cookie:sqlite", "cookie:django-redis")
def test_of_a_registered_session_only_the_registry_is_written(listing: Any) -> None:
    """It is what lists show. The data, and a cookie, stay as they are."""
    browser, moment = Client(), now()
    with at(moment):
        browser.get("/write/x/1/")
    data, registry = listing.storage.parts()
    with at(moment + HOUR), observed(data) as of_data, observed(registry) as of_registry:
        browser.get("/read/")
    assert of_data == ["read"]
    assert of_registry == ["read", "touch"]


@pytest.mark.engines("db:sqlite", "cache:django-redis")
def test_an_idle_timeout_moves_both_in_one_step(listing: Any) -> None:
    """Where reading moves the expiry, the activity moves with it: there is no third call."""
    browser, moment = Client(), now()
    with limits(IDLE_TIMEOUT=1800):
        with at(moment):
            browser.get("/write/x/1/")
        with at(moment + 10 * MINUTE):
            with observed(*stores_of(listing.storage)) as calls:
                browser.get("/read/")
            assert calls == ["read", "touch"]
            assert since(moment) == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
@pytest.mark.parametrize(
    "rolling", [{"SESSION_SAVE_EVERY_REQUEST": True}, {"IDLE_TIMEOUT": 86_400}], ids=str
)
def test_a_long_touch_interval_does_not_delay_it(
    listing: Any, prefix: str, rolling: dict[str, Any], middleware: str
) -> None:
    """Where reading moves the expiry in steps that are longer than those of the activity."""
    own = {name: value for name, value in rolling.items() if name == "IDLE_TIMEOUT"}
    middlewares = [middleware, *django_settings.MIDDLEWARE[1:]]
    with (
        limits(TOUCH_INTERVAL=3600, **own),
        override_settings(MIDDLEWARE=middlewares),
        override_settings(**{name: rolling[name] for name in rolling if name not in own}),
    ):
        browser, moment = Client(), now()
        with at(moment):
            browser.get(f"{prefix}write/x/1/")
        expires = listed().expires
        for minutes in (6, 12, 18):
            with at(moment + minutes * MINUTE):
                with observed(listing.storage) as calls:
                    assert browser.get(f"{prefix}read/").json() == {"x": "1"}
                assert calls == ["read", "touch"]
                assert since(moment) == pytest.approx(minutes, abs=0.01)
                assert listed().expires == expires


@pytest.mark.engines("db:sqlite", "cache:django-redis", "cookie:sqlite")
def test_a_save_of_no_change_does_not_fail_because_of_it(engine: Any, prefix: str) -> None:
    """With SESSION_SAVE_EVERY_REQUEST, too, a request that only reads does not need the store."""
    browser, moment = Client(), now()
    fail = mock.Mock(side_effect=StorageUnavailable("away"))
    afail = mock.AsyncMock(side_effect=StorageUnavailable("away"))
    with limits(TOUCH_INTERVAL=3600), override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        with at(moment):
            browser.get(f"{prefix}write/x/1/")
        with (
            at(moment + 6 * MINUTE),
            mock.patch.multiple(engine.storage, touch=fail, atouch=afail),
        ):
            answer = browser.get(f"{prefix}read/")
    assert (answer.status_code, answer.json()) == (200, {"x": "1"})
    assert COOKIE not in answer.cookies
    assert fail.called or afail.called


@pytest.mark.engines("cookie:sqlite", "cookie:django-redis")
def test_a_read_by_a_clock_that_is_ahead_ends_no_session(listing: Any) -> None:
    """A cookie that states a time in the future is refused, but a session that another server has
    read is not."""
    browser, moment = Client(), now()
    with at(moment):
        browser.get("/write/x/1/")
    with at(moment + HOUR):
        assert browser.get("/read/").json() == {"x": "1"}
    with at(moment + MINUTE):
        assert browser.get("/read/").json() == {"x": "1"}
        assert browser.get("/write/y/2/").status_code == 200
        assert browser.get("/read/").json() == {"x": "1", "y": "2"}


def test_a_list_never_shows_an_activity_in_the_future(listing: Any) -> None:
    """A server whose clock is ahead has written the time, and the store keeps the later one."""
    browser, moment = Client(), now()
    with at(moment):
        browser.get("/write/x/1/")
    with at(moment + HOUR):
        assert browser.get("/read/").json() == {"x": "1"}
    with at(moment + MINUTE):
        assert since(moment) == pytest.approx(1, abs=0.01)
