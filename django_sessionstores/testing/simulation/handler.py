"""Handling the requests of the simulated site, as Django's handler does on a real one."""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, Final

from django.contrib.sessions import middleware as django_middleware
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.signals import got_request_exception
from django.http import Http404, HttpRequest, HttpResponse

from . import internals
from .history import Request
from .internals import SessionMiddleware
from .operations import View
from .scheduler import Killed, drive
from .views import operation

if TYPE_CHECKING:
    from .world import World

_STATUSES: Final[dict[type[Exception], int]] = {
    Http404: 404,
    PermissionDenied: 403,
    SuspiciousOperation: 400,
    BadRequest: 400,
}
"""The statuses that Django's handler gives to errors; any other error gets 500."""


def operate(world: World, request: Request) -> None:
    """Make the call of an operator, and note its outcome in the request."""
    view = View(world, request, None)
    try:
        if world.config.driver == "async":
            drive(operation(request.operation).arun(view))
        else:
            operation(request.operation).run(view)
        request.status = 200
    except (Killed, CancelledError):
        request.was_killed = True
    except Exception as error:  # noqa: BLE001 - judged by the model
        request.error = error


def serve(world: World, request: Request) -> None:
    """Serve the request of a browser, and note the response in the request."""
    try:
        with internals.handled_request():
            response = respond(world, request)
    except (Killed, CancelledError):
        request.was_killed = True
    else:
        request.status = response.status_code
        morsel = response.cookies.get("sessionid")
        if morsel is not None:
            is_deleted = morsel["max-age"] == 0
            request.cookie = "" if is_deleted else morsel.value


def respond(world: World, request: Request) -> HttpResponse:
    """Return the response of the middleware and the view to a request."""
    http = HttpRequest()
    http.method, http.path = "GET", "/"
    http.META = {"REMOTE_ADDR": "192.0.2.1", "HTTP_USER_AGENT": request.who}
    if request.key is not None:
        http.COOKIES["sessionid"] = request.key
    view = View(world, request, http)
    is_own = world.config.middleware == "own"
    kind: Any = SessionMiddleware if is_own else django_middleware.SessionMiddleware
    middleware: Any
    try:
        if world.config.driver == "async":

            async def aview(http: HttpRequest) -> HttpResponse:
                try:
                    return await operation(request.operation).arun(view)
                except Exception as error:  # noqa: BLE001 - as Django's handler does
                    return _answer_to(error, world, request, http, middleware)

            middleware = kind(aview)
            response: HttpResponse = drive(middleware(http))
        else:

            def plain_view(http: HttpRequest) -> HttpResponse:
                try:
                    return operation(request.operation).run(view)
                except Exception as error:  # noqa: BLE001 - as Django's handler does
                    return _answer_to(error, world, request, http, middleware)

            middleware = kind(plain_view)
            response = middleware(http)
    except Exception as error:  # noqa: BLE001 - as Django's handler does
        response = _answer_to(error, world, request, http, None)
    return response


def _answer_to(
    error: Exception, world: World, request: Request, http: HttpRequest, middleware: Any
) -> HttpResponse:
    """Return the response to an error of a view or, without a middleware, of the middleware."""
    request.error = error
    if middleware is not None and hasattr(middleware, "process_exception"):
        answer: HttpResponse | None = middleware.process_exception(HttpRequest(), error)
        if answer is not None:
            return answer
    status = next((n for kind, n in _STATUSES.items() if isinstance(error, kind)), 500)
    if status == 500:
        got_request_exception.send(type(world), request=http)
    return HttpResponse(status=status)
