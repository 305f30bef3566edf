"""Pages and a JSON API on which users see and end their own sessions.

Each handler is a flow, and `sync_view` and `async_view` turn it into a view. `urls` and
`async_urls` have the paths. A GET request ends no session, and caches must not store the responses.
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

from ..accounts import recent_authentication
from ..accounts.users import RequestUser
from ..conf import settings
from ..core import clock
from ..core.flow import Call, Flow, arun, run
from ..core.lifetime import utc_datetime
from ..exceptions import CannotList, PartlyEnded
from ..inventory import Total
from ..middleware.installed import has_package_middleware, records_reads
from ..sessions import SessionStore
from .sessions import YourSession, YourSessionPage, YourSessions

ResponseFlow = Flow[HttpResponse]
Handler = Callable[..., ResponseFlow]
View = Callable[..., Any]

_DESCRIPTION: Final = Path(__file__).with_name("openapi.json")


def _needs_recent_authentication(request: HttpRequest) -> Flow[bool]:
    """Return whether the user must log in again before a session is ended."""
    # Not if the setting is unset. Nor with a session of another engine, which has no time of its
    # login, and whose sessions cannot be ended here anyway.
    if settings.RECENT_AUTHENTICATION_AGE is None or not isinstance(request.session, SessionStore):
        return False
    is_recent: bool = yield Call(
        recent_authentication, "has_recent_authentication", (request.session,)
    )
    return not is_recent


# --- Views of flows ------------------------------------------------------------------------


def sync_view(handler: Handler, *methods: str, api: bool = False) -> View:
    """Return a sync view that runs a handler for these HTTP methods.

    ``api`` says that the responses are JSON, also if CSRF protection refuses the request.
    """

    def view(request: HttpRequest, **captured: Any) -> HttpResponse:
        return run(handler(request, **captured))

    return _protect(view, methods, api)


def async_view(handler: Handler, *methods: str, api: bool = False) -> View:
    """Return an async view; see `sync_view`."""

    async def view(request: HttpRequest, **captured: Any) -> HttpResponse:
        return await arun(handler(request, **captured))

    return _protect(view, methods, api)


def _protect(view: View, methods: tuple[str, ...], api: bool) -> View:
    view = require_http_methods(methods)(view)
    if not api:
        return csrf_protect(view)
    # The site's middleware would refuse with a page. So the view is exempt from it, and is
    # protected here, with refusals as JSON.
    return csrf_exempt(ensure_csrf_cookie(_csrf_protect_api(view)))


class _ApiCsrf(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        super()._reject(request, reason)  # type: ignore[misc]  # This logs it.
        response = _problem(403, "csrf_failed", _("The token against forged requests is missing."))
        add_never_cache_headers(response)
        return response


_csrf_protect_api: Final = decorator_from_middleware(_ApiCsrf)


def _require_user(
    not_signed_in: Callable[[HttpRequest], HttpResponse],
    cannot_list: Callable[[HttpRequest], HttpResponse],
) -> Callable[[Handler], Handler]:
    """Return a decorator for handlers that need an authenticated user and a list of sessions.

    The arguments return the response for an anonymous user, and for an engine without a list.
    """

    def decorator(handler: Handler) -> Handler:
        @wraps(handler)
        def wrapper(request: HttpRequest, **captured: Any) -> ResponseFlow:
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


def _redirect_to_login(request: HttpRequest, url: str | None = None) -> HttpResponse:
    """Redirect to the login page, which leads back to this path. A GET then asks again."""
    return redirect_to_login(request.get_full_path(), url)


def _cannot_list(request: HttpRequest) -> HttpResponse:
    return _render(request, "cannot_list")


_page: Final = _require_user(_redirect_to_login, _cannot_list)


@_page
def list_page(request: HttpRequest, **captured: Any) -> ResponseFlow:
    """Show all sessions of the user."""
    return (yield from _list_page(request))


@_page
def end_page(request: HttpRequest, session_id: str, **captured: Any) -> ResponseFlow:
    """Ask whether to end a session; end it on a POST."""
    yours = YourSessions(request)
    if yours.is_current(session_id):
        text = _("This is the device that you are using. Sign out to end it.")
        return (yield from _list_page(request, [_warning(text)], 409))
    if (yield from _needs_recent_authentication(request)):
        return _redirect_to_login(request, recent_authentication.sign_in_url())
    if request.method == "POST":
        if (yield Call(yours, "end", (session_id,))):
            return (yield from _show_result(request, _success(_("The device was signed out."))))
    else:
        found: YourSession | None = yield Call(yours, "get", (session_id,))
        if found:
            return _render(request, "end", session=found)
    # The response is the same for a session of another user, whose existence is not revealed.
    text = _("This is not one of your devices, or it was signed out already.")
    return (yield from _list_page(request, [_warning(text)], 404))


@_page
def end_others_page(request: HttpRequest, **captured: Any) -> ResponseFlow:
    """Ask whether to end all sessions except the current one; end them on a POST."""
    if (yield from _needs_recent_authentication(request)):
        return _redirect_to_login(request, recent_authentication.sign_in_url())
    yours = YourSessions(request)
    if request.method != "POST":
        found: YourSessionPage = yield Call(yours, "page", ())
        return _render(request, "end_others", found=found)
    try:
        ended: Total = yield Call(yours, "end_others", ())
    except PartlyEnded as error:
        text = _("Others may still be signed in: not all could be reached. Please try again.")
        notices = [_success(_count_text(error.ended)), _warning(text)]
        # Shown in this response, because the store could not serve another page.
        return _render(request, "end_others", 503, messages=notices)
    if ended.is_complete:
        return (yield from _show_result(request, _success(_count_text(ended))))
    text = _("There may be more, because only so many are signed out at a time. Please continue.")
    notices = [_success(_count_text(ended)), _warning(text)]
    return _render(request, "end_others", messages=notices)  # With the button to continue.


def _list_page(
    request: HttpRequest, notices: Sequence[Message] = (), status: int = 200
) -> ResponseFlow:
    found: YourSessionPage = yield Call(YourSessions(request), "page", (_page_number(request),))
    context = {"messages": notices} if notices else {}
    return _render(request, "list", status, found=found, **context)


def _show_result(request: HttpRequest, *notices: Message) -> ResponseFlow:
    """Return to the list of sessions with messages about what was done."""
    if not hasattr(request, "_messages"):
        # Without Django's messages framework, only this response can show them.
        return (yield from _list_page(request, notices))
    for each in notices:
        messages.add_message(request, each.level, each.message)
    return HttpResponseRedirect(_list_url(request))


def _success(text: str) -> Message:
    return Message(messages.SUCCESS, text)


def _warning(text: str) -> Message:
    return Message(messages.WARNING, text)


def _count_text(number: int) -> str:
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
            "now": utc_datetime(clock.now()),
            "list_url": _url(request, "list"),
            "back_url": _list_url(request),
            "end_others_url": _url(request, "end_others"),
            "messages": messages.get_messages(request),
            "records_reads": records_reads(),
            "records_clients": has_package_middleware(),
            **context,
        },
        status=status,
    )


def _page_number(request: HttpRequest) -> int:
    given = request.GET.get("page", "")
    return int(given) if given.isdecimal() and len(given) < 10 else 1


def _list_url(request: HttpRequest) -> str:
    """Return the URL of the page of the list that the user comes from."""
    number = _page_number(request)
    return _url(request, "list") + (f"?page={number}" if number > 1 else "")


def _url(request: HttpRequest, name: str) -> str:
    """Return the URL of another page, under the path at which the project has included them."""
    match = request.resolver_match
    assert match is not None  # noqa: S101
    captured = {key: value for key, value in match.kwargs.items() if key != "session_id"}
    return reverse(f"{match.namespace}:{name}", kwargs=captured)


# --- JSON ----------------------------------------------------------------------------------


class EndResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions a request has ended."""

    ended: int
    is_complete: bool
    """Whether these were all other sessions of the user."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a request was refused."""

    code: str
    """A code for programs. The OpenAPI description lists all of them."""
    detail: str
    """An explanation for people, in the language of the request."""
    sign_in_url: str | msgspec.UnsetType = msgspec.UNSET
    """The URL at which to log in again, if that is required."""


