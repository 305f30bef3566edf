"""The session objects of the running request, under any middleware.

The signals of models that tell about a change of a user's account have no request, and Django's
middleware does not publish the session of a request. So each session object registers itself in the
context that makes it. An object that no code holds any more does not count, unless it still has to
send a signal.

Django's handler for ASGI runs a request in a task of its own, and sends `request_started` and
`request_finished` outside of that task. And the tasks that a view starts may go on after the
response. So what has to be known at the end of a request is not in the context, but in a `_Request`
that all contexts of the request share.

The code of a request may run another one, as with ``django.test.Client`` in a view. The sessions of
that one are known apart only if its handler sends `request_started` in the context of the view, as
the handlers for WSGI do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

import msgspec
from asgiref.sync import SyncToAsync
from django.contrib.auth.signals import user_logged_out
from django.contrib.sessions.backends.base import SessionBase
from django.core.signals import request_finished, request_started
from django.urls import get_urlconf

from ..core.flow import Call, Flow, run

_FEWEST: Final = 16
_MOST: Final = 100
"""How many sessions of a request are known at most that have another key, or whose end is not told.

A worker without requests that has called ``set_urlconf()`` counts as a request that does not end.
"""


class _Node(msgspec.Struct, frozen=True):
    """A node of an immutable linked list: copies of a context must not share changes."""

    session: ref[SessionBase]
    before: _Node | None
    size: int
    limit: int
    """The size at which the nodes of session objects that no longer exist are removed."""


class _Request:
    """A request, for all contexts in which its code runs."""

    def __init__(self, outer: _Request | None = None, noted: _Node | None = None) -> None:
        self.outer: Final = outer
        """The request whose code runs this one, if there is one."""
        self.noted: Final = noted
        """The session objects of the outer request."""
        self.inner = 0
        """The number of the requests that the code of this one runs now."""
        self.is_over = False
        self.kept: list[Any] = []
        """What has a ``settle()`` to call when the request is over."""
        self.cycled: list[Any] = []
        """The session objects whose ``cycle_key()`` was called. A view may replace one of them by
        another object for its new key, before anything is stored under that."""


_running: Final[ContextVar[_Request | None]] = ContextVar("request", default=None)
_running_in_asgi: Final = WeakKeyDictionary[Any, _Request]()
"""The requests that Django's handler for ASGI serves, by what `_asgi_context` returns."""
_noted: Final[ContextVar[_Node | None]] = ContextVar("sessions", default=None)


def add(session: SessionBase) -> bool:
    """Register a session object in the current context, in constant time on average.

    Return whether it is the first one of a request: the middleware has made it from the cookie.
    """
    node = _noted.get()
    is_first = node is None and _begin() is not None
    if node is not None and node.size >= node.limit:
        alive = [each for each in _nodes() if each.session() is not None]
        node, limit = None, max(_FEWEST, 2 * len(alive))
        for each in reversed(alive):
            size = node.size + 1 if node else 1
            node = _Node(each.session, node, size, limit)
    size, limit = (node.size + 1, node.limit) if node else (1, _FEWEST)
    _noted.set(_Node(ref(session), node, size, limit))
    return is_first


def keep(settled: Any) -> Flow[None]:
    """Keep an object, such as a session, until the request is over. Then call its ``settle()``.

    If there are too many, call that of the first one now.
    """
    request = _begin()
    if request is None or any(each is settled for each in request.kept):
        return
    request.kept.append(settled)
    if len(request.kept) > _MOST:
        yield Call(request.kept.pop(0), "settle", ())


def settle() -> Flow[None]:
    """Settle what is kept until the request is over."""
    request = _find()
    while request is not None and request.kept:
        yield Call(request.kept.pop(0), "settle", ())


def add_cycled(session: SessionBase) -> None:
    """Register a session object whose ``cycle_key()`` was called in the running request."""
    request = _begin()
    if request is not None:
        others = [each for each in request.cycled if each is not session]
        request.cycled = [*others[1 - _MOST :], session]


def cycled() -> list[Any]:
    """Return the session objects of the request whose ``cycle_key()`` was called.

    Outside of a request it is not known which objects belong together, so there are none.
    """
    # Each load asks this. A request that is over has none.
    request = _find()
    return [] if request is None else request.cycled


def _nodes() -> Iterator[_Node]:
    node = _noted.get()
    while node is not None:
        yield node
        node = node.before


def sessions() -> list[Any]:
    """Return the session objects of the current context that still exist, the newest first."""
    return [session for each in _nodes() if (session := each.session()) is not None]


def own_ids(opened: Iterable[Any]) -> set[str]:
    """Return the ids of the sessions that belong to the running request.

    ``opened`` are the session objects that its code has made. The request's own are the session
    that its cookie names, and those whose keys it has drawn itself.
    """
    found = set[str]()
    for session in [*opened, *cycled()]:
        if session.belongs_to_request:
            found |= session.stored_ids
    return found


def ids_cycled_before(number: int) -> set[str]:
    """Return the ids of the stored sessions whose keys the running request had cycled by then.

    ``number`` is one of `state.count`.
    """
    return {str(each.drawn_id) for each in cycled() if 0 < each.drawn < number}


def is_in_request() -> bool:
    """Return whether the running code is part of a request that Django handles."""
    return _begin() is not None


def is_over() -> bool:
    """Return whether the running code was started by a request that is over."""
    request = _find()
    return request is not None and request.is_over


def _asgi_context() -> Any:
    """Return an object that lives as long as an ASGI request and is the same in all its contexts.

    Return ``None`` for a request that another handler serves. The name is one that asgiref does not
    document, read in asgiref 3.13: Django's handler enters a ``ThreadSensitiveContext`` for each
    request, before it sends `request_started`.
    """
    return SyncToAsync.thread_sensitive_context.get(None)


def _find() -> _Request | None:
    request = _running.get()
    if request is None and (context := _asgi_context()) is not None:
        request = _running_in_asgi.get(context)
    return request


def _begin() -> _Request | None:
    """Return the running request; ``None`` outside of requests, and if it is over."""
    request = _find()
    if request is None:
        # Django sets the urlconf before the first middleware, and resets it after the response.
        if get_urlconf() is None:
            return None
        request = _Request()
        _running.set(request)
        if (context := _asgi_context()) is not None:
            _running_in_asgi[context] = request
    return None if request.is_over else request


def _start(**kwargs: Any) -> None:
    request = _find()
    if request is not None:
        # A server may have failed to end a request. Nobody holds its session any more.
        if not request.is_over and sessions():
            request.inner += 1
            _running.set(_Request(request, _noted.get()))
            _noted.set(None)
            return
        if (context := _asgi_context()) is not None:
            _running_in_asgi.pop(context, None)
    _forget()


def _forget() -> None:
    # Under WSGI a thread has one context for all of its requests, and reference cycles may keep the
    # sessions of an earlier request alive. Under ASGI each request has a context of its own.
    _running.set(None)
    _noted.set(None)


def _finish(**kwargs: Any) -> None:
    request = _find()
    if request is None:
        _forget()
        return
    if request.inner:
        request.inner -= 1
        return
    try:
        request.is_over = True
        if request.kept:
            run(settle())
    finally:
        _forget()
        request.kept, request.cycled = [], []
        if request.outer is not None:
            request.outer.inner -= 1
            _running.set(request.outer)
            _noted.set(request.noted)


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
