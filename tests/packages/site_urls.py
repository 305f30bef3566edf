"""The addresses of the site in `tests.packages.site`."""

import django_cas_ng.views
from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def who(request: HttpRequest) -> HttpResponse:
    """Return the user's name, empty for a visitor."""
    return HttpResponse(request.user.get_username())


def visit(request: HttpRequest) -> HttpResponse:
    """Writes to the session, as most pages of a shop do."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse("welcome")


def visits(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.session.get("visits", 0)))


def expire(request: HttpRequest, seconds: int) -> HttpResponse:
    request.session.set_expiry(seconds)
    return HttpResponse("set")


def expiry(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(request.session.get_expiry_age()))


urlpatterns = [
    path("who/", who),
    path("visit/", visit),
    path("visits/", visits),
    path("expire/<int:seconds>/", expire),
    path("expiry/", expiry),
    path("accounts/", include("allauth.urls")),
    path("_allauth/", include("allauth.headless.urls")),
    path("hijack/", include("hijack.urls")),
    path("cas/login", django_cas_ng.views.LoginView.as_view(), name="cas_ng_login"),
    path("cas/callback", django_cas_ng.views.CallbackView.as_view(), name="cas_ng_proxy_callback"),
]
