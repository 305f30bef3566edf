"""`urls` for sites under ASGI, with async views."""

from __future__ import annotations

from . import views
from .urls import app_name as app_name
from .urls import patterns

urlpatterns = patterns(views.async_view)
