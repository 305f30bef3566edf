"""A replacement for Django's ``SessionMiddleware``, for features that need a middleware.

It decides as Django's middleware does when a session is saved and which cookie and headers are
sent, but in steps that can be awaited. The code follows Django 5.2, 6.0 and 6.1. A test compares
the responses of both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

from django.conf import settings as django_settings
from django.contrib.sessions import middleware as django_middleware
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers
from msgspec.structs import replace

from ..binding.headers import SKIPPED
from ..core.flow import Call, Flow, arun, run
from ..core.records import as_secret
from ..exceptions import StorageUnavailable
from ..sessions import SessionStore, refusals, request_sessions
from ..sessions.device_proof import reason_to_skip
from ..watching.asgi import note_request
from .caching import keep_out_of_caches
from .cookies import complete_cookies, delete_cookie, join_parts, send_cookie
from .device_binding import ask_to_bind, hide_proofs
from .outages import OutagePage, OutageResponse, outage_of
from .policy import give_policy


class SessionMiddleware(django_middleware.SessionMiddleware):
    """Django's ``SessionMiddleware`` with these differences:

    * Under ASGI it uses no thread and saves the session with ``asave()``.
    * During an outage of the store the response has status 503, or is as ``ON_OUTAGE`` says.
    * A cookie that is too long for a browser is split into several cookies.
    * The session records the client's IP address and user agent.
    * Requests that only read the session count as activity, see ``ACTIVITY_INTERVAL``.
    * Caches do not store a response that sets or deletes the cookie.
    * The cookie is sent again only when the stored expiry has moved or ``set_expiry()`` was called.
    * The cookie is ``Partitioned`` if ``COOKIE_PARTITIONED`` is set.
    * Browsers are asked to bind a session to their device if ``DEVICE_BINDING`` is set.
    """

    splits_cookies: ClassVar[bool] = True
    """Whether session keys may be longer than one cookie."""

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        super().__init__(get_response)
        self._outage_page = OutagePage()
        if issubclass(self.SessionStore, SessionStore):
            # The storage is made now, because that may read the disk, which would block an event
            # loop during a request.
            self.SessionStore.storage()

    def __call__(self, request: HttpRequest) -> Any:
        if self.async_mode:
            return self.__acall__(request)
        # Not one flow, because a subclass may override process_response().
        return self.process_response(request, run(self._answer(request)))

    async def __acall__(self, request: HttpRequest) -> HttpResponse:
        response = await arun(self._answer(request))
        return await arun(self._finish(request, response))

    def process_request(self, request: HttpRequest) -> None:
        """Make the session from its cookie, which may be in several parts. Ask no store."""
        join_parts(request)
        hide_proofs(request)
        super().process_request(request)
        give_policy(request)
        note_request(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Return the response for an outage that a view has met; otherwise ``None``."""
        if isinstance(exception, StorageUnavailable):
            return self._outage_page.response(request, exception)
        return None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Save the session and send its cookie, as Django decides."""
        return run(self._finish(request, response))

    # Django's `get_response`, as a sync and an async method for a flow to call.

    def respond(self, request: HttpRequest) -> HttpResponse:
        """Return the response of the inner middlewares and the view."""
        return cast("HttpResponse", self.get_response(request))

    async def arespond(self, request: HttpRequest) -> HttpResponse:
        """See `respond`."""
        return await cast("Awaitable[HttpResponse]", self.get_response(request))

    def _answer(self, request: HttpRequest) -> Flow[HttpResponse]:
        """Return the response of the view, or that of an outage that it has met."""
        self.process_request(request)
        try:
            response: HttpResponse = yield Call(self, "respond", (request,))
        except StorageUnavailable as outage:
            # Django's handlers raise exceptions only if DEBUG_PROPAGATE_EXCEPTIONS is set.
            response = self._outage_page.response(request, outage)
        return response

    def _finish(self, request: HttpRequest, response: HttpResponse) -> Flow[HttpResponse]:
        """Save the session, and return the response with its cookie, or that of an outage."""
        if not isinstance(response, OutageResponse):
            response = yield from self._finish_answered(request, response)
        if isinstance(response, OutageResponse):
            yield from self._send_drawn_key(request, response)
        session = getattr(request, "session", None)
        if isinstance(session, SessionStore) and session.policy:
            # A response that is streamed, or a thread of the view, may use the session from here
            # on. But the headers are sent, and nobody calls ``settle()`` any more.
            session.policy = replace(session.policy, sends_key=False, settles=False)
        return response

    def _finish_answered(self, request: HttpRequest, response: HttpResponse) -> Flow[HttpResponse]:
        """Save the session after a response that is not yet one of an outage; see `_finish`."""
        outage = outage_of(request)
        if outage is not None and response.status_code == 500:
            # An inner middleware raised it. Django calls process_exception() only for views.
            return self._outage_page.response(request, outage, response)
        try:
            response = yield from self._save(request, response)
        except StorageUnavailable as error:
            return self._outage_page.response(request, error, response)
        finished = getattr(request, "session", None)
        if isinstance(finished, SessionStore):
            if not finished.is_settled:
                yield Call(finished, "settle", ())
            if finished.refused is not None:
                skipped = reason_to_skip(request.headers.get(SKIPPED, ""))
                yield from refusals.report(finished, skipped)
        yield from request_sessions.settle()
        return response

    def _save(self, request: HttpRequest, response: HttpResponse) -> Flow[HttpResponse]:
        """Save the session and send its cookie, if Django's ``process_response()`` would."""
        give_policy(request)  # A view may have replaced the session of the request.
        session: Any = getattr(request, "session", None)
        try:
            accessed, modified, empty = session.accessed, _is_changed(session), session.is_empty()
        except AttributeError:  # There is no session, or an object that is not a session.
            return response
        is_ours = isinstance(session, SessionStore)
        writes = modified or django_settings.SESSION_SAVE_EVERY_REQUEST
        is_loaded = hasattr(session, "_session_cache")
        if writes and not (empty or is_loaded) and (modified or not outage_of(request)):
            # A cookie with an unknown key must not create a session, so the session is read first.
            yield Call(session, "get", ("_session_expiry",))
            session.accessed = accessed
            modified, empty = _is_changed(session), session.is_empty()
        if outage_of(request) and not modified:
            # The response was made without the session, so it must not be cached.
            keep_out_of_caches(response)
            return response
        name = django_settings.SESSION_COOKIE_NAME
        needs_vary = accessed
        if name in request.COOKIES and empty and is_ours and session.has_end_to_tell:
            needs_vary = True  # The next page may say why the session has ended.
        elif name in request.COOKIES and empty:
            delete_cookie(response, name)
            needs_vary = True
        elif not empty and response.status_code >= 500:
            if is_ours and (yield from self._needs_key_after_error(request, session)):
                needs_vary = True
                yield from send_cookie(response, session)
        elif not empty and writes:
            needs_vary = True
            try:
                yield Call(session, "save", ())
            except UpdateError as error:
                raise SessionInterrupted(
                    "The request's session was deleted before the request completed. The user may "
                    "have logged out in a concurrent request, for example. Or the session got "
                    "another key, because the user logged in."
                ) from error
            if not is_ours or (yield from self._is_due(request, session)):
                yield from send_cookie(response, session)
            elif name in request.COOKIES and session.is_empty():
                delete_cookie(response, name)  # A receiver of a signal has flushed the session.
        elif is_ours and session.is_activity_due:
            yield Call(session, "record_activity", ())
        if needs_vary or name in response.cookies:
            patch_vary_headers(response, ("Cookie",))
        complete_cookies(request, response)
        if is_ours and name in response.cookies:
            ask_to_bind(request, response, session)
        return response

    def _is_due(self, request: HttpRequest, session: SessionStore) -> Flow[bool]:
        """Return whether the browser needs a new cookie, for another key or a later expiry.

        It gets one only if the store confirms now that the session is live under its key.
        """
        sent = as_secret(request.COOKIES.get(django_settings.SESSION_COOKIE_NAME))
        if not session.is_stored or not (session.cookie_is_due or session.session_key != sent):
            return False
        if session.is_proved:
            return True
        lives: bool = yield Call(session, "prove", ())
        return lives

    def _needs_key_after_error(self, request: HttpRequest, session: SessionStore) -> Flow[bool]:
        """Return whether a view that failed has stored the session under a key that the browser
        does not have yet. Without the new key, the user would lose the session.

        The store is asked again, because the session may have been proved before the error.
        """
        session.is_proved = False
        if session.session_key == request.COOKIES.get(django_settings.SESSION_COOKIE_NAME):
            return False
        return session.cookie_is_due and (yield from self._is_due(request, session))

    def _send_drawn_key(self, request: HttpRequest, response: HttpResponse) -> Flow[None]:
        """Send the key under which the session was stored before the store stopped answering.

        The key that the browser has was superseded by it, so the user would be logged out. The
        store cannot confirm it now. Only a parallel request that has joined this rotation, and has
        rotated the session once more, could have given the browser a newer key.
        """
        session = getattr(request, "session", None)
        if not isinstance(session, SessionStore) or not session.drawn:
            return
        sent = as_secret(request.COOKIES.get(django_settings.SESSION_COOKIE_NAME))
        if session.session_key != sent:
            yield from send_cookie(response, session)
            complete_cookies(request, response)


def _is_changed(session: Any) -> bool:
    """Return whether a session should be saved. It may be one of another package."""
    return session.needs_save if isinstance(session, SessionStore) else bool(session.modified)
