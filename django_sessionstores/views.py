"""Pages, and the same as JSON, with which users see and end their own sessions.

Each is a flow, which `sync_view` and `async_view` make a view of. `urls` and `async_urls` say at
which paths. A GET ends nothing, and what an answer shows is kept in no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

import msgspec
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.contrib.messages.storage.base import Message
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.csrf import CsrfViewMiddleware
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.utils.decorators import decorator_from_middleware
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.csrf import csrf_exempt, csrf_protect, ensure_csrf_cookie
from django.views.decorators.http import require_http_methods

from . import freshness, session
from .conf import settings
from .exceptions import CannotList, PartlyEnded
from .flow import Call, Flow, arun, run
from .lifetime import aware
from .session import SessionStore
from .users import RequestUser
from .your_sessions import (
    MOST_ENDED,
    YourSession,
    YourSessionList,
    YourSessions,
)

Answer = Flow[HttpResponse]
Handler = Callable[..., Answer]
View = Callable[..., Any]

_DESCRIPTION: Final = Path(__file__).with_name("openapi.json")


def _needs_recent_sign_in(request: HttpRequest) -> Flow[bool]:
    """Whether the user has to sign in again before a session is ended."""
    # Where it is not configured, nor for a session that knows no sign-in and can end none.
    if settings.RECENT_SIGN_IN_AGE is None or not isinstance(request.session, SessionStore):
        return False
    is_recent: bool = yield Call(freshness, "has_recent_sign_in", (request.session,))
    return not is_recent


# --- Views of flows ------------------------------------------------------------------------


def sync_view(handler: Handler, *methods: str, api: bool = False) -> View:
    """A view that answers these methods by a flow."""

    def view(request: HttpRequest, **captured: Any) -> HttpResponse:
        return run(handler(request, **captured))

    return _protected(view, methods, api)


def async_view(handler: Handler, *methods: str, api: bool = False) -> View:
    """The same for event loops."""

    async def view(request: HttpRequest, **captured: Any) -> HttpResponse:
        return await arun(handler(request, **captured))

    return _protected(view, methods, api)


def _protected(view: View, methods: tuple[str, ...], api: bool) -> View:
    view = require_http_methods(methods)(view)
    if not api:
        return csrf_protect(view)
    # Exempt from the site's middleware, whose refusal is a page, and checked here all the same.
    return csrf_exempt(ensure_csrf_cookie(_csrf_protect_api(view)))


class _ApiCsrf(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        super()._reject(request, reason)  # type: ignore[misc]  # Which logs it.
        response = _problem(403, "csrf_failed", _("The token against forged requests is missing."))
        add_never_cache_headers(response)
        return response


_csrf_protect_api: Final = decorator_from_middleware(_ApiCsrf)


def _for_users(
    not_signed_in: Callable[[HttpRequest], HttpResponse],
    cannot_list: Callable[[HttpRequest], HttpResponse],
) -> Callable[[Handler], Handler]:
    """For who is signed in, on an engine that has a list; what others are answered."""

    def decorator(handler: Handler) -> Handler:
        @wraps(handler)
        def wrapper(request: HttpRequest, **captured: Any) -> Answer:
            try:
                user = yield Call(RequestUser(request), "get", ())
                if user.is_authenticated:
                    response = yield from handler(request, **captured)
                else:
                    response = not_signed_in(request)
            except CannotList:
                response = cannot_list(request)
            add_never_cache_headers(response)
            return response

        return wrapper

    return decorator


# --- Pages ---------------------------------------------------------------------------------


def _to_sign_in(request: HttpRequest, url: str | None = None) -> HttpResponse:
    """To the login, and back here, where a GET asks for what a POST was about."""
    return redirect_to_login(request.get_full_path(), url)


def _cannot_list(request: HttpRequest) -> HttpResponse:
    return _render(request, "cannot_list")


_page: Final = _for_users(_to_sign_in, _cannot_list)


@_page
def list_page(request: HttpRequest, **captured: Any) -> Answer:
    """All sessions of the user."""
    return (yield from _list_page(request))


@_page
def end_page(request: HttpRequest, session_id: str, **captured: Any) -> Answer:
    """Ask whether to end a session; end it on a POST."""
    yours = YourSessions(request)
    if yours.is_current(session_id):
        text = _("This is the device that you are using. Sign out to end it.")
        return (yield from _list_page(request, [_warning(text)], 409))
    if (yield from _needs_recent_sign_in(request)):
        return _to_sign_in(request, freshness.sign_in_url())
    if request.method == "POST":
        if (yield Call(yours, "end", (session_id,))):
            return (yield from _after(request, _success(_("The device was signed out."))))
    else:
        found: YourSession | None = yield Call(yours, "get", (session_id,))
        if found:
            return _render(request, "end", session=found)
    # The same for what is somebody else's, which is nobody's business.
    text = _("There is no such device among yours, or it was signed out already.")
    return (yield from _list_page(request, [_warning(text)], 404))


@_page
def end_others_page(request: HttpRequest, **captured: Any) -> Answer:
    """Ask whether to end all sessions but the current one; end them on a POST."""
    if (yield from _needs_recent_sign_in(request)):
        return _to_sign_in(request, freshness.sign_in_url())
    yours = YourSessions(request)
    if request.method != "POST":
        found: YourSessionList = yield Call(yours, "list", ())
        return _render(request, "end_others", found=found)
    try:
        ended: int = yield Call(yours, "end_others", ())
    except PartlyEnded as error:
        text = _("Others may still be signed in: not all could be reached. Please try again.")
        notices = [_success(_ended(error.ended)), _warning(text)]
        # Here and now, as no other page could be read.
        return _render(request, "end_others", 503, messages=notices)
    if ended < MOST_ENDED:
        return (yield from _after(request, _success(_ended(ended))))
    text = _("There may be more: so many are signed out at a time. Please go on.")
    return (yield from _after(request, _success(_ended(ended)), _warning(text)))


def _list_page(request: HttpRequest, notices: Sequence[Message] = (), status: int = 200) -> Answer:
    found: YourSessionList = yield Call(YourSessions(request), "list", ())
    context = {"messages": notices} if notices else {}
    return _render(request, "list", status, found=found, **context)


def _after(request: HttpRequest, *notices: Message) -> Answer:
    """Tell what was done, on the page of the list."""
    if not hasattr(request, "_messages"):
        # The site does without Django's messages, so that nothing outlives this answer.
        return (yield from _list_page(request, notices))
    for each in notices:
        messages.add_message(request, each.level, each.message)
    return HttpResponseRedirect(_url(request, "list"))


def _success(text: str) -> Message:
    return Message(messages.SUCCESS, text)


def _warning(text: str) -> Message:
    return Message(messages.WARNING, text)


def _ended(number: int) -> str:
    if not number:
        return _("No other device was signed in.")
    text = ngettext(
        "%(number)s other device was signed out.",
        "%(number)s other devices were signed out.",
        number,
    )
    return text % {"number": number}


def _render(request: HttpRequest, page: str, status: int = 200, **context: Any) -> HttpResponse:
    return TemplateResponse(
        request,
        f"django_sessionstores/devices/{page}.html",
        {
            "page": page,
            "now": aware(session.now()),
            "list_url": _url(request, "list"),
            "end_others_url": _url(request, "end_others"),
            "messages": messages.get_messages(request),
            **context,
        },
        status=status,
    )


def _url(request: HttpRequest, name: str) -> str:
    """The address of another page, wherever a project has included them."""
    match = request.resolver_match
    assert match is not None  # noqa: S101
    captured = {key: value for key, value in match.kwargs.items() if key != "session_id"}
    return reverse(f"{match.namespace}:{name}", kwargs=captured)


# --- JSON ----------------------------------------------------------------------------------


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions a request has ended."""

    ended: int
    is_complete: bool
    """Whether these were all."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was refused."""

    code: str
    """For programs; the description of the interface has all of them."""
    detail: str
    """For people, in the language of the request."""
    sign_in_url: str | msgspec.UnsetType = msgspec.UNSET
    """Where to sign in again, if that is what it takes."""


