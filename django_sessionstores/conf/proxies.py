"""The proxies that the project trusts."""

from __future__ import annotations

from ..core.client import Proxies
from .options import settings
from .resets import cached_until_change


@cached_until_change()
def trusted_proxies() -> Proxies:
    """Return ``TRUSTED_PROXIES``, parsed."""
    return Proxies.parse(settings.TRUSTED_PROXIES)
