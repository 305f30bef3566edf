"""The sessions of Channels' consumers are those of the site, on every engine.

A WebSocket is open for long: what ends the session has to end it, and an outage must not make its
visitor somebody else.
"""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels import auth as channels_auth
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from channels.testing import HttpCommunicator, WebsocketCommunicator
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.core.asgi import get_asgi_application
from django.test import Client, override_settings
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from django_sessionstores.channels import (
    SESSION_ENDED,
    TRY_AGAIN_LATER,
    AuthMiddlewareStack,
    SessionMiddlewareStack,
)
from django_sessionstores.conf.options import Settings, settings
from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.payloads.cookie_chunks import LIMIT
from django_sessionstores.signals import session_ended
from django_sessionstores.testing import at, observed
from tests.asgi_server import served
from tests.binding.browsers import BoundBrowser
from tests.services import HOST, PostgreSQL, skip_or_fail

COOKIE = "sessionid"
MIDDLEWARE = "django_sessionstores.middleware.SessionMiddleware"
SHORT = 0.1
"""Seconds between two looks at a session, where a test waits for its end."""
LONG = 8
"""Seconds that nothing takes."""
QUIET = 0.5
"""Seconds for which a connection that should stay open is watched."""

every_engine = pytest.mark.engines(
    *("memory", "file", "db:sqlite", "cache:django-redis", "cached_db:locmem+sqlite"),
    *("cookie:unregistered", "cookie:sqlite"),
)
listing = pytest.mark.engines("memory", "file", "db:sqlite", "cache:django-redis", "cookie:sqlite")

pytestmark = pytest.mark.usefixtures("packages_middleware")


@pytest.fixture
def packages_middleware(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With the package's middleware, and sessions that are checked often."""
    monkeypatch.setattr(Settings, "WATCH_INTERVAL", SHORT)
    vars(settings).pop("WATCH_INTERVAL", None)
    _, *others = django_settings.MIDDLEWARE
    with override_settings(MIDDLEWARE=[MIDDLEWARE, *others]):
        yield
    vars(settings).pop("WATCH_INTERVAL", None)


class Speaker(AsyncWebsocketConsumer):
    """Does to the session what it is told to, and says who is signed in."""

    async def receive(self, text_data: str) -> None:  # type: ignore[override]
        session, command = self.scope["session"], text_data
        if command.startswith("login "):
            manager = get_user_model()._default_manager
            user = await manager.aget(username=command.removeprefix("login "))
            await channels_auth.login(self.scope, user, "django.contrib.auth.backends.ModelBackend")
            await session.asave()
        elif command == "logout":
            await channels_auth.logout(self.scope)
        elif command == "flush":
            await session.aflush()
        elif command == "load":
            await session.aload()
        elif command.startswith("write "):
            # Not awaited: the session is loaded, so that this blocks nothing.
            session["word"] = command.removeprefix("write ")
            await session.asave()
        await self.send(text_data=self.scope["user"].get_username())


class SessionSpeaker(AsyncWebsocketConsumer):
    """Says what the session holds, without a user."""

    async def receive(self, text_data: str) -> None:  # type: ignore[override]
        await self.send(text_data=str(self.scope["session"].get(text_data)))


class Page(AsyncHttpConsumer):
    """Puts a long text into the session, or a short one."""

    async def handle(self, body: bytes) -> None:
        size = int(self.scope["path"].strip("/"))
        self.scope["session"]["text"] = random.randbytes(size).hex()
        await self.send_response(200, b"done")


application = AuthMiddlewareStack(Speaker.as_asgi())


def cookie_header(browser: Client) -> list[tuple[bytes, bytes]]:
    """Return the cookies that the browser sends, as a header."""
    cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in browser.cookies.items())
    return [(b"cookie", cookies.encode())]


def signed_in(username: str) -> Client:
    """Return a browser that has signed in."""
    browser = Client(raise_request_exception=False)
    assert browser.get(f"/login/{username}/").status_code == 200
    return browser


def who(browser: Client) -> str:
    return browser.get("/who/").content.decode()


awho = sync_to_async(who)


@asynccontextmanager
async def connected(app: Any, browser: Client) -> AsyncIterator[WebsocketCommunicator]:
    """Yield an open WebSocket with the cookies of the browser."""
    socket = WebsocketCommunicator(app, "/", headers=cookie_header(browser))
    accepted, _ = await socket.connect()
    assert accepted
    try:
        yield socket
    finally:
        await socket.disconnect()


