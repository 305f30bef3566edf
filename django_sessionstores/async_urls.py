"""URLs of the pages "your devices" with async views, for sites under ASGI. See `urls`."""

from __future__ import annotations

from .devices import views
from .urls import app_name as app_name
from .urls import patterns

urlpatterns = patterns(views.async_view)
