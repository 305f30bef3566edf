"""Sessions for the WebSocket and HTTP consumers of Channels.

Channels has middlewares of its own for sessions and users. The middlewares here extend them: they
join cookies in several parts, close a WebSocket when its session ends, and do not mistake an outage
for an anonymous visitor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY, aget_user
from django.contrib.auth.signals import user_logged_out
from django.utils.translation import gettext
from msgspec.structs import replace

from .conf import settings, trusted_proxies
from .core.client import clean_user_agent, client_ip
from .core.records import Client
from .exceptions import SessionConflict, SessionEnded, StorageUnavailable, missing_extra
from .payloads.cookie_chunks import join, parts, split
from .sessions import SessionStore
from .sessions.state import RequestPolicy

try:
    from channels import auth, sessions
    from channels.db import aclose_old_connections
except ImportError:
    raise missing_extra("channels", "channels") from None

logger = logging.getLogger("django_sessionstores")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[Any]]

TRY_AGAIN_LATER: Final = 1013
"""The code with which a WebSocket is closed while the session store does not answer."""

SESSION_ENDED: Final = 4401
"""The code with which a WebSocket is closed when its session has ended."""

INTERNAL_ERROR: Final = 1011
"""The code with which a WebSocket is closed when something unexpected goes wrong here."""

CHECK_INTERVAL: Final = 60.0
"""The seconds between two checks whether the session of an open WebSocket has ended."""

_served: Final[ContextVar[SessionStore | None]] = ContextVar("served", default=None)
"""The session of the connection whose consumer runs."""

_SHORTEST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 86_400.0


class SessionMiddleware(sessions.SessionMiddleware):  # type: ignore[misc]
    """Channels' ``SessionMiddleware``, with these differences:

    * The parts of a session cookie that was split into several cookies are joined.
    * The session is loaded with async calls before the consumer runs.
    * A WebSocket is closed with the code `SESSION_ENDED` when its session has ended. The store is
      asked every ``check_interval`` seconds; with ``None``, only when the session would expire.
    * Messages that the browser sends count as activity for the idle timeout.
    * While the store does not answer, a WebSocket is closed with the code `TRY_AGAIN_LATER`, and
      an HTTP request is answered with 503.
    * The session records the client's IP address and user agent.

    Like Channels' own middleware, it must be inside ``CookieMiddleware``.
    """

    def __init__(
        self, inner: Application, *, check_interval: float | None = CHECK_INTERVAL
    ) -> None:
        super().__init__(inner)
        self.check_interval = check_interval

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> Any:
        """Serve a connection with its session in ``scope["session"]``."""
        if "session" in scope:  # Another session middleware is above this one.
            return await super().__call__(scope, receive, send)
        connection = _Connection(scope, receive, send)
        # Channels' middleware is made for each connection, so that it does everything else.
        middleware = sessions.SessionMiddleware(partial(self._serve, connection))
        try:
            return await middleware(connection.scope, connection.receive, connection.send)
        except StorageUnavailable as outage:
            await connection.refuse(outage)

    async def _serve(
        self, connection: _Connection, scope: dict[str, Any], receive: Receive, send: Send
    ) -> Any:
        session = scope["session"]
        # Reading any key loads the session, so that the consumer does not block the event loop.
        await session.aget(SESSION_KEY)
        # The session is a lazy object, for which isinstance() tests the wrapped session.
        if not isinstance(session, SessionStore):
            return await self.inner(scope, receive, send)
        session.policy = RequestPolicy(client=partial(_client, scope), sends_key=False)
        _served.set(session)
        try:
            async with _watch_session(session, connection, self.check_interval):
                return await self.inner(scope, receive, send)
        finally:
            session.policy = replace(session.policy, settles=False)
            await session.asettle()


class AuthMiddleware(auth.AuthMiddleware):  # type: ignore[misc]
    """Channels' ``AuthMiddleware``, but users stay signed in when ``SECRET_KEY`` has changed.

    Channels flushes a session whose user signed in under one of ``SECRET_KEY_FALLBACKS``. Django
    does not: the next HTTP request updates the session.
    """

    async def resolve_scope(self, scope: dict[str, Any]) -> None:
        """Put the user of the session into the scope."""
        if django_settings.SECRET_KEY_FALLBACKS:
            user = await aget_user(SimpleNamespace(session=_ReadOnlySession(scope["session"])))  # type: ignore[arg-type]
            if user.is_authenticated:
                scope["user"]._wrapped = user
                return
        await super().resolve_scope(scope)


def SessionMiddlewareStack(  # noqa: N802 - the name in Channels
    inner: Application, *, check_interval: float | None = CHECK_INTERVAL
) -> Application:
    """Return an application with ``scope["session"]``. Replaces Channels' function."""
    middleware = SessionMiddleware(inner, check_interval=check_interval)
    return sessions.CookieMiddleware(middleware)  # type: ignore[no-any-return]


