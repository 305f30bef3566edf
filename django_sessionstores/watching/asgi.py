"""The middleware that closes WebSockets and streams of an ASGI application with their session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY
from django.http import parse_cookie

from ..binding.headers import SKIPPED
from ..conf import session_store
from ..core.flow import arun
from ..exceptions import StorageUnavailable
from ..payloads.cookie_chunks import join
from ..sessions import SessionStore, refusals
from ..sessions.device_proof import bound_cookie, reason_to_skip
from ..sessions.state import RequestPolicy
from .watch import Watch, watched, watching

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[Any]]

SESSION_ENDED: Final = 4401
"""The code with which a WebSocket is closed when its session has ended."""

TRY_AGAIN_LATER: Final = 1013
"""The code with which a WebSocket is closed while the session store does not answer."""

_REQUEST: Final = "django_sessionstores.request"
"""The key of a scope under which Django's request is kept, for its session."""


class WatchMiddleware:
    """Closes what is open under a session when the session ends. Wraps an ASGI application.

    * A WebSocket is closed with the code `SESSION_ENDED`. Its session is loaded before the
      application runs, and is in ``scope["session"]`` then. If the store does not answer, the
      WebSocket is closed with the code `TRY_AGAIN_LATER`. A session that is bound to a device is
      empty without the bound cookie.
    * A response that is sent in parts, as server-sent events are, is ended, and the application
      gets ``http.disconnect``. Its session is the one that the package's ``SessionMiddleware`` has
      made, or ``scope["session"]``. A response whose view has not used the session goes on.

    With ``counts_as_activity``, each message that the browser sends over a WebSocket keeps the
    session from being idle.
    """

    def __init__(self, application: Application, *, counts_as_activity: bool = False) -> None:
        self.application = application
        self.counts_as_activity = counts_as_activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve a connection."""
        if scope["type"] == "websocket" and "session" not in scope:
            scope = {**scope, "session": _session_of_cookie(scope)}
        elif scope["type"] == "http":
            scope = {**scope, _REQUEST: {}}
        if scope["type"] == "websocket" and isinstance(scope["session"], SessionStore):
            try:
                await scope["session"].aget(SESSION_KEY)  # Reading any key loads the session.
            except StorageUnavailable:
                await _refuse(scope, receive, send)
                return None
            await arun(refusals.report(scope["session"], skipped_refresh(scope)))
        async with closed_with_session(
            scope, receive, send, counts_as_activity=self.counts_as_activity
        ) as (receive, send):
            return await self.application(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Close a WebSocket at once, because its session cannot be loaded."""
    await receive()
    # Only an accepted connection can be closed with a code, and a browser that asked for a
    # subprotocol must get one.
    protocols = [*scope.get("subprotocols", ()), None]
    await send({"type": "websocket.accept", "subprotocol": protocols[0]})
    await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})


def note_request(request: Any) -> None:
    """Tell a `WatchMiddleware` around Django which request it serves, and so its session."""
    noted = getattr(request, "scope", {}).get(_REQUEST)
    if noted is not None:
        noted["request"] = request


@asynccontextmanager
async def closed_with_session(
    scope: Scope, receive: Receive, send: Send, *, counts_as_activity: bool = False
) -> AsyncIterator[tuple[Receive, Send]]:
    """Yield `receive` and `send` for an application. They close when the session ends."""
    session = scope.get("session")
    if scope["type"] == "websocket" and isinstance(session, SessionStore):
        async with watching(session, counts_as_activity=counts_as_activity) as watch:
            socket = _WebSocket(watch, receive, send)
            async with closing(watch, socket.close):
                yield socket.receive, socket.send
    elif scope["type"] == "http":
        stream = _Stream(partial(_session_of_response, scope), send)
        try:
            yield receive, stream.send
        except _StreamEnded:
            pass  # The application was told by its `send`, and has not caught it.
        finally:
            await stream.stop()
    else:
        yield receive, send


@asynccontextmanager
async def closing(watch: Watch, close: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Await ``close()`` if the session of a watch ends while the block runs."""
    task = asyncio.create_task(_close_at_end(watch, close))
    try:
        yield
    finally:
        await _cancel(task)


async def _close_at_end(watch: Watch, close: Callable[[], Awaitable[object]]) -> None:
    await watch.wait()
    # Servers raise one of these if the connection has been closed meanwhile.
    with suppress(OSError, RuntimeError):
        await close()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class _WebSocket:
    """The messages of a WebSocket whose session is watched."""

    def __init__(self, watch: Watch, receive: Receive, send: Send) -> None:
        self._watch, self._receive, self._send = watch, receive, send
        self._is_closed = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.receive":
            self._watch.note_activity()
        return message

    async def send(self, message: Message) -> None:
        if self._is_closed:
            return  # The application does not know yet that the WebSocket is closed.
        self._is_closed = message["type"] == "websocket.close"
        await self._send(message)

    async def close(self) -> None:
        await self.send({"type": "websocket.close", "code": SESSION_ENDED})


class _StreamEnded(OSError):
    """The session of a response has ended. An application sees it as a lost connection."""


class _Stream:
    """The messages of a response. It is watched from its first part on, if another one follows."""

    def __init__(self, session: Callable[[], Any], send: Send) -> None:
        self._session, self._send = session, send
        self._has_begun = self._is_ended = False
        self._watched: AbstractContextManager[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def send(self, message: Message) -> None:
        if self._is_ended:
            raise _StreamEnded("The session of this response has ended.")
        if message["type"] == "http.response.body" and message.get("more_body"):
            self._begin()
        await self._send(message)

    def _begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        session = self._session()
        if not isinstance(session, SessionStore) or session.known_record is None:
            return
        watch = Watch(session)
        self._watched = watched(watch)
        self._watched.__enter__()
        self._closing = asyncio.create_task(_close_at_end(watch, self._close))

    async def _close(self) -> None:
        self._is_ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def stop(self) -> None:
        """Stop watching: the response is complete, or its connection is lost."""
        if self._watched is not None and self._closing is not None:
            self._watched.__exit__(None, None, None)
            await _cancel(self._closing)


def _session_of_response(scope: Scope) -> Any:
    """Return the session under which a response is sent; ``None`` if that is not known."""
    if request := scope.get(_REQUEST, {}).get("request"):
        return getattr(request, "session", None)
    return scope.get("session")


def skipped_refresh(scope: Scope) -> str:
    """Return why the browser has no bound cookie; empty if it does not say."""
    name = SKIPPED.lower().encode()
    found = [value for each, value in scope.get("headers", ()) if each == name]
    return reason_to_skip(found[0].decode("latin1") if found else "")


def _session_of_cookie(scope: Scope) -> Any:
    """Return a session for the cookies of a connection. It is not loaded."""
    lines = [value.decode("latin1") for name, value in scope["headers"] if name == b"cookie"]
    cookies, name = parse_cookie("; ".join(lines)), django_settings.SESSION_COOKIE_NAME
    key = join(name, cookies) if name in cookies else None
    session = session_store(django_settings.SESSION_ENGINE)(key)
    if isinstance(session, SessionStore):
        session.policy = RequestPolicy(
            sends_key=False, settles=False, bound_cookie=bound_cookie(cookies)
        )
    return session
