"""SECRET_KEY rotated and passwords changed, through Django's own auth and middleware."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.http import HttpRequest, JsonResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from django_sessionstores.core.records import session_id
from django_sessionstores.testing import Twin, observed, suspicious_messages
from tests import urls

OLD, NEW = "the key that leaked", "the key that follows"
COOKIE = "sessionid"


# The memory engine begins anew when a setting changes.
pytestmark = [
    pytest.mark.engines("file", "db", "cache:redis-cache", "cached_db:django-redis+sqlite"),
    pytest.mark.usefixtures("middleware"),
]


class Browser:
    """Keeps cookies; makes requests of sync views through WSGI or of async ones through ASGI."""

    def __init__(self, awaited: bool, key: str | None = None) -> None:
        client = AsyncClient() if awaited else Client()
        self._get: Callable[[str], Any] = async_to_sync(client.get) if awaited else client.get
        self._prefix = "/async" if awaited else ""
        self._cookies = client.cookies
        if key is not None:
            client.cookies[COOKIE] = key

    def get(self, route: str) -> Any:
        return self._get(f"{self._prefix}/{route}/")

    @property
    def key(self) -> str:
        return str(self._cookies[COOKIE].value)

    @property
    def user(self) -> str:
        return str(self.get("who").content.decode())


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def awaited(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def before_rotation() -> AbstractContextManager[Any]:
    return override_settings(SECRET_KEY=OLD)


def after_rotation() -> AbstractContextManager[Any]:
    return override_settings(SECRET_KEY=NEW, SECRET_KEY_FALLBACKS=[OLD])


def after_the_fallback_is_gone() -> AbstractContextManager[Any]:
    return override_settings(SECRET_KEY=NEW, SECRET_KEY_FALLBACKS=[])


@pytest.fixture
def browser(engine: Any, user: Any, awaited: bool) -> Browser:
    """Logged in before the key was rotated."""
    with before_rotation():
        browser = Browser(awaited)
        browser.get("write/x/1")
        browser.get(f"login/{user.username}")
        assert browser.user == "ada"
        return browser


# SECRET_KEY rotated ------------------------------------------------------------------------------


def test_everyone_stays_logged_in(browser: Browser) -> None:
    """And keeps the key: it is as secret as before."""
    key = browser.key
    with after_rotation():
        assert browser.user == "ada"
        assert browser.key == key
        assert browser.user == "ada"
        assert browser.get("read").json()["x"] == "1"


def show_key(request: HttpRequest) -> JsonResponse:
    """As code of the project sees it that allows a user one session."""
    assert request.user.is_authenticated
    session = request.session
    shown = {"key": session.session_key, "exists": session.exists(session.session_key)}
    own = {"id": session.session_id, "ids": sorted(session.stored_ids)}
    return JsonResponse({**shown, **own})


urlpatterns = [*urls.urlpatterns, path("show_key/", show_key), path("async/show_key/", show_key)]


@override_settings(ROOT_URLCONF=__name__)
def test_a_key_that_was_read_is_the_one_of_the_session(browser: Browser) -> None:
    """The key is the one that Django would have. A middleware that allows each user one session
    compares it with the previous one and ends that, which would be the request's own if the session
    kept the key."""
    key = browser.key
    with after_rotation():
        shown = json.loads(browser.get("show_key").content)
        assert browser.key == shown["key"] != key
        assert shown["exists"]
        assert shown["id"] == session_id(browser.key)
        again = json.loads(browser.get("show_key").content)
        assert browser.key == again["key"] == shown["key"]
        assert browser.user == "ada"


def test_the_new_hash_of_a_login_takes_one_write(engine: Any, browser: Browser) -> None:
    with after_rotation(), observed(engine.storage) as calls:
        browser.get("who")
    assert calls == ["read", "update"]


def test_a_new_key_of_a_login_without_a_hash_is_stored_at_once(engine: Any, awaited: bool) -> None:
    """A model of users may have none. Then nothing tells that the key is new because of
    ``SECRET_KEY``."""
    with after_rotation():
        stored = engine.SessionStore()
        stored["_auth_user_id"] = "7"
        stored.save()
        Twin(engine.SessionStore(stored.session_key), awaited).cycle_key()
        assert engine.SessionStore(stored.session_key).load() == {}


def test_a_request_with_the_same_cookie_after_it(browser: Browser, awaited: bool) -> None:
    """Another tab. Django's engines hand out a new key, and log out whoever has the old one."""
    other = Browser(awaited, browser.key)
    with after_rotation():
        assert browser.user == "ada"
        assert other.user == "ada"