async def ask(socket: WebsocketCommunicator, text: str) -> str:
    await socket.send_to(text_data=text)
    return await socket.receive_from(timeout=LONG)  # type: ignore[no-any-return]


async def close_code(socket: WebsocketCommunicator) -> int:
    """Return the code with which the server closes the WebSocket."""
    message = await socket.receive_output(timeout=LONG)
    assert message["type"] == "websocket.close"
    return int(message["code"])


async def stays_open(socket: WebsocketCommunicator) -> bool:
    return await socket.receive_nothing(timeout=QUIET)  # type: ignore[no-any-return]


def broken(name: str) -> None:
    raise StorageUnavailable("the store is gone")


@contextmanager
def options(**changed: Any) -> Iterator[None]:
    """With these options of ``SESSIONSTORES``, and those of the case."""
    present = getattr(django_settings, "SESSIONSTORES", {})
    with override_settings(SESSIONSTORES={**present, **changed}):
        yield


# The session of the site ------------------------------------------------------------------------


@every_engine
def test_a_websocket_knows_who_is_signed_in(engine: Any, user: Any) -> None:
    """A visitor who is signed in over HTTP and anonymous in the chat of the same page has no way
    to find out why."""
    browser = signed_in(user.username)

    async def scenario() -> str:
        async with connected(application, browser) as socket:
            return await ask(socket, "who")

    assert asyncio.run(scenario()) == user.username


@pytest.mark.engines("cookie")
def test_a_cookie_in_several_parts_is_joined(engine: Any, user: Any) -> None:
    """Channels' own middleware knows the first part alone, and takes the visitor for anonymous."""
    browser = signed_in(user.username)
    browser.get(f"/write/text/{random.randbytes(3000).hex()}/")
    assert len(browser.cookies) > 1

    async def scenario() -> str:
        async with connected(application, browser) as socket:
            return await ask(socket, "who")

    assert asyncio.run(scenario()) == user.username


@every_engine
def test_without_a_user_the_session_is_loaded(engine: Any) -> None:
    """An async consumer reads it like a dict. Loading it then would block the event loop, or be
    refused by Django's ORM."""
    browser = Client()
    browser.get("/write/color/red/")

    async def scenario() -> str:
        app = SessionMiddlewareStack(SessionSpeaker.as_asgi())
        async with connected(app, browser) as socket:
            return await ask(socket, "color")

    assert asyncio.run(scenario()) == "red"


@every_engine
def test_no_call_blocks_the_loop(engine: Any, user: Any) -> None:
    """One that does holds up every other WebSocket of the process."""
    if find_spec("blockbuster") is None:
        skip_or_fail("blockbuster is not installed. Install it with: uv sync --group tests")
    import blockbuster

    browser = signed_in(user.username)

    async def scenario() -> None:
        async with connected(application, browser) as socket:
            await ask(socket, "who")
            await ask(socket, "write one")
            assert await stays_open(socket)

    with blockbuster.blockbuster_ctx():
        asyncio.run(scenario())


@every_engine
def test_a_visitor_without_a_cookie_costs_the_store_nothing(engine: Any) -> None:
    """Most sockets of a public page belong to nobody."""

    async def scenario() -> str:
        async with connected(application, Client()) as socket:
            return await ask(socket, "who")

    with observed(engine.storage) as calls:
        assert asyncio.run(scenario()) == ""
    assert calls == []


@pytest.mark.engines("memory", "file", "db:sqlite", "cache:django-redis")
@pytest.mark.parametrize(
    "stack", [channels_auth.AuthMiddlewareStack, AuthMiddlewareStack], ids=["channels", "ours"]
)
def test_what_a_consumer_saves_is_seen_by_the_site(
    engine: Any, user: Any, stack: Callable[[Any], Any]
) -> None:
    """Under Channels' own middleware too. A login gives the session another key, which cannot be
    sent over the socket: the browser has to fetch a page, as Channels documents."""
    browser = Client(raise_request_exception=False)
    browser.get("/write/color/red/")

    async def scenario() -> list[str]:
        app, said = stack(Speaker.as_asgi()), []
        async with connected(app, browser) as socket:
            said.append(await ask(socket, "write one"))
            said.append((await sync_to_async(browser.get)("/read/")).json()["word"])
            said.append(await ask(socket, f"login {user.username}"))
            said.append(await ask(socket, "write two"))
            said.append(await awho(browser))
            said.append(await ask(socket, "logout"))
            said.append(await ask(socket, "write three"))
        return said

    assert asyncio.run(scenario()) == ["", "one", user.username, user.username, "", "", ""]