def AuthMiddlewareStack(  # noqa: N802 - the name in Channels
    inner: Application, *, check_interval: float | None = CHECK_INTERVAL
) -> Application:
    """Return an application with ``scope["session"]`` and ``scope["user"]``.

    It replaces Channels' function of the same name.
    """
    return SessionMiddlewareStack(AuthMiddleware(inner), check_interval=check_interval)


class _ReadOnlySession:
    """A session for Django's `aget_user` that ignores changes.

    No cookie with a new key can be sent over an open WebSocket.
    """

    def __init__(self, session: Any) -> None:
        self.aget = session.aget
        self._session = session

    async def acycle_key(self) -> None:
        pass

    async def aset(self, key: str, value: Any) -> None:
        pass

    async def aflush(self) -> None:
        pass


class _Connection:
    """The messages between a server and a consumer, with messages of this module in between."""

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._began = self._answered = self._closed = False
        self.heard = True
        """Whether the browser has sent a message since this was last set to False."""
        self._parts: list[str] = []
        name, cookies = django_settings.SESSION_COOKIE_NAME, scope.get("cookies", {})
        if carried := parts(name, cookies):
            self._parts = carried
            whole = join(name, cookies)
            cookies = {each: cookies[each] for each in cookies if each not in carried}
            scope = {**scope, "cookies": {**cookies, name: whole}}
        self.scope = scope

    async def receive(self) -> Message:
        message = await self._receive()
        self._began = True
        if message["type"] == "websocket.receive":
            self.heard = True
        return message

    async def send(self, message: Message) -> None:
        if self._closed:
            return  # The consumer does not know yet that the WebSocket is closed.
        if message["type"] == "http.response.start":
            self._split_cookie(message)
        self._answered = True
        self._closed = message["type"] == "websocket.close"
        await self._send(message)

    async def close(self, code: int) -> None:
        """Close the WebSocket, if it is still open."""
        await self.send({"type": "websocket.close", "code": code})

    async def refuse(self, outage: StorageUnavailable) -> None:
        """Refuse a connection that an outage has stopped. Raises the outage if it cannot."""
        # Django closes old connections when a request begins. Without requests, a broken database
        # connection would be used again and again.
        await aclose_old_connections()
        kind = self.scope["type"]
        if kind == "websocket":
            await self._refuse_websocket()
        elif kind == "http" and not self._answered:
            await self._refuse_http()
        else:
            raise outage
        # The log of outages has a line for all connections that an outage stops.
        level = logging.DEBUG if outage.was_logged else logging.WARNING
        path = self.scope.get("path", "")
        logger.log(level, "Session storage unavailable: %s: %s", path, outage)

    async def _refuse_websocket(self) -> None:
        if not self._answered:
            if not self._began:
                await self._receive()
            # Only an accepted connection can be closed with a code, and a browser that asked for a
            # subprotocol must get one.
            protocols = [*self.scope.get("subprotocols", ()), None]
            await self.send({"type": "websocket.accept", "subprotocol": protocols[0]})
        await self.close(TRY_AGAIN_LATER)

    async def _refuse_http(self) -> None:
        text = gettext("Service unavailable. Please try again in a moment.") + "\n"
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Retry-After": str(settings.OUTAGE_RETRY_AFTER),
            "Cache-Control": "max-age=0, no-cache, no-store, must-revalidate, private",
            "Vary": "Cookie",
        }
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 503, "headers": encoded})
        await self._send({"type": "http.response.body", "body": text.encode()})

    def _split_cookie(self, message: Message) -> None:
        """Split the session cookie of a response, as the package's middleware for Django does."""
        name = django_settings.SESSION_COOKIE_NAME
        headers: list[tuple[bytes, bytes]] = []
        stale: list[str] = []
        for header, line in message.get("headers", ()):
            if header.lower() != b"set-cookie" or not line.startswith(f"{name}=".encode()):
                headers.append((header, line))
                continue
            pair, separator, attributes = line.decode("latin1").partition(";")
            values = split(name, pair.removeprefix(f"{name}="))
            for part, value in values.items():
                whole = f"{part}={value}{separator}{attributes}"
                headers.append((header, whole.encode("latin1")))
            stale = [part for part in self._parts if part not in values]
        message["headers"] = headers
        for part in stale:
            sessions.CookieMiddleware.delete_cookie(
                message,
                part,
                path=django_settings.SESSION_COOKIE_PATH,
                domain=django_settings.SESSION_COOKIE_DOMAIN,
            )