def _api_not_signed_in(request: HttpRequest) -> HttpResponse:
    response = _problem(401, "not_signed_in", _("Please sign in."))
    response.headers["WWW-Authenticate"] = "Session"
    return response


def _api_cannot_list(request: HttpRequest) -> HttpResponse:
    return _problem(404, "cannot_list", _("This site keeps no list of sessions."))


_api: Final = _require_user(_api_not_signed_in, _api_cannot_list)


@_api
def api_list(request: HttpRequest, **captured: Any) -> ResponseFlow:
    """Return all sessions of the user."""
    return _json((yield Call(YourSessions(request), "list", ())))


@_api
def api_end(request: HttpRequest, session_id: str, **captured: Any) -> ResponseFlow:
    """End a session of the user."""
    yours = YourSessions(request)
    if yours.is_current(session_id):
        return _problem(409, "is_current", _("This is the device that you are using."))
    if (yield from _needs_recent_authentication(request)):
        return _require_new_login()
    if (yield Call(yours, "end", (session_id,))):
        return _json(EndResult(ended=1, is_complete=True))
    return _problem(404, "not_found", _("There is no such session, or it has ended already."))


@_api
def api_end_others(request: HttpRequest, **captured: Any) -> ResponseFlow:
    """End all sessions of the user except the current one."""
    if (yield from _needs_recent_authentication(request)):
        return _require_new_login()
    try:
        ended: Total = yield Call(YourSessions(request), "end_others", ())
    except PartlyEnded as error:
        return _json(EndResult(ended=error.ended, is_complete=False), 503)
    return _json(EndResult(ended=int(ended), is_complete=ended.is_complete))


def api_description() -> Handler:
    """Return a handler that returns the OpenAPI description of this API.

    The file is read now, not in an event loop.
    """
    content = _DESCRIPTION.read_bytes()

    def handler(request: HttpRequest, **captured: Any) -> ResponseFlow:
        return HttpResponse(content, content_type="application/json")
        yield  # Makes the function a flow, although it calls nothing.

    return handler


def _require_new_login() -> HttpResponse:
    problem = Problem(
        code="recent_authentication_required",
        detail=_("Please sign in again."),
        sign_in_url=recent_authentication.sign_in_url(),
    )
    return _json(problem, 403)


def _problem(status: int, code: str, detail: str) -> HttpResponse:
    return _json(Problem(code=code, detail=detail), status)


def _json(content: msgspec.Struct, status: int = 200) -> HttpResponse:
    return HttpResponse(
        msgspec.json.encode(content), content_type="application/json", status=status
    )
