"""Checks of the encryption keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_noop as _

from ...conf import full_name, settings
from ...core.phrases import Phrase

_LEAST_CHARACTERS: Final = 32  # The message has the number as well.


@checks.register(checks.Tags.security, deploy=True)
def check_encryption_keys(app_configs: Any, **kwargs: Any) -> Sequence[checks.CheckMessage]:
    """Check that the keys in ``ENCRYPTION_KEYS`` are long enough."""
    try:
        keys = settings.ENCRYPTION_KEYS
    except ImproperlyConfigured:
        return []  # check_settings reports it.
    short = [place for place, key in enumerate(keys) if len(key) < _LEAST_CHARACTERS]
    if not short:
        return []
    return [
        checks.Warning(
            Phrase(
                _("%(setting)s has keys of fewer than 32 characters, at: %(places)s."),
                setting=full_name("ENCRYPTION_KEYS"),
                places=", ".join(map(str, short)),
            ),
            hint=Phrase(
                _(
                    "Make one with: %(command)s. Put it first; keep the old ones behind it until "
                    "their sessions have expired."
                ),
                command='python -c "import secrets; print(secrets.token_urlsafe(48))"',
            ),
            id="sessionstores.W005",
        )
    ]
