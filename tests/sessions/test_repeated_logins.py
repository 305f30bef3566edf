"""A login with a key that another request of its browser has superseded before.

It continues the session if the same user had logged in under that key. After any other change of
the key it begins another session, and whoever has the key learns nothing of the first one.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import alogin, get_user_model, login
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings

from django_sessionstores.accounts import recent_authentication
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import session_id
from django_sessionstores.exceptions import SessionEnded
from django_sessionstores.inventory import Inventory
from django_sessionstores.sessions import SessionStore
from django_sessionstores.testing import HOUR, at, observed
from tests import urls
from tests.sessions.test_lifetimes import limits

pytestmark = pytest.mark.authoritative
ENGINES = (
    *("memory", "db:sqlite", "file", "cache:redis-cache", "cached_db:redis-cache+postgresql"),
    "cookie:sqlite",
)


def cycle(request: HttpRequest) -> HttpResponse:
    request.session.cycle_key()
    return HttpResponse()


async def acycle(request: HttpRequest) -> HttpResponse:
    await request.session.acycle_key()
    return HttpResponse()


def confirm(request: HttpRequest) -> HttpResponse:
    recent_authentication.mark_authenticated(request)
    return HttpResponse()


async def aconfirm(request: HttpRequest) -> HttpResponse:
    await recent_authentication.amark_authenticated(request)
    return HttpResponse()


def verify(request: HttpRequest) -> HttpResponse:
    """Log the user in, and give the session a new key, as a view for a second factor may do."""
    login(request, ada())
    request.session.cycle_key()
    return HttpResponse()


async def averify(request: HttpRequest) -> HttpResponse:
    await alogin(request, await get_user_model()._default_manager.aget(username="ada"))
    await request.session.acycle_key()
    return HttpResponse()


urlpatterns = [
    *urls.urlpatterns,
    *urls.sync_and_async(
        ("cycle/", cycle, acycle), ("confirm/", confirm, aconfirm), ("verify/", verify, averify)
    ),
]


def ada() -> Any:
    return get_user_model()._default_manager.get(username="ada")


class Browser:
    """A browser that asks for one kind of views: under WSGI, or under ASGI."""

    def __init__(self, is_async: bool) -> None:
        self.client: Any = AsyncClient() if is_async else Client()
        self.is_async = is_async

    @property
    def key(self) -> str:
        return str(self.client.cookies["sessionid"].value)

    def ask(self, route: str, key: str | None = None) -> Any:
        """Return the response. ``key`` is sent instead of the current one."""
        if key is not None:
            self.client.cookies["sessionid"] = key
        ask = async_to_sync(self.client.get) if self.is_async else self.client.get
        return ask(f"/{'async/' if self.is_async else ''}{route}/")

    def data(self) -> dict[str, str]:
        data = self.ask("read").json()
        return {name: value for name, value in data.items() if not name.startswith("_")}

    def who(self) -> str:
        return str(self.ask("who").content.decode())


@pytest.fixture(params=["sync", "async"])
def browser(request: pytest.FixtureRequest, user: Any, middleware: str) -> Iterator[Browser]:
    with override_settings(ROOT_URLCONF=__name__):
        yield Browser(request.param == "async")


def sessions_of(username: str) -> int:
    return Inventory().count(user=get_user_model()._default_manager.get(username=username))


@pytest.mark.engines("memory", "db:sqlite")
def test_the_id_before_a_login_does_not_end_it_if_the_clock_is_behind(
    engine: Any, browser: Browser
) -> None:
    """An operator who ends the session by the id of a list that is out of date ends nothing: the
    user has logged in since, on a server whose clock is behind."""
    browser.ask("login/ada")
    previous = session_id(browser.key)
    with at(now() - 5000):
        browser.ask("login/ada")
    assert session_id(browser.key) != previous
    assert Inventory().end(previous) is False
    assert browser.who() == "ada"


@pytest.mark.engines(*ENGINES)
def test_a_second_login_continues_the_session(engine: Any, browser: Browser) -> None:
    """A button that was pressed twice, by a user who was signed in before."""
    moment = now()
    with at(moment):
        browser.ask("login/ada")
        browser.ask("write/cart/7")
        key = browser.key
    with at(moment + HOUR):
        browser.ask("login/ada")
        browser.ask("write/x/1")
        first = browser.key
    with at(moment + HOUR + 1000), observed(engine.storage) as calls:
        response = browser.ask("login/ada", key)
    assert "create" not in calls
    assert response.cookies["sessionid"].value  # The browser may have had another one.
    with at(moment + HOUR + 1000):
        assert browser.key == first or engine.storage.holds_in_key
        assert browser.data() == {"cart": "7", "x": "1"}
        assert sessions_of("ada") == 1
        store = engine.SessionStore(browser.key)
        since = recent_authentication.authenticated_at(store)
        assert since is not None
        assert since.timestamp() * 1000 == moment + HOUR + 1000


@pytest.mark.engines(*ENGINES)
def test_the_key_alone_leads_nowhere(engine: Any, browser: Browser) -> None:
    browser.ask("login/ada")
    key = browser.key
    browser.ask("login/ada")
    assert browser.ask("who", key).content == b""
    assert browser.ask("write/x/1", key).status_code == 400


@pytest.mark.engines(*ENGINES)
@pytest.mark.parametrize("route", ["cycle", "confirm", "verify", "password"])
def test_another_change_of_the_key_is_not_followed(
    engine: Any, browser: Browser, route: str
) -> None:
    """An attacker who knows the key and the password must not get what a second factor allows."""
    browser.ask("login/ada")
    key = browser.key
    browser.ask(route)
    browser.ask("write/verified/1")
    first = browser.key
    browser.ask("login/ada", key)
    assert (browser.who(), browser.data()) == ("ada", {})
    assert sessions_of("ada") == 2
    browser.ask("read", first)
    assert browser.data() == {"verified": "1"}


@pytest.mark.engines(*ENGINES)
def test_only_one_change_of_the_key_is_followed(engine: Any, browser: Browser) -> None:
    browser.ask("login/ada")
    key = browser.key
    browser.ask("login/ada")
    browser.ask("cycle")
    browser.ask("write/verified/1")
    browser.ask("login/ada", key)
    assert (browser.who(), browser.data()) == ("ada", {})


@pytest.mark.engines(*ENGINES)
def test_a_planted_key_is_not_followed(engine: Any, browser: Browser) -> None:
    """A visitor's session may be an attacker's, who has put its key into the browser."""
    browser.ask("write/x/1")
    key = browser.key
    browser.ask("login/ada")
    browser.ask("write/y/2")
    browser.ask("login/ada", key)
    assert (browser.who(), browser.data()) == ("ada", {})


@pytest.mark.engines(*ENGINES)
def test_another_user_begins_another_session(engine: Any, browser: Browser) -> None:
    get_user_model()._default_manager.create(username="bob")
    browser.ask("login/ada")
    key = browser.key
    browser.ask("login/ada")
    browser.ask("write/x/1")
    first = browser.key
    browser.ask("login/bob", key)
    assert (browser.who(), browser.data()) == ("bob", {})
    browser.ask("read", first)
    assert (browser.who(), browser.data()) == ("ada", {"x": "1"})


@pytest.mark.engines(*ENGINES)
def test_a_session_that_has_ended_is_not_continued(engine: Any, browser: Browser) -> None:
    browser.ask("login/ada")
    key = browser.key
    browser.ask("login/ada")
    browser.ask("write/x/1")
    browser.ask("logout")
    browser.ask("login/ada", key)
    assert (browser.who(), browser.data()) == ("ada", {})
    assert sessions_of("ada") == 1


@pytest.mark.engines(*ENGINES)
@pytest.mark.parametrize("on_limit", ["end_oldest", "refuse"])
def test_the_session_counts_once_for_a_limit(engine: Any, browser: Browser, on_limit: str) -> None:
    with limits(MAX_SESSIONS=1, ON_SESSION_LIMIT=on_limit):
        browser.ask("login/ada")
        browser.ask("write/x/1")
        key = browser.key
        browser.ask("login/ada")
        assert browser.ask("login/ada", key).status_code == 200
        assert (browser.who(), browser.data()) == ("ada", {"x": "1"})
        assert sessions_of("ada") == 1


@pytest.mark.engines(*ENGINES)
def test_a_login_with_a_password_that_was_changed_meanwhile(engine: Any, browser: Browser) -> None:
    """Its session would end with the next request, and its cookie may replace that of the request
    that has set the password."""
    browser.ask("login/ada")
    key, user = browser.key, ada()
    browser.ask("password")
    request = HttpRequest()
    session: SessionStore = engine.SessionStore(key)
    request.session = session
    login(request, user)
    with pytest.raises(SessionEnded, match="new password"):
        session.save()
    assert browser.who() == "ada"
    assert sessions_of("ada") == 1


ADA = {"_auth_user_id": "1", "_auth_user_backend": "b"}
BOB = {"_auth_user_id": "2", "_auth_user_backend": "b"}


def saved(engine: Any, key: str | None, data: dict[str, Any], *, is_login: bool = False) -> Any:
    """Return a session object that has saved the data under a key, or has given it a new one."""
    session = engine.SessionStore(key)
    session.update(data)
    if is_login:
        session.rotate_later(is_login=True)
    session.save()
    return session


@pytest.mark.engines(*ENGINES)
@pytest.mark.parametrize(
    ("first", "then", "later"),
    [
        pytest.param(BOB, ADA, ADA, id="another-before"),
        pytest.param(ADA, ADA, BOB, id="another-since"),
        pytest.param({}, ADA, ADA, id="nobody-before"),
    ],
)
def test_the_session_was_always_of_the_user(
    engine: Any, first: dict[str, Any], then: dict[str, Any], later: dict[str, Any]
) -> None:
    """Also if a view has changed the user without Django's ``login()``."""
    key = saved(engine, None, {"x": 1, **first}).session_key
    second = saved(engine, key, then, is_login=True)
    saved(engine, second.session_key, later)
    again = saved(engine, key, ADA)
    assert dict(engine.SessionStore(again.session_key).items()) == ADA