def _log_out(request: Any = None, **kwargs: Any) -> None:
    """Mark the flush that follows as a logout. Channels sends the signal without a request."""
    session = _served.get()
    if request is None and session is not None:
        session.is_logging_out = True


user_logged_out.connect(_log_out, dispatch_uid="django_sessionstores.channels")


def _client(scope: Mapping[str, Any]) -> Client:
    headers = scope.get("headers", ())
    forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for")
    agents = [value for name, value in headers if name == b"user-agent"]
    address, *_ = scope.get("client") or ("",)
    ip = client_ip(address or "", forwarded.decode("latin1"), trusted_proxies())
    return Client(ip, clean_user_agent(agents[0].decode("latin1") if agents else ""))


# The end of a session whose WebSocket is open -----------------------------------------------------


@asynccontextmanager
async def _watch_session(
    session: SessionStore, connection: _Connection, interval: float | None
) -> AsyncIterator[None]:
    """Close the WebSocket as soon as its session is known to have ended."""
    if connection.scope["type"] != "websocket" or not session.session_key:
        yield
        return
    watch = asyncio.create_task(_Watch(session, connection, interval).run())
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


class _Watch:
    """A task that checks the session of one open WebSocket.

    It sleeps for half of the remaining time of the session, at most for the interval. If the
    browser has sent messages meanwhile, it moves the expiry, so that the idle timeout starts again.
    """

    def __init__(
        self, session: SessionStore, connection: _Connection, interval: float | None
    ) -> None:
        self._session, self._connection, self._interval = session, connection, interval
        self._known_key = self._key = session.session_key

    async def run(self) -> None:
        try:
            await self._run()
        except Exception:
            # Nothing would check the session of this WebSocket any more.
            logger.exception("The session of a WebSocket cannot be watched.")
            await self._connection.close(INTERNAL_ERROR)

    async def _run(self) -> None:
        ends = await self._end(self._session)
        looked = time.monotonic()
        while ends is not None:
            await asyncio.sleep(self._pause(ends))
            is_due = self._interval is not None and time.monotonic() - looked >= self._interval
            if not is_due and not self._connection.heard and ends > _now():
                continue
            looked = time.monotonic()
            try:
                if (key := self._session.session_key) is None:
                    # The consumer has ended it itself, and no login has followed until now.
                    await self._session.asettle()
                    return
                if key != self._known_key:
                    self._known_key = self._key = key
                ends = await self._look()
            except StorageUnavailable:
                # Whether the session has ended is unknown.
                await aclose_old_connections()
                await asyncio.sleep(settings.OUTAGE_RETRY_AFTER)
        await self._connection.close(SESSION_ENDED)

    def _pause(self, ends: float) -> float:
        left = ends - _now()
        # Not the whole remaining time: messages of the browser must be noticed before the end.
        pause = left / 2 if left > 1 else left
        longest = _LONGEST_PAUSE if self._interval is None else self._interval
        return max(_SHORTEST_PAUSE, min(pause, longest))

    async def _look(self) -> float | None:
        """Return when the stored session ends, in seconds since the epoch; ``None`` if it has."""
        stored = self._session.__class__(self._key)
        ends = await self._end(stored)
        if ends is None:
            # After a login that the consumer has not saved yet, only its session knows the key.
            exists = await self._session.aexists(self._key)
            return _now() + _LONGEST_PAUSE if exists else None
        self._key = stored.session_key  # Another one, if the key was rotated.
        heard, self._connection.heard = self._connection.heard, False
        if not heard:
            return ends
        if not self._can_touch(stored):
            if stored.is_activity_due:
                await stored.arecord_activity()
            return ends
        try:
            await stored.asave()
        except SessionEnded:
            return None
        except SessionConflict:
            return ends  # The requests that keep writing move the expiry as well.
        return await self._end(stored)

    async def _end(self, session: SessionStore) -> float | None:
        deadlines = await session.adeadlines()
        if deadlines is None:
            return None
        moments = [deadlines.idle, deadlines.absolute]
        return min(moment.timestamp() for moment in moments if moment is not None)

    def _can_touch(self, stored: SessionStore) -> bool:
        # No cookie can be sent, so a save must not need one.
        return bool(settings.IDLE_TIMEOUT) and not stored.storage().holds_in_key


def _now() -> float:
    return datetime.now(UTC).timestamp()
