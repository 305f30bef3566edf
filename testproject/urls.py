"""URLs of the demo: its page and "your devices". Under ``async/`` the views are async."""

from types import ModuleType

from django.contrib import admin
from django.urls import URLPattern, include, path

from testproject import async_views, views


def demo_urls(module: ModuleType) -> tuple[list[URLPattern], str]:
    """Return the routes of the views in a module, for `include`."""
    return (
        [
            path("", module.page, name="page"),
            path("cart/", module.cart, name="cart"),
            path("sign-in/", module.sign_in, name="sign_in"),
            path("sign-out/", module.sign_out, name="sign_out"),
            path("expiry/", module.expiry, name="expiry"),
            path("types/", module.types, name="types"),
            path("tabs/", module.tabs, name="tabs"),
        ],
        "demo",
    )


urlpatterns = [
    path("admin/", admin.site.urls),
    path("async/devices/", include("django_sessionstores.async_urls", namespace="async_devices")),
    path("tour/", include("testproject.tour")),
    path("devices/", include("django_sessionstores.urls", namespace="sync_devices")),
    path("async/", include(demo_urls(async_views), namespace="async")),
    path("", include(demo_urls(views), namespace="sync")),
]
