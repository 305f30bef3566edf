"""Responses to requests for which the store did not answer."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any, Final

from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.utils.log import log_response
from django.utils.translation import gettext

from ..conf import settings
from ..exceptions import StorageUnavailable
from ..sessions import SessionStore
from .caching import keep_out_of_caches

logger = logging.getLogger("django_sessionstores")

OUTAGE_TEMPLATE: Final = "503.html"
_OUTAGE: Final = "_session_outage"
"""The attribute of a request for the outage because of which it failed."""


def outage_of(request: HttpRequest) -> StorageUnavailable | None:
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


class OutageResponse(HttpResponse):
    """The response to a request that an outage has stopped."""

    status_code = 503


class OutagePage:
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
    ) -> OutageResponse:
        """Return the page, without a change of the session cookie, and log the outage.

        Resources that the response ``replaced`` holds open, such as a file, are closed with the
        page.
        """
        if self._template is None:
            response = OutageResponse(
                gettext("Service unavailable. Please try again in a moment.") + "\n",
                content_type="text/plain; charset=utf-8",
            )
        else:
            # The request is not passed: context processors would read the session.
            response = OutageResponse(self._template.render())
        if replaced is not None:
            _take_over_resources(response, replaced)
        response.headers["Retry-After"] = str(settings.OUTAGE_RETRY_AFTER)
        keep_out_of_caches(response)
        # This marks the response as logged. Otherwise Django would log it as an error. The log of
        # outages has a line for all requests that an outage stops.
        log_response(
            "Session storage unavailable: %s: %s",
            request.path,
            outage,
            response=response,
            request=request,
            logger=logger,
            level="debug" if outage.was_logged else "warning",
        )
        return response


def _take_over_resources(response: HttpResponse, replaced: HttpResponse) -> None:
    """Have a response close what the response that it replaces holds open, such as a file.

    To close the replaced response itself would signal the end of the request, which closes
    connections, and would block an event loop.
    """
    response._resource_closers += replaced._resource_closers  # type: ignore[attr-defined]
