"""A browser: it keeps cookies, and receives responses in the order that a case wants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import Morsel
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.conf import settings
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.urls import get_urlconf, set_urlconf

if TYPE_CHECKING:
    from .backend import Backend

View = Callable[[Any], object]

COOKIE_LIMIT: Final = 4096
"""The bytes of name and value of a cookie, above which browsers drop it."""


@dataclass
class Answer:
    """The response to a request, before the browser receives it."""

    status: int
    cookies: dict[str, Morsel[str]] = field(default_factory=dict)

    @property
    def session_cookie(self) -> str | None:
        """The session cookie: empty if the response deletes it, None if it does not set one."""
        morsel = self.cookies.get(settings.SESSION_COOKIE_NAME)
        if morsel is None:
            return None
        return "" if _deletes(morsel) else morsel.value


def without_private(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return session data without what Django and other packages add to it.

    Such names begin with an underscore, as those of the login do.
    """
    return {name: value for name, value in items if not name.startswith("_")}


class Browser:
    """A browser of a visitor."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.cookies: dict[str, str] = {}
        self.keys: list[str] = []
        """All session keys that responses have set."""
        self.sessions: list[Any] = []
        """All session objects of requests: a response may not have set their keys."""

    @property
    def key(self) -> str | None:
        """The session key in the browser."""
        return self.cookies.get(settings.SESSION_COOKIE_NAME)

    def visit(self, view: View, status: int = 200) -> Answer:
        """Send a request and receive its response."""
        answer = self.send(view, status)
        self.receive(answer)
        return answer

    def send(self, view: View, status: int = 200, cookies: dict[str, str] | None = None) -> Answer:
        """Send a request; return its response, which the browser has not received yet.

        ``view`` is called with the request. ``cookies`` are those that the browser had when the
        request left it, if they have changed since.
        """

        def answer(request: HttpRequest) -> HttpResponse:
            self.sessions.append(request.session)
            view(request)
            self.sessions.append(request.session)
            return HttpResponse(status=status)

        stack = self._backend.middleware(_with_users(answer))
        request = RequestFactory().get("/")
        request.COOKIES.update(self.cookies if cookies is None else cookies)
        try:
            with _in_request(request):
                response: Any = stack(request)
        except (BadRequest, SuspiciousOperation):
            return Answer(400)  # What Django's handler makes of them.
        made = Answer(response.status_code, dict(response.cookies))
        if made.session_cookie:
            self.keys.append(made.session_cookie)
        return made

    def receive(self, answer: Answer) -> None:
        """Set and delete cookies as a response says."""
        for name, morsel in answer.cookies.items():
            if _deletes(morsel):
                self.cookies.pop(name, None)
            elif len(name) + len(morsel.value) <= COOKIE_LIMIT:
                self.cookies[name] = morsel.value

    def read(self) -> dict[str, Any]:
        """Return the data of the session that the browser's cookie leads to."""
        seen: dict[str, Any] = {}
        self.receive(self.send(lambda request: seen.update(request.session.items())))
        return without_private(seen.items())

    def user_id(self) -> Any:
        """Return the primary key of the user who is signed in, or None."""
        seen: list[Any] = []
        self.receive(self.send(lambda request: seen.append(request.user.pk)))
        return seen[0] if seen else None


@contextmanager
def _in_request(request: HttpRequest) -> Iterator[None]:
    """Do what Django's handlers do around the middleware: they set a urlconf and send signals.

    Like Django's test client, this keeps the connections: they may be those of an outer request.
    """
    outer_urlconf = get_urlconf()
    closers = [
        signal
        for signal in (request_started, request_finished)
        if signal.disconnect(close_old_connections)
    ]
    try:
        request_started.send(sender=Browser, environ=request.META)
        set_urlconf(settings.ROOT_URLCONF)
        try:
            yield
        finally:
            request_finished.send(sender=Browser)
    finally:
        set_urlconf(outer_urlconf)
        for signal in closers:
            signal.connect(close_old_connections)


def _with_users(view: Callable[[HttpRequest], HttpResponse]) -> Any:
    if not apps.is_installed("django.contrib.auth"):
        return view
    # Its models can only be imported if the app is installed.
    from django.contrib.auth.middleware import AuthenticationMiddleware

    return AuthenticationMiddleware(view)


def _deletes(morsel: Morsel[str]) -> bool:
    return morsel["max-age"] == 0 or not morsel.value
