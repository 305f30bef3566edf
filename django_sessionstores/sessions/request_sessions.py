"""The session objects of the running request, under any middleware.

The signals of models that tell about a change of a user's account have no request, and Django's
middleware does not publish the session of a request. So each session object registers itself in the
context that makes it. An object that no code holds any more does not count, unless it still has to
send a signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final
from weakref import ref

import msgspec
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.base import SessionBase
from django.core.signals import request_finished, request_started
from django.urls import get_urlconf

_FEWEST: Final = 16


class _Node(msgspec.Struct, frozen=True):
    """A node of an immutable linked list: copies of a context must not share changes."""

    session: Callable[[], SessionBase | None]
    """Returns the session object; ``None`` if it no longer exists."""
    is_first: bool
    """Whether it was the first one of a request: the middleware has made it from the cookie."""
    is_kept: bool
    """Whether the node keeps the session object alive."""
    before: _Node | None
    size: int
    limit: int
    """The size at which the nodes of session objects that no longer exist are removed."""


_noted: Final[ContextVar[_Node | None]] = ContextVar("sessions", default=None)
_cycled: Final[ContextVar[tuple[ref[SessionBase], ...]]] = ContextVar("cycled", default=())


def add(session: SessionBase) -> bool:
    """Register a session object in the current context, in constant time on average.

    Return whether it is the first one of a request: the middleware has made it from the cookie.
    """
    is_first = _noted.get() is None and is_in_request()
    _add(ref(session), is_first=is_first)
    return is_first


def keep(session: SessionBase) -> None:
    """Keep a session object until the request is over, because it has a signal to send then."""
    if not any(each.is_kept and each.session() is session for each in _nodes()):
        _add(lambda: session, is_first=False, is_kept=True)


def add_cycled(session: SessionBase) -> None:
    """Register a session object whose ``cycle_key()`` was called in the current context."""
    others = [each for each in _cycled.get() if each() not in (None, session)]
    _cycled.set((*others, ref(session)))


def cycled() -> list[Any]:
    """Return the session objects of the request whose ``cycle_key()`` was called.

    Outside of a request it is not known which objects belong together, so there are none.
    """
    if not is_in_request():
        return []
    return [session for each in _cycled.get() if (session := each()) is not None]


def _add(
    session: Callable[[], SessionBase | None], *, is_first: bool, is_kept: bool = False
) -> None:
    node = _noted.get()
    if node is not None and node.size >= node.limit:
        alive = [each for each in _nodes() if each.session() is not None]
        node, limit = None, max(_FEWEST, 2 * len(alive))
        for each in reversed(alive):
            size = node.size + 1 if node else 1
            node = _Node(each.session, each.is_first, each.is_kept, node, size, limit)
    size, limit = (node.size + 1, node.limit) if node else (1, _FEWEST)
    _noted.set(_Node(session, is_first, is_kept, node, size, limit))


def _nodes() -> Iterator[_Node]:
    node = _noted.get()
    while node is not None:
        yield node
        node = node.before


def sessions() -> list[Any]:
    """Return the session objects of the current context that still exist, the newest first."""
    return [session for each in _nodes() if (session := each.session()) is not None]


def own_ids() -> set[str]:
    """Return the ids of the sessions that belong to the running request.

    These are the session that its cookie names, and those whose keys it has drawn itself. Sessions
    that its code has opened by their keys may be other people's.
    """
    found = set[str]()
    for each in _nodes():
        session: Any = each.session()
        if session is not None and (each.is_first or session.belongs_to_request):
            found |= session.stored_ids
    return found


def ids_cycled_before(number: int) -> set[str]:
    """Return the ids of the stored sessions whose keys the running request had cycled by then.

    ``number`` is one of `state.count`.
    """
    return {str(each.drawn_id) for each in cycled() if 0 < each.drawn < number}


def is_in_request() -> bool:
    """Return whether the running code is part of a request that Django handles."""
    # Django sets the urlconf before the first middleware, and resets it after the response.
    return get_urlconf() is not None


def _start(**kwargs: Any) -> None:
    # Under WSGI a thread has one context for all of its requests, and reference cycles may keep the
    # sessions of an earlier request alive. Under ASGI each request has a context of its own.
    _noted.set(None)
    _cycled.set(())


def _finish(**kwargs: Any) -> None:
    for session in sessions():
        if not session.is_settled:
            session.settle()
    _noted.set(None)
    _cycled.set(())


def _log_out(request: Any = None, **kwargs: Any) -> None:
    """Mark the flush that follows as a logout.

    Without the mark it is the flush of a session whose user has a new password.
    """
    session = getattr(request, "session", None)
    if session is not None and hasattr(session, "is_logging_out"):
        session.is_logging_out = True


request_started.connect(_start, dispatch_uid="django_sessionstores.request_sessions")
request_finished.connect(_finish, dispatch_uid="django_sessionstores.request_sessions")
user_logged_out.connect(_log_out, dispatch_uid="django_sessionstores.request_sessions")
