"""A replacement for Django's ``SessionMiddleware``, for features that need a middleware.

It decides as Django's middleware does when a session is saved and which cookie and headers are
sent, but in steps that can be awaited. The code follows Django 5.2, 6.0 and 6.1. A test compares
the responses of both.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http.cookies import Morsel
from typing import Any, ClassVar, Final, cast

from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.sessions import middleware as django_middleware
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.utils.http import http_date
from django.utils.log import log_response
from django.utils.module_loading import import_string
from django.utils.translation import gettext
from msgspec.structs import replace

from .conf import session_store, settings, trusted_proxies
from .core.client import clean_user_agent, client_ip
from .core.flow import Call, Flow, arun, run
from .core.records import Client, as_secret
from .exceptions import StorageUnavailable
from .payloads.cookie_chunks import join, parts, split
from .sessions import SessionStore, request_sessions
from .sessions.state import RequestPolicy

logger = logging.getLogger("django_sessionstores")

OUTAGE_TEMPLATE: Final = "503.html"
_NEVER_CACHED: Final = "max-age=0, no-cache, no-store, must-revalidate, private"
"""The ``Cache-Control`` of Django's ``add_never_cache_headers()``."""
_OUTAGE: Final = "_session_outage"
"""The attribute of a request for the outage because of which it failed."""
_PARTS: Final = "_session_cookie_parts"
"""The attribute of a request for the names of the part cookies that it came with."""


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
    """

    splits_cookies: ClassVar[bool] = True
    """Whether session keys may be longer than one cookie."""

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        super().__init__(get_response)
        self._outage_page = _OutagePage()
        if issubclass(self.SessionStore, SessionStore):
            # The storage is made now, because that may read the disk, which would block an event
            # loop during a request.
            self.SessionStore.storage()

    def __call__(self, request: HttpRequest) -> Any:
        return self.__acall__(request) if self.async_mode else run(self._answer(request))

    async def __acall__(self, request: HttpRequest) -> HttpResponse:
        return await arun(self._answer(request))

    def process_request(self, request: HttpRequest) -> None:
        """Make the session from its cookie, which may be in several parts. Ask no store."""
        name, cookies = django_settings.SESSION_COOKIE_NAME, request.COOKIES
        if carried := parts(name, cookies):
            setattr(request, _PARTS, carried)
            cookies[name] = join(name, cookies)
            for part in carried:
                del cookies[part]
        super().process_request(request)
        _give_policy(request)

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
        self.process_request(request)
        try:
            response = yield Call(self, "respond", (request,))
        except StorageUnavailable as outage:
            # Django's handlers raise exceptions only if DEBUG_PROPAGATE_EXCEPTIONS is set.
            response = self._outage_page.response(request, outage)
        return (yield from self._finish(request, response))

    def _finish(self, request: HttpRequest, response: HttpResponse) -> Flow[HttpResponse]:
        if not isinstance(response, _OutageResponse):
            response = yield from self._finish_answered(request, response)
        if isinstance(response, _OutageResponse):
            yield from self._send_drawn_key(request, response)
        session = getattr(request, "session", None)
        if settings.ROTATE_AFTER and isinstance(session, SessionStore) and session.policy:
            # A response that is streamed may save the session, but its headers are sent.
            session.policy = replace(session.policy, sends_key=False)
        return response

    def _finish_answered(self, request: HttpRequest, response: HttpResponse) -> Flow[HttpResponse]:
        outage = _outage_of(request)
        if outage is not None and response.status_code == 500:
            # An inner middleware raised it. Django calls process_exception() only for views.
            return self._outage_page.response(request, outage, response)
        try:
            response = yield from self._save(request, response)
        except StorageUnavailable as error:
            return self._outage_page.response(request, error, response)
        finished = getattr(request, "session", None)
        if isinstance(finished, SessionStore) and not finished.is_settled:
            yield Call(finished, "settle", ())
        yield from request_sessions.settle()
        return response

    def _save(self, request: HttpRequest, response: HttpResponse) -> Flow[HttpResponse]:
        """Save the session and send its cookie, if Django's ``process_response()`` would."""
        _give_policy(request)  # A view may have replaced the session of the request.
        session: Any = getattr(request, "session", None)
        try:
            accessed, modified, empty = session.accessed, _is_changed(session), session.is_empty()
        except AttributeError:  # There is no session, or an object that is not a session.
            return response
        is_ours = isinstance(session, SessionStore)
        writes = modified or django_settings.SESSION_SAVE_EVERY_REQUEST
        is_loaded = hasattr(session, "_session_cache")
        if writes and not (empty or is_loaded) and (modified or not _outage_of(request)):
            # A cookie with an unknown key must not create a session, so the session is read first.
            yield Call(session, "get", ("_session_expiry",))
            session.accessed = accessed
            modified, empty = _is_changed(session), session.is_empty()
        if _outage_of(request) and not modified:
            # The response was made without the session, so it must not be cached.
            _keep_out_of_caches(response)
            return response
        name = django_settings.SESSION_COOKIE_NAME
        needs_vary = accessed
        if name in request.COOKIES and empty:
            _delete_cookie(response, name)
            needs_vary = True
        elif not empty and response.status_code >= 500:
            if is_ours and (yield from self._is_unknown_key(request, session)):
                needs_vary = True
                yield from self._send_cookie(response, session)
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
                yield from self._send_cookie(response, session)
        elif is_ours and session.is_activity_due:
            yield Call(session, "record_activity", ())
        if needs_vary or name in response.cookies:
            patch_vary_headers(response, ("Cookie",))
        self._complete_cookies(request, response)
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

    def _is_unknown_key(self, request: HttpRequest, session: SessionStore) -> Flow[bool]:
        """Return whether a view that failed has stored the session under a key that the browser
        does not have yet. Without the new key, the user would lose the session."""
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
            yield from self._send_cookie(response, session)
            self._complete_cookies(request, response)

    def _send_cookie(self, response: HttpResponse, session: Any) -> Flow[None]:
        """Set the session cookie. The expiry is in the loaded data, so the store is not asked."""
        accessed = session.accessed
        max_age = expires = None
        if not (yield Call(session, "get_expire_at_browser_close", ())):
            max_age = yield Call(session, "get_expiry_age", ())
            expires = http_date(time.time() + max_age)
        session.accessed = accessed
        response.set_cookie(
            django_settings.SESSION_COOKIE_NAME,
            session.session_key,
            max_age=max_age,
            expires=expires,
            domain=django_settings.SESSION_COOKIE_DOMAIN,
            path=django_settings.SESSION_COOKIE_PATH,
            secure=django_settings.SESSION_COOKIE_SECURE or False,
            httponly=django_settings.SESSION_COOKIE_HTTPONLY or False,
            samesite=django_settings.SESSION_COOKIE_SAMESITE,
        )

    def _complete_cookies(self, request: HttpRequest, response: HttpResponse) -> None:
        """Split the session cookie if it is set, delete stale parts, and mark all parts.

        Caches must not store the response: they would give the session to other visitors.
        """
        name, cookies = django_settings.SESSION_COOKIE_NAME, response.cookies
        morsel = cookies.get(name)
        if morsel is None:
            return
        _forbid_caching(response)
        values = split(name, morsel.value)
        if len(values) > 1:
            for part, value in values.items():
                cookies[part] = value
                cookies[part].update(morsel)
        stale = [part for part in getattr(request, _PARTS, ()) if part not in values]
        for part in stale:
            _delete_cookie(response, part)
        if settings.COOKIE_PARTITIONED:
            for part in [*values, *stale]:
                _partition(response, part)


