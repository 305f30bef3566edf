"""Binding sessions to devices: what browsers are asked, and the bound cookie.

After a login, a header asks the browser to make a key. The views of `devices.binding_views` get the
proofs that it signs with it, and give it the bound cookie, which `sessions.device_proof` verifies.
"""

from __future__ import annotations

import math
from http.cookies import Morsel
from typing import Any, Final

from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from django.urls import NoReverseMatch, reverse

from ..binding import headers, tokens
from ..binding.bindings import BINDING
from ..binding.device_keys import ALGORITHMS
from ..conf import key_ring, settings
from ..core import clock
from ..core.records import Record, SecretText
from ..sessions import SessionStore
from ..sessions.device_proof import bound_cookie_name
from .cookies import mark_partitioned

NAMESPACE: Final = "device_binding"
"""The namespace of the URLs to which browsers send proofs."""

_PROOF: Final = f"HTTP_{headers.PROOF.upper().replace('-', '_')}"

_LEEWAY: Final = 60_000
"""The most milliseconds for which a request may be under way, and clocks may differ."""


def can_bind(request: HttpRequest) -> bool:
    """Return whether the sessions of a request can be bound to its device.

    Browsers do it only over HTTPS. On the other hosts of a domain, they would not refresh the bound
    cookie.
    """
    return (
        bool(settings.DEVICE_BINDING)
        and request.is_secure()
        and not django_settings.SESSION_COOKIE_DOMAIN
    )


def hide_proofs(request: HttpRequest) -> None:
    """Have error reports not show what a request has as proof of its device.

    Django hides the session cookie only. A proof is still valid after an error of the server.
    """
    for place, name in ((request.COOKIES, bound_cookie_name()), (request.META, _PROOF)):
        if name in place:
            place[name] = SecretText(place[name])


def ask_to_bind(request: HttpRequest, response: HttpResponse, session: SessionStore) -> None:
    """Ask the browser to bind a session in which its user has logged in during the request.

    At other times nobody is asked: the request may be one of somebody who has copied the cookie,
    and who would bind the session to a device of his own.
    """
    if not (can_bind(request) and session.has_logged_in):
        return
    record = session.known_record
    # The session was saved, so its data is at hand, and no store is asked.
    if record is None or BINDING in session:
        return
    path = url_to_bind()
    if path is None:
        return
    challenge = tokens.make_challenge(key_ring(), subject_of_registration(record), clock.now())
    response.headers[headers.REGISTRATION] = headers.registration(ALGORITHMS, path, challenge)


def url_to_bind() -> str | None:
    """Return the URL to which browsers send their keys; ``None`` if none of them gets a session
    cookie there, which a check reports."""
    try:
        url = reverse(f"{NAMESPACE}:start")
    except NoReverseMatch:
        return None
    folder = django_settings.SESSION_COOKIE_PATH.rstrip("/") + "/"
    return url if url.startswith(folder) else None


def subject_of_registration(record: Record) -> str:
    """Return what the challenge of a registration is for: this session of this user."""
    return f"registration {record.lineage} {record.user_id}"


def subject_of_refresh(binding_id: str) -> str:
    """Return what the challenge of a refresh is for."""
    return f"refresh {binding_id}"


def enforced_from(moment: int) -> int:
    """Return from when on a session that is bound at a moment needs the bound cookie."""
    return moment + _leeway()


def set_bound_cookie(response: HttpResponse, binding_id: str) -> None:
    """Give the browser a bound cookie. It is accepted a little longer than the browser sends it."""
    life = _lifetime()
    expires = clock.now() + life + _leeway()
    name = bound_cookie_name()
    response.set_cookie(
        name,
        tokens.make_bound_value(key_ring(), binding_id, expires),
        max_age=math.ceil(life / 1000),
        path=django_settings.SESSION_COOKIE_PATH,
        secure=True,
        httponly=True,
        samesite=django_settings.SESSION_COOKIE_SAMESITE,
    )
    if settings.COOKIE_PARTITIONED:
        mark_partitioned(response, name)


def describe_binding(response: HttpResponse, binding_id: str) -> dict[str, Any]:
    """Return what a browser has to know of a binding, whose bound cookie the response sets."""
    name = bound_cookie_name()
    credential = {
        "type": "cookie",
        "name": name,
        "attributes": _attributes(response.cookies[name]),
    }
    return {
        "session_identifier": binding_id,
        "refresh_url": reverse(f"{NAMESPACE}:refresh"),
        "scope": {"include_site": False, "scope_specification": []},
        "credentials": [credential],
    }


def challenge_life() -> int:
    """Return for how many milliseconds a challenge can be answered.

    The challenge of the next refresh comes with the response to the last one.
    """
    return _lifetime() + 5 * _LEEWAY


def _lifetime() -> int:
    return int(settings.DEVICE_BINDING_LIFETIME * 1000)


def _leeway() -> int:
    return min(_LEEWAY, _lifetime())


def _attributes(cookie: Morsel[str]) -> str:
    """Return the attributes of a cookie without its life, as the response has them.

    The browser compares them with those of the cookie.
    """
    named = {"Path": cookie["path"], "SameSite": cookie["samesite"]}
    flags = [each for each in ("Secure", "HttpOnly", "Partitioned") if cookie.get(each.lower())]
    return "; ".join([*(f"{name}={value}" for name, value in named.items() if value), *flags])
