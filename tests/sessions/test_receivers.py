"""A receiver of a signal that ends the very session whose save has sent the signal."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from django_sessionstores import signals
from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import SessionEnded
from django_sessionstores.inventory import Inventory
from django_sessionstores.testing import HOUR, at
from tests import urls

pytestmark = pytest.mark.authoritative
COOKIE = "sessionid"
SESSIONS: list[Any] = []
"""The session of the last request, as a project may keep it for its receivers."""


def put(request: HttpRequest) -> HttpResponse:
    SESSIONS[:] = [request.session]
    request.session["x"] = now()
    return HttpResponse("put")


async def aput(request: HttpRequest) -> HttpResponse:
    SESSIONS[:] = [request.session]
    await request.session.aset("x", now())
    return HttpResponse("put")


urlpatterns = [
    *urls.urlpatterns,
    path("put/", put),
    path("async/put/", aput),
]


@pytest.fixture(autouse=True)
def _urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield
    SESSIONS.clear()


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def browser(request: pytest.FixtureRequest) -> Any:
    """Return a browser whose requests are answered with an error page if a view fails."""
    if not request.param:
        return Client(raise_request_exception=False)
    client = AsyncClient(raise_request_exception=False)

    class Awaited:
        cookies = client.cookies

        def get(self, path: str, **extra: Any) -> Any:
            async def get() -> Any:
                return await client.get("/async" + path, **extra)

            return async_to_sync(get)()

    return Awaited()


@pytest.fixture
def receive() -> Iterator[Callable[[Signal, Any], None]]:
    """Connect receivers until the end of the test."""
    connected = []

    def connect(signal: Signal, receiver: Any) -> None:
        signal.connect(receiver)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


def end(session_id: str, **facts: Any) -> None:
    assert Inventory().end(session_id)


async def aend(session_id: str, **facts: Any) -> None:
    assert await Inventory().aend(session_id)


def end_many(session_id: str, **facts: Any) -> None:
    assert Inventory().end_many([session_id])


def end_all(user_id: str, **facts: Any) -> None:
    assert Inventory().end_all(user_id)


def flush(**facts: Any) -> None:
    for session in SESSIONS:
        session.flush()


def delete(**facts: Any) -> None:
    for session in SESSIONS:
        session.delete()


ENDS = [end, aend, end_many, flush, delete]


@pytest.mark.usefixtures("middleware")
@pytest.mark.parametrize("receiver", ENDS)
def test_no_response_has_the_key_of_a_new_session_that_its_request_has_ended(
    engine: Any, browser: Any, receive: Any, receiver: Any
) -> None:
    receive(signals.session_created, receiver)
    response = browser.get("/put/")
    assert COOKIE not in response.cookies


@pytest.mark.usefixtures("user", "middleware")
@pytest.mark.parametrize("receiver", [end, aend, end_many, end_all])
def test_no_response_has_the_key_of_a_login_that_its_request_has_ended(
    engine: Any, browser: Any, receive: Any, receiver: Any
) -> None:
    if receiver is end_all and not engine.storage.lists:
        pytest.skip("the engine cannot list sessions")
    browser.get("/put/")
    before = browser.cookies[COOKIE].value
    receive(signals.session_rotated, receiver)
    response = browser.get("/login/ada/")
    assert COOKIE not in response.cookies
    assert browser.cookies[COOKIE].value == before
    assert browser.get("/who/").content == b""


def test_a_cookie_is_deleted_whose_session_its_own_request_has_flushed(
    engine: Any, browser: Any, receive: Any
) -> None:
    """By the same response, which is that of a logout: the next request needs not do it."""
    with override_settings(MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware"]):
        browser.cookies[COOKIE] = "0" * 32
        receive(signals.session_created, flush)
        response = browser.get("/put/")
    assert response.status_code == 200
    assert response.cookies[COOKIE]["max-age"] == 0


def test_a_client_that_a_receiver_does_not_trust_gets_no_later_expiry(
    engine: Any, browser: Any, receive: Any
) -> None:
    present = getattr(settings, "SESSIONSTORES", {})
    options = {**present, "TRUSTED_PROXIES": ["127.0.0.1"]}
    receive(signals.client_changed, end)
    with override_settings(
        MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware"], SESSIONSTORES=options
    ):
        browser.get("/put/", headers={"x-forwarded-for": "192.0.2.1"})
        with at(now() + HOUR):
            response = browser.get("/put/", headers={"x-forwarded-for": "192.0.2.2"})
            assert COOKIE not in response.cookies
            response = browser.get("/read/")
            assert response.cookies[COOKIE]["max-age"] == 0


@pytest.mark.parametrize("receiver", ENDS)
def test_a_save_whose_receiver_has_ended_the_session_says_so(
    open_session: Any, receive: Any, receiver: Any
) -> None:
    """As Django's middleware, which knows nothing else, would send a cookie otherwise."""
    session = open_session()
    receive(signals.session_created, receiver)
    SESSIONS[:] = [session.target]
    session.set("x", 1)
    with pytest.raises(SessionEnded):
        session.save()


def test_a_save_is_done_if_another_session_ends(open_session: Any, receive: Any) -> None:
    """A receiver may end the other sessions of a user."""
    other, session = open_session(), open_session()
    other.set("x", 1)
    other.save()
    receive(signals.session_created, lambda **facts: end(other.session_id))
    session.set("x", 1)
    session.save()
    assert session.exists(session.session_key)
    assert not session.exists(other.session_key)
