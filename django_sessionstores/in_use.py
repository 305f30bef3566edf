"""What the running code is about: which sessions it holds, those that its request has made under
any middleware, and whether it logs somebody in.

Django's middleware tells nobody which session a request has, and what a user's account has become
is learnt from signals of models, which know no request. So each session notes itself in the
context that makes it. A session that nobody holds any more does not count.
"""

from __future__ import annotations

from contextvars import ContextVar
from inspect import currentframe
from typing import Any, Final
from weakref import ref

from django.contrib.auth import alogin, login
from django.contrib.sessions.backends.base import SessionBase
from django.core.signals import request_finished, request_started

# A tuple, not a set that is filled: contexts are copied, and a copy must not be shared.
_noted: Final[ContextVar[tuple[ref[SessionBase], ...]]] = ContextVar("sessions", default=())


def add(session: SessionBase) -> None:
    """Note a session that was made here."""
    _noted.set((*(each for each in _noted.get() if each() is not None), ref(session)))


def sessions() -> list[Any]:
    """Those that were made here, and are still held."""
    return [session for each in _noted.get() if (session := each()) is not None]


def is_logging_in() -> bool:
    """Whether Django's ``login()`` or ``alogin()`` is at work.

    It flushes the session of another user before it tells anybody of the login, so that only its
    frame on the stack says what the flush is for.
    """
    codes = {login.__code__, alogin.__code__}
    frame = currentframe()
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


def _forget(**kwargs: Any) -> None:
    # Under WSGI a thread has one context for all of its requests, and what a request has made may
    # live on in a cycle. Under ASGI each request has its own, and nothing of it outlives it.
    _noted.set(())


for _signal in (request_started, request_finished):
    _signal.connect(_forget, dispatch_uid="django_sessionstores.in_use")