@listing
def test_a_saved_session_knows_its_client(engine: Any, user: Any) -> None:
    """Lists of sessions show where a session was used last."""
    browser = signed_in(user.username)
    headers = [*cookie_header(browser), (b"user-agent", b"Chat/1.0")]

    async def scenario() -> None:
        socket = WebsocketCommunicator(application, "/", headers=headers)
        socket.scope["client"] = ["192.0.2.7", 5000]
        assert (await socket.connect())[0]
        await ask(socket, "write one")
        await socket.disconnect()

    asyncio.run(scenario())
    if engine.name != "cookie":  # The cookie with it cannot be sent.
        (session,) = Inventory().list(user=user).sessions
        assert (session.ip, session.user_agent) == ("192.0.2.7", "Chat/1.0")


@pytest.mark.engines("memory", "cookie:sqlite")
def test_a_new_secret_key_signs_nobody_out(engine: Any, user: Any) -> None:
    """After a deployment all sockets connect again, before any page is fetched. Channels' own
    middleware then flushes each session whose login was made under the previous key."""
    browser = signed_in(user.username)

    async def scenario() -> str:
        async with connected(application, browser) as socket:
            return await ask(socket, "who")

    previous = django_settings.SECRET_KEY
    with override_settings(SECRET_KEY="another one", SECRET_KEY_FALLBACKS=[previous]):
        assert asyncio.run(scenario()) == user.username
        assert who(browser) == user.username


@pytest.mark.engines("memory", "db:sqlite")
def test_a_changed_password_signs_the_socket_out(engine: Any, user: Any) -> None:
    """``SECRET_KEY_FALLBACKS`` makes no difference."""
    browser = signed_in(user.username)
    user.set_password("another")
    user.save()

    async def scenario() -> str:
        async with connected(application, browser) as socket:
            return await ask(socket, "who")

    with override_settings(SECRET_KEY_FALLBACKS=["a previous one"]):
        assert asyncio.run(scenario()) == ""


# HTTP consumers -----------------------------------------------------------------------------------


@pytest.mark.engines("cookie")
def test_a_consumer_of_http_splits_its_cookie(engine: Any) -> None:
    """A browser drops a longer one without a word. Parts that are not needed any more go."""

    async def get(path: str, headers: Any) -> list[str]:
        app = SessionMiddlewareStack(Page.as_asgi())
        answer = await HttpCommunicator(app, "GET", path, headers=headers).get_response()
        assert answer["status"] == 200
        return [value.decode() for name, value in answer["headers"] if name == b"Set-Cookie"]

    def pairs(lines: list[str]) -> dict[str, str]:
        return dict(line.split(";")[0].split("=", 1) for line in lines)

    cookies = asyncio.run(get("/3000/", []))
    assert pairs(cookies).keys() == {COOKIE, f"{COOKIE}-1"}
    assert all(len("".join(pair)) <= LIMIT for pair in pairs(cookies).items())
    assert all("HttpOnly" in line for line in cookies)
    header = "; ".join(map("=".join, pairs(cookies).items()))
    again = asyncio.run(get("/10/", [(b"cookie", header.encode())]))
    assert pairs(again).keys() == {COOKIE, f"{COOKIE}-1"}
    assert pairs(again)[f"{COOKIE}-1"] in {"", '""'}


# Outages ------------------------------------------------------------------------------------------


@pytest.mark.engines("memory", "file", "db:sqlite", "cache:django-redis", "cookie:sqlite")
def test_an_outage_closes_a_new_socket_with_a_code(engine: Any, user: Any) -> None:
    """The visitor is not anonymous. The code tells the page to try again later."""
    browser = signed_in(user.username)

    async def scenario() -> int:
        socket = WebsocketCommunicator(
            application, "/", headers=cookie_header(browser), subprotocols=["chat"]
        )
        assert await socket.connect() == (True, "chat")
        return await close_code(socket)

    with observed(engine.storage, before=broken):
        assert asyncio.run(scenario()) == TRY_AGAIN_LATER
    assert who(browser) == user.username


