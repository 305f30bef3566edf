"""The sessions of the running request: those that its code has made, under any middleware.

The signals of models that tell about a change of a user's account have no request, and Django's
middleware does not publish the session of a request. So each session object registers itself in the
context that makes it. An object that no code holds any more does not count.
"""

from __future__ import annotations

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

    session: ref[SessionBase]
    before: _Node | None
    size: int
    limit: int
    """The size at which the nodes of session objects that no longer exist are removed."""


_noted: Final[ContextVar[_Node | None]] = ContextVar("sessions", default=None)


def add(session: SessionBase) -> None:
    """Register a session object in the current context, in constant time on average."""
    node = _noted.get()
    if node is not None and node.size >= node.limit:
        alive = sessions()
        node, limit = None, max(_FEWEST, 2 * len(alive))
        for each in reversed(alive):
            node = _Node(ref(each), node, node.size + 1 if node else 1, limit)
    size, limit = (node.size + 1, node.limit) if node else (1, _FEWEST)
    _noted.set(_Node(ref(session), node, size, limit))


def sessions() -> list[Any]:
    """Return the session objects of the current context that still exist, the newest first."""
    found, node = [], _noted.get()
    while node is not None:
        if (session := node.session()) is not None:
            found.append(session)
        node = node.before
    return found


def is_in_request() -> bool:
    """Return whether the running code is part of a request that Django handles."""
    # Django sets the urlconf before the first middleware, and resets it after the response.
    return get_urlconf() is not None


def _start(**kwargs: Any) -> None:
    # Under WSGI a thread has one context for all of its requests, and reference cycles may keep the
    # sessions of an earlier request alive. Under ASGI each request has a context of its own.
    _noted.set(None)


def _finish(**kwargs: Any) -> None:
    for session in sessions():
        if not session.is_settled:
            session.settle()
    _noted.set(None)


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