@pytest.mark.parametrize("route", ["who", "write/y/2"])
def test_a_request_with_the_same_cookie_at_the_same_time(
    engine: Any, browser: Browser, awaited: bool, route: str
) -> None:
    """Both have loaded the session before either saves it."""
    other = Browser(awaited, browser.key)
    inside = []

    def meanwhile(name: str) -> None:
        if name in {"update", "rotate"} and not inside:
            inside.append(name)
            inside.append(other.get(route))

    with after_rotation():
        with observed(engine.storage, before=meanwhile):
            assert browser.user == "ada"
        assert inside, "the request did not save"
        assert inside[1].status_code == 200
        assert browser.key == other.key
        assert browser.user == other.user == "ada"
        assert browser.get("read").json().get("y") == ("2" if route != "who" else None)


def test_payloads_are_encrypted_anew_as_they_are_saved(engine: Any, browser: Browser) -> None:
    """So that the old key can be removed one day."""
    before = engine.storage.read(session_id(browser.key)).payload
    with after_rotation():
        browser.get("who")
        after = engine.storage.read(session_id(browser.key)).payload
    assert before[2:6] != after[2:6]  # The key id.
    with after_the_fallback_is_gone():
        assert browser.user == "ada"


def test_an_anonymous_session_is_read_under_the_previous_key(engine: Any, awaited: bool) -> None:
    """It is encrypted anew with its next save, not before: reading writes nothing."""
    with before_rotation():
        browser = Browser(awaited)
        browser.get("write/x/1")
    with after_rotation():
        with observed(engine.storage) as calls:
            assert browser.get("read").json() == {"x": "1"}
        assert calls == ["read"]
        browser.get("write/x/2")
    with after_the_fallback_is_gone():
        assert browser.get("read").json() == {"x": "2"}


# SECRET_KEY removed ------------------------------------------------------------------------------


def test_a_removed_key_leaves_the_visitor_anonymous(engine: Any, browser: Browser) -> None:
    """The cookie stays and nothing is overwritten: a worker with a wrong key does no harm."""
    key = browser.key
    stored = engine.storage.read(session_id(key)).payload
    with after_the_fallback_is_gone():
        with suspicious_messages() as messages:
            response = browser.get("who")
        assert response.content == b""
        assert COOKIE not in response.cookies
        assert len(messages) == 1
        assert "unknown key" in messages[0]
        assert engine.storage.read(session_id(key)).payload == stored
    with before_rotation():
        assert browser.user == "ada"


# Password changed --------------------------------------------------------------------------------


@pytest.fixture(params=[before_rotation, after_rotation], ids=["one-key", "rotated"])
def keys(request: pytest.FixtureRequest) -> Iterator[None]:
    with request.param():
        yield


def test_a_password_change_hands_out_a_new_key(browser: Browser, keys: None) -> None:
    """Also while fallbacks are set: it looks like a rotation of SECRET_KEY, and is none."""
    old_key = browser.key
    assert browser.get("password").content == b"changed"
    assert browser.key != old_key
    assert browser.user == "ada"
    assert browser.get("read").json()["x"] == "1"


def test_the_key_from_before_a_password_change_is_anonymous(
    browser: Browser, awaited: bool, keys: None
) -> None:
    """Its cookie stays untouched: deleting it could overtake the new one in the browser."""
    other = Browser(awaited, browser.key)
    browser.get("password")
    response = other.get("who")
    assert response.content == b""
    assert COOKIE not in response.cookies
    assert browser.user == "ada"


def test_a_password_change_ends_the_other_sessions(
    browser: Browser, awaited: bool, user: Any, keys: None
) -> None:
    """Users change their password because they fear that somebody else is logged in."""
    other = Browser(awaited)
    other.get(f"login/{user.username}")
    assert other.user == "ada"
    browser.get("password")
    assert other.user == ""