@pytest.mark.engines("memory", "db:sqlite", "cache:django-redis")
@pytest.mark.parametrize("command", ["write one", "load"])
def test_an_outage_that_a_consumer_meets_closes_the_socket(
    engine: Any, user: Any, command: str
) -> None:
    """The change is not stored, and the page learns that. The session does not read as empty."""
    browser = signed_in(user.username)

    async def scenario() -> int:
        async with connected(application, browser) as socket:
            with observed(engine.storage, before=broken):
                await socket.send_to(text_data=command)
                return await close_code(socket)

    assert asyncio.run(scenario()) == TRY_AGAIN_LATER
    assert who(browser) == user.username


@pytest.mark.engines("memory")
def test_an_outage_before_the_consumer_accepts_closes_the_socket(engine: Any, user: Any) -> None:
    """The browser's wish to connect has been read already, and no other message follows it."""
    browser = signed_in(user.username)

    class Doorkeeper(AsyncWebsocketConsumer):
        async def connect(self) -> None:
            with observed(engine.storage, before=broken):
                await self.scope["session"].aload()

    async def scenario() -> int:
        app = AuthMiddlewareStack(Doorkeeper.as_asgi())
        async with connected(app, browser) as socket:
            return await close_code(socket)

    assert asyncio.run(scenario()) == TRY_AGAIN_LATER


@pytest.mark.engines("memory", "cache:django-redis")
def test_an_outage_answers_a_consumer_of_http_with_503(engine: Any) -> None:
    """The middleware of the package does the same for a view."""
    browser = Client()
    browser.get("/write/color/red/")

    async def scenario() -> Any:
        app = SessionMiddlewareStack(Page.as_asgi())
        return await HttpCommunicator(
            app, "GET", "/10/", headers=cookie_header(browser)
        ).get_response()

    with observed(engine.storage, before=broken):
        answer = asyncio.run(scenario())
    assert answer["status"] == 503
    headers = {name.lower(): value for name, value in answer["headers"]}
    assert headers[b"retry-after"] == b"5"
    assert b"set-cookie" not in headers


@pytest.mark.engines("memory", "db:sqlite")
def test_an_outage_does_not_close_an_open_socket(engine: Any, user: Any) -> None:
    """An outage says nothing about the session. When it is over, the socket is checked again."""

    async def scenario(browser: Client) -> int:
        async with connected(application, browser) as socket:
            with observed(engine.storage, before=broken):
                assert await stays_open(socket)
            await Inventory().aend_all(user)
            return await close_code(socket)

    with options(OUTAGE_RETRY_AFTER=0):
        assert asyncio.run(scenario(signed_in(user.username))) == SESSION_ENDED


@pytest.mark.engines("db:postgresql", "cached_db:redis-cache+postgresql")
@pytest.mark.private_servers
def test_sockets_come_back_with_the_database(engine: Any, user: Any) -> None:
    """No request begins or ends in a process that serves WebSockets alone, so that nothing else
    closes the connections that have broken."""
    browser = signed_in(user.username)
    server = engine.server(PostgreSQL)

    async def refused() -> bool:
        socket = WebsocketCommunicator(application, "/", headers=cookie_header(browser))
        await socket.connect()
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            message = await socket.receive_output(timeout=SHORT)
            return bool(message["type"] == "websocket.close")
        return False

    async def scenario() -> str:
        async with connected(application, browser) as before:
            await sync_to_async(server.kill, thread_sensitive=False)()
            if engine.name == "db":
                assert await refused()
            await sync_to_async(server.restart, thread_sensitive=False)()
            assert await stays_open(before)
            async with connected(application, browser) as after:
                return await ask(after, "who") + await ask(before, "who")

    with options(OUTAGE_RETRY_AFTER=0):
        assert asyncio.run(scenario()) == user.username * 2


# Ends ---------------------------------------------------------------------------------------------


