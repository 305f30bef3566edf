"""URLs of the pages "your devices", to include: ``path("account/devices/", include(...))``.

They work under WSGI and ASGI. Under ASGI, Django runs these views in a thread. `async_urls` has the
same paths and names, with views that need a thread only to render a page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path

from .devices import views

app_name = "your_devices"


def patterns(view: Callable[..., Any]) -> list[URLPattern]:
    """Return the URL patterns. ``view`` turns a handler of `views` into a view."""
    reading, asking = ("GET", "HEAD"), ("GET", "HEAD", "POST")
    return [
        path("", view(views.list_page, *reading), name="list"),
        path("end-others/", view(views.end_others_page, *asking), name="end_others"),
        path("<str:session_id>/end/", view(views.end_page, *asking), name="end"),
        path("api/", view(views.api_list, *reading, api=True), name="api_list"),
        path("api/openapi.json", view(views.api_description(), *reading), name="api_description"),
        path(
            "api/end-others/",
            view(views.api_end_others, "POST", api=True),
            name="api_end_others",
        ),
        path("api/<str:session_id>/", view(views.api_end, "DELETE", api=True), name="api_end"),
    ]


urlpatterns = patterns(views.sync_view)
