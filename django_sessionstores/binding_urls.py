"""URLs to which browsers send the proofs of their devices: ``path("device/", include(...))``.

They work under WSGI and ASGI. `async_binding_urls` has the same paths and names with async views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path

from .devices import binding_views
from .middleware.device_binding import NAMESPACE

app_name = NAMESPACE


def patterns(view: Callable[..., Any]) -> list[URLPattern]:
    """Return the URL patterns. ``view`` turns a handler of `binding_views` into a view."""
    return [
        path("start/", view(binding_views.start), name="start"),
        path("refresh/", view(binding_views.refresh), name="refresh"),
    ]


urlpatterns = patterns(binding_views.sync_view)
