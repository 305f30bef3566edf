"""Django's ``SessionMiddleware``, and what an engine cannot do under that one alone.

Nothing of Django's is copied: when a session is saved, and what its cookie and its headers are, is
decided by the class that this one is a subclass of.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http.cookies import Morsel
from typing import Any, ClassVar, Final, cast

from django.conf import settings as django_settings
from django.contrib.sessions import middleware as django_middleware
from django.http import HttpRequest, HttpResponse
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.utils.log import log_response
from django.utils.translation import gettext

from .chunks import join, parts, split
from .client import clean_user_agent, client_ip
from .conf import settings, trusted_proxies
from .exceptions import StorageUnavailable
from .flow import Call, Flow, arun, run
from .records import Client
from .session import SessionStore

logger = logging.getLogger("django_sessionstores")

OUTAGE_TEMPLATE: Final = "503.html"
_PARTS: Final = "_session_cookie_parts"
"""The attribute of a request that names the part cookies it came with."""


class SessionMiddleware(django_middleware.SessionMiddleware):
    """Django's, with these differences:

    * Under ASGI no thread is used, and the session is saved with ``asave()``.
    * An outage of the store is answered with 503, or as ``ON_OUTAGE`` says.
    * A cookie that is too long for a browser is split over several.
    * The session learns the client's address and user agent.
    * The cookie is sent again only when the stored expiry has moved.
    * The cookie is ``Partitioned`` where ``COOKIE_PARTITIONED`` says so.
    """

    splits_cookies: ClassVar[bool] = True
    """Whether session keys may be longer than one cookie."""

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        super().__init__(get_response)
        self._outage_page = _OutagePage()
        if issubclass(self.SessionStore, SessionStore):
            # Made now, because that may look at the disk, which a request in a loop must not.
            self.SessionStore.storage()

    def __call__(self, request: HttpRequest) -> Any:
        return self.__acall__(request) if self.async_mode else run(self._answer(request))

    async def __acall__(self, request: HttpRequest) -> HttpResponse:
        return await arun(self._answer(request))

    def process_request(self, request: HttpRequest) -> None:
        """Make the session, from a cookie that may be in several parts. Asks no store."""
        name, cookies = django_settings.SESSION_COOKIE_NAME, request.COOKIES
        if carried := parts(name, cookies):
            setattr(request, _PARTS, carried)
            cookies[name] = join(name, cookies)
            for part in carried:
                del cookies[part]
        super().process_request(request)
        session: Any = request.session
        session.client = partial(_client, request.META)
        session.cookie_is_optional = True
        session.anonymous_on_outage = settings.ON_OUTAGE == "anonymous"

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Answer an outage that a view met."""
        if isinstance(exception, StorageUnavailable):
            return self._outage_page.response(request, exception)
        return None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Save the session and send its cookie, as Django decides."""
        return run(self._finish(request, response))

    # Django's `get_response`, as a call that a flow can ask for.

    def respond(self, request: HttpRequest) -> HttpResponse:
        """What the inner middlewares and the view answer."""
        return cast("HttpResponse", self.get_response(request))

    async def arespond(self, request: HttpRequest) -> HttpResponse:
        """See `respond`."""
        return await cast("Awaitable[HttpResponse]", self.get_response(request))

    def _answer(self, request: HttpRequest) -> Flow[HttpResponse]:
        self.process_request(request)
        try:
            response = yield Call(self, "respond", (request,))
        except StorageUnavailable as outage:
            # Django's handlers let no exception through unless DEBUG_PROPAGATE_EXCEPTIONS is set.
            return self._outage_page.response(request, outage)
        return (yield from self._finish(request, response))

    def _finish(self, request: HttpRequest, response: HttpResponse) -> Flow[HttpResponse]:
        if isinstance(response, _OutageResponse):
            return response
        outage = _outage_of(request)
        if outage and response.status_code == 500:
            # An inner middleware raised it, and Django asks process_exception() for views only.
            return self._outage_page.response(request, outage, response)
        try:
            return (yield from self._save(request, response))
        except StorageUnavailable as error:
            return self._outage_page.response(request, error, response)

    def _save(self, request: HttpRequest, response: HttpResponse) -> Flow[HttpResponse]:
        """Django's process_response(), its blocking calls taken out and made by the flow.

        What Django decides on needs no store, once the expiry is loaded. So it is asked once with
        a save() that only tells that it was called, and once more with one that does as the save
        did that was made in between.
        """
        session: Any = getattr(request, "session", None)
        try:
            modified, accessed = session.modified, session.accessed
            writes = modified or django_settings.SESSION_SAVE_EVERY_REQUEST
            loads_expiry = writes and not session.is_empty()
        except AttributeError:  # A view may put something else in the session's place.
            return super().process_response(request, response)
        if loads_expiry and (modified or not _outage_of(request)):
            yield Call(session, "get", ("_session_expiry",))
            session.accessed = accessed
        if _outage_of(request) and not modified:
            # What it shows is for this moment only, and there is nothing to save.
            _keep_out_of_caches(response)
            return response
        try:
            response = self._decide(request, response, _ask)
        except _SaveAsked:
            error = None
            try:
                yield Call(session, "save", ())
            except Exception as raised:  # noqa: BLE001 - Django decides
                error = raised
            response = self._decide(request, response, partial(_answer_with, error))
            if not getattr(session, "cookie_is_due", True):
                response.cookies.pop(django_settings.SESSION_COOKIE_NAME, None)
        self._complete_cookies(request, response)
        return response

    def _decide(
        self, request: HttpRequest, response: HttpResponse, save: Callable[[], None]
    ) -> HttpResponse:
        session: Any = request.session
        session.save = save
        try:
            return super().process_response(request, response)
        finally:
            del session.save

    def _complete_cookies(self, request: HttpRequest, response: HttpResponse) -> None:
        """Split the session cookie, if one is set or deleted, and mark all of its parts."""
        name, cookies = django_settings.SESSION_COOKIE_NAME, response.cookies
        morsel = cookies.get(name)
        if morsel is None:
            return
        values = split(name, morsel.value)
        for part, value in values.items():
            cookies[part] = value
            cookies[part].update(morsel)
        stale = [part for part in getattr(request, _PARTS, ()) if part not in values]
        for part in stale:
            response.delete_cookie(
                part,
                path=django_settings.SESSION_COOKIE_PATH,
                domain=django_settings.SESSION_COOKIE_DOMAIN,
                samesite=django_settings.SESSION_COOKIE_SAMESITE,
            )
        if settings.COOKIE_PARTITIONED:
            for part in [*values, *stale]:
                _partition(response, part)


class _SaveAsked(BaseException):
    """Django's middleware called save(). No ``Exception``: those it might handle."""


