"""A key that has grown old stays while no response can bring the browser the new one."""

import asyncio
import pickle
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import path

from django_sessionstores.core.clock import now
from django_sessionstores.sessions.state import RequestPolicy
from django_sessionstores.testing import HOUR, at
from tests import urls
from tests.sessions.test_lifetimes import limits

pytestmark = [
    pytest.mark.engines("memory", "db:sqlite", "cached_db:locmem+sqlite"),
    pytest.mark.usefixtures("middleware", "user"),
]
MINUTE = 60_000
KIND: Any = None


def save_another_object(request: HttpRequest) -> HttpResponse:
    session = KIND(request.session.session_key)
    session["progress"] = 1
    session.save()
    return HttpResponse("saved")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        yield request.session["_auth_user_id"].encode()
        with at(now() + 2 * HOUR):
            request.session["seen"] = 1
            request.session.save()

    return StreamingHttpResponse(parts())


LEFT: list[Any] = []
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy,
    "deepcopy": deepcopy,
    "pickle": lambda session: pickle.loads(pickle.dumps(session)),
}


def leave(request: HttpRequest) -> HttpResponse:
    """Hand the session to code that goes on after the response."""
    request.session.get("_auth_user_id")
    LEFT.append(request.session)
    return HttpResponse("left")


def leave_copy(request: HttpRequest, how: str) -> HttpResponse:
    request.session.get("_auth_user_id")
    LEFT.append(COPIES[how](request.session))
    return HttpResponse("left")


def save_copy(request: HttpRequest, how: str) -> HttpResponse:
    session = COPIES[how](request.session)
    session["progress"] = 1
    session.save()
    return HttpResponse("saved")


urlpatterns = [
    path("leave/", leave),
    path("leave/<str:how>/", leave_copy),
    path("copy/<str:how>/", save_copy),
    *urls.urlpatterns,
    path("other/", save_another_object),
    path("stream/", stream),
]


@pytest.fixture(autouse=True)
def _rotating(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(globals(), "KIND", engine.SessionStore)
    with limits(ROTATE_AFTER=3600, ROTATION_GRACE=120), override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def browser() -> Client:
    """Return a browser that signed in two hours ago."""
    client = Client()
    with at(now() - 2 * HOUR):
        client.get("/login/ada/")
    return client


def is_signed_in_later(browser: Client) -> bool:
    """Return whether the browser is logged in after the grace period of an old key."""
    with at(now() + 10 * MINUTE):
        return browser.get("/who/").content == b"ada"


def key_of(browser: Client) -> str:
    return browser.cookies["sessionid"].value


def test_a_task_saves_the_session(engine: Any, browser: Client) -> None:
    session = engine.SessionStore(key_of(browser))
    session["progress"] = 1
    session.save()
    assert session.session_key == key_of(browser)
    assert is_signed_in_later(browser)


def test_a_task_awaits_the_save(engine: Any, browser: Client) -> None:
    async def save() -> None:
        session = engine.SessionStore(key_of(browser))
        await session.aset("progress", 1)
        await session.asave()

    asyncio.run(save())
    assert is_signed_in_later(browser)


def test_a_view_saves_another_object(browser: Client) -> None:
    """It does not read the session of its request, which therefore sends no cookie."""
    assert browser.get("/other/").content == b"saved"
    assert is_signed_in_later(browser)


def test_a_response_saves_the_session_after_its_headers(browser: Client, middleware: str) -> None:
    if not middleware.startswith("django_sessionstores"):
        pytest.skip("Django's middleware does not say when a response begins")
    with at(now() - 2 * HOUR + 1):
        response = browser.get("/stream/")
        assert b"".join(response)
    with at(now() + 2 * HOUR):
        assert is_signed_in_later(browser)


def test_code_that_a_view_has_started_saves_after_the_response(browser: Client) -> None:
    """The session object is that of the request, but the request is over."""
    with at(now() - 2 * HOUR + 1):
        assert browser.get("/leave/").content == b"left"
    before, session = key_of(browser), LEFT.pop()
    session["progress"] = 1
    session.save()
    assert session.session_key == before
    assert is_signed_in_later(browser)


@pytest.mark.parametrize("how", COPIES)
def test_a_view_saves_a_copy(browser: Client, how: str) -> None:
    assert browser.get(f"/copy/{how}/").content == b"saved"
    assert is_signed_in_later(browser)


@pytest.mark.parametrize("how", COPIES)
def test_a_thread_saves_a_copy_after_the_response(browser: Client, how: str) -> None:
    with at(now() - 2 * HOUR + 1):
        assert browser.get(f"/leave/{how}/").content == b"left"
    session = LEFT.pop()
    session["progress"] = 1
    session.save()
    assert is_signed_in_later(browser)


@pytest.mark.parametrize("path", ["/write/a/1/", "/async/write/a/1/"])
def test_the_request_itself_rotates_the_key(browser: Client, path: str) -> None:
    before = key_of(browser)
    assert browser.get(path).status_code == 200
    assert key_of(browser) != before
    assert is_signed_in_later(browser)


def test_a_connection_that_sends_no_cookie(engine: Any, browser: Client) -> None:
    session = engine.SessionStore(key_of(browser))
    session.policy = RequestPolicy(sends_key=False)
    session["progress"] = 1
    session.save()
    assert session.session_key == key_of(browser)


def test_the_next_request_rotates_the_key(engine: Any, browser: Client) -> None:
    """A rotation that had to wait happens with the next request."""
    before = key_of(browser)
    test_a_task_saves_the_session(engine, browser)
    assert key_of(browser) != before
