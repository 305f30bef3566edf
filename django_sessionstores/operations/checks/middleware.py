"""Checks of the session middleware."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings as django_settings
from django.core import checks
from django.utils.translation import gettext_noop as _

from ...conf import NAME
from ...core.phrases import Phrase
from ...middleware import SessionMiddleware
from ...middleware.installed import (
    OWN_PATH,
    has_package_middleware,
    middlewares,
    session_middlewares,
)
from .configuration import usable_storage, views

MIDDLEWARE_OPTIONS: Final = (
    "ON_OUTAGE",
    "OUTAGE_RETRY_AFTER",
    "TRUSTED_PROXIES",
    "COOKIE_PARTITIONED",
    "ACTIVITY_INTERVAL",
    "NEW_SIGN_IN",
    "DEVICE_BINDING",
    "DEVICE_BINDING_LIFETIME",
    "END_WITHOUT_PROOF",
)
"""Options that only the package's middleware uses."""
_DEVICES_PAGES: Final = "django_sessionstores.devices.views"
"""The module is not imported, because a site without these pages may have no users."""

_NEED_SESSION: Final = (
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
)
"""Django's middlewares that use the session of a request when it comes in."""
_STORES_PAGES: Final = "django.middleware.cache.UpdateCacheMiddleware"


@checks.register
def check_middleware(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that there is one session middleware, the package's if options need it."""
    messages: list[checks.CheckMessage] = []
    present = session_middlewares()
    if len(present) > 1 and has_package_middleware():
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "MIDDLEWARE has more than one session middleware: views get the session of "
                        "the last one, and each of them saves it."
                    )
                ),
                hint=_what_to_remove(present),
                id="sessionstores.E009",
            )
        )
    options = getattr(django_settings, NAME, {})
    unused = [name for name in MIDDLEWARE_OPTIONS if isinstance(options, dict) and name in options]
    if unused and not has_package_middleware():
        messages.append(
            checks.Warning(
                Phrase(
                    _("%(setting)s has options that nothing uses: %(options)s."),
                    setting=NAME,
                    options=", ".join(unused),
                ),
                hint=Phrase(
                    _(
                        "Only django_sessionstores.middleware.SessionMiddleware uses "
                        "them. Replace Django's by it in MIDDLEWARE, or remove them."
                    )
                ),
                id="sessionstores.W010",
            )
        )
    return messages


def _what_to_remove(present: Sequence[tuple[str, type[Any]]]) -> Phrase:
    """Return the hint that leaves one of several session middlewares, of the package."""
    paths = [path for path, _each in present]
    kept = next(path for path, each in present if issubclass(each, SessionMiddleware))
    if surplus := [path for path in dict.fromkeys(paths) if path != kept]:
        return Phrase(_("Remove from MIDDLEWARE: %(paths)s."), paths=", ".join(map(repr, surplus)))
    return Phrase(
        _("MIDDLEWARE lists %(path)s %(number)s times: keep the first line and remove the others."),
        path=repr(kept),
        number=paths.count(kept),
    )


@checks.register
def check_middleware_order(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the session middleware is above those that use the session, and below those that
    store responses.

    Django has no check for its own middleware, which is checked if the engine is of the package.
    """
    found, present = middlewares(), session_middlewares()
    if len(present) != 1 or not (has_package_middleware() or usable_storage() is not None):
        return []  # check_middleware reports it if there are several.
    ((path, _each),) = present
    place = [each for each, _middleware in found].index(path)
    needing = [*_NEED_SESSION]
    if django_settings.CSRF_USE_SESSIONS:
        needing.append("django.middleware.csrf.CsrfViewMiddleware")
    too_high = _paths_of(needing, found[:place])
    too_low = _paths_of([_STORES_PAGES], found[place:])
    messages: list[checks.CheckMessage] = []
    if too_high:
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "Middlewares that use the session stand above the session middleware in "
                        "MIDDLEWARE, where requests do not have a session yet, so that requests "
                        "fail: %(paths)s."
                    ),
                    paths=", ".join(map(repr, too_high)),
                ),
                hint=Phrase(
                    _("Move the line %(path)s above %(other)s."),
                    path=repr(path),
                    other=repr(too_high[0]),
                ),
                id="sessionstores.E020",
            )
        )
    if too_low:
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "%(other)s stands below the session middleware in MIDDLEWARE. It stores "
                        'pages before they have the header "Vary: Cookie", so that visitors '
                        "get the pages of other users."
                    ),
                    other=repr(too_low[0]),
                ),
                hint=Phrase(
                    _("Move the line %(path)s above %(other)s."),
                    path=repr(too_low[0]),
                    other=repr(path),
                ),
                id="sessionstores.E021",
            )
        )
    return messages


@checks.register
def check_devices_page(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that a site with the pages of devices records devices."""
    if not _lacks_clients() or not _has_devices_page():
        return []
    return [
        checks.Warning(
            Phrase(
                _(
                    "The pages of devices show each device as unknown and no IP address, because "
                    "MIDDLEWARE has no %(path)s."
                ),
                path=OWN_PATH,
            ),
            hint=_how_to_replace(),
            id="sessionstores.W025",
        )
    ]


@checks.register(deploy=True)
def report_unknown_clients(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Report that devices and IP addresses of sessions are not known, and why."""
    if not _lacks_clients() or _has_devices_page():
        return []
    return [
        checks.Info(
            Phrase(
                _(
                    "Lists of sessions have no devices and IP addresses, because MIDDLEWARE has "
                    "no %(path)s."
                ),
                path=OWN_PATH,
            ),
            hint=_how_to_replace(),
            id="sessionstores.I003",
        )
    ]


def _lacks_clients() -> bool:
    """Return whether sessions are listed, and nothing tells them the client of a request."""
    storage = usable_storage()
    return storage is not None and storage.lists and not has_package_middleware()


def _has_devices_page() -> bool:
    return any(getattr(view, "__module__", "") == _DEVICES_PAGES for view in views())


def _how_to_replace() -> Phrase | None:
    present = session_middlewares()
    if len(present) != 1:
        return None
    ((path, _each),) = present
    return Phrase(
        _("In MIDDLEWARE, replace %(path)s by %(other)s."), path=repr(path), other=repr(OWN_PATH)
    )


def _paths_of(paths: Sequence[str], found: Sequence[tuple[str, Any]]) -> list[str]:
    """Return the entries that are one of the middlewares with these paths, or a subclass."""
    # By name, because the modules of some cannot be imported if their app is not installed.
    return [
        path
        for path, each in found
        if any(
            f"{base.__module__}.{base.__qualname__}" in paths
            for base in getattr(each, "__mro__", ())
        )
    ]