def _replaced(response: HttpResponse, other: HttpResponse) -> HttpResponse:
    """Return the other response, which closes what the first one holds open, such as a file.

    To close the first one would signal the end of the request, which closes connections, and would
    block an event loop.
    """
    other._resource_closers += response._resource_closers  # type: ignore[attr-defined]
    return other


def _delete_cookie(response: HttpResponse, name: str) -> None:
    response.delete_cookie(
        name,
        path=django_settings.SESSION_COOKIE_PATH,
        domain=django_settings.SESSION_COOKIE_DOMAIN,
        samesite=django_settings.SESSION_COOKIE_SAMESITE,
    )


def _give_policy(request: HttpRequest) -> None:
    """Set the policy of a request's session: its client, and what happens in an outage."""
    session = getattr(request, "session", None)
    if isinstance(session, SessionStore) and session.policy is None:
        session.policy = RequestPolicy(
            client=_RequestClient(request.META),
            anonymous_on_outage=settings.ON_OUTAGE == "anonymous",
        )


class _RequestClient:
    """A callable that returns the client of a request.

    It is not a ``partial()``, because the headers contain the session cookie. Error reports show
    local variables and the arguments of a ``partial()``, but not the attributes of an object.
    """

    __slots__ = ("_headers",)

    def __init__(self, headers: dict[str, Any]) -> None:
        self._headers = headers

    def __call__(self) -> Client:
        header = self._headers.get
        ip = client_ip(
            header("REMOTE_ADDR", ""), header("HTTP_X_FORWARDED_FOR", ""), trusted_proxies()
        )
        return Client(ip, clean_user_agent(header("HTTP_USER_AGENT", "")))


def _is_changed(session: Any) -> bool:
    """Return whether a session should be saved: one that was changed, or whose save is due."""
    return bool(session.modified) or getattr(session, "is_save_due", False)


def _outage_of(request: HttpRequest) -> StorageUnavailable | None:
    """Return the outage because of which the request failed, or that its session has met last.

    Returns ``None`` if there was none, or if a later call of the store has succeeded.
    """
    session = getattr(request, "session", None)
    outage: StorageUnavailable | None = getattr(request, _OUTAGE, None)
    return outage or (session.outage if isinstance(session, SessionStore) else None)


