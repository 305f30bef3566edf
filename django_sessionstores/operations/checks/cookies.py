"""Checks of the session cookie: its name, attributes and size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

from django.conf import settings as django_settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ...conf import cookie_bytes, full_name, settings
from ...core.phrases import Phrase
from ...middleware.installed import has_package_middleware
from ...payloads.cookie_chunks import split
from .configuration import if_valid, production_storage


@checks.register(checks.Tags.security)
def check_cookie(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that browsers accept the session cookie with its name and attributes."""
    messages: list[checks.CheckMessage] = [*_values(), *_other_cookies()]
    name = str(django_settings.SESSION_COOKIE_NAME)
    prefix = next((p for p in ("__Host-", "__Secure-") if name.lower().startswith(p.lower())), None)
    required: dict[str, object] = {"SESSION_COOKIE_SECURE": True} if prefix else {}
    if prefix == "__Host-":
        required |= {"SESSION_COOKIE_PATH": "/", "SESSION_COOKIE_DOMAIN": None}
    wrong = [
        f"{setting} = {value!r}"
        for setting, value in required.items()
        if getattr(django_settings, setting) != value
    ]
    if wrong:
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "SESSION_COOKIE_NAME is %(cookie)s, and browsers refuse a cookie with this "
                        "name unless other settings fit: nobody keeps a session."
                    ),
                    cookie=repr(name),
                ),
                hint=Phrase(
                    _("Set %(settings)s, or choose a name that does not begin with %(prefix)s."),
                    prefix=prefix,
                    settings=", ".join(wrong),
                ),
                id="sessionstores.E007",
            )
        )
    is_cross_site = str(django_settings.SESSION_COOKIE_SAMESITE or "").lower() == "none"
    if is_cross_site and not django_settings.SESSION_COOKIE_SECURE:
        messages.append(
            checks.Warning(
                Phrase(_("Browsers refuse a cookie that is SameSite=None and not Secure.")),
                hint=Phrase(_("Set %(setting)s."), setting="SESSION_COOKIE_SECURE = True"),
                id="sessionstores.W043",
            )
        )
    try:
        is_partitioned = settings.COOKIE_PARTITIONED
    except ImproperlyConfigured:
        return messages  # check_settings reports it.
    if is_partitioned and not django_settings.SESSION_COOKIE_SECURE:
        messages.append(
            checks.Error(
                Phrase(_("Browsers refuse a cookie that is Partitioned and not Secure.")),
                hint=Phrase(
                    _("Set SESSION_COOKIE_SECURE = True, or remove %(setting)s."),
                    setting=full_name("COOKIE_PARTITIONED"),
                ),
                id="sessionstores.E008",
            )
        )
    return messages


def _values() -> Iterator[checks.CheckMessage]:
    """Yield a message for each setting that Django or browsers do not accept in a cookie.

    Django only finds out when it sets a cookie: at each save of a session.
    """
    same_site, domain = (
        django_settings.SESSION_COOKIE_SAMESITE,
        django_settings.SESSION_COOKIE_DOMAIN,
    )
    accepted = {
        "SESSION_COOKIE_NAME": (_is_cookie_name(django_settings.SESSION_COOKIE_NAME), "sessionid"),
        "SESSION_COOKIE_SAMESITE": (
            not same_site or str(same_site).lower() in {"lax", "strict", "none"},
            "Lax",
        ),
        # A scheme, a port, or a list of domains.
        "SESSION_COOKIE_DOMAIN": (
            not domain or (isinstance(domain, str) and not re.search(r"[:/\s;,]", domain)),
            "example.com",
        ),
    }
    for setting, (is_accepted, example) in accepted.items():
        if not is_accepted:
            yield checks.Error(
                Phrase(
                    _("%(setting)s is %(value)s, with which no browser keeps a session."),
                    setting=setting,
                    value=repr(getattr(django_settings, setting)),
                ),
                hint=Phrase(_("Write %(setting)s."), setting=f"{setting} = {example!r}"),
                id="sessionstores.E027",
            )


def _is_cookie_name(name: Any) -> bool:
    try:
        SimpleCookie({name: ""})
    except (CookieError, TypeError, AttributeError):
        return False
    return True