@listing
@pytest.mark.parametrize("how", ["logout", "inventory"])
def test_an_ended_session_closes_its_sockets(engine: Any, user: Any, how: str) -> None:
    """After a logout, or the end of a stolen session, the socket must not receive any more
    messages."""
    browser = signed_in(user.username)

    async def scenario() -> int:
        async with connected(application, browser) as socket:
            assert await stays_open(socket)
            assert await ask(socket, "who") == user.username
            if how == "logout":
                await sync_to_async(browser.get)("/logout/")
            else:
                await Inventory().aend_all(user)
            return await close_code(socket)

    assert asyncio.run(scenario()) == SESSION_ENDED


@every_engine
def test_the_absolute_timeout_closes_the_socket(engine: Any, user: Any) -> None:
    """The socket closes to the second, whatever is sent, and the store is not asked in between."""
    began = datetime.now(UTC)

    async def scenario(browser: Client) -> int:
        app = AuthMiddlewareStack(Speaker.as_asgi())
        async with connected(app, browser) as socket:
            assert await ask(socket, "who") == user.username
            return await close_code(socket)

    with options(ABSOLUTE_TIMEOUT=2):
        assert asyncio.run(scenario(signed_in(user.username))) == SESSION_ENDED
    assert 1.5 < (datetime.now(UTC) - began).total_seconds() < 10


@listing
def test_the_idle_timeout_closes_a_silent_socket(engine: Any, user: Any) -> None:
    """A socket that is open is not a visitor who is there."""

    async def scenario(browser: Client) -> int:
        app = AuthMiddlewareStack(Speaker.as_asgi())
        async with connected(app, browser) as socket:
            return await close_code(socket)

    with options(IDLE_TIMEOUT=2):
        assert asyncio.run(scenario(signed_in(user.username))) == SESSION_ENDED


@pytest.mark.engines("memory", "file", "db:sqlite", "cache:django-redis")
@pytest.mark.parametrize("rotate_after", [0, 1], ids=["", "old key"])
def test_messages_are_activity(engine: Any, user: Any, rotate_after: int) -> None:
    """Whoever chats is not idle, and is signed in on the site as well.

    The key stays, however old it is: a WebSocket cannot bring the browser a new one.
    """

    async def scenario(browser: Client) -> str:
        app = AuthMiddlewareStack(Speaker.as_asgi())
        async with connected(app, browser) as socket:
            for _ in range(10):
                await asyncio.sleep(0.4)
                assert await ask(socket, "who") == user.username
            return await awho(browser)

    with options(IDLE_TIMEOUT=2, ROTATE_AFTER=rotate_after, ROTATION_GRACE=1):
        assert asyncio.run(scenario(signed_in(user.username))) == user.username


@pytest.mark.engines("memory", "db:sqlite", "cache:django-redis")
def test_activity_on_the_site_keeps_the_socket(engine: Any, user: Any) -> None:
    """The end that was known when it was opened has moved since."""

    async def scenario(browser: Client) -> None:
        app = AuthMiddlewareStack(Speaker.as_asgi())
        async with connected(app, browser) as socket:
            for _ in range(8):
                await asyncio.sleep(0.4)
                assert await awho(browser) == user.username
            assert await ask(socket, "who") == user.username

    with options(IDLE_TIMEOUT=2):
        asyncio.run(scenario(signed_in(user.username)))


@pytest.mark.engines("memory", "db:sqlite", "cache:django-redis")
def test_a_logout_of_the_consumers_own_keeps_the_socket(engine: Any, user: Any) -> None:
    """It knows what it did, and may go on with an anonymous visitor."""
    browser = signed_in(user.username)

    async def scenario() -> str:
        async with connected(application, browser) as socket:
            await ask(socket, "logout")
            assert await stays_open(socket)
            return await ask(socket, "who")

    assert asyncio.run(scenario()) == ""


@contextmanager
def reasons() -> Iterator[list[str]]:
    """Yield the reasons of the sessions that end in the block."""
    found = list[str]()

    def note(reason: str, **facts: Any) -> None:
        found.append(reason)

    session_ended.connect(note)
    try:
        yield found
    finally:
        session_ended.disconnect(note)


@pytest.mark.engines("memory", "db:sqlite")
def test_a_logout_is_told_while_the_socket_is_open(engine: Any, user: Any) -> None:
    """Channels sends Django's signal without a request."""
    browser = signed_in(user.username)

    async def scenario() -> None:
        async with connected(application, browser) as socket:
            await ask(socket, "logout")
            assert told == ["logout"]

    with reasons() as told:
        asyncio.run(scenario())
    assert told == ["logout"]


