"""Views that do one thing to the session each, as sync and under ``async/`` as async views."""

from typing import Any

from django.contrib import admin
from django.contrib.auth import (
    aget_user,
    alogin,
    alogout,
    aupdate_session_auth_hash,
    get_user,
    get_user_model,
    login,
    logout,
    update_session_auth_hash,
)
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path


def ignore_session(request: HttpRequest) -> HttpResponse:
    """Does not touch the session."""
    return HttpResponse("nothing")


async def aignore_session(request: HttpRequest) -> HttpResponse:
    return HttpResponse("nothing")


def read(request: HttpRequest) -> HttpResponse:
    """Everything in the session."""
    return JsonResponse(dict(request.session.items()))


async def aread(request: HttpRequest) -> HttpResponse:
    return JsonResponse(dict(await request.session.aitems()))


def write(request: HttpRequest, key: str, value: str) -> HttpResponse:
    """Sets one key, without reading."""
    request.session[key] = value
    return HttpResponse("written")


async def awrite(request: HttpRequest, key: str, value: str) -> HttpResponse:
    await request.session.aset(key, value)
    return HttpResponse("written")


def nest(request: HttpRequest, key: str, value: str) -> HttpResponse:
    """Changes a dict in the session in place; the session itself is not assigned to."""
    _cart(request.session.get("cart"), request.session)[key] = value
    return HttpResponse("nested")


async def anest(request: HttpRequest, key: str, value: str) -> HttpResponse:
    _cart(await request.session.aget("cart"), request.session)[key] = value
    return HttpResponse("nested")


def _cart(cart: dict[str, Any] | None, session: Any) -> dict[str, Any]:
    """Return the cart, which is put into a loaded session the first time."""
    if cart is None:
        cart = session["cart"] = {}
    return cart


def log_in(request: HttpRequest, username: str) -> HttpResponse:
    """No password is asked: the session is what is tested."""
    login(request, get_user_model()._default_manager.get(username=username))
    return HttpResponse("logged in")


async def alog_in(request: HttpRequest, username: str) -> HttpResponse:
    await alogin(request, await get_user_model()._default_manager.aget(username=username))
    return HttpResponse("logged in")


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("logged out")


async def alog_out(request: HttpRequest) -> HttpResponse:
    await alogout(request)
    return HttpResponse("logged out")


def log_in_anew(request: HttpRequest) -> HttpResponse:
    """Logs out and in again, in one request."""
    user = get_user(request)
    logout(request)
    login(request, user)
    return HttpResponse("logged in anew")


async def alog_in_anew(request: HttpRequest) -> HttpResponse:
    user = await aget_user(request)
    await alogout(request)
    await alogin(request, user)
    return HttpResponse("logged in anew")


def change_password(request: HttpRequest) -> HttpResponse:
    """Sets another password and keeps the session, as Django's view does."""
    user: Any = request.user
    user.set_password("another")
    user.save()
    update_session_auth_hash(request, user)
    return HttpResponse("changed")


async def achange_password(request: HttpRequest) -> HttpResponse:
    user: Any = await request.auser()
    user.set_password("another")
    await user.asave()
    request.user = user  # Django compares with it, and would ask for it in the loop.
    await aupdate_session_auth_hash(request, user)
    return HttpResponse("changed")


def show_username(request: HttpRequest) -> HttpResponse:
    """Return the user's name, empty for a visitor."""
    return HttpResponse(get_user(request).get_username())


async def ashow_username(request: HttpRequest) -> HttpResponse:
    return HttpResponse((await aget_user(request)).get_username())


def fail(request: HttpRequest) -> HttpResponse:
    """Writes to the session, then breaks: with a 500, nothing is saved."""
    request.session["failed"] = True
    raise RuntimeError("this view always fails")


async def afail(request: HttpRequest) -> HttpResponse:
    await request.session.aset("failed", True)
    raise RuntimeError("this view always fails")


def sync_and_async(*routes: tuple[str, Any, Any]) -> list[URLPattern]:
    """Return the patterns of routes with two views each: the async one is under ``async/``."""
    return [
        path(prefix + route, view)
        for route, *views in routes
        for prefix, view in zip(["", "async/"], views, strict=True)
    ]


class Visitor:
    """A browser that asks these views; how it asks is for subclasses to say."""

    def get(self, path: str) -> Any:
        """Return the response to a request for this path."""
        raise NotImplementedError

    def user(self) -> str:
        """Return the name of the user who is logged in, empty if nobody is."""
        response = self.get("/who/")
        assert response.status_code == 200
        return str(response.content.decode())

    def data(self) -> dict[str, Any]:
        """Return everything in the session."""
        response = self.get("/read/")
        assert response.status_code == 200
        return dict(response.json())


urlpatterns = [
    path("admin/", admin.site.urls),
    *sync_and_async(
        ("nothing/", ignore_session, aignore_session),
        ("read/", read, aread),
        ("write/<str:key>/<str:value>/", write, awrite),
        ("nest/<str:key>/<str:value>/", nest, anest),
        ("login/<str:username>/", log_in, alog_in),
        ("logout/", log_out, alog_out),
        ("relogin/", log_in_anew, alog_in_anew),
        ("password/", change_password, achange_password),
        ("who/", show_username, ashow_username),
        ("fail/", fail, afail),
    ),
]