def _other_cookies() -> Iterator[checks.CheckMessage]:
    """Yield a message if another cookie of Django has the name of the session cookie."""
    others = ["LANGUAGE_COOKIE_NAME"]
    if not django_settings.CSRF_USE_SESSIONS:
        others.append("CSRF_COOKIE_NAME")
    name = django_settings.SESSION_COOKIE_NAME
    for other in others:
        if getattr(django_settings, other) == name:
            yield checks.Error(
                Phrase(
                    _(
                        "SESSION_COOKIE_NAME and %(setting)s are both %(value)s, so each cookie "
                        "overwrites the other one."
                    ),
                    setting=other,
                    value=repr(name),
                ),
                hint=Phrase(_("Write %(setting)s."), setting="SESSION_COOKIE_NAME = 'sessionid'"),
                id="sessionstores.E028",
            )


@checks.register(checks.Tags.security, deploy=True)
def check_cookie_protection(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the cookie is Secure and HttpOnly if Django does not check it.

    Django's own checks look for its app and its middleware by name.
    """
    if "django.contrib.sessions" in django_settings.INSTALLED_APPS or not has_package_middleware():
        return []  # Django's security.W010 to W015 report it.
    messages: list[checks.CheckMessage] = []
    if not django_settings.SESSION_COOKIE_SECURE:
        messages.append(
            checks.Warning(
                Phrase(
                    _("The session cookie is also sent over plain HTTP, where anybody can read it.")
                ),
                hint=Phrase(_("Set %(setting)s."), setting="SESSION_COOKIE_SECURE = True"),
                id="sessionstores.W011",
            )
        )
    if not django_settings.SESSION_COOKIE_HTTPONLY:
        messages.append(
            checks.Warning(
                Phrase(
                    _(
                        "Scripts in a page can read the session cookie, those of an attacker "
                        "included."
                    )
                ),
                hint=Phrase(_("Set %(setting)s."), setting="SESSION_COOKIE_HTTPONLY = True"),
                id="sessionstores.W012",
            )
        )
    return messages


PROXY_SAFE_BYTES: Final = 2500
"""The length of a session cookie that leaves room for the other headers of a login, within the
limit of nginx for a response with its default configuration."""
_RESPONSE_HEADER_BYTES: Final = 4096
_REQUEST_LINE_BYTES: Final = 8192
_OTHER_HEADERS_BYTES: Final = _RESPONSE_HEADER_BYTES - PROXY_SAFE_BYTES


@checks.register
def check_cookie_size(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that a session in cookies is refused by the package before a proxy refuses it."""
    storage = production_storage()
    if storage is None or not storage.holds_in_key:
        return []
    most = if_valid(cookie_bytes)
    if most is None or most <= PROXY_SAFE_BYTES:
        return []
    count = len(split(django_settings.SESSION_COOKIE_NAME, "x" * most))
    directives = "proxy_buffer_size"
    refused = _(
        "A session may take %(most)s bytes (cookies: %(count)s). nginx, as it is installed, "
        "refuses a response with more than %(response)s bytes of headers."
    )
    if most + _OTHER_HEADERS_BYTES > _REQUEST_LINE_BYTES:
        directives += ", large_client_header_buffers"
        refused = _(
            "A session may take %(most)s bytes (cookies: %(count)s). nginx, as it is installed, "
            "refuses a response with more than %(response)s bytes of headers, and a request with "
            "more than %(request)s bytes of cookies."
        )
    return [
        checks.Warning(
            Phrase(
                refused,
                most=most,
                count=count,
                response=_RESPONSE_HEADER_BYTES,
                request=_REQUEST_LINE_BYTES,
            ),
            hint=Phrase(
                _(
                    "Set %(setting)s to %(safe)s or less, which leaves room for other headers. Or "
                    "raise the limits of your proxies, for nginx %(directives)s, and silence this "
                    "check."
                ),
                setting=full_name("COOKIE_MAX_BYTES"),
                safe=PROXY_SAFE_BYTES,
                directives=directives,
            ),
            id="sessionstores.W015",
        )
    ]