def _ask() -> None:
    raise _SaveAsked


def _answer_with(error: Exception | None) -> None:
    if error is not None:
        raise error


def _client(meta: dict[str, Any]) -> Client:
    ip = client_ip(
        meta.get("REMOTE_ADDR", ""), meta.get("HTTP_X_FORWARDED_FOR", ""), trusted_proxies()
    )
    return Client(ip, clean_user_agent(meta.get("HTTP_USER_AGENT", "")))


def _outage_of(request: HttpRequest) -> StorageUnavailable | None:
    """The outage that the session met, if its engine tells."""
    session = getattr(request, "session", None)
    return getattr(session, "outage", None)


def _keep_out_of_caches(response: HttpResponse) -> None:
    add_never_cache_headers(response)
    patch_vary_headers(response, ("Cookie",))


# Partitioned -------------------------------------------------------------------------------------


class _PartitionedMorsel(Morsel[str]):
    """A cookie that knows the attribute, which Python's does from 3.14 on."""

    _reserved = {**Morsel._reserved, "partitioned": "Partitioned"}  # type: ignore[attr-defined]
    _flags = Morsel._flags | {"partitioned"}  # type: ignore[attr-defined]


def _partition(response: HttpResponse, name: str) -> None:
    plain = response.cookies[name]
    morsel = _PartitionedMorsel()
    morsel.set(name, plain.value, plain.coded_value)
    morsel.update(plain)
    # A browser ignores the attribute, and with it a deletion, on a cookie that is not Secure.
    morsel["secure"] = morsel["partitioned"] = True
    response.cookies[name] = morsel


# Outages -----------------------------------------------------------------------------------------


class _OutageResponse(HttpResponse):
    """The answer to a request that an outage has stopped."""

    status_code = 503


class _OutagePage:
    """What such a request is shown: the project's template, or a line of text."""

    def __init__(self) -> None:
        # Looked up once, so that an outage reads no file, least of all in an event loop.
        self._template: Any = None
        with suppress(TemplateDoesNotExist):
            self._template = get_template(OUTAGE_TEMPLATE)

    def response(
        self,
        request: HttpRequest,
        outage: StorageUnavailable,
        replaced: HttpResponse | None = None,
    ) -> _OutageResponse:
        """The answer, with neither the session's cookie nor a deletion of it. Logs the outage.

        What the response that it replaces has open, such as a file, is closed with it.
        """
        if self._template is None:
            response = _OutageResponse(
                gettext("Service unavailable. Please try again in a moment.") + "\n",
                content_type="text/plain; charset=utf-8",
            )
        else:
            # Without the request: context processors would ask for the session.
            response = _OutageResponse(self._template.render())
        if replaced is not None:
            # Its close() would tell Django that the request is finished, which closes connections,
            # and would block a loop.
            response._resource_closers += replaced._resource_closers  # type: ignore[attr-defined]
        response.headers["Retry-After"] = str(settings.OUTAGE_RETRY_AFTER)
        _keep_out_of_caches(response)
        # Marks the response as logged, or Django would log each of them as an error.
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
