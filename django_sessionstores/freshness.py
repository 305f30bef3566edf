"""How long ago a session's user has signed in, and views that ask for a recent sign-in.

The moment is in the session's data, beside what Django's ``login()`` puts there, and is stored by
the same save: see `merge.AUTHENTICATED_AT`. A session without it, as from before it was kept,
counts as not recent.

Each function has a twin for async code, with an ``a`` before its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from inspect import isawaitable
from typing import Any, Final, overload
from urllib.parse import urlencode, urlsplit

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth import REDIRECT_FIELD_NAME, SESSION_KEY
from django.contrib.auth.signals import user_logged_in
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import resolve_url
from django.utils.cache import patch_vary_headers
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext

from . import session as session_module
from .conf import settings
from .flow import Call, Flow, arun, run
from .lifetime import aware
from .merge import AUTHENTICATED_AT
from .session import SessionStore
from .users import RequestUser

View = Callable[..., Any]
_APP: Final = "django_sessionstores"
_TYPES: Final = ("text/html", "application/json")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})


def connect() -> None:
    """Listen to logins."""
    user_logged_in.connect(_after_login, dispatch_uid="django_sessionstores.freshness")


def authenticated_at(session: Any) -> datetime | None:
    """When the session's user last signed in, aware and in UTC.

    ``None`` where nobody is signed in, or it is not known.
    """
    return run(_authenticated_at(session))


async def aauthenticated_at(session: Any) -> datetime | None:
    """See `authenticated_at`."""
    return await arun(_authenticated_at(session))


def has_recent_sign_in(session: Any, age: float | None = None) -> bool:
    """Whether the session's user has signed in within ``age`` seconds.

    ``RECENT_SIGN_IN_AGE`` is the default. Where that is ``None``, any sign-in is recent. Only
    ``request.user`` tells whether the user may still use the session, as after a new password.
    """
    return run(_has_recent_sign_in(session, _limit(age)))


async def ahas_recent_sign_in(session: Any, age: float | None = None) -> bool:
    """See `has_recent_sign_in`."""
    return await arun(_has_recent_sign_in(session, _limit(age)))


def mark_authenticated(request: HttpRequest) -> None:
    """Say that the user has proved who they are, by a password or a second factor.

    Only for a proof that is no login: ``login()`` is noticed. As with a login the session gets a
    new key, and ``ABSOLUTE_AGE`` starts anew. Raises ``ValueError`` where nobody is signed in.
    """
    run(_mark(_session_of(request)))


async def amark_authenticated(request: HttpRequest) -> None:
    """See `mark_authenticated`."""
    await arun(_mark(_session_of(request)))


@overload
def recent_sign_in_required(view: View) -> View: ...
@overload
def recent_sign_in_required(*, age: float | None = None) -> Callable[[View], View]: ...
def recent_sign_in_required(view: View | None = None, *, age: float | None = None) -> Any:
    """Let only those use a view who have signed in within ``age`` seconds.

    Others are sent to sign in again, with the way back, or get 403 where they ask for JSON.
    ``RECENT_SIGN_IN_AGE`` is the default age. Where that is ``None``, whoever is signed in passes.
    For sync and async views, and with ``method_decorator`` for methods of classes.
    """
    _check(age)

    def decorate(view: View) -> View:
        async def awaited(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            refusal = await arun(_refusal(request, age))
            response = refusal or view(request, *args, **kwargs)
            return await response if isawaitable(response) else response

        def called(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            # dispatch() of an async class is no coroutine function, but is called to be awaited.
            if _in_event_loop():
                return awaited(request, *args, **kwargs)
            return run(_refusal(request, age)) or view(request, *args, **kwargs)

        return wraps(view)(awaited if iscoroutinefunction(view) else called)

    return decorate if view is None else decorate(view)


# --- Times --------------------------------------------------------------------------------------


def _authenticated_at(session: Any) -> Flow[datetime | None]:
    moment = yield from _moment(session)
    return None if moment is None else aware(moment)


def _has_recent_sign_in(session: Any, age: float | None) -> Flow[bool]:
    if age is None:
        return (yield Call(session, "get", (SESSION_KEY,))) is not None
    moment = yield from _moment(session)
    return moment is not None and session_module.now() - moment <= age * 1000


def _moment(session: Any) -> Flow[int | None]:
    """The same in milliseconds since the epoch."""
    if (yield Call(session, "get", (SESSION_KEY,))) is None:
        return None
    moment = yield Call(session, "get", (AUTHENTICATED_AT,))
    return moment if isinstance(moment, int) else None


def _limit(age: float | None) -> float | None:
    _check(age)
    return settings.RECENT_SIGN_IN_AGE if age is None else age


def _check(age: float | None) -> None:
    if age is not None and not age > 0:
        raise ValueError(f"age is {age}; it must be more than 0 seconds.")


# --- Marking ------------------------------------------------------------------------------------


def _after_login(request: HttpRequest | None, user: Any, **kwargs: Any) -> None:
    # Sync, as Django's own receiver is: alogin() sends both to one thread. The login has read the
    # session, so that nothing here waits.
    session = getattr(request, "session", None)
    # The signal is also sent for logins that leave the session alone, as with a token.
    if isinstance(session, SessionStore) and session.get(
        SESSION_KEY
    ) == user._meta.pk.value_to_string(user):
        run(_mark(session))


def _mark(session: SessionStore) -> Flow[None]:
    if (yield Call(session, "get", (SESSION_KEY,))) is None:
        raise ValueError("Nobody is signed in to this session.")
    if not session.has_new_key:
        # Django keeps the key where the same user logs in again. Whoever else has it must not come
        # by what a recent sign-in allows.
        yield Call(session, "cycle_key", ())
    yield Call(session, "update", ({AUTHENTICATED_AT: session_module.now()},))


def _session_of(request: HttpRequest) -> SessionStore:
    session = request.session
    if not isinstance(session, SessionStore):
        raise ImproperlyConfigured(
            f"Only sessions of django_sessionstores know when their user has signed in, and "
            f"SESSION_ENGINE is {django_settings.SESSION_ENGINE!r}."
        )
    return session


# --- Refusing -----------------------------------------------------------------------------------


def _refusal(request: HttpRequest, age: float | None) -> Flow[HttpResponse | None]:
    """The answer for who may not use the view; ``None`` for who may."""
    age = _limit(age)
    if age is not None:
        _session_of(request)
        if not apps.is_installed(_APP):
            raise ImproperlyConfigured(
                f"{_APP} is not in INSTALLED_APPS, so no login is noticed, and nobody has signed "
                "in recently. Add it."
            )
    # Not the session alone: Django takes users out of it whose password has changed.
    user = yield Call(RequestUser(request), "get", ())
    if user.is_authenticated and (yield from _has_recent_sign_in(request.session, age)):
        return None
    url = sign_in_url() if user.is_authenticated else resolve_url(django_settings.LOGIN_URL)
    url = _with_way_back(request, url)
    response: HttpResponse
    if _asks_for_json(request):
        detail = gettext("Sign in again to go on.")
        response = JsonResponse({"detail": detail, "sign_in_url": url}, status=403)
    else:
        response = HttpResponseRedirect(url)
    patch_vary_headers(response, ["Accept"])
    return response


def sign_in_url() -> str:
    """Where somebody who is signed in signs in again."""
    return resolve_url(settings.RECENT_SIGN_IN_URL or django_settings.LOGIN_URL)


def _with_way_back(request: HttpRequest, url: str) -> str:
    """The URL with where to go after signing in, if there is such a place on this site."""
    asks_for_page = request.method in _SAFE_METHODS and not _asks_for_json(request)
    # What was sent cannot be sent again. The page with the form can be shown again.
    back = request.build_absolute_uri() if asks_for_page else request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure()):
        return url
    if urlsplit(request.build_absolute_uri(url))[:2] == urlsplit(back)[:2]:
        back = urlsplit(back)._replace(scheme="", netloc="", fragment="").geturl()
    return f"{url}{'&' if '?' in url else '?'}{urlencode({REDIRECT_FIELD_NAME: back})}"


def _asks_for_json(request: HttpRequest) -> bool:
    return request.get_preferred_type(_TYPES) == "application/json"


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
