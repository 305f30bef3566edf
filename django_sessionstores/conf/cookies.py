"""How large the session cookie may be."""

from __future__ import annotations

import math

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..payloads.cookie_chunks import capacity
from .options import settings
from .resets import cached_until_change
from .validation import wrong_seconds_message, wrong_type_message


def cookie_age() -> float:
    """Return ``SESSION_COOKIE_AGE``.

    Raises ``ImproperlyConfigured`` if it is not a number, or not a finite one.
    """
    age: float = django_settings.SESSION_COOKIE_AGE
    if type(age) is int:  # Nearly always, and each save asks.
        return age
    if not isinstance(age, int | float) or isinstance(age, bool):
        raise ImproperlyConfigured(wrong_type_message("SESSION_COOKIE_AGE", (int, float), age))
    # Of an integer, not even its size is asked: it may be too large for a float.
    if isinstance(age, float) and not math.isfinite(age):
        raise ImproperlyConfigured(wrong_seconds_message("SESSION_COOKIE_AGE", age))
    return age


@cached_until_change("MIDDLEWARE")
def splits_cookies() -> bool:
    """Return whether a middleware of the project can split a session over several cookies."""
    return any(
        getattr(import_string(path), "splits_cookies", False) for path in django_settings.MIDDLEWARE
    )


def cookie_parts() -> int:
    """Return over how many cookies a session may be split."""
    return settings.COOKIE_MAX_PARTS if splits_cookies() else 1


@cached_until_change("MIDDLEWARE", "SESSION_COOKIE_NAME")
def cookie_bytes() -> int:
    """Return how many bytes the values of a session's cookies may have together."""
    fits = capacity(django_settings.SESSION_COOKIE_NAME, cookie_parts())
    return min(fits, settings.COOKIE_MAX_BYTES)