def _api_not_signed_in(request: HttpRequest) -> HttpResponse:
    response = _problem(401, "not_signed_in", _("Please sign in."))
    response.headers["WWW-Authenticate"] = "Session"
    return response


def _api_cannot_list(request: HttpRequest) -> HttpResponse:
    return _problem(404, "cannot_list", _("This site keeps no list of sessions."))


_api: Final = _for_users(_api_not_signed_in, _api_cannot_list)


@_api
def api_list(request: HttpRequest, **captured: Any) -> Answer:
    """All sessions of the user."""
    return _json((yield Call(YourSessions(request), "list", ())))


@_api
def api_end(request: HttpRequest, session_id: str, **captured: Any) -> Answer:
    """End a session."""
    yours = YourSessions(request)
    if yours.is_current(session_id):
        return _problem(409, "is_current", _("This is the device that you are using."))
    if (yield from _needs_recent_sign_in(request)):
        return _sign_in_again()
    if (yield Call(yours, "end", (session_id,))):
        return _json(Ended(ended=1, is_complete=True))
    return _problem(404, "not_found", _("There is no such session, or it has ended already."))


@_api
def api_end_others(request: HttpRequest, **captured: Any) -> Answer:
    """End all sessions but the current one."""
    if (yield from _needs_recent_sign_in(request)):
        return _sign_in_again()
    try:
        ended: int = yield Call(YourSessions(request), "end_others", ())
    except PartlyEnded as error:
        return _json(Ended(ended=error.ended, is_complete=False), 503)
    return _json(Ended(ended=ended, is_complete=ended < MOST_ENDED))


def api_description() -> Handler:
    """What describes all of this, as OpenAPI. The file is read now, and not in an event loop."""
    content = _DESCRIPTION.read_bytes()

    def handler(request: HttpRequest, **captured: Any) -> Answer:
        return HttpResponse(content, content_type="application/json")
        yield  # A flow that asks for nothing.

    return handler


def _sign_in_again() -> HttpResponse:
    problem = Problem(
        code="recent_sign_in_required",
        detail=_("Please sign in again."),
        sign_in_url=freshness.sign_in_url(),
    )
    return _json(problem, 403)


def _problem(status: int, code: str, detail: str) -> HttpResponse:
    return _json(Problem(code=code, detail=detail), status)


def _json(content: msgspec.Struct, status: int = 200) -> HttpResponse:
    return HttpResponse(
        msgspec.json.encode(content), content_type="application/json", status=status
    )
