"""The sync views of the demo. They use only Django's session API."""

import time

from django.contrib.auth import authenticate, get_user, login, logout
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_POST, require_safe

from testproject.setup import storage_by_id
from testproject.showcase import (
    FRUITS,
    LIFETIMES,
    ONE_OF_EACH,
    OVERLAP_SECONDS,
    SIDES,
    SIGN_IN_FAILED,
    form_value,
    new_cart,
    redirect_after_login,
    redirect_back,
    session_of,
    show,
)


@require_safe
def page(request: HttpRequest) -> HttpResponse:
    return _show(request)


def _show(request: HttpRequest, error: str = "") -> HttpResponse:
    rotation = request.session.get("rotation") or {}
    previous = None
    if rotation.get("before"):
        previous = storage_by_id().read(rotation["before"])
    return show(request, account=get_user(request), previous=previous, error=error)


@require_POST
def cart(request: HttpRequest) -> HttpResponse:
    """Change a nested dict, without setting ``request.session.modified``."""
    request.session.setdefault("cart", new_cart())
    request.session["cart"][form_value(request, "fruit", FRUITS)] += 1
    return redirect_back(request, "cart")


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    user = authenticate(
        request,
        username=request.POST.get("username", ""),
        password=request.POST.get("password", ""),
    )
    if user is None:
        return _show(request, SIGN_IN_FAILED)
    before = session_of(request).session_id
    login(request, user)
    request.session["rotation"] = {"before": before, "after": session_of(request).session_id}
    return redirect_after_login(request)


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return redirect_back(request, "key")


@require_POST
def expiry(request: HttpRequest) -> HttpResponse:
    request.session.set_expiry(LIFETIMES[form_value(request, "lifetime", LIFETIMES)][1])
    return redirect_back(request, "expiry")


@require_POST
def types(request: HttpRequest) -> HttpResponse:
    request.session["types"] = dict(ONE_OF_EACH)
    return redirect_back(request, "types")


def tabs(request: HttpRequest) -> HttpResponse:
    """Do what each of two tabs does: read, wait, and write a key of its own."""
    if request.method == "POST" and "side" not in request.POST:
        return redirect_back(request, "tabs")  # Without JavaScript, the form was sent once.
    if request.method == "POST":
        side = form_value(request, "side", SIDES)
        count = request.session.get(side, 0)
        time.sleep(OVERLAP_SECONDS)
        request.session[side] = count + 1
    return JsonResponse({side: request.session.get(side, 0) for side in SIDES})
