"""Checks of ``INSTALLED_APPS``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.apps import apps
from django.core import checks
from django.utils.translation import gettext_noop as _

from ...core.phrases import Phrase

_OWN: Final = "django_sessionstores"
_DJANGOS: Final = "django.contrib.sessions"


@checks.register
def check_order_of_apps(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that ``manage.py clearsessions`` is the package's: of two apps, the first has it."""
    found = [each.name for each in apps.get_app_configs() if each.name in {_OWN, _DJANGOS}]
    if found != [_DJANGOS, _OWN]:
        return []
    return [
        checks.Warning(
            Phrase(
                _(
                    "In INSTALLED_APPS, %(other)s stands above %(path)s. So manage.py "
                    "clearsessions is Django's command, which does not say what it has removed."
                ),
                path=repr(_OWN),
                other=repr(_DJANGOS),
            ),
            hint=Phrase(
                _("Move the line %(path)s above %(other)s."),
                path=repr(_OWN),
                other=repr(_DJANGOS),
            ),
            id="sessionstores.W033",
        )
    ]
