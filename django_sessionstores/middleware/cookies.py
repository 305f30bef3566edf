"""The session cookie: read from a request and written to a response, in several parts if needed."""

from __future__ import annotations

import time
from http.cookies import Morsel
from typing import Any, Final

from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from django.utils.http import http_date

from ..conf import settings
from ..core.flow import Call, Flow
from ..payloads.cookie_chunks import join, parts, split
from .caching import forbid_caching

_PARTS: Final = "_session_cookie_parts"
"""The attribute of a request for the names of the part cookies that it came with."""


def join_parts(request: HttpRequest) -> None:
    """Replace the part cookies of a request by the session cookie that they are parts of."""
    name, cookies = django_settings.SESSION_COOKIE_NAME, request.COOKIES
    if carried := parts(name, cookies):
        setattr(request, _PARTS, carried)
        cookies[name] = join(name, cookies)
        for part in carried:
            del cookies[part]


def send_cookie(response: HttpResponse, session: Any) -> Flow[None]:
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


def complete_cookies(request: HttpRequest, response: HttpResponse) -> None:
    """Split the session cookie if it is set, delete stale parts, and mark all parts.

    Caches must not store the response: they would give the session to other visitors.
    """
    name, cookies = django_settings.SESSION_COOKIE_NAME, response.cookies
    morsel = cookies.get(name)
    if morsel is None:
        return
    forbid_caching(response)
    values = split(name, morsel.value)
    if len(values) > 1:
        for part, value in values.items():
            cookies[part] = value
            cookies[part].update(morsel)
    stale = [part for part in getattr(request, _PARTS, ()) if part not in values]
    for part in stale:
        delete_cookie(response, part)
    if settings.COOKIE_PARTITIONED:
        for part in [*values, *stale]:
            mark_partitioned(response, part)


def delete_cookie(response: HttpResponse, name: str) -> None:
    response.delete_cookie(
        name,
        path=django_settings.SESSION_COOKIE_PATH,
        domain=django_settings.SESSION_COOKIE_DOMAIN,
        samesite=django_settings.SESSION_COOKIE_SAMESITE,
    )


class _PartitionedMorsel(Morsel[str]):
    """A cookie with the attribute ``Partitioned``, which Python supports from version 3.14 on."""

    _reserved = {**Morsel._reserved, "partitioned": "Partitioned"}  # type: ignore[attr-defined]
    _flags = Morsel._flags | {"partitioned"}  # type: ignore[attr-defined]


def mark_partitioned(response: HttpResponse, name: str) -> None:
    """Give a cookie of a response the attribute ``Partitioned``."""
    plain = response.cookies[name]
    morsel = _PartitionedMorsel()
    morsel.set(name, plain.value, plain.coded_value)
    morsel.update(plain)
    # Without Secure, browsers reject a cookie with this attribute, even if it deletes a cookie.
    morsel["secure"] = morsel["partitioned"] = True
    response.cookies[name] = morsel
