"""The parts of the demo's views that make no session calls, shared by sync and async views."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, cast

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from django_sessionstores.conf.codecs import serializer_path
from django_sessionstores.core.records import Record, State
from django_sessionstores.sessions import SessionStore
from testproject import engines

FRUITS: Final = ("apples", "pears", "plums")
SIDES: Final = ("left", "right")
SIGN_IN_FAILED: Final = "That name and password do not belong together."

OVERLAP_SECONDS: Final = 0.4
"""The seconds that each of two parallel requests waits between its read and its write, so that both
have read before one of them writes."""

LIFETIMES: Final[Mapping[str, tuple[str, Any]]] = {
    "minute": ("60 seconds after the last change", 60),
    "day": ("in a day, come what may", timedelta(days=1)),
    "browser": ("when the browser closes", 0),
    "default": ("as the settings say", None),
}

ONE_OF_EACH: Final[Mapping[str, Any]] = {
    "datetime": datetime(2030, 1, 31, 12, 30, tzinfo=UTC),
    "date": date(2030, 1, 31),
    "time": time(12, 30, 15),
    "timedelta": timedelta(days=1, microseconds=1),
    "Decimal": Decimal("19.90"),
    "UUID": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "bytes": b"\x00\xff",
    "set": {"a", "b"},
    "tuple": (1, (2, 3)),
    "dict with int keys": {1: "one", 2: "two"},
    "int of 70 bits": 2**70,
}

# The pages have no inline scripts or styles, so this policy does not need an exception.
CONTENT_SECURITY_POLICY: Final = "default-src 'self'; frame-ancestors 'none'"


def new_cart() -> dict[str, int]:
    return dict.fromkeys(FRUITS, 0)


def session_of(request: HttpRequest) -> SessionStore:
    """Return the session of a request, typed as an object of this package."""
    return cast(SessionStore, request.session)


def form_value(request: HttpRequest, field: str, allowed: Any) -> str:
    """Return a field of the submitted form. Raises ``Http404`` if its value is not allowed."""
    value = request.POST.get(field, "")
    if value not in allowed:
        raise Http404(f"{field} is none of {', '.join(allowed)}")
    return value


def redirect_back(request: HttpRequest, card: str) -> HttpResponse:
    """Redirect to the page of the same flavour (sync or async), at one of its cards."""
    return HttpResponseRedirect(f"{reverse('demo:page', current_app=_flavour(request))}#{card}")


def redirect_after_login(request: HttpRequest) -> HttpResponse:
    """Redirect to the page that required the login, or to the demo's page."""
    target = request.POST.get("next", "")
    if url_has_allowed_host_and_scheme(target, {request.get_host()}):
        return HttpResponseRedirect(target)
    return redirect_back(request, "key")


def show(
    request: HttpRequest,
    *,
    account: Any,
    previous: Record | None,
    error: str = "",
) -> HttpResponse:
    """Render the page. The session must be loaded already, so that the store is not asked."""
    session = session_of(request)
    storage = session.storage()
    kept = session.get("types", {})
    response = render(
        request,
        "testproject/page.html",
        {
            "account": account,
            "async": _flavour(request) == "async",
            "cart": session.get("cart") or new_cart(),
            "has_cart": any((session.get("cart") or {}).values()),
            "devices_url": reverse(f"{_flavour(request)}_devices:list"),
            "engine": settings.SESSION_ENGINE,
            "error": error,
            "expires": session.get_expiry_date(),
            "expires_at_close": session.get_expire_at_browser_close(),
            "expires_in": timedelta(seconds=session.get_expiry_age()),
            "forms": engines.FORMS,
            "previous": previous,
            "previous_is_superseded": previous is not None and previous.state is State.SUPERSEDED,
            "is_authoritative": storage.authoritative,
            "is_in_cookie": storage.holds_in_key,
            "next": request.POST.get("next", request.GET.get("next", "")),
            "lifetimes": {name: label for name, (label, _) in LIFETIMES.items()},
            "rotation": session.get("rotation"),
            "serializer": serializer_path(),
            "session_id": session.session_id if session.session_key else None,
            "storage": storage.describe(),
            "tabs": {side: session.get(side, 0) for side in SIDES},
            "types": [
                (name, repr(kept[name]), type(kept[name]).__name__, is_same(kept[name], value))
                for name, value in ONE_OF_EACH.items()
                if name in kept
            ],
            "value": settings.DEMO.text,
            "variable": engines.VARIABLE,
        },
    )
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def _flavour(request: HttpRequest) -> str:
    assert request.resolver_match is not None
    return request.resolver_match.namespace


def is_same(kept: Any, stored: Any) -> bool:
    """Return whether a value was read as it was stored, with the same type."""
    return type(kept) is type(stored) and kept == stored