@pytest.mark.engines("memory", "db:sqlite")
def test_a_flush_is_told_while_the_socket_is_open(engine: Any, user: Any) -> None:
    """A login may follow, but a WebSocket may stay open for days."""
    browser = signed_in(user.username)

    async def scenario() -> None:
        async with connected(application, browser) as socket:
            await ask(socket, "flush")
            async with asyncio.timeout(LONG):
                while not told:
                    await asyncio.sleep(SHORT)
            assert await stays_open(socket)

    with reasons() as told:
        asyncio.run(scenario())
    assert told == ["logout"]


@pytest.mark.engines("memory", "db:sqlite")
def test_a_login_after_a_flush_gives_the_reason(engine: Any, user: Any) -> None:
    """Channels flushes the session when another user logs in."""
    browser = signed_in(user.username)
    get_user_model()._default_manager.create_user("another")

    async def scenario() -> str:
        async with connected(application, browser) as socket:
            return await ask(socket, "login another")

    with reasons() as told:
        assert asyncio.run(scenario()) == "another"
    assert told == ["replaced"]


@pytest.mark.engines("db:sqlite", "cache:django-redis")
def test_a_rotated_key_keeps_the_socket(engine: Any, user: Any) -> None:
    """The session goes on under another key, which the socket's cookie leads to for a while."""
    browser = signed_in(user.username)
    previous = browser.cookies[COOKIE].value

    async def scenario() -> None:
        async with connected(application, browser) as socket:
            with options(ROTATE_AFTER=0.001):
                assert await awho(browser) == user.username
                assert browser.cookies[COOKIE].value != previous
            assert await stays_open(socket)
            assert await ask(socket, "who") == user.username

    asyncio.run(scenario())


# A real server --------------------------------------------------------------------------------


@pytest.mark.engines("db:sqlite", "cache:django-redis", "cookie:sqlite")
def test_a_real_server(engine: Any, user: Any) -> None:
    """A login over HTTP, a WebSocket with its cookies, an outage and a logout: with a client that
    is not ours, over the network."""
    app = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": application})
    browser = signed_in(user.username)
    if engine.name == "cookie":
        browser.get(f"/write/text/{random.randbytes(3000).hex()}/")
        assert len(browser.cookies) > 1
    (header,) = cookie_header(browser)
    headers = {"Cookie": header[1].decode()}

    async def code_of(socket: Any) -> int:
        with contextlib.suppress(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), LONG)
        return int(socket.close_code)

    async def scenario(port: int) -> tuple[Any, int, int]:
        address = f"ws://{HOST}:{port}/"
        with observed(engine.storage, before=broken):
            async with connect_websocket(address, additional_headers=headers) as socket:
                refused = await code_of(socket)
        async with connect_websocket(address, additional_headers=headers) as socket:
            await socket.send("who")
            name = await asyncio.wait_for(socket.recv(), LONG)
            await sync_to_async(browser.get)("/logout/")
            return name, refused, await code_of(socket)

    with served(app) as port:
        answers = asyncio.run(scenario(port))
    assert answers == (user.username, TRY_AGAIN_LATER, SESSION_ENDED)


def test_a_missing_extra_names_the_command() -> None:
    """An import without Channels says what to install."""
    code = "import sys; sys.modules['channels'] = None; import django_sessionstores.channels"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "django-sessionstores[channels]"' in done.stderr


# Bound to a device --------------------------------------------------------------------------------


@pytest.mark.engines("memory", "db:sqlite", "cookie:sqlite")
def test_a_session_that_is_bound_to_a_device(
    engine: Any, user: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket that is opened with a copied cookie has no user, and is reported."""

    async def ask_with(browser: BoundBrowser) -> str:
        async with connected(application, browser.client) as socket:
            return await ask(socket, "who")

    stated = getattr(django_settings, "SESSIONSTORES", {})
    with override_settings(
        ROOT_URLCONF="tests.test_device_binding",
        SESSIONSTORES={**stated, "DEVICE_BINDING": "prefer"},
    ):
        browser = BoundBrowser()
        browser.log_in()
        thief = browser.copied("sessionid")
        with at(now() + 120_000):
            assert asyncio.run(ask_with(browser)) == user.username
            assert asyncio.run(ask_with(thief)) == ""
    assert "the proof of its device is missing" in caplog.text
