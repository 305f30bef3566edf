"""Sessions for the WebSocket and HTTP consumers of Channels.

Channels has middlewares of its own for sessions and users. The middlewares here extend them: they
join cookies in several parts, close a WebSocket when its session ends, and do not mistake an outage
for an anonymous visitor.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
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
from .core.flow import arun
from .core.records import Client
from .exceptions import StorageUnavailable, missing_extra
from .payloads.cookie_chunks import join, parts, split
from .sessions import SessionStore, refusals
from .sessions.device_proof import bound_cookie
from .sessions.state import RequestPolicy
from .watching import SESSION_ENDED, TRY_AGAIN_LATER, Watch, watching
from .watching.asgi import Application, Message, Receive, Send, closing, skipped_refresh

try:
    from channels import auth, sessions
    from channels.db import aclose_old_connections
except ImportError:
    raise missing_extra("channels", "channels") from None

__all__ = [
    "SESSION_ENDED",
    "TRY_AGAIN_LATER",
    "AuthMiddleware",
    "AuthMiddlewareStack",
    "SessionMiddleware",
    "SessionMiddlewareStack",
]

logger = logging.getLogger("django_sessionstores")

_served: Final[ContextVar[SessionStore | None]] = ContextVar("served", default=None)
"""The session of the connection whose consumer runs."""


class SessionMiddleware(sessions.SessionMiddleware):  # type: ignore[misc]
    """Channels' ``SessionMiddleware``, with these differences:

    * The parts of a session cookie that was split into several cookies are joined.
    * The session is loaded with async calls before the consumer runs.
    * A WebSocket is closed with the code `SESSION_ENDED` when its session has ended.
    * Messages that the browser sends count as activity for the idle timeout.
    * While the store does not answer, a WebSocket is closed with the code `TRY_AGAIN_LATER`, and
      an HTTP request is answered with 503.
    * The session records the client's IP address and user agent.
    * A session that is bound to a device is empty without the bound cookie.

    Like Channels' own middleware, it must be inside ``CookieMiddleware``.
    """

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
        # The session is a lazy object, for which isinstance() tests the wrapped session.
        is_ours = isinstance(session, SessionStore)
        policy = RequestPolicy(
            client=partial(_client, scope),
            sends_key=False,
            bound_cookie=bound_cookie(scope.get("cookies", {})),
        )
        if is_ours:
            session.policy = policy
        # Reading any key loads the session, so that the consumer does not block the event loop.
        await session.aget(SESSION_KEY)
        if not is_ours:
            return await self.inner(scope, receive, send)
        _served.set(session)
        await arun(refusals.report(session, skipped_refresh(scope)))
        try:
            async with _close_with_session(session, connection):
                return await self.inner(scope, receive, send)
        finally:
            session.policy = replace(policy, settles=False)
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


def SessionMiddlewareStack(inner: Application) -> Application:  # noqa: N802 - Channels' name
    """Return an application with ``scope["session"]``. Replaces Channels' function."""
    return sessions.CookieMiddleware(SessionMiddleware(inner))  # type: ignore[no-any-return]


def AuthMiddlewareStack(inner: Application) -> Application:  # noqa: N802 - Channels' name
    """Return an application with ``scope["session"]`` and ``scope["user"]``.

    It replaces Channels' function of the same name.
    """
    return SessionMiddlewareStack(AuthMiddleware(inner))


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
        self.watch: Watch | None = None
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
        if message["type"] == "websocket.receive" and self.watch is not None:
            self.watch.note_activity()
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


@asynccontextmanager
async def _close_with_session(
    session: SessionStore, connection: _Connection
) -> AsyncIterator[None]:
    """Close the WebSocket as soon as its session is known to have ended."""
    if connection.scope["type"] != "websocket":
        yield
        return
    async with watching(session, counts_as_activity=True) as watch:
        connection.watch = watch
        async with closing(watch, partial(connection.close, SESSION_ENDED)):
            yield
