"""Checks of sessions that are bound to a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings as django_settings
from django.core import checks
from django.utils.translation import gettext_noop as _

from ...conf import full_name, settings
from ...core.phrases import Phrase
from ...middleware.device_binding import url_to_bind
from ...middleware.installed import has_package_middleware
from .configuration import if_valid, production_storage, usable_storage


@checks.register(checks.Tags.security)
def check_device_binding(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that browsers can bind sessions, if the settings ask for it."""
    if not _is_wanted() or usable_storage() is None:
        return []
    setting = full_name("DEVICE_BINDING")
    if django_settings.SESSION_COOKIE_DOMAIN:
        return [
            checks.Warning(
                Phrase(
                    _(
                        "%(setting)s has no effect with SESSION_COOKIE_DOMAIN: a browser refreshes "
                        "a bound cookie on one host only."
                    ),
                    setting=setting,
                ),
                hint=Phrase(_("Remove one of the two settings.")),
                id="sessionstores.W046",
            )
        ]
    if url_to_bind() is None:
        return [
            checks.Warning(
                Phrase(
                    _(
                        "%(setting)s has no effect: the URLconf has no URLs below %(path)s to "
                        "which browsers can send the proofs of their devices."
                    ),
                    setting=setting,
                    path=django_settings.SESSION_COOKIE_PATH,
                ),
                hint=Phrase(
                    _("Include %(urls)s in the URLconf."), urls="django_sessionstores.binding_urls"
                ),
                id="sessionstores.W046",
            )
        ]
    return []


@checks.register(checks.Tags.security)
def check_secure_cookie(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the key of a session that is bound to a device is sent over HTTPS only."""
    if not _is_wanted() or production_storage() is None or django_settings.SESSION_COOKIE_SECURE:
        return []
    return [
        checks.Warning(
            Phrase(
                _(
                    "Sessions are bound to devices, and browsers send their keys over plain HTTP "
                    "as well, because SESSION_COOKIE_SECURE is not set."
                )
            ),
            hint=Phrase(_("Set %(setting)s."), setting="SESSION_COOKIE_SECURE = True"),
            id="sessionstores.W047",
        )
    ]


def _is_wanted() -> bool:
    """Return whether the settings ask for bound sessions, and a middleware uses them."""
    return bool(if_valid(lambda: settings.DEVICE_BINDING)) and has_package_middleware()
