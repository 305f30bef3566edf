"""The proxies that the project trusts."""

from __future__ import annotations

from functools import cache

from ..core.client import Proxies
from .options import settings
from .resets import reset_on_change


@cache
def trusted_proxies() -> Proxies:
    """Return ``TRUSTED_PROXIES``, parsed."""
    return Proxies.parse(settings.TRUSTED_PROXIES)


reset_on_change()(trusted_proxies.cache_clear)
