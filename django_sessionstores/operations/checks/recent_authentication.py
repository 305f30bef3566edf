"""Checks of recent authentication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.urls import NoReverseMatch, Resolver404, resolve
from django.utils.translation import gettext_noop as _

from ...accounts import device_binding, recent_authentication
from ...conf import full_name, settings
from ...core.phrases import Phrase
from .configuration import configured_storage, views


@checks.register(checks.Tags.security)
def check_recent_authentication(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that users who are asked to log in again find a page where they can.

    A project asks them if it sets one of the options, or an age for a single view.
    """
    try:
        if configured_storage() is None or not _asks_for_recent_authentication():
            return []
        url = recent_authentication.sign_in_url()
    except (ImportError, ImproperlyConfigured):
        return []  # check_engine and check_settings report it.
    except NoReverseMatch as error:
        return [
            checks.Warning(
                Phrase(
                    _("The page where users log in again does not exist: %(error)s"),
                    error=str(error),
                ),
                hint=Phrase(
                    _("Correct %(setting)s, or LOGIN_URL if that is empty."),
                    setting=full_name("RECENT_AUTHENTICATION_URL"),
                ),
                id="sessionstores.W019",
            )
        ]
    if not _redirects_authenticated_users(url):
        return []
    return [
        checks.Warning(
            Phrase(
                _(
                    "The page %(url)s redirects users who are logged in, so they cannot log in "
                    "again there: the browser is redirected back and forth."
                ),
                url=url,
            ),
            hint=Phrase(
                _("Set %(setting)s to a LoginView of its own, with %(argument)s."),
                setting=full_name("RECENT_AUTHENTICATION_URL"),
                argument="redirect_authenticated_user=False",
            ),
            id="sessionstores.W018",
        )
    ]


def _asks_for_recent_authentication() -> bool:
    if settings.RECENT_AUTHENTICATION_AGE is not None or settings.RECENT_AUTHENTICATION_URL:
        return True
    return any(
        getattr(view, recent_authentication.AGE_OF_VIEW, None) is not None
        or hasattr(view, device_binding.REQUIRES_BOUND_SESSION)
        for view in views()
    )


def _redirects_authenticated_users(url: str) -> bool:
    """Return whether the URL is one of Django's login pages that only show a form to strangers."""
    parts = urlsplit(url)
    if parts.netloc:
        return False  # The page is on another site.
    try:
        view = resolve(parts.path).func
    except Resolver404:
        return False  # The page is not in the URLconf.
    # The admin's login page. Its module cannot be imported on a site without the admin.
    if hasattr(getattr(view, "__self__", None), "admin_view"):
        return True
    option = "redirect_authenticated_user"
    by_class = getattr(getattr(view, "view_class", None), option, False)
    return bool(getattr(view, "view_initkwargs", {}).get(option, by_class))
