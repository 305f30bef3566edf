"""The guided path of the demo: two browsers side by side, a new key and an outage.

The second browser is a phone. Its session is a real one, whose key is in a cookie of its own, so
that one window shows what happens in both. Nothing here needs JavaScript.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from django.contrib.auth import authenticate, get_user, login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import path, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from django_sessionstores.core.records import Client, State
from django_sessionstores.devices import EndedSession, YourSessions, ended_session
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.sessions.state import RequestPolicy
from testproject.crowd import DEVICES
from testproject.setup import session_store, storage_by_id
from testproject.showcase import CONTENT_SECURITY_POLICY, session_of

USER: Final = "demo"
_COOKIE: Final = "demo_phone"
"""The cookie that stands for the session cookie of the phone."""
_AGENT: Final = next(each for each in DEVICES if "iPhone" in each)


class Phone(msgspec.Struct, frozen=True):
    """What the phone shows on the page that it has just loaded."""

    name: str
    """The username; empty if nobody is signed in there."""
    ended: EndedSession | None
    """Why its session has ended, if it has."""
    loaded: datetime


class Rotated(msgspec.Struct, frozen=True):
    """The ids of the session before and after it got another key."""

    before: str
    after: str
    is_tombstone: bool


@require_safe
def tour(request: HttpRequest) -> HttpResponse:
    """Show the steps, and what both browsers see."""
    account = get_user(request)
    ended = ended_session(request)
    storage = session_store().storage()
    response = render(
        request,
        "testproject/tour.html",
        {
            "account": account,
            "ended": ended,
            "phone": _phone(request),
            "rotated": _rotated(request),
            "lists": storage.lists,
            "user": USER,
        },
    )
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """Sign in as the user of the demo, whose password everybody knows."""
    login(request, authenticate(request, username=USER, password=USER))
    return _back("browsers")


@require_POST
def phone(request: HttpRequest) -> HttpResponse:
    """Sign in on the phone, or load another page there."""
    response = _back("browsers")
    if "again" not in request.POST:
        there = HttpRequest()
        there.META = {"HTTP_USER_AGENT": _AGENT, "REMOTE_ADDR": "198.51.100.7"}
        session: Any = session_store()()
        session.policy = RequestPolicy(client=lambda: Client("198.51.100.7", _AGENT))
        there.session = session
        login(there, authenticate(there, username=USER, password=USER))
        session.save()
        response.set_cookie(_COOKIE, session.session_key, httponly=True, samesite="Lax")
    return response


@require_POST
def end_others(request: HttpRequest) -> HttpResponse:
    """Sign out all other devices of the user."""
    if get_user(request).is_authenticated:
        YourSessions(request).end_others()
    return _back("browsers")


@require_POST
def rotate(request: HttpRequest) -> HttpResponse:
    """Give the session of this browser another key."""
    session = session_of(request)
    before = session.session_id if session.session_key else ""
    session.cycle_key()
    session["rotated"] = {"before": before, "after": session.session_id}
    return _back("third")


@require_safe
def outage(request: HttpRequest) -> HttpResponse:
    """Be a page that needs its session while the store does not answer."""
    raise StorageUnavailable("The demo pretends that the store does not answer.")


def _phone(request: HttpRequest) -> Phone | None:
    """Load a page on the phone. Returns ``None`` if it was not used yet."""
    key = request.COOKIES.get(_COOKIE)
    if not key:
        return None
    there = HttpRequest()
    there.session = session_store()(key)
    account = get_user(there)
    name = account.get_username() if account.is_authenticated else ""
    return Phone(name, ended_session(there), timezone.now())


def _rotated(request: HttpRequest) -> Rotated | None:
    known = request.session.get("rotated")
    if not known:
        return None
    previous = storage_by_id().read(known["before"]) if known["before"] else None
    is_tombstone = previous is not None and previous.state is not State.LIVE
    return Rotated(known["before"], known["after"], is_tombstone)


def _back(step: str) -> HttpResponse:
    return HttpResponseRedirect(f"{reverse('tour:page')}#{step}")


app_name = "tour"
urlpatterns = [
    path("", tour, name="page"),
    path("sign-in/", sign_in, name="sign_in"),
    path("phone/", phone, name="phone"),
    path("end-others/", end_others, name="end_others"),
    path("rotate/", rotate, name="rotate"),
    path("outage/", outage, name="outage"),
]
