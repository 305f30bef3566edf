"""WebSockets and streams of an ASGI application close with their session, on a real server too."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels import auth as channels_auth
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.testing import WebsocketCommunicator
from django.conf import settings as django_settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from django_sessionstores.channels import AuthMiddlewareStack
from django_sessionstores.conf.options import Settings, settings
from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.testing import at, observed
from django_sessionstores.watching import (
    SESSION_ENDED,
    TRY_AGAIN_LATER,
    WatchedConsumer,
    WatchMiddleware,
)
from tests.asgi_server import served
from tests.binding.browsers import BoundBrowser
from tests.services import HOST, wait_until

COOKIE = "sessionid"
MIDDLEWARE = "django_sessionstores.middleware.SessionMiddleware"
SHORT = 0.1
LONG = 10
QUIET = 0.5

some = pytest.mark.engines("memory", "db:sqlite", "cache:django-redis", "cookie:sqlite")


@pytest.fixture(autouse=True)
def packages_middleware(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Settings, "WATCH_INTERVAL", SHORT)
    vars(settings).pop("WATCH_INTERVAL", None)
    _, *others = django_settings.MIDDLEWARE
    with override_settings(MIDDLEWARE=[MIDDLEWARE, *others], ROOT_URLCONF=__name__):
        yield
    vars(settings).pop("WATCH_INTERVAL", None)


# What is served -----------------------------------------------------------------------------------

stopped = list[str]()
"""What has stopped. A public stream of an earlier test may stop late, so look for a name in it."""


async def ticks(name: str) -> AsyncIterator[str]:
    try:
        while True:
            yield "data: tick\n\n"
            await asyncio.sleep(SHORT)
    finally:
        stopped.append(name)


async def private_events(request: HttpRequest) -> StreamingHttpResponse:
    """Events of whoever is signed in."""
    user = await request.auser()
    return StreamingHttpResponse(ticks(user.get_username()), content_type="text/event-stream")


async def public_events(request: HttpRequest) -> StreamingHttpResponse:
    """The session is not used."""
    return StreamingHttpResponse(ticks("public"), content_type="text/event-stream")


urlpatterns = [
    path("events/", private_events),
    path("public/", public_events),
    path("", include("tests.urls")),
]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket without any framework."""
    while scope["type"] == "websocket":
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.receive":
            color = await scope["session"].aget("color", "none")
            await send({"type": "websocket.send", "text": f"{message['text']} {color}"})
        else:
            stopped.append("echo")
            return


class Speaker(WatchedConsumer, AsyncWebsocketConsumer):
    async def receive(self, text_data: str) -> None:  # type: ignore[override]
        await self.send(text_data=self.scope["user"].get_username())


class SyncSpeaker(WatchedConsumer, WebsocketConsumer):
    def receive(self, text_data: str) -> None:  # type: ignore[override]
        self.send(text_data=self.scope["user"].get_username())


class Events(WatchedConsumer, AsyncHttpConsumer):
    """Server-sent events of Channels."""

    async def handle(self, body: bytes) -> None:
        await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
        async for tick in ticks("consumer"):
            await self.send_body(tick.encode(), more_body=True)


def signed_in(username: str) -> Client:
    browser = Client(raise_request_exception=False)
    assert browser.get(f"/login/{username}/").status_code == 200
    return browser


def cookie_header(browser: Client) -> str:
    return "; ".join(f"{name}={morsel.value}" for name, morsel in browser.cookies.items())


def socket_of(app: Any, browser: Client) -> WebsocketCommunicator:
    headers = [(b"cookie", cookie_header(browser).encode())]
    return WebsocketCommunicator(app, "/", headers=headers, subprotocols=["chat"])


async def close_code(socket: WebsocketCommunicator) -> int:
    message = await socket.receive_output(timeout=LONG)
    assert message["type"] == "websocket.close"
    return int(message["code"])


# WebSockets ---------------------------------------------------------------------------------------


@some
def test_a_plain_websocket_is_closed(engine: Any, user: Any) -> None:
    """It has the session of its cookies, and that is read once."""
    browser = signed_in(user.username)
    browser.get("/write/color/red/")

    async def scenario() -> int:
        socket = socket_of(WatchMiddleware(echo), browser)
        with observed(engine.storage) as calls:
            assert (await socket.connect())[0]
            await socket.send_to(text_data="it is")
            assert await socket.receive_from(timeout=LONG) == "it is red"
            reads = [each for each in calls if each != "lookup_many"]
        assert reads in (["find"], ["read"])
        assert await socket.receive_nothing(timeout=QUIET)
        await Inventory().aend_all(user)
        code = await close_code(socket)
        await socket.disconnect()
        return code

    assert asyncio.run(scenario()) == SESSION_ENDED


@pytest.mark.engines("memory")
def test_a_websocket_of_nobody_stays_open(engine: Any) -> None:
    async def scenario() -> None:
        socket = socket_of(WatchMiddleware(echo), Client())
        assert (await socket.connect())[0]
        await socket.send_to(text_data="it is")
        assert await socket.receive_from(timeout=LONG) == "it is none"
        assert await socket.receive_nothing(timeout=QUIET)
        await socket.disconnect()

    asyncio.run(scenario())


