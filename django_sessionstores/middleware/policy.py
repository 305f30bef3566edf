"""What the session of a request has to know about the request."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from ..conf import settings, trusted_proxies
from ..core.client import clean_user_agent, client_ip
from ..core.records import Client
from ..sessions import SessionStore
from ..sessions.device_proof import bound_cookie
from ..sessions.state import RequestPolicy


def give_policy(request: HttpRequest) -> None:
    """Set the policy of a request's session: its client, and what happens in an outage."""
    session = getattr(request, "session", None)
    if isinstance(session, SessionStore) and session.policy is None:
        session.policy = RequestPolicy(
            client=_RequestClient(request.META),
            anonymous_on_outage=settings.ON_OUTAGE == "anonymous",
            bound_cookie=bound_cookie(request.COOKIES),
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
        # None, as some servers of ASGI have it for a client without an address.
        address = header("REMOTE_ADDR") or ""
        ip = client_ip(address, header("HTTP_X_FORWARDED_FOR", ""), trusted_proxies())
        return Client(ip, clean_user_agent(header("HTTP_USER_AGENT", "")))