def _note_outage(request: HttpRequest | None = None, **kwargs: Any) -> None:
    """Remember on the request that its response of status 500 is due to an outage."""
    error = sys.exc_info()[1]
    if request is not None and isinstance(error, StorageUnavailable):
        setattr(request, _OUTAGE, error)


got_request_exception.connect(_note_outage, dispatch_uid="django_sessionstores.middleware")


def _keep_out_of_caches(response: HttpResponse) -> None:
    _forbid_caching(response)
    patch_vary_headers(response, ("Cookie",))


def _forbid_caching(response: HttpResponse) -> None:
    """Set the headers of ``add_never_cache_headers()``, but without parsing them again."""
    headers = response.headers
    if "Cache-Control" in headers or "Expires" in headers:
        add_never_cache_headers(response)
    else:
        headers["Expires"] = http_date(time.time())
        headers["Cache-Control"] = _NEVER_CACHED


# Partitioned -------------------------------------------------------------------------------------


class _PartitionedMorsel(Morsel[str]):
    """A cookie with the attribute ``Partitioned``, which Python supports from version 3.14 on."""

    _reserved = {**Morsel._reserved, "partitioned": "Partitioned"}  # type: ignore[attr-defined]
    _flags = Morsel._flags | {"partitioned"}  # type: ignore[attr-defined]


def _partition(response: HttpResponse, name: str) -> None:
    plain = response.cookies[name]
    morsel = _PartitionedMorsel()
    morsel.set(name, plain.value, plain.coded_value)
    morsel.update(plain)
    # Without Secure, browsers reject a cookie with this attribute, even if it deletes a cookie.
    morsel["secure"] = morsel["partitioned"] = True
    response.cookies[name] = morsel


# What the project has configured -----------------------------------------------------------------


def middlewares() -> list[tuple[str, Any]]:
    """Return the entries of ``MIDDLEWARE``, each with the class or function that it names.

    The list is empty if one of them cannot be imported. Django reports that when it starts.
    """
    try:
        return [(path, import_string(path)) for path in django_settings.MIDDLEWARE]
    except ImportError:
        return []


def session_middlewares() -> list[tuple[str, type[django_middleware.SessionMiddleware]]]:
    """Return the entries that are Django's session middleware or a subclass of it."""
    return [
        (path, each)
        for path, each in middlewares()
        if isinstance(each, type) and issubclass(each, django_middleware.SessionMiddleware)
    ]


def has_package_middleware() -> bool:
    """Return whether ``MIDDLEWARE`` contains the package's session middleware."""
    return any(issubclass(each, SessionMiddleware) for _path, each in session_middlewares())


def records_reads() -> bool:
    """Return whether a request that only reads its session counts as activity of the session."""
    return reads_move_expiry() or (bool(settings.ACTIVITY_INTERVAL) and has_package_middleware())


def reads_move_expiry() -> bool:
    """Return whether a request that only reads its session makes it expire later."""
    return bool(django_settings.SESSION_SAVE_EVERY_REQUEST or settings.IDLE_TIMEOUT)


def _require_app() -> None:
    """Raise ``ImproperlyConfigured`` if sessions need the package's app and it is not installed.

    The checks of an app that is not installed do not run. But ``manage.py check`` imports the
    middlewares, and so finds the mistake here.
    """
    if not apps.ready or apps.is_installed(__package__):
        return
    try:
        store = session_store(django_settings.SESSION_ENGINE)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"SESSION_ENGINE {django_settings.SESSION_ENGINE!r} cannot be used: {error}"
        ) from error
    if isinstance(store, type) and issubclass(store, SessionStore):
        store.own_storage()


_require_app()


# Outages -----------------------------------------------------------------------------------------


class _OutageResponse(HttpResponse):
    """The response to a request that an outage has stopped."""

    status_code = 503


class _OutagePage:
    """The page that is shown during an outage: the project's template, or a line of text."""

    def __init__(self) -> None:
        # The template is loaded once, so that no file is read during an outage, which would block
        # an event loop.
        self._template: Any = None
        with suppress(TemplateDoesNotExist):
            self._template = get_template(OUTAGE_TEMPLATE)

    def response(
        self,
        request: HttpRequest,
        outage: StorageUnavailable,
        replaced: HttpResponse | None = None,
    ) -> _OutageResponse:
        """Return the page, without a change of the session cookie, and log the outage.

        Resources that the response ``replaced`` holds open, such as a file, are closed with the
        page.
        """
        if self._template is None:
            response = _OutageResponse(
                gettext("Service unavailable. Please try again in a moment.") + "\n",
                content_type="text/plain; charset=utf-8",
            )
        else:
            # The request is not passed: context processors would read the session.
            response = _OutageResponse(self._template.render())
        if replaced is not None:
            _replaced(replaced, response)
        response.headers["Retry-After"] = str(settings.OUTAGE_RETRY_AFTER)
        _keep_out_of_caches(response)
        # This marks the response as logged. Otherwise Django would log it as an error.
        log_response(
            "Session storage unavailable: %s: %s",
            request.path,
            outage,
            response=response,
            request=request,
            logger=logger,
            level="warning",
        )
        return response
