"""Recent authentication: when the user of a session last signed in, and views that require a
recent login.

The time is in the session data, beside the values of Django's ``login()``, and is stored by the
same save: see `merge.AUTHENTICATED_AT`. A session without it, such as one from before the package
was installed, does not count as recent.

Each function has a twin for async code, with an ``a`` before its name.
"""

from __future__ import annotations

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

from ..conf import settings
from ..core import clock
from ..core.flow import Call, Flow, arun, in_event_loop, run
from ..core.lifetime import CLOCK_SKEW, utc_datetime
from ..payloads.merge import AUTHENTICATED_AT
from ..sessions import SessionStore
from .users import RequestUser

View = Callable[..., Any]
_APP: Final = "django_sessionstores"
_TYPES: Final = ("text/html", "application/json")
AGE_OF_VIEW: Final = "recent_authentication_age"
"""The attribute of a decorated view that holds the age that the decorator was given."""
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})


def connect() -> None:
    """Connect the receiver of Django's ``user_logged_in`` signal."""
    user_logged_in.connect(
        _after_login, dispatch_uid="django_sessionstores.accounts.recent_authentication"
    )


def authenticated_at(session: Any) -> datetime | None:
    """Return when the session's user last signed in, as an aware datetime in UTC.

    Returns ``None`` for an anonymous session, or if the time is not known.
    """
    return run(_authenticated_at(session))


async def aauthenticated_at(session: Any) -> datetime | None:
    """See `authenticated_at`."""
    return await arun(_authenticated_at(session))


def has_recent_authentication(session: Any, age: float | None = None) -> bool:
    """Return whether the session's user has signed in within the last ``age`` seconds.

    ``RECENT_AUTHENTICATION_AGE`` is the default. If that is ``None``, every login is recent. A
    login that is more than 5 minutes in the future, by the clock of this server, is not. Check
    ``request.user`` as well: only that tells whether the session is still valid, for example after
    a password change. Raises ``ValueError`` if ``age`` is not more than 0.
    """
    return run(is_recent(session, _limit(age)))


async def ahas_recent_authentication(session: Any, age: float | None = None) -> bool:
    """See `has_recent_authentication`."""
    return await arun(is_recent(session, _limit(age)))


def mark_authenticated(request: HttpRequest) -> None:
    """Record that the user has just authenticated again, with a password or a second factor.

    Call it only if you do not call ``login()``, which is noticed. As with a login, the session gets
    a new key, and ``ABSOLUTE_TIMEOUT`` starts again. Raises ``ValueError`` for an anonymous
    session.
    """
    run(_mark(_session_of(request)))


async def amark_authenticated(request: HttpRequest) -> None:
    """See `mark_authenticated`."""
    await arun(_mark(_session_of(request)))


@overload
def recent_authentication_required(view: View) -> View: ...
@overload
def recent_authentication_required(*, age: float | None = None) -> Callable[[View], View]: ...
def recent_authentication_required(view: View | None = None, *, age: float | None = None) -> Any:
    """Require that the user of a view has signed in within the last ``age`` seconds.

    Other users are redirected to the login page, which leads back to the view. Requests that ask
    for JSON get a response with status 403. ``RECENT_AUTHENTICATION_AGE`` is the default age. If
    that is ``None``, every authenticated user may use the view. The decorator works for sync and
    async views, and with ``method_decorator`` for methods of classes.
    """
    check_age(age)

    def decorate(view: View) -> View:
        decorated = guarded(view, lambda request: _refusal(request, age))
        setattr(decorated, AGE_OF_VIEW, age)  # A check finds the view by it.
        return decorated

    return decorate if view is None else decorate(view)


