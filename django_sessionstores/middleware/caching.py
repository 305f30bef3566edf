"""Headers that keep responses out of the caches of proxies and browsers."""

from __future__ import annotations

import time
from typing import Final

from django.http import HttpResponse
from django.utils.cache import add_never_cache_headers, patch_vary_headers
from django.utils.http import http_date

_NEVER_CACHED: Final = "max-age=0, no-cache, no-store, must-revalidate, private"
"""The ``Cache-Control`` of Django's ``add_never_cache_headers()``."""


def keep_out_of_caches(response: HttpResponse) -> None:
    """Forbid caches to store a response that does not show the session of its request."""
    forbid_caching(response)
    patch_vary_headers(response, ("Cookie",))


def forbid_caching(response: HttpResponse) -> None:
    """Set the headers of ``add_never_cache_headers()``, but without parsing them again."""
    headers = response.headers
    if "Cache-Control" in headers or "Expires" in headers:
        add_never_cache_headers(response)
    else:
        headers["Expires"] = http_date(time.time())
        headers["Cache-Control"] = _NEVER_CACHED
