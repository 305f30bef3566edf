"""URLs to which browsers send proofs, with async views for sites under ASGI. See `binding_urls`."""

from __future__ import annotations

from .binding_urls import app_name as app_name
from .binding_urls import patterns
from .devices import binding_views

urlpatterns = patterns(binding_views.async_view)