def guarded(view: View, refuse: Callable[[HttpRequest], Flow[HttpResponse | None]]) -> View:
    """Return a view that is called only if ``refuse`` returns no response for the request."""

    async def call_async(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        refusal = await arun(refuse(request))
        response = refusal or view(request, *args, **kwargs)
        return await response if isawaitable(response) else response

    def call_sync(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        # dispatch() of an async class is not a coroutine function, but its result is awaited.
        if in_event_loop():
            return call_async(request, *args, **kwargs)
        return run(refuse(request)) or view(request, *args, **kwargs)

    return wraps(view)(call_async if iscoroutinefunction(view) else call_sync)


# --- Times --------------------------------------------------------------------------------------


def _authenticated_at(session: Any) -> Flow[datetime | None]:
    moment = yield from _moment(session)
    return None if moment is None else utc_datetime(moment)


def is_recent(session: Any, age: float | None) -> Flow[bool]:
    if age is None:
        return (yield Call(session, "get", (SESSION_KEY,))) is not None
    moment = yield from _moment(session)
    if moment is None:
        return False
    passed = clock.now() - moment
    # A login by a server whose clock is ahead stays recent for longer by its lead, so the lead is
    # limited.
    return -CLOCK_SKEW <= passed <= age * 1000


def _moment(session: Any) -> Flow[int | None]:
    """Return when the user last signed in, in milliseconds since the epoch; ``None`` if unknown."""
    if (yield Call(session, "get", (SESSION_KEY,))) is None:
        return None
    moment = yield Call(session, "get", (AUTHENTICATED_AT,))
    return moment if isinstance(moment, int) else None


def _limit(age: float | None) -> float | None:
    check_age(age)
    return settings.RECENT_AUTHENTICATION_AGE if age is None else age


def check_age(age: float | None) -> None:
    """Raise ``ValueError`` if ``age`` is not a number of seconds that a login can be recent for."""
    if age is not None and not age > 0:
        raise ValueError(f"age is {age}; it must be more than 0 seconds.")


# --- Marking ------------------------------------------------------------------------------------


def _after_login(request: HttpRequest | None, user: Any, **kwargs: Any) -> None:
    # This receiver is sync, as Django's own is: alogin() calls both in one thread. The login has
    # loaded the session already, so nothing here waits for the store.
    session = getattr(request, "session", None)
    # The signal is also sent for logins that do not change the session, such as with a token.
    if isinstance(session, SessionStore) and session.get(
        SESSION_KEY
    ) == user._meta.pk.value_to_string(user):
        run(_store_time(session, is_login=True))


def _mark(session: SessionStore) -> Flow[None]:
    if (yield Call(session, "get", (SESSION_KEY,))) is None:
        raise ValueError("The session is anonymous; it needs an authenticated user.")
    yield from _store_time(session, is_login=False)


def _store_time(session: SessionStore, *, is_login: bool) -> Flow[None]:
    yield Call(session, "update", ({AUTHENTICATED_AT: clock.now()},))
    if not session.has_new_key:
        # Django keeps the key if the same user logs in again. An attacker who has that key must not
        # profit from the recent login. No other request can undo this rotation, so one write is
        # enough.
        yield Call(session, "rotate_later", (), {"is_login": is_login})


def _session_of(request: HttpRequest) -> SessionStore:
    session = request.session
    if not isinstance(session, SessionStore):
        raise ImproperlyConfigured(
            f"Only sessions of django_sessionstores know when their user has logged in, and "
            f"SESSION_ENGINE is {django_settings.SESSION_ENGINE!r}. Set it to an engine of the "
            "package, or do not ask for a recent login."
        )
    return session


# --- Refusing -----------------------------------------------------------------------------------


def _refusal(request: HttpRequest, age: float | None) -> Flow[HttpResponse | None]:
    """Return the response for a user who may not use the view; ``None`` if the user may."""
    age = _limit(age)
    if age is not None:
        require_times(request)
    # The session alone is not enough: after a password change, its user is anonymous to Django.
    user = yield Call(RequestUser(request), "get", ())
    if user.is_authenticated and (yield from is_recent(request.session, age)):
        return None
    return ask_to_sign_in(request, user)


def require_times(request: HttpRequest) -> None:
    """Raise ``ImproperlyConfigured`` if it is not known when users of this site have logged in."""
    _session_of(request)
    if not apps.is_installed(_APP):
        raise ImproperlyConfigured(
            f"{_APP} is not in INSTALLED_APPS, so logins are not noticed and never count as "
            "recent. Add it."
        )


def ask_to_sign_in(request: HttpRequest, user: Any) -> HttpResponse:
    """Return the response that leads a user to the login page, and back to this page."""
    url = sign_in_url() if user.is_authenticated else resolve_url(django_settings.LOGIN_URL)
    url = _with_return_url(request, url)
    response: HttpResponse
    if _asks_for_json(request):
        detail = gettext("Sign in again to continue.")
        response = JsonResponse({"detail": detail, "sign_in_url": url}, status=403)
    else:
        response = HttpResponseRedirect(url)
    patch_vary_headers(response, ["Accept"])
    return response


def sign_in_url() -> str:
    """Return the URL of the page on which a user who is signed in signs in again."""
    return resolve_url(settings.RECENT_AUTHENTICATION_URL or django_settings.LOGIN_URL)


def _with_return_url(request: HttpRequest, url: str) -> str:
    """Return the URL with the page to return to after the login, if that is on this site."""
    asks_for_page = request.method in _SAFE_METHODS and not _asks_for_json(request)
    # The data of a POST cannot be sent again, but the page with its form can be shown again.
    back = request.build_absolute_uri() if asks_for_page else request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, request.is_secure()):
        return url
    if urlsplit(request.build_absolute_uri(url))[:2] == urlsplit(back)[:2]:
        back = urlsplit(back)._replace(scheme="", netloc="", fragment="").geturl()
    return f"{url}{'&' if '?' in url else '?'}{urlencode({REDIRECT_FIELD_NAME: back})}"


def _asks_for_json(request: HttpRequest) -> bool:
    return request.get_preferred_type(_TYPES) == "application/json"