async def name_user(scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that answers with the primary key of its user."""
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            user = await scope["session"].aget("_auth_user_id", "nobody")
            await send({"type": "websocket.send", "text": user})


@pytest.mark.engines("memory", "db:sqlite", "cookie:sqlite")
@pytest.mark.parametrize("inner", [name_user, AuthMiddlewareStack(name_user)])
def test_a_session_that_is_bound_to_a_device(
    engine: Any, user: Any, inner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that is opened with a copied cookie has no user, and is reported."""

    async def ask(browser: BoundBrowser) -> str:
        socket = socket_of(WatchMiddleware(inner), browser.client)
        assert (await socket.connect())[0]
        await socket.send_to(text_data="who")
        answer = await socket.receive_from(timeout=LONG)
        await socket.disconnect()
        return str(answer)

    stated = getattr(django_settings, "SESSIONSTORES", {})
    with override_settings(
        ROOT_URLCONF="tests.test_device_binding",
        SESSIONSTORES={**stated, "DEVICE_BINDING": "prefer"},
    ):
        browser = BoundBrowser()
        browser.log_in()
        with at(now() + 120_000):
            assert asyncio.run(ask(browser)) == str(user.pk)
            assert asyncio.run(ask(browser.copied(COOKIE))) == "nobody"
    assert "the proof of its device is missing" in caplog.text


@pytest.mark.engines("memory", "cache:django-redis")
def test_an_outage_closes_a_new_websocket_with_a_code(engine: Any, user: Any) -> None:
    """Its visitor is not anonymous."""
    browser = signed_in(user.username)

    def broken(name: str) -> None:
        raise StorageUnavailable("the store is gone")

    async def scenario() -> int:
        socket = socket_of(WatchMiddleware(echo), browser)
        with observed(engine.storage, before=broken):
            assert await socket.connect() == (True, "chat")
            return await close_code(socket)

    assert asyncio.run(scenario()) == TRY_AGAIN_LATER


@pytest.mark.engines("memory", "db:sqlite", "cache:django-redis")
@pytest.mark.parametrize("consumer", [Speaker, SyncSpeaker], ids=["async", "sync"])
def test_a_consumer_under_the_middlewares_of_channels_is_closed(
    engine: Any, user: Any, consumer: Any
) -> None:
    browser = signed_in(user.username)

    async def scenario() -> int:
        app = channels_auth.AuthMiddlewareStack(consumer.as_asgi())
        socket = socket_of(app, browser)
        assert (await socket.connect())[0]
        await socket.send_to(text_data="who")
        assert await socket.receive_from(timeout=LONG) == user.username
        assert await socket.receive_nothing(timeout=QUIET)
        await sync_to_async(browser.get)("/logout/")
        code = await close_code(socket)
        await socket.disconnect()
        return code

    assert asyncio.run(scenario()) == SESSION_ENDED


# A real server --------------------------------------------------------------------------------


def events_of(port: int, address: str, browser: Client) -> Any:
    connection = http.client.HTTPConnection(HOST, port, timeout=LONG)
    connection.request("GET", address, headers={"Cookie": cookie_header(browser)})
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline() == b"data: tick\n"
    return response


@pytest.mark.engines("memory", "db:sqlite", "cache:django-redis")
def test_a_stream_of_django_ends_with_its_session(
    engine: Any, user: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Also the generator behind it, and without an error. A stream that has nothing to do with the
    session goes on."""
    stopped.clear()
    browser = signed_in(user.username)
    with served(WatchMiddleware(get_asgi_application())) as port:
        private = events_of(port, "/events/", browser)
        public = events_of(port, "/public/", browser)
        browser.get("/logout/")
        private.read()  # Up to the end, which it would never reach.
        wait_until(lambda: user.username in stopped, "the generator stops")
        assert public.readline() == b"\n"
        assert public.readline() == b"data: tick\n"
    assert [each for each in caplog.records if each.levelname in {"ERROR", "WARNING"}] == []


@pytest.mark.engines("memory")
def test_a_stream_of_a_consumer_ends_with_its_session(engine: Any, user: Any) -> None:
    browser = signed_in(user.username)
    stopped.clear()
    app = channels_auth.AuthMiddlewareStack(Events.as_asgi())
    with served(app) as port:
        events = events_of(port, "/", browser)
        browser.get("/logout/")
        events.read()
        wait_until(lambda: "consumer" in stopped, "the generator stops")


@pytest.mark.engines("memory", "cache:django-redis")
def test_a_websocket_of_a_real_server_is_closed(engine: Any, user: Any) -> None:
    """The application learns of it as of any other disconnection."""
    browser = signed_in(user.username)
    stopped.clear()

    async def scenario(port: int) -> int:
        headers = {"Cookie": cookie_header(browser)}
        async with connect_websocket(f"ws://{HOST}:{port}/", additional_headers=headers) as socket:
            await socket.send("it is")
            assert await asyncio.wait_for(socket.recv(), LONG) == "it is none"
            await sync_to_async(browser.get)("/logout/")
            with contextlib.suppress(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), LONG)
            return int(socket.close_code or 0)

    with served(WatchMiddleware(echo)) as port:
        assert asyncio.run(scenario(port)) == SESSION_ENDED
        wait_until(lambda: "echo" in stopped, "the application stops")
