"""Checks of the session middleware."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings as django_settings
from django.core import checks
from django.utils.translation import gettext_noop as _

from ...conf import NAME
from ...core.phrases import Phrase
from .configuration import has_package_middleware, session_middlewares

MIDDLEWARE_OPTIONS: Final = (
    "ON_OUTAGE",
    "OUTAGE_RETRY_AFTER",
    "TRUSTED_PROXIES",
    "COOKIE_PARTITIONED",
    "ACTIVITY_INTERVAL",
)
"""Options that only the package's middleware uses."""


@checks.register
def check_middleware(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that there is one session middleware, the package's if options need it."""
    messages: list[checks.CheckMessage] = []
    if len(session_middlewares()) > 1 and has_package_middleware():
        messages.append(
            checks.Error(
                Phrase(
                    _(
                        "MIDDLEWARE has more than one session middleware: the last one's session "
                        "is used, and the first one's answer."
                    )
                ),
                hint=Phrase(_("Replace Django's session middleware by the package's.")),
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
